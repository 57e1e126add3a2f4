"""Whole runs on one's own data and model, through the very stages that the recipes run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.data.load import load_data
from rubric_arm_lite.data.testbed.trajectories import Teacher
from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.data.trajectories import trajectory_as_row
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError, DataError, TrainingError
from rubric_arm_lite.evaluation import Evaluation, Evaluator
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.recipe import shipped_sweeps
from rubric_arm_lite.recipe.fields import Recipe
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe, recipe_hash, recipes_folder, shipped_recipes
from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.report import write_report
from rubric_arm_lite.reward_model.judge import longest_sequence
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.runs import Progress
from rubric_arm_lite.runs.directory import RunDirectory
from rubric_arm_lite.training.run import train
from rubric_arm_lite.training.schedule import STAGES
from rubric_arm_lite.training.state import TrainingState
from tests.short_run import SHORT
from tests.source_rows import openrubric

WORLD = World(8)


class Recorder(Progress):
    """Keeps the notes, and the names of stages and results."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.names: list[str] = []

    def stage(self, name: str, steps: int) -> None:
        self.names.append(name)

    def result(self, name: str, text: str) -> None:
        self.names.append(f"= {name}")

    def note(self, text: str) -> None:
        self.notes.append(text)


def execute(recipe: Recipe, folder: Path, until: str | None = None) -> Recorder:
    progress = Recorder()
    train(recipe, folder, if_exists="resume", until=until, progress=progress)
    return progress


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pairs and warm-up trajectories as a user's own JSONL."""
    folder = tmp_path_factory.mktemp("own")
    blocks = WORLD.blocks("train", 30)
    pairs = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for b in blocks for p in b.pairs]
    long = {"prompt": "stone " * 400, "chosen": "a", "rejected": "b"}
    taught = Teacher(WORLD).trajectories(blocks[:12], seed=1)
    rows = [{**trajectory_as_row(row), "rubric": row.judged_rubric} for row in taught]
    return {
        "pairs": write_rows(folder / "pairs.jsonl", [*pairs, long]),
        "warmup": write_rows(folder / "warmup.jsonl", rows),
    }


def own_recipe(files: dict[str, Path], *more: str) -> Recipe:
    sources = (f"data.source={files['pairs']}", f"warmup.source={files['warmup']}", "data.test_fraction=0.3")
    shorter = ("schedule.cycles=1", "warmup.rubric.max_steps=4", "warmup.judge.max_steps=6")
    evaluation = ("evaluation.pairs=4", "evaluation.vote_pairs=2", "evaluation.bootstrap=20")
    return load_recipe("testbed", [*SHORT, *shorter, *evaluation, *sources, *more])


@pytest.mark.slow
def test_what_was_just_judged_is_not_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, bool]] = []
    real = Evaluator.evaluate

    def watched(self: Evaluator, name: str, *rest: Any) -> Evaluation:
        made.append((name, rest[-1] is not None))
        return real(self, name, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", watched)
    # Nothing is learned without a warm-up, but the entropy moves the generator.
    sets = ("warmup.source=null", "schedule.cycles=1", "rubric.skip_uninformative=false")
    recipe = load_recipe("testbed", [*SHORT, *sets])
    execute(recipe, tmp_path / "run")
    names = ["base", "judge 1", "rubric 1", "cross-play: warm-up judge, trained rubrics"]
    assert made == [*((name, False) for name in names), ("final", True)], "only the votes of the last are new"

    def values(name: str) -> dict[str, float]:
        row: dict[str, Any] = json.loads((tmp_path / "run" / "evaluations" / f"{name}.json").read_text())
        return dict(row["values"])

    assert values("warm-up") == values("base") == values("cross-play--warm-up-judge--warm-up-rubrics")
    with closing(RunDirectory.open(tmp_path / "run", dump_recipe(recipe), recipe_hash(recipe), "resume")) as directory:
        state = TrainingState(recipe, directory, Progress())
        state.restore()
        assert real(state.evaluator, "afresh", None, recipe.evaluation.votes).values == values("final")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma"])  # the testbed's base is a qwen3
def test_any_causal_lm_folder_and_own_data(
    kind: str, tiny_folder: Any, own_files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_folder(kind)
    room = ("judge.max_completion_length=24", "rubric.max_completion_length=16", "reward.judge_max_tokens=24")
    evaluation = ("evaluation.rubric_max_tokens=16", "evaluation.judge_max_tokens=24", "model.max_context=128")
    recipe = own_recipe(own_files, f"model.base={folder}", *room, *evaluation)
    progress = execute(recipe, tmp_path / "run")
    assert "= final" in progress.names
    skipped, too_long = progress.notes[:2]
    assert skipped.endswith("warmup.jsonl: 48 rows read, 36 rows kept; skipped: 12 with a held-out prompt.")
    assert too_long == "1 pairs are longer than model.max_context (128 tokens) and were skipped."
    assert json.loads((tmp_path / "run" / "data.json").read_text())["skipped_too_long"] == 1
    assert write_report(tmp_path / "run")[0].is_file()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["rubric_first", "judge_only", "rubric_only", "simultaneous"])
def test_every_order_of_the_schedule_runs(order: str, own_files: dict[str, Path], tmp_path: Path) -> None:
    recipe = own_recipe(own_files, f"schedule.order={order}", "evaluation.after_phases=false", "warmup.source=null")
    progress = execute(recipe, tmp_path / "run", "alternating")
    labels = {
        "rubric_first": ["rubric 1", "judge 1"],
        "judge_only": ["judge 1"],
        "rubric_only": ["rubric 1"],
        "simultaneous": ["judge+rubric 1"],
    }
    assert progress.names[-len(labels[order]) :] == labels[order]


@pytest.mark.slow
def test_stages_can_be_run_one_by_one(own_files: dict[str, Path], tmp_path: Path) -> None:
    recipe = own_recipe(own_files)
    for stage in STAGES:
        execute(recipe, tmp_path / "steps", stage)
    execute(recipe, tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["updates"] for row in rows if row["kind"] == "step"), "there is something to be equal"
    for name in ("metrics.jsonl", "adapters/judge/adapter_model.safetensors"):
        assert (tmp_path / "steps" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_until_ends_a_phase_early(own_files: dict[str, Path], tmp_path: Path) -> None:
    until = "schedule.until={phase: judge, metric: format, at_least: 0.0, every: 1, pairs: 4}"
    recipe = own_recipe(own_files, until, "judge.max_steps=5", "evaluation.after_phases=false", "warmup.source=null")
    execute(recipe, tmp_path / "run", "alternating")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "step" and row["role"] == "judge"] == [0]
    assert [row["phase"] for row in rows if row["kind"] == "probe"] == ["judge 1"]


@pytest.mark.slow
def test_a_frozen_adapter_that_moves_stops_the_run(
    own_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rubric_arm_lite.training.learner import Learner

    original = Learner.update

    def leaking(self: Learner, role: Any, *rollouts: Any) -> Any:
        other = "rubric" if role == "judge" else "judge"
        with torch.no_grad():
            self.model.parameters(other)[0][1].add_(1.0)
        self.model._fingerprints.pop(other, None)
        return original(self, role, *rollouts)

    monkeypatch.setattr(Learner, "update", leaking)
    with pytest.raises(TrainingError, match="frozen adapter `rubric` changed in the phase judge 1"):
        execute(own_recipe(own_files, "warmup.source=null"), tmp_path / "run", "alternating")


@pytest.mark.slow
def test_changed_data_are_noticed_on_resume(own_files: dict[str, Path], tmp_path: Path) -> None:
    rows = own_files["pairs"].read_text().splitlines(keepends=True)
    files = {**own_files, "pairs": tmp_path / "pairs.jsonl"}
    files["pairs"].write_text("".join(rows))
    recipe = own_recipe(files, "warmup.source=null")
    execute(recipe, tmp_path / "run", "base")
    execute(recipe, tmp_path / "run", "base")
    files["pairs"].write_text("".join(rows[4:]))
    with pytest.raises(CheckpointError, match="now holds other pairs"):
        execute(recipe, tmp_path / "run")


def test_published_data_and_what_was_left_out_of_it(tmp_path: Path) -> None:
    rows = [openrubric(i, "A" if i % 2 else "B") for i in range(40)]
    source = write_rows(tmp_path / "openrubric.jsonl", [*rows, openrubric(40, "tie"), rows[0]])
    write_rows(tmp_path / "bench.jsonl", [{"prompt": "request 3!"}])
    (tmp_path / "own.yaml").write_text(
        f"extends: testbed.yaml\ndata: {{source: {source.name}, decontaminate: [bench.jsonl], test_fraction: 0.3}}\n"
        f"warmup: {{source: {source.name}}}\n"
    )
    small = ("evaluation.pairs=2", "evaluation.judge_max_tokens=8", "evaluation.showcase=0")
    recipe = load_recipe(str(tmp_path / "own.yaml"), small)
    assert recipe.data.decontaminate == (str(tmp_path / "bench.jsonl"),)
    progress = execute(recipe, tmp_path / "run", "base")
    pairs, warmup = json.loads((tmp_path / "run" / "data.json").read_text())["sources"]
    assert (pairs["rows"], pairs["kept"], pairs["format"]) == (42, 39, "openrubric")
    assert pairs["skipped"] == {"tie": 1, "equal to an earlier pair": 1, "overlapping with a benchmark": 1}
    held_out = json.loads((tmp_path / "run" / "data.json").read_text())["test_pairs"]
    assert warmup["skipped"]["overlapping with a benchmark"] == 1
    assert warmup["skipped"]["with a held-out prompt"] >= held_out > 1
    assert f"{source}: 42 rows read, 39 rows kept" in progress.notes[0] and "held-out prompt" in progress.notes[1]


def test_the_result_of_a_run(own_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(dump_recipe(own_recipe(own_files, "name=own", "evaluation.pairs=2")))
    result = train(tmp_path / "own.yaml", overrides=["warmup.source=null", "evaluation.votes=1"], until="base")
    assert result.run_dir == Path("runs") / "own" and result.recipe.name == "own" and result.main_process
    assert (result.stages, result.summary, result.adapters) == (("base",), {}, {})
    assert load_recipe(result.run_dir / "recipe.yaml") == result.recipe


def test_a_finished_run_gives_its_summary_and_adapters(finished_run: Path) -> None:
    result = train(load_recipe(finished_run / "recipe.yaml"), finished_run, if_exists="resume")
    assert result.stages == STAGES
    assert result.summary == json.loads((finished_run / "summary.json").read_text())
    assert result.adapters == {role: finished_run / "adapters" / role for role in ("judge", "rubric")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"until": "everything"}, "--stage everything: not a stage. Use one of base, warmup-rubric"),
        ({"if_exists": "maybe"}, "--if-exists maybe: use raise, resume or overwrite"),
        ({"overrides": ["seed=1"]}, "seed=1: a loaded recipe takes no overrides"),
        ({"recipe": "released-8b"}, "model.checkpoints: full checkpoints can be used and evaluated, but not trained"),
    ],
)
def test_arguments_are_checked_before_a_folder_is_made(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        train(**{"recipe": load_recipe("testbed"), "run_dir": tmp_path / "run", **changes})
    assert not (tmp_path / "run").exists()


def test_mistakes_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    code = """
import sys
from rubric_arm_lite import train, train_policy
from rubric_arm_lite.errors import RubricArmError
for verb in (train, train_policy):
    for changes in ({"run_dir": sys.argv[1]}, {"if_exists": "maybe"}, {"overrides": ["sed=1"]}):
        try:
            verb("testbed", **changes)
        except RubricArmError as error:
            print(type(error).__name__, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "taken")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["CheckpointError False", "ConfigError False", "ConfigError False"] * 2


@pytest.mark.parametrize("role", ["rubric", "judge"])
def test_a_warm_up_that_could_not_start_is_refused_before_the_base_is_evaluated(
    role: str, own_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with suppress(ImportError):
        import_module("bitsandbytes")  # whole, as peft imports it where it is installed
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(BackendError, match="needs bitsandbytes"):
        execute(own_recipe(own_files, f"warmup.{role}.optim=adamw_8bit"), tmp_path / "run")
    assert not json.loads((tmp_path / "run" / "state.json").read_text())["stages"]


def test_no_pair_fits(own_files: dict[str, Path], tiny_folder: Any) -> None:
    from rubric_arm_lite.models.load import load_model

    recipe = own_recipe(own_files, "model.max_context=100", "evaluation.judge_max_tokens=90")
    model = load_model(recipe.model, 0)
    prompts = PromptBuilder(Templates.load(), model.control_tokens())
    with pytest.raises(DataError, match=r"No training pair fits model\.max_context"):
        load_data(recipe, lambda pair: longest_sequence(pair, recipe, model, prompts))


def test_every_shipped_recipe_loads_and_builds_to_the_backend_seam(tmp_path: Path) -> None:
    recipes = shipped_recipes().values()
    assert len(recipes) == 14  # test_plan.py builds those for larger bases to the backend seam
    policies = shipped_recipes(PolicyRecipe).values()  # test_policy_run.py loads these
    sweeps = shipped_sweeps().values()  # test_sweep.py loads these
    assert sorted(recipes_folder().rglob("*.yaml")) == sorted([*recipes, *policies, *sweeps])
    for path in recipes:
        recipe = load_recipe(str(path))
        copy = tmp_path / path.name
        copy.write_text(dump_recipe(recipe))
        assert load_recipe(str(copy)) == recipe
    recipe = load_recipe("testbed")
    directory = RunDirectory.open(tmp_path / "run", dump_recipe(recipe), recipe_hash(recipe))
    state = TrainingState(recipe, directory, Progress())
    assert len(state.data.train) == recipe.data.train_prompts
    assert len(state.evaluator.pairs) == recipe.evaluation.pairs


@pytest.mark.slow
def test_reward_model_from_run(finished_run: Path) -> None:
    model = RubricRewardModel.from_run(finished_run)
    before = RubricRewardModel.from_run(finished_run, state="warm-up")
    latest = RubricRewardModel.from_run(finished_run, state="latest")
    assert before.model.fingerprint("judge") != model.model.fingerprint("judge") == latest.model.fingerprint("judge")
    again = RubricRewardModel.from_adapters(
        model.recipe, finished_run / "adapters" / "rubric", finished_run / "adapters" / "judge"
    )
    assert again.model.fingerprint("rubric") == model.model.fingerprint("rubric")
    prompt = "Write a note about gardens for pilots. Include the word zinc."
    by_hand = "1. The response includes the word zinc [Hard Rule]"
    straight = model.compare(prompt, "zinc stone table", "stone table", by_hand, votes=3)
    swapped = model.compare(prompt, "stone table", "zinc stone table", by_hand, votes=3)
    assert len(straight.original) == len(straight.swapped) == 3
    mirror = {"A": "B", "B": "A", None: None}
    assert swapped.winner == mirror[straight.winner]
    with pytest.raises(DataError, match="does not parse"):
        model.compare(prompt, "a", "b", rubric="be nice")
    with pytest.raises(DataError, match=r"more than model\.max_context"):
        model.compare(prompt, "stone " * 300, "b", by_hand)


def test_reward_model_needs_a_run_that_came_that_far(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run directory"):
        RubricRewardModel.from_run(tmp_path)
    recipe = load_recipe("testbed")
    RunDirectory.open(tmp_path / "run", dump_recipe(recipe), recipe_hash(recipe)).close()
    with pytest.raises(CheckpointError, match="no final adapter"):
        RubricRewardModel.from_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        RubricRewardModel.from_run(tmp_path / "run", state="latest")
