"""The two phases of alternating GRPO: the prompts of the active policy, and the rewards of its samples.

Both share one path: prepare → sample → score → update. Only ``prepare`` and ``score`` differ; a third variant is a new
class with these two methods. Departures from the paper: the cached rubric of the judge phase is redrawn if it does not
parse, and a prompt without a usable rubric is skipped in the step and counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rubric_arm_lite.errors import ConfigError, first_line
from rubric_arm_lite.models import Sampling
from rubric_arm_lite.prompts import PromptBuilder, parse_judgement, parse_rubric
from rubric_arm_lite.recipe import Recipe, derive_seed
from rubric_arm_lite.reward_model import RubricGenerator
from rubric_arm_lite.training.rewards import judge_reward, rubric_reward
from rubric_arm_lite.types import (
    Example,
    LabeledComparison,
    PreferencePair,
    PromptBlock,
    Reward,
    Role,
    RolloutGroup,
    Rubric,
    Sample,
    Side,
)


def shares(counts: Counter[str], prefix: str, names: Sequence[str]) -> dict[str, float]:
    """Each name's share among the counts of ``names``, as ``prefix/name``; 0 if nothing was counted."""
    total = sum(counts[f"{prefix}/{name}"] for name in names)
    return {f"{prefix}/{name}": counts[f"{prefix}/{name}"] / total if total else 0.0 for name in names}


class Phase(Protocol):
    """The interface between a phase and the training loop."""

    role: Role

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """The prompts of one step for the active policy; every draw derives from ``seed``."""
        ...

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """One reward per sample of every group."""
        ...

    def measured(self) -> dict[str, float]:
        """The counts of the last step's prepare and score, as shares."""
        ...


def drawn_side(seed: int, pair_id: str) -> Side:
    """The side on which a pair's chosen response is shown in a step."""
    return "A" if random.Random(derive_seed(seed, "order", pair_id)).random() < 0.5 else "B"


class JudgePhase:
    """Generator frozen: the judge sees each pair in a drawn order with its prompt's cached rubric."""

    role: Role = "judge"
    counted: tuple[str, tuple[str, ...]] = ("verdicts", ("A", "B", "none"))

    def __init__(self, recipe: Recipe, generator: RubricGenerator, prompts: PromptBuilder) -> None:
        self._reward = recipe.reward
        self._rubrics_per_prompt = recipe.cache.rubrics_per_prompt
        self._sampling = Sampling(recipe.rubric.max_completion_length, 1, recipe.reward.rubric_temperature)
        self._seed = recipe.seed
        self._generator = generator
        self._prompts = prompts
        self._counts: Counter[str] = Counter()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """The examples of every pair whose prompt has a usable rubric.

        A rubric's seed does not depend on the step, so that the cache serves a prompt that comes again.
        """
        self._counts = Counter()
        pairs = [pair for block in batch for pair in block.pairs]
        draws = [random.Random(derive_seed(seed, "draw", p.pair_id)).randrange(self._rubrics_per_prompt) for p in pairs]
        rubrics = self._generator.write(
            [pair.prompt for pair in pairs],
            self._sampling,
            derive_seed(self._seed, "judge phase rubrics"),
            draws,
            attempts=self._reward.rubric_attempts,
        )
        examples: list[Example] = []
        for pair, rubric in zip(pairs, rubrics, strict=True):
            self._counts[f"rubrics/{'usable' if rubric.usable else 'unusable'}"] += 1
            if rubric.usable:
                examples += self._examples(pair.present(drawn_side(seed, pair.pair_id)), rubric, seed)
        return examples

    def _examples(self, labeled: LabeledComparison, rubric: Rubric, seed: int) -> list[Example]:
        """The judge's examples of one pair."""
        c = labeled.comparison
        text = self._prompts.judge_prompt(c.prompt, rubric, c.response_a, c.response_b)
        return [Example(c.comparison_id, text, derive_seed(seed, c.comparison_id), (labeled,), rubric)]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Accuracy plus weighted format for every sample (paper, sec. 4.2)."""
        rewards = []
        for group in groups:
            rubric = rubric_of(group)
            judgements = [parse_judgement(s.text, rubric, s.finish_reason) for s in group.samples]
            self._counts.update(f"parse/{judgement.status.value}" for judgement in judgements)
            self._counts.update(f"verdicts/{judgement.winner or 'none'}" for judgement in judgements)
            labeled = group.example.comparisons[0]
            rewards.append([judge_reward(judgement, rubric, labeled, self._reward) for judgement in judgements])
        return rewards

    def measured(self) -> dict[str, float]:
        """Shares of usable rubrics, parse statuses and verdicts (or answers), and the cache's hit rate."""
        return {
            **shares(self._counts, "rubrics", ("usable", "unusable")),
            **shares(self._counts, "parse", ("ok", "malformed", "truncated")),
            **shares(self._counts, *self.counted),
            "cache/hit_rate": self._generator.cache.hit_rate,
        }


class RubricPhase:
    """Judge frozen: each sampled rubric earns the share of right judgements of the judge that uses it (eq. 8)."""

    role: Role = "rubric"
    counted: tuple[str, tuple[str, ...]] = ("verdicts", ("A", "B", "none"))

    def __init__(self, recipe: Recipe, judge: Any, prompts: PromptBuilder) -> None:
        self._reward = recipe.reward
        # One judgement is greedy; several are drawn at the temperature at which the judge is trained.
        self._judge = replace(
            judge, max_tokens=recipe.reward.judge_max_tokens, temperature=0.0, vote_temperature=recipe.judge.temperature
        )
        self._prompts = prompts
        self._counts: Counter[str] = Counter()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per prompt; its pairs get one shuffled order for the whole group, or both orders."""
        self._counts = Counter()

        def comparisons(pair: PreferencePair) -> list[LabeledComparison]:
            one = self._reward.judge_orders == "one"
            return [pair.present(side) for side in ((drawn_side(seed, pair.pair_id),) if one else ("A", "B"))]

        return [
            Example(
                block.prompt_id,
                self._prompts.rubric_prompt(block.prompt),
                derive_seed(seed, block.prompt_id),
                tuple(labeled for pair in block.pairs for labeled in comparisons(pair)),
            )
            for block in batch
        ]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Judge every group's comparisons under each usable rubric, and reward the share of right judgements."""
        rubrics = [[parse_rubric(s.text, s.finish_reason) for s in group.samples] for group in groups]
        cases = [
            (labeled.comparison, rubric)
            for group, written in zip(groups, rubrics, strict=True)
            for rubric in written
            if rubric.usable
            for labeled in group.example.comparisons
        ]
        judge = replace(self._judge, seed=derive_seed(seed, "judge"))
        verdicts = judge.judge([c for c, _ in cases], [r for _, r in cases], "original", self._reward.judge_samples)
        self._count(verdicts)
        one_by_one = iter(verdicts)
        rewards = []
        for group, written in zip(groups, rubrics, strict=True):
            judged = [[(c, next(one_by_one)) for c in group.example.comparisons] if r.usable else [] for r in written]
            rewards.append(self._rewards(written, judged))
            self._counts.update(f"parse/{rubric.status.value}" for rubric in written)
            self._counts["criteria"] += sum(len(rubric.criteria) for rubric in written)
        return rewards

    def _count(self, verdicts: Sequence[Any]) -> None:
        self._counts.update(f"verdicts/{winner or 'none'}" for verdict in verdicts for winner in verdict.winners)

    def _rewards(
        self, rubrics: Sequence[Rubric], judged: Sequence[Sequence[tuple[LabeledComparison, Any]]]
    ) -> list[Reward]:
        """Rewards of one group of rubrics, each with its labeled comparisons and the verdicts on them."""
        return [rubric_reward(rubric, verdicts, self._reward) for rubric, verdicts in zip(rubrics, judged, strict=True)]

    def measured(self) -> dict[str, float]:
        """Shares of parse statuses and of the judge's verdicts (or scores), and criteria per usable rubric."""
        usable = self._counts["parse/ok"]
        return {
            **shares(self._counts, "parse", ("ok", "malformed", "truncated")),
            **shares(self._counts, *self.counted),
            "criteria": self._counts["criteria"] / usable if usable else 0.0,
        }


def rubric_of(group: RolloutGroup) -> Rubric:
    """The rubric of a judge phase's example."""
    if group.example.rubric is None:
        raise AssertionError("An example of the judge phase carries its rubric.")
    return group.example.rubric


@dataclass(frozen=True, slots=True)
class ScoredSample:
    """The argument of a recipe's ``reward.function``.

    Attributes:
        role: the role that wrote it, ``judge`` or ``rubric``.
        prompt: the user turn that it answers.
        text: the sampled text.
        rubric: the rubric in the judge's prompt, or the one that the generator wrote.
        reward: the method's own reward, with its parts (``accuracy``, ``format``, …).
    """

    role: Role
    prompt: str
    text: str
    rubric: Rubric
    reward: Reward


class CustomReward:
    """A phase whose rewards are replaced by those of a function: ``reward.function`` of the recipe."""

    def __init__(self, phase: Phase, function: Callable[[ScoredSample], float], name: str) -> None:
        self.role = phase.role
        self.prepare = phase.prepare
        self.measured = phase.measured
        self._phase = phase
        self._function = function
        self._name = name

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """The function's rewards; parts and masks of the method's own rewards stay.

        Raises:
            ConfigError: if the function fails or returns no finite number.
        """
        return [
            [
                self._replaced(group.example, sample, reward)
                for sample, reward in zip(group.samples, rewards, strict=True)
            ]
            for group, rewards in zip(groups, self._phase.score(groups, seed), strict=True)
        ]

    def _replaced(self, example: Example, sample: Sample, reward: Reward) -> Reward:
        rubric = example.rubric or parse_rubric(sample.text, sample.finish_reason)
        try:
            total = float(self._function(ScoredSample(self.role, example.prompt, sample.text, rubric, reward)))
            return Reward(total, reward.parts, reward.masked)
        except Exception as error:  # whatever the researcher's code raises
            raise ConfigError(
                f"reward.function: {self._name} gave no reward for a sample of the {self.role} "
                f"({type(error).__name__}: {first_line(error)}). It takes a ScoredSample and returns a finite number."
            ) from error
