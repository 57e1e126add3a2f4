"""Formats of preference data: one :class:`Format` says how the columns of a row become a pair.

Reading, checking and converting share these descriptions. A format is our own, a published one, or a plug-in: a
function of the user's that maps a row to the columns of our own. Published ones are listed in :mod:`.published`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, groupby, product
from typing import Any

from rubric_arm_lite.data.rows import Row, RowError, names_list, short_repr, type_name
from rubric_arm_lite.errors import first_line
from rubric_arm_lite.types import Side

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
TWO_TEXTS = ("first response", "second response")
TWO_SCORES = ("first score", "second score")
_WINNER = re.compile(r"(?:(?:response|answer|assistant|model)[ _-]*)?([ab])")


class SkippedRow(Exception):  # noqa: N818 - it is not an error
    """A row that is left out for a reason that is no error; its text names the group in which it is counted."""


Label = Callable[..., Side | None]
"""Reads from a row and its label columns on which side the chosen response is; None for a tie."""


def by_name(row: Row, column: str) -> Side | None:
    """The side that a column names, such as ``A`` or ``Response B``; None for a tie."""
    text = row.text(column).strip().lower()
    match = _WINNER.fullmatch(text)
    if match is not None:
        return "A" if match[1] == "a" else "B"
    if text in ("draw", "equal") or text.startswith("tie"):
        return None
    raise row.error(f"column `{column}` is {short_repr(row.text(column))}. Give A, B or tie.")


def by_sign(row: Row, column: str) -> Side | None:
    """The first side for a negative number, the second for a positive one; None for 0, a tie."""
    value = row.number(column)
    return None if value == 0 else "A" if value < 0 else "B"


def by_score(row: Row, first: str, second: str) -> Side | None:
    """The side with the higher score; None if both are equal, a tie."""
    difference = row.number(first) - row.number(second)
    return None if difference == 0 else "A" if difference > 0 else "B"


def unless_equal(row: Row, first: str, second: str) -> Side | None:
    """The first side, whatever its score; None if both columns have the same score, a tie."""
    return None if row.number(first) == row.number(second) else "A"


def by_value(first: Iterable[Any], second: Iterable[Any], tie: Iterable[Any] = ()) -> Label:
    """A label of given values: 1, 1.0 and ``"1"`` are the same."""
    by_side: dict[Side | None, Iterable[Any]] = {"A": first, "B": second, None: tie}
    sides = {_as_text(value): side for side, values in by_side.items() for value in values}

    def label(row: Row, column: str) -> Side | None:
        value = row.value(column)
        if _as_text(value) not in sides:
            shown = short_repr(value) if isinstance(value, str) else json.dumps(value)[:60]
            raise row.error(f"column `{column}` is {shown}. Give one of {', '.join(sides)}.")
        return sides[_as_text(value)]

    return label


def majority(label: Label) -> Label:
    """The side that more than half of several columns name."""

    def most(row: Row, *columns: str) -> Side | None:
        side, votes = Counter(label(row, column) for column in columns).most_common(1)[0]
        if 2 * votes <= len(columns):
            problem = f"no majority among {names_list(columns)}. Leave the row out."
            raise row.error(problem, "without a majority", skippable=True)
        return side

    return most


def _as_text(value: Any) -> str:
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value).strip().casefold()


@dataclass(frozen=True, slots=True)
class Format:
    """How columns are read.

    Attributes:
        hub_id, config, split: where a published format is found, and what is read there by default; our own has none.
        older_id: another data set whose columns are assumed to be the same, and checked.
        responses: the columns of the two responses, in the order in which the source shows them.
        label, label_columns: a function that reads from columns which response is chosen (None: a tie); without one it
            is the first.
        prompt: the prompt's column, several whose texts are joined, or None if the turns before the responses are the
            prompt. Any column may be ``column.key``, what stands inside an object.
        system: a column with a system prompt, where a row has one.
        history: a column with the earlier turns as pairs of a request and its response, where a row has one.
        answers, text, score: a column with a list of responses, and the keys of a response and its score there; each
            two of them are compared. Without ``answers``, ``text`` and ``score`` are columns of rows with one response
            each, of which those of the same prompt follow one another.
        lowest_is_best: the score is a rank.
        in_lists: the columns of the responses hold lists (of objects with the response in ``text``); each response of
            the first is compared with each of the second.
        transcripts: texts of turns that begin with ``Human:`` or ``Assistant:``.
        turn: a column with the number of the turn that was judged; later ones are left out.
        subset: a column that names the row's part of the data.
        judgement: names of the column with a judge's text about (first, second) under the column ``rubric``.
        unmistakable: its columns alone tell it, because they cannot be our own.
        plugin: maps a row to the columns of our own format, or to None to skip it.
    """

    name: str
    hub_id: str = ""
    older_id: str = ""
    config: str | None = None
    split: str = "train"
    prompt: str | tuple[str, ...] | None = "prompt"
    system: str = ""
    history: str = ""
    responses: tuple[str, str] = ("chosen", "rejected")
    label: Label | None = None
    label_columns: tuple[str, ...] = ()
    answers: str = ""
    text: str = ""
    score: str = ""
    lowest_is_best: bool = False
    in_lists: bool = False
    transcripts: bool = False
    turn: str = ""
    subset: str = ""
    judgement: tuple[str, ...] = ()
    unmistakable: bool = False
    plugin: Callable[[dict[str, Any]], Any] | None = None

    @property
    def published(self) -> bool:
        """Whether these are the columns of others, whose unusable rows are skipped and counted."""
        return self.name != OWN.name and self.plugin is None

    @property
    def compares_lists(self) -> bool:
        """Whether a source row or several give any number of pairs."""
        return bool(self.score) or self.in_lists

    @property
    def prompt_column(self) -> str | None:
        """The column of the prompt; of several, the one under which :meth:`converted` joins them."""
        return self.prompt[0] if isinstance(self.prompt, tuple) else self.prompt

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        prompt = (self.prompt_column,) if self.prompt_column else ()
        if self.score:
            return (*prompt, self.answers) if self.answers else (*prompt, self.text, self.score)
        return (*prompt, *self.responses, *self.label_columns)

    @property
    def _transcript_columns(self) -> tuple[str, ...]:
        """Where the turns stand: in the prompt or, without one, before both responses."""
        return (self.prompt_column,) if self.prompt_column else self.responses

    def fits(self, row: Row) -> bool:
        """Whether a row has these columns, and in them what the format says."""
        if not all(map(row.has, self.columns)):
            return False
        if self.score and self.answers:
            item = row.get(self.answers)
            item = item[0] if isinstance(item, list) and item else None
            return isinstance(item, dict) and {self.text, self.score} <= item.keys()
        if self.in_lists:
            first = [value[:1] for name in self.responses if isinstance(value := row.get(name), list)]
            return any(isinstance(item, str) or (self.text and isinstance(item, dict)) for item in chain(*first))
        texts = [row.get(name) for name in self._transcript_columns] if self.transcripts else []
        return all(isinstance(text, str) and _SPEAKER.match(text) for text in texts)

    def chosen_side(self, row: Row) -> Side | None:
        """On which side a row shows the chosen response; None for a tie."""
        return "A" if self.label is None else self.label(row, *self.label_columns)

    def converted(self, row: Row) -> Row:
        """The row with the columns that the format describes: transcripts as messages, parts of a prompt as one.

        Raises:
            SkippedRow: if the plug-in returns None.
            RowError: if the plug-in raises an error or returns something else than a mapping.
        """
        if self.plugin is None:
            return self._with_messages(row)
        reason = f"not converted by {self.name}"
        try:
            columns = self.plugin(dict(row.columns))
        except Exception as error:  # whatever the user's code raises
            raise row.error(
                f"the format {self.name} fails with {type(error).__name__} ({first_line(error)}). Correct the "
                "function, or return None to skip the row.",
                reason,
            ) from error
        if columns is None:
            raise SkippedRow(f"skipped by {self.name}")
        if not isinstance(columns, Mapping):
            raise row.error(
                f"the format {self.name} returns {type_name(columns)}. Return a dict with prompt, chosen and rejected "
                "(for a warm-up: prompt, rubric, response_a, response_b, judgement), or None to skip the row.",
                reason,
            )
        return Row(f"{row.where}, as returned by {self.name}", columns)

    def _with_messages(self, row: Row) -> Row:
        """The row with its transcripts, parts of a prompt and system text as the prompts and messages they mean."""
        columns: dict[str, Any] = {}
        if self.transcripts:
            columns |= {name: self._turns(row, name) for name in self._transcript_columns}
        if self.turn and row.has(self.turn):
            end = 2 * int(row.number(self.turn))  # the later turns were not judged
            columns |= {name: row.items(name, "message")[:end] for name in self.responses}
        if isinstance(self.prompt, tuple):
            texts = [row.optional_text(name).strip() for name in self.prompt[1:]]
            columns[self.prompt[0]] = "\n\n".join(filter(None, [row.text(self.prompt[0]).strip(), *texts]))
        before = self._earlier_turns(row)
        if self.system and (system := row.optional_text(self.system)).strip():
            before.insert(0, {"role": "system", "content": system})
        if self.prompt_column and before:
            prompt = columns.get(self.prompt_column, row.value(self.prompt_column))
            turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            columns[self.prompt_column] = [*before, *turns]
        return Row(row.where, {**row.columns, **columns}) if columns else row

    def _earlier_turns(self, row: Row) -> list[dict[str, str]]:
        """The messages of the column ``history``, if the row has any."""
        if not self.history or not row.get(self.history):
            return []
        pairs = row.items(self.history, "pair")
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise row.error(f"`{self.history}` must be a list of pairs: a request and its response.")
        return [
            {"role": role, "content": text}
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]

    def _turns(self, row: Row, name: str) -> list[dict[str, str]]:
        """The messages of a transcript; a prompt may end with the opened turn of the assistant."""
        before, *parts = _SPEAKER.split(row.text(name))
        if before.strip() or not parts:
            raise row.error(f"column `{name}` does not begin with `Human:` or `Assistant:`. Correct it.")
        speakers = [{"Human": "user", "Assistant": "assistant"}[speaker] for speaker in parts[::2]]
        turns = [{"role": role, "content": text.strip()} for role, text in zip(speakers, parts[1::2], strict=True)]
        opened = name == self.prompt_column and turns[-1] == {"role": "assistant", "content": ""}
        return turns[:-1] if opened else turns

    def comparisons(self, rows: Iterable[Row]) -> Iterator[Row | RowError]:
        """Rows of two responses, from rows with lists of responses or with one response each."""
        if not self.compares_lists:
            yield from rows
            return
        prompt = self.prompt_column or ""
        one_each = not (self.answers or self.in_lists)
        groups = (list(same) for _, same in groupby(rows, lambda row: repr(row.get(prompt)))) if one_each else None
        for group in groups or ([row] for row in rows):
            try:
                yield from self._across(group[0]) if self.in_lists else self._among(group)
            except RowError as error:
                yield error

    def _across(self, row: Row) -> Iterator[Row]:
        """Each response of the first list with each of the second."""
        first, second = self.responses
        for (i, text_i), (j, text_j) in product(*(self._numbered(row.value(name)) for name in self.responses)):
            yield Row(f"{row.where}, {i} with {j}", {**row.columns, first: text_i, second: text_j})

    def _numbered(self, value: Any) -> Iterable[tuple[int, Any]]:
        items = value if isinstance(value, list) else [value]
        return enumerate((item.get(self.text) if isinstance(item, dict) else item for item in items), start=1)

    def _among(self, group: list[Row]) -> Iterator[Row]:
        """Each pair of a row's list of responses, or of the responses of several rows."""
        row = group[0]
        if self.answers:
            group = [row.inner(self.answers, number + 1) for number in range(len(row.items(self.answers)))]
        if len(group) < 2:
            raise row.error("a single response to its prompt. Leave it out.", "with a single response", skippable=True)
        sign = -1 if self.lowest_is_best else 1
        found = [(answer.text(self.text, blank=True), sign * answer.number(self.score)) for answer in group]
        for (i, (text_i, score_i)), (j, (text_j, score_j)) in combinations(enumerate(found, start=1), 2):
            both = dict(zip((*TWO_TEXTS, *TWO_SCORES), (text_i, text_j, score_i, score_j), strict=True))
            yield Row(f"{row.where}, response {i} with {j}", {**row.columns, **both})


OWN = Format("pairs", subset="subset")
