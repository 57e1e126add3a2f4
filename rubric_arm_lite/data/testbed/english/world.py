"""The English world: real requests with a hard rule about a word, and answers dressed in styles.

Its topics are kinds of requests, its attributes styles. A prompt is a request and one more line, ``Use the word
coil.``; a word is used by some of a request's answers and not by others. It stands without quotation marks, so that its
tokens are those that it has in an answer. A small model can read all of it by copying: a criterion is met where the
response has words that show it (:meth:`EnglishWorld.quote`).

The seed decides which kind likes which styles, and which requests are held out for validation and test.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from rubric_arm_lite.data.testbed.english.styles import STYLES, WORDS, dress, read, style_of
from rubric_arm_lite.data.testbed.english.texts import (
    KINDS,
    Request,
    find_word,
    quote_word,
    requests,
    telling_words,
)
from rubric_arm_lite.data.testbed.preference import SPLITS, PreferenceWorld, known_split
from rubric_arm_lite.recipe import EnglishSettings
from rubric_arm_lite.types import Criterion, CriterionKind, Prompt, Rubric

HELD_OUT = {"test": 10, "validation": 6}
"""Held-out requests per kind; the other 44 are for training."""
_PROMPT = re.compile(r"(.+)\nUse the word ([a-z]+)\.")
_RULE = re.compile(
    r"the response (?:must |should )?(?:uses?|includes?|contains?|mentions?) the word [\"“'‘]?([a-z]+)[\"”'’]?\.?"
)


@dataclass(frozen=True, slots=True)
class EnglishTask:
    """The content of a prompt; the topic is the request's kind."""

    topic: str
    request: str
    word: str

    @property
    def prompt(self) -> str:
        """The prompt as text."""
        return f"{self.request}\nUse the word {self.word}."

    def hard_rule(self) -> Criterion:
        """The criterion that states this task's hard rule."""
        return Criterion(f"The response uses the word {self.word}.", CriterionKind.HARD_RULE)


@dataclass(frozen=True)
class EnglishWorld(PreferenceWorld[EnglishTask]):
    """One English world; every draw derives from ``seed``."""

    settings: EnglishSettings = field(default_factory=EnglishSettings)

    source: ClassVar[str] = "english"

    @cached_property
    def topics(self) -> tuple[str, ...]:
        """The kinds of requests of this world."""
        return KINDS[: self.settings.kinds]

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """The styles of this world."""
        return tuple(STYLES)[: self.settings.styles]

    @cached_property
    def splits(self) -> dict[str, tuple[Request, ...]]:
        """The requests of every split, kinds in turn."""
        parts: dict[str, list[Request]] = {split: [] for split in SPLITS}
        for kind in self.topics:
            order = [request for request in requests().values() if request.kind == kind]
            random.Random(f"split:{self.seed}:{kind}").shuffle(order)
            for split, count in HELD_OUT.items():
                parts[split] += order[:count]
                del order[:count]
            parts["train"] += order
        return {split: tuple(part) for split, part in parts.items()}

    def task_of(self, prompt: Prompt) -> EnglishTask | None:
        """Read a prompt back into its parts; None if its request is not of this world."""
        match = _PROMPT.fullmatch(prompt) if isinstance(prompt, str) else None
        request = requests().get(match[1]) if match else None
        if match is None or request is None or request.kind not in self.topics:
            return None
        return EnglishTask(request.kind, request.text, match[2])

    def tasks(self, split: str) -> dict[str, list[EnglishTask]]:
        """The tasks of a split by kind; each request is used once before any comes again with another word."""
        rng = random.Random(f"prompts:{self.seed}:{known_split(split)}")
        drawn: dict[str, list[list[EnglishTask]]] = {kind: [] for kind in self.topics}
        for request in self.splits[split]:
            words = list(telling_words(request.answers_within(self.settings.max_words), WORDS))
            rng.shuffle(words)
            for turn, word in enumerate(words):
                turns = drawn[request.kind]
                turns += [[]] if turn == len(turns) else []
                turns[turn].append(EnglishTask(request.kind, request.text, word))
        for turns in drawn.values():
            for tasks in turns:
                rng.shuffle(tasks)
        return {kind: [task for tasks in reversed(turns) for task in tasks] for kind, turns in drawn.items()}

    @property
    def more_prompts(self) -> str:
        """The settings that allow fewer prompts than by default."""
        usual = EnglishSettings()
        lowered = [name for name in ("kinds", "max_words") if getattr(self.settings, name) < getattr(usual, name)]
        return f", or raise {' or '.join(f'data.english.{name}' for name in lowered)}" if lowered else ""

    def response(self, task: EnglishTask, obeys: bool, rng: random.Random) -> str:
        """An answer that uses the task's word or not, in drawn styles.

        Raises:
            ValueError: if no answer does; a drawn task has both kinds.
        """
        answers = requests()[task.request].answers_within(self.settings.max_words)
        fitting = [answer for answer in answers if (find_word(task.word, answer) is not None) == obeys]
        if not fitting:
            raise ValueError(f"No answer to {task.request!r} {'uses' if obeys else 'lacks'} the word {task.word!r}.")
        answer, names = rng.choice(fitting), self.draw_attributes(task.topic, rng)
        unseen = self.settings.unseen_wordings if self._is_test(task.request) else 0.0
        return dress(answer, {name: STYLES[name].wording(rng, rng.random() < unseen) for name in names}, rng)

    def _is_test(self, request: str) -> bool:
        return request in self._test_requests

    @cached_property
    def _test_requests(self) -> frozenset[str]:
        return frozenset(request.text for request in self.splits["test"])

    def principle(self, attribute: str) -> Criterion:
        """The criterion that requires a style."""
        return Criterion(STYLES[attribute].criterion, CriterionKind.PRINCIPLE)

    def named(self, rubric: Rubric) -> frozenset[str]:
        """The styles that a rubric's principles require, also in other words (:func:`~.styles.style_of`)."""
        styles = {style_of(c.text) for c in rubric.criteria if c.kind is CriterionKind.PRINCIPLE}
        return frozenset(style for style in self.attributes if style in styles)

    def quote(self, criterion: Criterion, response: str) -> str | None:
        """The words by which a response meets a criterion; None if it misses it, or it is of another world."""
        if rule := _RULE.fullmatch(criterion.text.lower()):
            return quote_word(rule[1], response)
        style = style_of(criterion.text)
        return None if style is None else read(response).styles.get(style)

    def find(self, criterion: Criterion, response: str, overlooked: bool = False) -> tuple[bool, str]:
        """Whether a response meets a criterion, and a justification that quotes what shows it."""
        quote = None if overlooked else self.quote(criterion, response)
        return quote is not None, "none, so it is missed." if quote is None else f'"{quote}", so it is met.'


def short_name(criterion: Criterion) -> str:
    """A word for a criterion: the word it asks for, or its style."""
    rule = _RULE.fullmatch(criterion.text.lower())
    return rule[1] if rule else style_of(criterion.text) or "other"
