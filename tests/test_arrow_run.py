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

from benchmarks.kill_resume import digest
from tests.short_run import short_sets

LIMIT = 240
"""Seconds after which a run that has not come to the phase is given up."""
SETS = short_sets(
    "schedule.cycles=1",
    "rubric.max_steps=3",
    "warmup.rubric.max_steps=20",
    "warmup.judge.max_steps=40",
    "evaluation.pairs=6",
    "evaluation.vote_pairs=2",
)


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rubric_arm_lite", "run", "arrow-testbed", "--run-dir", str(folder)]
    return subprocess.Popen(
        [*command, "--if-exists", "resume", "--json", *SETS], stdout=subprocess.DEVNULL, start_new_session=True
    )


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
    assert start(whole).wait(LIMIT) == 0
    kill_in_the_rubric_phase(start(killed), killed)
    assert not (killed / "adapters").exists()
    assert start(killed).wait(LIMIT) == 0
    assert digest(killed) == digest(whole)
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
