"""Preference pairs of a policy's own answers: two samples per request, labeled by the reward model (paper, sec. 4.3).

A pair is kept only if the reward model prefers the same answer in both orders; the others are counted by reason. Both
jobs write a journal in batches. A killed job resumes with whole batches, so a text's batch never depends on the kill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rubric_arm_lite.models import Sampler, Sampling
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.recipe import AnswerSettings, derive_seed
from rubric_arm_lite.reward_model import Verdict
from rubric_arm_lite.runs import Journal
from rubric_arm_lite.training.policy.judges import FixedRubricJudge, Request
from rubric_arm_lite.types import Example

BATCH = 64
"""Requests that are sampled or judged in one call."""
REASONS = (
    "kept",
    "orders disagree",
    "no verdict",
    "same answer twice",
    "truncated",
    "rubric does not parse",
    "too long for the judge",
)
Item = TypeVar("Item")
Progress = Callable[[int, int], None]
"""Called with the numbers of items done and in all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer; ``truncated`` if it reached the length limit."""

    text: str
    token_ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class SampledPair:
    """Two answers to one request."""

    request: Request
    prompt_ids: tuple[int, ...]
    answers: tuple[Answer, Answer]


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A pair for DPO, as the token ids that were sampled."""

    prompt_id: str
    prompt_ids: tuple[int, ...]
    chosen: Answer
    rejected: Answer


def batches(items: Sequence[Item]) -> Iterator[tuple[str, Sequence[Item]]]:
    """The items in batches of :data:`BATCH`, each with the key of its journal row."""
    for start in range(0, len(items), BATCH):
        yield f"from {start}", items[start : start + BATCH]


def sample_pairs(
    sampler: Sampler,
    prompts: PromptBuilder,
    requests: Sequence[Request],
    settings: AnswerSettings,
    seed: int,
    file: Path,
    job: Mapping[str, Any],
    progress: Progress,
) -> list[SampledPair]:
    """Two answers of the adapter ``policy`` to every request, through the journal ``file``."""
    sampling = Sampling(settings.max_completion_length, 2, settings.temperature)

    def sample(batch: Sequence[Request]) -> dict[str, Any]:
        examples = [Example(r.prompt_id, prompts.policy_prompt(r.text), derive_seed(seed, r.prompt_id)) for r in batch]
        pairs = [
            {
                "prompt_id": group.example.example_id,
                "prompt_ids": list(group.prompt_ids),
                "answers": [
                    {"text": s.text, "token_ids": list(s.token_ids), "truncated": s.finish_reason == "length"}
                    for s in group.samples
                ],
            }
            for group in sampler.sample("policy", examples, sampling)
        ]
        return {"pairs": pairs}

    sampled: list[SampledPair] = []
    for batch, row in _journaled(requests, sample, file, job, progress):
        for request, pair in zip(batch, row["pairs"], strict=True):
            first, second = (Answer(a["text"], tuple(a["token_ids"]), bool(a["truncated"])) for a in pair["answers"])
            sampled.append(SampledPair(request, tuple(pair["prompt_ids"]), (first, second)))
    return sampled


def label_pairs(
    judge: FixedRubricJudge, sampled: Sequence[SampledPair], file: Path, job: Mapping[str, Any], progress: Progress
) -> tuple[list[TrainingPair], Counter[str]]:
    """The kept pairs, the better answer as chosen, and the number of pairs by outcome."""
    kept: list[TrainingPair] = []
    reasons: Counter[str] = Counter()
    for batch, row in _journaled(sampled, lambda pairs: {"labels": _label(judge, pairs)}, file, job, progress):
        for pair, (reason, better) in zip(batch, row["labels"], strict=True):
            reasons[reason] += 1
            if better is not None:
                chosen, rejected = pair.answers[better], pair.answers[1 - better]
                kept.append(TrainingPair(pair.request.prompt_id, pair.prompt_ids, chosen, rejected))
    return kept, reasons


def _journaled(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Mapping[str, Any]],
    file: Path,
    job: Mapping[str, Any],
    progress: Progress,
) -> Iterator[tuple[Sequence[Item], Mapping[str, Any]]]:
    """Batches of items with their rows of the journal ``file``; ``work`` makes the rows that are missing."""
    done = 0
    with Journal.open(file, job) as journal:
        for key, batch in batches(items):
            if key not in journal.rows:
                journal.add([(key, work(batch))])
            yield batch, journal.rows[key]
            done += len(batch)
            progress(done, len(items))


def _label(judge: FixedRubricJudge, pairs: Sequence[SampledPair]) -> list[tuple[str, int | None]]:
    """Outcome of each pair and, where it is kept, the index of the better answer."""
    skipped = [_skip_reason(judge, pair) for pair in pairs]
    judged = [pair for pair, reason in zip(pairs, skipped, strict=True) if reason is None]
    verdicts = iter(judge.verdicts([p.request.comparison(*(a.text for a in p.answers)) for p in judged]))
    return [_outcome(next(verdicts)) if reason is None else (reason, None) for reason in skipped]


def _skip_reason(judge: FixedRubricJudge, pair: SampledPair) -> str | None:
    """Why a pair is not judged; None if it is."""
    first, second = pair.answers
    if not judge.has_rubric(pair.request.prompt_id):
        return "rubric does not parse"
    if first.truncated or second.truncated:
        return "truncated"  # as a chosen answer it would teach not to end
    return "same answer twice" if first.text == second.text else None


def _outcome(verdict: Verdict) -> tuple[str, int | None]:
    if verdict.agreed is not None:
        return "kept", 0 if verdict.agreed == "A" else 1
    if not verdict.winners:
        return "too long for the judge", None
    return ("no verdict" if None in verdict.winners else "orders disagree"), None
