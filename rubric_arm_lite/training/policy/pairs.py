"""Preference pairs of a policy's own answers: two samples per request, labeled by the reward model (paper, sec. 4.3).

A pair is kept only if the reward model prefers the same answer in both orders; the others are counted by reason. The
results of both jobs are in a journal, so that a killed one resumes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.models import Sampling
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import Verdict
from rubric_arm_lite.training.policy.judges import FixedRubricJudge
from rubric_arm_lite.training.policy.requests import Request
from rubric_arm_lite.training.policy.state import BATCH, PolicyState
from rubric_arm_lite.types import Sample

REASONS = (
    "kept",
    "orders disagree",
    "no verdict",
    "same answer twice",
    "truncated",
    "rubric does not parse",
    "too long for the judge",
)


@dataclass(frozen=True, slots=True)
class SampledPair:
    """Two answers to one request."""

    request: Request
    prompt_ids: tuple[int, ...]
    answers: tuple[Sample, Sample]


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A pair for DPO, as the token ids that were sampled."""

    prompt_ids: tuple[int, ...]
    chosen: Sample
    rejected: Sample


def sampled_pairs(state: PolicyState, number: int) -> list[SampledPair]:
    """Two answers of the policy to every training request in a round, without their log-probabilities."""
    policy, settings = state.models.policy, state.recipe.answers
    seed = derive_seed(state.recipe.seed, "round", number)
    fields = ("text", "token_ids", "finish_reason")

    def sample(batch: Sequence[Request]) -> list[dict[str, Any]]:
        sampling = Sampling(settings.max_completion_length, 2, settings.temperature)
        groups = policy.sample("policy", [request.example(state.prompts, seed) for request in batch], sampling)
        return [
            {"prompt_ids": g.prompt_ids, "answers": [{name: getattr(s, name) for name in fields} for s in g.samples]}
            for g in groups
        ]

    with state.round_journal(number, "samples.jsonl") as journal:
        rows = journal.map(sample, state.requests.train, BATCH, state.show)
    pairs = []
    for request, row in zip(state.requests.train, rows, strict=True):
        first, second = (Sample(a["text"], tuple(a["token_ids"]), (), a["finish_reason"]) for a in row["answers"])
        pairs.append(SampledPair(request, tuple(row["prompt_ids"]), (first, second)))
    return pairs


def labeled_pairs(state: PolicyState, number: int) -> tuple[list[TrainingPair], dict[str, int]]:
    """The kept pairs of a round, the better answer as chosen, and the number of pairs by outcome."""

    def label(batch: Sequence[SampledPair]) -> list[tuple[str, int | None]]:
        skipped = [_skip_reason(state.judge, pair) for pair in batch]
        judged = [pair for pair, reason in zip(batch, skipped, strict=True) if reason is None]
        comparisons = [pair.request.comparison(*(answer.text for answer in pair.answers)) for pair in judged]
        verdicts = iter(state.judge.verdicts(comparisons))
        return [_outcome(next(verdicts)) if reason is None else (reason, None) for reason in skipped]

    pairs = sampled_pairs(state, number)
    with state.round_journal(number, "labels.jsonl") as journal:
        labels = journal.map(label, pairs, BATCH, state.show)
    kept = [
        TrainingPair(pair.prompt_ids, pair.answers[better], pair.answers[1 - better])
        for pair, (_, better) in zip(pairs, labels, strict=True)
        if better is not None
    ]
    counts = Counter(reason for reason, _ in labels)
    return kept, {reason: counts[reason] for reason in REASONS}


def _skip_reason(judge: FixedRubricJudge, pair: SampledPair) -> str | None:
    """Why a pair is not judged; None if it is."""
    first, second = pair.answers
    if not judge.has_rubric(pair.request.prompt_id):
        return "rubric does not parse"
    if "length" in (first.finish_reason, second.finish_reason):
        return "truncated"  # as a chosen answer it would teach not to end
    return "same answer twice" if first.text == second.text else None


def _outcome(verdict: Verdict) -> tuple[str, int | None]:
    """The outcome of a judged pair and, where it is kept, the index of the better answer."""
    if verdict.agreed is not None:
        return "kept", "AB".index(verdict.agreed)
    if not verdict.winners:
        return "too long for the judge", None
    return ("no verdict" if None in verdict.winners else "orders disagree"), None
