"""``sweep``: every arm of a comparison with every seed, each a run of its own; arms share a warm-up where they can.

A :class:`~rubric_arm_lite.recipe.SweepSettings` goes in; ``SWEEP/ARM/seed-N`` are finished runs, and ``sweep.json``
names them. Arms that differ only in what comes after the warm-up start from one warm-up per seed (``warmup.from``),
which is a run that ends there. Whatever is finished is not done again, and runs resume themselves, so that a sweep that
was killed goes on by the same call.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError, ConfigError, RubricArmError, TrainingError
from rubric_arm_lite.recipe import (
    WARMUPS,
    Recipe,
    SourceSettings,
    SweepSettings,
    WarmupSettings,
    load_sweep,
    recipe_hash,
)
from rubric_arm_lite.runs import (
    RECIPE,
    STATE,
    Progress,
    atomic_write,
    explained_disk_errors,
    read_object,
    read_state,
    recipe_of_run,
)
from rubric_arm_lite.runs.files import lock_file
from rubric_arm_lite.training.run import train
from rubric_arm_lite.training.schedule import scheduled_phases

SWEEP = "sweep.json"
"""File that names the arms, the seeds and the folders of a sweep."""
_AFTER_WARMUP = "warmup-judge"
"""The stage at which a shared warm-up ends."""
_WARMUP_WEIGHT = 0.2
"""Work of a warm-up in units of a run's, for the time left."""


@dataclass(frozen=True, slots=True)
class SweptRun:
    """A finished run of a sweep."""

    arm: str
    seed: int
    path: Path
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """A finished sweep: its folder, and its runs by arm, then by seed."""

    folder: Path
    runs: tuple[SweptRun, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    """A run to do, up to a stage, after another one that it starts from."""

    name: str
    path: Path
    recipe: Recipe
    until: str | None = None
    after: Path | None = None

    @property
    def weight(self) -> float:
        return 1.0 if self.until is None else _WARMUP_WEIGHT

    @property
    def parts(self) -> list[str]:
        """The stages by which progress is counted: the phases of a run, or the two of a warm-up."""
        if self.until is not None:
            return ["warm-up rubric", "warm-up judge"]
        return [phase.label for phase in scheduled_phases(self.recipe.schedule)]

    def is_done(self) -> bool:
        """Whether the run has finished; a CheckpointError if its folder belongs to another recipe."""
        file = self.path / STATE
        return file.is_file() and (self.until or "final") in read_state(file, recipe_hash(self.recipe)).stages


def sweep(
    settings: SweepSettings | str | Path,
    folder: str | Path | None = None,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Run every arm with every seed; call it again after a kill, or with more arms or seeds, and it does the rest.

    With more than one job, guard the call in a script by ``if __name__ == "__main__":``, as each job is a new process.

    Args:
        settings: a sweep, its YAML file, or the name of a shipped one such as ``order``.
        folder: where results go; ``runs/NAME`` by default.
        jobs: runs at a time; by default as many as there are GPUs or, without any, as the CPU's cores can take.
        progress: receives the finished runs as results; its steps are finished runs, with the share of the work that is
            ``done`` and the seconds ``left``.

    Raises:
        ConfigError: if the settings cannot be used.
        CheckpointError: if the folder holds something else, a run of another recipe, or is in use.
        TrainingError: if runs failed; the others are finished.
    """
    if not isinstance(settings, SweepSettings):
        settings = load_sweep(settings)
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: {jobs} does nothing. Use at least 1.")
    path = (Path("runs") / settings.name if folder is None else Path(folder)).absolute()
    planned = _plan(settings, path)
    progress = progress or Progress()
    with explained_disk_errors(path, "call it again"), _opened(path, settings):
        todo = {job.path: job for job in planned if not job.is_done()}
        runs = sum(job.until is None for job in planned)
        tracker = _Tracker(planned, set(todo), progress)
        progress.stage("sweep", runs)
        tracker.show()
        failed: dict[Path, str] = {}
        jobs = min(jobs or _default_jobs(planned), max(1, sum(job.until is None for job in todo.values())))
        for job, error in (_one_by_one if jobs == 1 else _side_by_side)(todo, jobs, tracker):
            if error is not None:
                failed[job.path] = error
                progress.note(f"{job.name} failed: {error}")
            else:
                tracker.finish(job)
        left_out = [job for job in todo.values() if job.after in failed]
        if failed:
            (first, error), others = next(iter(failed.items())), len(failed) + len(left_out) - 1
            raise TrainingError(
                f"{first} failed{f', and {others} more runs failed or need it' if others else ''}; the rest is done. "
                f"{error}"
            )
    pairs = [(arm, seed) for arm in settings.all_arms() for seed in settings.all_seeds()]
    runs_of = [(arm.label, seed, _run_folder(path, arm.folder, seed)) for arm, seed in pairs]
    return SweepResult(path, tuple(SweptRun(*run, dict(read_object(run[2] / "summary.json"))) for run in runs_of))


# --- the plan -------------------------------------------------------------------------------------------------------


def _plan(settings: SweepSettings, path: Path) -> list[_Job]:
    """All runs in order: seed by seed, the warm-ups before the arms that start from them."""
    jobs: dict[Path, _Job] = {}
    for seed in settings.all_seeds():
        recipes = {arm: settings.recipe_of(arm, seed) for arm in settings.all_arms()}
        later = []
        for arm, recipe in recipes.items():
            if recipe.model.checkpoints is not None:
                raise ConfigError("model.checkpoints: full checkpoints cannot be trained. Use a recipe without them.")
            start = None
            if recipe.warmup.source is not None:
                start = path / WARMUPS / f"{_warmup_key(recipe)}-seed-{seed}"
                own = recipe_of_run(start) if (start / RECIPE).is_file() else recipe
                jobs.setdefault(start, _Job(f"warm-up, seed {seed}", start, own, until=_AFTER_WARMUP))
                recipe = _starting_from(recipe, start)
            run = _run_folder(path, arm.folder, seed)
            later.append(_Job(f"{arm.label}, seed {seed}", run, recipe, after=start))
        jobs |= {job.path: job for job in later}
    return list(jobs.values())


def _run_folder(path: Path, arm: str, seed: int) -> Path:
    return path / arm / f"seed-{seed}"


def _warmup_key(recipe: Recipe) -> str:
    """Hash (8 hex digits) of all fields on which the warmed-up adapters depend, for one seed.

    Lengths of completions decide which pairs fit the context, and so which are held out.
    """
    values = recipe.model_dump(mode="json", include={"model", "prompts", "data", "warmup", "evaluation", "threads"})
    values["judge"] = [recipe.reward.judge, recipe.reward.judge_max_tokens, recipe.judge.max_completion_length]
    values["rubric"] = recipe.rubric.max_completion_length
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _starting_from(recipe: Recipe, run: Path) -> Recipe:
    """The recipe with the warm-up of another run in place of its own; what describes the source has no meaning then."""
    kept = recipe.warmup.model_dump(by_alias=True, exclude={*SourceSettings.model_fields, "until", "from_"})
    warmup = WarmupSettings.model_validate({**kept, "from": str(run), "source": None})
    return recipe.model_copy(update={"warmup": warmup})


@contextmanager
def _opened(path: Path, settings: SweepSettings) -> Iterator[None]:
    """Lock the folder of a sweep and note down its arms and seeds, beside those of earlier calls."""
    file = path / SWEEP
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path} is a file. Choose another folder.")
    names = {child.name for child in path.iterdir()} if path.is_dir() else set()
    if names - {".lock", f".{SWEEP}.part"} and SWEEP not in names:
        raise CheckpointError(f"{path} is not the folder of a sweep: it has no {SWEEP}. Choose another folder.")
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("a") as lock:
        lock_file(lock, path)
        before = read_object(file) if file.is_file() else {"arms": {}, "seeds": []}
        arms = {arm.label: {"folder": arm.folder, "set": list(arm.sets)} for arm in settings.all_arms()}
        for label, arm in arms.items():
            if label in before["arms"] and before["arms"][label] != arm:
                raise CheckpointError(
                    f"{file}: the arm {label!r} had other fields. Rename it, or choose another folder."
                )
        now = {
            "name": settings.name,
            "description": settings.description,
            "recipe": settings.recipe,
            "arms": {**before["arms"], **arms},
            "seeds": sorted({*before["seeds"], *settings.all_seeds()}),
        }
        atomic_write(file, (json.dumps(now, indent=1) + "\n").encode())
        yield


# --- running --------------------------------------------------------------------------------------------------------

_Report = Callable[[Path, float], None]
"""Called with a run and the share of it that is done."""


class _Tracker:
    """Counts what is done over all runs, and estimates the time left from the speed so far."""

    def __init__(self, jobs: Sequence[_Job], todo: set[Path], progress: Progress) -> None:
        self._jobs = {job.path: job for job in jobs}
        self._done = {job.path: float(job.path not in todo) for job in jobs}
        self._progress = progress
        self._began, self._at_start = time.monotonic(), self._work()

    def _work(self) -> float:
        return sum(self._jobs[path].weight * done for path, done in self._done.items())

    def show(self) -> None:
        """Report the state of the sweep."""
        total, work = sum(job.weight for job in self._jobs.values()), self._work()
        values = {"done": work / total}
        if work > self._at_start:
            values["left"] = (time.monotonic() - self._began) * (total - work) / (work - self._at_start)
        finished = sum(done == 1.0 and self._jobs[path].until is None for path, done in self._done.items())
        self._progress.step(finished, values)

    def report(self, path: Path, done: float) -> None:
        """A run has come so far."""
        self._done[path] = max(self._done[path], min(done, 0.99))
        self.show()

    def finish(self, job: _Job) -> None:
        """A run is finished."""
        self._done[job.path] = 1.0
        text = "done"
        if job.until is None:
            summary = read_object(job.path / "summary.json")
            text = f"accuracy {summary['accuracy']:.3f} [{summary['accuracy_low']:.3f}, {summary['accuracy_high']:.3f}]"
        self._progress.result(job.name, text)
        self.show()


class _Reporter(Progress):
    """Turns the events of one run into the share of it that is done, by its phases."""

    def __init__(self, job: _Job, report: _Report) -> None:
        self._job, self._report, self._parts = job, report, job.parts
        self._part, self._steps = -1, 1

    def stage(self, name: str, steps: int) -> None:
        if name in self._parts:
            self._part, self._steps = self._parts.index(name), max(1, steps)

    def step(self, done: int, values: dict[str, float]) -> None:
        if self._part >= 0:
            self._report(self._job.path, (self._part + done / self._steps) / len(self._parts))


def _run(job: _Job, report: _Report) -> str | None:
    """Do one run; the error if it cannot be finished."""
    try:
        train(job.recipe, job.path, if_exists="resume", until=job.until, progress=_Reporter(job, report))
    except RubricArmError as error:
        return str(error)
    return None


def _one_by_one(todo: Mapping[Path, _Job], jobs: int, tracker: _Tracker) -> Iterator[tuple[_Job, str | None]]:
    failed: set[Path | None] = set()
    for job in todo.values():
        if job.after not in failed:
            error = _run(job, tracker.report)
            failed |= {job.path} if error else set()
            yield job, error


def _side_by_side(todo: Mapping[Path, _Job], jobs: int, tracker: _Tracker) -> Iterator[tuple[_Job, str | None]]:
    waiting, failed = dict(todo), set[Path | None]()
    running: dict[Future[str | None], _Job] = {}
    try:
        with _workers(jobs) as (executor, events):
            while waiting or running:
                open_jobs = {*waiting, *(job.path for job in running.values())}
                for job in [job for job in waiting.values() if job.after not in open_jobs]:
                    del waiting[job.path]
                    if job.after not in failed:
                        running[executor.submit(_run_in_worker, job)] = job
                done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                while not events.empty():
                    tracker.report(*events.get())
                for future in done:
                    job, error = running.pop(future), future.result()
                    failed |= {job.path} if error else set()
                    yield job, error
    except BrokenProcessPool as error:
        raise TrainingError(
            "A process of the sweep was ended from outside, perhaps as memory ran out. The same command continues; "
            "with fewer --jobs it needs less memory."
        ) from error


# --- processes ------------------------------------------------------------------------------------------------------

_events: Any = None
"""Of a worker: the queue of its reports."""


@contextmanager
def _workers(jobs: int) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """Processes for runs, and the queue of their reports. They end when this one does, even if it is killed."""
    context = multiprocessing.get_context("spawn")
    ends, keep = context.Pipe(duplex=False)  # a worker reads the end of file when nobody holds `keep` any more
    events, numbers = context.SimpleQueue(), context.SimpleQueue()
    for number in range(jobs):
        numbers.put(number)
    executor = ProcessPoolExecutor(jobs, context, _begin_worker, (ends, events, numbers, _gpus()))
    try:
        yield executor, events
    finally:
        keep.close()
        executor.shutdown(cancel_futures=True)


def _begin_worker(ends: Any, events: Any, numbers: Any, gpus: list[str]) -> None:
    """Set up a worker before it imports anything heavy: its GPU, its reports, and its end with the parent's."""
    import signal

    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers
    number = numbers.get()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]

    def end_with_parent() -> None:
        with suppress(OSError):
            multiprocessing.connection.wait([ends])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run_in_worker(job: _Job) -> str | None:
    return _run(job, lambda path, done: _events.put((path, done)))


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    return names if torch.cuda.is_available() else []


def _default_jobs(jobs: Sequence[_Job]) -> int:
    """One run per GPU or, without any, as many as the cores can take with the threads that the recipe says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(job.recipe.threads or cores for job in jobs)
    return len(_gpus()) or max(1, cores // threads)
