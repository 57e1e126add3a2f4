"""Prompts out of every format that pairs are read from: for a policy, and for decontamination."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.data.benchmarks import CATALOGUE, decontaminator_of
from rubric_arm_lite.data.pairs import read_prompts
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.recipe import SourceSettings, load_recipe, read_columns
from tests import benchmark_rows
from tests.cli.test_cli import call
from tests.data.test_forms import DESCRIBED, FORMS, messages, turns
from tests.source_rows import ROWS, write_jsonl


def prompts(path: Path, rows: list[dict[str, Any]], **choices: Any) -> list[Any]:
    return read_prompts(SourceSettings(source=str(write_jsonl(path / "rows.jsonl", rows)), **choices), 0)[0]


@pytest.mark.parametrize("name", FORMS)
def test_prompts_of_every_published_format(tmp_path: Path, name: str) -> None:
    rows, pairs, _ = FORMS[name]
    read = prompts(tmp_path, rows)
    wanted = list(dict.fromkeys(prompt for prompt, _, _ in pairs))
    assert [prompt for prompt in read if prompt in wanted] == wanted
    decontaminator = decontaminator_of([str(tmp_path / "rows.jsonl")], 13)
    assert decontaminator is not None and all(map(decontaminator.matches, wanted))


@pytest.mark.parametrize(("columns", "rows", "pairs", "skipped"), DESCRIBED, ids=range(len(DESCRIBED)))
def test_prompts_of_described_columns(tmp_path: Path, columns: str, rows: Any, pairs: Any, skipped: Any) -> None:
    read = prompts(tmp_path, rows, columns=read_columns(columns, "--columns"))
    assert read == list(dict.fromkeys(prompt for prompt, _, _ in pairs))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "q"}, "q"),
        ({"instruction": "i", "input": "x"}, "i\n\nx"),
        ({"input": "q"}, "q"),
        ({"context": turns("a", "b", "c")}, messages("a", "b", "c")),
        ({"messages": turns("a", "b")}, "a"),
        ({"messages": turns("a", "b", "c")}, messages("a", "b", "c")),
        ({"conversations": [{"from": "human", "value": "q"}]}, "q"),
        ({"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "c", "")}, messages("a", "b", "c")),
        ({"prompt": "a", "chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "c", "e")}, None),
        ({"prompt": "q", "chosen": "", "rejected": 5}, "q"),
    ],
)
def test_prompts_without_or_beside_responses(tmp_path: Path, row: dict[str, Any], expected: Any) -> None:
    assert prompts(tmp_path, [row]) == [expected or messages("a", "b", "c")]


def test_the_same_checks_as_for_pairs(tmp_path: Path) -> None:
    for row, message in (
        ({"prompt": ""}, "line 2: column `prompt` is empty"),
        ({"prompt": turns("a", "b")}, "line 2: the conversation in `prompt` ends with a message by 'assistant'"),
        ({"prompt": "\ud800"}, "line 2: column `prompt` has half of a surrogate pair"),
        ({"x": 1}, "line 2: column `prompt` is missing"),
    ):
        with pytest.raises(DataError) as caught:
            prompts(tmp_path, [{"prompt": "p"}, row])
        assert message in str(caught.value)
    rows = [*FORMS["llmbar"][0], {**FORMS["llmbar"][0][0], "input": " "}, FORMS["llmbar"][0][0]]
    source = SourceSettings(source=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    read, counts = read_prompts(source, 0)
    assert read == ["Planet?", "German?"] and counts.format == "llmbar"
    assert dict(counts.skipped) == {"empty text": 1, "with the prompt of an earlier row": 1}


def test_decontamination_reads_what_training_would_skip(tmp_path: Path) -> None:
    tie = {**FORMS["helpsteer2-preference"][0][0], "preference_strength": 0}
    answered = {**ROWS["helpsteer3"](1), "context": turns("asked", "answered")}
    apart = {"chosen": turns("asked here", "x"), "rejected": turns("asked there", "y")}
    for rows, overlaps in (([tie], ["p"]), ([answered], []), ([apart], ["asked here", "asked there"])):
        decontaminator = decontaminator_of([str(write_jsonl(tmp_path / "rows.jsonl", rows))], 13)
        assert decontaminator is not None and all(map(decontaminator.matches, overlaps))
    decontaminator = decontaminator_of([str(write_jsonl(tmp_path / "rows.jsonl", [answered]))], 13)
    assert decontaminator is not None and decontaminator.matches(messages("asked", "answered"))


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_benchmark_is_known_to_decontamination_and_to_data_check(tmp_path: Path, name: str) -> None:
    folder = benchmark_rows.folders(tmp_path)[name]
    decontaminator = decontaminator_of([f"{name}={folder}"], 13)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".jsonl", ".parquet")]
    assert decontaminator is not None and files
    for file in files:
        found = json.loads(call("data", "check", file, "--json").stdout)
        assert found["kept"] > 0 and "bad_rows" not in found
        from_file = decontaminator_of([str(file)], 13)
        for prompt in read_prompts(SourceSettings(source=str(file)), 0)[0]:
            assert from_file is not None and from_file.matches(prompt)
            assert decontaminator.matches(prompt) or file.name == "train.jsonl"  # another split of HelpSteer3


def test_a_copy_of_a_benchmark_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    recipe = tmp_path / "mine.yaml"
    listed = "[rmb=copies, judgebench=x.jsonl, rewardbench]"
    recipe.write_text(f"extends: base.yaml\ndata: {{source: a/b, decontaminate: {listed}}}\nwarmup: {{source: null}}\n")
    assert load_recipe(recipe).data.decontaminate == (
        f"rmb={tmp_path / 'copies'}",
        f"judgebench={Path('x.jsonl').absolute()}",
        "rewardbench",
    )
