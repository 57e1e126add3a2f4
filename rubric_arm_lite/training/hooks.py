"""The loop of :mod:`.alternating` inside a run: its hooks log, check and commit around phases and steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.evaluation.metrics import mean
from rubric_arm_lite.models import Sampler
from rubric_arm_lite.training.alarms import Alarms
from rubric_arm_lite.training.alternating import Hooks, Position, RoleStep, alternate
from rubric_arm_lite.training.phases import Phase
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.training.tripwire import Tripwire, WentBackError
from rubric_arm_lite.types import PromptBlock, Role, StepMetrics

if TYPE_CHECKING:
    from rubric_arm_lite.training.policy.state import PolicyState
    from rubric_arm_lite.training.state import TrainingState


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


def summarize(rollout: RoleStep) -> dict[str, float]:
    """The metrics of one step's rollout: means over its rewards, groups and samples."""
    rewards = [reward for group in rollout.rewards for reward in group]
    samples = [sample for group in rollout.groups for sample in group.samples]
    names = dict.fromkeys(name for reward in rewards for name, _ in reward.parts)
    return {
        "reward": mean([reward.total for reward in rewards]),
        **{f"reward/{name}": mean([dict(reward.parts).get(name, 0.0) for reward in rewards]) for name in names},
        "reward/masked": mean([reward.masked for reward in rewards]),
        "groups": float(len(rollout.groups)),
        "groups/informative": mean([advantages.informative for advantages in rollout.advantages]),
        "completion_length": mean([len(sample.token_ids) for sample in samples]),
        "completions/truncated": mean([sample.finish_reason == "length" for sample in samples]),
    }


def train_logged(
    state: TrainingState | PolicyState,
    sampler: Sampler,
    phases: Mapping[Role, Phase],
    schedule: Sequence[ScheduledPhase],
    blocks: Sequence[PromptBlock],
    place: Callable[[ScheduledPhase, Role], dict[str, Any]],
    after_phase: Callable[[ScheduledPhase, float, int], None],
    ends_early: Callable[[ScheduledPhase, int], bool] = lambda *_: False,
    tripwire: Tripwire | None = None,
    alarms: Alarms | None = None,
) -> None:
    """Go through the rest of a run's schedule: log each step, commit now and then, check that frozen adapters stay.

    Args:
        place: where a role's steps in a phase stand in the log: the first fields of their rows.
        after_phase: called with the phase, its seconds and its sampled tokens, before it is committed.
        ends_early: whether the phase ends after this step.
        tripwire: notices when a phase destroys its adapter.
        alarms: tells of other signs that training goes wrong.

    Raises:
        TrainingError: if a frozen adapter changed, processes no longer agree, or the recipe stops on an alarm.
    """
    directory, learner, keep = state.directory, state.learner, state.recipe.checkpoint.save_total_limit
    keep = max(2, keep) if tripwire else keep  # the newest may be the first bad one
    model = learner.model
    frozen: dict[str, str] = {}
    began = (0.0, 0)  # time and sampled tokens when the phase began, or was resumed

    def elapsed() -> tuple[float, int]:
        return time.perf_counter() - began[0], sampler.tokens_written - began[1]

    def begin(phase: ScheduledPhase, steps: int) -> None:
        nonlocal frozen, began
        frozen = {name: model.fingerprint(name) for name in model.model.peft_config if name not in phase.roles}
        began = time.perf_counter(), sampler.tokens_written
        if tripwire:
            tripwire.begin(phase)
        state.progress.stage(phase.label, steps)

    def log(phase: ScheduledPhase, step: int, done: list[tuple[RoleStep, StepMetrics]]) -> bool:
        rows = []
        for rollout, update in done:
            values = {**summarize(rollout), **phases[rollout.role].metrics(), **update.values}
            row = {"kind": "step", **place(phase, rollout.role), "step": step, **values}
            rows.append(row)
            directory.append("metrics.jsonl", row)
            for group in rollout_rows(phase, step, rollout):
                directory.append("rollouts.jsonl", group)
            seconds, tokens = elapsed()
            state.progress.step(step + 1, {**values, "tokens/s": tokens / max(seconds, 1e-9)})
        if tripwire and tripwire.after_step(phase, rows):
            return True
        if alarms:
            alarms.after_step(phase)
        ends = ends_early(phase, step)
        if not ends and (step + 1) % state.recipe.checkpoint.save_steps == 0:
            directory.commit(state.save, position=(phase.index, step + 1), keep=keep)
        return ends

    def end(phase: ScheduledPhase) -> None:
        for name, fingerprint in frozen.items():
            if model.fingerprint(name) != fingerprint:
                raise TrainingError(f"The frozen adapter `{name}` changed in the phase {phase.label}.")
        for role in learner.optimizers:  # all processes have stepped with the same gradients
            if len(set(learner.processes.gather(model.fingerprint(role)))) > 1:
                raise TrainingError(
                    f"The adapter `{role}` differs between processes after {phase.label}. All must run the same "
                    "versions on the same kind of device; resume with those."
                )
        after_phase(phase, *elapsed())
        directory.commit(state.save, position=(phase.index + 1, 0), keep=keep)

    while True:
        position = Position(*directory.state.position)
        with suppress(WentBackError):
            alternate(state.recipe, schedule, phases, blocks, sampler, learner, Hooks(begin, log, end), position)
            return
