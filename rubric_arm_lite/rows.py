"""Rows and their columns: what every reader of data stands on.

A :class:`Row` is one source row with its place, and checked access to its columns: each method gives the value in the
type that is asked for, or raises one :class:`~rubric_arm_lite.errors.DataError` that names the place, the column and
the mend. Rows of files are read by :mod:`rubric_arm_lite.row_files`, those of folders and of the Hub by
:mod:`rubric_arm_lite.sources.opening`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.errors import DataError
from rubric_arm_lite.types import Message, Prompt

MESSAGE_ROLES = ("system", "user", "assistant", "tool")
_COLUMNS_SHOWN = 40
_MESSAGE = "malformed message"


class RowError(DataError):
    """One row that cannot be read or used; ``reason`` is a name to count such rows by."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnusableRowError(RowError):
    """A row of the right form that cannot serve: an empty text, equal responses, a tie.

    In a user's own file it is an error like any other. In a published data set, which nobody can mend, it is left out
    and counted.
    """


@dataclass(frozen=True, slots=True)
class Row:
    """One source row and its place: ``pairs.jsonl, line 3``, or ``owner/name, split train, row 3`` (rows from 1)."""

    where: str
    columns: Mapping[str, Any]

    def error(self, problem: str, reason: str = "malformed") -> RowError:
        """An error at this row's place; ``problem`` says what is wrong and what to do."""
        return RowError(f"{self.where}: {problem}", reason)

    def unusable(self, problem: str, reason: str) -> UnusableRowError:
        """An error at this row's place that says the row cannot serve; ``reason`` is a name to count it by."""
        return UnusableRowError(f"{self.where}: {problem}", reason)

    def has(self, name: str) -> bool:
        """Whether the column is there and not null."""
        return self.columns.get(name) is not None

    def require(self, *names: str) -> None:
        """Refuse a row without these columns; the error lists those expected and those found.

        Raises:
            DataError: if one of them is missing; a null passes.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise self.error(
                f"column `{missing[0]}` is missing. Expected: {', '.join(names)}; found: {self._found()}. Check that "
                "the source is the one named, and its config and revision.",
                without(missing[0]),
            )

    def value(self, name: str) -> Any:
        """The column as it is; it may not be missing or null."""
        value = self.columns.get(name)
        if value is None:
            if name in self.columns:
                raise self.error(f"column `{name}` is null. Each row needs one.", f"`{name}` null")
            raise self.error(f"column `{name}` is missing (found: {self._found()}). Each row needs one.", without(name))
        return value

    def text(self, name: str) -> str:
        """A text that shows something."""
        value = self.value(name)
        if not isinstance(value, str):
            raise self.error(f"column `{name}` is {kind(value)}. Give a text.", wrong_kind(name))
        return self._filled(f"column `{name}`", value)

    def label(self, name: str) -> str:
        """An optional text; empty if absent."""
        value = self.columns.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(f"column `{name}` is {kind(value)}. Give a text, or leave it out.", wrong_kind(name))
        return self.checked(f"column `{name}`", value)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(f"column `{name}` is {show(value)}. Give a finite number.", wrong_kind(name))
        return float(value)

    def items(self, name: str) -> list[Any]:
        """A list with at least one item, of any kind."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.error(f"column `{name}` is {kind(value)}. Give a list.", wrong_kind(name))
        if not value:
            raise self.error(f"column `{name}` is an empty list. Give at least one item.", "empty list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts that show something, at least one."""
        items = self.items(name)
        for number, item in enumerate(items, start=1):
            if not isinstance(item, str):
                raise self.error(f"item {number} of `{name}` is {kind(item)}. Give texts.", wrong_kind(name))
        return tuple(self._filled(f"item {number} of `{name}`", item) for number, item in enumerate(items, start=1))

    def field(self, name: str, key: str) -> str:
        """The text under ``key`` of a column that holds an object."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise self.error(f"column `{name}` is {kind(value)}. Give an object with `{key}`.", wrong_kind(name))
        return Row(self.where, {f"{name}.{inner}": item for inner, item in value.items()}).text(f"{name}.{key}")

    def messages(self, name: str) -> tuple[Message, ...]:
        """A list of messages ``{"role": …, "content": …}``, at least one."""
        value = self.value(name)
        if not isinstance(value, list):
            raise self.error(f"column `{name}` is {kind(value)}. Give a list of messages.", wrong_kind(name))
        if not value:
            raise self.error(f"column `{name}` is an empty list. Give at least one message.", "empty list")
        messages = []
        for number, item in enumerate(value, start=1):
            what = f"message {number} of `{name}`"
            if not isinstance(item, dict):
                raise self.error(f'{what} is {kind(item)}. Write {{"role": …, "content": …}}.', _MESSAGE)
            role, content = item.get("role"), item.get("content")
            if role not in MESSAGE_ROLES:
                raise self.error(f"{what} has role {show(role)}. Use one of {', '.join(MESSAGE_ROLES)}.", _MESSAGE)
            if not isinstance(content, str):
                raise self.error(f"the content of {what} is {kind(content)}. Give a text.", _MESSAGE)
            messages.append(Message(role, self.checked(what, content)))
        return tuple(messages)

    def prompt(self, name: str = "prompt") -> Prompt:
        """A text, or messages that end with the user's turn; one user message is the same as its text."""
        value = self.value(name)
        if isinstance(value, list):
            return self.conversation(name, self.messages(name))
        if not isinstance(value, str):
            raise self.error(f"column `{name}` is {kind(value)}. Give a text or a list of messages.", wrong_kind(name))
        return self._filled(f"column `{name}`", value)

    def conversation(self, name: str, messages: tuple[Message, ...]) -> Prompt:
        """These messages of column ``name`` as a prompt."""
        last = messages[-1]
        if last.role != "user":
            raise self.unusable(
                f"the conversation in `{name}` ends with a message by {last.role!r}. End it with the user's turn.",
                "conversation without a last request",
            )
        content = self._filled(f"the last user message of `{name}`", last.content)
        return content if len(messages) == 1 else messages

    def response(self, name: str) -> tuple[str, tuple[Message, ...] | None]:
        """The response text, and the turns before it if the column holds messages."""
        value = self.value(name)
        if isinstance(value, list):
            messages = self.messages(name)
            if messages[-1].role != "assistant":
                raise self.error(
                    f"the last message of `{name}` is by {messages[-1].role!r}. End it with the assistant's response.",
                    "conversation without a response",
                )
            return self._filled(f"the last message of `{name}`", messages[-1].content), messages[:-1]
        if not isinstance(value, str):
            raise self.error(f"column `{name}` is {kind(value)}. Give a text or a list of messages.", wrong_kind(name))
        return self._filled(f"column `{name}`", value), None

    def checked(self, what: str, text: str) -> str:
        """The text, if it can be encoded: half a surrogate pair would fail in hashing, printing or tokenising."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(
                f"{what} has half of a surrogate pair, {text[error.start]!a}, at character {error.start}. Write the "
                "whole character, or take it out.",
                "half a character",
            ) from error
        return text

    def _filled(self, what: str, text: str) -> str:
        if not text.strip():
            raise self.unusable(f"{what} is empty. Fill it, or leave the row out.", "empty text")
        return self.checked(what, text)

    def _found(self) -> str:
        return show_names(list(self.columns))


# --- wording --------------------------------------------------------------------------------------------------------


def show(value: Any) -> str:
    """A value for a message: short, and printable whatever is in it."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    return kind(value)


def show_names(names: Sequence[str]) -> str:
    """Names of columns for a message, the first ones if there are very many."""
    more = f", and {len(names) - _COLUMNS_SHOWN} more" if len(names) > _COLUMNS_SHOWN else ""
    return (", ".join(show(name)[1:-1] for name in names[:_COLUMNS_SHOWN]) or "none") + more


def without(name: str) -> str:
    """The reason by which rows without a column are counted."""
    return f"without `{name}`"


def wrong_kind(name: str) -> str:
    """The reason by which rows are counted whose column holds something of another kind."""
    return f"`{name}` of another kind"


def kind(value: Any) -> str:
    """What sort of value this is, for a message."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"
