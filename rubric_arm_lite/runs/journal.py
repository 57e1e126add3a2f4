"""The journal of a long job: one line for each finished piece, so that a killed job goes on where it stopped.

The first line says what the job is; a journal of another job is refused. Rows are appended and reach the disk before
:meth:`Journal.add` returns. A line that was cut by a kill is dropped at the next opening, and its piece is done again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.runs.directory import IfExists
from rubric_arm_lite.runs.logs import parse_row

_HEAD = "job"
_KEY = "key"


class Journal:
    """Finished rows by key, held by one process at a time.

    Attributes:
        rows: what is done, in the order in which it was finished. A row from the file whose field is gone says so.
    """

    def __init__(self, path: Path, file: IO[bytes], rows: dict[str, dict[str, Any]]) -> None:
        self.path = path
        self.rows = rows
        self._file = file

    @classmethod
    def open(cls, path: Path, job: Mapping[str, Any], if_exists: IfExists = "resume") -> Journal:
        """Start a journal, or continue the one of the same job.

        Args:
            job: what decides the rows (inputs, adapters, settings), as JSON values.

        Raises:
            CheckpointError: if the file is no journal, belongs to another job, is in use, or exists and may not.
        """
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder. Name a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists() and path.stat().st_size > 0
        if existed and if_exists == "raise":
            raise CheckpointError(f"{path} exists. Continue it (resume), start anew (overwrite), or name another file.")
        file = path.open("a+b")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CheckpointError(
                    f"{path} is in use by another process. Wait for it, or name another file."
                ) from error
            if if_exists == "overwrite" and not _cut_head(file):
                raise CheckpointError(f"{path} is no journal. Name another file; nothing was touched.")
            wanted = json.loads(json.dumps(dict(job)))
            rows, good = _read(path, file, wanted) if if_exists != "overwrite" else ({}, 0)
            file.truncate(good)
            journal = cls(path, file, rows)
            if good == 0:
                journal._write([{_HEAD: wanted}])
        except BaseException:
            file.close()
            raise
        return journal

    def add(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Append finished rows under their keys; on return they are on disk."""
        new = {key: dict(row) for key, row in rows}
        twice = new.keys() & self.rows.keys()
        if twice:
            raise ValueError(f"{self.path}: {sorted(twice)[0]!r} is done already.")
        self._write([{_KEY: key, **row} for key, row in new.items()])
        self.rows.update(new)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path, file: IO[bytes], job: Any) -> tuple[dict[str, dict[str, Any]], int]:
    """The whole rows of a journal, and how many bytes they take with the first line."""
    file.seek(0)
    rows: dict[str, dict[str, Any]] = {}
    good = 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):  # cut by a kill; nothing follows it
            break
        try:
            row = parse_row(line, f"{path}, line {number}")
            if number == 1:
                found = row.pop(_HEAD)
            else:
                rows[row.pop(_KEY)] = row
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}, line {number}: no row of a journal ({error}). Name another file, or start anew (overwrite)."
            ) from error
        if number == 1 and found != job:
            raise CheckpointError(
                f"{path} belongs to another job ({_difference(found, job)}). Name another file, or start anew "
                "(overwrite)."
            )
        good += len(line)
    if good == 0 and path.stat().st_size > 0 and not _cut_head(file):
        raise CheckpointError(f"{path} is no journal. Name another file; nothing was touched.")
    return rows, good


def _cut_head(file: IO[bytes]) -> bool:
    """Whether the file begins as a journal's first line does, or ends before it could differ."""
    file.seek(0)
    start = f'{{"{_HEAD}": '.encode()
    head = file.read(len(start))
    return start.startswith(head)


def _difference(found: Any, job: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "its first line is no mapping"
    names = sorted(name for name in found.keys() | job.keys() if found.get(name) != job.get(name))
    return ", ".join(f"{name}: {found.get(name)!r} there, {job.get(name)!r} now" for name in names[:3])
