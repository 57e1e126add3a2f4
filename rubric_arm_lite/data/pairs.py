"""Pairs, prompts and responses from the rows of a source: the one place where rows are selected, counted and skipped.

In JSON Lines and Parquet, a prompt, ``chosen`` or ``rejected`` is a text or a list of messages
``{"role": …, "content": …}``; a CSV cell is always a text. A prompt of one user message is the same as its text. A row
without an id gets the hash of its prompt and the number of earlier rows with that prompt: ``3f0c…-0``. Every ``load_``
function raises :class:`~rubric_arm_lite.errors.DataError` for the first row that cannot be used, or if there is none.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from rubric_arm_lite.data.benchmarks import Decontaminator
from rubric_arm_lite.data.counts import BadRows, Counts, sorted_reasons
from rubric_arm_lite.data.formats import OWN, Format, SkippedRow, open_source, prompt_format
from rubric_arm_lite.data.rows import Row, RowError, short_repr, type_name
from rubric_arm_lite.data.sources import file_rows
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash, wording
from rubric_arm_lite.recipe import DataSettings, SourceSettings, derive_seed
from rubric_arm_lite.types import PreferencePair, Prompt, Side

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ResponseSet:
    """A prompt with one or more responses to score, compare or label. Without a ``rubric`` the generator writes one."""

    set_id: str
    prompt: Prompt
    responses: tuple[str, ...]
    rubric: str | None = None


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """Preference pairs from columns ``prompt``, ``chosen``, ``rejected`` and optional ``id``, ``source``, ``subset``.

    A message list under ``chosen`` or ``rejected`` ends with the response as an assistant message. The messages
    before it, which both lists share, are the prompt; a ``prompt`` beside them must be part of that conversation.
    """
    ids = RowIds()
    return [read_pair(row, OWN, ids)[0] for row in file_rows(path)]


def load_responses(path: str | Path, *columns: str, listed: str | None = None) -> list[ResponseSet]:
    """Prompts with their responses, from columns ``prompt``, ``columns`` and optional ``id``, ``rubric``.

    Args:
        columns: one column per response, such as ``response_a``, ``response_b``.
        listed: a column that may hold all responses of a row as a list, in place of the others.
    """
    ids = RowIds()
    sets = []
    for row in file_rows(path):
        if {"chosen", "rejected"} <= row.columns.keys() and not {*columns, listed} & row.columns.keys():
            raise row.error(
                "this pair is labeled: it has `chosen` and `rejected`. To measure a judge on labeled pairs, use "
                f"rubric-arm evaluate RUN FILE. Responses without a label stand in {' and '.join(columns)}"
                f"{f', or in {listed}, a list' if listed else ''}."
            )
        prompt, rubric = row.prompt(), row.optional_text("rubric") or None
        responses = row.texts(listed) if listed and row.has(listed) else tuple(map(row.text, columns))
        if len(responses) < len(columns):
            raise row.error(f"column `{listed}` is a list of 1. Give a list of two or more texts.")
        sets.append(ResponseSet(ids.next(row, prompt), prompt, responses, rubric))
    return sets


def load_answers(path: str | Path) -> list[tuple[Prompt, str]]:
    """Prompts with one response each, from columns ``prompt`` and ``response``."""
    return [(row.prompt(), row.text("response")) for row in file_rows(path)]


def prompt_of(value: Any, where: str) -> Prompt:
    """A prompt from a text or a list of messages; ``where`` names its place in errors.

    Raises:
        DataError: if it is neither, empty, or does not end with the user's turn.
    """
    return Row(where, {"prompt": value}).prompt()


def answer_of(value: Any, where: str) -> str:
    """A response from a text or a list of messages that ends with the assistant's; it may be empty.

    Only the last message is read. If it calls a tool or is a tool's result, the answer after it is missing: empty.

    Raises:
        DataError: if it is neither.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError(f"{where} is {type_name(value)}. Give a text or a list of messages.")
    match value[-1:]:
        case [{"role": "tool"}] | [{"role": "assistant", "content": None, "tool_calls": _}]:
            return ""
        case [{"role": "assistant", "tool_calls": _} as call] if "content" not in call:
            return ""
    last = Row(where, {"the response": value[-1:]}).messages("the response")[-1]
    if last.role != "assistant":
        raise DataError(f"{where} ends with a message by {last.role!r}. End it with the assistant's response.")
    return last.content


def pair_as_row(pair: PreferencePair) -> dict[str, Any]:
    """The columns from which :func:`load_pairs` reads this pair again."""
    row = {"id": pair.pair_id, "prompt": prompt_as_json(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}
    return row | {name: text for name, text in (("source", pair.source), ("subset", pair.subset)) if text}


def prompt_as_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as it stands in a row: its text, or its messages."""
    return prompt if isinstance(prompt, str) else [asdict(message) for message in prompt]


# --- one row --------------------------------------------------------------------------------------------------------


class RowIds:
    """Ids of one source: those of its rows are unique, missing ones are made from the prompt."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}
        self._rows_of_prompt: Counter[str] = Counter()

    def next(self, row: Row, prompt: Prompt) -> str:
        """The id in column ``id``, or else the prompt's hash and the number of earlier rows with that prompt."""
        prompt_id = prompt_hash(prompt)
        number = self._rows_of_prompt[prompt_id]
        self._rows_of_prompt[prompt_id] += 1
        value = row.columns.get("id")
        if value is None or value == "":
            value = f"{prompt_id}-{number}"
        elif isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        fix = "Give a text or a whole number, or leave it out."
        row_id = row.checked_text("id", value, "id", blank=True, fix=fix)
        if row_id in self._places:
            raise row.error(
                f"id {short_repr(row_id)} was used before ({self._places[row_id]}). Give each row its own, or leave "
                "the ids out.",
                "id used before",
            )
        self._places[row_id] = row.where
        return row_id


def read_pair(row: Row, format: Format, ids: RowIds, source: str = "") -> tuple[PreferencePair, Side]:
    """The pair of a row, and on which side its source shows the chosen response.

    Pairs of published formats have ``source`` as their source.

    Raises:
        RowError: if the row does not have the format, or (skippable) cannot serve as a pair.
    """
    if format.published:
        row.require(*format.required)
    first, second = format.responses
    prompt, response_a, response_b = format.read(row)
    side = format.chosen_side(row)
    if side is None:
        names = "`, `".join(format.label_columns)
        raise row.error(f"`{names}` is a tie. Leave the row out.", "tie", skippable=True)
    if response_a == response_b:
        problem = f"{first} equals {second} ({short_repr(response_b)}). Leave the row out."
        raise row.error(problem, "identical responses", skippable=True)
    chosen, rejected = (response_a, response_b) if side == "A" else (response_b, response_a)
    pair_id = ids.next(Row(row.where, {}) if format.published else row, prompt)  # ids of published sources repeat
    source = source if format.published else row.optional_text("source")
    subset = row.optional_text(format.columns.subset) if format.columns.subset else ""
    return PreferencePair(pair_id, prompt, chosen, rejected, source, subset), side


# --- a source -------------------------------------------------------------------------------------------------------


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
        self.format, rows = open_source(self.settings, None if self.bad is None else self.bad.add)
        self.first_row = next(rows)
        self._rows = chain([self.first_row], rows)

    def check_subset(self, subset: str) -> None:
        """Raise :class:`SkippedRow` unless the settings select this subset."""
        self._subsets[subset] += 1
        if self.settings.subset and subset not in self.settings.subset:
            raise SkippedRow("of another subset")

    def read(
        self,
        read: Callable[[Row], tuple[Prompt, Item]],
        columns: Collection[str],
        name: str,
        what: str,
        compare: bool = True,
    ) -> tuple[list[Item], Counts]:
        """The selected items, in the source's order, and the counts of all rows.

        Of a sample, all items of the drawn prompts are kept. The draw depends on (seed, prompt id) alone, so with more
        rows a prompt leaves the sample only for one with a smaller draw.

        Args:
            read: makes an item of a row; may raise :class:`SkippedRow`.
            columns: the columns that every row should have; ``name`` is their format, ``what`` they become.
            compare: whether a row with many responses is read as many rows of two.

        Raises:
            DataError: for a source or row that cannot be used, or if no item is selected.
        """
        bad, size = self.bad, self.settings.sample
        if bad is not None:
            bad.expected = () if self.format.plugin else tuple(columns)
        skipped = Counter[str]()
        kept: dict[str, list[tuple[int, Item]]] = {}
        compare = compare and self.format.compares_lists
        for number, row in enumerate(self.format.comparisons(self._source_rows()) if compare else self._source_rows()):
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
        unit = "comparisons" if compare else "rows"
        counts = Counts(str(self.settings.source), name, rows, len(items), sorted_reasons(skipped), unit=unit)
        if not items:
            subsets = ", ".join(subset or "(none)" for subset, _ in self._subsets.most_common(20))
            hint = f"It has the subsets: {subsets}. " if self.settings.subset and subsets else ""
            raise DataError(f"{counts.line(what)} {hint}Loosen the selection, or give another source.")
        return items, counts

    def _source_rows(self) -> Iterator[Row]:
        for row in self._rows:
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

    labeled, counts = reader.read(read, format.required, format.name, "pairs")
    if format.responses != OWN.responses:  # the source has an order of its own
        sides = [side for _, side in labeled]
        counts = replace(counts, ordered=len(sides), chosen_first=sides.count("A"))
    return [pair for pair, _ in labeled], counts


def read_prompts(settings: SourceSettings, seed: int) -> tuple[list[Prompt], Counts]:
    """The distinct prompts of ``settings.source``, in the source's order, and the counts of its rows.

    They are read by the same rules and checks as the prompts of pairs, whatever the responses are. A row without them
    has its prompt in a column in which a format has it, such as ``prompt`` or ``question``.

    Raises:
        DataError: for a source or row that cannot be used, or if no prompt is selected.
    """
    reader: SourceReader[Prompt] = SourceReader(settings, seed)
    reader.format = format = prompt_format(reader.format, reader.first_row)
    seen: set[str] = set()

    def read(row: Row) -> tuple[Prompt, Prompt]:
        prompt, subset = format.prompt_of(row), format.columns.subset
        reader.check_subset((row.optional_text(subset) if subset else "") or row.optional_text("source"))
        if prompt_hash(prompt) in seen:
            raise SkippedRow("with the prompt of an earlier row")
        seen.add(prompt_hash(prompt))
        return prompt, prompt

    columns = (format.prompt_column,) if format.prompt_column else format.required
    return reader.read(read, columns, format.name, "prompts", compare=False)
