"""The styles of the English world: edits that add to an answer, and their exact detection.

A style has a place: openings stand before the answer, closings after it, and the layout sets its sentences as bullet
points. Each wording belongs to one style, and no answer contains one, so :func:`read` finds again what :func:`dress`
added, whatever the combination. The last wordings of a style are held out for the test split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

from ruamel.yaml import YAML

from rubric_arm_lite.data.testbed.english.texts import sentences_of, words_of

HELD_OUT = 2
"""Wordings per style that occur in the test split only."""
_QUOTED_WORDS = 3


@dataclass(frozen=True, slots=True)
class Style:
    """A property of a response that is independent of its content.

    Attributes:
        name: one word for it.
        criterion: the sentence that requires it.
        keywords: a pattern, for lower-case text, of what names it in other words.
        wordings: what is added to an answer; of the layout the mark before each sentence.
    """

    name: str
    place: Literal["opening", "closing", "layout"]
    criterion: str
    keywords: str
    wordings: tuple[str, ...]

    def wording(self, rng: random.Random, held_out: bool = False) -> str:
        """A wording for training, or one of those that are held out."""
        return rng.choice(self.wordings[-HELD_OUT:] if held_out else self.wordings[:-HELD_OUT])


def _load() -> tuple[Style, ...]:
    rows = YAML(typ="safe").load(resources.files(__package__).joinpath("styles.yaml").read_text("utf-8"))
    return tuple(
        Style(name, row["place"], row["criterion"], rf"\b(?:{'|'.join(row['keywords'])})\b", tuple(row["wordings"]))
        for name, row in rows.items()
    )


_ALL = _load()
STYLES = {style.name: style for style in _ALL}
_OPENINGS = {wording: s.name for s in _ALL if s.place == "opening" for wording in s.wordings}
_CLOSINGS = {wording: s.name for s in _ALL if s.place == "closing" for wording in s.wordings}
WORDS = frozenset(word.lower() for s in _ALL for wording in s.wordings for word in words_of(wording))
"""Words of all wordings, in lower case."""

_NEGATION = re.compile(
    r"\b(not|no|never|without|nothing|neither|nor|avoids?|lacks?|omits?|refrains?|skips?|free of|instead of|"
    r"rather than|less|fewer|cannot|\w+n't)\b"
)


# --- adding styles and reading them back ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """A response taken apart: the styles with what shows them, and the answer without them."""

    styles: Mapping[str, str]
    answer: str


def dress(answer: str, wordings: Mapping[str, str], rng: random.Random) -> str:
    """An answer with styles: a wording by the style's name. A greeting comes first, others of a place in any order."""
    openings = [name for name in wordings if STYLES[name].place == "opening"]
    closings = [name for name in wordings if STYLES[name].place == "closing"]
    rng.shuffle(openings)
    rng.shuffle(closings)
    openings.sort(key=lambda name: name != "greeting")
    before, after = (" ".join(wordings[name] for name in names) for names in (openings, closings))
    if "bullets" in wordings:
        answer = "\n".join(f"{wordings['bullets']} {sentence}" for sentence in sentences_of(answer))
    return ("\n" if "bullets" in wordings else " ").join(filter(None, (before, answer, after)))


@lru_cache(1 << 14)
def read(response: str) -> Reading:
    """The styles of a response: the openings it begins with, the closings it ends with, and the layout between them."""
    rest = response.strip()
    styles: dict[str, str] = {}
    while found := next((w for w in _OPENINGS if rest == w or rest.startswith((f"{w} ", f"{w}\n"))), None):
        styles.setdefault(_OPENINGS[found], found)
        rest = rest[len(found) :].strip()
    while found := next((w for w in _CLOSINGS if rest == w or rest.endswith((f" {w}", f"\n{w}"))), None):
        styles.setdefault(_CLOSINGS[found], found)
        rest = rest[: -len(found)].strip()
    lines = [line.strip() for line in rest.split("\n") if line.strip()]
    mark = next((m for m in STYLES["bullets"].wordings if lines and all(li.startswith(f"{m} ") for li in lines)), None)
    if mark is not None:
        sentences = [line.removeprefix(mark).strip() for line in lines]
        styles["bullets"] = f"{mark} {' '.join(sentences[0].split()[:_QUOTED_WORDS])}"
        rest = " ".join(sentences)
    return Reading(styles, rest)


# --- criteria in words ------------------------------------------------------------------------------------------------


@lru_cache(1 << 12)
def style_of(criterion: str) -> str | None:
    """The one style that a criterion's sentence requires, in its own words or others.

    None if it names none or several, or in a negation: an unclear criterion counts for nothing.
    """
    text = criterion.lower().replace("’", "'")
    named = {name: re.search(style.keywords, text) for name, style in STYLES.items()}
    found = [(name, match) for name, match in named.items() if match is not None]
    if len(found) != 1:
        return None
    name, match = found[0]
    return None if _NEGATION.search(text[: match.start()] + text[match.end() :]) else name
