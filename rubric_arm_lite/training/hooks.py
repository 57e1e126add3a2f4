"""The alternating stage of a run: logs, checks and commits around the phases and steps of the algorithm.

The algorithm itself is :func:`~rubric_arm_lite.training.alternating.alternate`; its hooks are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.evaluation import make_evaluator
from rubric_arm_lite.evaluation.caveats import no_gradient_caveats
from rubric_arm_lite.training.alternating import Hooks, Position, RoleStep, alternate
from rubric_arm_lite.training.pointwise_phases import make_phases
from rubric_arm_lite.training.schedule import ScheduledPhase, scheduled_phases
from rubric_arm_lite.training.state import TrainingState
from rubric_arm_lite.types import ROLES, StepMetrics


def rollout_rows(phase: ScheduledPhase, step: int, rollout: RoleStep) -> Iterator[dict[str, Any]]:
    """One row of the rollout log per group: the prompt, and every sample with its reward and advantage."""
    for group, rewards, advantages in zip(rollout.groups, rollout.rewards, rollout.advantages, strict=True):
        yield {
            "phase": phase.label,
            "step": step,
            "role": rollout.role,
            "example_id": group.example.example_id,
            "prompt": group.example.prompt,
            "samples": [
                {
                    "text": sample.text,
                    "finish_reason": sample.finish_reason,
                    "reward": reward.total,
                    **dict(reward.parts),
                    "advantage": advantage,
                }
                for sample, reward, advantage in zip(group.samples, rewards, advantages.values, strict=True)
            ],
        }


def summarize(rollout: RoleStep, metrics: StepMetrics, measured: dict[str, float]) -> dict[str, float]:
    """The metrics of one step: means over its rewards, groups and samples, then the phase's and the learner's own."""
    rewards = [reward for group in rollout.rewards for reward in group]
    samples = [sample for group in rollout.groups for sample in group.samples]
    names = dict.fromkeys(name for reward in rewards for name, _ in reward.parts)
    return {
        "reward": _mean([reward.total for reward in rewards]),
        **{f"reward/{name}": _mean([dict(reward.parts).get(name, 0.0) for reward in rewards]) for name in names},
        "reward/masked": _mean([float(reward.masked) for reward in rewards]),
        "groups": float(len(rollout.groups)),
        "groups/informative": _mean([float(advantages.informative) for advantages in rollout.advantages]),
        "completion_length": _mean([float(len(sample.token_ids)) for sample in samples]),
        "completions/truncated": _mean([float(sample.finish_reason == "length") for sample in samples]),
        **measured,
        **metrics.values,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class AlternatingStage:
    """Trains both adapters through the schedule, from the committed position on.

    Args:
        evaluate: called with a phase's label after it, if the recipe evaluates after phases.
    """

    def __init__(self, state: TrainingState, evaluate: Callable[[str], object]) -> None:
        self._state = state
        self._evaluate = evaluate
        self._phases = make_phases(state.recipe, state.writer)
        self._frozen: dict[str, str] = {}
        self._start = state.clock()

    def train(self) -> None:
        """Go through the rest of the schedule; each phase and every few of its steps are committed.

        Raises:
            TrainingError: if a frozen adapter changed, or processes no longer agree.
        """
        state = self._state
        schedule = scheduled_phases(state.recipe.schedule)
        start = Position(*state.directory.state.position)
        if start.slot < len(schedule):
            hooks = Hooks(self._before_phase, self._after_step, self._after_phase)
            blocks, sampler, learner = state.data.train, state.sampler, state.learner
            alternate(state.recipe, schedule, self._phases, blocks, sampler, learner, hooks, start)

    def _before_phase(self, phase: ScheduledPhase, steps: int) -> None:
        names = [*(role for role in ROLES if role not in phase.roles), "rubric_ref", "judge_ref"]
        self._frozen = {name: self._state.model.fingerprint(name) for name in names}
        self._start = self._state.clock()
        self._state.progress.stage(phase.label, steps)

    def _after_step(self, phase: ScheduledPhase, step: int, done: list[tuple[RoleStep, StepMetrics]]) -> bool:
        """Log every role's step; whether the recipe's ``until`` ends the phase here."""
        state, directory = self._state, self._state.directory
        for rollout, metrics in done:
            role = rollout.role
            values = summarize(rollout, metrics, self._phases[role].measured())
            place = {"slot": phase.index, "phase": phase.label, "role": role, "step": step}
            directory.append("metrics.jsonl", {"kind": "step", **place, **values})
            for row in rollout_rows(phase, step, rollout):
                directory.append("rollouts.jsonl", row)
            seconds, tokens = state.since(self._start)
            state.progress.step(step + 1, {**values, "tokens/s": tokens / max(seconds, 1e-9)})
        ends = self._ends_early(phase, step)
        if not ends and (step + 1) % state.recipe.checkpoint.save_steps == 0:
            self._commit(phase.index, step + 1)
        return ends

    def _after_phase(self, phase: ScheduledPhase) -> None:
        state = self._state
        for name, fingerprint in self._frozen.items():
            if state.model.fingerprint(name) != fingerprint:
                raise TrainingError(f"The frozen adapter `{name}` changed in the phase {phase.label}.")
        for role in ROLES:  # all processes have stepped with the same gradients
            if len(set(state.processes.gather(state.model.fingerprint(role)))) > 1:
                raise TrainingError(
                    f"The adapter `{role}` differs between processes after {phase.label}. All must run the same "
                    "versions on the same kind of device; resume with those."
                )
        state.log_time(phase.label, self._start)
        if state.recipe.evaluation.after_phases:
            start = state.clock()
            self._evaluate(phase.label)
            state.log_time(f"evaluate {phase.label}", start)
        self._note_missing_gradient(phase)
        self._commit(phase.index + 1, 0)

    def _commit(self, phase: int, step: int) -> None:
        state = self._state
        state.directory.commit(state.save, position=(phase, step), keep=state.recipe.checkpoint.save_total_limit)

    def _note_missing_gradient(self, phase: ScheduledPhase) -> None:
        """Note if no step of this phase, also before a resume, had a gradient."""
        if not self._state.directory.writes:
            return
        rows = self._state.directory.read_log("metrics.jsonl")
        steps = [
            (row["phase"], row["role"], row) for row in rows if row["kind"] == "step" and row["slot"] == phase.index
        ]
        for caveat in no_gradient_caveats(steps):
            self._state.progress.note(caveat)

    def _ends_early(self, phase: ScheduledPhase, step: int) -> bool:
        """Whether the recipe's ``until`` ends this phase after this step."""
        state, until = self._state, self._state.recipe.schedule.until
        if until is None or until.phase not in phase.roles or (step + 1) % until.every:
            return False
        probe = [pair for block in reversed(state.data.train) for pair in block.pairs][: until.pairs]
        settings = state.recipe.evaluation.model_copy(update={"pairs": until.pairs, "vote_pairs": 1, "showcase": 0})
        evaluator = make_evaluator(state.recipe, state.writer, settings, probe)
        value = evaluator.evaluate("probe").values[until.metric]
        place = {"slot": phase.index, "phase": phase.label, "step": step}
        state.directory.append("metrics.jsonl", {"kind": "probe", **place, until.metric: value})
        return value >= until.at_least
