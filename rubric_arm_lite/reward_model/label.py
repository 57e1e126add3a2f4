"""Label preference data at scale: prompts with several responses in, pairs of chosen and rejected out.

Every two different responses of a row are judged in both orders under one rubric per prompt. A pair is kept only if
both orders name the same response (paper, sec. 4.3), or, if asked for, wherever there is a majority at all. What was
judged is in a journal beside the output until that is complete, so a killed job goes on after its last whole batch
and ends with the same file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from rubric_arm_lite.data import prompt_as_json
from rubric_arm_lite.data.pairs import load_responses
from rubric_arm_lite.errors import CheckpointError, DataError
from rubric_arm_lite.models import Sampler
from rubric_arm_lite.prompts import parse_rubric, prompt_hash
from rubric_arm_lite.reward_model.judge import check_compares, given_rubric
from rubric_arm_lite.reward_model.model import Case, RubricRewardModel
from rubric_arm_lite.reward_model.verdict import Verdict
from rubric_arm_lite.runs import IfExists, Journal, atomic_write
from rubric_arm_lite.types import ParseStatus, Prompt, Rubric, Side

Reason = Literal["kept", "orders disagree", "no verdict", "rubric unusable", "too long", "equal responses"]
"""What became of a pair; ``no verdict`` also where only one order has one."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """How a job stands.

    Attributes:
        done: pairs with a result, those of earlier attempts included; of ``total``.
        judged: pairs judged by this process.
        seconds: that it took, loading left out.
        tokens: that were written.
        rubrics: written by this process; pairs of one prompt share one.
        reasons: pairs by what became of them, once all are done.
    """

    done: int
    total: int
    judged: int = 0
    seconds: float = 0.0
    tokens: int = 0
    rubrics: int = 0
    reasons: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def pairs_per_second(self) -> float:
        """Of this process."""
        return self.judged / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of this process."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two responses of a row; ``key`` is its id in the output."""

    key: str
    prompt: Prompt
    a: str
    b: str
    rubric: Rubric | None


def label(
    source: Path,
    target: Path,
    load: Callable[[], RubricRewardModel],
    votes: int = 1,
    keep_all: bool = False,
    batch_size: int = 64,
    if_exists: IfExists = "resume",
    watch: Callable[[Labelled], None] = lambda labelled: None,
) -> Labelled:
    """Label a file of responses into a file of pairs, in the order of the input.

    Args:
        load: makes the reward model; called once the input has been read and the output may be written.
        keep_all: keep a pair wherever the majority over both orders names a response: also where one order has no
            verdict, which the both-order filter leaves out.
        batch_size: pairs between two writes of the journal, the most that a kill costs.
        if_exists: ``resume`` goes on with an unfinished journal and refuses a finished output; ``overwrite`` starts
            anew; ``raise`` refuses both.
        watch: told after every batch.

    Raises:
        DataError: if a row cannot be used; nothing has been judged then.
        CheckpointError: if the output exists, or the journal belongs to another job.
        ConfigError: if the judge does not compare.
    """
    if batch_size < 1 or votes < 1:
        raise DataError(f"--batch {batch_size}, --votes {votes}: use at least 1.")
    pairs = _pairs(source)
    part = target.with_name(f"{target.name}.part")
    _check_target(source, target, part, if_exists)
    model = load()
    check_compares(model.recipe)
    with Journal.open(part, _job(source, model, votes, batch_size), if_exists) as journal:
        found = _judge(pairs, journal, model, source, votes, batch_size, watch)
        rows, reasons = _output(pairs, journal.rows, keep_all)
        atomic_write(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        part.unlink()
    return Labelled(found.done, found.total, found.judged, found.seconds, found.tokens, found.rubrics, dict(reasons))


def _check_target(source: Path, target: Path, part: Path, if_exists: IfExists) -> None:
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder. Name the file to write.")
    if target.exists() and target.samefile(source):
        raise DataError(f"{target} is also the input. Choose another file to write.")
    # With a journal beside it the job was killed between writing the output and removing the journal, or an earlier
    # output is being replaced: either way there is work to go on with.
    unfinished = if_exists == "resume" and part.exists()
    if target.exists() and if_exists != "overwrite" and not unfinished:
        raise CheckpointError(f"{target} exists. Name another file, or start anew with --if-exists overwrite.")


def _pairs(source: Path) -> list[_Pair]:
    """Every two responses of every row."""
    found: dict[str, _Pair] = {}
    for one in load_responses(source):
        rubric = None if one.rubric is None else given_rubric(one.rubric, f"{source}, row {one.set_id}")
        count = len(one.responses)
        for i, j in combinations(range(count), 2):
            key = one.set_id if count == 2 else f"{one.set_id}/{i + 1}-{j + 1}"
            if key in found:
                raise DataError(
                    f"{source}: two pairs would be called {key!r}. Give its rows ids that do not end in /1-2."
                )
            found[key] = _Pair(key, one.prompt, one.responses[i], one.responses[j], rubric)
    return list(found.values())


def _job(source: Path, model: RubricRewardModel, votes: int, batch_size: int) -> dict[str, Any]:
    """What decides the rows of the journal. Batches are part of it: they decide how texts are padded and rounded."""
    sampler: Sampler = model.model
    templates = model.prompts.templates
    asked = json.dumps([templates.rubric, templates.judge, model.recipe.evaluation.model_dump(), model.recipe.seed])
    return {
        "input": hashlib.sha256(source.read_bytes()).hexdigest()[:16],
        "rubric": sampler.fingerprint("rubric"),
        "judge": sampler.fingerprint("judge"),
        "asked": hashlib.sha256(asked.encode()).hexdigest()[:16],
        "votes": votes,
        "batch": batch_size,
    }


def _judge(
    pairs: Sequence[_Pair],
    journal: Journal,
    model: RubricRewardModel,
    source: Path,
    votes: int,
    batch_size: int,
    watch: Callable[[Labelled], None],
) -> Labelled:
    """Judge what is not in the journal yet, batch by batch."""
    rubrics = _rubrics_so_far(pairs, journal.rows)
    started, tokens = time.monotonic(), model.model.tokens_written
    judged, rubrics_before = 0, model.cache.misses
    state = Labelled(len(journal.rows), len(pairs))
    watch(state)
    for start in range(0, len(pairs), batch_size):
        batch = [pair for pair in pairs[start : start + batch_size] if pair.key not in journal.rows]
        asked = [pair for pair in batch if pair.a != pair.b]
        cases: list[Case] = [
            (pair.prompt, pair.a, pair.b, pair.rubric or rubrics.get(prompt_hash(pair.prompt))) for pair in asked
        ]
        names = [f"{source}, pair {pair.key}" for pair in asked]
        verdicts = dict(
            zip(
                (pair.key for pair in asked),
                model.compare_many(cases, votes, names, too_long="leave"),
                strict=True,
            )
        )
        journal.add([(pair.key, _row(verdicts.get(pair.key))) for pair in batch])
        judged += len(asked)
        seconds = time.monotonic() - started
        written = model.model.tokens_written - tokens
        state = Labelled(len(journal.rows), len(pairs), judged, seconds, written, model.cache.misses - rubrics_before)
        if batch:
            watch(state)
    return state


def _rubrics_so_far(pairs: Sequence[_Pair], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Rubric]:
    """The rubrics that an earlier attempt's pairs were judged under: a prompt keeps its rubric over a kill."""
    found: dict[str, Rubric] = {}
    for pair in pairs:
        if pair.key in rows and pair.rubric is None:
            rubric = parse_rubric(str(rows[pair.key].get("rubric") or ""))
            if rubric.usable:
                found[prompt_hash(pair.prompt)] = rubric
    return found


def _row(verdict: Verdict | None) -> dict[str, Any]:
    """What the journal keeps of a pair; None stands for equal responses."""
    if verdict is None:
        return {"reason": "equal responses"}
    if not verdict.winners:
        # Nothing is judged without a usable rubric; one cut before its first word is that of a prompt too long for it.
        cut = verdict.rubric.status is ParseStatus.TRUNCATED and not verdict.rubric.text
        too_long = verdict.rubric.usable or cut
        return {"reason": "too long" if too_long else "rubric unusable", "rubric": verdict.rubric.text}
    return {
        "rubric": verdict.rubric.text,
        "agreed": verdict.agreed,
        "winner": verdict.winner,
        "confidence_a": verdict.share("A"),
        "confidence_b": verdict.share("B"),
        "reason": "no verdict" if verdict.orders_won("A") + verdict.orders_won("B") < 2 else "orders disagree",
    }


def _output(
    pairs: Sequence[_Pair], rows: Mapping[str, Mapping[str, Any]], keep_all: bool
) -> tuple[list[dict[str, Any]], Counter[Reason]]:
    """The pairs that are kept, in order, and what became of all."""
    reasons: Counter[Reason] = Counter()
    kept = []
    for pair in pairs:
        row = rows[pair.key]
        side: Side | None = None
        if row["reason"] in ("orders disagree", "no verdict"):  # it was judged
            side = row["agreed"] or (row["winner"] if keep_all else None)
        reasons["kept" if side else row["reason"]] += 1
        if side:
            chosen, rejected = (pair.a, pair.b) if side == "A" else (pair.b, pair.a)
            kept.append(
                {
                    "id": pair.key,
                    "prompt": prompt_as_json(pair.prompt),
                    "chosen": chosen,
                    "rejected": rejected,
                    "rubric": row["rubric"],
                    "confidence": row[f"confidence_{side.lower()}"],
                    "orders_agree": row["agreed"] is not None,
                }
            )
    return kept, reasons
