"""The run directory, the only writer of results. A process that is killed at any moment loses no commit.

One small file, ``state.json``, is the commit point. It names the newest complete checkpoint, how many bytes of every
log belong to it, and a hash of all that was committed. Checkpoints are written beside their final name and renamed;
then ``state.json`` is replaced atomically. Resuming discards what it does not name (half-written folders, log lines
after the commit).

Timings go to a log of their own, as only they differ between a killed and an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal, get_args

from pydantic import TypeAdapter

from rubric_arm_lite import __version__
from rubric_arm_lite.errors import CheckpointError, ConfigError, first_line
from rubric_arm_lite.runs.files import atomic_write, file_hash, fsync, lock_file, share, unreadable

STATE = "state.json"
METRICS = "metrics.jsonl"
RECIPE = "recipe.yaml"


@dataclass(frozen=True, slots=True)
class RunState:
    """What is committed: finished stages, the checkpoint that holds them, and the size of each log in bytes.

    ``position`` is the (scheduled phase, step) at which the alternating stage continues, and ``positions`` holds that
    of every kept checkpoint. ``hashes`` are the SHA-256 of every committed file, by its path in the run, and of the
    committed bytes of each log.
    """

    recipe_hash: str
    stages: tuple[str, ...] = ()
    checkpoint: str | None = None
    position: tuple[int, int] = (0, 0)
    logs: Mapping[str, int] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    positions: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def dumps(self) -> str:
        """The state as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def loads(cls, text: str) -> RunState:
        """The state that :meth:`dumps` wrote; raises ValueError, KeyError or TypeError for anything else."""
        values = {"hashes": {}, "positions": {}, **json.loads(text)}
        return TypeAdapter(cls).validate_python({item.name: values[item.name] for item in fields(cls)})


def read_state(file: Path, recipe_hash: str | None = None) -> RunState:
    """The committed state of a run.

    Raises:
        CheckpointError: if it cannot be read, or belongs to a run of another recipe than ``recipe_hash``.
    """
    try:
        state = RunState.loads(file.read_text("utf-8"))
    except PermissionError as error:
        raise unreadable(file, error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {first_line(error)}). Restore it, or start anew with "
            "--if-exists overwrite."
        ) from error
    if recipe_hash not in (None, state.recipe_hash):
        raise CheckpointError(
            f"{file.parent} was made with another recipe (its copy is {file.parent / RECIPE}). Continue it with that "
            "one, or choose another name."
        )
    return state


def checkpoints_of(run: Path) -> list[Path]:
    """The folders of the kept checkpoints, oldest first; whatever else lies beside them is not ours."""
    folders = (run / "checkpoints").glob("state-*")
    return sorted(p for p in folders if CHECKPOINT_NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def changed_files(run: Path, state: RunState, folder: str = "") -> list[Path]:
    """The files in a folder of the run that are missing or not as they were committed.

    Without a folder: the recipe, the descriptions of data and versions, and the results, which may be deleted.
    """
    changed = []
    for name, value in state.hashes.items():
        inside = name.startswith(f"{folder}/") if folder else name not in LOGS and not name.startswith(_WEIGHTS)
        deleted = not folder and name.startswith(_RESULTS) and not (run / name).exists()
        if inside and not deleted and file_hash(run / name) != value:
            changed.append(run / name)
    return changed


def check_files(run: Path, state: RunState, folder: str = "") -> None:
    """Compare files of the run with what was committed, those of :func:`changed_files`.

    Raises:
        CheckpointError: if one of them is missing or another.
    """
    if not (changed := changed_files(run, state, folder)):
        return
    fix = "Restore it, or start anew with --if-exists overwrite."
    if folder:
        fix = "Restore it, use another state of the run, or start anew."
    elif changed[0] == run / RECIPE:
        fix = (
            "Undo that, or delete it and continue the run with --resume and its own recipe, which writes it again. For "
            "other settings, copy it, change the copy, and run that under another name or give it to "
            "RubricRewardModel.from_adapters."
        )
    elif changed[0].relative_to(run).as_posix().startswith(_RESULTS):
        fix = "Restore it, or delete it: the run goes on, and the report goes without it."
    raise CheckpointError(
        f"{changed[0]} is not the file that was committed (its SHA-256 is in {run / STATE}): it is damaged, edited or "
        f"gone. {fix}"
    )


def check_logs(run: Path, state: RunState) -> dict[str, hashlib._Hash]:
    """Compare the logs with what was committed, and return the hash of each one's committed bytes.

    Raises:
        CheckpointError: if a log is shorter or another.
    """
    hashes = {name: hashlib.sha256() for name in LOGS}
    for name, value in hashes.items():
        file, committed = run / name, state.logs.get(name, 0)
        size = file.stat().st_size if file.exists() else 0
        _add_bytes(value, file, 0, min(size, committed))
        if size < committed or state.hashes.get(name, value.hexdigest()) != value.hexdigest():
            raise CheckpointError(
                f"{file} ({size} bytes) does not begin with the {committed} bytes that were committed: it was "
                "truncated, edited or damaged. Restore it, or start anew with --if-exists overwrite."
            )
    return hashes


def _add_bytes(value: hashlib._Hash, file: Path, start: int, end: int) -> None:
    """Add the bytes of a file from ``start`` to ``end`` to a hash."""
    if start < end:
        with file.open("rb") as log:
            log.seek(start)
            while start < end and (block := log.read(min(end - start, 2**20))):
                value.update(block)
                start += len(block)


IfExists = Literal["raise", "resume", "overwrite"]
LOGS = (METRICS, "rollouts.jsonl")
_WEIGHTS = ("checkpoints/", "adapters/")
_RESULTS = ("evaluations/", "cross_play.json", "summary.json")
_CLEARING = ".clearing"
CHECKPOINT_NAME = re.compile(r"state-[0-9]{6}")


class RunDirectory:
    """One run's folder, locked by one process at a time.

    Attributes:
        writes: whether this process writes; in a distributed run the others read what the first one writes.
        after_commit: called when a commit is on disk.
        after_row: called with each row that was appended to the metrics.
    """

    def __init__(self, path: Path, state: RunState, file: IO[str], writes: bool = True) -> None:
        self.path = path
        self.state = state
        self.writes = writes
        self.after_commit: Callable[[], None] = lambda: None
        self.after_row: Callable[[Mapping[str, Any]], None] = lambda row: None
        self._file = file
        self._written: dict[str, str] = {}  # hashes of files since the last commit
        self._logs = check_logs(path, state) if writes else {}

    @classmethod
    def open(cls, path: Path, recipe_text: str, recipe_hash: str, if_exists: IfExists = "raise") -> RunDirectory:
        """Create, continue or replace a run directory.

        Raises:
            ConfigError: if ``if_exists`` is another word.
            CheckpointError: if it exists and ``if_exists`` is "raise", belongs to another recipe, is damaged, or is in
                use.
        """
        if if_exists not in get_args(IfExists):
            raise ConfigError(f"--if-exists {if_exists}: use raise, resume or overwrite.")
        state_file = path / STATE
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path} is a file. Choose another --run-dir.")
        names = {child.name for child in path.iterdir()} if path.is_dir() else set()
        if names:
            with suppress(CheckpointError):
                state = read_state(state_file)
                if not state.stages and state.checkpoint is None:  # ended before its first stage: nothing to keep
                    if_exists = "overwrite"
        # Without a state it is ours only if it was killed while it was created or cleared.
        created = names <= {".lock", RECIPE, f".{RECIPE}.part", f".{STATE}.part"}
        if not (STATE in names or _CLEARING in names or created):
            raise CheckpointError(
                f"{path} is not a run directory: it has no {STATE}. Choose another name; nothing was touched."
            )
        if names and if_exists == "raise":
            raise CheckpointError(
                f"{path} exists. Use --resume to continue it, --if-exists overwrite to start anew, or another name."
            )
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("a")
        try:
            lock_file(lock, path)
            if names and (if_exists == "overwrite" or (path / _CLEARING).exists()):
                _clear(path)
            state = read_state(state_file) if state_file.exists() else RunState(recipe_hash)
            if state.recipe_hash == recipe_hash and not (state_file.exists() and (path / RECIPE).exists()):
                text = recipe_text.encode("utf-8", "backslashreplace")
                state = replace(state, hashes={**state.hashes, RECIPE: hashlib.sha256(text).hexdigest()})
                atomic_write(state_file, state.dumps().encode())  # first: a kill leaves no recipe that it does not know
                atomic_write(path / RECIPE, text)
            check_files(path, state)
            run = cls(path, read_state(state_file, recipe_hash), lock)
            run._roll_back()
        except BaseException:
            lock.close()
            raise
        return run

    @classmethod
    def follow(cls, path: Path, recipe_hash: str) -> RunDirectory:
        """Read, in another process of a distributed run, a directory that the first process has opened."""
        return cls(path, read_state(path / STATE, recipe_hash), (path / RECIPE).open(encoding="utf-8"), writes=False)

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    # --- writing ------------------------------------------------------------------------------------------------

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file atomically; it counts from the next :meth:`commit` on."""
        if self.writes:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
            atomic_write(target, data)
            self._written[name] = hashlib.sha256(data).hexdigest()

    def write_folder(self, name: str, save: Callable[[Path], None]) -> None:
        """Write or replace a folder such as ``adapters/judge``; ``save`` fills the empty one that it receives.

        Its files count from the next :meth:`commit` on.
        """
        if not self.writes:
            return
        target = self.path / name
        draft = target.with_name(f".{target.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save(draft)
        share(draft)
        paths = sorted([draft, *draft.rglob("*")])
        for path in paths:
            fsync(path)
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        fsync(target.parent)
        files = [target / path.relative_to(draft) for path in paths]
        hashes = {file.relative_to(self.path).as_posix(): file_hash(file) for file in files}
        self._written |= {file: value for file, value in hashes.items() if value is not None}

    def append(self, log: str, row: Mapping[str, Any]) -> None:
        """Append one line to a log; it counts from the next :meth:`commit` on."""
        if self.writes:
            line = json.dumps(dict(row), ensure_ascii=True, allow_nan=False) + "\n"
            with (self.path / log).open("ab") as file:
                file.write(line.encode())
            if log == METRICS:
                self.after_row(row)

    def commit(
        self,
        save: Callable[[Path], None] | None = None,
        stage: str | None = None,
        position: tuple[int, int] | None = None,
        keep: int | None = None,
    ) -> None:
        """Make everything up to now permanent; a process that does not write waits for the one that does.

        Args:
            save: writes a checkpoint into the empty folder that it receives; None keeps the present checkpoint.
            stage: a stage that is now finished.
            position: where the alternating stage continues.
            keep: number of checkpoints that stay on disk; None keeps all.
        """
        if not self.writes:
            self.after_commit()
            self.state = read_state(self.path / STATE, self.state.recipe_hash)
            return
        checkpoint = self.state.checkpoint
        if save is not None:
            names = [path.name for path in (self.path / "checkpoints").glob("state-*")]
            newest = max((int(name[6:]) for name in names if CHECKPOINT_NAME.fullmatch(name)), default=-1)
            checkpoint = f"state-{newest + 1:06d}"
            self.write_folder(f"checkpoints/{checkpoint}", save)
        sizes, logs = dict.fromkeys(LOGS, 0), {name: value.copy() for name, value in self._logs.items()}
        for file in (self.path / name for name in LOGS):
            if file.exists():
                fsync(file)
                sizes[file.name] = file.stat().st_size
                _add_bytes(logs[file.name], file, self.state.logs.get(file.name, 0), sizes[file.name])
        outdated = [] if keep is None else checkpoints_of(self.path)[:-keep]
        gone = tuple(f"checkpoints/{folder.name}/" for folder in outdated)
        files = {name: value for name, value in self.state.hashes.items() if not name.startswith(gone)}
        hashes = {**files, **self._written, **{name: value.hexdigest() for name, value in logs.items()}}
        stages = self.state.stages if stage is None else (*self.state.stages, stage)
        at = self.state.position if position is None else position
        kept = {name: where for name, where in self.state.positions.items() if f"checkpoints/{name}/" not in gone}
        positions = kept if save is None or checkpoint is None else {**kept, checkpoint: at}
        state = RunState(self.state.recipe_hash, stages, checkpoint, at, sizes, hashes, positions)
        atomic_write(self.path / STATE, state.dumps().encode())
        self.state, self._logs, self._written = state, logs, {}
        for folder in outdated:
            shutil.rmtree(folder)
        self.after_commit()

    def is_intact(self, folder: str) -> bool:
        """Whether the files in a folder of the run are as they were committed."""
        return (self.path / folder).is_dir() and not changed_files(self.path, self.state, folder)

    def checkpoint_path(self, name: str | None = None) -> Path | None:
        """Folder of a kept checkpoint, by default the committed one.

        Raises:
            CheckpointError: if a file in a named one is not as it was committed.
        """
        if name is not None:
            check_files(self.path, self.state, f"checkpoints/{name}")
        name = name or self.state.checkpoint
        return None if name is None else self.path / "checkpoints" / name

    def _roll_back(self) -> None:
        """Forget everything after the last commit."""
        checkpoint = self.checkpoint_path()
        if checkpoint is not None:
            if not checkpoint.is_dir():
                raise CheckpointError(
                    f"{self.path / STATE} names the checkpoint {self.state.checkpoint}, which is gone. Restore it, or "
                    "start anew with --if-exists overwrite."
                )
            check_files(self.path, self.state, f"checkpoints/{self.state.checkpoint}")
        for name in LOGS:
            file, committed = self.path / name, self.state.logs.get(name, 0)
            if file.exists() and file.stat().st_size > committed:
                os.truncate(file, committed)
        later = [path for path in checkpoints_of(self.path) if path.name > (self.state.checkpoint or "")]
        for folder in (*later, *self.path.glob("checkpoints/.state-*.draft"), *self.path.glob("adapters/.*.draft")):
            shutil.rmtree(folder, ignore_errors=True)
        for file in self.path.rglob(".*.part"):  # drafts of atomic_write; a journal has no dot before its name
            file.unlink()


def _clear(path: Path) -> None:
    # Marker first, then the state: the next start finishes a clearing that was killed.
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


def package_commit() -> str | None:
    """The git commit of this package: its checkout's, with ``-dirty`` after changes, or the one it was built from."""
    package = Path(__file__).resolve().parents[1]
    if (package.parent / ".git").exists():
        command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return done.stdout.strip() or None
    with suppress(OSError):
        return (package / "COMMIT").read_text("utf-8").strip() or None  # written by hatch_build.py
    return None
