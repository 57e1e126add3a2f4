"""The run directory: the only writer of results, safe against being killed at any moment.

One small file, ``state.json``, is the commit point. It names the newest complete checkpoint and how many bytes of
every log belong to it. Checkpoints are written beside their final name and renamed; ``state.json`` is replaced
atomically after that. What is not reached from it (half-written folders, log lines after the commit) is discarded
on resume, so nothing half-written is ever trusted.

Timings go to a log of their own: they are the one thing that differs between a killed and an unbroken run.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal

from rubric_arm_lite import __version__
from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.runs.logs import LogRow, read_jsonl

STATE = "state.json"
RECIPE = "recipe.yaml"


@dataclass(frozen=True, slots=True)
class RunState:
    """What is committed: the stages done, the checkpoint that holds them, and how far the logs go.

    ``position`` is the (slot, step) at which the alternating stage goes on.
    """

    recipe_hash: str
    stages: tuple[str, ...] = ()
    checkpoint: str | None = None
    position: tuple[int, int] = (0, 0)
    logs: Mapping[str, int] = field(default_factory=dict)

    def dumps(self) -> str:
        """The state as JSON."""
        value = {
            "recipe_hash": self.recipe_hash,
            "stages": list(self.stages),
            "checkpoint": self.checkpoint,
            "position": list(self.position),
            "logs": dict(self.logs),
        }
        return json.dumps(value, indent=1)

    @classmethod
    def loads(cls, text: str) -> RunState:
        """The state that :meth:`dumps` wrote; raises ValueError, KeyError or TypeError for anything else."""
        value = json.loads(text)
        slot, step = value["position"]
        logs = {str(k): int(v) for k, v in dict(value["logs"]).items()}
        stages, checkpoint = value["stages"], value["checkpoint"]
        if not isinstance(stages, list) or not isinstance(checkpoint, str | None):
            raise TypeError("stages must be a list and checkpoint a name or null")
        return cls(str(value["recipe_hash"]), tuple(map(str, stages)), checkpoint, (int(slot), int(step)), logs)


def read_state(file: Path, recipe_hash: str) -> RunState:
    """What a file says is committed of a run of this recipe.

    Raises:
        CheckpointError: if it is damaged, or of a run of another recipe.
    """
    try:
        state = RunState.loads(file.read_text("utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}). Start anew with --if-exists overwrite."
        ) from error
    if state.recipe_hash != recipe_hash:
        raise CheckpointError(
            f"{file.parent} was made with another recipe (its copy is {file.parent / RECIPE}). Continue it with that "
            "one, or choose another name."
        )
    return state


def nothing_done(state_file: Path) -> bool:
    """Whether a state says that no stage was finished and no checkpoint written."""
    try:
        state = RunState.loads(state_file.read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return not state.stages and state.checkpoint is None


IfExists = Literal["raise", "resume", "overwrite"]
LOGS = ("metrics.jsonl", "rollouts.jsonl")
_CLEARING = ".clearing"


class RunDirectory:
    """One run's folder, held by one process at a time.

    ``after_commit`` is called when a commit is on disk; ``writes`` says whether this process may write at all.
    """

    writes = True

    def __init__(self, path: Path, state: RunState, lock: IO[str]) -> None:
        self.path = path
        self.state = state
        self._lock = lock
        self.after_commit: Callable[[], None] = lambda: None

    @classmethod
    def open(cls, path: Path, recipe_text: str, recipe_hash: str, if_exists: IfExists = "raise") -> RunDirectory:
        """Make a new run directory, or continue or replace one.

        Raises:
            CheckpointError: if it exists and may not, belongs to another recipe, is damaged, or is in use.
        """
        state_file = path / STATE
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path} is a file. Choose another --run-dir.")
        occupied = path.is_dir() and any(path.iterdir())
        if occupied and nothing_done(state_file):
            # A run that ended before its first stage left nothing worth keeping; its name is free again.
            if_exists = "overwrite"
        if occupied and if_exists == "raise":
            raise CheckpointError(
                f"{path} exists. Use --resume to continue it, --if-exists overwrite to start anew, or another name."
            )
        if occupied and not state_file.exists() and not _is_ours(path):
            raise CheckpointError(
                f"{path} is not a run directory: it has no {STATE}. Choose another name; nothing was touched."
            )
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            if occupied and (if_exists == "overwrite" or (path / _CLEARING).exists()):
                _clear(path)
            if state_file.exists():
                run = cls(path, read_state(state_file, recipe_hash), lock)
                run._roll_back()
            else:
                run = cls(path, RunState(recipe_hash), lock)
                run.write_text(RECIPE, recipe_text)
                run._write_state(run.state)
        except BaseException:
            lock.close()
            raise
        return run

    def close(self) -> None:
        """Let another process have the directory."""
        self._lock.close()

    # --- writing ------------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> Path:
        """Write one file atomically."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, text.encode("utf-8", "backslashreplace"))
        return target

    def write_json(self, name: str, value: Any) -> Path:
        """Write one JSON file atomically."""
        return self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def append(self, log: str, row: Mapping[str, Any]) -> None:
        """Append one line to a log; it counts from the next :meth:`commit` on."""
        line = json.dumps(dict(row), ensure_ascii=True, allow_nan=False) + "\n"
        with (self.path / log).open("ab") as file:
            file.write(line.encode())

    def commit(
        self,
        save: Callable[[Path], None] | None = None,
        stage: str | None = None,
        position: tuple[int, int] | None = None,
        keep: int = 2,
    ) -> None:
        """Make what was done so far permanent.

        Args:
            save: writes a checkpoint into the empty folder it is given; None keeps the present one.
            stage: a stage that is now done.
            position: where the alternating stage goes on.
            keep: how many checkpoints stay on disk.
        """
        checkpoint = self.state.checkpoint
        if save is not None:
            checkpoint = self._write_checkpoint(save)
        logs = {name: self._sync_log(name) for name in LOGS}
        stages = self.state.stages if stage is None else (*self.state.stages, stage)
        at = self.state.position if position is None else position
        self._write_state(RunState(self.state.recipe_hash, stages, checkpoint, at, logs))
        self._prune(keep)
        self.after_commit()

    def checkpoint_path(self) -> Path | None:
        """Folder of the committed checkpoint."""
        return None if self.state.checkpoint is None else self.path / "checkpoints" / self.state.checkpoint

    # --- reading ------------------------------------------------------------------------------------------------

    def read_log(self, log: str) -> Iterator[LogRow]:
        """All rows of a log; nothing if there is none.

        Raises:
            CheckpointError: if a line is damaged, and later if a field is asked for that is not there.
        """
        return read_jsonl(self.path / log)

    # --- inside -------------------------------------------------------------------------------------------------

    def _write_checkpoint(self, save: Callable[[Path], None]) -> str:
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        numbers = [int(p.name.removeprefix("state-")) for p in folder.glob("state-*")]
        name = f"state-{max(numbers, default=-1) + 1:06d}"
        draft = folder / f".{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        save(draft)
        for path in sorted([draft, *draft.rglob("*")]):
            _fsync(path)
        draft.rename(folder / name)
        _fsync(folder)
        return name

    def _sync_log(self, name: str) -> int:
        file = self.path / name
        if not file.exists():
            return 0
        _fsync(file)
        return file.stat().st_size

    def _write_state(self, state: RunState) -> None:
        atomic_write(self.path / STATE, state.dumps().encode())
        self.state = state

    def _roll_back(self) -> None:
        """Forget everything after the last commit."""
        checkpoint = self.checkpoint_path()
        if checkpoint is not None and not checkpoint.is_dir():
            raise CheckpointError(
                f"{self.path / STATE} names the checkpoint {self.state.checkpoint}, which is gone. Restore it, or "
                "start anew with --if-exists overwrite."
            )
        for name in LOGS:
            file = self.path / name
            committed = self.state.logs.get(name, 0)
            size = file.stat().st_size if file.exists() else 0
            if size < committed:
                raise CheckpointError(
                    f"{file} has {size} bytes, {committed} were committed: it was cut or edited. Restore it, or "
                    "start anew with --if-exists overwrite."
                )
            if size > committed:
                os.truncate(file, committed)
        for draft in (self.path / "checkpoints").glob(".*.draft"):
            shutil.rmtree(draft)
        for file in self.path.rglob(".*.part"):  # drafts of atomic_write; a journal has no dot before its name
            file.unlink()

    def _prune(self, keep: int) -> None:
        folder = self.path / "checkpoints"
        if not folder.is_dir() or self.state.checkpoint is None:
            return
        older = sorted(p for p in folder.glob("state-*") if p.name < self.state.checkpoint)
        newer = [p for p in folder.glob("state-*") if p.name > self.state.checkpoint]
        for path in newer + older[: max(0, len(older) - (keep - 1))]:
            shutil.rmtree(path)


class FollowedDirectory(RunDirectory):
    """A run's folder as the other processes of the same run see it: they read what the first one writes."""

    writes = False

    @classmethod
    def follow(cls, path: Path, recipe_hash: str) -> FollowedDirectory:
        """Read the state of a directory that the first process has opened."""
        return cls(path, read_state(path / STATE, recipe_hash), (path / RECIPE).open(encoding="utf-8"))

    def write_text(self, name: str, text: str) -> Path:
        """Where the first process writes."""
        return self.path / name

    def append(self, log: str, row: Mapping[str, Any]) -> None:
        """The first process's business."""

    def commit(
        self,
        save: Callable[[Path], None] | None = None,
        stage: str | None = None,
        position: tuple[int, int] | None = None,
        keep: int = 2,
    ) -> None:
        """Wait until the first process has committed, and read what it did."""
        self.after_commit()
        self.state = read_state(self.path / STATE, self.state.recipe_hash)


def atomic_write(target: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, rename over it."""
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
    _fsync(target.parent)


def is_disk_full(error: OSError) -> bool:
    """Whether an error says that no space or quota is left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """RoleStep a full disk into one clear error; what was committed before stays."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise CheckpointError(
                f"The disk that holds {path} is full. Free some space and continue with --resume; everything up to "
                "the last checkpoint is kept."
            ) from error
        raise


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path) -> IO[str]:
    file = (path / ".lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise CheckpointError(f"{path} is in use by another process. Wait for it, or choose another name.") from error
    return file


def _is_ours(path: Path) -> bool:
    """Whether a folder without a state is one that was killed while it was being made."""
    names = {p.name for p in path.iterdir()}
    return _CLEARING in names or names <= {".lock", RECIPE, f".{RECIPE}.part", f".{STATE}.part"}


def _clear(path: Path) -> None:
    # The marker and the state go first: a killed clearing is finished by the next start, never half trusted.
    (path / _CLEARING).touch()
    (path / STATE).unlink(missing_ok=True)
    for child in path.iterdir():
        if child.name in (".lock", _CLEARING):
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
    (path / _CLEARING).unlink()


def package_versions(names: Sequence[str]) -> dict[str, str | None]:
    """Versions of this package, Python and the named packages; None where one is not installed."""
    versions: dict[str, str | None] = {"rubric-arm-lite": __version__, "python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
