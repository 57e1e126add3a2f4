"""Pairs of a policy's own answers: sampled, labeled in both orders, kept or counted; both jobs go on after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe.policy import AnswerSettings
from rubric_arm_lite.training.policy import pairs
from rubric_arm_lite.training.policy.judges import FixedRubricJudge, OtherRun
from rubric_arm_lite.training.policy.pairs import label_pairs, sample_pairs
from rubric_arm_lite.types import Example, Rubric
from tests.players import PROMPTS, right
from tests.policy_players import Chat, chat, fixed_judge, requests
from tests.scripted import Written

REQUESTS = requests(6)
JOB = {"what": "test"}
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


def sampled(sampler: Chat, folder: Path) -> list[pairs.SampledPair]:
    settings = AnswerSettings(max_completion_length=50)
    return sample_pairs(sampler, PROMPTS, REQUESTS, settings, 1, folder / "samples.jsonl", JOB, lambda done, of: None)


def label(
    judge: FixedRubricJudge, samples: list[pairs.SampledPair], folder: Path
) -> tuple[list[pairs.TrainingPair], dict[str, int]]:
    kept, reasons = label_pairs(judge, samples, folder / "labels.jsonl", JOB, lambda done, of: None)
    return kept, dict(reasons)


def test_only_pairs_that_both_orders_agree_on_are_kept(tmp_path: Path) -> None:
    sampler = chat(right, policy)
    kept, reasons = label(fixed_judge(sampler, REQUESTS, broken=("id5",)), sampled(sampler, tmp_path), tmp_path)
    assert [(p.prompt_id, p.chosen.text, p.rejected.text) for p in kept] == [
        ("id0", "good a", "poor b"),
        ("id1", "good b", "poor a"),
    ]
    assert reasons == {
        "kept": 2,
        "orders disagree": 1,
        "same answer twice": 1,
        "truncated": 1,
        "rubric does not parse": 1,
    }
    assert set(reasons) <= set(pairs.REASONS)
    assert kept[0].chosen.token_ids == (*b"good a", 256), "the ids that were sampled"


def test_a_missing_verdict_and_a_text_too_long_have_reasons_of_their_own(tmp_path: Path) -> None:
    def mute(a: str, b: str, rubric: Rubric, index: int) -> str:
        return "no verdict"

    sampler = chat(mute, policy)
    _, reasons = label(fixed_judge(sampler, REQUESTS), sampled(sampler, tmp_path), tmp_path)
    assert reasons["no verdict"] == 4
    long = chat(right, lambda example, index: f"good {index} " + "x" * 9000)
    _, reasons = label(fixed_judge(long, REQUESTS), sampled(long, tmp_path / "long"), tmp_path / "long")
    assert reasons == {"too long for the judge": 6}


def test_a_killed_job_goes_on_with_the_next_portion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BATCH", 2)
    whole = sampled(chat(right, policy), tmp_path / "whole")
    sampler = chat(right, policy)
    samples = sampled(sampler, tmp_path)
    assert samples == whole and len(sampler.calls) == 3
    file = tmp_path / "samples.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:-9])  # killed while the second portion was written
    again = chat(right, policy)
    assert sampled(again, tmp_path) == whole
    assert len(again.calls) == 2
    judge = fixed_judge(again, REQUESTS)
    first = label(judge, whole, tmp_path)
    judgements = len(again.prompts("judge"))
    assert label(judge, whole, tmp_path) == first
    assert len(again.prompts("judge")) == judgements, "labeled pairs are not judged again"


def test_rows_of_another_job_are_refused(tmp_path: Path) -> None:
    sampled(chat(right, policy), tmp_path)
    with pytest.raises(CheckpointError, match="belongs to another job"):
        sample_pairs(
            chat(right, policy),
            PROMPTS,
            REQUESTS,
            AnswerSettings(),
            1,
            tmp_path / "samples.jsonl",
            {"what": "other"},
            lambda done, of: None,
        )


def test_preferences_of_a_reward_model() -> None:
    sampler = chat(right, policy)
    judge = fixed_judge(sampler, REQUESTS[:2], broken=("id1",))
    good = REQUESTS[0].comparison("good", "poor")
    assert judge.preferences([good, REQUESTS[0].comparison("poor", "good")]) == [1.0, 0.0]
    assert judge.preferences([REQUESTS[0].comparison("poor", "poor too")]) == [0.5]
    assert judge.preferences([REQUESTS[1].comparison("good", "poor")]) == [0.5], "nobody can be asked"
    with pytest.raises(ValueError, match="id1 has no usable rubric"):
        judge.verdicts([REQUESTS[1].comparison("good", "poor")])
    other = OtherRun(judge._model)
    assert other.preferences([good]) == [1.0] and other.scores([good]) is None
    assert judge.verdicts([good])[0].preference == 1.0


@pytest.mark.parametrize("lost", ["pairs", "prompt_ids", "answers", "text", "token_ids", "truncated", "labels"])
def test_a_field_that_is_gone_from_a_journal_is_named_with_its_line(tmp_path: Path, lost: str) -> None:
    sampler = chat(right, policy)
    samples = sampled(sampler, tmp_path)
    label(fixed_judge(sampler, REQUESTS), samples, tmp_path)
    file = tmp_path / ("labels.jsonl" if lost == "labels" else "samples.jsonl")
    file.write_text(file.read_text().replace(f'"{lost}"', '"other"'))
    with pytest.raises(CheckpointError, match=rf"{file.name}, line 2: no `{lost}` here"):
        label(fixed_judge(sampler, REQUESTS), sampled(sampler, tmp_path), tmp_path)
