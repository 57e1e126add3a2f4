"""Writes, locks and flushes files so that neither a kill nor a full disk leaves half of one."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rubric_arm_lite.errors import CheckpointError


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
