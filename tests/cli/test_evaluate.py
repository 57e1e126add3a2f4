"""``rubric-arm evaluate --benchmarks`` on a trained run, and the errors before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from rubric_arm_lite.cli.main import app
from rubric_arm_lite.errors import RubricArmError
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe
from tests import benchmark_rows as made


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("benchmarks") / "run"))


def invoke(*arguments: str | Path) -> Result:
    """Invoke the command in this process; it must succeed."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def error_of(*arguments: str | Path) -> str:
    """The error that `evaluate` raises, in this process."""
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert isinstance(result.exception, RubricArmError), result.output
    return str(result.exception)


@pytest.mark.slow
def test_benchmarks_of_a_run(run: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "followbench.jsonl"
    invoke("testbed", "pairs", pairs, "--prompts", "6")
    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    bench = made.as_jsonl(tmp_path / "rb.jsonl", [{**row, "subset": "alpacaeval-easy"} for row in rows])
    command = ("evaluate", run, "--benchmarks", f"rewardbench,{pairs}", "--benchmark-dir", f"rewardbench={bench}")
    options = ("--votes", "3", "--limit", "10")
    shown = invoke(*command, *options)
    assert "| ours, voting@3" in shown.stdout and "a sample of 10 of 24 items" in " ".join(shown.stdout.split())
    folder = run / "benchmarks"
    assert {path.name for path in folder.iterdir()} == {
        "followbench.jsonl", "rewardbench.jsonl", "results.json", "results.md",
    }  # fmt: skip
    assert (folder / "results.md").read_text("utf-8") == shown.stdout
    assert 'id="benchmarks"' in (run / "report.html").read_text("utf-8")
    assert "exists. Use --resume" in error_of(*command[1:], *options)
    again = invoke(*command, *options, "--resume", "--json")
    values = json.loads(again.stdout)
    assert [value["name"] for value in values] == ["rewardbench", "followbench"]
    assert values == list(json.loads((folder / "results.json").read_text("utf-8"))["benchmarks"].values())


def test_errors_before_a_model_is_loaded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe("testbed")), "utf-8")
    pairs = made.as_jsonl(tmp_path / "f.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}])
    bad = made.as_jsonl(tmp_path / "rb.jsonl", [{"prompt": "p", "chosen": "a"}])
    for arguments, message in (
        (("--benchmarks", "rewardbench", "--benchmark-dir", f"rewardbench={bad}"), "column `rejected` is missing"),
        (("--benchmarks", "rm-bench", "--benchmark-dir", "rm-bench"), "write NAME=PATH"),
        (("--benchmarks", " , "), "--benchmarks names none"),
        (("--benchmarks", "rewardbanch"), "Did you mean rewardbench?"),
        (("--resume", "--out", "x"), "--out, --resume belongs to benchmarks"),
        (("--benchmarks", "rmb", "--resume", "--if-exists", "raise"), "differ"),
        ((pairs, "--benchmarks", "rmb"), "Give either --benchmarks or a file of pairs"),
    ):
        assert message in error_of(run, *arguments)
    assert "not a run directory" in error_of(tmp_path, "--benchmarks", pairs)
    for option, choices in (
        ("--best-of", ("strict", "round-robin")),
        ("--if-exists", ("raise", "resume", "overwrite")),
    ):
        result = CliRunner().invoke(app, ["evaluate", str(run), "--benchmarks", "rb", option, "maybe"])
        assert result.exit_code == 2 and all(choice in result.output for choice in choices)
