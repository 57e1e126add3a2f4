"""Source rows with checked access to their columns, and the reader of JSON Lines, CSV and Parquet files.

A :class:`Row` is one source row and its place. Its methods return a column in the requested type, or raise one
:class:`RowError` that names the place, the column and the fix. Folders and Hub data sets are read in :mod:`.sources`.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import DataError, first_line
from rubric_arm_lite.types import Message, Prompt

MESSAGE_ROLES = ("system", "user", "assistant", "tool")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
FILE_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".parquet")
_TEXT_OR_MESSAGES = "Give a text or a list of messages."
_LONGEST_CELL = 2**31 - 1


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


OnBadRow = Callable[[RowError], None]
"""Receives each row that cannot be read; reading then goes on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One source row and its place: ``pairs.jsonl, line 3``, or ``owner/name, split train, row 3`` (rows from 1)."""

    where: str
    columns: Mapping[str, Any]

    def error(self, problem: str, reason: str = "malformed", skippable: bool = False) -> RowError:
        """An error at this row's place; ``problem`` says what is wrong and how to fix it."""
        return RowError(f"{self.where}: {problem}", reason, skippable)

    def has(self, name: str) -> bool:
        """Whether the column exists and is not null."""
        return self.columns.get(name) is not None

    def require(self, *names: str) -> None:
        """Check that the row has these columns; a null passes.

        Raises:
            RowError: if one is missing; the error lists the expected and the actual columns.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise self.error(
                f"column `{missing[0]}` is missing. Expected: {', '.join(names)}; found: {show_names(self.columns)}. "
                "Check that the source is the one named, and its config and revision.",
                without(missing[0]),
            )

    def value(self, name: str) -> Any:
        """The column as it is; it may not be missing or null."""
        if self.has(name):
            return self.columns[name]
        if name in self.columns:
            raise self.error(f"column `{name}` is null. Each row needs one.", f"`{name}` null")
        found = show_names(self.columns)
        raise self.error(f"column `{name}` is missing (found: {found}). Each row needs one.", without(name))

    def text(self, name: str) -> str:
        """A text that is not blank."""
        return self._not_blank(f"column `{name}`", self._typed(name, str, "Give a text."))

    def label(self, name: str) -> str:
        """An optional text; empty if the column is absent or null."""
        if not self.has(name):
            return ""
        return self.checked(f"column `{name}`", self._typed(name, str, "Give a text, or leave it out."))

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.value(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) <= sys.float_info.max:
            raise self.error(f"column `{name}` is {show(value)}. Give a finite number.", wrong_type(name))
        return float(value)

    def items(self, name: str, item: str = "item") -> list[Any]:
        """A list with at least one item of any type; errors call the items ``item``."""
        items: list[Any] = self._typed(name, list, "Give a list." if item == "item" else f"Give a list of {item}s.")
        if not items:
            raise self.error(f"column `{name}` is an empty list. Give at least one {item}.", "empty list")
        return items

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts that are not blank, at least one."""
        items = {f"item {number} of `{name}`": item for number, item in enumerate(self.items(name), start=1)}
        for what, item in items.items():
            if not isinstance(item, str):
                raise self.error(f"{what} is {kind(item)}. Give texts.", wrong_type(name))
        return tuple(self._not_blank(what, item) for what, item in items.items())

    def messages(self, name: str) -> tuple[Message, ...]:
        """A list of messages ``{"role": …, "content": …}``, at least one."""
        messages = []
        for number, item in enumerate(self.items(name, "message"), start=1):
            what = f"message {number} of `{name}`"
            if not isinstance(item, dict):
                problem = f'{what} is {kind(item)}. Write {{"role": …, "content": …}}.'
            elif item.get("role") not in MESSAGE_ROLES:
                problem = f"{what} has role {show(item.get('role'))}. Use one of {', '.join(MESSAGE_ROLES)}."
            elif not isinstance(item.get("content"), str):
                problem = f"the content of {what} is {kind(item.get('content'))}. Give a text."
            else:
                messages.append(Message(item["role"], self.checked(what, item["content"])))
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
        content = self._not_blank(f"the last user message of `{name}`", last.content)
        return content if len(messages) == 1 else messages

    def response(self, name: str) -> tuple[str, tuple[Message, ...] | None]:
        """The response text, and the turns before it if the column holds messages."""
        value = self._text_or_messages(name)
        if isinstance(value, str):
            return value, None
        *turns, last = value
        if last.role != "assistant":
            raise self.error(
                f"the last message of `{name}` is by {last.role!r}. End it with the assistant's response.",
                "conversation without a response",
            )
        return self._not_blank(f"the last message of `{name}`", last.content), tuple(turns)

    def checked(self, what: str, text: str) -> str:
        """The text if it can be encoded; half a surrogate pair would fail in hashing, printing or tokenization."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(
                f"{what} has half of a surrogate pair, {text[error.start]!a}, at character {error.start}. Write the "
                "whole character, or take it out.",
                "half of a surrogate pair",
            ) from error
        return text

    def _typed(self, name: str, of: type, fix: str) -> Any:
        value = self.value(name)
        if not isinstance(value, of):
            raise self.error(f"column `{name}` is {kind(value)}. {fix}", wrong_type(name))
        return value

    def _text_or_messages(self, name: str) -> str | tuple[Message, ...]:
        if isinstance(self.value(name), list):
            return self.messages(name)
        return self._not_blank(f"column `{name}`", self._typed(name, str, _TEXT_OR_MESSAGES))

    def _not_blank(self, what: str, text: str) -> str:
        if not text.strip():
            raise self.error(f"{what} is empty. Fill it, or leave the row out.", "empty text", skippable=True)
        return self.checked(what, text)


# --- wording --------------------------------------------------------------------------------------------------------


def show(value: Any) -> str:
    """A value for a message: short, and printable whatever it holds."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    return kind(value)


def show_names(names: Iterable[str]) -> str:
    """Column names for a message, the first 40 at most."""
    names = list(names)
    more = f", and {len(names) - 40} more" if len(names) > 40 else ""
    return (", ".join(show(name)[1:-1] for name in names[:40]) or "none") + more


def without(name: str) -> str:
    """The reason that counts rows without a column."""
    return f"without `{name}`"


def wrong_type(name: str) -> str:
    """The reason that counts rows whose column has the wrong type."""
    return f"`{name}` of the wrong type"


def kind(value: Any) -> str:
    """The type of a value in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    words = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return words.get(type(value), f"a {type(value).__name__}")


# --- files ----------------------------------------------------------------------------------------------------------


def file_rows(path: str | Path, on_bad: OnBadRow | None = None) -> Iterator[Row]:
    """The rows of a JSON Lines, CSV or Parquet file, by its suffix.

    Args:
        on_bad: receives each line that is not a row, and reading goes on; without it the first one is an error. Damage
            after which no row can be found (open quotes in a CSV, a broken Parquet file) is always an error.

    Raises:
        DataError: for a file or row that cannot be read, or if there is no row.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it takes names that are too long
        raise DataError(f"{path} is a folder. Give a file: JSONL, CSV or Parquet.")
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(
            f"There is no file {path}. Check the path; a relative one starts at the working directory or, in a recipe, "
            "beside the recipe."
        )
    readers = {**dict.fromkeys(JSON_SUFFIXES, _json_rows), ".csv": _csv_rows, ".parquet": _parquet_rows}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise DataError(f"{path} ends in {suffix or 'nothing'}. Give a .jsonl, .json, .csv or .parquet file.")
    yield from at_least_one(_checked_rows(readers[suffix](path), on_bad), str(path))


def at_least_one(rows: Iterable[Row], source: str) -> Iterator[Row]:
    """The same rows; having none is a :class:`~rubric_arm_lite.errors.DataError`."""
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{source} has no rows. Give at least one.")


def _checked_rows(rows: Iterable[Row | RowError], on_bad: OnBadRow | None) -> Iterator[Row]:
    for row in rows:
        if isinstance(row, Row):
            yield row
        elif on_bad is None:
            raise row
        else:
            on_bad(row)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Lines split at line feeds only, each with its place; the byte order mark is removed."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}, line {number}", line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def _decoded(where: str, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 ({error.reason}, byte {error.start}). Save the file as UTF-8."
        raise RowError(f"{where}: {problem}", "not UTF-8") from error


def _json_rows(path: Path) -> Iterator[Row | RowError]:
    for where, line in _lines(path):
        try:
            text = _decoded(where, line)
            if text.strip():
                yield _json_row(where, text)
        except RowError as error:
            yield error


def _json_row(where: str, line: str) -> Row:
    try:
        value = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        is_array = where.endswith(", line 1") and line.lstrip().startswith("[")
        fix = "Write one object per line in place of an array." if is_array else "Write one complete object per line."
        raise RowError(f"{where}: not JSON ({error.msg}, column {error.colno}). {fix}", "not JSON") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise RowError(f"{where}: JSON that cannot be read ({error}). Simplify the row.", "not JSON") from error
    if not isinstance(value, dict):
        raise RowError(f'{where}: {kind(value)}. Write one object per line: {{"prompt": …, …}}.', "no object")
    return Row(where, value)


def _csv_rows(path: Path) -> Iterator[Row | RowError]:
    """Rows of a CSV file with a header, each named by the line it begins on (pandas does not keep these)."""
    reader = csv.reader((_decoded(*line) for line in _lines(path)), strict=True)
    header: Sequence[str] = ()
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        usual_limit = csv.field_size_limit(_LONGEST_CELL)  # global to the csv module, so it is restored at once
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise RowError(
                f"{where}: not CSV ({error}). Put cells with commas, quotes or line breaks into double quotes, and "
                "double the quotes inside.",
                "not CSV",
            ) from error
        finally:
            csv.field_size_limit(usual_limit)
        if cells is None:
            return
        if not header:
            header = cells
            repeated = [name for name, count in Counter(header).items() if count > 1]
            if repeated:
                raise DataError(f"{where}: the header has {show(repeated[0])} twice. Rename one of the columns.")
        elif cells and len(cells) != len(header):
            problem = f"{where}: {len(cells)} cells under a header of {len(header)}. Quote cells that contain commas, "
            yield RowError(f"{problem}quotes or line breaks.", "more or fewer cells than the header")
        elif cells:
            yield Row(where, dict(zip(header, cells, strict=True)))


def _parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, numbered from 1."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for number, columns in enumerate(batch.to_pylist(), start=number + 1):  # noqa: B020
                    yield Row(f"{path}, row {number}", columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, after row {number}: text that is not UTF-8. Write the file again with UTF-8 texts."
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}). Write it again.") from error
