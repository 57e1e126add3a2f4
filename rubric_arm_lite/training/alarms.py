"""Alarms: signs in the log of a run that training goes wrong, each shown at most once per phase.

Input: rows of ``metrics.jsonl``. Output: rows of the kind ``alarm``, which follow from the rows before them alone, so a
run that was killed has the same. The tripwire compares a step with the first one of its phase and restores a
checkpoint; an alarm compares with the warm-up, which also shows what happens slowly, and tells, or ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.evaluation.metrics import mean
from rubric_arm_lite.recipe import AlarmSettings
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.training.tripwire import last_rows, rows_in_effect
from rubric_arm_lite.types import ROLES, Role

if TYPE_CHECKING:
    from rubric_arm_lite.training.state import TrainingState

ALARM = "alarm"
"""Kind of the log row of an alarm."""
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sign:
    """What one alarm measures, and how it is told.

    Attributes:
        measure: of steps: the role's first row of the run and the last ones of the phase; of evaluations: all since the
            warm-up. None where it cannot be measured.
        text: what is wrong, with ``{value}`` and ``{role}``.
        fix: what to try, with ``{role}``.
        roles: the roles in whose phases it is looked for.
        falls: an alarm at the threshold or below it, in place of above.
        unsolved: only while the samples' accuracy is below ``alarms.solved``.
    """

    measure: Callable[[Row, Sequence[Row]], float | None]
    text: str
    fix: str
    roles: tuple[Role, ...] = ROLES
    falls: bool = False
    unsolved: bool = False


def _mean(rows: Sequence[Row], name: str) -> float | None:
    """The mean of a value over the rows that have it."""
    values = [row[name] for row in rows if name in row]
    return mean(values) if values else None


def _level(name: str) -> Callable[[Row, Sequence[Row]], float | None]:
    return lambda first, rows: _mean(rows, name)


def _rise(name: str) -> Callable[[Row, Sequence[Row]], float | None]:
    def rise(first: Row, rows: Sequence[Row]) -> float | None:
        now = _mean(rows, name)
        return now - first[name] if now is not None and name in first else None

    return rise


def _ratio(name: str) -> Callable[[Row, Sequence[Row]], float | None]:
    def ratio(first: Row, rows: Sequence[Row]) -> float | None:
        now = _mean(rows, name)
        return now / first[name] if now is not None and first.get(name, 0.0) > 0 else None

    return ratio


def _unusable(first: Row, rows: Sequence[Row]) -> float | None:
    """Of the prompts of a judge phase, after all attempts; of the samples of a rubric phase."""
    readable = None if "rubrics/unusable" in first else _mean(rows, "parse/ok")
    return _mean(rows, "rubrics/unusable") if readable is None else 1 - readable


def _spread(first: Row, rows: Sequence[Row]) -> float | None:
    return _mean(rows, "groups/informative") if any(row.get("groups") for row in rows) else None


def _change_of_length(first: Row, rows: Sequence[Row]) -> float | None:
    ratio = _ratio("completion_length")(first, rows)
    return max(ratio, 1 / ratio) if ratio else None


def _fall_of_accuracy(first: Row, rows: Sequence[Row]) -> float | None:
    """From the best evaluation to the last one, if that is below the best one's interval."""
    best, now = max(rows, key=lambda row: float(row["accuracy"])), rows[-1]
    return best["accuracy"] - now["accuracy"] if now["accuracy"] < best["accuracy_low"] else None


STEPS: Mapping[str, Sign] = {
    "unusable": Sign(
        _unusable,
        "{value:.0%} of the rubrics cannot be used",
        "Try a warm-up (warmup.source), another prompts.rubric_template or a smaller rubric.learning_rate.",
    ),
    "no_spread": Sign(
        _spread,
        "{value:.0%} of the {role}'s groups carry a gradient, as all samples of a group earn the same reward",
        "Try a warm-up (warmup.source), more samples ({role}.num_generations) or a higher {role}.temperature.",
        falls=True,
        unsolved=True,
    ),
    "truncated": Sign(
        _level("completions/truncated"),
        "{value:.0%} of the {role}'s texts are cut off",
        "Raise {role}.max_completion_length.",
    ),
    "kl": Sign(
        _level("kl"),
        "the {role}'s KL to its warm-up is {value:.2f} nats per token",
        "Try a larger {role}.beta or a smaller {role}.learning_rate.",
    ),
    "entropy": Sign(
        _ratio("entropy"),
        "{value:.0%} of the {role}'s entropy is left, so that its samples are nearly alike",
        "Try {role}.entropy_coef, a higher {role}.temperature or a smaller {role}.learning_rate.",
        falls=True,
        unsolved=True,
    ),
    "contradicted": Sign(
        _rise("findings/contradicted"),
        "the share of verdicts against the judge's own findings is {value:.2f} above the warm-up's",
        "Try reward.faithful: true or a smaller judge.learning_rate.",
        ("judge",),
    ),
    "length": Sign(
        _change_of_length,
        "the length of rubrics has changed by a factor of {value:.1f} since the warm-up",
        "Try a larger rubric.beta or a smaller rubric.learning_rate.",
        ("rubric",),
    ),
    "repeated": Sign(
        _level("criteria/repeated"),
        "{value:.0%} of the criteria repeat another one of their rubric",
        "Try reward.repeated_criteria: zero.",
        ("rubric",),
    ),
    "copied": Sign(
        _level("criteria/copied"),
        "a criterion stands in {value:.0%} of the rubrics of other prompts, too",
        "Try rubric.entropy_coef, a larger rubric.beta or more rubric.pairs_per_prompt.",
        ("rubric",),
    ),
    "topical": Sign(
        _rise("criteria/topical"),
        "the share of principles that name a thing of their own prompt is {value:.2f} above the warm-up's",
        "Try a larger rubric.beta or more rubric.pairs_per_prompt.",
        ("rubric",),
    ),
}
"""Alarms on the steps of a phase, by the field of their threshold."""
EVALUATIONS: Mapping[str, Sign] = {
    "position_bias": Sign(
        lambda first, rows: _rise("position_bias")(first, rows[-1:]),
        "the position bias on held-out pairs is {value:.2f} above the warm-up's",
        "Try reward.pair_orders: both.",
    ),
    "held_out": Sign(
        _fall_of_accuracy,
        "the held-out accuracy is {value:.3f} below its best, while the reward rose in training",
        "What is rewarded is no longer what is wanted: use an earlier checkpoint, fewer steps or a larger beta.",
    ),
    "rubric_gain": Sign(
        lambda first, rows: rows[-1].get("rubric_gain_high"),
        "rubrics of other prompts do as well: their own add at most {value:.3f} to the accuracy",
        "Try more steps of the rubric phase (rubric.max_steps) or more rubric.pairs_per_prompt.",
        falls=True,
    ),
    "ignored": Sign(
        lambda first, rows: rows[-1].get("verdicts_unchanged"),
        "{value:.0%} of the verdicts stay the same under another prompt's rubric, so the judge hardly reads it",
        "Try reward.faithful: true, or a warm-up whose judgements follow from the rubric.",
    ),
}
"""Alarms on the evaluation after a phase, by the field of their threshold."""


def new_alarms(
    rows: Sequence[Row], phase: ScheduledPhase, settings: AlarmSettings, ended: bool = False
) -> list[dict[str, Any]]:
    """The alarms of a phase that its rows give now, without those that the phase has had.

    Args:
        rows: all rows of the run that count (:func:`.rows_in_effect`), up to a step or an evaluation of this phase.
        ended: whether the phase has ended and was evaluated, if the recipe evaluates after phases.
    """
    steps = [row for row in rows if row["kind"] == "step"]
    own = [row for row in steps if row["slot"] == phase.index]
    if not own:
        return []
    known = {(row["alarm"], row.get("role")) for row in rows if row["kind"] == ALARM and row["slot"] == phase.index}
    found: list[dict[str, Any]] = []

    def look(name: str, sign: Sign, first: Row, recent: Sequence[Row], step: int, role: Role | None = None) -> None:
        threshold, value = getattr(settings, name), sign.measure(first, recent)
        if threshold is None or value is None or (name, role) in known:
            return
        if value <= threshold if sign.falls else value >= threshold:
            where = f"In step {step + 1} of {phase.label}" if role else f"After {phase.label}"
            what, fix = sign.text.format(value=value, role=role), sign.fix.format(role=role)
            place = {"slot": phase.index, "phase": phase.label, **({"role": role} if role else {}), "step": step}
            text = f"{where}, {what} (alarms.{name}: {threshold:g}). {fix}"
            found.append({"kind": ALARM, "alarm": name, **place, "value": value, "threshold": threshold, "text": text})

    for role in phase.roles:
        of_role = [row for row in own if row["role"] == role]
        if recent := last_rows(of_role, settings.groups) or (of_role if ended else []):
            first = next(row for row in steps if row["role"] == role)
            solved = (_mean(recent, "reward/accuracy") or 0.0) >= settings.solved
            for name, sign in STEPS.items():
                if role in sign.roles and not (sign.unsolved and solved):
                    look(name, sign, first, recent, recent[-1]["step"], role)
    along = [row for row in rows if row["kind"] == "evaluation" and not row["name"].startswith(("base", "cross-play"))]
    if ended and along and along[-1]["name"] == phase.label:
        for name, sign in EVALUATIONS.items():
            if name != "held_out" or _reward_rose(own):
                look(name, sign, along[0], along, own[-1]["step"])
    return found


def _reward_rose(steps: Sequence[Row]) -> bool:
    """Whether the mean reward of a role is higher in the second half of a phase than in the first."""
    for role in {row["role"] for row in steps}:
        rewards = [row["reward"] for row in steps if row["role"] == role]
        if mean(rewards[len(rewards) // 2 :]) > mean(rewards[: len(rewards) // 2 or 1]):
            return True
    return False


def alarm_texts(rows: Iterable[Row]) -> list[str]:
    """One sentence for each alarm of a run, its first one, and the later phases that gave it, too."""
    phases: dict[tuple[Any, ...], list[str]] = {}
    texts: dict[tuple[Any, ...], str] = {}
    for row in rows:
        key = (row["alarm"], row.get("role"))
        texts.setdefault(key, str(row["text"]))
        phases.setdefault(key, []).append(str(row["phase"]))
    return [
        text + (f" Also in {', '.join(later)}." if (later := phases[key][1:]) else "") for key, text in texts.items()
    ]


class Alarms:
    """Watches the phases of a run, tells of each alarm, and ends the run if the recipe asks for it.

    Args:
        rows: all rows of the run, to which the tripwire adds those of its steps.
    """

    def __init__(self, state: TrainingState, rows: list[Mapping[str, Any]]) -> None:
        self._state, self._rows = state, rows

    def after_step(self, phase: ScheduledPhase) -> None:
        """Look at the step whose rows were added last."""
        self._look(phase, ended=False)

    def after_phase(self, phase: ScheduledPhase, values: Mapping[str, float] | None) -> None:
        """Look at a phase that has ended, and at the evaluation that follows it, if there is one."""
        if values is not None:
            self._rows.append({"kind": "evaluation", "name": phase.label, **values})
        self._look(phase, ended=True)

    def _look(self, phase: ScheduledPhase, ended: bool) -> None:
        state, settings = self._state, self._state.recipe.alarms
        rows = new_alarms(rows_in_effect(self._rows), phase, settings, ended)
        for row in rows:
            self._rows.append(row)
            state.directory.append("metrics.jsonl", row)
            state.progress.note(row["text"])
        if rows and settings.action == "stop":
            raise TrainingError(f"{rows[0]['text']} Resume with alarms.action: note to go on as it is.")
