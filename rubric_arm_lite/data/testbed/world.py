"""The preference world: hard rules stated in the prompt, principles implied by its topic.

A prompt names a topic, a reader and one hard rule about a word. Each topic likes two attributes and dislikes two
others, which another topic likes; the prompt does not say so, only the preferences show it. A response is a short
line of words, some of which express attributes. The better of two responses has the higher score:
``2 · (hard rule met) + (number of liked attributes expressed)``. A judge that ignores the rubric therefore cannot
know better than the hard rule, and a rubric of generic principles is worth no more than chance.

The seed of a world decides which topic likes what; words and their meanings are the same in every world.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import ClassVar

from ruamel.yaml import YAML

from rubric_arm_lite.data.testbed.preference import PreferenceWorld, known_split
from rubric_arm_lite.recipe import WorldSettings
from rubric_arm_lite.types import Criterion, CriterionKind, Prompt, Rubric

_WORDS = YAML(typ="safe").load(resources.files(__package__).joinpath("words.yaml").read_text("utf-8"))
TOPICS, READERS, GENRES, NOISE, RULE_WORDS = (
    tuple[str, ...](_WORDS[name]) for name in ("topics", "readers", "genres", "noise", "rule_words")
)
PRINCIPLES: dict[str, tuple[str, str]] = {name: (one, two) for name, (one, two) in _WORDS["principles"].items()}
RULES: dict[str, tuple[str, str]] = {kind: (asked, met) for kind, (asked, met) in _WORDS["rules"].items()}
"""Hard rules by kind: the phrase of a prompt, and that of a criterion."""
RESPONSE_WORDS = 6


@dataclass(frozen=True, slots=True)
class Task:
    """The content of a prompt."""

    topic: str
    reader: str
    genre: str
    rule: str
    word: str

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return f"Write a {self.genre} about {self.topic} for {self.reader}. {RULES[self.rule][0]} {self.word}."

    def hard_rule(self) -> Criterion:
        """The criterion that states this task's hard rule."""
        return hard_rule_criterion(self.rule, self.word)


@dataclass(frozen=True)
class World(PreferenceWorld[Task]):
    """One world; every draw derives from ``seed``."""

    settings: WorldSettings = field(default_factory=WorldSettings)

    source: ClassVar[str] = "testbed"

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """The topics of this world."""
        return TOPICS[: self.settings.topics]

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that exist in this world; the first two per topic in a shuffled order are principles."""
        return tuple(PRINCIPLES)[: self.settings.attributes]

    def task_of(self, prompt: Prompt) -> Task | None:
        """The task of a prompt; see :func:`parse_task`."""
        return parse_task(str(prompt))

    def combinations(self, split: str) -> list[tuple[str, str, str]]:
        """The topic × hard-rule combinations of a split: 3/4 train, 1/8 validation, 1/8 test."""
        everything = [(t, rule, word) for t in self.topics for rule in RULES for word in RULE_WORDS]
        random.Random(f"split:{self.seed}").shuffle(everything)
        first, second = len(everything) // 8, 2 * (len(everything) // 8)
        parts = {"train": everything[second:], "validation": everything[first:second], "test": everything[:first]}
        return parts[known_split(split)]

    def tasks(self, split: str) -> dict[str, list[Task]]:
        """The tasks of a split by topic, in random order."""
        rng = random.Random(f"prompts:{self.seed}:{split}")
        by_topic: dict[str, list[Task]] = {topic: [] for topic in self.topics}
        for topic, rule, word in self.combinations(split):
            by_topic[topic] += [Task(topic, reader, genre, rule, word) for reader in READERS for genre in GENRES]
        for tasks in by_topic.values():
            rng.shuffle(tasks)
        return by_topic

    def response(self, task: Task, obeys: bool, rng: random.Random) -> str:
        """A response that meets the hard rule or not, with attributes drawn slot by slot."""
        words = [rng.choice(PRINCIPLES[name]) for name in self.draw_attributes(task.topic, rng)]
        return place_words(words, task.rule, task.word, obeys, rng)

    def principle(self, attribute: str) -> Criterion:
        """The criterion that requires an attribute."""
        return principle_criterion(attribute)

    def named(self, rubric: Rubric) -> frozenset[str]:
        """The attributes that a rubric's principles require."""
        return named_attributes(rubric)

    def find(self, criterion: Criterion, response: str, overlooked: bool = False) -> tuple[bool, str]:
        """Whether a response meets a criterion, and the justification that says so; see :func:`find`."""
        return find(criterion, response, overlooked)


def place_words(words: list[str], rule: str, word: str, obeys: bool, rng: random.Random) -> str:
    """A whole response with ``words`` that meets the rule about ``word``, or breaks it."""
    words = words[: RESPONSE_WORDS - 1]
    if obeys == (rule == "include"):
        words.append(word)
    others = [*NOISE, *(w for w in RULE_WORDS if w != word)]
    words += rng.sample(others, RESPONSE_WORDS - len(words))
    rng.shuffle(words)
    return " ".join(words)


def expressed(response: str) -> frozenset[str]:
    """The attributes that a response's words express."""
    words = set(response.split())
    return frozenset(name for name, signs in PRINCIPLES.items() if words.intersection(signs))


def meets_rule(rule: str, word: str, response: str) -> bool:
    """Whether a response keeps the hard rule."""
    if rule not in RULES:
        raise ValueError(f"rule: {rule!r} is not one of {tuple(RULES)}.")
    return (word in response.split()) == (rule == "include")


def principle_criterion(attribute: str) -> Criterion:
    """The criterion that requires an attribute."""
    return Criterion(f"The response is {attribute}", CriterionKind.PRINCIPLE)


def hard_rule_criterion(rule: str, word: str) -> Criterion:
    """The criterion that states a hard rule."""
    return Criterion(f"The response {RULES[rule][1]} {word}", CriterionKind.HARD_RULE)


def named_attributes(rubric: Rubric) -> frozenset[str]:
    """The attributes that a rubric's principles require."""
    texts = {c.text for c in rubric.criteria if c.kind is CriterionKind.PRINCIPLE}
    return frozenset(name for name in PRINCIPLES if f"The response is {name}" in texts)


def criterion_met(criterion: Criterion, response: str) -> bool:
    """Whether a response meets a criterion of this world; a criterion of another world is met by nothing."""
    for rule, (_, phrase) in RULES.items():
        start = f"The response {phrase} "
        if criterion.text.startswith(start):
            return meets_rule(rule, criterion.text.removeprefix(start), response)
    return criterion.text.removeprefix("The response is ") in expressed(response)


def find(criterion: Criterion, response: str, overlooked: bool = False) -> tuple[bool, str]:
    """Whether a response meets a criterion, as a careful judge of the world finds, and its justification.

    Args:
        overlooked: report the criterion as missed in any case.
    """
    met = not overlooked and criterion_met(criterion, response)
    subject = criterion.text.split()[-1]
    if criterion.kind is CriterionKind.HARD_RULE:
        subject += " appears," if subject in response.split() else " is absent,"
    return met, f"{subject} is {'met' if met else 'missed'}."


def parse_task(prompt: str) -> Task | None:
    """Read a prompt of this world back into its parts, or None if it is not one."""
    words = prompt.replace(".", "").split()
    if len(words) < 11 or words[:2] != ["Write", "a"]:
        return None
    for rule, (phrase, _) in RULES.items():
        task = Task(words[4], words[6], words[2], rule, words[-1])
        if task.prompt == prompt and phrase in prompt:
            return task
    return None
