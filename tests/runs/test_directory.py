"""The run directory: killed at any moment, it reopens with exactly what was committed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from rubric_arm_lite.errors import CheckpointError, DataError
from rubric_arm_lite.runs.directory import (
    IfExists,
    RunDirectory,
    RunState,
    check_files,
    read_state,
)
from rubric_arm_lite.runs.files import atomic_write, check_target, explained_disk_errors, fsync, read_jsonl
from rubric_arm_lite.runs.journal import Journal

METRICS, ROLLOUTS = "metrics.jsonl", "rollouts.jsonl"
Snapshot = tuple[Any, ...]
"""What a reader finds: recipe hash, stages, position, checkpoint's content, rows of both logs."""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel has been told survives a killed process; flushing it would only cost time here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def open_run(path: Path, if_exists: IfExists = "resume", recipe: str = "h") -> RunDirectory:
    return RunDirectory.open(path, f"recipe: {recipe}\n", recipe, if_exists)


def saver(content: str) -> Callable[[Path], None]:
    """Writes a checkpoint of two files, one in a folder of its own."""

    def save(folder: Path) -> None:
        assert not any(folder.iterdir())
        (folder / "judge").mkdir()
        (folder / "judge" / "weights").write_text(content)
        (folder / "cache.json").write_text(content)

    return save


def story(path: Path, if_exists: IfExists, tell: Callable[[], None]) -> None:
    """A short run; ``tell`` is called after each point that must survive. It goes on from wherever it was."""
    run = open_run(path, if_exists)
    try:
        tell()
        for act in (_first, _step_1, _step_2, _last)[_progress(run) :]:
            act(run)
            tell()
    finally:
        run.close()


def _progress(run: RunDirectory) -> int:
    if "end" in run.state.stages:
        return 4
    return run.state.position[1] + 1 if "base" in run.state.stages else 0


def _first(run: RunDirectory) -> None:
    run.append(METRICS, {"n": 0})
    run.commit(saver("zero"), stage="base")


def _step(run: RunDirectory, n: int) -> None:
    run.append(METRICS, {"n": n})
    run.append(ROLLOUTS, {"text": "x" * 50})
    run.append(ROLLOUTS, {"text": "y"})
    run.write_json(f"evaluations/{n}.json", {"n": n})
    run.commit(saver(f"step {n}"), position=(0, n), keep=1)


def _step_1(run: RunDirectory) -> None:
    _step(run, 1)


def _step_2(run: RunDirectory) -> None:
    _step(run, 2)


def _last(run: RunDirectory) -> None:
    run.append(METRICS, {"n": 3})
    run.commit(stage="end")


def snapshot(run: RunDirectory) -> Snapshot:
    checkpoint = run.checkpoint_path()
    content = None
    if checkpoint is not None:
        content = ((checkpoint / "cache.json").read_text(), (checkpoint / "judge" / "weights").read_text())
    rows = tuple(json.dumps(list(read_jsonl(run.path / log))) for log in (METRICS, ROLLOUTS))
    return (run.state.recipe_hash, run.state.stages, run.state.position, content, *rows)


def unbroken(path: Path) -> list[Snapshot]:
    """What a reader finds after each point of the story."""
    found = []

    def tell() -> None:
        found.append(snapshot(open_copy(path)))

    story(path, "raise", tell)
    return found


def open_copy(path: Path) -> RunDirectory:
    """A reader beside the writer, which holds the lock."""
    run = object.__new__(RunDirectory)
    run.path, run.state = path, RunState.loads((path / "state.json").read_text())
    return run


# --- a process that is killed -------------------------------------------------------------------------------------

WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def killed_at(moment: int, act: Callable[[Callable[[], None]], None]) -> tuple[bool, int]:
    """Run ``act`` in a process that dies just before its ``moment``-th change to the disk, without any clean-up.

    Returns whether it died, and how often it called the function it was given.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        left = moment

        def change() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in WATCHED:
                change()

        def tell() -> None:
            os.write(writer, b".")

        os.fsync = lambda handle: change()
        sys.addaudithook(hook)
        try:
            act(tell)
        except BaseException:
            os._exit(3)
        os._exit(0)
    os.close(writer)
    told = 0
    while chunk := os.read(reader, 100):
        told += len(chunk)
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "the story itself failed"
    return status == 9, told


def leftovers(path: Path) -> list[str]:
    committed = RunState.loads((path / "state.json").read_text()).checkpoint or ""
    later = [p.name for p in path.glob("checkpoints/state-*") if p.name > committed]
    return later + [p.name for p in path.rglob("*") if p.name.endswith((".draft", ".part")) or p.name == ".clearing"]


def killed_at_any_moment_it_reopens_at_the_last_commit(tmp_path: Path) -> None:
    points = unbroken(tmp_path / "whole")
    assert len(points) == len(set(points)) == 5
    died = 0
    for moment in range(1000):
        path = tmp_path / f"run-{moment}"
        dead, told = killed_at(moment, lambda tell, path=path: story(path, "raise", tell))
        if not dead:
            break
        died += 1
        run = open_run(path)
        # Nothing told is lost; at most the commit that was under way is there too.
        at = points.index(snapshot(run))
        assert at in (max(told - 1, 0), told)
        assert not leftovers(path)
        run.close()
        story(path, "resume", lambda: None)
        assert snapshot(open_copy(path)) == points[-1]
        assert (path / "recipe.yaml").read_text() == "recipe: h\n"
    assert died > 60 and told == 5


def killed_again_while_it_reopens(tmp_path: Path) -> None:
    points = unbroken(tmp_path / "whole")
    died = 0
    for first in range(14, 90, 5):
        dead_once = tmp_path / f"run-{first}"
        assert killed_at(first, lambda tell, path=dead_once: story(path, "raise", tell))[0]
        for second in range(1000):
            path = Path(shutil.copytree(dead_once, tmp_path / f"run-{first}-{second}"))
            dead, _ = killed_at(second, lambda tell, path=path: open_run(path).close())
            run = open_run(path)
            assert snapshot(run) in points
            assert not leftovers(path)
            run.close()
            if not dead:
                break
            died += 1
    assert died > 20


def killed_while_it_is_overwritten(tmp_path: Path) -> None:
    """Either the old run is still whole or a new one begins; never something between."""
    points = unbroken(tmp_path / "whole")
    begun = set()
    for moment in range(1000):
        path = tmp_path / f"run-{moment}"
        story(path, "raise", lambda: None)
        dead, _ = killed_at(moment, lambda tell, path=path: open_run(path, "overwrite").close())
        # A run in which nothing was done yet has no claim to its name; every other state has.
        try:
            run = open_run(path, "raise")
            assert snapshot(run) == points[0]
        except CheckpointError as error:
            assert "exists. Use --resume" in str(error)
            run = open_run(path, "resume")
        begun.add(points.index(snapshot(run)))
        assert not leftovers(path)
        run.close()
        open_run(path, "overwrite").close()
        assert snapshot(open_copy(path)) == points[0]
        assert {p.name for p in path.iterdir()} == {".lock", "recipe.yaml", "state.json"}
        if not dead:
            break
    assert begun == {0, 4} and moment > 15


@pytest.mark.parametrize(
    "check",
    [
        killed_at_any_moment_it_reopens_at_the_last_commit,
        killed_again_while_it_reopens,
        killed_while_it_is_overwritten,
    ],
)
def test_killed(check: Callable[[Path], None], tmp_path: Path) -> None:
    """In a process without torch, which forks in a hundredth of the time."""
    code = (
        "import os, sys; from pathlib import Path; from tests.runs import test_directory; "
        "os.fsync = lambda handle: None; "
        f"test_directory.{check.__name__}(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    call = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(call, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_that_did_nothing_leaves_its_name_free(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunDirectory.open(path, "old", "old recipe").close()
    run = RunDirectory.open(path, "new", "new recipe", "resume")
    assert (path / "recipe.yaml").read_text() == "new"
    run.commit(stage="base")
    run.close()
    with pytest.raises(CheckpointError, match=r"exists\. Use --resume"):
        RunDirectory.open(path, "new", "new recipe")
    with pytest.raises(CheckpointError, match="another recipe"):
        RunDirectory.open(path, "newer", "newer recipe", "resume")


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    points = unbroken(tmp_path / "run")
    with (tmp_path / "run" / METRICS).open("ab") as file:
        file.write(b'{"n": 4}\n{"n": ')
    run = open_run(tmp_path / "run")
    assert snapshot(run) == points[-1]
    run.append(METRICS, {"n": 4})
    assert [row["n"] for row in read_jsonl(run.path / METRICS)] == [0, 1, 2, 3, 4]


# --- opening ------------------------------------------------------------------------------------------------------


def test_a_new_run(tmp_path: Path) -> None:
    run = open_run(tmp_path / "deep" / "run", "raise")
    assert snapshot(run) == ("h", (), (0, 0), None, "[]", "[]")
    assert (run.path / "recipe.yaml").read_text() == "recipe: h\n"
    (tmp_path / "empty").mkdir()
    open_run(tmp_path / "empty", "raise")


def test_an_existing_run_is_not_touched_unasked(tmp_path: Path) -> None:
    unbroken(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    message = r"run exists\. Use --resume to continue it, --if-exists overwrite to start anew, or another name\."
    with pytest.raises(CheckpointError, match=message):
        open_run(tmp_path / "run", "raise")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_the_journal_of_a_job_that_writes_into_a_run_outlives_its_resume(tmp_path: Path) -> None:
    """``rubric-arm label RUN in.jsonl RUN/out.jsonl``, killed, and then the run is continued."""
    run = open_run(tmp_path / "run")
    _first(run)
    run.close()
    journal = tmp_path / "run" / "out.jsonl.part"
    journal.write_text('{"job": {}}\n')
    (tmp_path / "run" / ".summary.json.part").write_text("half")
    open_run(tmp_path / "run").close()
    assert journal.read_text() == '{"job": {}}\n'
    assert not (tmp_path / "run" / ".summary.json.part").exists()


def test_overwriting_starts_anew(tmp_path: Path) -> None:
    unbroken(tmp_path / "run")
    (tmp_path / "run" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    run = open_run(tmp_path / "run", "overwrite", recipe="other")
    assert snapshot(run)[:3] == ("other", (), (0, 0))
    assert {p.name for p in run.path.iterdir()} == {".lock", "recipe.yaml", "state.json"}
    assert (tmp_path / "elsewhere" / "kept").exists(), "what a link points to is not ours"


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    unbroken(tmp_path / "run")
    message = r"run was made with another recipe \(its copy is .*recipe\.yaml\)\. Continue it with that one, or choose"
    with pytest.raises(CheckpointError, match=message):
        open_run(tmp_path / "run", recipe="other")
    open_run(tmp_path / "run")


@pytest.mark.parametrize("if_exists", ["raise", "resume", "overwrite"])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path: Path, if_exists: IfExists) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="is not a run directory"):
        open_run(tmp_path / "thesis", if_exists)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"is a file\. Choose another --run-dir"):
        open_run(tmp_path / "file", if_exists)


DAMAGED = {
    "empty": "",
    "cut": '{"recipe_hash": "h", "stag',
    "not a mapping": "[]",
    "null": "null",
    "nested too deep": "[" * 100_000,
    "a field is missing": '{"recipe_hash": "h"}',
    "not text": b"\xff\xfe\x00",
    "position": {"position": [1]},
    "position of words": {"position": ["a", "b"]},
    "no position": {"position": None},
    "logs": {"logs": [1, 2]},
    "no logs": {"logs": None},
    "logs of words": {"logs": {METRICS: "many"}},
    "stages": {"stages": "base"},
    "checkpoint": {"checkpoint": 5},
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_state_is_refused(name: str, tmp_path: Path) -> None:
    points = unbroken(tmp_path / "run")
    file = tmp_path / "run" / "state.json"
    whole = file.read_text()
    damage = DAMAGED[name]
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads(whole), **damage})
    file.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(
        CheckpointError, match=r"state\.json is damaged \(.*\)\. Restore it, or start anew with --if-exists overwrite"
    ):
        open_run(tmp_path / "run")
    file.write_text(whole)
    assert snapshot(open_run(tmp_path / "run")) == points[-1], "nothing was touched, and the lock was let go"


def test_a_cut_log_is_refused(tmp_path: Path) -> None:
    unbroken(tmp_path / "run")
    os.truncate(tmp_path / "run" / METRICS, 5)
    message = (
        r"metrics\.jsonl \(5 bytes\) does not begin with the \d+ bytes that were committed: .*Restore it, or start"
    )
    with pytest.raises(CheckpointError, match=message):
        open_run(tmp_path / "run")
    (tmp_path / "run" / METRICS).unlink()
    with pytest.raises(CheckpointError, match=r"\(0 bytes\)"):
        open_run(tmp_path / "run")


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))  # not within a tick of the clock


@pytest.mark.parametrize("log", [METRICS, ROLLOUTS])
def test_a_flipped_bit_of_a_log_is_noticed(log: str, tmp_path: Path) -> None:
    unbroken(tmp_path / "run")
    open_run(tmp_path / "run").close()
    flip(tmp_path / "run" / log)
    with pytest.raises(CheckpointError, match=rf"{log} \(\d+ bytes\) does not begin with the"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["cache.json", "judge/weights"])
def test_a_flipped_bit_or_a_lost_file_of_a_checkpoint_is_noticed(name: str, tmp_path: Path) -> None:
    unbroken(tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "state-000002" / name
    for damage in (flip, Path.unlink):
        damage(file)
        with pytest.raises(CheckpointError, match=rf"{name} is not the file that was committed .*Restore it, use"):
            open_run(tmp_path / "run")
    open_run(tmp_path / "run", "overwrite").close()


def edit(file: Path) -> None:
    """A change by hand, such as of a setting in the copy of the recipe."""
    file.write_text(file.read_text() + "# mine\n")


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def replace_by_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("damage", [flip, edit, cut, replace_by_fifo, Path.unlink])
@pytest.mark.parametrize(
    ("name", "fix", "may_be_gone"),
    [
        (
            "recipe.yaml",
            r"Undo that, or delete it and .* --resume .* copy it, change the copy",
            True,
        ),
        ("data.json", "Restore it, or start anew with --if-exists overwrite", False),
        ("versions.json", "Restore it, or start anew with --if-exists overwrite", False),
        ("evaluations/1.json", "Restore it, or delete it: .* the report goes without it", True),
        ("summary.json", "Restore it, or delete it: .* the report goes without it", True),
    ],
)
def test_a_recipe_a_description_or_a_result_that_changed_is_noticed(
    name: str, fix: str, may_be_gone: bool, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    run = open_run(tmp_path / "run")
    for described in ("data.json", "versions.json"):
        run.write_json(described, {"a": "text that is long enough"})
    _first(run)
    _step_1(run)
    run.write_json("summary.json", {"accuracy": 0.5})
    _last(run)
    before = snapshot(run)
    run.close()
    open_run(tmp_path / "run").close()
    damage(tmp_path / "run" / name)
    if damage is Path.unlink and may_be_gone:
        assert snapshot(open_run(tmp_path / "run")) == before
        assert (tmp_path / "run" / name).exists() == (name == "recipe.yaml"), "a resume writes the recipe again"
        check_files(tmp_path / "run", read_state(tmp_path / "run" / "state.json"))
        return
    for recipe in ("h", "mine"):  # also if the run is continued with the edited copy of its recipe
        with pytest.raises(CheckpointError, match=rf"run/{name} is not the file that was committed .*{fix}"):
            open_run(tmp_path / "run", recipe=recipe)
    open_run(tmp_path / "run", "overwrite").close()


def test_the_hashes_are_those_of_what_is_kept(tmp_path: Path) -> None:
    """Also over a resume, for folders beside the checkpoints, and after a commit that failed."""
    run = open_run(tmp_path / "run")
    _first(run)
    run.close()
    run = open_run(tmp_path / "run")
    run.write_folder("adapters/judge", saver("old"))
    run.write_folder("adapters/judge", saver("new"))
    _step_1(run)
    assert run.is_intact("adapters/judge") and run.is_intact("checkpoints/state-000001")
    kept = {p: p.read_bytes() for folder in ("adapters", "checkpoints") for p in run.path.glob(f"{folder}/**/*.json")}
    others = (METRICS, ROLLOUTS, "recipe.yaml", "evaluations/1.json")
    kept |= {p: p.read_bytes() for p in (*(run.path / name for name in others), *run.path.rglob("weights"))}
    hashes = {p.relative_to(run.path).as_posix(): sha256(text).hexdigest() for p, text in kept.items()}
    assert run.state.hashes == hashes and len(hashes) == 8
    flip(run.path / "adapters" / "judge" / "judge" / "weights")
    assert not run.is_intact("adapters/judge") and not run.is_intact("adapters")
    run.close()
    open_run(tmp_path / "run").close()


def test_what_else_lies_among_the_checkpoints_breaks_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"

    def litter() -> None:
        if folder.is_dir():
            for name in ("state-000000.bak", "state-old", "notes.txt", ".DS_Store", "state-000900", ".x.draft"):
                (folder / name).touch()
            (folder / "state-0000001").mkdir(exist_ok=True)

    story(tmp_path / "run", "raise", litter)
    open_run(tmp_path / "run").close()
    assert len(list(folder.iterdir())) == 8 and open_run(tmp_path / "run").state.checkpoint == "state-000902"


def test_files_are_for_whom_the_umask_allows(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    def save(folder: Path) -> None:
        save_file({"a": np.zeros(1)}, folder / "weights.safetensors")

    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            run = open_run(tmp_path / f"run-{umask}")
            run.write_folder("adapters/judge", save)
            assert (run.path / "adapters/judge/weights.safetensors").stat().st_mode & 0o777 == mode
        finally:
            os.umask(before)


def test_a_lost_checkpoint_is_refused(tmp_path: Path) -> None:
    unbroken(tmp_path / "run")
    run = open_run(tmp_path / "run")
    folder = run.checkpoint_path()
    assert folder is not None
    run.close()
    folder.rename(tmp_path / "lost")
    with pytest.raises(CheckpointError, match=r"names the checkpoint state-\d+, which is gone\. Restore it, or start"):
        open_run(tmp_path / "run")


# --- one process at a time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("if_exists", ["resume", "overwrite"])
def test_a_directory_in_use_is_refused(tmp_path: Path, if_exists: IfExists) -> None:
    run = open_run(tmp_path / "run")
    run.append(METRICS, {"n": 1})

    def other(tell: Callable[[], None]) -> None:
        try:
            open_run(tmp_path / "run", if_exists)
        except CheckpointError as error:
            if "is in use by another process. Wait for it, or choose another name." in str(error):
                tell()

    assert killed_at(1000, other) == (False, 1)
    with pytest.raises(CheckpointError, match="is in use by another process"):
        open_run(tmp_path / "run", if_exists)
    assert list(read_jsonl(run.path / METRICS)) == [{"n": 1}], "and is left alone"
    run.close()
    assert killed_at(1000, other) == (False, 0)


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    def hold(tell: Callable[[], None]) -> None:
        run = open_run(tmp_path / "run")
        tell()
        os._exit(9 if run.path.exists() else 0)

    assert killed_at(1000, hold) == (True, 1)
    open_run(tmp_path / "run")


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained_and_loses_nothing(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every flush to disk; with room again, the run goes on to the same end."""
    points = unbroken(tmp_path / "whole")
    room = 0

    def limited(handle: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(code, os.strerror(code))

    for flushes in range(1000):
        path = tmp_path / f"run-{flushes}"
        open_run(path).close()
        told: list[int] = []
        room = flushes
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", limited)
            try:
                with explained_disk_errors(path):
                    story(path, "resume", lambda told=told: told.append(1))
                break
            except CheckpointError as error:
                assert f"The disk that holds {path} is full. Free some space and continue with --resume" in str(error)
        run = open_run(path)
        assert points.index(snapshot(run)) in (max(len(told) - 1, 0), len(told))
        assert not leftovers(path)
        run.close()
        story(path, "resume", lambda: None)
        assert snapshot(open_copy(path)) == points[-1]
    assert flushes > 20


def test_a_failed_commit_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state in memory never runs ahead of the one on disk."""
    run = open_run(tmp_path / "run")
    _first(run)
    before = run.state

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "fsync", full)
        run.commit(stage="end")
    assert run.state == before
    run.commit(stage="end")
    assert run.state.stages == ("base", "end") == open_copy(run.path).state.stages


def test_other_disk_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), explained_disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(OSError, match="broken"), explained_disk_errors(tmp_path):
        raise OSError(errno.EIO, "broken")


# --- writing ------------------------------------------------------------------------------------------------------


def test_checkpoints_are_pruned(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    for n in range(5):
        run.commit(saver(str(n)), position=(0, n), keep=3)
        names = sorted(p.name for p in (run.path / "checkpoints").iterdir())
        assert names == [f"state-{i:06d}" for i in range(max(0, n - 2), n + 1)]
    run.commit(stage="x")
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == names, "a stage's end removes none"
    run.commit(stage="y", keep=1)
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["state-000004"]


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    _first(run)
    before = snapshot(run)

    def broken(folder: Path) -> None:
        (folder / "half").write_text("…")
        raise RuntimeError("no weights")

    with pytest.raises(RuntimeError, match="no weights"):
        run.commit(broken, stage="end")
    assert snapshot(run) == before
    run.commit(saver("one"), stage="end")
    assert snapshot(run)[1:4] == (("base", "end"), (0, 0), ("one", "one"))
    assert not leftovers(run.path)


def test_rows_are_plain_json(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run")
    run.append(METRICS, {"text": "é\n\ud800\u2028"})
    assert (run.path / METRICS).read_bytes().count(b"\n") == 1
    assert list(read_jsonl(run.path / METRICS)) == [{"text": "é\n\ud800\u2028"}]
    with pytest.raises(ValueError, match="JSON"):
        run.append(METRICS, {"loss": float("nan")})
    assert len(list(read_jsonl(run.path / METRICS))) == 1
    assert list(read_jsonl(run.path / "timings.jsonl")) == []
    run.write_json("note.json", "lone \ud800")
    assert "lone" in (run.path / "note.json").read_text()


def test_atomic_write_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    atomic_write(target, b"one")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="broken"):
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("broken")))
        atomic_write(target, b"two")
    assert target.read_bytes() == b"one" and [p.name for p in tmp_path.iterdir()] == ["file"]
    atomic_write(target, b"three")
    assert target.read_bytes() == b"three"


def test_what_a_link_names_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("there", "not yet"):
        link = tmp_path / f"link to {name}"
        link.symlink_to(tmp_path / "elsewhere" / name)
        for text in (b"one", b"two"):
            atomic_write(link, text)
            assert link.is_symlink() and (tmp_path / "elsewhere" / name).read_bytes() == text
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(OSError, match="symbolic links"):
        atomic_write(link, b"one")
    assert link.is_symlink()


def test_devices_and_fifos_are_written_into(tmp_path: Path) -> None:
    atomic_write(Path("/dev/null"), b"nothing")
    assert Path("/dev/null").is_char_device()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor() as pool:
        read = pool.submit(fifo.read_bytes)
        atomic_write(fifo, b"text")
        assert read.result() == b"text" and fifo.is_fifo()


def test_targets_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out" / "rows.jsonl"
    check_target(None, target, overwrite=False)
    assert target.parent.is_dir()
    target.touch()
    with pytest.raises(DataError, match=r"rows\.jsonl exists\. Name another file, or give --overwrite\."):
        check_target(None, target, overwrite=False)
    check_target(None, target, overwrite=True)
    check_target(None, Path("/dev/null"), overwrite=False)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for bad in (target / "below" / "rows.jsonl", tmp_path / ("x" * 250), tmp_path / "loop"):
        with pytest.raises(
            DataError, match=r"cannot be written \(.+\)\. Name another file, or check the path and its perm"
        ):
            check_target(None, bad, overwrite=True)
    with (
        monkeypatch.context() as patch,
        pytest.raises(DataError, match=r"new cannot be written \(Read-only file system\)"),
    ):
        patch.setattr(Path, "touch", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, os.strerror(errno.EROFS))))
        check_target(None, tmp_path / "new", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loop", "out"], "nothing is left behind"
    with pytest.raises(DataError, match=r"/dev/null is no file, so unfinished work cannot be kept beside it"):
        check_target(None, Path("/dev/null"), overwrite=True, journal=True)
    with pytest.raises(CheckpointError, match=r"/dev/null is no file\. Name a file"):
        Journal.open(Path("/dev/null"), {}).__enter__()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EACCES, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_flush_folders(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuses_folders)
    assert unbroken(tmp_path / "run")[-1][1] == ("base", "end")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        fsync(tmp_path)


def test_only_the_lock_says_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.EWOULDBLOCK):

        def lock(*_: Any, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", lock)
        path = tmp_path / f"run-{code}"
        if code in (errno.EIO, errno.EWOULDBLOCK):
            with pytest.raises(OSError, match="in use" if code == errno.EWOULDBLOCK else os.strerror(code)):
                open_run(path)
        else:
            assert unbroken(path)[-1][1] == ("base", "end")


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_libraries_say_in_their_words_that_a_disk_is_full(error: Exception, tmp_path: Path) -> None:
    full = pytest.raises(CheckpointError, match=r"holds .* is full\. Free some space and repeat it\.")
    with full, explained_disk_errors(tmp_path, "repeat it"):
        raise error
    with pytest.raises(RuntimeError, match="else"), explained_disk_errors(tmp_path):
        raise RuntimeError("something else")


def test_the_state_survives_its_own_text() -> None:
    state = RunState("h", ("base", "warmup"), "state-000001", (2, 7), {METRICS: 10, ROLLOUTS: 0})
    assert RunState.loads(state.dumps()) == state
    assert RunState.loads(RunState("h").dumps()) == RunState("h")
