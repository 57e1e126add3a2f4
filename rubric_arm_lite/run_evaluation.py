"""A trained run evaluated by itself: on pairs of the user's, or on those that its recipe holds out."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluate import Evaluation, Recall
from rubric_arm_lite.judging import make_evaluator
from rubric_arm_lite.phases import RubricWriter
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.rubric_cache import RubricCache
from rubric_arm_lite.run_data import load_data, longest_prompt
from rubric_arm_lite.types import PreferencePair


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
        data = load_data(recipe, model, prompts, training=False)
        pairs, recall, left_out = data.test, data.recall, data.too_long
    else:
        fitting = [p for p in pairs if longest_prompt(p, recipe, model, prompts) <= recipe.model.max_context]
        if not fitting:
            raise DataError(f"None of {len(pairs)} pairs fits model.max_context ({recipe.model.max_context} tokens).")
        left_out = len(pairs) - len(fitting)
        pairs = fitting
    settings = recipe.evaluation.model_copy(update={"pairs": limit or len(pairs), "votes": votes})
    writer = RubricWriter(model, prompts, RubricCache(recipe.cache.capacity))
    evaluator = make_evaluator(recipe, model, writer, settings, pairs, recall)
    return evaluator.evaluate("evaluation", votes=votes), left_out
