"""Read a run directory for its report: whatever is there, as far as the run has come.

A folder goes in; a :class:`RunRecord` comes out, in which every text is safe to show (no control or reordering
characters) and every measured value is a finite number. Files that an unfinished run lacks leave their part empty.
Comparisons between evaluations (:func:`contrast`) are paired: they use the same held-out pairs on both sides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation import Result, bootstrap_interval
from rubric_arm_lite.evaluation.benchmarks.run import BENCHMARKS_FOLDER, read_results
from rubric_arm_lite.recipe import Recipe, load_recipe
from rubric_arm_lite.runs import read_jsonl, read_object
from rubric_arm_lite.runs.directory import RECIPE, STATE, RunState
from rubric_arm_lite.training.schedule import scheduled_phases

STAGE_WORDS = {
    "base": "evaluation of the base",
    "warmup-rubric": "warm-up of the rubric generator",
    "warmup-judge": "warm-up of the judge",
    "warmup": "evaluation after the warm-up",
    "alternating": "alternating GRPO",
    "cross-play": "cross-play",
    "final": "final evaluation",
}
"""The stages of :data:`rubric_arm_lite.training.schedule.STAGES`, in words."""

CROSS_PLAY_PREFIX = "cross-play: "
_METRICS = "metrics.jsonl"
# Control characters, line separators that only some programs see, and characters that reorder what follows.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of one role: in the warm-up (slot -1), in a phase of the schedule, or a probe in it."""

    slot: int
    phase: str
    role: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One evaluation: its values, the verdicts per pair, and the prompts kept to be read."""

    name: str
    values: Mapping[str, float]
    rows: tuple[Mapping[str, Any], ...] = ()
    showcase: tuple[Mapping[str, Any], ...] = ()

    def scores(self) -> dict[str, float]:
        """Accuracy per pair id, the mean of both orders where there are two; empty without rows."""
        return {
            str(row.get("pair_id")): row["accuracy"] if "accuracy" in row else (row["original"] + row["flipped"]) / 2
            for row in self.rows
        }


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run and whether it is done."""

    name: str
    done: bool


@dataclass(frozen=True, slots=True)
class StageTime:
    """Seconds and sampled tokens of one stage, summed over its rows."""

    stage: str
    seconds: float
    tokens: float

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that a report shows of a run."""

    recipe: Recipe | None
    recipe_text: str
    versions: Mapping[str, str]
    oracle: Mapping[str, float]
    data: Mapping[str, float]
    parts: tuple[Part, ...]
    warmup: tuple[StepRow, ...]
    steps: tuple[StepRow, ...]
    probes: tuple[StepRow, ...]
    evaluations: Mapping[str, EvaluationRow]
    cross_play: Mapping[str, EvaluationRow]
    times: tuple[StageTime, ...]
    benchmarks: tuple[Result, ...] = ()

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name if self.recipe else "run"

    @property
    def pointwise(self) -> bool:
        """Whether the judge checks one response at a time, so that there is no order of two."""
        return self.recipe is not None and self.recipe.reward.judge == "pointwise"

    @property
    def open_parts(self) -> list[str]:
        """What is not done yet."""
        return [part.name for part in self.parts if not part.done]

    @property
    def phases(self) -> list[EvaluationRow]:
        """The evaluations along the schedule, in order; cross-play is apart."""
        return [row for name, row in self.evaluations.items() if not name.startswith(CROSS_PLAY_PREFIX)]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference of accuracies with its 95 % interval, where the verdicts per pair are there to say."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval is there and leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def contrast(weighted: Iterable[tuple[float, EvaluationRow]]) -> Estimate:
    """The weighted sum of accuracies, with a paired bootstrap interval over pairs that all evaluations share.

    For example ``[(1, final), (-1, warm_up)]`` is the gain.
    """
    terms = list(weighted)
    scores = [(weight, row.scores()) for weight, row in terms]
    shared = list(scores[0][1])
    if shared and all(list(found) == shared for _, found in scores):
        per_pair = [sum(weight * found[pair] for weight, found in scores) for pair in shared]
        return Estimate(sum(per_pair) / len(per_pair), bootstrap_interval(per_pair, _RESAMPLES, 0))
    return Estimate(sum(weight * row.values.get("accuracy", 0.0) for weight, row in terms))


def read_run(run: Path) -> RunRecord:
    """Read a run directory.

    Raises:
        CheckpointError: if it is none, or a file in it is damaged.
    """
    if not any((run / name).is_file() for name in (STATE, RECIPE, _METRICS)):
        raise CheckpointError(
            f"{run} is not a run directory: it has no {STATE}. Give the folder that `rubric-arm run` wrote, for "
            "example runs/testbed."
        )
    recipe = _read_recipe(run / RECIPE)
    logged = list(_read_rows(run / _METRICS))
    data = _read_json(run / "data.json")
    return RunRecord(
        recipe=recipe,
        recipe_text=_read_text(run / RECIPE),
        versions={str(k): "none" if v is None else str(v) for k, v in _read_json(run / "versions.json").items()},
        oracle=_numbers(data.get("oracle")),
        data=_numbers(data),
        parts=tuple(_parts(run / STATE, recipe)),
        warmup=_steps(logged, "warmup"),
        steps=_steps(logged, "step"),
        probes=_steps(logged, "probe"),
        evaluations=_evaluations(run, logged),
        cross_play=_cross_play(run),
        times=_times(run / "timings.jsonl"),
        benchmarks=tuple(read_results(run / BENCHMARKS_FOLDER)[1]),
    )


# --- parts ----------------------------------------------------------------------------------------------------------


def _parts(file: Path, recipe: Recipe | None) -> Iterable[Part]:
    try:
        state = RunState.loads(_read_text(file)) if file.exists() else RunState("")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}). Restore it, or move it away and ask for the report "
            "again."
        ) from error
    for stage, words in STAGE_WORDS.items():
        done = stage in state.stages
        if stage == "alternating" and recipe is not None:
            for slot in scheduled_phases(recipe.schedule):
                yield Part(slot.label, done or state.position[0] > slot.index)
        else:
            yield Part(words, done)


def _steps(logged: Iterable[Mapping[str, Any]], kind: str) -> tuple[StepRow, ...]:
    return tuple(
        StepRow(
            int(row.get("slot", -1)),
            str(row.get("phase", "")),
            str(row.get("role", "")),
            int(row.get("step", 0)),
            _numbers(row),
        )
        for row in logged
        if row.get("kind") == kind
    )


def _evaluations(run: Path, logged: Iterable[Mapping[str, Any]]) -> dict[str, EvaluationRow]:
    files = [_read_json(file) for file in sorted((run / "evaluations").glob("*.json"))]
    details = {str(found.get("name")): found for found in files}
    rows = {str(row.get("name")): row for row in logged if row.get("kind") == "evaluation"}
    return {name: _evaluation(name, row, details.get(name, {})) for name, row in rows.items()}


def _evaluation(name: str, values: Any, details: Mapping[str, Any]) -> EvaluationRow:
    rows = [row for row in details.get("rows", ()) if _judged(row)]
    showcase = [item for item in details.get("showcase", ()) if isinstance(item, dict)]
    return EvaluationRow(name, _numbers(values), tuple(rows), tuple(showcase))


def _judged(row: Any) -> bool:
    """Whether a row says how its pair was judged: one value from a pointwise judge, or one per order."""
    numbers = set(_numbers(row))
    return "accuracy" in numbers or {"original", "flipped"} <= numbers


def _cross_play(run: Path) -> dict[str, EvaluationRow]:
    files = [_read_json(file) for file in sorted((run / "evaluations").glob("cross-play*.json"))]
    details = {str(found.get("name")): found for found in files}
    found = _read_json(run / "cross_play.json")
    return {
        name: _evaluation(name, values, details.get(CROSS_PLAY_PREFIX + name, {})) for name, values in found.items()
    }


def _times(file: Path) -> tuple[StageTime, ...]:
    sums: dict[str, StageTime] = {}
    for row in _read_rows(file):
        values, stage = _numbers(row), str(row.get("stage"))
        before = sums.get(stage, StageTime(stage, 0.0, 0.0))
        seconds, tokens = values.get("seconds", 0.0), values.get("tokens", 0.0)
        sums[stage] = StageTime(stage, before.seconds + seconds, before.tokens + tokens)
    return tuple(sums.values())


# --- files ----------------------------------------------------------------------------------------------------------


def _read_recipe(file: Path) -> Recipe | None:
    # A recipe of another version of this package may not load any more; its text is shown all the same.
    try:
        return load_recipe(file) if file.exists() else None
    except ValueError:
        return None


def _read_text(file: Path) -> str:
    return safe_text(file.read_text("utf-8", "replace")) if file.exists() else ""


def _read_json(file: Path) -> dict[str, Any]:
    return {key: _safe(value) for key, value in read_object(file).items()} if file.exists() else {}


def _read_rows(file: Path) -> list[dict[str, Any]]:
    return [{key: _safe(value) for key, value in row.items()} for row in read_jsonl(file)]


def _numbers(values: Any) -> dict[str, float]:
    """The finite numbers of a mapping; nothing of anything else."""
    if not isinstance(values, Mapping):
        return {}
    return {
        safe_text(str(k)): float(v)
        for k, v in values.items()
        if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    }


def _safe(value: Any) -> Any:
    match value:
        case str():
            return safe_text(value)
        case list():
            return [_safe(item) for item in value]
        case dict():
            return {safe_text(str(key)): _safe(item) for key, item in value.items()}
        case _:
            return value


def safe_text(text: str) -> str:
    """Text that can be shown: unsafe characters become the replacement character, line ends ``\\n``."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))
