"""Whether a run's judge compares two responses or checks one: the one place where that is decided.

A recipe goes in; phases, evaluator and the judge's prompts for a pair come out, all of one form.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.backends.base import Sampler
from rubric_arm_lite.config import EvaluationSettings, Recipe
from rubric_arm_lite.evaluate import Evaluator, PairEvaluator, Recall
from rubric_arm_lite.phases import JudgeDesk, JudgePhase, Phase, RubricPhase, RubricWriter
from rubric_arm_lite.pointwise_evaluate import PointwiseEvaluator
from rubric_arm_lite.pointwise_phases import PointwiseJudgePhase, PointwiseRubricPhase
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.score_desk import ScoreDesk
from rubric_arm_lite.types import PreferencePair, Role, Rubric


def make_phases(recipe: Recipe, sampler: Sampler, writer: RubricWriter, prompts: PromptBuilder) -> dict[Role, Phase]:
    """The phases of both roles."""
    if recipe.reward.judge == "pointwise":
        desk = ScoreDesk(sampler, prompts, recipe.prompts.pointwise_words)
        return {"judge": PointwiseJudgePhase(recipe, writer, desk), "rubric": PointwiseRubricPhase(recipe, desk)}
    return {
        "judge": JudgePhase(recipe, writer, prompts),
        "rubric": RubricPhase(recipe, JudgeDesk(sampler, prompts), prompts),
    }


def make_evaluator(
    recipe: Recipe,
    sampler: Sampler,
    writer: RubricWriter,
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


def judge_prompts(recipe: Recipe, prompts: PromptBuilder, pair: PreferencePair, rubric: Rubric) -> list[str]:
    """The user turns about one pair, in one order where there are two; a length is the same in both."""
    if recipe.reward.judge == "pointwise":
        return [prompts.pointwise_prompt(pair.prompt, rubric, response) for response in (pair.chosen, pair.rejected)]
    return [prompts.judge_prompt(pair.prompt, rubric, pair.chosen, pair.rejected)]
