"""Hands the numbers of a run's log to experiment trackers: TensorBoard, W&B, trackio, MLflow, through accelerate.

Input: rows of ``metrics.jsonl``, as they are appended. Output: one curve per number. Its name is what the row is of and
the name in the row: ``judge/reward``, ``warmup/rubric/loss``, ``evaluation/accuracy``. Its step is the line of the row
in the file, which never goes back. ``trackers.json`` in the run directory keeps how many lines each tracker has, so a
resumed run hands over every line once; lines that a kill undid keep the numbers that they had first.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import ConfigError, first_line
from rubric_arm_lite.recipe import PolicyRecipe, Recipe, flat_fields
from rubric_arm_lite.runs import METRICS, RunDirectory, atomic_write, read_jsonl, read_object

TRACKERS = "trackers.json"
PROJECT = "rubric-arm-lite"
_PLACES = ("step", "slot", "round", "at")
"""Numbers of a row that say where it stands and measure nothing."""


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a row of the metrics measures, by the names of their curves."""
    kind, role = str(row["kind"]), str(row.get("role", ""))
    if kind == "alarm":
        return {f"alarm/{row['alarm']}": float(row["value"])}
    if kind == "step":
        kind, role = role or "policy", ""
    elif kind == "evaluation" and str(row.get("name", "")).startswith("cross-play"):
        kind = "evaluation/cross-play"
    prefix = "/".join(filter(None, (kind, role)))
    measured = {name: value for name, value in row.items() if name not in _PLACES and isinstance(value, int | float)}
    return {f"{prefix}/{name}": float(value) for name, value in measured.items()}


def mlflow_name(curve: str) -> str:
    """The name of a curve in MLflow, which knows no ``@``, and in files cannot keep ``a/b`` beside ``a/b/c``."""
    first, _, rest = curve.partition("/")
    return f"{first}/{rest.replace('/', '.').replace('@', '-')}"


class Tracker:
    """One tracker of a run.

    Attributes:
        name: as in ``report_to``.
        run_id: the run's identity in the tracker.
        lines: lines of the metrics that it has.
    """

    def __init__(self, name: str, path: Path, recipe: Recipe | PolicyRecipe, run_id: str | None, lines: int) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's loggers refuse to work without it
        self.name, self.run_id, self.lines = name, run_id or secrets.token_hex(4), lines
        label, settings = f"{path.resolve().name}-{self.run_id}", recipe.model_dump(mode="json")
        options: dict[str, Any] = {}
        match name:
            case "tensorboard":
                options = {"run_name": "tensorboard", "logging_dir": path, "purge_step": lines + 1}
            case "wandb":
                project = os.environ.get("WANDB_PROJECT", PROJECT)
                options = {"run_name": project, "name": label, "id": self.run_id, "dir": path, "resume": "allow"}
                options |= {"mode": os.environ.get("WANDB_MODE", "offline"), "config": settings}
            case "trackio":
                options = {"run_name": PROJECT, "name": label, "resume": "allow", "embed": False, "config": settings}
            case "mlflow":
                options = {"experiment_name": PROJECT, "run_name": label, "run_id": run_id}
        self._tracker = LOGGER_TYPE_TO_CLASS[name](**options)
        self._tracker.main_process_only = False  # only the process that writes has trackers
        self._tracker.start()
        if name == "mlflow" and run_id is None:
            self.run_id = str(self._tracker.tracker.info.run_id)
            self._tracker.store_init_configuration(flat_fields(settings))

    def log(self, line: int, row: Mapping[str, Any]) -> None:
        """Hand over the numbers of a line, unless the tracker has it."""
        if line > self.lines:
            values = curves(row)
            if self.name == "mlflow":
                values = {mlflow_name(name): value for name, value in values.items()}
            if values:
                self._tracker.log(values, step=line)
            self.lines = line

    def finish(self) -> None:
        """Write what is left."""
        if self.name == "trackio":  # accelerate leaves its run open, which then ends with a message at exit
            import_module("trackio").finish()
        else:
            self._tracker.finish()


@contextmanager
def tracked(directory: RunDirectory, recipe: Recipe | PolicyRecipe) -> Iterator[None]:
    """Hand every row of a run's metrics to the trackers that the recipe names, from the first that they do not have.

    A tracker that fails later is warned about and gets no more rows; training goes on.

    Raises:
        ConfigError: if a tracker cannot be started.
    """
    if not recipe.report_to or not directory.writes:
        yield
        return
    file, metrics = directory.path / TRACKERS, directory.path / METRICS
    known: dict[str, Any] = dict(read_object(file)) if file.exists() else {}
    trackers: list[Tracker] = []
    line = 0  # of the row that was handed over last

    def safely(tracker: Tracker, *handed: Any) -> None:
        try:
            with redirect_stdout(sys.stderr):  # standard output may be JSON for a program
                tracker.log(*handed) if handed else tracker.finish()
        except Exception as error:  # whatever a library or its server raises
            warnings.warn(f"{tracker.name} failed and gets no more rows: {first_line(error)}", stacklevel=2)
            trackers.remove(tracker)

    def log(row: Mapping[str, Any]) -> None:
        nonlocal line
        line += 1
        for tracker in list(trackers):
            safely(tracker, line, row)
        states = {tracker.name: {"id": tracker.run_id, "lines": tracker.lines} for tracker in trackers}
        if states != {name: known.get(name) for name in states}:
            known.update(states)
            atomic_write(file, json.dumps(known, indent=1).encode())

    try:
        for name in dict.fromkeys(recipe.report_to):
            before = known.get(name, {})
            try:
                with redirect_stdout(sys.stderr):
                    trackers.append(Tracker(name, directory.path, recipe, before.get("id"), before.get("lines", 0)))
            except Exception as error:
                problem = f"report_to: {name} cannot be started ({first_line(error)})."
                raise ConfigError(f"{problem} Check its configuration, or remove it.") from error
        for row in read_jsonl(metrics):
            log(row)
        directory.after_row = log
        yield
    finally:
        directory.after_row = lambda row: None
        for tracker in list(trackers):
            safely(tracker)
