"""The judges of a policy: the reward model that it is trained against, and an independent one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rubric_arm_lite.data.testbed import World, parse_task
from rubric_arm_lite.reward_model import RubricRewardModel, Verdict
from rubric_arm_lite.types import Comparison, Prompt, Rubric

Opinions = tuple[list[float], list[float] | None]
"""For every comparison 1 where response A is better, 0 where B is, ½ in between; and, if the judge gives any, the score
of response A by itself."""
IndependentJudge = Callable[[Sequence[Comparison]], Opinions]
"""A judge other than the reward model that the policy is trained against."""


class FixedRubricJudge:
    """The reward model with one rubric per request, written beforehand, as its generator is frozen."""

    def __init__(self, model: RubricRewardModel, rubrics: Mapping[str, Rubric]) -> None:
        self._model = model
        self._rubrics = rubrics

    def has_rubric(self, prompt_id: str) -> bool:
        """Whether the request's rubric is usable."""
        return self._rubrics[prompt_id].usable

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts in both orders under the request's rubric; empty if that is not usable, or a text is too long."""
        rubrics = [self._rubrics[c.comparison_id] for c in comparisons]
        cases = [
            (c.prompt, c.response_a, c.response_b, rubric)
            for c, rubric in zip(comparisons, rubrics, strict=True)
            if rubric.usable
        ]
        verdicts = iter(self._model.compare_many(cases, too_long="skip"))
        return [next(verdicts) if rubric.usable else Verdict(rubric) for rubric in rubrics]


def oracle(world: World) -> IndependentJudge:
    """The testbed's world as a judge: it knows the hidden score of every response, from 0 to 4."""

    def score(prompt: Prompt, response: str) -> float:
        task = parse_task(str(prompt))
        if task is None:
            raise ValueError(f"Not a prompt of the testbed's world: {prompt!r}")
        return float(world.score(task, response))

    def judge(comparisons: Sequence[Comparison]) -> Opinions:
        scores = [score(c.prompt, c.response_a) for c in comparisons]
        others = [score(c.prompt, c.response_b) for c in comparisons]
        return [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(scores, others, strict=True)], scores

    return judge


def run_judge(model: RubricRewardModel) -> IndependentJudge:
    """Another run's reward model as a judge: both orders under its own greedy rubric, without scores."""

    def judge(comparisons: Sequence[Comparison]) -> Opinions:
        cases = [(c.prompt, c.response_a, c.response_b, None) for c in comparisons]
        return [verdict.preference for verdict in model.compare_many(cases, too_long="skip")], None

    return judge
