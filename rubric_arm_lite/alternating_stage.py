"""The alternating stage of a run: what is logged, checked and committed around the phases and steps of the algorithm.

The algorithm itself is :func:`~rubric_arm_lite.alternating.alternate`, on one page; its hooks are here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rubric_arm_lite.alternating import Hooks, Position, Turn, alternate
from rubric_arm_lite.doubts import still_doubts, still_phases
from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.evaluate import Evaluation
from rubric_arm_lite.judging import make_evaluator, make_phases
from rubric_arm_lite.run_parts import RunParts
from rubric_arm_lite.schedule import Slot, slots
from rubric_arm_lite.step_rows import rollout_rows, summarise
from rubric_arm_lite.types import ROLES, StepMetrics


class AlternatingStage:
    """Trains both adapters through the schedule, from the committed position on."""

    def __init__(self, parts: RunParts, evaluate: Callable[[str], Evaluation]) -> None:
        self.parts = parts
        self._evaluate = evaluate
        self._phases = make_phases(parts.recipe, parts.sampler, parts.writer, parts.prompts)
        self._keep = parts.recipe.checkpoint.save_total_limit
        self._frozen: dict[str, str] = {}
        self._began, self._tokens = time.perf_counter(), parts.sampler.tokens_written

    def train(self) -> None:
        """Go through the rest of the schedule; each phase and every few of its steps are committed.

        Raises:
            TrainingError: if a frozen adapter changed, or processes no longer agree.
        """
        parts = self.parts
        order = slots(parts.recipe.schedule)
        position = Position(*parts.directory.state.position)
        if position.slot < len(order):
            hooks = Hooks(self._before_phase, self._after_step, self._after_phase)
            alternate(
                parts.recipe, order, self._phases, parts.data.train, parts.sampler, parts.learner, hooks, position
            )

    def _before_phase(self, slot: Slot, steps: int) -> None:
        names = [*(role for role in ROLES if role not in slot.roles), "rubric_ref", "judge_ref"]
        self._frozen = {name: self.parts.model.fingerprint(name) for name in names}
        self._began, self._tokens = time.perf_counter(), self.parts.sampler.tokens_written
        self.parts.watcher.stage(slot.label, steps)

    def _after_step(self, slot: Slot, step: int, done: list[tuple[Turn, StepMetrics]]) -> bool:
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

    def _after_phase(self, slot: Slot) -> None:
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

    def _say_if_still(self, slot: Slot) -> None:
        """Say so if no step of this phase, those before a resume included, had anything to learn from."""
        logged = self.parts.directory.read_log("metrics.jsonl") if self.parts.directory.writes else ()
        steps = [row for row in logged if row["kind"] == "step" and row["slot"] == slot.index]
        for doubt in still_doubts(still_phases((row["phase"], row["role"], row) for row in steps)):
            self.parts.watcher.note(doubt)

    def _check_same_weights(self, phase: str) -> None:
        """All processes have stepped with the same gradients, so their adapters are the same to the last bit."""
        for role in ROLES:
            if len(set(self.parts.processes.gather(self.parts.model.fingerprint(role)))) > 1:
                raise TrainingError(
                    f"The adapter `{role}` differs between processes after {phase}. All must run the same versions on "
                    "the same kind of device; resume with those."
                )

    def _reached(self, slot: Slot, step: int) -> bool:
        """Whether the recipe's ``until`` ends this phase after this step."""
        until = self.parts.recipe.schedule.until
        if until is None or until.phase not in slot.roles or (step + 1) % until.every:
            return False
        probe = [pair for block in reversed(self.parts.data.train) for pair in block.pairs][: until.pairs]
        settings = self.parts.recipe.evaluation.model_copy(
            update={"pairs": until.pairs, "vote_pairs": 1, "showcase": 0}
        )
        evaluator = make_evaluator(self.parts.recipe, self.parts.sampler, self.parts.writer, settings, probe)
        value = evaluator.evaluate("probe").values[until.metric]
        self.parts.directory.append(
            "metrics.jsonl",
            {"kind": "probe", "slot": slot.index, "phase": slot.label, "step": step, until.metric: value},
        )
        return value >= until.at_least
