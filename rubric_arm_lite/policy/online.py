"""Online GRPO of a policy: the very loop that trains the reward model, with another phase and one optimizer."""

from __future__ import annotations

from collections.abc import Callable

from rubric_arm_lite.alternating import Hooks, Position, Turn, alternate
from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.policy.phase import PolicyPhase
from rubric_arm_lite.policy.state import PolicyState
from rubric_arm_lite.schedule import Slot
from rubric_arm_lite.step_rows import rollout_rows, summarise
from rubric_arm_lite.types import PromptBlock, StepMetrics


def train_online(state: PolicyState, evaluate: Callable[[str], None]) -> None:
    """Train through all rounds from the committed position on, with an evaluation after each.

    Raises:
        TrainingError: if a frozen adapter changed.
    """
    recipe, model, directory = state.recipe, state.players.policy, state.directory
    requests = {request.prompt_id: request for request in state.requests.train}
    blocks = [PromptBlock(request.prompt_id, request.text, ()) for request in requests.values()]
    phase = PolicyPhase(recipe.policy, model, state.referee, state.prompts, requests)
    schedule = [Slot(i, i, ("policy",)) for i in range(recipe.rounds)]
    keep = recipe.checkpoint.save_total_limit
    frozen = {name: model.fingerprint(name) for name in model.model.peft_config if name != "policy"}

    def before_phase(slot: Slot, steps: int) -> None:
        state.watcher.stage(slot.label, steps)

    def after_step(slot: Slot, step: int, done: list[tuple[Turn, StepMetrics]]) -> bool:
        for turn, metrics in done:
            values = summarise(turn, metrics, phase.measured())
            directory.append("metrics.jsonl", {"kind": "step", "round": slot.cycle + 1, "step": step, **values})
            for row in rollout_rows(slot, step, turn):
                directory.append("rollouts.jsonl", row)
            state.watcher.step(step + 1, values)
        if (step + 1) % recipe.checkpoint.save_steps == 0:
            directory.commit(state.save, position=(slot.index, step + 1), keep=keep)
        return False

    def after_phase(slot: Slot) -> None:
        for name, fingerprint in frozen.items():
            if model.fingerprint(name) != fingerprint:
                raise TrainingError(f"The frozen adapter `{name}` changed in {slot.label}.")
        evaluate(f"round {slot.cycle + 1}")
        directory.commit(state.save, position=(slot.index + 1, 0), keep=keep)

    hooks = Hooks(before_phase, after_step, after_phase)
    position = Position(*directory.state.position)
    alternate(recipe, schedule, {"policy": phase}, blocks, model, state.learner, hooks, position)
