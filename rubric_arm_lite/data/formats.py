"""Formats of preference data: one :class:`Format` says how the columns of a row become a prompt with two responses.

Reading, checking and converting share these descriptions, which have the form of a recipe's ``data.columns``. A format
is our own, a published one (``formats.yaml``), one that a recipe describes, or a plug-in: a function of the user's that
maps a row to the columns of our own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from itertools import chain, combinations, count, groupby, islice, product, takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rubric_arm_lite.data.rows import Row, RowError, missing_reason, names_list, short_repr, type_name
from rubric_arm_lite.data.sources import OnBadRow, open_rows, was_saved
from rubric_arm_lite.errors import first_line
from rubric_arm_lite.recipe import ColumnSettings, SourceSettings, as_tuple, is_plugin, label_text, load_plugin
from rubric_arm_lite.types import Message, Prompt, Side

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_TWO_TEXTS = ("first response", "second response")
_TWO_SCORES = ("first score", "second score")
_WINNER = re.compile(r"(?:(?:response|answer|assistant|model)[ _-]*)?([ab])")


class SkippedRow(Exception):  # noqa: N818 - it is not an error
    """A row that is left out for a reason that is no error; its text names the group in which it is counted."""


@dataclass(frozen=True, slots=True)
class Format:
    """How columns are read.

    Attributes:
        columns: what the columns hold.
        hub: data sets on the Hub in this format; those after the first are assumed to have its columns, which is
            checked when they are read.
        config, split: what is read there by default.
        known_by: further columns that identify the format, where the described ones could be our own.
        plugin: maps a row to the columns of our own format, or to None to skip it.
    """

    name: str
    columns: ColumnSettings
    hub: tuple[str, ...] = ()
    config: str | None = None
    split: str = "train"
    known_by: tuple[str, ...] = ()
    plugin: Callable[[dict[str, Any]], Any] | None = None

    @property
    def published(self) -> bool:
        """Whether these are the columns of others, whose unusable rows are skipped and counted."""
        return self.name != OWN.name and self.plugin is None

    @property
    def score(self) -> str:
        """The score or rank by which any number of responses are compared; empty without one."""
        return self.columns.score or self.columns.rank or ""

    @property
    def compares_lists(self) -> bool:
        """Whether a source row or several give any number of pairs."""
        return bool(self.score) or self.columns.lists

    @property
    def responses(self) -> tuple[str, ...]:
        """The columns of the two responses of a comparison, in the order in which the source shows them."""
        return _TWO_TEXTS if self.score else self.columns.responses

    @property
    def prompt_column(self) -> str | None:
        """The column of the prompt; of several, the one under which :meth:`converted` joins them."""
        prompt = self.columns.prompt
        return prompt[0] if isinstance(prompt, tuple) else prompt

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that say which response is chosen; without them it is the first."""
        columns = self.columns
        if self.score:
            return _TWO_SCORES
        one = columns.winner or columns.preference
        return as_tuple(one) if one is not None else columns.scores or columns.equal or ()

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        prompt = (self.prompt_column,) if self.prompt_column else ()
        answers = self.columns.answers
        if not self.score:
            return (*prompt, *self.responses, *self.label_columns)
        if answers is None:
            return (*prompt, self.columns.text, self.score)
        return (*prompt, answers.replace("*", "1"), self.score) if "*" in answers else (*prompt, answers)

    def fits(self, row: Row, nulls: bool = False) -> bool:
        """Whether a row has these columns with values of the right kind; with ``nulls`` they may be null."""
        columns = self.columns
        if not all(row.holds(name) if nulls else row.has(name) for name in (*self.required, *self.known_by)):
            return False
        if self.score and columns.answers:
            item = row.get(columns.answers)
            if "*" in columns.answers:
                return isinstance(row.get(self.score), list)
            item = item[0] if isinstance(item, list) and item else None
            return isinstance(item, dict) and {columns.text, self.score} <= item.keys()
        if columns.lists:
            first = [value[:1] for name in self.responses if isinstance(value := row.get(name), list)]
            return any(isinstance(i, str) or (isinstance(i, dict) and columns.text in i) for i in chain(*first))
        texts = [row.get(name) for name in self._transcripts()]
        return all(isinstance(text, str) and _SPEAKER.match(text) for text in texts)

    def _transcripts(self) -> tuple[str, ...]:
        """Columns of transcripts: the prompt or, without one, both responses."""
        return () if not self.columns.transcripts else (self.prompt_column,) if self.prompt_column else self.responses

    # --- from the source's rows to rows of two responses ------------------------------------------------------------

    def comparisons(self, rows: Iterable[Row]) -> Iterator[Row | RowError]:
        """Rows of two responses, from rows with lists of responses or with one response each."""
        if not self.compares_lists:
            yield from rows
            return
        one_each = not (self.columns.answers or self.columns.lists)
        prompt = self.prompt_column or ""
        groups = (list(same) for _, same in groupby(rows, lambda row: repr(row.get(prompt)))) if one_each else None
        for group in groups or ([row] for row in rows):
            try:
                yield from self._pairs_across_lists(group[0]) if self.columns.lists else self._pairs_of_group(group)
            except RowError as error:
                yield error

    def _pairs_across_lists(self, row: Row) -> Iterator[Row]:
        """Each response of the first list with each of the second."""
        lists = [value if isinstance(value := row.value(name), list) else [value] for name in self.responses]
        texts = [[i.get(self.columns.text) if isinstance(i, dict) else i for i in items] for items in lists]
        for (i, text_i), (j, text_j) in product(*(enumerate(items, start=1) for items in texts)):
            both = dict(zip(self.responses, (text_i, text_j), strict=True))
            yield row.with_columns(both, f", {i} with {j}")

    def _pairs_of_group(self, group: list[Row]) -> Iterator[Row]:
        """Each pair of a row's list of responses, or of the responses of several rows."""
        row, answers, text = group[0], self.columns.answers, self.columns.text
        if answers is not None and "*" in answers:
            names = takewhile(row.has, (answers.replace("*", str(number)) for number in count(1)))
            group = self._scored(row, [row.get(name) for name in names], row.items(self.score))
        elif answers is not None:
            items, scores = row.items(answers), row.get(self.score)
            if isinstance(items[0], str) and isinstance(scores, list):  # side by side
                group = self._scored(row, items, scores)
            else:
                group = [row.inner(answers, number + 1) for number in range(len(items))]
        if len(group) < 2:
            fix = "Leave it out." if answers else "Put rows of one prompt one after another, or leave it out."
            raise row.error(f"a single response to its prompt. {fix}", "with a single response", skippable=True)
        sign = 1 if self.columns.score else -1  # the lowest rank is the best
        found = []
        for answer in group:
            score = answer.get(self.score)
            number = float(score) if isinstance(score, bool) else answer.number(self.score)
            found.append((answer.text(text, blank=True), sign * number))
        for (i, (text_i, score_i)), (j, (text_j, score_j)) in combinations(enumerate(found, start=1), 2):
            both = dict(zip((*_TWO_TEXTS, *_TWO_SCORES), (text_i, text_j, score_i, score_j), strict=True))
            yield row.with_columns(both, f", response {i} with {j}")

    def _scored(self, row: Row, texts: Sequence[Any], scores: Sequence[Any]) -> list[Row]:
        """Responses and a list of their scores as rows of one response."""
        if len(texts) != len(scores):
            problem = f"column `{self.score}` has {len(scores)} entries for {len(texts)} responses."
            raise row.error(f"{problem} Give one for each.")
        return [Row(row.where, {self.columns.text: t, self.score: s}) for t, s in zip(texts, scores, strict=True)]

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
        """The row with its transcripts, parts of a prompt and earlier turns as the prompts and messages they mean."""
        described, prompt = self.columns, self.prompt_column
        columns: dict[str, Any] = {name: self._turns(row, name) for name in self._transcripts()}
        if described.turn and row.has(described.turn):
            end = 2 * int(row.number(described.turn))  # the later turns were not judged
            columns |= {name: row.items(name, "message")[:end] for name in self.responses}
        if isinstance(described.prompt, tuple):
            texts = [row.optional_text(name).strip() for name in described.prompt[1:]]
            columns[described.prompt[0]] = "\n\n".join(filter(None, [row.text(described.prompt[0]).strip(), *texts]))
        before: list[dict[str, Any]] = []
        if described.history and row.get(described.history):
            pairs = row.items(described.history, "pair")
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                raise row.error(f"`{described.history}` must be a list of pairs: a request and its response.")
            roles = ("user", "assistant") * len(pairs)
            before = [{"role": r, "content": text} for r, text in zip(roles, chain(*pairs), strict=True)]
        if described.system and (system := row.optional_text(described.system)).strip():
            before.insert(0, {"role": "system", "content": system})
        if prompt and before:
            asked = columns.get(prompt, row.value(prompt))
            columns[prompt] = [*before, *(asked if isinstance(asked, list) else [{"role": "user", "content": asked}])]
        return row.with_columns(columns) if columns else row

    def _turns(self, row: Row, name: str) -> list[dict[str, str]]:
        """The messages of a transcript; a prompt may end with the opened turn of the assistant."""
        before, *parts = _SPEAKER.split(row.text(name))
        if before.strip() or not parts:
            raise row.error(f"column `{name}` does not begin with `Human:` or `Assistant:`. Correct it.")
        speakers = [{"Human": "user", "Assistant": "assistant"}[speaker] for speaker in parts[::2]]
        turns = [{"role": role, "content": text.strip()} for role, text in zip(speakers, parts[1::2], strict=True)]
        if name != self.prompt_column and speakers[-1] == "user":
            raise row.error(
                f"the last turn of `{name}` is `Human:`. End it with the assistant's response, or leave the row out.",
                "conversation without a response",
                skippable=True,
            )
        opened = name == self.prompt_column and turns[-1] == {"role": "assistant", "content": ""}
        return turns[:-1] if opened else turns

    # --- what a converted row says ----------------------------------------------------------------------------------

    def chosen_side(self, row: Row) -> Side | None:
        """On which side a row shows the chosen response; None for a tie."""
        columns, labels = self.columns, self.label_columns
        if not labels:
            return "A"
        if columns.winner is not None:
            side, votes = Counter(self._named_side(row, column) for column in labels).most_common(1)[0]
            if 2 * votes <= len(labels):
                problem = f"no majority among {names_list(labels)}. Leave the row out."
                raise row.error(problem, "without a majority", skippable=True)
            return side
        numbers = [row.number(name) for name in labels]
        better = -numbers[0] if len(numbers) == 1 else numbers[0] - numbers[1]
        return None if better == 0 else "A" if better > 0 or columns.equal else "B"

    def _named_side(self, row: Row, column: str) -> Side | None:
        """The side that a column of ``winner`` names: by the described values, else as A, ``Response B`` or a tie."""
        columns = self.columns
        if columns.first is not None:
            by_side: dict[Side | None, Any] = {"A": columns.first, "B": columns.second, None: columns.tie}
            sides = {label_text(value): side for side, values in by_side.items() for value in as_tuple(values)}
            value = row.value(column)
            if label_text(value) not in sides:
                shown = short_repr(value) if isinstance(value, str) else json.dumps(value, default=repr)[:60]
                raise row.error(f"column `{column}` is {shown}. Give one of {', '.join(sides)}.")
            return sides[label_text(value)]
        text = row.text(column).strip().lower()
        match = _WINNER.fullmatch(text)
        if match is not None:
            return "A" if match[1] == "a" else "B"
        if text in ("draw", "equal") or text.startswith("tie"):
            return None
        raise row.error(f"column `{column}` is {short_repr(row.text(column))}. Give A, B or tie.")

    def read(self, row: Row) -> tuple[Prompt, str, str]:
        """The prompt and the two responses of a row.

        Raises:
            RowError: if the row does not have the format, or (skippable) has no conversation to answer.
        """
        (response_a, turns_a), (response_b, turns_b) = map(row.response, self.responses)
        return self._conversation(row, turns_a, turns_b), response_a, response_b

    def prompt_of(self, row: Row) -> Prompt:
        """The prompt alone, by the same rules; its responses may be anything or missing.

        Raises:
            RowError: as :meth:`read`.
        """
        values = [None if self.compares_lists else row.get(name) for name in self.responses]
        turns = [
            row.messages(name)[:-1] if isinstance(value, list) and value else None
            for name, value in zip(self.responses, values, strict=True)
        ]
        if self.prompt_column is None or any(before is not None for before in turns):
            return self._conversation(row, *turns)
        return row.prompt(self.prompt_column)

    def _conversation(
        self, row: Row, turns_a: tuple[Message, ...] | None, turns_b: tuple[Message, ...] | None
    ) -> Prompt:
        """The conversation before two responses, from the prompt's column and the turns before each response.

        The turns may repeat the prompt, hold more of the conversation than it or less, or continue it.
        """
        first, second = self.responses
        names = f"`{first}` and `{second}`"
        if turns_a is not None and turns_b is not None and turns_a != turns_b:
            raise row.error(
                f"{names} hold different conversations before their responses. Both must answer the same one; correct "
                "them, or leave the row out.",
                "responses to different conversations",
                skippable=True,
            )
        turns = turns_a if turns_a is not None else turns_b
        column = self.prompt_column
        if column is not None and (row.has(column) or turns_a is None or turns_b is None):
            prompt = row.prompt(column)
        elif turns_a is None or turns_b is None:
            raise row.error(f"{names} must be lists of messages: the turns before the response are the prompt.")
        elif turns_a:
            return row.conversation(first, turns_a)
        else:
            raise row.error(
                "no `prompt`, and no messages before the response. Add a `prompt` column, or the conversation that "
                "leads to the response.",
                missing_reason("prompt"),
            )
        asked = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        if not turns or _ends_with(asked, turns):
            return prompt
        if turns[0].role == "assistant":
            return row.conversation(first, (*asked, *turns))
        if any(_ends_with(turns[:end], asked) for end in range(1, len(turns) + 1)):
            return row.conversation(first, turns)
        raise row.error(
            f"the conversation before the responses does not hold the `{column}`. Leave out the column, and the "
            "conversation is the prompt, or correct one of them.",
            "prompt beside another conversation",
            skippable=True,
        )


def _ends_with(messages: Sequence[Message], end: Sequence[Message]) -> bool:
    """Whether the last messages are those of ``end``, but for blanks around them."""
    last = messages[len(messages) - len(end) :]
    return [(m.role, m.content.strip()) for m in last] == [(m.role, m.content.strip()) for m in end]


# --- which format a source has --------------------------------------------------------------------------------------

OWN = Format("pairs", ColumnSettings(subset="subset"))


def _published() -> Iterator[Format]:
    entries = YAML(typ="safe").load(resources.files("rubric_arm_lite.data").joinpath("formats.yaml").read_text("utf-8"))
    for name, entry in entries.items():
        columns = ColumnSettings.model_validate(entry.pop("columns", {}))
        hub, known_by = tuple(entry.pop("hub", ())), tuple(entry.pop("known_by", ()))
        yield Format(name, columns, hub, known_by=known_by, **entry)


FORMATS = {format.name: format for format in _published()}
"""Every published format, by name."""


def known_format(source: str) -> Format | None:
    """The format of a known Hub id, in any letter case, or of a folder whose path ends in one, as a clone's may."""
    name = "/".join(Path(source).parts[-2:]).lower()
    return next((format for format in FORMATS.values() if name in map(str.lower, format.hub)), None)


def choose_format(settings: SourceSettings, row: Row) -> Format:
    """The format of a source whose first row is ``row``: described, named, or recognized by its Hub id or columns.

    Raises:
        ConfigError: if the name is a plug-in's that cannot be loaded.
    """
    if settings.columns is not None:
        return Format("columns", settings.columns)
    name = settings.format
    if is_plugin(name):
        return replace(OWN, name=name, plugin=load_plugin(name, "format"))
    if name != "auto":
        return FORMATS.get(name, OWN)
    ours = [(OWN.columns.responses, prompt) for prompt in (OWN.columns.prompt, None)]
    recognizable = [
        format
        for format in FORMATS.values()
        if format.known_by
        or format.compares_lists
        or format.columns.transcripts
        or (format.columns.responses, format.columns.prompt) not in ours
    ]
    known = known_format(str(settings.source)) or next((format for format in recognizable if format.fits(row)), None)
    if known is None and not all(map(row.has, OWN.responses)):  # the first row may be one that cannot be used
        known = next((format for format in recognizable if format.fits(row, nulls=True)), None)
    return known or OWN


def open_source(settings: SourceSettings, on_bad: OnBadRow | None = None) -> tuple[Format, Iterator[Row]]:
    """The format of a source, which may depend on its first row, and its first ``settings.rows`` rows.

    Raises:
        ConfigError: for a plug-in that cannot be loaded.
        DataError: as :func:`~rubric_arm_lite.data.sources.open_rows`.
    """
    source, split, config = str(settings.source), settings.split, settings.config
    known = known_format(source)
    if known is not None and not was_saved(source):
        split, config = split or known.split, config or known.config
    opened = partial(open_rows, source, config=config, split=split, revision=settings.revision)
    rows = opened(streaming=settings.streaming, on_bad=on_bad)
    first = next(rows)
    return choose_format(settings, first), islice(chain([first], rows), settings.rows)


def prompt_format(format: Format, row: Row) -> Format:
    """The format that finds the prompt of a row like ``row``, which may have no responses.

    It is ``format``, unless that is our own and the row has neither a prompt nor responses of ours: then it reads the
    first column in which a published format has its prompts, or else `messages`, without a response at their end.
    """
    if format is not OWN or any(map(row.has, OWN.required)):
        return format
    named = ((other.prompt_column, other.columns.prompt) for other in FORMATS.values())
    prompts = [prompt for column, prompt in named if column is not None and row.has(column)]
    if prompts:  # of `instruction` alone and with `input`, the one that reads more
        most = max(prompts, key=lambda prompt: sum(map(row.has, as_tuple(prompt))))
        return Format("prompts", ColumnSettings(prompt=most))
    if not row.has("messages"):
        return format
    answered = row.messages("messages")[-1].role == "assistant"
    both = ("messages", "messages") if answered else OWN.responses
    return Format("prompts", ColumnSettings(prompt=None if answered else "messages", responses=both))
