"""The two phases of alternating GRPO: the prompts of the active role, and the rewards of its samples.

Both share one path: prepare → sample → score → update. A new phase is a class with the members of :class:`Phase`. With
a pointwise judge (RUBRIC-ARROW, arXiv 2605.29156) the judge phase has two groups per pair, each with its own
advantages: the judge's samples on response A, then those on response B (the paper has six of each). Departures from
the paper: the cached rubric of the judge phase is redrawn if it does not parse, and a prompt without a usable rubric is
skipped in the step and counted.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from rubric_arm_lite.errors import ConfigError, first_line
from rubric_arm_lite.evaluation.metrics import copied_criteria, findings, follows_findings, mean, topical_principles
from rubric_arm_lite.models import Sampling
from rubric_arm_lite.prompts import parse_judgement, parse_rubric
from rubric_arm_lite.prompts.parsing import stated_met
from rubric_arm_lite.recipe import Recipe, derive_seed, load_plugin
from rubric_arm_lite.reward_model import Judge, PointwiseJudge, PointwiseVerdict, RubricGenerator, make_judge
from rubric_arm_lite.reward_model.judge import JudgedText, JudgementCache
from rubric_arm_lite.training.advantages import by_group
from rubric_arm_lite.training.rewards import (
    is_judged,
    judge_reward,
    pointwise_judge_rewards,
    pointwise_rubric_rewards,
    rubric_reward,
)
from rubric_arm_lite.types import (
    Example,
    Judgement,
    PromptBlock,
    Reward,
    Role,
    RolloutGroup,
    Rubric,
    Side,
)

STATUSES = ("ok", "malformed", "truncated")
VERDICTS = ("A", "B", "none")


def fractions(counts: Counter[str], prefix: str, names: Sequence[str]) -> dict[str, float]:
    """Each name's fraction of the counts of ``names``, as ``prefix/name``; 0 if nothing was counted."""
    total = sum(counts[f"{prefix}/{name}"] for name in names)
    return {f"{prefix}/{name}": counts[f"{prefix}/{name}"] / total if total else 0.0 for name in names}


class Phase(Protocol):
    """The interface between a phase and the training loop."""

    role: Role

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """The prompts of one step for the active role; every draw derives from ``seed``."""
        ...

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """One reward per sample of every group."""
        ...

    def metrics(self) -> dict[str, float]:
        """Values for the log, from the last step's ``prepare`` and ``score``."""
        ...


def drawn_side(seed: int, pair_id: str) -> Side:
    """The side on which a pair's chosen response is shown in a step."""
    return "A" if random.Random(derive_seed(seed, "order", pair_id)).random() < 0.5 else "B"


def shown_sides(orders: Literal["one", "fixed", "both"], seed: int, run_seed: int, pair_id: str) -> tuple[Side, ...]:
    """The sides on which a pair's chosen response is shown: one of the step, the run's, or both."""
    if orders == "both":
        return ("A", "B")
    return (drawn_side(seed if orders == "one" else derive_seed(run_seed, "fixed order"), pair_id),)


def is_silent(judgements: Sequence[Judgement], rubric: Rubric) -> bool:
    """Whether most judgements of a pair that state their findings say that both responses meet the same criteria."""
    stated = [met for judgement in judgements if (met := findings(judgement, rubric)) is not None]
    return 2 * sum(met[0] == met[1] for met in stated) > len(stated)


def _rubric_of(group: RolloutGroup) -> Rubric:
    rubric = group.example.rubric
    assert rubric is not None, "An example of the judge phase carries its rubric."
    return rubric


class JudgePhase:
    """Generator frozen: the judge sees each pair with its prompt's cached rubric, in a drawn order or in both."""

    role: Role = "judge"

    def __init__(self, recipe: Recipe, generator: RubricGenerator, judge: Judge | PointwiseJudge) -> None:
        self._recipe = recipe
        self._generator = generator
        self._judge = judge
        self._counts: Counter[str] = Counter()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per pair whose prompt has a usable rubric; two with both orders, or with a pointwise judge.

        A rubric's seed does not depend on the step, so that the cache serves a prompt that comes again; without the
        cache it does.
        """
        recipe, cached = self._recipe, self._recipe.cache.enabled
        pairs = [pair for block in batch for pair in block.pairs]
        rubrics = (self._generator if cached else self._generator.with_new_cache()).write(
            [pair.prompt for pair in pairs],
            Sampling(recipe.rubric.max_completion_length, 1, recipe.reward.rubric_temperature),
            derive_seed(recipe.seed if cached else seed, "judge phase rubrics"),
            [
                random.Random(derive_seed(seed, "draw", pair.pair_id)).randrange(recipe.cache.rubrics_per_prompt)
                for pair in pairs
            ],
            attempts=recipe.reward.rubric_attempts,
        )
        self._counts = Counter(f"rubrics/{'usable' if rubric.usable else 'unusable'}" for rubric in rubrics)
        examples: list[Example] = []
        both = recipe.reward.pair_orders == "both"
        for pair, rubric in zip(pairs, rubrics, strict=True):
            if not rubric.usable:
                continue
            for side in shown_sides(recipe.reward.pair_orders, seed, recipe.seed, pair.pair_id):
                labeled = pair.present(side)
                prompts = self._judge.user_prompts(labeled.comparison, rubric, "original")
                places = [side] if both else ["A", "B"] if len(prompts) == 2 else [""]
                for place, prompt in zip(places, prompts, strict=True):
                    name = [pair.pair_id, place] if place else [pair.pair_id]
                    group = pair.pair_id if both else None
                    at = derive_seed(seed, *name)
                    examples.append(Example(" ".join(name), prompt, at, (labeled,), rubric, group))
        return examples

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Accuracy plus weighted format for every sample (paper, sec. 4.2); +1, 0 or −1 with a pointwise judge."""
        if isinstance(self._judge, PointwiseJudge):
            return self._pointwise_rewards(groups, self._judge)
        settings = self._recipe.reward
        judged: list[list[Judgement]] = []
        for group in groups:
            rubric = _rubric_of(group)
            judged.append([parse_judgement(s.text, rubric, s.finish_reason) for s in group.samples])
            self._counts.update(f"parse/{judgement.status.value}" for judgement in judged[-1])
            self._counts.update(f"verdicts/{judgement.winner or 'none'}" for judgement in judged[-1])
            self._count_findings(follows_findings(judgement, rubric) for judgement in judged[-1])
        rewards: list[list[Reward]] = []
        for indices in by_group([group.example for group in groups]):  # both orders of a pair, or one
            rubric = _rubric_of(groups[indices[0]])
            silent = settings.skip_silent and is_silent([j for index in indices for j in judged[index]], rubric)
            self._counts["pairs/silent" if silent else "pairs/decided"] += 1
            for index in indices:
                (labeled,) = groups[index].example.comparisons
                others = [judgement.winner for other in indices if other != index for judgement in judged[other]]
                rewards.append([])
                for judgement in judged[index]:
                    agreement = mean([{judgement.winner, winner} == {"A", "B"} for winner in others])
                    reward = judge_reward(judgement, rubric, labeled, settings, agreement)
                    rewards[-1].append(replace(reward, masked=silent))
        return rewards

    def _pointwise_rewards(self, groups: Sequence[RolloutGroup], judge: PointwiseJudge) -> list[list[Reward]]:
        """The rewards of groups that come in twos: a pair's samples on response A, then on B.

        The adapter has not been updated since it wrote them, so the scores come from the same weights.
        """
        texts: list[list[JudgedText]] = []
        for group in groups:
            texts.append(judge.parse(group.example.prompt, _rubric_of(group), group.samples))
            for judgement in (text.judgement for text in texts[-1] if text.judgement):
                self._counts[f"parse/{judgement.status.value}"] += 1
                self._counts.update(f"answers/{'true' if answer.met else 'false'}" for answer in judgement.answers)
                stated = ((stated_met(answer.justification), answer.met) for answer in judgement.answers)
                self._count_findings(None if said is None else said == met for said, met in stated)
        scores = judge.read([text for judged in texts for text in judged])
        values = [[scores[text].value for text in judged] for judged in texts]
        rewards: list[list[Reward]] = []
        for group, values_a, values_b in zip(groups[::2], values[::2], values[1::2], strict=True):
            rewards += pointwise_judge_rewards(values_a, values_b, group.example.comparisons[0])
        return rewards

    def _count_findings(self, follow: Iterable[bool | None]) -> None:
        names = {True: "followed", False: "contradicted"}
        self._counts.update(f"findings/{names[follows]}" for follows in follow if follows is not None)

    def metrics(self) -> dict[str, float]:
        """Fractions of usable rubrics, parse statuses, verdicts (or answers) and findings; the cache's hit rate."""
        pointwise = isinstance(self._judge, PointwiseJudge)
        silent = fractions(self._counts, "pairs", ("silent", "decided"))
        return {
            **fractions(self._counts, "rubrics", ("usable", "unusable")),
            **fractions(self._counts, "parse", STATUSES),
            **fractions(self._counts, *(("answers", ("true", "false")) if pointwise else ("verdicts", VERDICTS))),
            **fractions(self._counts, "findings", ("followed", "contradicted")),
            **({"pairs/silent": silent["pairs/silent"]} if self._recipe.reward.skip_silent else {}),
            "cache/hit_rate": self._generator.cache.hit_rate,
        }


class RubricPhase:
    """Judge frozen: each sampled rubric earns the share of right judgements of the judge that uses it (eq. 8).

    With a pointwise judge it earns +1 if the preferred response scores above the other one under it, else −1.
    """

    role: Role = "rubric"

    def __init__(self, recipe: Recipe, generator: RubricGenerator, judge: Judge | PointwiseJudge) -> None:
        self._reward, self._seed = recipe.reward, recipe.seed
        # One judgement is greedy; several are drawn at the temperature at which the judge is trained.
        self._judge = replace(
            judge, max_tokens=recipe.reward.judge_max_tokens, temperature=0.0, vote_temperature=recipe.judge.temperature
        )
        self._prompts = generator.prompts
        self._counts: Counter[str] = Counter()
        self._drift: dict[str, float] = {}

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per prompt; its pairs get one shuffled order for the whole group, or both orders."""
        self._counts = Counter()
        return [
            Example(
                block.prompt_id,
                self._prompts.rubric_prompt(block.prompt),
                derive_seed(seed, block.prompt_id),
                tuple(
                    pair.present(side)
                    for pair in block.pairs
                    for side in shown_sides(self._reward.judge_orders, seed, self._seed, pair.pair_id)
                ),
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
            if is_judged(rubric, self._reward)
            for labeled in group.example.comparisons
        ]
        judge, cache = replace(self._judge, seed=derive_seed(seed, "judge")), self._judge.cache
        before = (cache.hits, cache.misses) if cache else (0, 0)
        verdicts = judge.judge([c for c, _ in cases], [r for _, r in cases], "original", self._reward.judge_samples)
        if cache:
            self._counts["judgements/cached"] += cache.hits - before[0]
            self._counts["judgements/new"] += cache.misses - before[1]
        for verdict in verdicts:
            if isinstance(verdict, PointwiseVerdict):
                self._counts["scores/unread" if verdict.margin is None else "scores/read"] += 1
            else:
                self._counts.update(f"verdicts/{winner or 'none'}" for winner in verdict.winners)
        remaining: Any = iter(verdicts)
        rewards = []
        for group, written in zip(groups, rubrics, strict=True):
            judged = [
                [(c, next(remaining)) for c in group.example.comparisons] if is_judged(r, self._reward) else []
                for r in written
            ]
            if isinstance(judge, PointwiseJudge):
                rewards.append(pointwise_rubric_rewards(written, judged, self._reward))
            else:
                rewards.append(
                    [rubric_reward(r, pairs, self._reward) for r, pairs in zip(written, judged, strict=True)]
                )
            self._counts.update(f"parse/{rubric.status.value}" for rubric in written)
            self._counts["criteria"] += sum(len(rubric.criteria) for rubric in written)
            self._counts["criteria/repeated"] += sum(rubric.repeats for rubric in written)
        self._drift = {
            "criteria/copied": copied_criteria(rubrics),
            "criteria/topical": topical_principles(
                [g.example.comparisons[0].comparison.prompt for g in groups], rubrics
            ),
        }
        return rewards

    def metrics(self) -> dict[str, float]:
        """Fractions of parse statuses and of the judge's verdicts (or scores), and what the usable rubrics are like."""
        usable, pointwise = self._counts["parse/ok"], isinstance(self._judge, PointwiseJudge)
        return {
            **fractions(self._counts, "parse", STATUSES),
            **fractions(self._counts, *(("scores", ("read", "unread")) if pointwise else ("verdicts", VERDICTS))),
            "judgements/cached": fractions(self._counts, "judgements", ("cached", "new"))["judgements/cached"],
            "criteria": self._counts["criteria"] / usable if usable else 0.0,
            "criteria/repeated": self._counts["criteria/repeated"] / max(1, self._counts["criteria"]),
            **self._drift,
        }


# --- plug-ins -------------------------------------------------------------------------------------------------------


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
        self.metrics = phase.metrics
        self._phase = phase
        self._function = function
        self._name = name

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """The function's rewards; parts and masks of the method's own rewards stay.

        Raises:
            ConfigError: if the function fails or returns no finite number.
        """
        rewards: list[list[Reward]] = []
        for group, row in zip(groups, self._phase.score(groups, seed), strict=True):
            rewards.append([])
            for sample, reward in zip(group.samples, row, strict=True):
                rubric = group.example.rubric or parse_rubric(sample.text, sample.finish_reason)
                scored = ScoredSample(self.role, group.example.prompt, sample.text, rubric, reward)
                try:
                    rewards[-1].append(Reward(float(self._function(scored)), reward.parts, reward.masked))
                except Exception as error:  # whatever the researcher's code raises
                    raise ConfigError(
                        f"reward.function: {self._name} gave no reward for a sample of the {self.role} "
                        f"({type(error).__name__}: {first_line(error)}). It takes a ScoredSample and returns a finite "
                        "number."
                    ) from error
        return rewards


def make_phases(
    recipe: Recipe, generator: RubricGenerator, judgements: JudgementCache | None = None
) -> dict[Role, Phase]:
    """The phases of both roles: the method's own, or those that the recipe names (``phases``, ``reward.function``).

    Args:
        judgements: serves greedy judgements of the frozen judge that are asked for again.

    Raises:
        ConfigError: if a named class or function cannot be loaded.
    """
    judge = replace(make_judge(recipe, generator.sampler, generator.prompts), cache=judgements)
    kinds: dict[Role, Callable[..., Phase]] = {"judge": JudgePhase, "rubric": RubricPhase}
    for role in kinds:
        if name := recipe.phases.of(role):
            kinds[role] = load_plugin(name, f"phases.{role}")
    phases = {role: kind(recipe, generator, judge) for role, kind in kinds.items()}
    if name := recipe.reward.function:
        function = load_plugin(name, "reward.function")
        return {role: CustomReward(phase, function, name) for role, phase in phases.items()}
    return phases
