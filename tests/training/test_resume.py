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


PLACES = (
    written("warmup/rubric/checkpoint-*/trainer_state.json"),
    written("warmup/judge/checkpoint-*/trainer_state.json"),
    written("evaluations/warm-up.json"),
    at(0, 1),  # in a judge phase
    at(3, 1),  # in a rubric phase
)


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_is_identical(finished_run: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    rng = random.Random(2)
    demo = ("demo", "--run-dir", folder, "--json", *short_sets())
    for reached in PLACES:
        # A little after the place, so that the kill falls into whatever comes then.
        kill_when(partial(reached, folder), begin(command, *demo, log=log), log, delay=rng.uniform(0, 0.2))
    resumed = begin(command, *demo, log=log)
    resumed.join()
    assert resumed.exitcode == 0, log.read_text()
    assert digest(folder) == digest(finished_run)
