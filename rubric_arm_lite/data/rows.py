"""Source rows with checked access to their columns.

A :class:`Row` is one source row and its place. Its methods return a column in the requested type, or raise one
:class:`RowError` that names the place, the column and the fix. :mod:`.sources` reads rows from files, folders and the
Hub.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.errors import DataError
from rubric_arm_lite.types import Message, Prompt

MESSAGE_ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]*"
)
"""Texts of blanks and characters that are not displayed, such as zero-width spaces (Unicode: default ignorable)."""
_TYPES = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}


class RowError(DataError):
    """A row that cannot be read or used.

    Attributes:
        reason: names the group in which such rows are counted.
        skippable: the row has the right columns but cannot serve: an empty text, equal responses, a tie. In a user's
            own file this is an error like any other; in a published data set such rows are skipped and counted.
    """

    def __init__(self, message: str, reason: str, skippable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.skippable = skippable


@dataclass(frozen=True, slots=True)
class Row:
    """One source row and its place: ``pairs.jsonl, line 3``, or ``owner/name, split train, row 3`` (rows from 1).

    ``typed`` is False for a CSV's row, whose numbers are texts.
    """

    where: str
    columns: Mapping[str, Any]
    typed: bool = True

    def with_columns(self, columns: Mapping[str, Any], place: str = "") -> Row:
        """The row with these columns in addition or in place of its own; ``place`` follows its name."""
        return Row(self.where + place, {**self.columns, **columns}, self.typed)

    def error(self, problem: str, reason: str = "malformed", skippable: bool = False) -> RowError:
        """An error at this row's place; ``problem`` says what is wrong and how to fix it."""
        return RowError(f"{self.where}: {problem}", reason, skippable)

    def get(self, name: str) -> Any:
        """The column as it is, or what ``column.key`` names inside an object; None if it is missing."""
        if name in self.columns or "." not in name:
            return self.columns.get(name)
        value: Any = self.columns
        for key in name.split("."):
            if isinstance(value, list) and key.isdecimal():
                value = value[int(key)] if int(key) < len(value) else None
            else:
                value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def has(self, name: str) -> bool:
        """Whether the column exists and is not null."""
        return self.get(name) is not None

    def holds(self, name: str) -> bool:
        """Whether the column exists; it may be null."""
        return name in self.columns or self.has(name)

    def require(self, *names: str) -> None:
        """Check that the row has these columns; a null passes.

        Raises:
            RowError: if one is missing; the error lists the expected and the actual columns.
        """
        missing = [name for name in names if not self.holds(name)]
        if missing:
            raise self.error(
                f"column `{missing[0]}` is missing. Expected: {', '.join(names)}; found: {names_list(self.columns)}. "
                "Check that the source is the one named, and its config and revision.",
                missing_reason(missing[0]),
            )

    def value(self, name: str) -> Any:
        """The column as it is; it may not be missing or null."""
        value = self.get(name)
        if value is not None:
            return value
        if name in self.columns:
            raise self.error(f"column `{name}` is null. Each row needs one.", f"`{name}` null")
        problem = f"column `{name}` is missing (found: {names_list(self.columns)}). Each row needs one."
        raise self.error(problem, missing_reason(name))

    def text(self, name: str, blank: bool = False) -> str:
        """A text, which may be blank if ``blank`` says so."""
        return self.checked_text(f"column `{name}`", self.value(name), name, blank)

    def optional_text(self, name: str) -> str:
        """A text; empty if the column is absent or null."""
        value = self.get(name)
        fix = "Give a text, or leave it out."
        return "" if value is None else self.checked_text(f"column `{name}`", value, name, True, fix)

    def one_of(self, name: str, allowed: Sequence[str]) -> str:
        """A text that is one of ``allowed``."""
        value = self.text(name)
        if value not in allowed:
            raise self.error(f"column `{name}` is {short_repr(value)}. Use one of {', '.join(allowed)}.")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.value(name)
        if not self.typed and isinstance(value, str):
            with suppress(ValueError):
                value = float(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= sys.float_info.max:
            raise self.error(
                f"column `{name}` is {value if isinstance(value, float) else short_repr(value)}. Give a finite number.",
                f"`{name}` of the wrong type",
            )
        return float(value)

    def items(self, name: str, item: str = "item") -> list[Any]:
        """A list with at least one item of any type; errors call the items ``item``."""
        items = self.value(name)
        if not isinstance(items, list):
            fix = "Give a list." if item == "item" else f"Give a list of {item}s."
            raise self.error(f"column `{name}` is {type_name(items)}. {fix}", f"`{name}` of the wrong type")
        if not items:
            raise self.error(f"column `{name}` is an empty list. Give at least one {item}.", "empty list")
        return items

    def texts(self, name: str, blank: bool = False) -> tuple[str, ...]:
        """A list of at least one text."""
        items = enumerate(self.items(name), start=1)
        return tuple(self.checked_text(f"item {number} of `{name}`", item, name, blank) for number, item in items)

    def inner(self, name: str, number: int | None = None) -> Row:
        """The object in a column, or item ``number`` (from 1) of the list there, as a row of its own."""
        what = f"`{name}`" if number is None else f"item {number} of `{name}`"
        value = self.value(name) if number is None else self.items(name)[number - 1]
        if not isinstance(value, dict):
            raise self.error(f"{what} is {type_name(value)}. Give an object.")
        return Row(f"{self.where}, {what}", value)

    def messages(self, name: str) -> tuple[Message, ...]:
        """A list of messages ``{"role": …, "content": …}``, or ShareGPT's ``{"from": …, "value": …}``; at least one."""
        messages = []
        for number, item in enumerate(self.items(name, "message"), start=1):
            what = f"message {number} of `{name}`"
            if isinstance(item, dict) and "role" not in item and "from" in item:
                item = {"role": _SHAREGPT_ROLES.get(str(item["from"]), item["from"]), "content": item.get("value")}
            if not isinstance(item, dict):
                problem = f'{what} is {type_name(item)}. Write {{"role": …, "content": …}}.'
            elif item.get("role") not in MESSAGE_ROLES:
                problem = f"{what} has role {short_repr(item.get('role'))}. Use one of {', '.join(MESSAGE_ROLES)}."
            elif not isinstance(content := _joined(item.get("content")), str):
                problem = (
                    f"the content of {what} is {type_name(content)}. Give a text, or a list of parts of type text."
                )
            else:
                messages.append(Message(item["role"], self.checked_text(what, content, name, True)))
                continue
            raise self.error(problem, "malformed message")
        return tuple(messages)

    def prompt(self, name: str = "prompt") -> Prompt:
        """A text, or messages that end with the user's turn; a single user message equals its text."""
        value = self._text_or_messages(name)
        return value if isinstance(value, str) else self.conversation(name, value)

    def conversation(self, name: str, messages: tuple[Message, ...]) -> Prompt:
        """Messages of column ``name`` as a prompt."""
        last = messages[-1]
        if last.role != "user":
            raise self.error(
                f"the conversation in `{name}` ends with a message by {last.role!r}. End it with the user's turn.",
                "conversation without a last request",
                skippable=True,
            )
        content = self.checked_text(f"the last user message of `{name}`", last.content, name)
        return content if len(messages) == 1 else messages

    def response(self, name: str) -> tuple[str, tuple[Message, ...] | None]:
        """The response text, and the turns before it if the column holds messages: a list, or the response alone."""
        if isinstance(message := self.get(name), dict) and message.keys() & {"role", "from"}:
            return Row(self.where, {name: [message]}).response(name)[0], None
        value = self._text_or_messages(name)
        if isinstance(value, str):
            return value, None
        *turns, last = value
        if last.role != "assistant":
            raise self.error(
                f"the last message of `{name}` is by {last.role!r}. End it with the assistant's response.",
                "conversation without a response",
            )
        return self.checked_text(f"the last message of `{name}`", last.content, name), tuple(turns)

    def checked_text(self, what: str, value: Any, name: str, blank: bool = False, fix: str = "Give a text.") -> str:
        """A value of column ``name``, called ``what`` in errors, if it is a text that can be encoded.

        Half of a surrogate pair would fail in hashing, printing or tokenization.
        """
        if not isinstance(value, str):
            raise self.error(f"{what} is {type_name(value)}. {fix}", f"`{name}` of the wrong type")
        if not blank and not is_visible(value):
            raise self.error(f"{what} is empty. Fill it, or leave the row out.", "empty text", skippable=True)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(
                f"{what} has half of a surrogate pair, {value[error.start]!a}, at character {error.start}. Write the "
                "whole character, or take it out.",
                "half of a surrogate pair",
            ) from error
        return value

    def _text_or_messages(self, name: str) -> str | tuple[Message, ...]:
        value = self.value(name)
        if isinstance(value, list):
            return self.messages(name)
        return self.checked_text(f"column `{name}`", value, name, fix="Give a text or a list of messages.")


def _joined(content: Any) -> Any:
    """A message's parts ``{"type": "text", "text": …}`` as one text; any other content as it is."""
    if not isinstance(content, list) or not content:
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    return "".join(texts) if len(texts) == len(content) else content


def is_visible(text: str) -> bool:
    """Whether a text has a character that is displayed."""
    return _INVISIBLE.fullmatch(text) is None


def short_repr(value: Any) -> str:
    """A value for a message: short, and printable whatever it holds."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    return type_name(value)


def type_name(value: Any) -> str:
    """The type of a value in words; null, true and false as they are."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return _TYPES.get(type(value), f"a {type(value).__name__}")


def names_list(names: Iterable[str]) -> str:
    """Column names for a message, the first 40 at most."""
    names = list(names)
    more = f", and {len(names) - 40} more" if len(names) > 40 else ""
    return (", ".join(short_repr(name)[1:-1] for name in names[:40]) or "none") + more


def missing_reason(name: str) -> str:
    """The reason that counts rows without a column."""
    return f"without `{name}`"
