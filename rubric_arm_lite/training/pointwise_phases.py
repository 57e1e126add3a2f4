"""The two phases with a pointwise judge (RUBRIC-ARROW, arXiv 2605.29156).

Rubrics and draws are those of the pairwise phases; the judge sees one response. Rewards are in
:mod:`rubric_arm_lite.training.rewards`, scores in :mod:`rubric_arm_lite.reward_model.verdict`. A pair is two groups,
each with its own advantages: the judge's samples on response A, then those on response B (the paper has six of each).
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.recipe import Recipe, derive_seed, load_plugin
from rubric_arm_lite.reward_model import PointwiseJudge, PointwiseVerdict, RubricGenerator, make_judge
from rubric_arm_lite.reward_model.judge import JudgedText
from rubric_arm_lite.training.phases import CustomReward, JudgePhase, Phase, RubricPhase, rubric_of
from rubric_arm_lite.training.rewards import pointwise_judge_rewards, pointwise_rubric_rewards
from rubric_arm_lite.types import Example, LabeledComparison, Reward, Role, RolloutGroup, Rubric


class PointwiseJudgePhase(JudgePhase):
    """Generator frozen: a sample earns +1 if its score is on the right side of the other response's mean score."""

    counted = ("answers", ("true", "false"))

    def __init__(self, recipe: Recipe, generator: RubricGenerator, judge: PointwiseJudge) -> None:
        super().__init__(recipe, generator, judge.prompts)
        self._judge = judge

    def _examples(self, labeled: LabeledComparison, rubric: Rubric, seed: int) -> list[Example]:
        c = labeled.comparison
        return [
            Example(f"{c.comparison_id} {side}", text, derive_seed(seed, c.comparison_id, side), (labeled,), rubric)
            for side, text in zip(("A", "B"), self._judge.user_prompts(c, rubric), strict=True)
        ]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """One reward per sample; every two groups are one pair, as :meth:`prepare` made them.

        The adapter has not been updated since it wrote the samples, so their scores are its own.
        """
        texts = [self._judged_texts(group) for group in groups]
        scores = self._judge.read([text for judged in texts for text in judged])
        values = [[scores[text].value for text in judged] for judged in texts]
        rewards: list[list[Reward]] = []
        for at in range(0, len(groups), 2):
            labeled = groups[at].example.comparisons[0]
            rewards += pointwise_judge_rewards(values[at], values[at + 1], labeled)
        return rewards

    def _judged_texts(self, group: RolloutGroup) -> list[JudgedText]:
        texts = self._judge.parse(group.example.prompt, rubric_of(group), group.samples)
        for judgement in (text.judgement for text in texts if text.judgement):
            self._counts[f"parse/{judgement.status.value}"] += 1
            self._counts.update(f"answers/{'true' if answer.met else 'false'}" for answer in judgement.answers)
        return texts


class PointwiseRubricPhase(RubricPhase):
    """Judge frozen: a rubric earns +1 if the judge scores the preferred response above the other one under it."""

    counted = ("scores", ("read", "unread"))

    def _count(self, verdicts: Sequence[PointwiseVerdict]) -> None:
        self._counts.update("scores/unread" if verdict.margin is None else "scores/read" for verdict in verdicts)

    def _rewards(
        self, rubrics: Sequence[Rubric], judged: Sequence[Sequence[tuple[LabeledComparison, PointwiseVerdict]]]
    ) -> list[Reward]:
        return pointwise_rubric_rewards(rubrics, judged, self._reward)


def make_phases(recipe: Recipe, generator: RubricGenerator) -> dict[Role, Phase]:
    """The phases of both roles: the method's own, or those that the recipe names (``phases``, ``reward.function``).

    Raises:
        ConfigError: if a named class or function cannot be loaded.
    """
    prompts = generator.prompts
    judge = make_judge(recipe, generator.sampler, prompts)
    phases: dict[Role, Phase]
    if isinstance(judge, PointwiseJudge):
        phases = {
            "judge": PointwiseJudgePhase(recipe, generator, judge),
            "rubric": PointwiseRubricPhase(recipe, judge, prompts),
        }
    else:
        phases = {"judge": JudgePhase(recipe, generator, prompts), "rubric": RubricPhase(recipe, judge, prompts)}
    for role in phases:
        if name := recipe.phases.of(role):
            phases[role] = load_plugin(name, f"phases.{role}")(recipe, generator, judge)
    if name := recipe.reward.function:
        function = load_plugin(name, "reward.function")
        phases = {role: CustomReward(phase, function, name) for role, phase in phases.items()}
    return phases
