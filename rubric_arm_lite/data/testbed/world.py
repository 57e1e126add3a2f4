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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from itertools import combinations

from ruamel.yaml import YAML

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import WorldSettings
from rubric_arm_lite.types import Criterion, CriterionKind, ParseStatus, PreferencePair, Prompt, PromptBlock, Rubric

_WORDS = YAML(typ="safe").load(resources.files(__package__).joinpath("words.yaml").read_text("utf-8"))
TOPICS, READERS, GENRES, NOISE, RULE_WORDS = (
    tuple[str, ...](_WORDS[name]) for name in ("topics", "readers", "genres", "noise", "rule_words")
)
PRINCIPLES: dict[str, tuple[str, str]] = {name: (one, two) for name, (one, two) in _WORDS["principles"].items()}
RULES: dict[str, tuple[str, str]] = {kind: (asked, met) for kind, (asked, met) in _WORDS["rules"].items()}
"""Hard rules by kind: the phrase of a prompt, and that of a criterion."""
RESPONSE_WORDS = 6
HARD_WEIGHT = 2


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
class World:
    """One world; every draw derives from ``seed``."""

    seed: int
    settings: WorldSettings = field(default_factory=WorldSettings)

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """The topics of this world."""
        return TOPICS[: self.settings.topics]

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that exist in this world; the first two per topic in a shuffled order are principles."""
        return tuple(PRINCIPLES)[: self.settings.attributes]

    @cached_property
    def likes(self) -> dict[str, tuple[str, str]]:
        """The two principles each topic implies."""
        order = list(self.attributes)
        random.Random(f"world:{self.seed}").shuffle(order)
        return {topic: (order[2 * i], order[2 * i + 1]) for i, topic in enumerate(self.topics)}

    @cached_property
    def dislikes(self) -> dict[str, tuple[str, str]]:
        """The two attributes each topic dislikes: the pair that the next topic likes."""
        following = self.topics[1:] + self.topics[:1]
        return {topic: self.likes[after] for topic, after in zip(self.topics, following, strict=True)}

    def recall(self, prompt: Prompt, rubric: Rubric) -> float:
        """The share of the principles of a prompt's topic that a rubric names; 0 for a prompt of another world."""
        task = parse_task(str(prompt))
        if task is None:
            return 0.0
        likes = set(self.likes[task.topic])
        return len(named_attributes(rubric) & likes) / len(likes)

    def true_rubric(self, task: Task) -> Rubric:
        """The rubric a perfect generator writes."""
        liked = [principle_criterion(name) for name in self.likes[task.topic]]
        return make_rubric([task.hard_rule(), *liked])

    def score(self, task: Task, response: str) -> int:
        """The hidden score of a response; the preferred one of a pair has the higher."""
        shown = expressed(response)
        liked = sum(name in shown for name in self.likes[task.topic])
        return HARD_WEIGHT * meets_rule(task.rule, task.word, response) + liked

    def combinations(self, split: str) -> list[tuple[str, str, str]]:
        """The topic × hard-rule combinations of a split: 3/4 train, 1/8 validation, 1/8 test."""
        everything = [(t, rule, word) for t in self.topics for rule in RULES for word in RULE_WORDS]
        random.Random(f"split:{self.seed}").shuffle(everything)
        first, second = len(everything) // 8, 2 * (len(everything) // 8)
        parts = {"train": everything[second:], "validation": everything[first:second], "test": everything[:first]}
        if split not in parts:
            raise ValueError(f"split: {split!r} is not one of {tuple(parts)}.")
        return parts[split]

    def blocks(self, split: str, prompts: int) -> list[PromptBlock]:
        """``prompts`` distinct prompts of a split, topics in turn, each with its pairs.

        Raises:
            ConfigError: if the split has fewer distinct prompts than requested.
        """
        rng = random.Random(f"prompts:{self.seed}:{split}")
        by_topic: dict[str, list[Task]] = {topic: [] for topic in self.topics}
        for topic, rule, word in self.combinations(split):
            by_topic[topic] += [Task(topic, reader, genre, rule, word) for reader in READERS for genre in GENRES]
        for tasks in by_topic.values():
            rng.shuffle(tasks)
        blocks: list[PromptBlock] = []
        while len(blocks) < prompts:
            drawn = [tasks.pop() for tasks in by_topic.values() if tasks]
            if not drawn:
                raise ConfigError(
                    f"The {split} split has {len(blocks)} distinct prompts, {prompts} were requested. Ask for fewer "
                    "(data.train_prompts, data.test_prompts, warmup.prompts, evaluation.pairs or evaluation.prompts)."
                )
            blocks += [self.block(task, split) for task in drawn[: prompts - len(blocks)]]
        return blocks

    def block(self, task: Task, split: str) -> PromptBlock:
        """One prompt with its preference pairs."""
        prompt_id = prompt_hash(task.prompt)
        rng = random.Random(f"pairs:{self.seed}:{split}:{prompt_id}")
        pairs = tuple(self._pair(task, f"{prompt_id}-{i}", rng) for i in range(self.settings.pairs_per_prompt))
        return PromptBlock(prompt_id, task.prompt, pairs)

    def _pair(self, task: Task, pair_id: str, rng: random.Random) -> PreferencePair:
        while True:
            differs = rng.random() < self.settings.rule_differs
            first = rng.random() < (0.5 if differs else 0.75)
            met = (first, not first) if differs else (first, first)
            one, two = (self.response(task, obeys, rng) for obeys in met)
            scores = self.score(task, one), self.score(task, two)
            if scores[0] != scores[1]:
                break
        chosen, rejected = (one, two) if scores[0] > scores[1] else (two, one)
        if rng.random() < self.settings.label_noise:
            chosen, rejected = rejected, chosen
        return PreferencePair(pair_id, task.prompt, chosen, rejected, source="testbed", subset=task.topic)

    def response(self, task: Task, obeys: bool, rng: random.Random) -> str:
        """A response that meets the hard rule or not, with attributes drawn slot by slot."""
        settings = self.settings
        names: list[str] = []
        for liked, disliked in zip(self.likes[task.topic], self.dislikes[task.topic], strict=True):
            draw = rng.random()
            if draw < settings.liked:
                names.append(liked)
            elif draw < settings.liked + settings.disliked:
                names.append(disliked)
        rest = [a for a in self.attributes if a not in self.likes[task.topic] + self.dislikes[task.topic]]
        names += [name for name in rng.sample(rest, min(2, len(rest))) if rng.random() < 0.5]
        words = [rng.choice(PRINCIPLES[name]) for name in names]
        return place_words(words, task.rule, task.word, obeys, rng)


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


def make_rubric(criteria: list[Criterion]) -> Rubric:
    """A parsed rubric made from criteria."""
    rubric = Rubric("", tuple(criteria), ParseStatus.OK)
    return Rubric(rubric.render(), rubric.criteria, ParseStatus.OK)


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


def criterion_weight(criterion: Criterion) -> int:
    """What a met criterion adds to a response's score."""
    return HARD_WEIGHT if criterion.kind is CriterionKind.HARD_RULE else 1


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


def task_of(pair: PreferencePair) -> Task:
    """The task of a pair's prompt.

    Raises:
        ValueError: if the prompt is not of this world.
    """
    task = parse_task(str(pair.prompt))
    if task is None:
        raise ValueError(f"Not a prompt of the testbed's world: {pair.prompt!r}")
    return task


# --- the accuracy of a perfect judge: the ceiling, and the floors, that a report shows beside its results -----------


def points(rubric: Rubric, response: str) -> int:
    """Weighted count of the criteria that a response meets."""
    return sum(criterion_weight(c) * criterion_met(c, response) for c in rubric.criteria)


def oracle_accuracy(pairs: Sequence[PreferencePair], rubric_of: Callable[[Task], Rubric]) -> float:
    """Accuracy of a judge without errors under the rubrics that ``rubric_of`` returns; a tie counts ½.

    Raises:
        ValueError: if a prompt is not of the testbed's world, or there are no pairs.
    """
    if not pairs:
        raise ValueError("The oracle needs at least one pair.")
    total = 0.0
    for pair in pairs:
        rubric = rubric_of(task_of(pair))
        gap = points(rubric, pair.chosen) - points(rubric, pair.rejected)
        total += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
    return total / len(pairs)


def oracle(world: World, pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Accuracy under the true rubric, the hard rule alone, the best generic pair of principles, and a random pair."""

    def fixed(*names: str) -> Callable[[Task], Rubric]:
        return lambda task: make_rubric([task.hard_rule(), *map(principle_criterion, names)])

    def drawn(task: Task) -> Rubric:
        names = random.Random(f"oracle:{world.seed}:{task.prompt}").sample(world.attributes, 2)
        return fixed(*names)(task)

    return {
        "true": oracle_accuracy(pairs, world.true_rubric),
        "hard_rule": oracle_accuracy(pairs, fixed()),
        "generic": max(oracle_accuracy(pairs, fixed(*names)) for names in combinations(world.attributes, 2)),
        "random": oracle_accuracy(pairs, drawn),
    }
