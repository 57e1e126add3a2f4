"""The two phases of alternating GRPO: what the active policy is asked, and what its answers earn.

Both share one path: prepare → sample → score → update. Only :meth:`prepare` and :meth:`score` differ; a third
variant is a new class with these two methods. Departures from the paper: the cached rubric of the judge phase is
redrawn if it does not parse, and a prompt without a usable rubric is left out of the step and counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rubric_arm_lite.models import Sampling
from rubric_arm_lite.prompts import PromptBuilder, parse_judgement, parse_rubric
from rubric_arm_lite.recipe import Recipe, derive_seed
from rubric_arm_lite.reward_model import JudgeDesk, RubricGenerator
from rubric_arm_lite.training.rewards import judge_reward, rubric_reward
from rubric_arm_lite.types import (
    Comparison,
    Example,
    Judgement,
    PromptBlock,
    Reward,
    Role,
    RolloutGroup,
    Rubric,
    Side,
)


@dataclass(slots=True)
class Tally:
    """Counts of one step, by name; turned into shares for the log."""

    counts: Counter[str] = field(default_factory=Counter)

    def shares(self, prefix: str, names: Sequence[str]) -> dict[str, float]:
        """Each name's share among ``names``, as ``prefix/name``; 0 if nothing was counted."""
        total = sum(self.counts[f"{prefix}/{name}"] for name in names)
        return {f"{prefix}/{name}": self.counts[f"{prefix}/{name}"] / total if total else 0.0 for name in names}


class Phase(Protocol):
    """What the loop needs to know of a phase."""

    role: Role

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """The prompts of one step for the active policy; every draw derives from ``seed``."""
        ...

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """One reward per sample of every group."""
        ...

    def measured(self) -> dict[str, float]:
        """What the last step's prepare and score counted."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask the judge: a comparison under a rubric, without its label."""

    question_id: str
    prompt: str


def _drawn_side(seed: int, pair_id: str) -> Side:
    return "A" if random.Random(derive_seed(seed, "order", pair_id)).random() < 0.5 else "B"


class JudgePhase:
    """Generator frozen: each pair in a shuffled order with its prompt's cached rubric; right and well-formed pays."""

    role: Role = "judge"

    def __init__(self, recipe: Recipe, writer: RubricGenerator, prompts: PromptBuilder) -> None:
        self._reward = recipe.reward
        self._rubrics_per_prompt = recipe.cache.rubrics_per_prompt
        self._sampling = Sampling(recipe.rubric.max_completion_length, 1, recipe.reward.rubric_temperature)
        self._seed = recipe.seed
        self._writer = writer
        self._prompts = prompts
        self._tally = Tally()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """The examples of every pair whose prompt has a usable rubric.

        The rubric's own draw does not depend on the step, so that a prompt met again is served from the cache.
        """
        self._tally = Tally()
        pairs = [pair for block in batch for pair in block.pairs]
        draws = [random.Random(derive_seed(seed, "draw", p.pair_id)).randrange(self._rubrics_per_prompt) for p in pairs]
        requests = [(pair.prompt, draw) for pair, draw in zip(pairs, draws, strict=True)]
        rubric_seed = derive_seed(self._seed, "judge phase rubrics")
        rubrics = self._writer.write(requests, self._sampling, rubric_seed, attempts=self._reward.rubric_attempts)
        examples: list[Example] = []
        for pair, rubric in zip(pairs, rubrics, strict=True):
            self._tally.counts[f"rubrics/{'usable' if rubric.usable else 'unusable'}"] += 1
            if rubric.usable:
                examples += self._examples(pair.present(_drawn_side(seed, pair.pair_id)), rubric, seed)
        return examples

    def _examples(self, comparison: Comparison, rubric: Rubric, seed: int) -> list[Example]:
        """What the judge is asked about one pair."""
        pair_id = comparison.pair_id
        text = self._prompts.judge_prompt(comparison.prompt, rubric, comparison.response_a, comparison.response_b)
        return [Example(pair_id, text, derive_seed(seed, pair_id), (comparison,), rubric)]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Accuracy plus weighted format for every sample."""
        return [[self._reward_of(group.example, s.text, s.finish_reason) for s in group.samples] for group in groups]

    def _reward_of(self, example: Example, text: str, finish_reason: str) -> Reward:
        if example.rubric is None:
            raise AssertionError("An example of the judge phase carries its rubric.")
        judgement = parse_judgement(text, example.rubric, "length" if finish_reason == "length" else "stop")
        self._tally.counts[f"parse/{judgement.status.value}"] += 1
        self._tally.counts[f"verdicts/{judgement.winner or 'none'}"] += 1
        return judge_reward(judgement, example.rubric, example.comparisons[0], self._reward)

    def measured(self) -> dict[str, float]:
        """Shares of usable rubrics, parse statuses and verdicts, and the cache's hit rate."""
        tally = self._tally
        return {
            **tally.shares("rubrics", ("usable", "unusable")),
            **tally.shares("parse", ("ok", "malformed", "truncated")),
            **tally.shares("verdicts", ("A", "B", "none")),
            "cache/hit_rate": self._writer.cache.hit_rate,
        }


class GeneratorPhase:
    """What the rubric phases have in common: requests for rubrics, each with the comparisons it is rewarded on."""

    role: Role = "rubric"

    def __init__(self, recipe: Recipe, prompts: PromptBuilder) -> None:
        self._reward = recipe.reward
        greedy = recipe.reward.judge_samples == 1
        self._sampling = Sampling(
            recipe.reward.judge_max_tokens, recipe.reward.judge_samples, 0.0 if greedy else recipe.judge.temperature
        )
        self._prompts = prompts
        self._tally = Tally()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per prompt; its pairs get one shuffled order for the whole group, or both orders."""
        self._tally = Tally()
        examples = []
        for block in batch:
            comparisons: list[Comparison] = []
            for pair in block.pairs:
                side = _drawn_side(seed, pair.pair_id)
                sides: tuple[Side, ...] = (side,) if self._reward.judge_orders == "one" else ("A", "B")
                comparisons += [pair.present(s) for s in sides]
            text = self._prompts.rubric_prompt(block.prompt)
            example_seed = derive_seed(seed, block.prompt_id)
            examples.append(Example(block.prompt_id, text, example_seed, tuple(comparisons)))
        return examples


class RubricPhase(GeneratorPhase):
    """Judge frozen: each sampled rubric earns the share of right verdicts of the greedy judge that uses it."""

    def __init__(self, recipe: Recipe, desk: JudgeDesk, prompts: PromptBuilder) -> None:
        super().__init__(recipe, prompts)
        self._desk = desk

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Ask the frozen judge about every usable rubric and reward the share it gets right."""
        rubrics = [[parse_rubric(s.text, s.finish_reason) for s in group.samples] for group in groups]
        cases = [
            (comparison, rubric)
            for group, written in zip(groups, rubrics, strict=True)
            for rubric in written
            if rubric.usable
            for comparison in group.example.comparisons
        ]
        judged = iter(self._desk.judge(cases, self._sampling, derive_seed(seed, "judge")) if cases else [])
        return [
            [self._reward_of(rubric, group.example.comparisons, judged) for rubric in written]
            for group, written in zip(groups, rubrics, strict=True)
        ]

    def _reward_of(self, rubric: Rubric, comparisons: Sequence[Comparison], judged: object) -> Reward:
        self._tally.counts[f"parse/{rubric.status.value}"] += 1
        self._tally.counts["criteria"] += len(rubric.criteria)
        verdicts: list[tuple[Comparison, Judgement]] = []
        if rubric.usable:
            for comparison in comparisons:
                judgements: list[Judgement] = next(judged)  # type: ignore[call-overload]
                verdicts += [(comparison, judgement) for judgement in judgements]
            for _, judgement in verdicts:
                self._tally.counts[f"verdicts/{judgement.winner or 'none'}"] += 1
        return rubric_reward(rubric, verdicts, self._reward)

    def measured(self) -> dict[str, float]:
        """Shares of parse statuses and of the judge's verdicts, and criteria per usable rubric."""
        tally = self._tally
        usable = tally.counts["parse/ok"]
        return {
            **tally.shares("parse", ("ok", "malformed", "truncated")),
            **tally.shares("verdicts", ("A", "B", "none")),
            "criteria": tally.counts["criteria"] / usable if usable else 0.0,
        }
