"""The items of a benchmark from its source: unique ids, a seeded sample if fewer are wanted, and a digest of all."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rubric_arm_lite.benchmarks.catalogue import Benchmark
from rubric_arm_lite.benchmarks.items import Item
from rubric_arm_lite.data import load_pairs
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.sources.opening import open_rows


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
