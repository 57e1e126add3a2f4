"""kill -9 at any moment, resume: the same adapters, metrics and report as a run that was never killed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.kill_resume import digest
from tests.short_run import short_sets
from tests.warm import begin, command, kill_when


def written(name: str) -> Callable[[Path], bool]:
    """Reached once a run has such a file."""
    return lambda folder: any(folder.glob(name))


def at(slot: int, step: int) -> Callable[[Path], bool]:
    """Reached once a run has committed so many steps of a slot."""

    def reached(folder: Path) -> bool:
        state = folder / "state.json"
        return state.is_file() and json.loads(state.read_text())["position"] >= [slot, step]

    return reached


@pytest.mark.slow
@pytest.mark.parametrize(
    "places",
    [
        [written("warmup/judge/checkpoint-*/trainer_state.json"), at(0, 1)],
        [written("warmup/rubric/checkpoint-*/trainer_state.json"), written("evaluations/warm-up.json"), at(3, 1)],
    ],
    ids=["warm-up and a judge phase", "warm-up, an evaluation and a rubric phase"],
)
def test_killed_and_resumed_run_is_identical(
    places: list[Callable[[Path], bool]], finished_run: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    rng = random.Random(len(places))
    demo = ("demo", "--run-dir", folder, "--json", *short_sets())
    for reached in places:
        # A little after the place, so that the kill falls into whatever comes then.
        kill_when(partial(reached, folder), begin(command, *demo, log=log), log, delay=rng.uniform(0, 0.2))
    resumed = begin(command, *demo, log=log)
    resumed.join()
    assert resumed.exitcode == 0, log.read_text()
    assert digest(folder) == digest(finished_run)
