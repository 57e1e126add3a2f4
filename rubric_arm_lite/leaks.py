"""Whether a rubric gives away the responses it was found from; such a rubric teaches nothing about other responses.

A rubric is to hold for any response to its request (paper, app. E). A teacher that has seen two of them may instead
name them, or repeat what only they say. Both are looked for word by word, without a model, and err towards finding
too much: another attempt costs little, and a leak teaches the generator to describe answers it will not see.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from rubric_arm_lite.parsing import fold
from rubric_arm_lite.types import Rubric

PHRASE_WORDS = 4
"""So many words in a row, found in a response and not in the request, are a quotation."""

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_QUOTED = re.compile(r"[\"“”„«»‘`]([^\"“”„«»’`]{2,200})[\"“”«»’`]|\*\*([^*]{2,200})\*\*")
_NAMED = re.compile(
    r"\b(?i:responses?|answers?)\W{1,3}[AB12]\b"
    r"|\b(?i:first|second|former|latter|preferred|chosen|rejected|winning|losing|other|both|two)\W+"
    r"(?i:responses?|answers?|replies|reply)\b"
    r"|\b(?i:than\W+the\W+(?:other|alternative))\b"
)
_EVERYDAY = frozenset(
    _WORD.findall(
        "a an and any are as at be been but by can could do does for from had has have if in into is it its may more "
        "most must no not of on or other should so such than that the their them then there these they this to too was "
        "were what when where which while who will with would you your response responses answer text"
    )
)


class Leak(str, Enum):
    """How a rubric betrays the responses."""

    NAMES_A_RESPONSE = "names a response"
    QUOTES_A_RESPONSE = "quotes a response"


def leak_of(rubric: Rubric, prompt: str, responses: Iterable[str], phrase_words: int = PHRASE_WORDS) -> Leak | None:
    """The first leak of a parsed rubric, or None.

    A quotation is one of these, found in a response and not in the request: ``phrase_words`` words in a row, not all
    of them everyday words; a number of two digits or more; anything in quotation marks, however short.
    """
    asked = _spaced(prompt)
    said = [_spaced(response) for response in responses]
    for criterion in rubric.criteria:
        if _NAMED.search(criterion.text):
            return Leak.NAMES_A_RESPONSE
        for phrase in _distinctive(criterion.text, phrase_words):
            if phrase not in asked and any(phrase in response for response in said):
                return Leak.QUOTES_A_RESPONSE
    return None


def _distinctive(text: str, phrase_words: int) -> Iterator[str]:
    """What of a criterion would be a quotation if it stood in a response, each with a blank on both sides."""
    words = _words(text)
    for start in range(len(words) - phrase_words + 1):
        phrase = words[start : start + phrase_words]
        if not _EVERYDAY.issuperset(phrase):
            yield _joined(phrase)
    for word in words:
        if sum(c.isdigit() for c in word) > 1:
            yield _joined([word])
    for match in _QUOTED.finditer(text):
        quoted = _words(match[1] or match[2])
        if not _EVERYDAY.issuperset(quoted):
            yield _joined(quoted)


def _words(text: str) -> list[str]:
    return _WORD.findall(fold(text))


def _joined(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def _spaced(text: str) -> str:
    return _joined(_words(text))
