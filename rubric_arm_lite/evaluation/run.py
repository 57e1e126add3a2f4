"""Whether a run's judge compares two responses or checks one: the one place where that is decided.

A recipe goes in; phases, evaluator and the judge's prompts for a pair come out, all of one form.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.data import load_data
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluation.evaluate import Evaluation, Evaluator, PairEvaluator
from rubric_arm_lite.evaluation.pointwise import PointwiseEvaluator
from rubric_arm_lite.models import Sampler
from rubric_arm_lite.recipe import EvaluationSettings, Recipe
from rubric_arm_lite.reward_model import (
    JudgeDesk,
    RubricCache,
    RubricGenerator,
    RubricRewardModel,
    ScoreDesk,
    longest_prompt,
)
from rubric_arm_lite.types import PreferencePair, Recall


def make_evaluator(
    recipe: Recipe,
    sampler: Sampler,
    writer: RubricGenerator,
    settings: EvaluationSettings,
    pairs: Sequence[PreferencePair],
    recall: Recall | None = None,
) -> PairEvaluator:
    """What measures both roles on pairs; it uses the writer's prompts."""
    prompts = writer.prompts
    if recipe.reward.judge == "pointwise":
        desk = ScoreDesk(sampler, prompts, recipe.prompts.pointwise_words)
        return PointwiseEvaluator(sampler, writer, desk, settings, pairs, recipe.seed, recall)
    return Evaluator(sampler, writer, JudgeDesk(sampler, prompts), settings, pairs, recipe.seed, recall)


def evaluate_run(
    reward_model: RubricRewardModel, pairs: Sequence[PreferencePair] | None, votes: int, limit: int | None
) -> tuple[Evaluation, int]:
    """Evaluate a trained run on given pairs, or on those its recipe holds out; also how many were too long.

    Raises:
        DataError: if no pair fits the context.
    """
    recipe, model = reward_model.recipe, reward_model.model
    prompts = reward_model.prompts
    recall: Recall | None = None
    if pairs is None:
        data = load_data(recipe, lambda pair: longest_prompt(pair, recipe, model, prompts), training=False)
        pairs, recall, left_out = data.test, data.recall, data.too_long
    else:
        fitting = [p for p in pairs if longest_prompt(p, recipe, model, prompts) <= recipe.model.max_context]
        if not fitting:
            raise DataError(f"None of {len(pairs)} pairs fits model.max_context ({recipe.model.max_context} tokens).")
        left_out = len(pairs) - len(fitting)
        pairs = fitting
    settings = recipe.evaluation.model_copy(update={"pairs": limit or len(pairs), "votes": votes})
    writer = RubricGenerator(model, prompts, RubricCache(recipe.cache.capacity))
    evaluator = make_evaluator(recipe, model, writer, settings, pairs, recall)
    return evaluator.evaluate("evaluation", votes=votes), left_out
