"""The pointwise recipe end to end, cut down to seconds: killed in a rubric phase, resumed, and the same as unbroken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.kill_resume import COMPARED
from rubric_arm_lite.recipe.load import load_recipe
from rubric_arm_lite.report import write_report
from tests.short_run import SHORT, short_sets
from tests.training.test_run import execute
from tests.warm import begin, command, kill_when

MORE = (
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


def in_the_rubric_phase(folder: Path) -> bool:
    """Whether a step of the second phase has been committed."""
    state = folder / "state.json"
    return state.is_file() and json.loads(state.read_text())["position"] >= [1, 1]


@pytest.mark.slow
def test_a_pointwise_run_is_complete_and_a_killed_one_ends_the_same(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipe = load_recipe("arrow-testbed", [*SHORT, *MORE])
    execute(recipe, whole)
    write_report(whole)
    log = tmp_path / "log"
    process = begin(command, "run", "arrow-testbed", "--run-dir", killed, *short_sets(*MORE), log=log)
    kill_when(lambda: in_the_rubric_phase(killed), process, log)
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
