"""Pairs of a policy's own answers: sampled, labeled in both orders, kept or counted; both jobs go on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe.policy import AnswerSettings, PolicyRecipe
from rubric_arm_lite.training.policy import dpo
from rubric_arm_lite.training.policy.dpo import labeled_pairs, sampled_pairs
from rubric_arm_lite.training.policy.state import run_judge
from rubric_arm_lite.types import Comparison, Example, Rubric
from tests.players import right
from tests.policy_players import Chat, StandIn, chat, fixed_judge, requests
from tests.scripted import Written

REQUESTS = requests(6)
ANSWERS: dict[str, tuple[Written, Written]] = {
    "request 0": ("good a", "poor b"),
    "request 1": ("poor a", "good b"),
    "request 2": ("poor a", "poor b"),  # the scripted judge falls back on B: the orders disagree
    "request 3": ("same", "same"),
    "request 4": (("good but", "length"), "poor b"),
    "request 5": ("good a", "poor b"),  # its rubric does not parse
}


def policy(example: Example, index: int) -> Written:
    return ANSWERS[example.prompt][index]


def state(sampler: Chat, folder: Path, broken: tuple[str, ...] = (), job: str = "test") -> Any:
    recipe = PolicyRecipe(answers=AnswerSettings(max_completion_length=50), seed=1)
    return StandIn(sampler, fixed_judge(sampler, REQUESTS, broken), REQUESTS, recipe, folder, job=job)


def reasons_of(state: Any) -> dict[str, int]:
    return {reason: count for reason, count in labeled_pairs(state, 1)[1].items() if count}


def test_only_pairs_that_both_orders_agree_on_are_kept(tmp_path: Path) -> None:
    kept, reasons = labeled_pairs(state(chat(right, policy), tmp_path, broken=("id5",)), 1)
    assert [(pair.chosen.text, pair.rejected.text) for pair in kept] == [("good a", "poor b"), ("good b", "poor a")]
    assert reasons == {
        "kept": 2,
        "orders disagree": 1,
        "no verdict": 0,
        "same answer twice": 1,
        "truncated": 1,
        "rubric does not parse": 1,
        "too long for the judge": 0,
    }
    assert tuple(reasons) == dpo.REASONS
    assert kept[0].chosen.token_ids == (*b"good a", 256), "the ids that were sampled"


def test_a_missing_verdict_and_a_text_too_long_have_reasons_of_their_own(tmp_path: Path) -> None:
    def mute(a: str, b: str, rubric: Rubric, index: int) -> str:
        return "no verdict"

    assert reasons_of(state(chat(mute, policy), tmp_path))["no verdict"] == 4
    long = chat(right, lambda example, index: f"good {index} " + "x" * 9000)
    assert reasons_of(state(long, tmp_path / "long")) == {"too long for the judge": 6}


def test_a_killed_job_goes_on_with_the_next_portion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpo, "BATCH", 2)
    whole = sampled_pairs(state(chat(right, policy), tmp_path / "whole"), 1)
    sampler = chat(right, policy)
    assert sampled_pairs(state(sampler, tmp_path), 1) == whole and len(sampler.calls) == 3
    file = tmp_path / "samples.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:-9])  # killed while the second portion was written
    again = state(chat(right, policy), tmp_path)
    assert sampled_pairs(again, 1) == whole
    assert len(again.policy.calls) == 2
    first = labeled_pairs(again, 1)
    judgements = len(again.policy.prompts("judge"))
    assert labeled_pairs(again, 1) == first
    assert len(again.policy.prompts("judge")) == judgements, "labeled pairs are not judged again"


def test_rows_of_another_job_are_refused(tmp_path: Path) -> None:
    sampled_pairs(state(chat(right, policy), tmp_path), 1)
    with pytest.raises(CheckpointError, match="belongs to another job"):
        sampled_pairs(state(chat(right, policy), tmp_path, job="other"), 1)


def test_preferences_of_a_reward_model() -> None:
    sampler = chat(right, policy)
    judge = fixed_judge(sampler, REQUESTS[:2], broken=("id1",))

    def preferences(*comparisons: Comparison) -> list[float]:
        return [verdict.preference for verdict in judge.verdicts(comparisons)]

    good = REQUESTS[0].comparison("good", "poor")
    assert preferences(good, REQUESTS[0].comparison("poor", "good")) == [1.0, 0.0]
    assert preferences(REQUESTS[0].comparison("poor", "poor too")) == [0.5]
    nobody = REQUESTS[1].comparison("good", "poor")
    assert preferences(nobody, good) == [0.5, 1.0], "nobody can be asked without a rubric"
    assert run_judge(judge._model)([good]) == ([1.0], None)


@pytest.mark.parametrize("lost", ["results", "prompt_ids", "answers", "text", "token_ids", "finish_reason"])
def test_a_field_that_is_gone_from_a_journal_is_named_with_its_line(tmp_path: Path, lost: str) -> None:
    labeled_pairs(state(chat(right, policy), tmp_path), 1)
    file = tmp_path / "samples.jsonl"
    file.write_text(file.read_text().replace(f'"{lost}"', '"other"'))
    with pytest.raises(CheckpointError, match=rf"{file.name}, line 2: no `{lost}` here"):
        labeled_pairs(state(chat(right, policy), tmp_path), 1)
