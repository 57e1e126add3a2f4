"""Bad rows are gathered, counted by reason and named; without a gatherer the first one is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rubric_arm_lite.cli.main import app
from rubric_arm_lite.data.counts import MAX_SHOWN, BadRows
from rubric_arm_lite.data.formats import OWN
from rubric_arm_lite.data.load import read_blocks
from rubric_arm_lite.data.pairs import load_pairs, read_pairs
from rubric_arm_lite.data.rows import Row, RowError
from rubric_arm_lite.data.trajectories import read_trajectories
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.recipe.fields import DataSettings, WarmupSettings
from tests.source_rows import openrubric, write_jsonl

GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
BAD: dict[str, Any] = {
    "`chosen` of the wrong type": {**GOOD, "chosen": 5},
    "identical responses": {**GOOD, "rejected": "a"},
    "empty text": {**GOOD, "prompt": " "},
    "without `chosen`": {"prompt": "p", "rejected": "b"},
    "`rejected` null": {**GOOD, "rejected": None},
    "no object": [1],
    "not JSON": "{",
    "malformed message": {**GOOD, "prompt": [{"role": "king", "content": "x"}]},
    "half of a surrogate pair": {**GOOD, "chosen": "\ud800"},
    "`id` of the wrong type": {**GOOD, "id": [1]},
    "empty list": {**GOOD, "prompt": []},
    "conversation without a response": {**GOOD, "chosen": [{"role": "user", "content": "x"}]},
}
"""One bad row for each reason; a text is a line as it stands."""


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def unlike(number: int) -> dict[str, str]:
    """A good row like no other."""
    return {"prompt": f"p{number}", "chosen": "a", "rejected": "b"}


def gathered(path: Path, **choices: Any) -> tuple[int, BadRows]:
    """Pairs kept, and what was gathered."""
    bad = BadRows()
    pairs, counts = read_pairs(DataSettings(source=str(path), **choices), 0, bad=bad)
    assert counts.kept == len(pairs) == counts.rows - sum(count for _, count in counts.skipped)
    return len(pairs), bad


def shown(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """Both outputs of ``rubric-arm data …``."""
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout, done.stderr


# --- gathering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", BAD)
def test_each_reason_has_its_name_and_the_first_is_an_error_without_a_gatherer(tmp_path: Path, reason: str) -> None:
    path = written(tmp_path / "pairs.jsonl", [unlike(1), BAD[reason], unlike(2)])
    kept, bad = gathered(path)
    assert (kept, dict(bad.reasons)) == (2, {reason: 1})
    assert bad.first()[0].startswith(f"{path}, line 2: ")
    with pytest.raises(RowError, match="line 2: ") as strict:
        load_pairs(path)
    assert str(strict.value) == bad.first()[0] and strict.value.reason == reason


@given(st.lists(st.sampled_from([None, *BAD]), min_size=1, max_size=60))
def test_every_row_is_kept_or_counted(tmp_path_factory: pytest.TempPathFactory, rows: list[str | None]) -> None:
    rows = [None, *rows]
    lines = [unlike(i) if reason is None else BAD[reason] for i, reason in enumerate(rows)]
    path = written(tmp_path_factory.mktemp("rows") / "pairs.jsonl", lines)
    kept, bad = gathered(path)
    assert kept == rows.count(None) and bad.total == len(rows) - kept
    numbers = [i for i, reason in enumerate(rows, start=1) if reason is not None]
    assert [text.split(": ")[0] for text in bad.first()] == [f"{path}, line {i}" for i in numbers[:MAX_SHOWN]]


def test_an_id_twice_and_a_line_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{**unlike(i), "id": "x"} for i in range(3)]
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode() + b'{"prompt": "\xff"}\n')
    kept, bad = gathered(path)
    assert kept == 1 and bad.reasons == {"id used before": 2, "not UTF-8": 1}


def test_cells_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\np1,a,b\np2,a\np3,a,b,c\np4,a,b\n", "utf-8")
    kept, bad = gathered(path)
    assert kept == 2 and bad.reasons == {"more or fewer cells than the header": 2}
    assert [text.split(": ")[0] for text in bad.first()] == [f"{path}, line 3", f"{path}, line 4"]


def test_trajectories_too(tmp_path: Path) -> None:
    good = {"prompt": "p", "rubric": "r", "response_a": "a", "response_b": "b", "judgement": "j"}
    path = written(tmp_path / "t.jsonl", [good, {**good, "rubric": ""}, "{", {**good, "subset": 5}])
    bad = BadRows()
    found, counts = read_trajectories(WarmupSettings(source=str(path)), 0, bad=bad)
    assert (len(found), counts.rows) == (2, 4) and bad.reasons == {"empty text": 1, "not JSON": 1}
    chosen = WarmupSettings(source=str(path), subset=("",))
    bad = BadRows()
    assert read_trajectories(chosen, 0, bad=bad)[1].kept == 1
    assert bad.reasons["`subset` of the wrong type"] == 1


def test_rows_that_a_known_format_skips_are_not_bad(tmp_path: Path) -> None:
    rows = [openrubric(1, "A"), openrubric(2, "tie"), openrubric(3, "C")]
    kept, bad = gathered(write_jsonl(tmp_path / "openrubric.jsonl", rows))
    assert kept == 1 and bad.total == 1 and "Give A, B or tie" in bad.first()[0]


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "absent", "meant"),
    [
        (("prompt", "choosen", "rejected"), ("chosen",), "`choosen` for `chosen`"),
        (("Prompt", "Chosen", "rejectd"), OWN.required, "`Prompt` for `prompt`, `Chosen` for `chosen`, `rejectd` for"),
        (
            ("question", "preferred", "worse"),
            OWN.required,
            "`question` for `prompt`, `preferred` for `chosen`, `worse`",
        ),
        (("prompt", "chosen", "x"), ("rejected",), None),
    ],
)
def test_columns_that_no_row_has_are_named_once(
    tmp_path: Path, names: tuple[str, ...], absent: tuple[str, ...], meant: str | None
) -> None:
    rows = [dict(zip(names, (f"p{i}", "a", "b"), strict=True)) for i in range(30)]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    bad = BadRows()
    with pytest.raises(DataError, match="0 pairs kept"):
        read_pairs(DataSettings(source=str(path)), 0, bad=bad)
    assert bad.absent == absent and bad.first() == []
    line = next(bad.lines("pairs.jsonl"))
    assert all(f"`{name}`" in line for name in absent) and "Rename the columns" in line
    assert (f"Did you mean {meant}" in line) if meant else ("Did you mean" not in line)


def test_other_mistakes_are_named_beside_absent_columns(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "choosen": "a", "rejected": "b"} for _ in range(30)]
    bad = BadRows()
    with pytest.raises(DataError):
        read_pairs(DataSettings(source=str(written(tmp_path / "p.jsonl", [*rows, "{"]))), 0, bad=bad)
    assert bad.absent == ("chosen",) and len(bad.first()) == 1 and "line 31: not JSON" in bad.first()[0]


def test_conversations_need_no_prompt(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "hi"}
    row = {name: [ask, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    _, bad = gathered(written(tmp_path / "pairs.jsonl", [row, {**row, "rejected": 5}]))
    assert bad.total == 1 and bad.absent == ()


def test_hostile_column_names_stay_on_their_line() -> None:
    bad = BadRows()
    bad.expected = OWN.required
    row = Row("f, line 1", {"chosen\n\x1b[1m": 1, "y" * 500: 2})
    bad.columns = dict.fromkeys(row.columns)
    with pytest.raises(RowError) as error:
        row.response("chosen")
    bad.add(error.value)
    for line in bad.lines("f"):
        assert "\n" not in line and "\x1b" not in line and len(line) < 600


# --- verbs ------------------------------------------------------------------------------------------------------------


def test_check_lists_the_first_ten(tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", [unlike(1), *BAD.values(), *["{"] * 20])
    text, _ = shown("check", path, code=2)
    lines = [line for line in text.splitlines() if line.startswith(f"{path}, line ")]
    assert [int(line.split("line ")[1].split(":")[0]) for line in lines] == list(range(2, 12))
    assert "33 rows read, 1 pairs kept" in text and f"32 rows of {path} cannot be used: 21 not JSON; 1 `" in text
    found = json.loads(shown("check", path, "--json", code=2)[0])
    assert found["kept"] == 1 and found["bad_rows"]["rows"] == 32 and len(found["bad_rows"]["first"]) == 10
    clean = written(tmp_path / "good.jsonl", [unlike(1)])
    assert "bad_rows" not in json.loads(shown("check", clean, "--json")[0])


def test_check_reports_where_reading_ended(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen,rejected\np1,a,b\np2,a\np3,"a"x,b\np4,a,b\n', "utf-8")
    text, _ = shown("check", path, code=2)
    assert (
        "line 3: 2 cells" in text and "line 4: not CSV" in text and "Rows after the last of these were not read" in text
    )


def test_check_of_nothing_but_bad_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.json", [json.dumps("no row")])
    text, _ = shown("check", path, code=2)
    assert "Write one object per line" in text and f"{path} has no rows" in text
    found = json.loads(shown("check", path, "--json", code=2)[0])
    assert (found["source"], found["bad_rows"]["reasons"]) == (str(path), {"no object": 1})


def test_another_error_that_ends_the_reading_is_reported_too(tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", ["{", unlike(1)])
    text, _ = shown("check", path, "--subset", "none", code=2)
    assert "0 pairs kept; skipped: 1 not JSON; 1 of another subset" in text and "line 1: not JSON" in text


def test_convert_skips_bad_rows_on_request(tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", [unlike(1), *["{"] * 12, unlike(2)])
    target = tmp_path / "out.jsonl"
    done = CliRunner().invoke(app, ["data", "convert", str(path), str(target)])
    assert isinstance(done.exception, RowError) and "line 2: not JSON" in str(done.exception) and not target.exists()
    text, told = shown("convert", path, target, "--skip-bad")
    assert "14 rows read, 2 pairs kept; skipped: 12 not JSON." in text
    assert told.count(f"{path}, line ") == MAX_SHOWN and "12 rows of" in told
    assert [pair.prompt for pair in load_pairs(target)] == ["p1", "p2"]
    all_bad = written(tmp_path / "bad.jsonl", ["{"] * 2)
    done = CliRunner().invoke(app, ["data", "convert", str(all_bad), str(tmp_path / "none.jsonl"), "--skip-bad"])
    assert isinstance(done.exception, DataError) and "line 2: not JSON" in done.stderr
    assert not (tmp_path / "none.jsonl").exists()


def test_training_stays_strict_and_names_the_verb(tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", [unlike(1), "{", unlike(2)])
    with pytest.raises(DataError, match=f"line 2: not JSON .* All such rows: rubric-arm data check {path}$"):
        read_blocks(DataSettings(source=str(path)), 0)
    good = written(tmp_path / "good.jsonl", [unlike(1), unlike(2)])
    with pytest.raises(DataError, match=f"rubric-arm data check {path}$"):
        read_blocks(DataSettings(source=str(good), evaluation=str(path)), 0)
