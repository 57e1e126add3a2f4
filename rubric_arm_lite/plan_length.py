"""How long a recipe trains: steps of its phases and the tokens they write, as far as recipe and data tell.

A recipe goes in, a :class:`Length` comes out. Where ``max_steps`` is null a phase goes once through its part of the
prompts; these are counted if the data is a file on this machine, by the reader of a run. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rubric_arm_lite.blocks import blocks_from_pairs
from rubric_arm_lite.config import GRPOSettings, Recipe
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.schedule import slots
from rubric_arm_lite.sources.reading import read_blocks, read_pairs
from rubric_arm_lite.testbed import TRAIN_PROMPTS
from rubric_arm_lite.types import Role


@dataclass(frozen=True, slots=True)
class Length:
    """Steps and tokens by role; a role of which they cannot be told is in neither.

    Attributes:
        prompts: training prompts that a phase without ``max_steps`` goes through, over all cycles; None if not needed
            or not known.
        steps: of one phase; of the longest where cycles differ by a prompt.
        tokens: most that one cycle writes: rollouts, and the other role's part in their rewards.
        unknown: why something cannot be told, and what to add; empty if all is told.
    """

    prompts: int | None = None
    steps: dict[Role, int] = field(default_factory=dict)
    tokens: dict[Role, int] = field(default_factory=dict)
    unknown: str = ""


def length_of(recipe: Recipe) -> Length:
    """Steps and tokens of a cycle of the roles that are trained."""
    if recipe.model.checkpoints is not None:
        return Length()
    roles = list(dict.fromkeys(role for slot in slots(recipe.schedule) for role in slot.roles))
    unset = [role for role in roles if recipe.grpo(role).max_steps is None]
    prompts, problem = _training_prompts(recipe) if unset else (None, "")
    steps: dict[Role, int] = {}
    for role in roles:
        settings = recipe.grpo(role)
        if settings.max_steps is not None:
            steps[role] = settings.max_steps
        elif prompts is not None:
            steps[role] = -(-prompts // (recipe.schedule.cycles * settings.prompts_per_step))
    tokens = {role: _tokens(recipe, role, count) for role, count in steps.items()}
    return Length(prompts, steps, tokens, _unknown(recipe, unset, problem) if problem else "")


def _training_prompts(recipe: Recipe) -> tuple[int | None, str]:
    """Prompts that a run would train on at most, or None and why they cannot be counted.

    Benchmarks to keep clear of and held-out pairs that are not on this machine are not looked up, nor are lengths in
    tokens, so a run may train on a few less.
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


def _tokens(recipe: Recipe, role: Role, steps: int) -> int:
    settings = recipe.grpo(role)
    prompts = steps * settings.prompts_per_step
    written = prompts * settings.num_generations * settings.max_completion_length
    if role == "judge":
        groups = settings.pairs_per_prompt * (2 if recipe.reward.judge == "pointwise" else 1)
        return written * groups + prompts * _rubrics(recipe, settings) * recipe.rubric.max_completion_length
    return written + prompts * _judgements(recipe, settings) * recipe.reward.judge_max_tokens


def _rubrics(recipe: Recipe, settings: GRPOSettings) -> int:
    """Rubrics that a judge step draws for one prompt at most, those that do not parse included."""
    attempts = recipe.reward.rubric_attempts if recipe.reward.rubric_temperature else 1
    return attempts * min(settings.pairs_per_prompt, recipe.cache.rubrics_per_prompt)


def _judgements(recipe: Recipe, settings: GRPOSettings) -> int:
    """Judgements that the rubrics of one prompt are rewarded by."""
    orders = 2 if recipe.reward.judge_orders == "both" or recipe.reward.judge == "pointwise" else 1
    return settings.num_generations * settings.pairs_per_prompt * orders * recipe.reward.judge_samples


def _unknown(recipe: Recipe, unset: list[Role], problem: str) -> str:
    """One sentence of why, one of what to do."""
    fields = [f"{role}.max_steps" for role in unset]
    verb = "is" if len(fields) == 1 else "are"
    mend = "" if _is_file(recipe.data.source) else ", or --set data.source=FILE"
    return (
        f"Tokens and hours cannot be told: {' and '.join(fields)} {verb} null, so a phase goes once through the data, "
        f"and {problem}. Add {' '.join(f'--set {name}=N' for name in fields)}{mend}."
    )
