"""Rows and their columns: what every reader of data stands on.

A :class:`Row` is one source row with its place, and checked access to its columns: each method gives the value in the
type that is asked for, or raises one :class:`~rubric_arm_lite.errors.DataError` that names the place, the column and
the mend. Rows of files are read by :mod:`rubric_arm_lite.data.rows`, those of folders and of the Hub by
:mod:`rubric_arm_lite.data.sources`.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import DataError, first_line
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


JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
FILE_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".parquet")
_LONGEST_CELL = 2**31 - 1

OnBadRow = Callable[[RowError], None]
"""Is told of a row that cannot be read, in place of an end to the reading."""


def file_rows(path: str | Path, on_bad: OnBadRow | None = None) -> Iterator[Row]:
    """The rows of a JSON Lines, CSV or Parquet file, told by its suffix.

    Args:
        on_bad: is told of a line that is no row, and reading goes on; a row after which no other can be found (quotes
            in a CSV, a damaged Parquet file) is an error all the same.

    Raises:
        DataError: for a file or the first row that cannot be read, or if there is no row.
    """
    path = Path(path)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError:  # a name that is too long
        exists, is_folder = False, False
    if is_folder:
        raise DataError(f"{path} is a folder. Give a file: JSONL, CSV or Parquet.")
    if not exists:
        raise DataError(
            f"There is no file {path}. Check the path; a relative one starts at the working directory or, in a recipe, "
            "beside the recipe."
        )
    match path.suffix.lower():
        case suffix if suffix in JSON_SUFFIXES:
            rows = _json_rows(path, on_bad)
        case ".csv":
            rows = _csv_rows(path, on_bad)
        case ".parquet":
            rows = _parquet_rows(path)
        case suffix:
            raise DataError(f"{path} ends in {suffix or 'nothing'}. Give a .jsonl, .json, .csv or .parquet file.")
    yield from some(rows, str(path))


def some(rows: Iterable[Row], source: str) -> Iterator[Row]:
    """The rows, of which there must be one.

    Raises:
        DataError: at the end, if there was none.
    """
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{source} has no rows. Give at least one.")


def _lines(path: Path, on_bad: OnBadRow | None = None) -> Iterator[tuple[int, str]]:
    """Numbered lines from 1, split at line feeds only, without the byte order mark."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                content = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                try:
                    line = content.decode("utf-8")
                except UnicodeDecodeError as error:
                    problem = f"not UTF-8 ({error.reason}, byte {error.start}). Save the file as UTF-8."
                    _refuse(RowError(f"{path}, line {number}: {problem}", "not UTF-8"), on_bad)
                else:
                    yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def _refuse(error: RowError, on_bad: OnBadRow | None) -> None:
    """Tell of a bad row, or end the reading with it."""
    if on_bad is None:
        raise error
    on_bad(error)


def _json_rows(path: Path, on_bad: OnBadRow | None) -> Iterator[Row]:
    for number, line in _lines(path, on_bad):
        if not line.strip():
            continue
        try:
            row = _json_row(f"{path}, line {number}", line, number)
        except RowError as error:
            _refuse(error, on_bad)
        else:
            yield row


def _json_row(where: str, line: str, number: int) -> Row:
    try:
        value = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        if number == 1 and line.lstrip().startswith("["):
            mend = "Write one object per line in place of an array."
        else:
            mend = "Write one complete object per line."
        raise RowError(f"{where}: not JSON ({error.msg}, column {error.colno}). {mend}", "not JSON") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise RowError(f"{where}: JSON that cannot be read ({error}). Simplify the row.", "not JSON") from error
    if not isinstance(value, dict):
        raise RowError(f'{where}: {kind(value)}. Write one object per line: {{"prompt": …, …}}.', "no object")
    return Row(where, value)


def _csv_rows(path: Path, on_bad: OnBadRow | None) -> Iterator[Row]:
    """Rows of a CSV with a header; a row is named by the line it begins on."""
    header: list[str] | None = None
    for line, cells in _csv_records(path):
        where = f"{path}, line {line}"
        if header is None:
            header = cells
            twice = [name for name, count in Counter(header).items() if count > 1]
            if twice:
                raise DataError(f"{where}: the header has {show(twice[0])} twice. Rename one of the columns.")
        elif len(cells) != len(header):
            problem = f"{where}: {len(cells)} cells under a header of {len(header)}. Quote cells that contain commas, "
            _refuse(RowError(f"{problem}quotes or line breaks.", "more or fewer cells than the header"), on_bad)
        else:
            yield Row(where, dict(zip(header, cells, strict=True)))


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, each with the line it begins on."""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    while True:
        begins = reader.line_num + 1
        usual_limit = csv.field_size_limit(_LONGEST_CELL)  # global to the csv module, hence put back at once
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RowError(
                f"{path}, line {begins}: not CSV ({error}). Put cells with commas, quotes or line breaks into double "
                "quotes, and double the quotes inside.",
                "not CSV",
            ) from error
        finally:
            csv.field_size_limit(usual_limit)
        if cells:
            yield begins, cells


def _parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, numbered from 1. Read by pyarrow, which `datasets` stands on, without its cache."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for columns in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, after row {number}: text that is not UTF-8. Write the file again with UTF-8 texts."
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({first_line(error)}). Write it again.") from error
