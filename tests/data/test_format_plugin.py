"""A format of the user's own: a function that maps a row, and one error for whatever is wrong with what it returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.data.counts import BadRows
from rubric_arm_lite.data.load import held_out_settings
from rubric_arm_lite.data.pairs import read_pairs
from rubric_arm_lite.data.trajectories import WarmupRow, read_trajectories
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.recipe.fields import DataSettings, WarmupSettings
from tests.cli.test_cli import call, refused
from tests.source_rows import write_jsonl

CODE = """
def pairs(row):
    row["seen"] = True
    return {"prompt": row["q"], "chosen": row["good"], "rejected": row["bad"], "id": row.get("n")}

def returns(row):
    return eval(row["q"])

def trajectories(row):
    return {"prompt": row["q"], "rubric": "r", "response_a": row["good"], "response_b": row["bad"], "judgement": "j"}

def pointwise(row):
    return {"prompt": row["q"], "rubric": "r", "response": row["good"], "judgement": "j"}
"""
ROWS = [{"q": f"q{i}", "good": f"a{i}", "bad": f"b{i}", "n": i} for i in range(4)]


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def settings(folder: Path, rows: list[dict[str, Any]], function: str = "pairs", **choices: Any) -> DataSettings:
    path = write_jsonl(folder / "rows.jsonl", rows)
    return DataSettings(source=str(path), format=f"{folder / 'mine.py'}:{function}", **choices)


def test_rows_become_pairs_of_our_own_format(code: Path, tmp_path: Path) -> None:
    pairs, counts = read_pairs(settings(tmp_path, [*ROWS, {**ROWS[0], "n": 9}]), 0)
    assert [(pair.pair_id, pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == [
        (str(i), f"q{i}", f"a{i}", f"b{i}") for i in range(4)
    ]
    assert counts.format == f"{code}:pairs" and counts.skipped == (("equal to an earlier pair", 1),)
    rows = [{key: value for key, value in row.items() if key != "n"} for row in ROWS]
    assert len({pair.pair_id for pair in read_pairs(settings(tmp_path, rows, sample=3), 0)[0]}) == 3


def test_rows_become_trajectories(code: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    both = WarmupSettings(source=str(path), format=f"{code}:trajectories")
    assert read_trajectories(both, 0)[0][1] == WarmupRow("q1", "r", "a1", "b1", "j")
    one = WarmupSettings(source=str(path), format=f"{code}:pointwise")
    assert read_trajectories(one, 0, pointwise=True)[0][1] == WarmupRow("q1", "r", "a1", None, "j")
    with pytest.raises(DataError, match=r"line 1, as returned by .*:pointwise: column `response_a` is missing"):
        read_trajectories(one, 0)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("1 / 0", "line 2: the format {name} fails with ZeroDivisionError (division by zero). Correct the function"),
        ("row['x']", "line 2: the format {name} fails with KeyError ('x')."),
        ("[1]", "line 2: the format {name} returns a list. Return a dict with prompt, chosen and rejected"),
        ("'text'", "line 2: the format {name} returns a text."),
        ("{}", "line 2, as returned by {name}: column `chosen` is missing (found: none)."),
        ("dict(prompt='p', chosen='a', rejected=1)", "line 2, as returned by {name}: column `rejected` is a number."),
        ("dict(prompt='p', chosen='a', rejected='a')", "line 2, as returned by {name}: chosen equals rejected ('a')."),
        ("dict(prompt='', chosen='a', rejected='b')", "line 2, as returned by {name}: column `prompt` is empty."),
        ("dict(prompt='p', chosen='a', rejected='b', id=1.5)", "line 2, as returned by {name}: id is a number."),
    ],
)
def test_a_bad_result_is_one_error_with_its_row(code: Path, tmp_path: Path, returned: str, expected: str) -> None:
    good = "dict(prompt='p', chosen='a', rejected='b')"
    chosen = settings(tmp_path, [{"q": good}, {"q": returned}, {"q": "None"}], "returns")
    with pytest.raises(DataError) as caught:
        read_pairs(chosen, 0)
    name = f"{code}:returns"
    assert str(caught.value).startswith(f"{tmp_path / 'rows.jsonl'}, " + expected.format(name=name))
    bad = BadRows()
    pairs, counts = read_pairs(chosen, 0, bad=bad)
    assert len(pairs) == 1 and bad.total == 1 and bad.first() == [str(caught.value)] and bad.absent == ()
    assert dict(counts.skipped)[f"skipped by {name}"] == 1 and counts.rows == 3


def test_a_plugin_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_pairs(settings(tmp_path, ROWS), 0)


def test_held_out_pairs_are_read_by_the_same_function(code: Path, tmp_path: Path) -> None:
    chosen = settings(tmp_path, ROWS, evaluation="test.jsonl")
    assert held_out_settings(chosen).format == chosen.format
    assert held_out_settings(chosen.model_copy(update={"format": "skywork"})).format == "auto"


def test_on_the_command_line(code: Path, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS, {"q": 1}])
    target = tmp_path / "out.jsonl"
    call("data", "convert", path, target, "--format", f"{code}:pairs", "--skip-bad")
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == ["0", "1", "2", "3"]
    assert "line 5: the format" in refused("data", "convert", path, target, "--format", f"{code}:pairs", "--overwrite")
    assert "my_module:my_format" in refused("data", "check", path, "--format", "mine.py")
