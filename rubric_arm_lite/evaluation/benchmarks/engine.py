"""The one engine under all benchmarks: every duel judged in both orders, one rubric per prompt, row by row to disk.

Items go in batches of whole prompts to the reward model, which writes a rubric where its cache has none and judges
the batch at once. After each batch its rows are in the journal: a killed evaluation asks only what is not there, and
as seeds derive from the texts, it ends with the numbers of one that was never killed. What was under way in the batch
that was killed is asked again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rubric_arm_lite.data import load_pairs
from rubric_arm_lite.data.sources import open_rows
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluation.benchmarks.catalogue import Benchmark
from rubric_arm_lite.evaluation.benchmarks.scoring import Answer, Item, Outcome
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import RubricRewardModel, Verdict
from rubric_arm_lite.runs import Journal
from rubric_arm_lite.types import ParseStatus, Side

BATCH_DUELS = 64
"""Duels per batch, each judged in two orders: what a kill can cost, and enough for a backend to fill its memory."""
JUDGED, NO_RUBRIC, TOO_LONG = "judged", "no rubric", "too long"
"""What became of an item: only the first has verdicts, the second counts as without one, the third is left out."""
Watch = Callable[[int, int], None]
"""Called with the items done and all items after each batch."""


def judge_items(
    model: RubricRewardModel,
    items: Sequence[Item],
    journal: Journal,
    votes: int,
    watch: Watch | None = None,
    batch_duels: int = BATCH_DUELS,
) -> None:
    """Judge the items that are not in the journal yet and add them.

    Args:
        votes: judgements per duel and order; one at the recipe's judge temperature, more are sampled.
    """
    todo = [item for item in items if item.item_id not in journal.rows]
    done = len(items) - len(todo)
    for batch in batches(todo, batch_duels):
        journal.add(_judge(model, batch, votes))
        done += len(batch)
        if watch is not None:
            watch(done, len(items))


def batches(items: Sequence[Item], duels: int) -> Iterator[list[Item]]:
    """Items grouped by prompt, in batches of about so many duels; a batch ends with a prompt unless that has more."""
    by_prompt: dict[str, list[Item]] = {}
    for item in items:
        by_prompt.setdefault(prompt_hash(item.prompt), []).append(item)
    batch: list[Item] = []
    for group in by_prompt.values():
        if batch and _duels(batch) + _duels(group) > duels:
            yield batch
            batch = []
        for item in group:
            if batch and _duels(batch) + len(item.duels) > duels:
                yield batch
                batch = []
            batch.append(item)
    if batch:
        yield batch


def _duels(items: Sequence[Item]) -> int:
    return sum(len(item.duels) for item in items)


def _judge(model: RubricRewardModel, batch: Sequence[Item], votes: int) -> list[tuple[str, dict[str, Any]]]:
    started, tokens = time.perf_counter(), model.model.tokens_written
    duels = [(item, first, second) for item in batch for first, second in item.duels]
    cases = [(item.prompt, item.responses[first], item.responses[second], None) for item, first, second in duels]
    names = [item.where or item.item_id for item, _, _ in duels]
    verdicts = iter(model.compare_many(cases, votes, names, too_long="leave"))
    rows = [(item.item_id, _row(item, [next(verdicts) for _ in item.duels])) for item in batch]
    # What a batch took is shared out by duels; sums and means over a benchmark are those of its batches.
    share = 1 / len(duels)
    seconds, tokens = time.perf_counter() - started, model.model.tokens_written - tokens
    for (_, row), item in zip(rows, batch, strict=True):
        row["seconds"] = seconds * share * len(item.duels)
        row["tokens"] = tokens * share * len(item.duels)
    return rows


def _row(item: Item, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    rubric = verdicts[0].rubric
    judged = all(verdict.original for verdict in verdicts)
    # A prompt that does not fit has an empty rubric that is called cut; a usable one means that a response did not fit.
    too_long = rubric.usable or (rubric.status is ParseStatus.TRUNCATED and not rubric.text)
    status = JUDGED if judged else TOO_LONG if too_long else NO_RUBRIC
    return {
        "status": status,
        "prompt": prompt_hash(item.prompt),
        "subset": item.subset,
        "rubric": _storable(rubric.text),
        "rubric_status": rubric.status.value,
        "duels": [_duel(item.duels[i], verdict) for i, verdict in enumerate(verdicts)] if judged else [],
    }


def _duel(places: tuple[int, int], verdict: Verdict) -> dict[str, Any]:
    """What was said of two responses; verdicts are given as the place of the response they name, or null."""
    votes = len(verdict.original)

    def named(sides: Sequence[Side | None]) -> list[int | None]:
        return [None if side is None else places[0] if side == "A" else places[1] for side in sides]

    return {
        "responses": list(places),
        "original": named(verdict.winners[:votes]),
        "flipped": named(verdict.winners[votes:]),
        "judgements": [_storable(judgement.text) for judgement in verdict.original],
        "judgements_flipped": [_storable(judgement.text) for judgement in verdict.swapped],
    }


def _storable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def answer_of(item: Item, row: Mapping[str, Any]) -> Answer:
    """What a row of the journal says of its item; no votes at all where nothing was judged."""
    if not row["duels"]:
        nothing: tuple[tuple[Outcome, ...], ...] = ((),) * len(item.duels)
        return Answer(nothing, nothing)

    def outcomes(order: str) -> tuple[tuple[Outcome, ...], ...]:
        return tuple(
            tuple(None if place is None else place == first for place in duel[order])
            for duel, (first, _) in zip(row["duels"], item.duels, strict=True)
        )

    return Answer(outcomes("original"), outcomes("flipped"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read of a benchmark.

    Attributes:
        items: those to judge, in the source's order.
        available: how many items there are without a limit.
        rows: rows read.
        skipped: rows that ask nothing.
        digest: hash of everything that the judge and the scoring see.
    """

    items: tuple[Item, ...]
    available: int
    rows: int
    skipped: int
    digest: str


def load(benchmark: Benchmark, source: str | Path | None = None, limit: int | None = None) -> Loaded:
    """Read a benchmark from its Hub id or, if given, a local file or folder.

    Args:
        limit: at most this many items, drawn by their ids alone, so that every subset is met as often as it occurs.

    Raises:
        DataError: if there is no source, or for the first row that cannot be used.
    """
    found: list[Item] = []
    rows = skipped = 0
    for items in _read(benchmark, source or benchmark.source):
        rows += 1
        skipped += not items
        found += items
    if not found:
        raise DataError(f"{source or benchmark.source}: none of {rows} rows asks anything of a judge.")
    return _loaded(found, rows, skipped, limit)


def load_pair_file(path: Path, limit: int | None = None) -> Loaded:
    """Read a user's own pairs: prompt, chosen, rejected, and optional id and subset.

    Raises:
        DataError: for the first row that cannot be used.
    """
    items = [
        Item(pair.pair_id, pair.prompt, (pair.chosen, pair.rejected), subset=pair.subset) for pair in load_pairs(path)
    ]
    return _loaded(items, len(items), 0, limit)


def _read(benchmark: Benchmark, source: str | Path | None) -> Iterator[list[Item]]:
    """The items of each row."""
    if source is None:
        raise DataError(
            f"{benchmark.title} has no data set of its own on the Hub. Name your copy: "
            f"--benchmark-dir {benchmark.name}=FOLDER."
        )
    if Path(source).is_file():
        reads = {part.read for part in benchmark.parts}
        if len(reads) > 1:
            names = ", ".join(str(part.config) for part in benchmark.parts)
            raise DataError(f"{source} is a file. Give the folder of {benchmark.title} that holds {names}.")
        for row in open_rows(source):
            yield benchmark.parts[0].read(row)
        return
    for part in benchmark.parts:
        for row in open_rows(source, config=part.config, split=part.split):
            yield part.read(row)


def _loaded(found: Sequence[Item], rows: int, skipped: int, limit: int | None) -> Loaded:
    items = list(_numbered(found))
    if limit is not None and limit < len(items):
        chosen = sorted(items, key=lambda item: derive_seed("benchmark sample", item.item_id))[:limit]
        kept = {item.item_id for item in chosen}
        items = [item for item in items if item.item_id in kept]
    return Loaded(tuple(items), len(found), rows, skipped, _digest(items))


def _numbered(found: Sequence[Item]) -> Iterator[Item]:
    """The items with unique ids: the second of a name is called ``name#2``."""
    seen: Counter[str] = Counter()
    for item in found:
        seen[item.item_id] += 1
        count = seen[item.item_id]
        name = item.item_id if count == 1 else f"{item.item_id}#{count}"
        while count > 1 and seen[name]:  # somebody is called that already
            count += 1
            name = f"{item.item_id}#{count}"
        if name != item.item_id:
            seen[name] += 1
        yield replace(item, item_id=name)


def _digest(items: Sequence[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        # JSON keeps the parts apart
        parts = [item.item_id, prompt_hash(item.prompt), item.responses, item.duels, item.subset]
        digest.update(json.dumps(parts).encode() + b"\n")
    return digest.hexdigest()[:16]
