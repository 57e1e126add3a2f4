"""Reads a run directory for its report, whether the run is finished or not.

A folder goes in; a :class:`RunRecord` comes out, in which every text is safe to show (no control or reordering
characters) and every measured value is a finite number. A file that an unfinished run lacks leaves its part empty.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.evaluation.benchmarks.run import BENCHMARKS_FOLDER, read_results
from rubric_arm_lite.evaluation.metrics import row_accuracy
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.runs import (
    RECIPE,
    STATE,
    LogRow,
    RunState,
    check_files,
    check_logs,
    read_jsonl,
    read_object,
    read_state,
    recipe_of_run,
)
from rubric_arm_lite.training.alarms import ALARM, alarm_texts
from rubric_arm_lite.training.schedule import scheduled_phases
from rubric_arm_lite.training.tripwire import SET_BACK, return_text, rows_in_effect

METRICS = "metrics.jsonl"
STAGE_NAMES = {
    "base": "evaluation of the base",
    "warmup-rubric": "warm-up of the rubric generator",
    "warmup-judge": "warm-up of the judge",
    "warmup": "evaluation after the warm-up",
    "alternating": "alternating GRPO",
    "cross-play": "cross-play",
    "final": "final evaluation",
}
"""The stages of :data:`rubric_arm_lite.training.schedule.STAGES` as the report names them."""
_CROSS_PLAY = "cross-play: "
# Control characters, line separators that only some programs see, and characters that reorder what follows.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of one role: in the warm-up (slot -1), in a phase of the schedule, or a probe in a phase."""

    slot: int
    phase: str
    role: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One evaluation: its values, the verdicts per pair, and the example prompts that were kept."""

    name: str
    values: Mapping[str, float]
    rows: tuple[Mapping[str, Any], ...] = ()
    examples: tuple[Mapping[str, Any], ...] = ()

    def scores(self) -> dict[str, float]:
        """Accuracy per pair id, the mean of both orders where there are two; empty without rows."""
        return {str(row["pair_id"]): row_accuracy(row) for row in self.rows}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything that the report shows of a run.

    Attributes:
        oracle: accuracies of a judge that never misreads, by kind of rubric.
        parts: stages and phases of the run in order, and whether each is done.
        returns: phases that went back to an earlier checkpoint, a sentence each (``schedule.tripwire``).
        alarms: signs that training went wrong, a sentence each (``alarms``).
        times: seconds and sampled tokens per stage, summed over its rows.
    """

    recipe: Recipe | None = None
    recipe_text: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    oracle: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, bool] = field(default_factory=dict)
    warmup: tuple[StepRow, ...] = ()
    steps: tuple[StepRow, ...] = ()
    probes: tuple[StepRow, ...] = ()
    returns: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    evaluations: Mapping[str, EvaluationRow] = field(default_factory=dict)
    cross_play: Mapping[str, EvaluationRow] = field(default_factory=dict)
    times: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    benchmarks: tuple[Result, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name if self.recipe else "run"

    @property
    def pointwise(self) -> bool:
        """Whether the judge checks one response at a time, so that the order of two responses has no meaning."""
        return self.recipe is not None and self.recipe.pointwise

    @property
    def phases(self) -> list[EvaluationRow]:
        """The evaluations along the schedule that have an accuracy, in order, without those of cross-play."""
        along = (row for name, row in self.evaluations.items() if not name.startswith(_CROSS_PLAY))
        return [row for row in along if "accuracy" in row.values]


def read_run(run: Path) -> RunRecord:
    """Read a run directory.

    Raises:
        CheckpointError: if the folder is no run directory, or a file in it is damaged.
    """
    if not any((run / name).is_file() for name in (STATE, RECIPE, METRICS)):
        raise CheckpointError(
            f"{run} is not a run directory: it has no {STATE}. Give the folder that `rubric-arm run` wrote, for "
            "example runs/testbed."
        )
    try:
        recipe = recipe_of_run(run) if (run / RECIPE).exists() else None
    except ValueError:  # The recipe of another version may not load any more; the page still shows its text.
        recipe = None
    state = committed_state(run)
    logged, data = read_metrics(run), _read_optional(run / "data.json")
    files = [_read_optional(file) for file in sorted((run / "evaluations").glob("*.json"))]
    details = {str(file.get("name")): file for file in files}
    cross_play = _read_optional(run / "cross_play.json")
    times: dict[str, tuple[float, float]] = {}
    for row in map(_safe, read_jsonl(run / "timings.jsonl")):
        values, (seconds, tokens) = finite_numbers(row), times.get(str(row["stage"]), (0.0, 0.0))
        times[str(row["stage"])] = (seconds + values.get("seconds", 0.0), tokens + values.get("tokens", 0.0))
    return RunRecord(
        recipe=recipe,
        recipe_text=safe_text((run / RECIPE).read_text("utf-8", "replace")) if (run / RECIPE).exists() else "",
        versions={k: "none" if v is None else str(v) for k, v in _read_optional(run / "versions.json").items()},
        oracle=finite_numbers(data.get("oracle")),
        data=finite_numbers(data),
        parts=parts_of(recipe, state),
        warmup=_steps(logged["warmup"]),
        steps=_steps(logged["step"]),
        probes=_steps(logged["probe"]),
        returns=tuple(return_text(row) for row in logged[SET_BACK]),
        alarms=tuple(alarm_texts(logged[ALARM])),
        evaluations={str(row["name"]): _evaluation(str(row["name"]), row, details) for row in logged["evaluation"]},
        cross_play={name: _evaluation(name, row, details, _CROSS_PLAY) for name, row in cross_play.items()},
        times=times,
        benchmarks=tuple(read_results(run / BENCHMARKS_FOLDER).benchmarks.values()),
    )


def parts_of(recipe: Recipe | None, state: RunState, names: Mapping[str, str] = STAGE_NAMES) -> dict[str, bool]:
    """The stages of a run by their names, with the phases in place of the alternating one, and whether each is done."""
    parts: dict[str, bool] = {}
    for stage, name in names.items():
        done = stage in state.stages
        if stage == "alternating" and recipe is not None:
            parts |= {p.label: done or state.position[0] > p.index for p in scheduled_phases(recipe.schedule)}
        else:
            parts[name] = done
    return parts


def committed_state(run: Path) -> RunState:
    """What the run has committed, if it has; a CheckpointError if a log or another file was changed since then."""
    state = read_state(run / STATE) if (run / STATE).exists() else RunState("")
    check_logs(run, state)
    check_files(run, state)
    return state


def _steps(rows: Iterable[LogRow]) -> tuple[StepRow, ...]:
    def step(row: LogRow) -> StepRow:
        phase, role = str(row.get("phase", "")), str(row.get("role", ""))
        return StepRow(int(row.get("slot", -1)), phase, role, int(row.get("step", 0)), finite_numbers(row))

    return tuple(map(step, rows))


def _evaluation(name: str, values: Any, details: Mapping[str, LogRow], prefix: str = "") -> EvaluationRow:
    """An evaluation with the rows and examples of its own file; only rows that say how a pair was judged."""
    detail: Mapping[str, Any] = details.get(prefix + name, {})
    rows = [(row, finite_numbers(row).keys()) for row in detail.get("rows", ())]
    judged = tuple(row for row, keys in rows if "accuracy" in keys or {"original", "swapped"} <= keys)
    examples = tuple(item for item in detail.get("showcase", ()) if isinstance(item, LogRow))
    return EvaluationRow(name, finite_numbers(values), judged, examples)


# --- files ----------------------------------------------------------------------------------------------------------


def read_metrics(run: Path) -> Mapping[str, list[LogRow]]:
    """The rows of a run's metrics by kind: ``evaluation``, ``step`` and so on."""
    by_kind: dict[str, list[LogRow]] = defaultdict(list)
    for row in rows_in_effect(map(_safe, read_jsonl(run / METRICS))):
        by_kind[str(row["kind"])].append(row)
    return by_kind


def read_file(file: Path) -> LogRow:
    """The object that a JSON file holds, every text in it safe to show."""
    row: LogRow = _safe(read_object(file))
    return row


def _read_optional(file: Path) -> LogRow:
    return read_file(file) if file.exists() else LogRow(str(file), {})


def finite_numbers(values: Any) -> dict[str, float]:
    """The finite numbers of a log row; a missing one is an error that names the row. Empty for anything else."""
    if not isinstance(values, LogRow):
        return {}
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return LogRow(values.where, {k: float(v) for k, v in numbers.items() if math.isfinite(v)})


def _safe(value: Any) -> Any:
    """The value of a log, every text in it safe to show."""
    if isinstance(value, LogRow):
        return LogRow(value.where, {safe_text(k): _safe(v) for k, v in value.items()})
    if isinstance(value, list):
        return [_safe(item) for item in value]
    return safe_text(value) if isinstance(value, str) else value


def safe_json(text: str) -> str:
    """JSON text that can be shown: unsafe characters become ``\\u`` escapes, which mean the same."""
    return _UNSAFE.sub(lambda character: f"\\u{ord(character[0]):04x}", text)


def safe_text(text: str) -> str:
    """Text that can be shown: unsafe characters become the replacement character, line ends ``\\n``."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
