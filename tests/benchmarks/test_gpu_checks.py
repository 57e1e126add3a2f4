"""The checks of a GPU, rehearsed on a CPU, so that they work on the day there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm import begin

ROOT = Path(__file__).parents[2]
GPU = ROOT / "benchmarks" / "gpu"
SMALL = ("--rehearse", "--size", "tiny", "--completion-length", "24", "--rank", "4")
CHECKS = {
    "fits": ("--num-generations", "4", "--stages", "judge,rubric,update,rollout", "--cap", "12"),
    "longest": ("--num-generations", "2", "--lengths", "64,96"),
    "rollout": ("--num-generations", "8", "--bf16"),
    "exact": ("--num-generations", "4"),
    "update": ("--num-generations", "2", "--runs", "1"),
    "backend": ("--num-generations", "2"),
}


def rehearse(folder: Path) -> None:
    """Work for a process of its own, as a rehearsal replaces functions of torch; each check leaves a JSON file."""
    sys.path.insert(0, str(GPU))
    import checks

    for name, options in CHECKS.items():
        length = () if name == "longest" else ("--prompt-length", "64")
        sys.argv = ["checks.py", name, *SMALL, *length, *options, "--output", str(folder / f"{name}.json")]
        checks.main()


@pytest.mark.slow
def test_every_check(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = begin(rehearse, tmp_path, log=log)
    process.join(600)
    assert process.exitcode == 0, log.read_text()[-3000:]
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in CHECKS}
    stages = {f"{name}: {stage}": seen for name in found for stage, seen in found[name].get("stages", {}).items()}
    assert not {name: seen["failed"] for name, seen in stages.items() if "failed" in seen}
    for name in ("fits: judge phase", "fits: rubric phase", "longest: update 96", "backend: update 1"):
        assert stages[name]["tokens_per_second" if "longest" not in name else "work_seconds"] > 0
    judged = found["fits"]["stages"]["judge phase"]
    assert judged["base_unchanged"] and judged["rubric_adapter_unchanged"]
    assert found["rollout"]["bandwidth_gb_s"] > 0
    assert found["rollout"]["rollout"]["128 rows, recorded"]["tokens"] == 128 * 24
    assert found["exact"]["exact"]["bf16"]["float32_gradient_packed_to_separate"] < 1e-4


def test_the_clock_ends_the_script_and_the_table_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text(json.dumps({"machine": {"gpu": "a card"}, "exact-1.7b": {"failed": "old"}}))
    done = subprocess.run(
        ["bash", str(GPU / "run_all.sh"), str(out), "testbed writing memory trl backends"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "MOST_SECONDS": "0", "REHEARSE": "1", "PYTHON": sys.executable},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    for name in (
        "fits-32b-24",
        "longest-8b-24",
        "rollout-8b",
        "update-8b",
        "backend-unsloth",
        "exact-1.7b",
        "trl-update",
        "testbed",
    ):
        assert results[name]["failed"] == "no time left of 0 s"
    page = (out / "results.md").read_text()
    assert "a card" in page and page.count("no time left of 0 s") >= 7


def test_a_check_that_was_stopped_shows_what_it_had(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    stage = {"seconds": 1.0, "allocated_gib": 2.5, "reserved_gib": 3.0, "card_gib": 3.5}
    (parts / "fits-8b-12.json").write_text(json.dumps({"cap_gib": 12.0, "stages": {"load": stage}}))
    (parts / "fits-8b-12.failed.json").write_text(json.dumps({"failed": "ended with 124"}))
    (parts / "update-8b.json").write_text('{"cut')
    speed = {"tokens_per_second": 300.0, "milliseconds_per_step": 26.0, "share_of_bandwidth": 0.07}
    rollout = {"bandwidth_gb_s": 2900.0, "weights_read_gb": 5.0, "rollout": {"8 rows, recorded": speed}}
    (parts / "rollout-8b.json").write_text(json.dumps(rollout))
    (parts / "trl-update.json").write_text("")
    (parts / "trl-update.failed.json").write_text(json.dumps({"failed": "ended with 124"}))
    subprocess.run([sys.executable, str(GPU / "table.py"), str(parts), str(tmp_path), "9"], check=True, timeout=60)
    page = (tmp_path / "results.md").read_text()
    assert "| 8b | 12 GiB | load | 3.50 GiB | 2.50 GiB | 1.0 |" in page and "- fits-8b-12: ended with 124" in page
    assert "- update-8b: no result" in page and "| 8 rows, recorded | 300 |" in page
    assert "- trl-update: ended with 124" in page
