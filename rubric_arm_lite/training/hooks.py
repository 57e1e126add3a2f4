"""The alternating stage of a run: what is logged, checked and committed around the phases and steps of the algorithm.

The algorithm itself is :func:`~rubric_arm_lite.training.alternating.alternate`, on one page; its hooks are here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.evaluation import Evaluation, make_evaluator
from rubric_arm_lite.evaluation.caveats import no_gradient_caveats, phases_without_gradient
from rubric_arm_lite.training.alternating import Hooks, Position, RoleStep, alternate
from rubric_arm_lite.training.pointwise_phases import make_phases
from rubric_arm_lite.training.schedule import ScheduledPhase, scheduled_phases
from rubric_arm_lite.training.state import RunParts
from rubric_arm_lite.types import ROLES, StepMetrics


def rollout_rows(slot: ScheduledPhase, step: int, turn: RoleStep) -> Iterator[dict[str, Any]]:
    """What a step sampled and what it earned, one row per group for the log."""
    for group, rewards, advantages in zip(turn.groups, turn.rewards, turn.advantages, strict=True):
        samples = [
            {
                "text": sample.text,
                "finish_reason": sample.finish_reason,
                "reward": reward.total,
                **dict(reward.parts),
                "advantage": advantage,
            }
            for sample, reward, advantage in zip(group.samples, rewards, advantages.values, strict=True)
        ]
        yield {
            "phase": slot.label,
            "step": step,
            "role": turn.role,
            "example_id": group.example.example_id,
            "prompt": group.example.prompt,
            "samples": samples,
        }


def summarise(turn: RoleStep, metrics: StepMetrics, measured: dict[str, float]) -> dict[str, float]:
    """One step's values for the log."""
    rewards = [reward for group in turn.rewards for reward in group]
    samples = [sample for group in turn.groups for sample in group.samples]
    values = {"reward": _mean([r.total for r in rewards])}
    for name in dict.fromkeys(name for r in rewards for name, _ in r.parts):
        values[f"reward/{name}"] = _mean([dict(r.parts).get(name, 0.0) for r in rewards])
    values["reward/masked"] = _mean([float(r.masked) for r in rewards])
    values["groups"] = float(len(turn.groups))
    values["groups/informative"] = _mean([float(a.informative) for a in turn.advantages])
    values["completion_length"] = _mean([float(len(s.token_ids)) for s in samples])
    values["completions/truncated"] = _mean([float(s.finish_reason == "length") for s in samples])
    return {**values, **measured, **metrics.values}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class AlternatingStage:
    """Trains both adapters through the schedule, from the committed position on."""

    def __init__(self, parts: RunParts, evaluate: Callable[[str], Evaluation]) -> None:
        self.parts = parts
        self._evaluate = evaluate
        self._phases = make_phases(parts.recipe, parts.writer)
        self._keep = parts.recipe.checkpoint.save_total_limit
        self._frozen: dict[str, str] = {}
        self._began, self._tokens = time.perf_counter(), parts.sampler.tokens_written

    def train(self) -> None:
        """Go through the rest of the schedule; each phase and every few of its steps are committed.

        Raises:
            TrainingError: if a frozen adapter changed, or processes no longer agree.
        """
        parts = self.parts
        order = scheduled_phases(parts.recipe.schedule)
        position = Position(*parts.directory.state.position)
        if position.slot < len(order):
            hooks = Hooks(self._before_phase, self._after_step, self._after_phase)
            alternate(
                parts.recipe, order, self._phases, parts.data.train, parts.sampler, parts.learner, hooks, position
            )

    def _before_phase(self, slot: ScheduledPhase, steps: int) -> None:
        names = [*(role for role in ROLES if role not in slot.roles), "rubric_ref", "judge_ref"]
        self._frozen = {name: self.parts.model.fingerprint(name) for name in names}
        self._began, self._tokens = time.perf_counter(), self.parts.sampler.tokens_written
        self.parts.watcher.stage(slot.label, steps)

    def _after_step(self, slot: ScheduledPhase, step: int, done: list[tuple[RoleStep, StepMetrics]]) -> bool:
        """Log what each role did; whether the recipe's ``until`` ends the phase here."""
        directory = self.parts.directory
        for turn, metrics in done:
            values = summarise(turn, metrics, self._phases[turn.role].measured())
            row = {
                "kind": "step",
                "slot": slot.index,
                "phase": slot.label,
                "role": turn.role,
                "step": step,
                **values,
            }
            directory.append("metrics.jsonl", row)
            for rollout in rollout_rows(slot, step, turn):
                directory.append("rollouts.jsonl", rollout)
            seconds = max(time.perf_counter() - self._began, 1e-9)
            rate = (self.parts.sampler.tokens_written - self._tokens) / seconds
            self.parts.watcher.step(step + 1, {**values, "tokens/s": rate})
        ended = self._reached(slot, step)
        if not ended and (step + 1) % self.parts.recipe.checkpoint.save_steps == 0:
            directory.commit(self.parts.save, position=(slot.index, step + 1), keep=self._keep)
        return ended

    def _after_phase(self, slot: ScheduledPhase) -> None:
        parts = self.parts
        for name, fingerprint in self._frozen.items():
            if parts.model.fingerprint(name) != fingerprint:
                raise TrainingError(f"The frozen adapter `{name}` changed in the phase {slot.label}.")
        self._check_same_weights(slot.label)
        parts.log_time(slot.label, self._began, self._tokens)
        started, tokens = time.perf_counter(), parts.sampler.tokens_written
        if parts.recipe.evaluation.after_phases:
            self._evaluate(slot.label)
            parts.log_time(f"evaluate {slot.label}", started, tokens)
        self._say_if_still(slot)
        parts.directory.commit(parts.save, position=(slot.index + 1, 0), keep=self._keep)

    def _say_if_still(self, slot: ScheduledPhase) -> None:
        """Say so if no step of this phase, those before a resume included, had anything to learn from."""
        logged = self.parts.directory.read_log("metrics.jsonl") if self.parts.directory.writes else ()
        steps = [row for row in logged if row["kind"] == "step" and row["slot"] == slot.index]
        for caveat in no_gradient_caveats(phases_without_gradient((row["phase"], row["role"], row) for row in steps)):
            self.parts.watcher.note(caveat)

    def _check_same_weights(self, phase: str) -> None:
        """All processes have stepped with the same gradients, so their adapters are the same to the last bit."""
        for role in ROLES:
            if len(set(self.parts.processes.gather(self.parts.model.fingerprint(role)))) > 1:
                raise TrainingError(
                    f"The adapter `{role}` differs between processes after {phase}. All must run the same versions on "
                    "the same kind of device; resume with those."
                )

    def _reached(self, slot: ScheduledPhase, step: int) -> bool:
        """Whether the recipe's ``until`` ends this phase after this step."""
        until = self.parts.recipe.schedule.until
        if until is None or until.phase not in slot.roles or (step + 1) % until.every:
            return False
        probe = [pair for block in reversed(self.parts.data.train) for pair in block.pairs][: until.pairs]
        settings = self.parts.recipe.evaluation.model_copy(
            update={"pairs": until.pairs, "vote_pairs": 1, "showcase": 0}
        )
        evaluator = make_evaluator(self.parts.recipe, self.parts.writer, settings, probe)
        value = evaluator.evaluate("probe").values[until.metric]
        self.parts.directory.append(
            "metrics.jsonl",
            {"kind": "probe", "slot": slot.index, "phase": slot.label, "step": step, until.metric: value},
        )
        return value >= until.at_least
