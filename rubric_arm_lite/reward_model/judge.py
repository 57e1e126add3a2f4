"""The judge: comparisons and rubrics in, verdicts out, for training, evaluation, labeling and serving alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.models import ChatSampler, Sampler, Sampling
from rubric_arm_lite.prompts import PromptBuilder, parse_judgement, parse_rubric
from rubric_arm_lite.recipe import Recipe, derive_seed
from rubric_arm_lite.reward_model.pointwise import PointwiseJudge
from rubric_arm_lite.reward_model.verdict import Orders, Verdict
from rubric_arm_lite.types import Comparison, Criterion, CriterionKind, Example, ParseStatus, PreferencePair, Rubric


@dataclass(frozen=True)
class Judge:
    """A pairwise judge (paper, sec. 3); :func:`dataclasses.replace` makes one with other settings.

    Attributes:
        max_tokens: longest judgement.
        temperature: of a single judgement; 0 is greedy.
        vote_temperature: of each judgement where there are several votes.
        adapter: the adapter that judges; None is the bare base.
    """

    sampler: Sampler
    prompts: PromptBuilder
    max_tokens: int
    temperature: float = 0.0
    vote_temperature: float = 1.0
    seed: int = 0
    adapter: str | None = "judge"

    def sampling(self, votes: int = 1) -> Sampling:
        """How judgements are drawn."""
        return Sampling(self.max_tokens, votes, self.temperature if votes == 1 else self.vote_temperature)

    def judge(
        self, comparisons: Sequence[Comparison], rubrics: Sequence[Rubric], orders: Orders = "both", votes: int = 1
    ) -> list[Verdict]:
        """One verdict per comparison under its rubric, in order; a rubric that is not usable gives an empty verdict.

        All judgements are sampled in one call; equal prompts are sampled once, with a seed derived from their text.

        Args:
            votes: judgements per order.
        """
        presented = [
            (i, swapped, self.prompt(comparison.swapped() if swapped else comparison, rubric))
            for i, (comparison, rubric) in enumerate(zip(comparisons, rubrics, strict=True))
            if rubric.usable
            for swapped in (False, True)
            if orders in ("both", "swapped" if swapped else "original")
        ]
        ids: dict[str, str] = {}
        for i, _, text in presented:
            ids.setdefault(text, comparisons[i].comparison_id)
        examples = [Example(example_id, text, derive_seed(self.seed, text)) for text, example_id in ids.items()]
        groups = self.sampler.sample(self.adapter, examples, self.sampling(votes)) if examples else []
        samples = {text: group.samples for text, group in zip(ids, groups, strict=True)}
        judgements = {
            (i, swapped): tuple(parse_judgement(s.text, rubrics[i], s.finish_reason) for s in samples[text])
            for i, swapped, text in presented
        }
        return [
            Verdict(rubric, judgements.get((i, False), ()), judgements.get((i, True), ()))
            for i, rubric in enumerate(rubrics)
        ]

    def prompt(self, comparison: Comparison, rubric: Rubric) -> str:
        """The user turn that shows a comparison under a rubric."""
        return self.prompts.judge_prompt(comparison.prompt, rubric, comparison.response_a, comparison.response_b)

    def turns(self, comparison: Comparison, rubric: Rubric) -> list[str]:
        """The user turns that one comparison leads to, in one order: its length is the same in both."""
        return [self.prompt(comparison, rubric)]


def pairwise_judge(recipe: Recipe, sampler: Sampler, prompts: PromptBuilder) -> Judge:
    """A pairwise judge with a recipe's evaluation settings."""
    e = recipe.evaluation
    return Judge(sampler, prompts, e.judge_max_tokens, e.judge_temperature, e.vote_temperature, recipe.seed)


def pointwise_judge(recipe: Recipe, sampler: Sampler, prompts: PromptBuilder) -> PointwiseJudge:
    """A pointwise judge with a recipe's evaluation settings."""
    return PointwiseJudge(**vars(pairwise_judge(recipe, sampler, prompts)), words=recipe.prompts.pointwise_words)


def make_judge(recipe: Recipe, sampler: Sampler, prompts: PromptBuilder) -> Judge | PointwiseJudge:
    """The judge that a recipe trains, pairwise or pointwise."""
    return (pointwise_judge if recipe.pointwise else pairwise_judge)(recipe, sampler, prompts)


def check_compares(recipe: Recipe) -> None:
    """Raise a ConfigError if the recipe's judge is pointwise and cannot compare two responses."""
    if recipe.pointwise:
        raise ConfigError(
            "reward.judge: pointwise is a judge that scores one response at a time; it has not learned to compare two. "
            "Use score or score_many in Python or /v1/score over HTTP, or a run with reward.judge: pairwise."
        )


_ONE_CRITERION = Rubric("", (Criterion("The response", CriterionKind.PRINCIPLE),), ParseStatus.OK)


def longest_prompt(pair: PreferencePair, recipe: Recipe, model: ChatSampler, prompts: PromptBuilder) -> int:
    """Tokens of the longest sequence that this pair can lead to, with room for a rubric of full length."""
    evaluation = recipe.evaluation
    rubric_room = max(recipe.rubric.max_completion_length, evaluation.rubric_max_tokens)
    judge_room = max(recipe.judge.max_completion_length, recipe.reward.judge_max_tokens, evaluation.judge_max_tokens)
    generator = model.prompt_tokens(prompts.rubric_prompt(pair.prompt)) + rubric_room
    turns = make_judge(recipe, model, prompts).turns(pair.present("A").comparison, _ONE_CRITERION)
    return max(generator, max(map(model.prompt_tokens, turns)) + rubric_room + judge_room)


def given_rubric(rubric: Rubric | str, name: str) -> Rubric:
    """Parse a caller's rubric.

    Args:
        name: name of its place in errors.

    Raises:
        DataError: if it does not parse.
    """
    parsed = parse_rubric(rubric) if isinstance(rubric, str) else rubric
    if not parsed.usable:
        raise DataError(
            f"{name}: the given rubric does not parse. Write a numbered list, each line like "
            "`1. The response … [Hard Rule]` or `… [Principle]`, and nothing else."
        )
    return parsed
