"""Reads the rows of a source into items: the one place where rows are selected, counted and skipped.

A recipe's :class:`~rubric_arm_lite.recipe.fields.SourceSettings` enter; selected items and their :class:`.Counts`
leave.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Generic, TypeVar

from rubric_arm_lite.data.counts import BadRows, Counts, sorted_reasons
from rubric_arm_lite.data.decontaminate import Decontaminator
from rubric_arm_lite.data.formats import (
    Format,
    LabeledPair,
    RowIds,
    SkippedRow,
    known_format,
    named_format,
    read_pair,
    recognized_format,
)
from rubric_arm_lite.data.rows import Row, RowError
from rubric_arm_lite.data.sources import open_rows, was_saved
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import DataSettings, SourceSettings, derive_seed
from rubric_arm_lite.types import PreferencePair, Prompt

Item = TypeVar("Item")


class SourceReader(Generic[Item]):
    """Reads one source.

    Args:
        seed: draws the sample.
        decontaminator: prompts of benchmarks that must not be trained on.
        held_out: ids of prompts that must not be trained on.
        bad: gathers rows that cannot be used, which are then skipped; without it the first one is an error.
    """

    def __init__(
        self,
        settings: SourceSettings,
        seed: int,
        decontaminator: Decontaminator | None = None,
        held_out: Collection[str] = (),
        bad: BadRows | None = None,
    ) -> None:
        self._settings = settings
        self._decontaminator = decontaminator
        self._held_out = held_out
        self._bad = bad
        self._subsets: Counter[str] = Counter()
        self._sample: Sample[Item] = Sample(settings.sample, seed)
        self.format, self._rows = self._open()

    def check_subset(self, subset: str) -> None:
        """Raise :class:`SkippedRow` unless the settings select this subset."""
        self._subsets[subset] += 1
        if self._settings.subset and subset not in self._settings.subset:
            raise SkippedRow("of another subset")

    def read(
        self, read: Callable[[Row], tuple[Prompt, Item]], columns: Collection[str], name: str, what: str
    ) -> tuple[list[Item], Counts]:
        """The selected items, in the source's order, and the counts of all rows.

        Args:
            read: makes an item of a row; may raise :class:`SkippedRow`.
            columns: the columns that every row should have; ``name`` is their format, ``what`` they become.

        Raises:
            DataError: for a source or row that cannot be used, or if no item is selected.
        """
        if self._bad is not None:
            self._bad.expected = () if self.format.plugin else tuple(columns)
        skipped, number = Counter[str](), 0
        for number, row in enumerate(self._rows, start=1):  # noqa: B007 - read after the loop
            try:
                prompt, item = read(self.format.converted(row))
                prompt_id = prompt_hash(prompt)
                if self._decontaminator is not None and self._decontaminator.matches(prompt):
                    raise SkippedRow("overlapping with a benchmark")
                if prompt_id in self._held_out:
                    raise SkippedRow("with a held-out prompt")
                self._sample.add(prompt_id, item)
            except SkippedRow as skip:
                skipped[skip.reason] += 1
            except RowError as error:
                if error.skippable and self.format.published:
                    skipped[error.reason] += 1
                elif self._bad is not None:
                    self._bad.add(error)
                else:
                    raise
        items, dropped = self._sample.items()
        if dropped:
            skipped["not in the sample"] = dropped
        if self._bad is not None:
            number, skipped = number + self._bad.unread_lines, skipped + self._bad.reasons
        counts = Counts(str(self._settings.source), name, number, len(items), sorted_reasons(skipped))
        if not items:
            subsets = ", ".join(subset or "(none)" for subset, _ in self._subsets.most_common(20))
            hint = f"It has the subsets: {subsets}. " if self._settings.subset and subsets else ""
            raise DataError(f"{counts.line(what)} {hint}Loosen the selection, or give another source.")
        return items, counts

    def _open(self) -> tuple[Format, Iterator[Row]]:
        settings, bad = self._settings, self._bad
        source = str(settings.source)
        format = None if settings.format == "auto" else named_format(settings.format)
        split, config = settings.split, settings.config
        known = known_format(source)
        if known is not None and not was_saved(source):
            split, config = split or known.split, config or known.config
        rows = open_rows(
            source,
            config=config,
            split=split,
            revision=settings.revision,
            streaming=settings.streaming,
            on_bad=None if bad is None else bad.add_line,
        )
        rows = islice(rows, settings.rows)
        first = next(rows)
        rows = chain([first], rows)
        return format or recognized_format(source, first.columns), rows if bad is None else bad.watched(rows)


def read_pairs(
    settings: DataSettings,
    seed: int,
    decontaminator: Decontaminator | None = None,
    held_out: Collection[str] = (),
    bad: BadRows | None = None,
) -> tuple[list[PreferencePair], Counts]:
    """The pairs of ``settings.source``, in the source's order, and the counts of its rows.

    The arguments are those of :class:`SourceReader`.

    Raises:
        DataError: for a source or row that cannot be used, or if no pair is selected.
    """
    reader: SourceReader[LabeledPair] = SourceReader(settings, seed, decontaminator, held_out, bad)
    ids, seen = RowIds(), set[bytes]()

    def read(row: Row) -> tuple[Prompt, LabeledPair]:
        labeled = read_pair(row, reader.format, ids, str(settings.source))
        pair = labeled.pair
        reader.check_subset(pair.subset or pair.source)
        if settings.deduplicate != "none":
            texts = [] if settings.deduplicate == "prompts" else [pair.chosen, pair.rejected]
            key = hashlib.sha256(json.dumps([prompt_hash(pair.prompt), *texts]).encode()).digest()[:16]
            if key in seen:
                raise SkippedRow("equal to an earlier pair" if texts else "with the prompt of an earlier pair")
            seen.add(key)
        return pair.prompt, labeled

    labeled, counts = reader.read(read, reader.format.columns, reader.format.name, "pairs")
    sides = [one.chosen_side for one in labeled if one.chosen_side is not None]
    return [one.pair for one in labeled], replace(counts, ordered=len(sides), chosen_first=sides.count("A"))


class Sample(Generic[Item]):
    """At most ``size`` prompts with all their items, drawn by (seed, prompt id); None keeps all.

    The draw depends neither on the order of the rows nor on the other rows: with more rows a kept prompt leaves only
    for one with a smaller draw.
    """

    def __init__(self, size: int | None, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._added = 0
        self._kept: dict[str, list[tuple[int, Item]]] = {}

    def add(self, prompt_id: str, item: Item) -> None:
        """Consider an item of a prompt."""
        self._added += 1
        self._kept.setdefault(prompt_id, []).append((self._added, item))
        if self._size is not None and len(self._kept) > 2 * self._size:
            self._prune(self._size)

    def items(self) -> tuple[list[Item], int]:
        """The kept items, in the order in which they were added, and the number of others."""
        if self._size is not None:
            self._prune(self._size)
        numbered = sorted(chain(*self._kept.values()), key=lambda entry: entry[0])
        return [item for _, item in numbered], self._added - len(numbered)

    def _prune(self, size: int) -> None:
        """Keep the prompts with the smallest draws; another item of a dropped prompt cannot bring it back."""
        kept = heapq.nsmallest(size, self._kept, key=lambda prompt_id: derive_seed("sample", self._seed, prompt_id))
        self._kept = {prompt_id: self._kept[prompt_id] for prompt_id in kept}
