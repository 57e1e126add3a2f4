"""Writes files so that a kill leaves none half written, and reads logs as rows that know their file and line.

We write these logs, so readers access fields without a check: ``row["reason"]``. If somebody removed a field by hand,
the row raises a :class:`~rubric_arm_lite.errors.CheckpointError` that names file, line and field.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

from rubric_arm_lite.errors import CheckpointError, DataError

_FIX = "Restore it, or start anew under another name."
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = (*map(os.strerror, _FULL), "unexpected pos")
"""How safetensors and torch, which raise errors of their own, say that a disk is full."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_NO_FSYNC = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)


def is_special(path: Path) -> bool:
    """Whether a path is a device, FIFO or socket: it is written into and never replaced by a file."""
    return path.exists() and not path.is_file() and not path.is_dir()


def check_target(
    source: Path | None, target: Path | None, overwrite: bool, flag: str = "--overwrite", journal: bool = False
) -> None:
    """Refuse an output file that cannot be written or would replace a file, and make its folder.

    Call this before loading a model, so that a refusal costs nothing. None, for standard output, is always fine.

    Args:
        flag: the option that allows replacing a file.
        journal: whether unfinished work is kept beside the target.

    Raises:
        DataError: if the target is a folder or the input, cannot be written, or exists and ``overwrite`` is false.
    """
    if target is None:
        return
    if target.is_dir():
        raise DataError(f"{target} is a folder. Name the file to write.")
    if is_special(target):
        if journal:
            raise DataError(f"{target} is no file, so unfinished work cannot be kept beside it. Name a file.")
        return
    if source is not None and target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{target} is also the input. Choose another file to write.")
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists. Name another file, or give {flag}.")
    place = Path(os.path.realpath(target))
    if place.parent.exists() and not place.parent.is_dir():
        raise DataError(f"{place.parent} is not a folder. Check the path, or choose another place for {target.name}.")
    part = place.with_name(f".{place.name}.part")  # that of atomic_write
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not part.exists():
            part.touch()
            part.unlink()
    except OSError as error:
        raise DataError(
            f"{target} cannot be written ({error.strerror}). Name another file, or check the path and its permissions."
        ) from error


def atomic_write(target: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new: write beside it, flush to disk, rename.

    A symbolic link stays, and the file that it names is written. A device or FIFO is written into.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if is_special(target):
        target.write_bytes(data)
        return
    target = Path(os.path.realpath(target))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target))
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise
    fsync(target.parent)


@contextmanager
def explained_disk_errors(
    path: Path | None, again: str = "continue with --resume; everything up to the last checkpoint is kept"
) -> Iterator[None]:
    """Turn the error of a full disk or quota into a :class:`CheckpointError` that says how to go on.

    Args:
        path: what is written; None for the file that the error names.
        again: what to do once there is space.
    """
    try:
        yield
    except Exception as error:
        full = error.errno in _FULL if isinstance(error, OSError) else any(text in str(error) for text in _FULL_TEXTS)
        if not full:
            raise
        place = path or getattr(error, "filename", None) or "the output"
        raise CheckpointError(f"The disk that holds {place} is full. Free some space and {again}.") from error


def fsync(path: Path) -> None:
    """Flush a file or folder to disk; some network file systems cannot flush a folder, and that is no error."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC or not path.is_dir():
            raise


def share(folder: Path) -> None:
    """Give the files in a new folder the permissions that the umask gave it: safetensors keep theirs to the owner."""
    allowed = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o777 != allowed:
            with suppress(OSError):  # a file system without permissions
                path.chmod(allowed)


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file; None if there is none. A file is read again only when its size or time has changed.

    Raises:
        CheckpointError: if it cannot be read.
    """
    if not path.is_file():
        return None
    status = path.stat()
    try:
        return _file_hash(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise unreadable(path, error) from error


@lru_cache(4096)
def _file_hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_file(file: IO[Any], path: Path) -> None:
    """Lock an open file for this process until it is closed; ``path`` is named in the error.

    A file system without locks, such as Lustre mounted without ``flock``, is used without one.

    Raises:
        CheckpointError: if another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return
        if not isinstance(error, BlockingIOError):
            raise
        raise CheckpointError(f"{path} is in use by another process. Wait for it, or choose another name.") from error


# --- reading --------------------------------------------------------------------------------------------------------


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error of a file that is there and may not be read, which is no reason to start anew."""
    return CheckpointError(f"{path} cannot be read ({error.strerror}). Check its permissions.")


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
    if is_special(path):
        raise CheckpointError(f"{path} is no file. {_FIX}")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise unreadable(path, error) from error
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
    if is_special(path):
        raise CheckpointError(f"{path} is no file. {_FIX}")
    try:
        return parse_row(path.read_bytes(), str(path))
    except PermissionError as error:
        raise unreadable(path, error) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). {_FIX}") from error
