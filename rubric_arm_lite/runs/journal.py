"""The journal and the progress of a long job. A journal has a line per finished piece, so a killed job continues.

The first line describes the job; a journal of another job is refused. :meth:`Journal.add` returns when its rows are on
disk. Opening drops a last line that a kill truncated, and its piece is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.runs.directory import IfExists
from rubric_arm_lite.runs.files import is_special, lock_file, parse_row

_HEAD = "job"
_KEY = "key"
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Journal:
    """Finished rows by key.

    Attributes:
        rows: finished rows in the order in which they were added; :class:`LogRow` where they come from the file.
    """

    path: Path
    rows: dict[str, dict[str, Any]]
    _file: IO[bytes]

    @classmethod
    @contextmanager
    def open(cls, path: Path, job: Mapping[str, Any], if_exists: IfExists = "resume") -> Iterator[Journal]:
        """Start a journal, or continue the one of the same job; one process at a time can have it open.

        Args:
            job: everything that determines the rows (inputs, adapters, settings), as JSON values.

        Raises:
            CheckpointError: if the file is not a journal, belongs to another job, is in use, or exists and
                ``if_exists`` is "raise".
        """
        if path.is_dir() or is_special(path):
            raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'no file'}. Name a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if if_exists == "raise" and path.exists() and path.stat().st_size > 0:
            raise CheckpointError(
                f"{path} exists. Continue it with --if-exists resume, start anew with --if-exists overwrite, or name "
                "another file."
            )
        with path.open("a+b") as file:
            lock_file(file, path)
            job = json.loads(json.dumps(dict(job)))
            rows, size = ({}, 0) if if_exists == "overwrite" else _read(path, file, job)
            file.seek(0)
            first = f'{{"{_HEAD}": '.encode()
            if size == 0 and not first.startswith(file.read(len(first))):
                raise CheckpointError(f"{path} is not a journal. Name another file; nothing was changed.")
            file.truncate(size)
            journal = cls(path, rows, file)
            if size == 0:
                journal._write([{_HEAD: job}])
            yield journal

    def add(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Append finished rows under their keys; on return they are on disk.

        Raises:
            ValueError: if a key was added before.
        """
        new = {key: dict(row) for key, row in rows}
        if twice := new.keys() & self.rows.keys():
            raise ValueError(f"{self.path}: {min(twice)!r} was added before.")
        self._write([{_KEY: key, **row} for key, row in new.items()])
        self.rows.update(new)

    def map(
        self,
        work: Callable[[Sequence[_Item]], Sequence[Any]],
        items: Sequence[_Item],
        batch_size: int,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Any]:
        """One result per item, in order. A batch is one row, so what is worked on together never depends on a kill.

        Args:
            work: makes the results of a batch that has no row yet, as JSON values.
            progress: called after each such batch with the number of items done.
        """
        results: list[Any] = []
        for start in range(0, len(items), batch_size):
            key = f"from {start}"
            missing = key not in self.rows
            if missing:
                self.add([(key, {"results": work(items[start : start + batch_size])})])
            row, count = self.rows[key], len(items[start : start + batch_size])
            if not isinstance(row["results"], list) or len(row["results"]) != count:
                raise CheckpointError(
                    f"{getattr(row, 'where', self.path)}: `results` is not a list of {count}. Restore it, or start "
                    "anew with --if-exists overwrite."
                )
            results += row["results"]
            if missing:
                progress(len(results))
        return results

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


class Progress:
    """Receives the events of a run, in order, and shows nothing; a subclass shows those that it overrides."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of ``steps`` steps begins, and the one before has ended."""

    def step(self, done: int, values: dict[str, float]) -> None:
        """``done`` steps of the stage are finished; ``values`` are the last one's metrics, empty if it has none."""

    def result(self, name: str, text: str) -> None:
        """An evaluation, or another result that ``name`` names, in one line."""

    def note(self, text: str) -> None:
        """Something the user should know: skipped data, a caveat, an alarm."""


def _read(path: Path, file: IO[bytes], job: Any) -> tuple[dict[str, dict[str, Any]], int]:
    """The rows of a journal, and the bytes of its complete lines."""
    file.seek(0)
    rows: dict[str, dict[str, Any]] = {}
    size = 0
    head = job
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):  # truncated by a kill; nothing follows it
            break
        try:
            row = parse_row(line, f"{path}, line {number}")
            if number == 1:
                head = row.pop(_HEAD)
            else:
                key = row.pop(_KEY)
                if not isinstance(key, str) or key in rows:
                    raise ValueError(f"the key {key!r} is no text, or there twice")
                rows[key] = row
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}, line {number}: not a row of a journal ({error}). Restore it, name another file, or start "
                "anew with --if-exists overwrite."
            ) from error
        if head != job:
            differing = "its first line does not describe a job"
            if isinstance(head, dict):
                names = sorted(name for name in head.keys() | job.keys() if head.get(name) != job.get(name))[:3]
                differing = ", ".join(f"{name}: {head.get(name)!r} there, {job.get(name)!r} now" for name in names)
            raise CheckpointError(
                f"{path} belongs to another job ({differing}). Name another file, or start anew with --if-exists "
                "overwrite."
            )
        size += len(line)
    return rows, size
