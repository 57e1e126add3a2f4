"""The pointwise recipe end to end, cut down to seconds: killed in a rubric phase, resumed, and the same as unbroken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_resume import COMPARED
from rubric_arm_lite.recipe_file import load_recipe
from rubric_arm_lite.report import write_report
from tests.short_run import SHORT
from tests.test_pipeline import execute

LIMIT = 240
"""Seconds after which a run that has not come to the phase is given up."""
SETS = (
    *SHORT,
    "schedule.cycles=1",
    "judge.max_steps=1",
    "rubric.max_steps=3",
    "rubric.num_generations=4",
    "data.train_prompts=20",
    "warmup.prompts=20",
    "warmup.rubric.max_steps=8",
    "warmup.judge.max_steps=20",
    "evaluation.pairs=4",
    "evaluation.vote_pairs=2",
    "evaluation.votes=1",
    "evaluation.bootstrap=20",
)


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Begin the run in a process of its own, which can be killed."""
    sets = [part for value in SETS for part in ("--set", value)]
    command = [sys.executable, "-m", "rubric_arm_lite", "run", "arrow-testbed", "--run-dir", str(folder), *sets]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def kill_in_the_rubric_phase(process: subprocess.Popen[bytes], folder: Path) -> None:
    """``kill -9`` once a step of the second phase has been committed and the run goes on."""
    ends = time.monotonic() + LIMIT
    state = folder / "state.json"
    while process.poll() is None and time.monotonic() < ends:
        if state.is_file() and json.loads(state.read_text())["position"] >= [1, 1]:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run was over before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_pointwise_run_is_complete_and_a_killed_one_ends_the_same(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipe = load_recipe("arrow-testbed", SETS)
    execute(recipe, whole)
    write_report(whole)
    kill_in_the_rubric_phase(start(killed), killed)
    assert not (killed / "adapters").exists()
    execute(recipe, killed)
    for name in COMPARED:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text("utf-8").splitlines()]
    phases = {row["phase"]: row for row in rows if row["kind"] == "step"}
    assert set(phases) == {"judge 1", "rubric 1"}
    usable = phases["judge 1"]["rubrics/usable"]
    assert 0 < phases["judge 1"]["groups"] == 2 * round(6 * usable), (
        "six pairs less unusable rubrics, two responses each"
    )
    final = json.loads((whole / "summary.json").read_text("utf-8"))
    assert 0 <= final["tie_rate"] <= 1 and "margin" in final and "position_bias" not in final
    assert "no position bias" in " ".join((whole / "report.md").read_text("utf-8").split())
