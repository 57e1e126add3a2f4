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
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Generic, TypeVar

from rubric_arm_lite.data.counts import BadRows, Counts, sorted_reasons
from rubric_arm_lite.data.decontaminate import Decontaminator
from rubric_arm_lite.data.formats import OWN, Format, SkippedRow
from rubric_arm_lite.data.pairs import RowIds, read_pair
from rubric_arm_lite.data.published import choose_format, format_of_columns, known_format
from rubric_arm_lite.data.rows import Row, RowError
from rubric_arm_lite.data.sources import open_rows, was_saved
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash, wording
from rubric_arm_lite.recipe import DataSettings, SourceSettings, derive_seed
from rubric_arm_lite.types import PreferencePair, Prompt, Side

Item = TypeVar("Item")


@dataclass
class SourceReader(Generic[Item]):
    """Opens one source and reads it.

    Attributes:
        seed: draws the sample.
        decontaminator: prompts of benchmarks that must not be trained on.
        held_out: wordings of prompts that must not be trained on.
        bad: gathers rows that cannot be used, which are then skipped; without it the first one is an error.
        first_row: the source's first row, by which its format is told.
    """

    settings: SourceSettings
    seed: int
    decontaminator: Decontaminator | None = None
    held_out: Collection[str] = ()
    bad: BadRows | None = None
    first_row: Row = field(init=False)
    format: Format = field(init=False)
    _subsets: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        settings, source = self.settings, str(self.settings.source)
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
            on_bad=None if self.bad is None else self.bad.add,
        )
        self._rows = islice(rows, settings.rows)
        self.first_row = next(self._rows)
        columns = settings.columns if isinstance(settings, DataSettings) else None
        self.format = format_of_columns(columns) if columns else choose_format(settings.format, source, self.first_row)

    def check_subset(self, subset: str) -> None:
        """Raise :class:`SkippedRow` unless the settings select this subset."""
        self._subsets[subset] += 1
        if self.settings.subset and subset not in self.settings.subset:
            raise SkippedRow("of another subset")

    def read(
        self, read: Callable[[Row], tuple[Prompt, Item]], columns: Collection[str], name: str, what: str
    ) -> tuple[list[Item], Counts]:
        """The selected items, in the source's order, and the counts of all rows.

        Of a sample, all items of the drawn prompts are kept. The draw depends on (seed, prompt id) alone, so with more
        rows a prompt leaves the sample only for one with a smaller draw.

        Args:
            read: makes an item of a row; may raise :class:`SkippedRow`.
            columns: the columns that every row should have; ``name`` is their format, ``what`` they become.

        Raises:
            DataError: for a source or row that cannot be used, or if no item is selected.
        """
        bad, size = self.bad, self.settings.sample
        if bad is not None:
            bad.expected = () if self.format.plugin else tuple(columns)
        skipped = Counter[str]()
        kept: dict[str, list[tuple[int, Item]]] = {}
        for number, row in enumerate(self.format.comparisons(self._source_rows())):
            try:
                if isinstance(row, RowError):
                    raise row
                prompt, item = read(self.format.converted(row))
                prompt_id = prompt_hash(prompt)
                if self.decontaminator is not None and self.decontaminator.matches(prompt):
                    raise SkippedRow("overlapping with a benchmark")
                if self.held_out and wording(prompt) in self.held_out:
                    raise SkippedRow("with a held-out prompt")
                kept.setdefault(prompt_id, []).append((number, item))
                if size is not None and len(kept) > 2 * size:  # bounds the memory
                    kept = self._draw(kept, size, skipped)
            except SkippedRow as skip:
                skipped[str(skip)] += 1
            except RowError as error:
                if error.skippable and self.format.published:
                    skipped[error.reason] += 1
                elif bad is None:
                    raise
                else:
                    bad.add(error)
        if size is not None:
            kept = self._draw(kept, size, skipped)
        items = [item for _, item in sorted(chain(*kept.values()), key=lambda entry: entry[0])]
        if bad is not None:
            skipped += bad.reasons
        rows = len(items) + skipped.total()
        unit = "comparisons" if self.format.compares_lists else "rows"
        counts = Counts(str(self.settings.source), name, rows, len(items), sorted_reasons(skipped), unit=unit)
        if not items:
            subsets = ", ".join(subset or "(none)" for subset, _ in self._subsets.most_common(20))
            hint = f"It has the subsets: {subsets}. " if self.settings.subset and subsets else ""
            raise DataError(f"{counts.line(what)} {hint}Loosen the selection, or give another source.")
        return items, counts

    def _source_rows(self) -> Iterator[Row]:
        for row in chain([self.first_row], self._rows):
            if self.bad is not None:
                self.bad.columns.update(dict.fromkeys(row.columns))
            yield row

    def _draw(
        self, kept: dict[str, list[tuple[int, Item]]], size: int, skipped: Counter[str]
    ) -> dict[str, list[tuple[int, Item]]]:
        """The prompts with the smallest draws; another item of a dropped prompt cannot bring it back."""
        drawn = heapq.nsmallest(size, kept, key=lambda prompt_id: derive_seed("sample", self.seed, prompt_id))
        dropped = sum(map(len, kept.values())) - sum(len(kept[prompt_id]) for prompt_id in drawn)
        if dropped:
            skipped["not in the sample"] += dropped
        return {prompt_id: kept[prompt_id] for prompt_id in drawn}


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
    reader: SourceReader[tuple[PreferencePair, Side]] = SourceReader(settings, seed, decontaminator, held_out, bad)
    format, ids, seen = reader.format, RowIds(), set[bytes]()

    def read(row: Row) -> tuple[Prompt, tuple[PreferencePair, Side]]:
        pair, side = read_pair(row, format, ids, str(settings.source))
        reader.check_subset(pair.subset or pair.source)
        if settings.deduplicate != "none":
            texts = [] if settings.deduplicate == "prompts" else [pair.chosen, pair.rejected]
            key = hashlib.sha256(json.dumps([prompt_hash(pair.prompt), *texts]).encode()).digest()[:16]
            if key in seen:
                raise SkippedRow("equal to an earlier pair" if texts else "with the prompt of an earlier pair")
            seen.add(key)
        return pair.prompt, (pair, side)

    labeled, counts = reader.read(read, format.columns, format.name, "pairs")
    if format.responses != OWN.responses:  # the source has an order of its own
        sides = [side for _, side in labeled]
        counts = replace(counts, ordered=len(sides), chosen_first=sides.count("A"))
    return [pair for pair, _ in labeled], counts
