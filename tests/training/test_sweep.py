"""``sweep``: shared warm-ups, kills at any moment, several processes, and what is never done twice."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.errors import CheckpointError, ConfigError, TrainingError
from rubric_arm_lite.recipe import SweepSettings, load_sweep
from rubric_arm_lite.report import compare
from rubric_arm_lite.runs import Progress, adapter_folder, read_jsonl, recipe_of_run
from rubric_arm_lite.training import sweep
from tests.cli.test_cli import call, refused
from tests.short_run import SHORT
from tests.training.test_warmup_from import weights
from tests.warm import begin, command, kill_when

TINY = (
    *SHORT,
    "schedule.cycles=1",
    "judge.max_steps=1",
    "rubric.max_steps=1",
    "warmup.rubric.max_steps=2",
    "warmup.judge.max_steps=2",
    "evaluation.after_phases=false",
    "evaluation.votes=1",
    "evaluation.vote_pairs=1",
    "evaluation.pairs=4",
)
ORDERS = "schedule.order=judge_first,rubric_first"


def tiny(grid: Sequence[str] = (ORDERS,), sets: Sequence[str] = (), seeds: str = "2") -> SweepSettings:
    return load_sweep("testbed", grid, [*TINY, *sets], seeds)


class Events(Progress):
    """Keeps what a sweep reports."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self.shares: list[float] = []
        self.notes: list[str] = []

    def step(self, done: int, values: dict[str, float]) -> None:
        self.shares.append(values["done"])

    def result(self, name: str, text: str) -> None:
        self.finished.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)


def table(folder: Path) -> list[Any]:
    """Everything measured in a sweep: the evaluations, the log and the final weights of each run."""
    runs = sorted(file.parent for file in folder.glob("*/seed-*/summary.json"))
    return [
        (
            run.relative_to(folder).as_posix(),
            json.loads((run / "summary.json").read_text()),
            (run / "metrics.jsonl").read_bytes(),
            [weights(run / "adapters" / role) for role in ("rubric", "judge")],
        )
        for run in runs
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events]:
    """A finished sweep of two arms and two seeds, only read afterwards."""
    folder, events = tmp_path_factory.mktemp("sweep") / "swept", Events()
    sweep(tiny(), folder, jobs=1, progress=events)
    return folder, events


def test_every_arm_runs_with_every_seed_from_one_warm_up_per_seed(swept: tuple[Path, Events]) -> None:
    folder, events = swept
    runs = [f"{arm}/seed-{seed}" for arm in ("judge_first", "rubric_first") for seed in (0, 1)]
    assert [name for name, *_ in table(folder)] == runs
    warmups = sorted((folder / "warm-ups").iterdir())
    assert [path.name[-7:] for path in warmups] == ["-seed-0", "-seed-1"]
    for arm in ("judge_first", "rubric_first"):
        for seed, warmup in enumerate(warmups):
            run = folder / arm / f"seed-{seed}"
            assert not [row for row in read_jsonl(run / "metrics.jsonl") if row["kind"] == "warmup"], "nothing twice"
            assert [row for row in read_jsonl(warmup / "metrics.jsonl") if row["kind"] == "warmup"]
            recipe = recipe_of_run(run)
            assert (recipe.seed, recipe.schedule.order, recipe.name) == (seed, arm, arm)
            for role in ("rubric", "judge"):
                shared = adapter_folder(warmup, role, "warm-up")
                assert weights(adapter_folder(run, role, "warm-up")) == weights(shared)
    assert events.finished == [
        "warm-up, seed 0", "judge_first, seed 0", "rubric_first, seed 0",
        "warm-up, seed 1", "judge_first, seed 1", "rubric_first, seed 1",
    ]  # fmt: skip
    assert events.shares == sorted(events.shares) and events.shares[-1] == 1.0 and len(set(events.shares)) > 6


def test_a_finished_sweep_is_only_read(swept: tuple[Path, Events]) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept[0].rglob("*") if path.name != "sweep.json"}
    events = Events()
    result = sweep(tiny(), swept[0], jobs=1, progress=events)
    assert [(run.arm, run.seed) for run in result.runs] == [
        ("judge_first", 0), ("judge_first", 1), ("rubric_first", 0), ("rubric_first", 1),
    ]  # fmt: skip
    assert result.runs[0].summary["seed"] == 0 and result.runs[0].path == swept[0] / "judge_first" / "seed-0"
    assert events.finished == [] and events.shares == [1.0]
    with pytest.raises(CheckpointError, match="the arm 'judge_first' had other fields"):
        sweep(tiny(sets=["judge.max_steps=2"]), swept[0], jobs=1)
    after = {path: path.stat().st_mtime_ns for path in swept[0].rglob("*") if path.name != "sweep.json"}
    assert {path for path in before if path.is_file() and before[path] != after[path]} == set()


def test_more_arms_use_the_same_warm_up(swept: tuple[Path, Events]) -> None:
    events = Events()
    sweep(tiny(["schedule.order=judge_only"], seeds="1"), swept[0], jobs=1, progress=events)
    assert events.finished == ["judge_only, seed 0"]
    noted = json.loads((swept[0] / "sweep.json").read_text())
    assert list(noted["arms"]) == ["judge_first", "rubric_first", "judge_only"] and noted["seeds"] == [0, 1]
    shutil.rmtree(swept[0] / "judge_only")


def test_arms_that_differ_before_the_warm_up_do_not_share_it(tmp_path: Path) -> None:
    settings = tiny(["warmup.judge.max_steps=1,2", "judge.beta=0,0.1"], seeds="3,")
    folder = tmp_path / "sweep"

    def stop(name: str, text: str) -> None:
        if name != "warm-up, seed 3":
            raise KeyboardInterrupt

    events = Events()
    events.result = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        sweep(settings, folder, jobs=1, progress=events)
    made = sorted((folder / "warm-ups").iterdir())
    assert len(made) == 2, "one per warm-up, for four arms"
    assert {recipe_of_run(run).warmup.judge.max_steps for run in made} == {1, 2}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_killed_sweep_ends_with_the_same_table(swept: tuple[Path, Events], tmp_path: Path, jobs: str) -> None:
    """Killed while the second arm trains, with its processes; then the same command does the rest."""
    folder, log = tmp_path / "sweep", tmp_path / "log"
    sets = [part for value in TINY for part in ("--set", value)]
    arguments = ("sweep", "testbed", "--grid", ORDERS, "--seeds", "2", "--jobs", jobs, "--out", folder, *sets)
    process = begin(command, *arguments, log=log)
    rows = folder / "rubric_first" / "seed-0" / "rollouts.jsonl"
    kill_when(lambda: rows.exists() and rows.stat().st_size > 0, process, log)
    done = {name for name, *_ in table(folder)}
    assert len(done) < 4
    time.sleep(1.0)  # its processes end by themselves, and with them their locks
    finished = call(*arguments, "--json")
    assert finished.returncode == 0, finished.stderr
    assert [row["arm"] for row in json.loads(finished.stdout)["runs"]] == ["judge_first"] * 2 + ["rubric_first"] * 2
    expected = [(name, summary, weight) for name, summary, _, weight in table(swept[0])]
    assert [(name, summary, weight) for name, summary, _, weight in table(folder)] == expected
    assert all((folder / name / "report.html").exists() for name, *_ in expected)


def test_failed_runs_do_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward(sample):\n    raise ValueError('no reward')\n")
    (tmp_path / "sweep.yaml").write_text(
        "arms:\n  no warm-up: {warmup.judge.learning_rate: 1.0e-300}\n"
        f"  no reward: {{reward.function: {tmp_path}/mine.py:reward}}\n  good: {{}}\n"
    )
    events = Events()
    with pytest.raises(TrainingError, match=r"warm-ups/.* failed, and 2 more runs failed or need it; the rest is done"):
        sweep(load_sweep(tmp_path / "sweep.yaml", (), TINY, "1"), tmp_path / "out", jobs=1, progress=events)
    assert events.finished == ["warm-up, seed 0", "good, seed 0"]
    assert [note.split(" failed")[0] for note in events.notes] == ["warm-up, seed 0", "no reward, seed 0"]
    assert [name for name, *_ in table(tmp_path / "out")] == ["good/seed-0"]
    compared = compare([tmp_path / "out"])
    assert [arm.label for arm in compared.arms] == ["good"] and len(compared.notes) == 2


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path, swept: tuple[Path, Events]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert "is not the folder of a sweep" in refused("sweep", "testbed", "--grid", ORDERS, "--out", folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert "is a file" in refused("sweep", "testbed", "--out", folder / "thesis.txt")
    assert "cannot be trained" in refused("sweep", "released-8b", "--out", tmp_path / "new")
    with pytest.raises(ConfigError, match="jobs: 0 does nothing"):
        sweep(tiny(), tmp_path / "new", jobs=0)
    settings = load_sweep("testbed", ["judge.beta=0,0.1"], ["rubric.beta=0"], "1")
    assert not (tmp_path / "new").exists()
    noted = json.loads((swept[0] / "sweep.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    noted["arms"] = {"beta=0": {"folder": "beta=0", "set": ["judge.beta=7"]}}
    (other / "sweep.json").write_text(json.dumps(noted))
    with pytest.raises(CheckpointError, match=r"the arm 'beta=0' had other fields"):
        sweep(settings, other, jobs=1)
