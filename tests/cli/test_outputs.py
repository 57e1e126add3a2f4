"""What every verb shares: how outputs are protected, and that texts are shown as they are, never as markup."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from rich.text import Text

from rubric_arm_lite.cli import common, plan
from rubric_arm_lite.cli.main import app
from rubric_arm_lite.recipe import dump_recipe, load_recipe, load_settings
from rubric_arm_lite.recipe.policy import PolicyRecipe
from tests.cli.test_cli import call, refused

OUTPUTS = {"target", "output", "out", "run_dir", "folder"}
"""Names under which verbs take what they write; ``push`` reads its folder."""


def verbs(group: typer.Typer = app, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every verb's name with its parameters: their annotations by name."""
    for command in group.registered_commands:
        assert command.callback is not None
        name = f"{prefix}{command.name or command.callback.__name__}"
        hints = inspect.get_annotations(command.callback, eval_str=True)
        yield name, {key: hint for key, hint in hints.items() if key != "return"}
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from verbs(inner.typer_instance, f"{prefix}{inner.name} ")


def engine() -> tuple[str, dict[str, Any]]:
    """The verb that stands in the checkout alone."""
    from benchmarks.against_trl.main import engine

    return "bench", inspect.get_annotations(engine, eval_str=True)


def help_of(annotation: Any) -> str:
    return str(get_args(annotation)[1].help or "") if get_args(annotation) else ""


def test_every_verb_that_writes_has_an_option_to_replace_or_takes_a_new_folder() -> None:
    found = set()
    for name, parameters in [*verbs(), engine()]:
        for output in OUTPUTS & parameters.keys():
            if name == "push":
                continue
            found.add(name)
            new = "new folder" in help_of(parameters[output])
            assert new or {"overwrite", "if_exists"} & parameters.keys(), f"{name} replaces {output} without asking"
    assert found >= {"bench inference", "bench", "judge", "label", "evaluate", "data convert", "export", "policy dpo"}


def test_every_verb_that_resumes_refuses_two_answers(tmp_path: Path) -> None:
    for verb in (("run", "testbed"), ("policy", "dpo", "testbed"), ("evaluate", "x", "--benchmarks", "rmb")):
        for other in ("overwrite", "raise"):
            said = refused(*verb, "--resume", "--if-exists", other, folder=tmp_path)
            assert f"--resume and --if-exists {other} differ. Give one of them." in said


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (("bench", "inference"), ("bench-inference.json", "bench-inference.md")),
        (("bench",), ("bench-all.json", "bench-all.md")),
        (("bench", "update"), ("bench-update.json", "bench-update.md")),
        (("bench", "update", "--sweep"), ("bench-update.svg", "bench-update.png")),
    ],
)
def test_a_benchmark_replaces_no_file_unasked(
    arguments: tuple[str, ...], files: tuple[str, ...], tmp_path: Path
) -> None:
    for name in files:
        file = tmp_path / name
        file.write_text("mine")
        assert f"{file} exists. Name another" in refused(*arguments, "--output", tmp_path)
        assert file.read_text() == "mine"
        file.unlink()
    plain = tmp_path / "plain"
    plain.write_text("mine")
    assert f"{plain} is not a folder" in refused(*arguments, "--output", plain)


def test_a_benchmark_replaces_files_when_asked(tmp_path: Path) -> None:
    (tmp_path / "bench-inference.md").write_text("old")
    done = call("bench", "inference", "--judge", "direct", "--limit", "1", "--output", tmp_path, "--overwrite")
    assert done.returncode == 0 and (tmp_path / "bench-inference.md").read_text() != "old"


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("mine")
    assert f"{plain} is not a folder" in refused("testbed", "pairs", plain / "out.jsonl")


# --- texts are shown as they are ------------------------------------------------------------------------------------


@pytest.mark.parametrize("console", [common.out, common.err])
def test_brackets_and_colons_are_no_markup(console: common.SafeConsole) -> None:
    with console.capture() as capture:
        console.print("runs/[bold]x :warning: 1.5")
    assert capture.get() == "runs/[bold]x :warning: 1.5\n"


def test_help_texts_lose_no_brackets() -> None:
    for name, parameters in [*verbs(), engine()]:
        for text in map(help_of, parameters.values()):
            assert Text.from_markup(text).plain == text.replace("\\[", "["), name
    assert "responses: [a, b]" in " ".join(call("data", "check", "--help").stdout.replace("│", "").split())


def test_plan_and_doctor_show_names_as_they_are(tmp_path: Path) -> None:
    base = shutil.copytree(resources.files("rubric_arm_lite.data.testbed") / "assets" / "base", tmp_path / "[b]\x1b[1m")
    shown = call("plan", "testbed", "--set", f"model.base={json.dumps(str(base))}").stdout
    assert f"testbed: {tmp_path}/[b]\ufffd[1m, unquantized" in shown
    row = {"recipe": "[x]", "fits": False, "why": "pip install -e '.[gpu]'"}
    machine = plan.examine() | {"recipes": [row], "best": None}
    with common.out.capture() as capture:
        plan.show_machine(machine, common.out)
    assert "[x]" in capture.get() and "'.[gpu]'" in capture.get()


def test_doctor_looks_at_one_recipe(tmp_path: Path) -> None:
    found = json.loads(call("doctor", "qwen3-8b-12gb", "--json").stdout)
    assert [row["recipe"] for row in found["recipes"]] == ["qwen3-8b-12gb"] and "9.0 GiB" in found["recipes"][0]["why"]
    (tmp_path / "mine.yaml").write_text("extends: testbed.yaml\n")
    shown = call("doctor", "mine.yaml", folder=tmp_path).stdout
    assert "mine.yaml" in shown and "qwen3" not in shown and "Best" not in shown
    assert "There is no recipe 'none'" in refused("doctor", "none")


# --- the right verb -------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Run directories that have just begun: ``reward``, and ``policy``, trained against it."""
    for name, recipe in (
        ("reward", load_recipe("testbed")),
        ("policy", load_settings(PolicyRecipe, "testbed", ["reward.run=reward"])),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(dump_recipe(recipe))
    return tmp_path


def test_a_recipe_of_the_other_kind_is_told_its_verb(runs: Path) -> None:
    policy, reward = runs / "policy" / "recipe.yaml", runs / "reward" / "recipe.yaml"
    for verb in (("run",), ("plan",), ("doctor",), ("bench", "inference", "--recipe"), ("evaluate",)):
        for name in ("policy/testbed", policy):
            if (verb, name) != (("evaluate",), "policy/testbed"):  # a path, unless it is the name of a recipe
                said = refused(*verb, name)
                assert "is the recipe of a policy" in said and "rubric-arm policy dpo" in said, (verb, said)
    for name in ("qwen3-8b-12gb", reward):
        said = refused("policy", "dpo", name)
        assert "is the recipe of a reward model" in said and f"rubric-arm run {name}" in said
    assert "rubric-arm demo makes runs/demo" in refused("policy", "dpo", "policy/testbed", folder=runs)


def test_a_run_of_the_other_kind_is_told_its_verb(runs: Path) -> None:
    said = refused("report", runs / "policy")
    assert "is the run of a policy" in said and f"rubric-arm policy report {runs / 'policy'}" in said
    assert not (runs / "policy" / "report.html").exists()
    said = refused("policy", "report", runs / "reward")
    assert "is the recipe of a reward model" in said and f"rubric-arm report {runs / 'reward'}" in said
    said = refused("push", runs / "reward", "me/mine", "--dry-run")
    assert f"is a run directory. Export it first: rubric-arm export {runs / 'reward'} TARGET" in said
    for verb in ("run", "plan", "show-recipe"):
        assert f"{runs / 'reward'} is a run directory. Its recipe is {runs / 'reward' / 'recipe.yaml'}." in refused(
            verb, runs / "reward"
        )


def test_a_recipe_that_is_not_trained_is_told_so() -> None:
    for verb in (("rubric", "testbed", "hi"), ("evaluate", "testbed"), ("play", "testbed", "--port", "0")):
        said = refused(*verb)
        assert "testbed is a recipe, and nothing is trained by it yet" in said and "rubric-arm run testbed" in said


def test_bench_inference_ignores_no_option(runs: Path) -> None:
    verb = ("bench", "inference")
    assert "--recipe and --set belong" in refused(*verb, "--run", runs / "reward", "--recipe", "testbed")
    assert "Give --run" in refused(*verb, "--state", "warm-up")
    for option in ("--rubric-model", "--judge-model", "--base-model"):
        assert "belong to a server. Give --server" in refused(*verb, option, "x")


def test_an_unfinished_run_is_told_how_to_continue(runs: Path) -> None:
    said = refused("evaluate", runs / "reward")
    folder = runs / "reward"
    assert f"rubric-arm run {folder / 'recipe.yaml'} --run-dir {folder} --resume" in said
