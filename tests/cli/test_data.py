"""``rubric-arm data check`` and ``convert``, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rubric_arm_lite import models
from rubric_arm_lite.data.pairs import load_pairs
from rubric_arm_lite.data.trajectories import read_trajectories
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.recipe import ModelSettings, WarmupSettings, load_recipe
from tests.cli.test_cli import call, refused
from tests.source_rows import RUBRIC, helpsteer3, load_trajectories, openrubric, write_jsonl


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rows = [openrubric(i, "A" if i % 4 else "B") for i in range(8)]
    return write_jsonl(tmp_path / "openrubric.jsonl", [*rows, openrubric(9, "tie"), rows[1]])


def test_check_says_what_there_is(source: Path) -> None:
    shown = call("data", "check", source).stdout
    for part in (
        "10 rows read, 9 pairs kept; skipped: 1 tie.",
        "format: openrubric",
        "equal to an earlier pair: 1",
        "chosen first: 77.8% (rows whose preferred response stands first)",
        "magpie 5",
        "words",
        "median",
        "<instruction>",
        "=== chosen ===",
    ):
        assert part in shown


def test_check_as_json_and_in_tokens(source: Path) -> None:
    found = json.loads(call("data", "check", source, "--model", "testbed", "--show", "0", "--json").stdout)
    assert found["unit"] == "tokens" and found["shown"] == []
    assert (found["rows"], found["kept"], found["skipped"], found["prompts"]) == (10, 9, {"tie": 1}, 8)
    assert found["lengths"]["prompt"]["100%"] > 1
    found = json.loads(call("data", "check", source, "--recipe", "testbed", "--warmup", "--json").stdout)
    assert found["well_formed_judgements"] == 1.0 and RUBRIC in found["shown"][0]
    assert "=== the judge's prompt ===" in found["shown"][0]


def test_pointwise_trajectories_are_checked_and_converted(tmp_path: Path) -> None:
    rubric = "1. The response is short [Hard Rule]\n2. The response is kind [Principle]"
    judgement = "- Criterion 1 [Hard Rule]: Answer: true\n- Criterion 2 [Principle]: Answer: false"
    row = {"prompt": "p", "rubric": rubric, "response": "a", "judgement": judgement}
    path = write_jsonl(tmp_path / "pointwise.jsonl", [row, {**row, "judgement": "No."}])
    for options in ((), ("--recipe", "arrow-testbed", "--show", "2")):
        found = json.loads(call("data", "check", path, "--warmup", "--json", *options).stdout)
        assert found["kept"] == 2 and "criteria_met" in found and "winner_first" not in found
        assert "<response>" in found["shown"][0] and judgement in found["shown"][0]
    words = json.loads(call("data", "check", path, "--warmup", "--json").stdout)
    assert (words["well_formed_judgements"], words["criteria_met"]) == (0.5, 0.5)
    target = tmp_path / "out.jsonl"
    call("data", "convert", path, target, "--warmup")
    assert load_trajectories(target, pointwise=True) == load_trajectories(path, pointwise=True)
    # A recipe says which judge the rows are for.
    done = call("data", "check", path, "--warmup", "--recipe", "testbed")
    assert done.returncode == 2 and "no row has the columns `response_a`, `response_b`" in done.stdout
    pairwise = write_jsonl(tmp_path / "pairs.jsonl", [openrubric(1)])
    assert "cannot warm up a pointwise judge" in refused(
        "data", "check", pairwise, "--warmup", "--recipe", "arrow-testbed"
    )


def test_a_warm_up_from_described_columns(tmp_path: Path) -> None:
    names = {"instruction": "ask", "response_a": "one", "response_b": "two", "rubric": "rules", "judge": "text"}
    rows = [openrubric(i, winner) for i, winner in enumerate(["A", "B", "A", "tie", "A"])]
    rows[2]["judge"] = rows[1]["judge"]  # names B
    rows[4]["rubric"] = "no list"
    path = write_jsonl(tmp_path / "mine.jsonl", [{names.get(k, k): v for k, v in row.items()} for row in rows])
    columns = "prompt: ask, responses: [one, two], rubric: rules, judgement: text"
    target = tmp_path / "out.jsonl"
    call("data", "convert", path, target, "--warmup", "--columns", f"{{{columns}, winner: winner}}")
    expected = read_trajectories(WarmupSettings(source=str(write_jsonl(tmp_path / "open.jsonl", rows))), 0)[0]
    assert load_trajectories(target) == expected and len(expected) == 2
    found = json.loads(call("data", "check", path, "--warmup", "--json", "--columns", f"{{{columns}}}").stdout)
    assert (found["format"], found["kept"], found["skipped"]) == ("columns", 4, {"with a malformed rubric": 1})
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"extends: base.yaml\nwarmup: {{source: mine.jsonl, columns: {{{columns}, winner: winner}}}}\n")
    assert read_trajectories(load_recipe(recipe).warmup, 0)[0] == expected
    error = refused("data", "check", path, "--warmup", "--columns", "{prompt: ask, responses: [one, two]}")
    assert "holds no judgements" in error and "Name the columns of the texts in it: rubric and judgement." in error
    column = f"{{{columns.replace('text', 'texts')}}}"
    assert "`texts`" in call("data", "check", path, "--warmup", "--columns", column).stdout


def test_check_prints_no_control_characters(tmp_path: Path) -> None:
    row = {"prompt": "p\x1b[31m", "chosen": "a\x1b]0;x\x07", "rejected": "b"}
    shown = call("data", "check", write_jsonl(tmp_path / "rows.jsonl", [row])).stdout
    assert "\x1b" not in shown and "\x07" not in shown


def test_what_convert_writes_is_read_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "pairs.jsonl"
    shown = call("data", "convert", source, target, "--subset", "magpie").stdout
    assert f"4 pairs written to {target}" in shown and "1 equal to an earlier pair" in shown
    pairs = load_pairs(target)
    assert {pair.subset for pair in pairs} == {"magpie"} and pairs[0].prompt == "Request 1"
    target = tmp_path / "warmup.jsonl"
    found = json.loads(call("data", "convert", source, target, "--warmup", "--json").stdout)
    assert found["kept"] == len(load_trajectories(target)) == 9
    conversations = write_jsonl(
        tmp_path / "helpsteer3.jsonl",
        [helpsteer3(1, context=[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])],
    )
    call("data", "convert", conversations, tmp_path / "pairs.jsonl")
    call("data", "convert", conversations, tmp_path / "pairs.jsonl", "--overwrite")
    assert len(load_pairs(tmp_path / "pairs.jsonl")[0].prompt) == 2


def test_refusals(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert "is a folder" in refused("data", "convert", source, tmp_path)
    assert "ends in .jsonl" in refused("data", "convert", source, tmp_path / "out.csv")
    assert "is also the input" in refused("data", "convert", source, source)
    kept = write_jsonl(tmp_path / "kept.jsonl", [{"mine": 1}])
    assert "give --overwrite" in refused("data", "convert", source, kept)
    assert json.loads(kept.read_text()) == {"mine": 1}
    assert "--format 'csv'" in refused("data", "check", source, "--format", "csv")
    assert "--deduplicate 'all'" in refused("data", "convert", source, out, "--deduplicate", "all")
    assert "rubric-arm testbed pairs OUT.jsonl --world testbed" in refused("data", "check", "testbed")
    assert "rubric-arm testbed pairs OUT.jsonl --world english" in refused("data", "check", "english")
    assert "There is no file" in refused("data", "check", tmp_path / "none.jsonl")
    assert "decontaminate: There is no file" in refused("data", "check", source, "--decontaminate", "none.jsonl")
    assert "has no split 'x' to choose" in refused("data", "check", source, "--split", "x")
    assert "holds no judgements" in refused("data", "convert", source, out, "--format", "skywork", "--warmup")
    teacher = ("--model", "./nowhere")
    assert "column `context` is missing" in refused(
        "data", "synthesize", source, out, *teacher, "--format", "helpsteer3"
    )
    assert "has the subsets: magpie, skywork" in refused(
        "data", "synthesize", source, out, *teacher, "--subset", "none"
    )
    assert not out.exists()


def test_without_the_hub_lengths_are_in_words(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_hub(settings: ModelSettings) -> None:
        raise BackendError("The tokenizer cannot be loaded.") from OSError("no connection")

    monkeypatch.setattr(models, "load_tokenizer", no_hub)
    for choice in (("--model", "owner/name"), ("--recipe", "qwen3-8b-12gb")):
        done = call("data", "check", source, *choice, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["unit"] == "words"
        waiting, warning = done.stderr.strip().split("\n", 1)
        assert waiting.startswith("Waiting for the tokenizer of ") and " from the Hub" in waiting
        assert warning.startswith("Lengths are in words. The tokenizer cannot be loaded.")
    assert "cannot be loaded" in refused("data", "check", source, "--model", tmp_path), "a folder is not waited for"
