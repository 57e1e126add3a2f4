"""Evaluation of a finished reward model on given pairs, or on the pairs that its recipe holds out."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.data import load_data
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluation.evaluate import Evaluation, make_evaluator
from rubric_arm_lite.reward_model import RubricCache, RubricGenerator, RubricRewardModel, longest_prompt
from rubric_arm_lite.types import PreferencePair, Recall


def evaluate_run(
    reward_model: RubricRewardModel, pairs: Sequence[PreferencePair] | None, votes: int, limit: int | None
) -> tuple[Evaluation, int]:
    """The evaluation on given pairs, or on those that the recipe holds out, and the number of pairs too long for it.

    Raises:
        DataError: if no pair fits the context.
    """
    recipe, model = reward_model.recipe, reward_model.model
    prompts = reward_model.prompts
    recall: Recall | None = None
    if pairs is None:
        data = load_data(recipe, lambda pair: longest_prompt(pair, recipe, model, prompts), training=False)
        pairs, recall, skipped = data.test, data.recall, data.too_long
    else:
        fitting = [p for p in pairs if longest_prompt(p, recipe, model, prompts) <= recipe.model.max_context]
        if not fitting:
            raise DataError(f"None of {len(pairs)} pairs fits model.max_context ({recipe.model.max_context} tokens).")
        skipped = len(pairs) - len(fitting)
        pairs = fitting
    settings = recipe.evaluation.model_copy(update={"pairs": limit or len(pairs), "votes": votes})
    generator = RubricGenerator(model, prompts, RubricCache(recipe.cache.capacity))
    evaluator = make_evaluator(recipe, generator, settings, pairs, recall)
    return evaluator.evaluate("evaluation", votes=votes), skipped
