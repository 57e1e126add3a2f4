"""A scripted pointwise judge with probabilities, for tests of the desk, the phases and the evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rubric_arm_lite.models.sampler import NextWords
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.prompts.pointwise import pointwise_line
from rubric_arm_lite.types import Example, Rubric
from tests.players import RUBRIC_TEXT, section
from tests.scripted import ScriptedSampler, Written

Probability = Callable[[str, Rubric, str], float]
"""p_true of a criterion from the response, the rubric and what was written before the answer."""


def checks(rubric: Rubric, met: Sequence[bool] = (True, True), said: str = "so") -> str:
    """A well-formed pointwise judgement."""
    criteria = enumerate(zip(rubric.criteria, met, strict=True), start=1)
    return "\n".join(pointwise_line(number, criterion, m, said) for number, (criterion, m) in criteria)


def all_met(response: str, rubric: Rubric, index: int) -> Written:
    return checks(rubric, [True] * len(rubric.criteria))


def good_is_likelier(response: str, rubric: Rubric, written: str) -> float:
    """The perfect judge's probability."""
    return 0.9 if response.startswith("good") else 0.2


class PointwiseSampler(ScriptedSampler):
    """A judge that writes by a script and gives p_true by a function; p_false is what is left."""

    def __init__(
        self,
        probability: Probability = good_is_likelier,
        judge: Callable[[str, Rubric, int], Written] = all_met,
        generator: Callable[[str, Example, int], Written] = lambda request, example, index: RUBRIC_TEXT,
    ) -> None:
        def script(adapter: str | None, example: Example, index: int) -> Written:
            if "<response>" in example.prompt:
                rubric = parse_rubric(section("rubric", example.prompt))
                return judge(section("response", example.prompt), rubric, index)
            return generator(section("instruction", example.prompt), example, index)

        super().__init__(script)
        self.probability = probability
        self.questions: list[NextWords] = []

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        """log p_true and log p_false of every question, which is recorded."""
        self.questions += questions
        found = []
        for question in questions:
            rubric = parse_rubric(section("rubric", question.prompt))
            p = self.probability(section("response", question.prompt), rubric, question.written)
            found.append(tuple(math.log(x) if x > 0 else -math.inf for x in (p, 1 - p)))
        return found
