"""Rows of JSON Lines, CSV and Parquet files.

A path goes in, :class:`~rubric_arm_lite.rows.Row` objects with their line (in Parquet the row) come out. Nothing is
skipped or repaired in silence, except blank lines and a byte order mark.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rubric_arm_lite.errors import DataError, first_line
from rubric_arm_lite.rows import Row, RowError, kind, show

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
