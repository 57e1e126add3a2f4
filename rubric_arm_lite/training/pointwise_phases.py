"""The two phases with a judge that checks one response at a time, after RUBRIC-ARROW (arXiv 2605.29156).

They prepare what the pairwise phases do, with the same cached rubrics and draws; the judge sees one response. What
its samples and the rubrics earn is in :mod:`rubric_arm_lite.training.rewards`, what a written text scores in
`pointwise`. A pair is two groups: the judge's samples on response A, then those on response B
(the paper has six of each), and each group has its own advantages.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.prompts import Checks, parse_checks, parse_rubric
from rubric_arm_lite.recipe import Recipe, derive_seed
from rubric_arm_lite.reward_model import RubricGenerator, ScoreDesk, mean_score
from rubric_arm_lite.reward_model.pointwise import Sheet
from rubric_arm_lite.training.phases import GeneratorPhase, JudgePhase
from rubric_arm_lite.training.rewards import pointwise_judge_rewards, pointwise_rubric_rewards
from rubric_arm_lite.types import Comparison, Example, Reward, RolloutGroup, Rubric, Side


class PointwiseJudgePhase(JudgePhase):
    """Generator frozen: a sample earns +1 if its score is on the right side of the other response's mean score."""

    def __init__(self, recipe: Recipe, writer: RubricGenerator, desk: ScoreDesk) -> None:
        super().__init__(recipe, writer, desk.prompts)
        self._desk = desk

    def _examples(self, comparison: Comparison, rubric: Rubric, seed: int) -> list[Example]:
        responses: dict[Side, str] = {"A": comparison.response_a, "B": comparison.response_b}
        return [
            Example(
                f"{comparison.pair_id} {side}",
                self._prompts.pointwise_prompt(comparison.prompt, rubric, response),
                derive_seed(seed, comparison.pair_id, side),
                (comparison,),
                rubric,
            )
            for side, response in responses.items()
        ]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """One reward per sample; groups stand in pairs, as :meth:`prepare` made them.

        The adapter has not been updated since it wrote the samples, so their scores are its own.
        """
        checks = [self._checks(group) for group in groups]
        sheets = [
            Sheet(group.example.prompt, _rubric_of(group), written)
            for group, own in zip(groups, checks, strict=True)
            for written in own
        ]
        read = iter(self._desk.read(sheets))
        scores = [[next(read) for _ in own] for own in checks]
        rewards: list[list[Reward]] = []
        for at in range(0, len(groups), 2):
            comparison = groups[at].example.comparisons[0]
            first, second = ([score.value for score in scores[at + i]] for i in range(2))
            rewards += pointwise_judge_rewards(first, second, comparison)
        return rewards

    def _checks(self, group: RolloutGroup) -> list[Checks]:
        rubric = _rubric_of(group)
        found = [parse_checks(s.text, rubric, s.finish_reason, self._desk.words) for s in group.samples]
        for written in found:
            self._tally.counts[f"parse/{written.status.value}"] += 1
            for check in written.checks:
                self._tally.counts[f"answers/{'true' if check.met else 'false'}"] += 1
        return found

    def measured(self) -> dict[str, float]:
        """Shares of usable rubrics, parse statuses and answers, and the cache's hit rate."""
        tally = self._tally
        return {
            **tally.shares("rubrics", ("usable", "unusable")),
            **tally.shares("parse", ("ok", "malformed", "truncated")),
            **tally.shares("answers", ("true", "false")),
            "cache/hit_rate": self._writer.cache.hit_rate,
        }


class PointwiseRubricPhase(GeneratorPhase):
    """Judge frozen: a rubric earns +1 if the greedy judge scores the preferred response above the other under it."""

    def __init__(self, recipe: Recipe, desk: ScoreDesk) -> None:
        super().__init__(recipe, desk.prompts)
        self._desk = desk

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Let the frozen judge check both responses of every comparison under every usable rubric."""
        rubrics = [[parse_rubric(s.text, s.finish_reason) for s in group.samples] for group in groups]
        cases = [
            (comparison.prompt, response, rubric)
            for group, written in zip(groups, rubrics, strict=True)
            for rubric in written
            if rubric.usable
            for comparison in group.example.comparisons
            for response in (comparison.response_a, comparison.response_b)
        ]
        values = map(mean_score, self._desk.score(cases, self._sampling, derive_seed(seed, "judge")))
        rewards = []
        for group, written in zip(groups, rubrics, strict=True):
            scored = [
                [(c, next(values), next(values)) for c in group.example.comparisons] if rubric.usable else []
                for rubric in written
            ]
            self._count(written, scored)
            rewards.append(pointwise_rubric_rewards(written, scored, self._reward))
        return rewards

    def _count(
        self,
        written: Sequence[Rubric],
        scored: Sequence[Sequence[tuple[Comparison, float | None, float | None]]],
    ) -> None:
        for rubric, own in zip(written, scored, strict=True):
            self._tally.counts[f"parse/{rubric.status.value}"] += 1
            self._tally.counts["criteria"] += len(rubric.criteria)
            unread = sum(None in scores for _, *scores in own)
            self._tally.counts["scores/unread"] += unread
            self._tally.counts["scores/read"] += len(own) - unread

    def measured(self) -> dict[str, float]:
        """Shares of parse statuses and of comparisons that could be scored, and criteria per usable rubric."""
        tally = self._tally
        usable = tally.counts["parse/ok"]
        return {
            **tally.shares("parse", ("ok", "malformed", "truncated")),
            **tally.shares("scores", ("read", "unread")),
            "criteria": tally.counts["criteria"] / usable if usable else 0.0,
        }


def _rubric_of(group: RolloutGroup) -> Rubric:
    if group.example.rubric is None:
        raise AssertionError("An example of the judge phase carries its rubric.")
    return group.example.rubric
