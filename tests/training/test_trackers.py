"""Trackers get every number of metrics.jsonl once, under the name and at the line that it has there."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate import tracking

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import Recipe, load, recipe_hash
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe
from rubric_arm_lite.runs import RunDirectory, read_jsonl
from rubric_arm_lite.training.run import train
from rubric_arm_lite.training.trackers import TRACKERS, curves, mlflow_name, tracked
from tests.short_run import SHORT

ROWS: list[dict[str, Any]] = [
    {"kind": "evaluation", "name": "base", "accuracy": 0.5, "voting@5": 0.6},
    {"kind": "warmup", "role": "rubric", "step": 10, "loss": 1.5},
    {"kind": "step", "slot": 0, "phase": "judge 1", "role": "judge", "step": 0, "reward": 1.0, "reward/format": 0.25},
    {"kind": "set_back", "slot": 0, "phase": "judge 1", "role": "judge", "step": 0, "at": 3, "reason": "lost"},
    {"kind": "probe", "slot": 0, "phase": "judge 1", "step": 0, "consistency": 0.75},
    {"kind": "reading", "accuracy": 0.25},
    {"kind": "evaluation", "name": "cross-play: warm-up judge, warm-up rubrics", "accuracy": 0.5},
    {"kind": "step", "round": 1, "step": 0, "reward": 0.5},
    {"kind": "dpo", "round": 1, "step": 1, "loss": 0.5},
    {
        "kind": "alarm",
        "alarm": "kl",
        "slot": 0,
        "step": 1,
        "role": "judge",
        "value": 1.5,
        "threshold": 1.0,
        "text": "!",
    },
]


class Recorder:
    """Stands for a tracker: keeps what it gets, over several starts; ``broken`` makes it fail."""

    logged: ClassVar[list[tuple[int, dict[str, float]]]]
    options: ClassVar[list[dict[str, Any]]]
    broken: ClassVar[bool]

    def __init__(self, **options: Any) -> None:
        self.options.append(options)

    def start(self) -> None:
        print("noise of a library")

    def log(self, values: dict[str, float], step: int) -> None:
        if self.broken:
            raise OSError("no route to host")
        self.logged.append((step, values))

    def finish(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.logged, Recorder.options, Recorder.broken = [], [], False
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(load, "find_spec", lambda name: name)
    return Recorder


@contextmanager
def opened(path: Path, *names: str) -> Iterator[RunDirectory]:
    """A run directory whose rows go to trackers."""
    recipe = Recipe(report_to=names)
    run = RunDirectory.open(path, dump_recipe(recipe), recipe_hash(recipe), "resume")
    with closing(run) as directory, tracked(directory, recipe):
        yield directory


def append(directory: RunDirectory, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        directory.append("metrics.jsonl", row)


def test_curves_are_named_by_what_a_row_is_of_and_by_its_own_names() -> None:
    assert [curves(row) for row in ROWS] == [
        {"evaluation/accuracy": 0.5, "evaluation/voting@5": 0.6},
        {"warmup/rubric/loss": 1.5},
        {"judge/reward": 1.0, "judge/reward/format": 0.25},
        {},
        {"probe/consistency": 0.75},
        {"reading/accuracy": 0.25},
        {"evaluation/cross-play/accuracy": 0.5},
        {"policy/reward": 0.5},
        {"dpo/loss": 0.5},
        {"alarm/kl": 1.5},
    ]


def test_names_in_mlflow() -> None:
    names = ["judge/reward", "judge/reward/accuracy", "evaluation/voting@5", "evaluation/cross-play/accuracy"]
    written = ["judge/reward", "judge/reward.accuracy", "evaluation/voting-5", "evaluation/cross-play.accuracy"]
    assert [mlflow_name(name) for name in names] == written


def test_a_killed_run_hands_over_every_line_once(tmp_path: Path, recorder: type[Recorder]) -> None:
    with opened(tmp_path / "run", "wandb") as directory:
        append(directory, ROWS[:3])
        directory.commit(stage="base")
        append(directory, ROWS[3:6])  # not committed: resuming takes these lines away
    with opened(tmp_path / "run", "wandb") as directory:
        assert len(list(read_jsonl(directory.path / "metrics.jsonl"))) == 3
        append(directory, ROWS[3:])
        directory.commit()
    assert recorder.logged == [(i, curves(row)) for i, row in enumerate(ROWS, start=1) if curves(row)]
    first, second = recorder.options
    assert first == second, "the run goes on under its name"
    with opened(tmp_path / "other", "wandb"):
        assert recorder.options[-1]["name"] != first["name"]


def test_a_tracker_that_is_added_later_gets_the_rows_so_far(tmp_path: Path, recorder: type[Recorder]) -> None:
    with opened(tmp_path) as directory:
        append(directory, ROWS)
        directory.commit(stage="base")
    assert not (tmp_path / TRACKERS).exists()
    with opened(tmp_path, "wandb"):
        assert [step for step, _ in recorder.logged] == [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_training_goes_on_without_a_tracker_that_fails(tmp_path: Path, recorder: type[Recorder]) -> None:
    recorder.broken = True
    with opened(tmp_path, "wandb") as directory:
        with pytest.warns(UserWarning, match="wandb failed and gets no more rows: no route to host"):
            append(directory, ROWS[:1])
        append(directory, ROWS[1:])
    assert len(list(read_jsonl(tmp_path / "metrics.jsonl"))) == len(ROWS)


def test_a_tracker_that_cannot_start_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(tracking.LOGGER_TYPE_TO_CLASS, "mlflow")
    with pytest.raises(ConfigError, match=r"report_to: mlflow cannot be started"), opened(tmp_path, "mlflow"):
        pass


def test_a_tracker_that_is_not_installed_is_one_error_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    path = tmp_path / "mine.yaml"
    path.write_text("extends: testbed\nreport_to: [wandb]\n")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 2: report_to: wandb is not installed. Run pip install"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        train(Recipe(report_to=("wandb",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trackers_change_no_result() -> None:
    assert recipe_hash(Recipe(report_to=("wandb",))) == recipe_hash(Recipe())


def test_training_hands_its_rows_over(
    tmp_path: Path, recorder: type[Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("testbed", [*SHORT, "report_to=[wandb]"])
    train(recipe, tmp_path / "run", until="base")
    assert [step for step, _ in recorder.logged] == [1]
    assert recorder.logged[0][1]["evaluation/accuracy"] > 0
    assert capsys.readouterr().out == "", "standard output may be JSON for a program"


# --- the tools themselves -------------------------------------------------------------------------------------------


def replay(source: Path, target: Path, name: str) -> list[dict[str, float]]:
    """Log the rows of a finished run once more, with a kill in the middle; returns the curves of each line."""
    rows = [dict(row) for row in read_jsonl(source / "metrics.jsonl")]
    half = len(rows) // 2
    with opened(target, name) as directory:
        append(directory, rows[:half])
        directory.commit(stage="base")
        append(directory, rows[half : half + 3])
    with opened(target, name) as directory:
        append(directory, rows[half:])
    return [curves(row) for row in rows]


def by_name(lines: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line, values in enumerate(lines, start=1):
        for name, value in values.items():
            found.setdefault(name, []).append((line, value))
    return found


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed (pip install tensorboard)")
def test_tensorboard_shows_what_the_log_says(tmp_path: Path, finished_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = by_name(replay(finished_run, tmp_path / "run", "tensorboard"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"scalars": 0})
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(wanted)
    for name, points in wanted.items():
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in shown] == [line for line, _ in points], name
        assert [value for _, value in shown] == pytest.approx([value for _, value in points], rel=1e-6), name


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed (pip install trackio)")
def test_trackio_shows_what_the_log_says(tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    wanted = replay(finished_run, tmp_path / "run", "trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select step, metrics, run_name from metrics order by step").fetchall()
    assert {name for *_, name in rows} == {
        "run-" + json.loads((tmp_path / "run" / TRACKERS).read_text())["trackio"]["id"]
    }
    shown = [(step, json.loads(metrics)) for step, metrics, _ in rows]
    assert shown == [(line, values) for line, values in enumerate(wanted, start=1) if values]
