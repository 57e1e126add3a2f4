"""``rubric-arm watch``: one screen of a run, finished, half done, or being written by another process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rubric_arm_lite.cli.main import app
from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe import PolicyRecipe
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe
from rubric_arm_lite.report import live_view
from rubric_arm_lite.report.live import duration, phases_of, sparkline


def text_of(run: Path, width: int = 160) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"), color_system=None)  # noqa: PTH123, SIM115
    console.print(live_view(run))
    return console.export_text()


def append(file: Path, *rows: dict[str, Any]) -> None:
    with file.open("a") as log:
        log.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def half(finished_run: Path, tmp_path: Path) -> Path:
    """The short run as it was in the first step of its second judge phase (slot 2)."""
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    cut = next(i for i, row in enumerate(rows) if row.get("slot") == 2)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[: cut + 1]))
    times = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    fixed = {"judge 1": 20.0, "rubric 1": 60.0, "evaluate judge 1": 5.0, "evaluate rubric 1": 5.0}
    kept = [{**row, "seconds": fixed[row["stage"]]} for row in times if row["stage"] in fixed]
    (run / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    state = json.loads((run / "state.json").read_text())
    state |= {"stages": ["base", "warmup-rubric", "warmup-judge", "warmup"], "position": [2, 0]}
    (run / "state.json").write_text(json.dumps(state))
    return run


def test_a_finished_run(finished_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    shown = text_of(finished_run)
    for part in ("✓ judge 1", "✓ final", "accuracy", "reward, judge", "entropy, rubric", "newest rubric, rubric 2"):
        assert part in shown
    assert "newest judgement, judge 2, step 2" in shown
    assert "Only 12 held-out pairs" in shown, "a caveat"
    assert "▶" not in shown
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")} == before, "it only reads"


def test_a_run_in_the_middle_of_a_phase_says_how_long_it_takes(half: Path) -> None:
    shown = text_of(half)
    assert "✓ rubric 1" in shown and "▶ judge 2" in shown and "· rubric 2" in shown
    # A judge step took 10 s and a generator step 30 s, an evaluation 5 s; one of two judge steps is done.
    assert "judge 2  step 1 of 2  about 10 s left, 80 s in the schedule" in shown


def test_a_line_that_is_being_written_does_no_harm(half: Path) -> None:
    complete = text_of(half).replace("last row 0 s", "")
    for name in ("metrics.jsonl", "rollouts.jsonl", "timings.jsonl"):
        with (half / name).open("a") as log:
            log.write('{"kind": "step", "slot": 2, "rew')
    assert text_of(half).splitlines()[3:] == complete.splitlines()[3:]


def test_alarms_and_hostile_texts_are_shown_as_they_are(half: Path) -> None:
    reason = "the entropy [bold]rose[/bold] \x1b[31m"
    row = {"kind": "set_back", "slot": 2, "phase": "judge 2", "role": "judge", "step": 0, "at": 1, "reason": reason}
    append(half / "metrics.jsonl", row)
    place = {"slot": 1, "phase": "rubric 1", "role": "rubric", "step": 1, "value": 1.5, "threshold": 1.0}
    alarm = {"kind": "alarm", "alarm": "kl", **place, "text": "In step 2 of rubric 1, [b]KL[/b]\x07."}
    append(half / "metrics.jsonl", alarm, {**alarm, "slot": 2, "phase": "judge 2"})
    sample = {"text": "[red]1. :smile: \x1b]0;title\x07\u202e", "reward": 1.0}
    rollout = {"phase": "judge 2", "step": 0, "role": "rubric", "samples": [sample, {"text": "worse", "reward": 0.0}]}
    append(half / "rollouts.jsonl", rollout)
    shown = text_of(half)
    assert "! In step 2 of judge 2 the entropy [bold]rose[/bold]" in shown
    assert "! In step 2 of rubric 1, [b]KL[/b]\ufffd. Also in judge 2." in shown
    assert "[red]1. :smile: " in shown and "worse" not in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "judge 2  step 0 of 2" in shown, "the step that was undone no longer counts"


def test_the_warm_up_shows_its_steps(half: Path) -> None:
    state = json.loads((half / "state.json").read_text())
    (half / "state.json").write_text(json.dumps(state | {"stages": ["base", "warmup-rubric"], "position": [0, 0]}))
    rows = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    last = max(i for i, row in enumerate(rows) if row["kind"] == "warmup")
    (half / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[: last + 1]))
    folder = half / "warmup" / "judge" / "checkpoint-20"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text('{"max_steps": 60}')
    assert "warmup-judge  step 20 of 60" in text_of(half)


def test_the_run_of_a_policy(tmp_path: Path) -> None:
    recipe = PolicyRecipe(method="grpo", name="mine")
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert "▶ requests" in text_of(tmp_path)
    values = {"trained/win_rate": 0.5, "independent/win_rate": 0.75}
    append(
        tmp_path / "metrics.jsonl",
        {"kind": "evaluation", "name": "start", **values},
        {"kind": "step", "round": 1, "step": 0, "reward": 0.5, "reward/won": 0.5, "entropy": 0.1},
        {"kind": "evaluation", "name": "round 1", "trained/win_rate": 0.75, "independent/win_rate": 0.5},
    )
    shown = text_of(tmp_path)
    assert "win rate, independent" in shown and "reward, policy" in shown and "won 0.50" in shown
    assert "! Reward over-optimization" in shown
    (tmp_path / "evaluations").mkdir()
    evaluation = {"name": "round 1", "rows": [{"prompt": "Write.", "answer": "a letter\x07"}]}
    (tmp_path / "evaluations" / "round-1.json").write_text(json.dumps(evaluation))
    shown = text_of(tmp_path)
    assert "answer after round 1" in shown and "a letter" in shown


def test_the_verb_prints_one_frame_without_a_terminal(finished_run: Path, tmp_path: Path) -> None:
    for arguments in ([], ["--once"]):
        result = CliRunner().invoke(app, ["watch", str(finished_run), *arguments])
        assert result.exit_code == 0 and result.output.count("✓ final") == 1
    result = CliRunner().invoke(app, ["watch", str(tmp_path), "--once"])
    assert isinstance(result.exception, CheckpointError) and "is not a run directory" in str(result.exception)


@pytest.mark.parametrize(("split", "steps"), [("disjoint", 2), ("all", 4)])
def test_steps_are_counted_by_the_cycles_share_of_the_prompts(split: str, steps: int) -> None:
    sets = [f"schedule.split={split}", "judge.max_steps=null", "judge.prompts_per_step=16", "schedule.cycles=2"]
    phases = phases_of(load_recipe("testbed", sets), {"train_prompts": 60})
    assert [count for phase, count in phases if phase.roles == ("judge",)] == [steps, steps]


def test_curves_and_times_in_a_line() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.5]) == "▁" and sparkline([]) == ""
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert [duration(s) for s in (0.4, 89, 91, 3600, 7500)] == ["0 s", "89 s", "2 min", "60 min", "2 h 05 min"]
