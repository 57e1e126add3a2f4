"""Judges the duels of benchmark items in both orders, with one rubric per prompt, and keeps every row on disk.

Items go to the reward model in batches of whole prompts. After each batch its rows are in the journal: an evaluation
that was killed judges only what is not there and, as seeds derive from the texts, ends with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rubric_arm_lite.evaluation.benchmarks.scoring import Answer, Item, Outcome
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.reward_model import RubricRewardModel, Verdict, is_skipped
from rubric_arm_lite.runs import Journal
from rubric_arm_lite.types import Side

BATCH_DUELS = 64
"""Duels per batch, each judged in two orders: what a kill can cost, and enough for a backend to fill its memory."""
JUDGED, NO_RUBRIC, TOO_LONG = "judged", "no rubric", "too long"
"""Status of an item: only the first has verdicts, the second counts as unparsed, the third is skipped."""


def judge_items(
    model: RubricRewardModel,
    items: Sequence[Item],
    journal: Journal,
    votes: int,
    progress: Callable[[int, int], None] | None = None,
    batch_duels: int = BATCH_DUELS,
) -> None:
    """Judge the items that are not in the journal yet and add them.

    Args:
        votes: judgements per duel and order; one at the recipe's judge temperature, more are sampled.
        progress: called with the items done and all items after each batch.
    """
    todo = [item for item in items if item.item_id not in journal.rows]
    done = len(items) - len(todo)
    for batch in batches(todo, batch_duels):
        journal.add(_judge(model, batch, votes))
        done += len(batch)
        if progress is not None:
            progress(done, len(items))


def batches(items: Sequence[Item], duels: int) -> Iterator[list[Item]]:
    """Items grouped by prompt, in batches of about so many duels; a prompt is split only if it has more by itself."""
    by_prompt: dict[str, list[Item]] = {}
    for item in items:
        by_prompt.setdefault(prompt_hash(item.prompt), []).append(item)
    batch: list[Item] = []
    size = 0
    for group in by_prompt.values():
        whole = sum(len(item.duels) for item in group)
        for item in group:
            if batch and size + (whole if item is group[0] else len(item.duels)) > duels:
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(item.duels)
    if batch:
        yield batch


def _judge(model: RubricRewardModel, batch: Sequence[Item], votes: int) -> list[tuple[str, dict[str, Any]]]:
    """Judge a batch: the journal's row of each item under its id."""
    started, tokens = time.perf_counter(), model.model.tokens_written
    duels = [(item, first, second) for item in batch for first, second in item.duels]
    cases = [(item.prompt, item.responses[first], item.responses[second], None) for item, first, second in duels]
    names = [item.where or item.item_id for item, _, _ in duels]
    verdicts = iter(model.compare_many(cases, votes, names, too_long="skip"))
    rows = [(item.item_id, _row(item, [next(verdicts) for _ in item.duels])) for item in batch]
    # Each duel takes an equal share of its batch, so that sums and means over a benchmark are those of its batches.
    share = 1 / len(duels)
    seconds, tokens = time.perf_counter() - started, model.model.tokens_written - tokens
    for (_, row), item in zip(rows, batch, strict=True):
        row["seconds"] = seconds * share * len(item.duels)
        row["tokens"] = tokens * share * len(item.duels)
    return rows


def _row(item: Item, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    rubric = verdicts[0].rubric
    judged = all(verdict.original for verdict in verdicts)
    return {
        "status": JUDGED if judged else TOO_LONG if any(map(is_skipped, verdicts)) else NO_RUBRIC,
        "prompt": prompt_hash(item.prompt),
        "subset": item.subset,
        "rubric": _storable(rubric.text),
        "rubric_status": rubric.status.value,
        "duels": [_duel(*pair) for pair in zip(item.duels, verdicts, strict=True)] if judged else [],
    }


def _duel(responses: tuple[int, int], verdict: Verdict) -> dict[str, Any]:
    """Texts and verdicts of one duel; a verdict is the index of the response that it names, or null."""
    votes = len(verdict.original)

    def named(sides: Sequence[Side | None]) -> list[int | None]:
        return [None if side is None else responses["AB".index(side)] for side in sides]

    return {
        "responses": list(responses),
        "original": named(verdict.winners[:votes]),
        "swapped": named(verdict.winners[votes:]),
        "judgements": [_storable(judgement.text) for judgement in verdict.original],
        "judgements_swapped": [_storable(judgement.text) for judgement in verdict.swapped],
    }


def _storable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def answer_of(item: Item, row: Mapping[str, Any]) -> Answer:
    """The answer in an item's row of the journal."""

    def outcomes(order: str) -> tuple[tuple[Outcome, ...], ...]:
        return tuple(
            tuple(None if index is None else index == first for index in duel[order])
            for duel, (first, _) in zip(row["duels"], item.duels, strict=True)
        )

    no_votes: tuple[tuple[Outcome, ...], ...] = ((),) * len(item.duels)
    return Answer(outcomes("original"), outcomes("swapped")) if row["duels"] else Answer(no_votes, no_votes)
