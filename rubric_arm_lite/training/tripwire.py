"""Notices in the log of a phase that its adapter is being destroyed, before the rest of the run is spent on it.

The first step of a phase rolls out the adapter as it was, so its row is what later rows are compared with. A judge may
be lost within two updates: it names one side whatever its findings say, and no reward inside a group differs any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.evaluation.metrics import mean
from rubric_arm_lite.recipe import TripwireSettings
from rubric_arm_lite.runs import read_jsonl
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.types import Role

if TYPE_CHECKING:
    from rubric_arm_lite.training.state import TrainingState

SET_BACK = "set_back"
"""Kind of the log row that says to which step a phase went back; rows of later steps before it no longer count."""


Row = TypeVar("Row", bound=Mapping[str, Any])


class WentBackError(Exception):
    """Raised inside the loop when a phase has gone back to an earlier step, from which the loop starts again."""


def rows_in_effect(rows: Iterable[Row]) -> list[Row]:
    """The rows of a run's metrics without the steps, probes and alarms that a later return of their phase undid."""
    kept: list[Row] = []
    for row in rows:
        if row["kind"] == SET_BACK:
            inside = [r["kind"] in ("step", "probe", "alarm") and r["slot"] == row["slot"] for r in kept]
            kept = [r for r, own in zip(kept, inside, strict=True) if not own or r["step"] < row["step"]]
        kept.append(row)
    return kept


def last_rows(steps: Sequence[Row], groups: int) -> list[Row]:
    """The last steps that have so many groups together, in order; none if all have fewer."""
    recent, count = list[Row](), 0.0
    for row in reversed(steps):
        recent.insert(0, row)
        count += row.get("groups", 0.0)
        if count >= groups:
            return recent
    return []


def alarm(rows: Sequence[Mapping[str, Any]], role: Role, settings: TripwireSettings) -> str | None:
    """What the last steps of a role's phase show that its first step did not; None if nothing is wrong.

    Args:
        rows: of the role's steps in one phase, in order.
    """
    if len(rows) < 2 or settings.action == "off":
        return None
    first, recent = rows[0], last_rows(rows[1:], settings.groups)
    if not recent:
        return None

    def rise(name: str) -> float:
        values = [row[name] for row in recent if name in row]
        return mean(values) - first[name] if values and name in first else 0.0

    limits = {
        "findings/contradicted": ("share of verdicts against their own findings", settings.contradicted),
        "entropy": ("entropy in nats per token", settings.entropy),
    }
    for name, (what, limit) in limits.items():
        if rise(name) >= limit:
            return f"the {what} rose from {first[name]:.2f} to {first[name] + rise(name):.2f}"
    if -rise("parse/ok") >= settings.malformed:
        now = first["parse/ok"] + rise("parse/ok")
        return f"the share of texts that parse fell from {first['parse/ok']:.2f} to {now:.2f}"
    for side in ("A", "B") if role == "judge" and "verdicts/A" in first else ():
        share = mean([row[f"verdicts/{side}"] for row in recent])
        if share >= settings.one_sided > first[f"verdicts/{side}"]:
            return f"{share:.0%} of the verdicts name Response {side}"
    return None


def return_text(row: Mapping[str, Any]) -> str:
    """What a log row of :data:`SET_BACK` says, in a sentence."""
    return (
        f"In step {row['at'] + 1} of {row['phase']} {row['reason']}: the phase went back to its step {row['step']} and "
        "took smaller steps from there (schedule.tripwire)."
    )


class Tripwire:
    """Watches the phases of a run; on an alarm it restores the last good checkpoint, or ends the run.

    How often a phase went back is read from the log, so a run that was killed goes on as one that was not.

    Attributes:
        rows: all rows of the run's metrics so far, with those of the steps that it was shown.
    """

    def __init__(self, state: TrainingState) -> None:
        self._state = state
        self._settings = state.recipe.schedule.tripwire
        log = state.directory.path / "metrics.jsonl"
        self.rows: list[Mapping[str, Any]] = list(read_jsonl(log)) if log.exists() else []

    def begin(self, phase: ScheduledPhase) -> None:
        """Set the learning rates of a phase that begins or goes on."""
        factor = self._settings.factor ** self._returns(phase)
        self._state.learner.rates = dict.fromkeys(phase.roles, factor)

    def after_step(self, phase: ScheduledPhase, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Look at the rows of the step that is finished; returns whether the phase ends, as it went back too often.

        Raises:
            WentBackError: if an earlier checkpoint was restored.
            TrainingError: if the recipe asks for an end, or no good checkpoint is left.
        """
        self.rows += rows
        settings, state = self._settings, self._state
        steps = [row for row in rows_in_effect(self.rows) if row["kind"] == "step" and row["slot"] == phase.index]
        by_role = {role: [row for row in steps if row["role"] == role] for role in phase.roles}
        reasons = [(role, reason) for role, own in by_role.items() if (reason := alarm(own, role, settings))]
        if not reasons:
            return False
        (role, reason), at = reasons[0], int(steps[-1]["step"])
        found = f"In step {at + 1} of {phase.label} {reason}"
        if settings.action == "stop":
            raise TrainingError(
                f"{found}. Lower {role}.learning_rate, or set schedule.tripwire.action to back, which goes on from an "
                "earlier checkpoint by itself."
            )
        good = {
            name: step
            for name, (slot, step) in state.directory.state.positions.items()
            if slot == phase.index and self._is_good(step, by_role)
        }
        if not good:
            raise TrainingError(
                f"{found}, and no good checkpoint of this phase is left. Lower {role}.learning_rate, "
                "checkpoint.save_steps or schedule.tripwire.groups, or raise checkpoint.save_total_limit."
            )
        name = max(good, key=lambda checkpoint: (good[checkpoint], checkpoint))
        state.restore(name)
        row = {"kind": SET_BACK, "slot": phase.index, "phase": phase.label, "role": role, "step": good[name], "at": at}
        self.rows.append({**row, "reason": reason})
        state.directory.append("metrics.jsonl", self.rows[-1])
        returns = self._returns(phase)
        if returns > settings.returns:
            state.progress.note(f"{found}. It has gone back {settings.returns} times; it ends at step {good[name]}.")
            return True
        state.progress.note(return_text(self.rows[-1]))
        keep = max(2, state.recipe.checkpoint.save_total_limit)
        state.directory.commit(state.save, position=(phase.index, good[name]), keep=keep)
        raise WentBackError

    def _is_good(self, step: int, by_role: Mapping[Role, Sequence[Mapping[str, Any]]]) -> bool:
        """Whether the rollouts of the weights that a phase had before a step give no alarm by themselves."""
        single = self._settings.model_copy(update={"groups": 1})
        own = {role: [rows[0], *(row for row in rows if row["step"] == step)] for role, rows in by_role.items()}
        seen = all(len(rows) == 2 for rows in own.values())
        return step == 0 or (seen and not any(alarm(rows, role, single) for role, rows in own.items()))

    def _returns(self, phase: ScheduledPhase) -> int:
        return sum(row["kind"] == SET_BACK and row["slot"] == phase.index for row in self.rows)
