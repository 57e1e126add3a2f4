"""kill -9 at any moment, resume: the same adapters, metrics and report as a run that was never killed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.kill_resume import digest, killed_run
from tests.short_run import SHORT


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_killed_and_resumed_run_is_identical(number: int, finished_run: Path, tmp_path: Path) -> None:
    expected = digest(finished_run)
    # Several moments: early ones fall into imports and the warm-up, later ones into the alternating stage.
    rng = random.Random(number)
    moments = [rng.uniform(3, 7), rng.uniform(4, 14)]
    struck, _ = killed_run(tmp_path / "run", list(SHORT), moments)
    assert struck, "the run was over before it could be killed"
    assert digest(tmp_path / "run") == expected
