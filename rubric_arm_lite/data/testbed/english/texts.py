"""Reads the requests and answers of the English world from ``texts/KIND.txt``.

A file has one paragraph per request: the request's line, then a line for each of its three answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

KINDS = ("question", "writing", "editing", "advice")
"""Something to explain, to write, to edit, or to plan."""
ANSWERS = 3
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?]) (?=[A-Z])")
_SHORTEST_WORD, _SHORTEST_STEM = 4, 4
MOST_WORDS = 8
"""Most words of a request that a hard rule may ask for: the longest ones, since short words say little."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its answers."""

    kind: str
    text: str
    answers: tuple[str, ...]

    def answers_within(self, max_words: int) -> tuple[str, ...]:
        """The answers of at most so many words."""
        return tuple(answer for answer in self.answers if len(answer.split()) <= max_words)


@cache
def requests() -> dict[str, Request]:
    """All requests by their text, kinds in order."""
    found = {}
    for kind in KINDS:
        path = resources.files("rubric_arm_lite.data.testbed.english").joinpath("texts", f"{kind}.txt")
        for paragraph in path.read_text("utf-8").strip().split("\n\n"):
            text, *answers = paragraph.split("\n")
            found[text] = Request(kind, text, tuple(answers))
    return found


def words_of(text: str) -> list[str]:
    """The words of a text as they are written."""
    return _WORD.findall(text)


def sentences_of(text: str) -> list[str]:
    """The sentences of a text; joined by blanks they are the text."""
    return _SENTENCE_END.split(text)


def find_word(word: str, text: str) -> str | None:
    """A word as it first stands in a text, whatever its case; None if it does not."""
    return next((written for written in words_of(text) if written.lower() == word), None)


def quote_word(word: str, text: str) -> str | None:
    """A word where it first stands in a text, with the words beside it in its line; None if it does not.

    A judge could copy the word alone from the rubric; to quote what stands beside it, it has to find it.
    """
    for line in text.split("\n"):
        words = list(_WORD.finditer(line))
        for i, match in enumerate(words):
            if match[0].lower() == word:
                quote = line[words[max(0, i - 1)].start() : words[min(len(words) - 1, i + 1)].end()]
                return match[0] if '"' in quote else quote
    return None


@cache
def telling_words(answers: tuple[str, ...], taken: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Words that some of the answers use and others do not: at most :data:`MOST_WORDS`, the longest first.

    Words of under four letters are left out, also those of ``taken``, and words that begin like another word of the
    answers, since "wave" is easily found in "waves".
    """
    used = [{word.lower() for word in words_of(answer)} for answer in answers]
    everything = set().union(*used)
    plain = {word for answer in answers for word in words_of(answer) if word.isalpha() and word.islower()}
    telling = (
        word
        for word in plain - taken
        if len(word) >= _SHORTEST_WORD
        and not all(word in words for words in used)
        and not any(word != other and _alike(word, other) for other in everything)
    )
    return tuple(sorted(telling, key=lambda word: (-len(word), word))[:MOST_WORDS])


def _alike(word: str, other: str) -> bool:
    """Whether one of two words begins like the other, but for an ending."""
    stem = other[: max(_SHORTEST_STEM, len(other) - 2)]
    return other.startswith(word) or (len(stem) >= _SHORTEST_STEM and word.startswith(stem))
