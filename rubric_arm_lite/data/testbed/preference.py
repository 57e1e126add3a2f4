"""What the synthetic worlds have in common: hidden likes, preference pairs, and the accuracy of a perfect judge.

A prompt states one hard rule and belongs to a topic. Each topic likes two attributes of a response and dislikes two
others, which another topic likes; only the preferences show it. The better of two responses has the higher score:
``2 · (hard rule met) + (number of liked attributes)``. A subclass says what prompts, attributes and responses are.
Code outside the testbed asks for no more than this class.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import ClassVar, Generic, Protocol, TypeVar

from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import PreferenceSettings
from rubric_arm_lite.types import Criterion, CriterionKind, ParseStatus, PreferencePair, Prompt, PromptBlock, Rubric

HARD_WEIGHT = 2
SPLITS = ("train", "validation", "test")


class WorldTask(Protocol):
    """The content of a prompt."""

    @property
    def topic(self) -> str:
        """What decides which attributes are liked."""

    @property
    def prompt(self) -> str:
        """The prompt as text."""

    def hard_rule(self) -> Criterion:
        """The criterion that states the prompt's hard rule."""


T = TypeVar("T", bound=WorldTask)


@dataclass(frozen=True)
class PreferenceWorld(ABC, Generic[T]):
    """A preference world; every draw derives from ``seed``."""

    seed: int
    settings: PreferenceSettings

    source: ClassVar[str]
    """The world's name in a recipe."""

    # --- what a world defines ---------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def topics(self) -> tuple[str, ...]:
        """The topics of this world."""

    @property
    @abstractmethod
    def attributes(self) -> tuple[str, ...]:
        """The attributes of responses; at least two per topic."""

    @abstractmethod
    def task_of(self, prompt: Prompt) -> T | None:
        """Read a prompt back into its parts; None if it is not of this world."""

    @abstractmethod
    def tasks(self, split: str) -> dict[str, list[T]]:
        """The tasks of a split by topic; those at the end are used first."""

    @property
    def more_prompts(self) -> str:
        """What else an error about too few prompts suggests; empty if no setting would give more."""
        return ""

    @abstractmethod
    def response(self, task: T, obeys: bool, rng: random.Random) -> str:
        """A response that meets the task's hard rule or not, with attributes of :meth:`draw_attributes`."""

    @abstractmethod
    def principle(self, attribute: str) -> Criterion:
        """The criterion that requires an attribute."""

    @abstractmethod
    def named(self, rubric: Rubric) -> frozenset[str]:
        """The attributes that a rubric's principles require."""

    @abstractmethod
    def find(self, criterion: Criterion, response: str, overlooked: bool = False) -> tuple[bool, str]:
        """Whether a response meets a criterion, and a justification. With ``overlooked`` it is reported as missed.

        A criterion of another world is met by nothing.
        """

    # --- hidden likes -----------------------------------------------------------------------------------------------

    @cached_property
    def likes(self) -> dict[str, tuple[str, str]]:
        """The two attributes each topic likes."""
        order = list(self.attributes)
        random.Random(f"world:{self.seed}").shuffle(order)
        return {topic: (order[2 * i], order[2 * i + 1]) for i, topic in enumerate(self.topics)}

    @cached_property
    def dislikes(self) -> dict[str, tuple[str, str]]:
        """The two attributes each topic dislikes: the pair that the next topic likes."""
        following = self.topics[1:] + self.topics[:1]
        return {topic: self.likes[after] for topic, after in zip(self.topics, following, strict=True)}

    def recall(self, prompt: Prompt, rubric: Rubric) -> float:
        """The share of the attributes that a prompt's topic likes that a rubric names; 0 for another world's prompt."""
        task = self.task_of(prompt)
        if task is None:
            return 0.0
        likes = set(self.likes[task.topic])
        return len(self.named(rubric) & likes) / len(likes)

    def rubric(self, task: T, attributes: Sequence[str]) -> Rubric:
        """The rubric of a task's hard rule and these attributes."""
        return make_rubric([task.hard_rule(), *map(self.principle, attributes)])

    def true_rubric(self, task: T) -> Rubric:
        """The rubric a perfect generator writes."""
        return self.rubric(task, self.likes[task.topic])

    def points(self, rubric: Rubric, response: str) -> int:
        """Weighted count of the criteria that a response meets."""
        return sum(criterion_weight(c) * self.find(c, response)[0] for c in rubric.criteria)

    def score(self, task: T, response: str) -> int:
        """The hidden score of a response, from 0 to 4; the preferred one of a pair has the higher."""
        return self.points(self.true_rubric(task), response)

    # --- prompts and pairs ------------------------------------------------------------------------------------------

    def blocks(self, split: str, prompts: int) -> list[PromptBlock]:
        """``prompts`` distinct prompts of a split, topics in turn, each with its pairs.

        Raises:
            ConfigError: if the split has fewer distinct prompts than requested.
        """
        by_topic = self.tasks(split)
        blocks: list[PromptBlock] = []
        while len(blocks) < prompts:
            drawn = [tasks.pop() for tasks in by_topic.values() if tasks]
            if not drawn:
                raise ConfigError(
                    f"The {split} split has {len(blocks)} distinct prompts, {prompts} were requested. Ask for fewer "
                    "(data.train_prompts, data.test_prompts, warmup.prompts, evaluation.pairs or evaluation.prompts)"
                    f"{self.more_prompts}."
                )
            blocks += [self.block(task, split) for task in drawn[: prompts - len(blocks)]]
        return blocks

    def block(self, task: T, split: str) -> PromptBlock:
        """One prompt with its preference pairs."""
        prompt_id = prompt_hash(task.prompt)
        rng = random.Random(f"pairs:{self.seed}:{split}:{prompt_id}")
        pairs = tuple(self._pair(task, f"{prompt_id}-{i}", rng) for i in range(self.settings.pairs_per_prompt))
        return PromptBlock(prompt_id, task.prompt, pairs)

    def _pair(self, task: T, pair_id: str, rng: random.Random) -> PreferencePair:
        while True:
            differs = rng.random() < self.settings.rule_differs
            first = rng.random() < (0.5 if differs else 0.75)
            met = (first, not first) if differs else (first, first)
            one, two = (self.response(task, obeys, rng) for obeys in met)
            scores = self.score(task, one), self.score(task, two)
            if abs(scores[0] - scores[1]) >= self.settings.gap:
                break
        chosen, rejected = (one, two) if scores[0] > scores[1] else (two, one)
        if rng.random() < self.settings.label_noise:
            chosen, rejected = rejected, chosen
        return PreferencePair(pair_id, task.prompt, chosen, rejected, source=self.source, subset=task.topic)

    def draw_attributes(self, topic: str, rng: random.Random) -> list[str]:
        """The attributes of a response: for each of two slots a liked, a disliked or none, then distractions."""
        settings = self.settings
        names: list[str] = []
        for liked, disliked in zip(self.likes[topic], self.dislikes[topic], strict=True):
            draw = rng.random()
            if draw < settings.liked:
                names.append(liked)
            elif draw < settings.liked + settings.disliked:
                names.append(disliked)
        rest = [a for a in self.attributes if a not in self.likes[topic] + self.dislikes[topic]]
        return names + [n for n in rng.sample(rest, min(settings.distractions, len(rest))) if rng.random() < 0.5]


def known_split(split: str) -> str:
    """The split's name; a DataError if there is no such split."""
    if split not in SPLITS:
        raise DataError(f"split: {split!r} is not one of {SPLITS}.")
    return split


def make_rubric(criteria: list[Criterion]) -> Rubric:
    """A parsed rubric made from criteria."""
    rubric = Rubric("", tuple(criteria), ParseStatus.OK)
    return Rubric(rubric.render(), rubric.criteria, ParseStatus.OK)


def criterion_weight(criterion: Criterion) -> int:
    """What a met criterion adds to a response's score."""
    return HARD_WEIGHT if criterion.kind is CriterionKind.HARD_RULE else 1


# --- the accuracy of a perfect judge: the ceiling, and the floors, that a report shows beside its results -----------


def oracle_accuracy(
    world: PreferenceWorld[T], pairs: Sequence[PreferencePair], rubric_of: Callable[[T], Rubric]
) -> float:
    """Accuracy of a judge without errors under the rubrics that ``rubric_of`` returns; a tie counts ½.

    Raises:
        ValueError: if a prompt is not of the world, or there are no pairs.
    """
    if not pairs:
        raise ValueError("The oracle needs at least one pair.")
    total = 0.0
    for pair in pairs:
        rubric = rubric_of(known_task(world, pair.prompt))
        gap = world.points(rubric, pair.chosen) - world.points(rubric, pair.rejected)
        total += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
    return total / len(pairs)


def known_task(world: PreferenceWorld[T], prompt: Prompt) -> T:
    """The task of a prompt; a ValueError if it is not of the world."""
    task = world.task_of(prompt)
    if task is None:
        raise ValueError(f"Not a prompt of the {world.source}'s world: {prompt!r}")
    return task


def oracle(world: PreferenceWorld[T], pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Accuracy under the true rubric, the hard rule alone, the best generic pair of principles, and a random pair."""

    def fixed(*names: str) -> Callable[[T], Rubric]:
        return lambda task: world.rubric(task, names)

    def drawn(task: T) -> Rubric:
        names = random.Random(f"oracle:{world.seed}:{task.prompt}").sample(world.attributes, 2)
        return world.rubric(task, names)

    return {
        "true": oracle_accuracy(world, pairs, world.true_rubric),
        "hard_rule": oracle_accuracy(world, pairs, fixed()),
        "generic": max(oracle_accuracy(world, pairs, fixed(*names)) for names in combinations(world.attributes, 2)),
        "random": oracle_accuracy(world, pairs, drawn),
    }
