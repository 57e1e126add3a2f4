"""Alternating GRPO over two adapters: the algorithm (paper, sec. 4.2, eqs. 9-11), and nothing else.

Input: the schedule, one phase per role, prompts with their pairs, a sampler and a learner. Output: two trained
adapters, through callables for whoever logs, evaluates and saves. Departures from the paper: each adapter is a
LoRA on one shared frozen base, and the KL is to that role's own warm-up copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rubric_arm_lite.models import Sampler, Sampling
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.training.advantages import GroupAdvantages, advantages_by_group
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.phases import Phase
from rubric_arm_lite.training.schedule import (
    GRPORecipe,
    ScheduledPhase,
    batch_of_step,
    learning_rate_factor,
    part_of_data,
    steps_in_phase,
)
from rubric_arm_lite.types import PromptBlock, Reward, Role, RolloutGroup, StepMetrics


@dataclass(frozen=True, slots=True)
class Position:
    """Where the loop stands: the index of the phase, and the step within it that comes next."""

    phase: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class RoleStep:
    """One role's share of a step: what it wrote, earned and learned from, at which share of its learning rate."""

    role: Role
    groups: list[RolloutGroup]
    rewards: list[list[Reward]]
    advantages: list[GroupAdvantages]
    seed: int
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called by the loop; ``after_step`` returns whether the phase may end before its last step."""

    before_phase: Callable[[ScheduledPhase, int], None]
    after_step: Callable[[ScheduledPhase, int, list[tuple[RoleStep, StepMetrics]]], bool]
    after_phase: Callable[[ScheduledPhase], None]


def alternate(
    recipe: GRPORecipe,
    schedule: Sequence[ScheduledPhase],
    phases: Mapping[Role, Phase],
    blocks: Sequence[PromptBlock],
    sampler: Sampler,
    learner: Learner,
    hooks: Hooks,
    start: Position | None = None,
) -> None:
    """Run the schedule from ``start``: within a phase only its roles' adapters change (eqs. 10 and 11)."""
    start = start or Position()
    for scheduled in schedule[start.phase :]:
        part = part_of_data(blocks, scheduled.cycle, schedule[-1].cycle + 1, scheduled.split)
        steps = {role: steps_in_phase(part, recipe.grpo(role)) for role in scheduled.roles}
        hooks.before_phase(scheduled, max(steps.values()))
        for step in range(start.step if scheduled.index == start.phase else 0, max(steps.values())):
            # Both roles of a simultaneous step roll out before either is updated.
            roles = [role for role in scheduled.roles if step < steps[role]]
            rollouts = [rollout_step(recipe, phases[role], part, sampler, scheduled.cycle, step) for role in roles]
            metrics = [learner.update(r.role, r.groups, r.advantages, r.seed, r.rate) for r in rollouts]
            if hooks.after_step(scheduled, step, list(zip(rollouts, metrics, strict=True))):
                break
        hooks.after_phase(scheduled)


def rollout_step(
    recipe: GRPORecipe, phase: Phase, part: Sequence[PromptBlock], sampler: Sampler, cycle: int, step: int
) -> RoleStep:
    """Prepare, sample and score one step of one role."""
    settings = recipe.grpo(phase.role)
    seed = derive_seed(recipe.seed, cycle, phase.role, step)
    examples = phase.prepare(batch_of_step(part, step, settings), seed)
    sampling = Sampling(settings.max_completion_length, settings.num_generations, settings.temperature)
    groups = sampler.sample(phase.role, examples, sampling)
    rewards = phase.score(groups, seed)
    advantages = advantages_by_group([group.example for group in groups], rewards, settings.scale_rewards)
    return RoleStep(phase.role, groups, rewards, advantages, seed, learning_rate_factor(step, settings))
