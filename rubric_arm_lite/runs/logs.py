"""What logs and journals say when they are read again: rows that know their file and line.

Such files are ours, so a reader takes a field for granted: ``row["reason"]``. Where somebody edited one by hand and the
field is gone, the row itself says so, in one :class:`~rubric_arm_lite.errors.CheckpointError` for all readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError

_MEND = "Restore it, or start anew under another name."


class LogRow(dict[str, Any]):
    """An object of a log, the ones inside it included; ``where`` is its file and line.

    Raises:
        CheckpointError: by ``row[name]``, if there is no such field; ``get`` and ``in`` are a dict's.
    """

    __slots__ = ("where",)

    def __init__(self, where: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.where = where

    def __missing__(self, name: str) -> Any:
        raise CheckpointError(
            f"{self.where}: no `{name}` here. The file was edited, or written by another version. {_MEND}"
        )


def parse_row(text: bytes, where: str) -> LogRow:
    """The object that a line or file holds; raises ValueError, TypeError or RecursionError for anything else."""
    found = json.loads(text.decode(), object_hook=partial(LogRow, where))
    if not isinstance(found, LogRow):
        raise TypeError("no object")
    return found


def read_jsonl(path: Path) -> Iterator[LogRow]:
    """Rows of a JSONL file; a missing file has none, and a last line without its end is still being written.

    Raises:
        CheckpointError: if the file cannot be read, or for a line that is no JSON object.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}). {_MEND}") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = parse_row(line, f"{path}, line {number}")
            except (ValueError, TypeError, RecursionError) as error:
                raise CheckpointError(f"{path} is damaged in line {number} ({error}). {_MEND}") from error
            yield row


def read_object(path: Path) -> LogRow:
    """The object that a JSON file holds.

    Raises:
        CheckpointError: if it cannot be read, or holds anything else.
    """
    try:
        return parse_row(path.read_bytes(), str(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {_MEND}") from error
