"""Reads logs and journals as rows that know their file and line.

We write these files, so readers access fields without a check: ``row["reason"]``. If somebody removed a field by hand,
the row raises a :class:`~rubric_arm_lite.errors.CheckpointError` that names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError

_FIX = "Restore it, or start anew under another name."


class LogRow(dict[str, Any]):
    """A JSON object of a log, or an object in one; ``where`` is its file and line.

    ``row[name]`` raises a :class:`CheckpointError` for a missing field; ``get`` and ``in`` work as in a dict.
    """

    __slots__ = ("where",)

    def __init__(self, where: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise CheckpointError(
            f"{self.where}: no `{name}` here. The file was edited, or written by another version. {_FIX}"
        )


def parse_row(text: bytes, where: str) -> LogRow:
    """The JSON object in ``text``; raises ValueError, TypeError or RecursionError for anything else."""
    row = json.loads(text.decode(), object_hook=partial(LogRow, where))
    if not isinstance(row, LogRow):
        raise TypeError("not an object")
    return row


def read_jsonl(path: Path) -> Iterator[LogRow]:
    """Rows of a JSONL file; a missing file has none, and a last line without a line break is still being written.

    Raises:
        CheckpointError: if the file cannot be read, or a line is not a JSON object.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). {_FIX}") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = parse_row(line, f"{path}, line {number}")
            except (ValueError, TypeError, RecursionError) as error:
                raise CheckpointError(f"{path} is damaged in line {number} ({error}). {_FIX}") from error
            yield row


def read_object(path: Path) -> LogRow:
    """The object in a JSON file.

    Raises:
        CheckpointError: if it cannot be read, or holds anything else.
    """
    try:
        return parse_row(path.read_bytes(), str(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {_FIX}") from error
