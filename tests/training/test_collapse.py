"""A judge destroyed on purpose, on the testbed: it happens without the remedies, and the tripwire catches it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite import train
from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.report.read import read_run
from rubric_arm_lite.runs import Progress, adapter_folder, read_jsonl
from rubric_arm_lite.training.tripwire import SET_BACK, rows_in_effect

STEPS = 6
WARM = (
    "data.train_prompts=60",
    "warmup.prompts=80",
    "warmup.rubric.max_steps=50",
    "warmup.judge.max_steps=70",
    "evaluation.pairs=4",
    "evaluation.vote_pairs=2",
    "evaluation.after_phases=false",
    "schedule.order=judge_only",
    "schedule.cycles=1",
)
PHASE = (
    *WARM,
    "warmup.source=null",
    f"judge.max_steps={STEPS}",
    "judge.num_generations=4",
    "checkpoint.save_steps=2",
)
DESTRUCTIVE = (*PHASE, "judge.learning_rate=0.06", "judge.warmup_steps=0")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warmed-up run that all phases here start from."""
    return train("testbed", tmp_path_factory.mktemp("warm") / "run", overrides=WARM, until="warmup").run_dir


def phase(warm: Path, run: Path, *sets: str, progress: Progress | None = None) -> list[dict[str, Any]]:
    """The log of one judge phase."""
    overrides = [*DESTRUCTIVE, f"warmup.from={warm}", *sets]
    train("testbed", run, overrides=overrides, until="alternating", if_exists="resume", progress=progress)
    return list(read_jsonl(run / "metrics.jsonl"))


def readable(log: list[dict[str, Any]]) -> list[float]:
    """The share of judgements that parse, in each step that counts."""
    return [row["parse/ok"] for row in rows_in_effect(log) if row["kind"] == "step"]


def weights(run: Path) -> str:
    return sha256((adapter_folder(run, "judge", "latest") / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_large_first_steps_destroy_a_judge_and_the_tripwire_saves_it(warm: Path, tmp_path: Path) -> None:
    destroyed = readable(phase(warm, tmp_path / "off", "schedule.tripwire.action=off"))
    assert destroyed[0] > 0.5 and max(destroyed[-3:]) < 0.1, "one update, and it never comes back"
    log = phase(warm, tmp_path / "back")
    returns = [row for row in log if row["kind"] == SET_BACK]
    assert 1 <= len(returns) <= 3 and returns[0]["step"] == 0 and returns[0]["at"] == 1
    saved = readable(log)
    assert len(saved) == STEPS and min(saved) > 0.3 and saved[-1] > 0.5
    record = read_run(tmp_path / "back")
    assert len(record.steps) == STEPS and len(record.returns) == len(returns)
    assert record.returns[0].startswith("In step 2 of judge 1 the share of texts that parse fell from")

    with pytest.raises(TrainingError, match=r"In step 2 of judge 1 .* Lower judge\.learning_rate, or set schedule\."):
        phase(warm, tmp_path / "stop", "schedule.tripwire.action=stop")


class KilledError(Exception):
    """Stands for a kill between two commits."""


class Killing(Progress):
    """Ends a run at the n-th step that it reports."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, done: int, values: dict[str, float]) -> None:
        self.left -= 1
        if self.left == 0:
            raise KilledError


@pytest.mark.slow
def test_a_run_that_is_killed_around_a_return_ends_with_the_same_weights(warm: Path, tmp_path: Path) -> None:
    phase(warm, tmp_path / "whole")
    for steps in (2, 5):
        with pytest.raises(KilledError):
            phase(warm, tmp_path / f"{steps}", progress=Killing(steps))
        phase(warm, tmp_path / f"{steps}")
        assert weights(tmp_path / f"{steps}") == weights(tmp_path / "whole")
        assert (tmp_path / f"{steps}" / "metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_phase_that_goes_back_too_often_ends_with_its_last_good_checkpoint(warm: Path, tmp_path: Path) -> None:
    log = phase(warm, tmp_path / "run", "schedule.tripwire.returns=1", "schedule.tripwire.factor=0.99")
    assert [row["kind"] for row in log].count(SET_BACK) == 2
    assert (
        weights(tmp_path / "run")
        == sha256((adapter_folder(warm, "judge", "warm-up") / "adapter_model.safetensors").read_bytes()).hexdigest()
    )


def test_the_testbed_as_shipped_gives_no_alarm(finished_run: Path) -> None:
    assert SET_BACK not in [row["kind"] for row in read_jsonl(finished_run / "metrics.jsonl")]
