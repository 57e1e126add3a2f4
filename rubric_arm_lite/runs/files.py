"""Writes files so that a kill leaves none half written, and reads logs as rows that know their file and line.

We write these logs, so readers access fields without a check: ``row["reason"]``. If somebody removed a field by hand,
the row raises a :class:`~rubric_arm_lite.errors.CheckpointError` that names file, line and field.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from rubric_arm_lite.errors import CheckpointError

_FIX = "Restore it, or start anew under another name."


def atomic_write(target: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new: write beside it, flush to disk, rename."""
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    fsync(target.parent)


@contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Turn the error of a full disk or quota into a :class:`CheckpointError` that says how to continue."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CheckpointError(
            f"The disk that holds {path} is full. Free some space and continue with --resume; everything up to "
            "the last checkpoint is kept."
        ) from error


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_file(file: IO[Any], path: Path) -> None:
    """Lock an open file for this process until it is closed; ``path`` is named in the error.

    Raises:
        CheckpointError: if another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise CheckpointError(f"{path} is in use by another process. Wait for it, or choose another name.") from error


# --- reading --------------------------------------------------------------------------------------------------------


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
