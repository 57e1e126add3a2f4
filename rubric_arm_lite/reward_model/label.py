"""Label preference data at scale: prompts with several responses in, pairs of chosen and rejected out.

Every two different responses of a row are judged in both orders under one rubric per prompt. A pair is kept only if
both orders name the same response (paper, sec. 4.3) or, on request, wherever there is a majority. A journal beside the
output holds the results until the output is complete, so a killed job resumes after its last whole batch and ends with
the same file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from rubric_arm_lite.data import prompt_as_json
from rubric_arm_lite.data.pairs import load_responses
from rubric_arm_lite.errors import CheckpointError, DataError
from rubric_arm_lite.prompts import parse_rubric, prompt_hash
from rubric_arm_lite.reward_model.judge import check_compares, given_rubric
from rubric_arm_lite.reward_model.model import Case, RubricRewardModel
from rubric_arm_lite.reward_model.verdict import Verdict, is_skipped
from rubric_arm_lite.runs import IfExists, Journal, atomic_write, check_target, explained_disk_errors
from rubric_arm_lite.types import Comparison, Rubric, Side

Reason = Literal["kept", "orders disagree", "no verdict", "rubric unusable", "too long", "equal responses"]
"""Outcome of a pair; ``no verdict`` also where only one order has a majority."""


@dataclass(frozen=True, slots=True)
class LabelingState:
    """Progress and result of a labeling job.

    Attributes:
        done: pairs with a result, of ``total``; those of earlier attempts included.
        judged, seconds, tokens, rubrics: pairs judged, time without loading, tokens sampled and rubrics written by this
            process; the pairs of one prompt share a rubric.
        reasons: number of pairs by outcome, once all are done.
    """

    done: int
    total: int
    judged: int = 0
    seconds: float = 0.0
    tokens: int = 0
    rubrics: int = 0
    reasons: Mapping[Reason, int] = field(default_factory=dict)


class _Result(TypedDict, total=False):
    """The journal's row of a pair; a field that is missing is named where it is read."""

    reason: Literal["orders disagree", "no verdict", "rubric unusable", "too long", "equal responses"]
    rubric: str
    agreed: Side | None
    winner: Side | None
    confidence_a: float
    confidence_b: float


_RESULTS = TypeAdapter(list[_Result])
_Pair = tuple[Comparison, Rubric | None]
"""Two responses of a row, under their id in the output, and the row's rubric, if it has one."""


def label_responses(
    source: Path,
    target: Path,
    load: Callable[[], RubricRewardModel],
    votes: int = 1,
    keep_all: bool = False,
    batch_size: int = 64,
    if_exists: IfExists = "resume",
    watch: Callable[[LabelingState], None] = lambda state: None,
) -> LabelingState:
    """Label a file of responses into a file of pairs, in the order of the input.

    Args:
        load: makes the reward model; called after the input has been read and the output has been checked.
        keep_all: keep a pair wherever the majority over both orders names a response, even if the orders disagree or
            one has no verdict.
        batch_size: pairs between two writes of the journal: the most work that a kill loses.
        if_exists: ``resume`` continues an unfinished journal and refuses a finished output; ``overwrite`` starts
            over; ``raise`` refuses both.
        watch: called with the state after every batch.

    Raises:
        DataError: if a row cannot be used or the output exists; nothing has been judged then.
        CheckpointError: if the journal belongs to another job, or the disk is full.
        ConfigError: if the judge does not compare.
    """
    if batch_size < 1 or votes < 1:
        raise DataError(f"--batch {batch_size}, --votes {votes}: use at least 1.")
    pairs, data = _pairs(source), hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    part = target.parent / f"{target.name}.part"
    # A journal beside a finished output: the job was killed between writing the output and removing the journal, or an
    # earlier output is being replaced. Either way the job can be resumed.
    unfinished = if_exists == "resume" and part.exists()
    check_target(source, target, if_exists == "overwrite" or unfinished, "--if-exists overwrite", journal=True)
    model = load()
    check_compares(model.recipe)
    # Everything that the labels depend on; batches too, since they decide padding and so rounding.
    job = {"input": data, **model.identity(votes), "batch": batch_size}
    with (
        explained_disk_errors(target.parent, "repeat the command; what was judged is kept"),
        Journal.open(part, job, if_exists) as journal,
    ):
        rows, state = _judge(pairs, journal, model, votes, batch_size, watch)
        kept, reasons = _output(pairs, rows, keep_all)
        atomic_write(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode())
        part.unlink()
    return replace(state, reasons=dict(reasons))


def _pairs(source: Path) -> list[_Pair]:
    """Every two responses of every row."""
    pairs: dict[str, _Pair] = {}
    for row in load_responses(source, "response_a", "response_b", listed="responses"):
        rubric = None if row.rubric is None else given_rubric(row.rubric, f"{source}, row {row.set_id}")
        for (i, a), (j, b) in combinations(enumerate(row.responses, start=1), 2):
            key = row.set_id if len(row.responses) == 2 else f"{row.set_id}/{i}-{j}"
            if key in pairs:
                raise DataError(f"{source}: two pairs have the id {key!r}. Give its rows ids that do not end in /1-2.")
            pairs[key] = Comparison(key, row.prompt, a, b), rubric
    return list(pairs.values())


def _judge(
    pairs: Sequence[_Pair],
    journal: Journal,
    model: RubricRewardModel,
    votes: int,
    batch_size: int,
    watch: Callable[[LabelingState], None],
) -> tuple[list[dict[str, Any]], LabelingState]:
    """The judge's row of every pair; those that the journal has are not judged again."""
    for batch in journal.rows.values():
        try:
            _RESULTS.validate_python(batch["results"], strict=True)
        except ValidationError as error:
            place = ".".join(["results", *map(str, error.errors()[0]["loc"])])
            raise CheckpointError(
                f"{getattr(batch, 'where', journal.path)}: `{place}` is no value of a label. Restore it, or start "
                "anew with --if-exists overwrite."
            ) from error
    earlier = [row for batch in journal.rows.values() for row in batch["results"]]
    rubrics: dict[str, Rubric] = {}
    for (comparison, rubric), row in zip(pairs, earlier, strict=False):  # a prompt keeps its rubric over a kill
        written = parse_rubric(str(row.get("rubric") or ""))
        if rubric is None and written.usable:
            rubrics[prompt_hash(comparison.prompt)] = written
    started, tokens, misses, judged = time.monotonic(), model.model.tokens_written, model.cache.misses, 0
    state = LabelingState(len(earlier), len(pairs))
    watch(state)

    def judge(batch: Sequence[_Pair]) -> list[dict[str, Any]]:
        nonlocal judged
        differing = [(c, rubric) for c, rubric in batch if c.response_a != c.response_b]
        cases: list[Case] = [
            (c.prompt, c.response_a, c.response_b, rubric or rubrics.get(prompt_hash(c.prompt)))
            for c, rubric in differing
        ]
        verdicts = iter(model.compare_many(cases, votes, too_long="skip"))
        judged += len(differing)
        return [_row(next(verdicts) if c.response_a != c.response_b else None) for c, _ in batch]

    def report(done: int) -> None:
        nonlocal state
        seconds, written = time.monotonic() - started, model.model.tokens_written - tokens
        state = LabelingState(done, len(pairs), judged, seconds, written, model.cache.misses - misses)
        watch(state)

    return journal.map(judge, pairs, batch_size, report), state


def _row(verdict: Verdict | None) -> dict[str, Any]:
    """The journal's row of a pair; its verdict is None for equal responses."""
    if verdict is None:
        return {"reason": "equal responses"}
    if not verdict.winners:
        return {"reason": "too long" if is_skipped(verdict) else "rubric unusable", "rubric": verdict.rubric.text}
    return {
        "rubric": verdict.rubric.text,
        "agreed": verdict.agreed,
        "winner": verdict.winner,
        "confidence_a": verdict.share("A"),
        "confidence_b": verdict.share("B"),
        "reason": "no verdict" if verdict.orders_won("A") + verdict.orders_won("B") < 2 else "orders disagree",
    }


def _output(
    pairs: Sequence[_Pair], rows: Sequence[Mapping[str, Any]], keep_all: bool
) -> tuple[list[dict[str, Any]], Counter[Reason]]:
    """The rows of the pairs that are kept, in order, and the number of pairs by outcome."""
    reasons: Counter[Reason] = Counter()
    kept = []
    for (comparison, _), row in zip(pairs, rows, strict=True):
        side: Side | None = None
        if row["reason"] in ("orders disagree", "no verdict"):  # it was judged
            side = row["agreed"] or (row["winner"] if keep_all else None)
        reasons["kept" if side else row["reason"]] += 1
        if side:
            ordered = comparison if side == "A" else comparison.swapped()
            kept.append(
                {
                    "id": comparison.comparison_id,
                    "prompt": prompt_as_json(ordered.prompt),
                    "chosen": ordered.response_a,
                    "rejected": ordered.response_b,
                    "rubric": row["rubric"],
                    "confidence": row[f"confidence_{side.lower()}"],
                    "orders_agree": row["agreed"] is not None,
                }
            )
    return kept, reasons
