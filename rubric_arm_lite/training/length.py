"""The length of a cycle: steps of each phase, and the tokens that it generates at most."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rubric_arm_lite.data import blocks_from_pairs, read_blocks, read_pairs
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.training.schedule import scheduled_phases
from rubric_arm_lite.types import Role


@dataclass(frozen=True, slots=True)
class Length:
    """Steps and tokens by role; a role whose length is unknown is in neither.

    Attributes:
        prompts: training prompts that a phase without ``max_steps`` goes through, over all cycles; None if unused or
            unknown.
        steps: steps of one phase; of the longest where cycles differ by a prompt.
        tokens: most tokens that one cycle generates: rollouts, and the other role's part in their rewards.
        unknown: what is unknown, why, and what to add; empty if nothing is.
    """

    prompts: int | None = None
    steps: dict[Role, int] = field(default_factory=dict)
    tokens: dict[Role, int] = field(default_factory=dict)
    unknown: str = ""


def length_of(recipe: Recipe) -> Length:
    """Steps and tokens of a cycle of the roles that are trained."""
    if recipe.model.checkpoints is not None:
        return Length()
    roles = list(dict.fromkeys(role for phase in scheduled_phases(recipe.schedule) for role in phase.roles))
    unset = [role for role in roles if recipe.grpo(role).max_steps is None]
    prompts, problem = _training_prompts(recipe) if unset else (None, "")
    steps: dict[Role, int] = {}
    for role in roles:
        settings = recipe.grpo(role)
        if settings.max_steps is not None:
            steps[role] = settings.max_steps
        elif prompts is not None:
            steps[role] = -(-prompts // (recipe.schedule.cycles * settings.prompts_per_step))
    unknown = ""
    if problem:
        fields = [f"{role}.max_steps" for role in unset]
        unknown = (
            f"Tokens and hours are unknown: {' and '.join(fields)} {'is' if len(fields) == 1 else 'are'} null, so a "
            f"phase goes once through the data, and {problem}. Add {' '.join(f'--set {name}=N' for name in fields)}"
            f"{'' if _is_file(recipe.data.source) else ', or --set data.source=FILE'}."
        )
    return Length(
        prompts, steps, {role: count * _tokens_per_step(recipe, role) for role, count in steps.items()}, unknown
    )


def _training_prompts(recipe: Recipe) -> tuple[int | None, str]:
    """Most prompts that a run trains on, or None and why they cannot be counted.

    Decontamination, held-out pairs that are not on this machine and lengths in tokens are not looked up, so a run may
    train on a few less.
    """
    settings = recipe.data
    if settings.source == "testbed":
        return settings.train_prompts or TRAIN_PROMPTS, ""
    if not _is_file(settings.source):
        return settings.train_prompts, "" if settings.train_prompts else f"{settings.source} is no file on this machine"
    try:
        if settings.evaluation is None or _is_file(settings.evaluation):
            return len(read_blocks(settings, recipe.seed)[0]), ""
        blocks = blocks_from_pairs(read_pairs(settings, recipe.seed)[0])
        return len(blocks[: settings.train_prompts]), ""
    except DataError as error:
        return None, f"the prompts cannot be counted ({str(error).rstrip('.')})"


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return False


def _tokens_per_step(recipe: Recipe, role: Role) -> int:
    """Most tokens that a step generates: the role's rollouts, and what the other role adds to their rewards."""
    settings, reward, other = recipe.grpo(role), recipe.reward, 0
    pointwise = reward.judge == "pointwise"
    rollouts = settings.num_generations * settings.max_completion_length
    if role == "judge":
        rollouts *= settings.pairs_per_prompt * (2 if pointwise else 1)
        # Rubrics drawn for one prompt, those that do not parse included; a greedy one is not drawn again.
        attempts = reward.rubric_attempts if reward.rubric_temperature else 1
        rubrics = attempts * min(settings.pairs_per_prompt, recipe.cache.rubrics_per_prompt)
        other = rubrics * recipe.rubric.max_completion_length
    else:
        orders = 2 if reward.judge_orders == "both" or pointwise else 1
        judgements = settings.num_generations * settings.pairs_per_prompt * orders * reward.judge_samples
        other = judgements * reward.judge_max_tokens
    return settings.prompts_per_step * (rollouts + other)
