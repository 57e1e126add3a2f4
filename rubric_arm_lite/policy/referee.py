"""Ask judges which of two answers is better: the reward model, and one that is independent of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.testbed.world import World, parse_task
from rubric_arm_lite.types import Rubric
from rubric_arm_lite.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Request:
    """A single request to the policy, with its identity."""

    prompt_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """Two answers to one request; the policy's own is ``answer``."""

    request: Request
    answer: str
    other: str


class IndependentJudge(Protocol):
    """Whoever is asked besides the reward model that the policy is trained against."""

    def preferences(self, matches: Sequence[Match]) -> list[float]:
        """1 where ``answer`` is better, 0 where ``other`` is, ½ between."""
        ...

    def scores(self, matches: Sequence[Match]) -> list[float] | None:
        """What each ``answer`` is worth by itself, if this judge can tell."""
        ...


class Referee:
    """The reward model under rubrics that were written before: one per request, as its generator is frozen."""

    def __init__(self, model: RubricRewardModel, rubrics: dict[str, Rubric]) -> None:
        self._model = model
        self._rubrics = rubrics

    def has_rubric(self, request: Request) -> bool:
        """Whether the request's rubric can be shown to the judge."""
        return self._rubrics[request.prompt_id].usable

    def verdicts(self, matches: Sequence[Match]) -> list[Verdict]:
        """Both orders under the request's rubric, A being ``answer``; what does not fit the context stays unjudged.

        Raises:
            ValueError: for a request without a usable rubric.
        """
        unusable = [m.request.prompt_id for m in matches if not self.has_rubric(m.request)]
        if unusable:
            raise ValueError(f"The request {unusable[0]} has no usable rubric.")
        cases = [(m.request.text, m.answer, m.other, self._rubrics[m.request.prompt_id]) for m in matches]
        return self._model.compare_many(cases, too_long="leave")

    def preferences(self, matches: Sequence[Match]) -> list[float]:
        """Of every match, ½ also where there is no rubric."""
        usable = [m for m in matches if self.has_rubric(m.request)]
        found = iter(self.verdicts(usable))
        return [preference(next(found)) if self.has_rubric(m.request) else 0.5 for m in matches]


class Oracle:
    """The testbed's world itself: it knows the hidden score of every response."""

    def __init__(self, world: World) -> None:
        self._world = world

    def preferences(self, matches: Sequence[Match]) -> list[float]:
        """By the hidden scores."""
        gaps = [self._score(m.request, m.answer) - self._score(m.request, m.other) for m in matches]
        return [0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in gaps]

    def scores(self, matches: Sequence[Match]) -> list[float]:
        """Hidden scores, from 0 to 4."""
        return [float(self._score(m.request, m.answer)) for m in matches]

    def _score(self, request: Request, response: str) -> int:
        task = parse_task(request.text)
        if task is None:
            raise ValueError(f"Not a prompt of the testbed's world: {request.text!r}")
        return self._world.score(task, response)


class OtherRun:
    """A reward model of another run; it writes rubrics of its own."""

    def __init__(self, model: RubricRewardModel) -> None:
        self._model = model

    def preferences(self, matches: Sequence[Match]) -> list[float]:
        """Both orders under this model's own greedy rubric."""
        cases = [(m.request.text, m.answer, m.other, None) for m in matches]
        return [preference(verdict) for verdict in self._model.compare_many(cases, too_long="leave")]

    def scores(self, matches: Sequence[Match]) -> None:
        """A pairwise judge gives no scores."""


def preference(verdict: Verdict) -> float:
    """Share of judgements for A, those without a verdict counting ½."""
    return 0.5 + 0.5 * (verdict.share("A") - verdict.share("B"))
