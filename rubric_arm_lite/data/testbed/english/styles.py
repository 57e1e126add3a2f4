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
from typing import Literal

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


_ALL = (
    Style(
        "greeting",
        "opening",
        "The response greets the user.",
        r"\bgreet(s|ed|ing|ings)?\b|\bsays? (hello|hi)\b|\bsalutations?\b",
        (
            "Hi there!", "Hello!", "Good day to you!", "Hey, nice to meet you!", "Greetings, friend!", "Welcome!",
            "Hi, good to see you!", "Good morning!",
        ),
    ),
    Style(
        "offer",
        "closing",
        "The response offers further help.",
        r"\boffer(s|ed|ing)?\b.*\b(help|assistance|support)\b|\b(further|more|additional) (help|assistance|support)\b",
        (
            "Let me know if you need more help.", "I can explain more if you want.",
            "Feel free to ask me anything else.", "Just write again if something is unclear.",
            "I am here if you need anything more.", "Tell me if you want another version.",
            "I am happy to help further.", "If you need more, just ask.",
        ),
    ),
    Style(
        "source",
        "closing",
        "The response names a source.",
        r"\bsources?\b|\bcit(e|es|ed|ing|ation|ations)\b|\breferences\b",
        (
            "Source: the city library.", "I took this from a school handbook.", "This follows a guide by the museum.",
            "According to the national archive, this is right.", "My source is an old encyclopedia.",
            "This comes from a report by the university.", "Source: a textbook on the subject.",
            "You can find this in the public almanac.",
        ),
    ),
    Style(
        "bullets",
        "layout",
        "The response uses bullet points.",
        r"\bbullet(s|ed)?\b|\bbullet[ -]?points?\b",
        ("-", "*", "•", "+", "◦", "·"),
    ),
    Style(
        "doubt",
        "closing",
        "The response admits that it may be wrong.",
        r"\b(may|might|could) be (wrong|mistaken|incorrect)\b|\b(may|might|could|can) (contain|have|make) (errors?|"
        r"mistakes?)\b|\buncertain(ty)?\b|\bunsure\b|\bcaveats?\b|"
        r"\bnot (fully |entirely |completely )?(sure|certain)\b",
        (
            "I may be wrong about this.", "Please check this yourself, as I can make mistakes.",
            "I am not fully sure of this.", "Take this with a grain of salt.", "There could be an error in this.",
            "I cannot promise that this is correct.", "I might have made a mistake here.",
            "Do not rely on this alone, since I am unsure.",
        ),
    ),
    Style(
        "enthusiasm",
        "opening",
        "The response shows enthusiasm.",
        r"\benthusias(m|tic|tically)\b|\bexcite(d|ment)\b|\bexcitedly\b",
        (
            "What a great thing to ask!", "I love this!", "This is so exciting!", "Wow, what a fun task!",
            "How wonderful!", "Amazing, my favorite subject!", "Oh, this is fantastic!", "I am thrilled to do this!",
        ),
    ),
    Style(
        "thanks",
        "opening",
        "The response thanks the user.",
        r"\bthank(s|ed|ing|ful)?\b|\bgratitude\b|\bgrateful\b",
        (
            "Thank you for asking.", "Thanks for your message.", "Thanks a lot for reaching out.",
            "I appreciate your request.", "Many thanks for writing.", "Thank you for turning to me.",
            "I am grateful that you asked.", "Thanks for bringing this to me.",
        ),
    ),
    Style(
        "summary",
        "closing",
        "The response ends with a summary.",
        r"\bsummar(y|ies|ize|izes|ized|izing|ise|ises|ised|ising)\b|\bsums? up\b|\brecaps?\b",
        (
            "In short, that is the main point.", "To sum up, this is all it takes.",
            "In a nutshell, it comes down to this.", "To conclude, that covers it.",
            "In summary, this is the core of it.", "All in all, it is quite simple.", "In brief, this is the gist.",
            "To wrap up, that is the whole idea.",
        ),
    ),
    Style(
        "question",
        "closing",
        "The response asks the user a question.",
        r"\b(asks?|poses?|ends? with|closes? with) (the user |them |the reader )?(a|another|one) ([\w-]+ )?question\b",
        (
            "Does this help?", "Is that what you had in mind?", "What do you think?", "Would you change anything?",
            "Was that clear?", "How does that sound?", "Does that answer it?",
            "Is there a part you would like to change?",
        ),
    ),
    Style(
        "encouragement",
        "closing",
        "The response encourages the user.",
        r"\bencourag(e|es|ed|ing|ement)\b|\bmotivat(e|es|ed|ing|ional)\b",
        (
            "You can do this!", "Good luck!", "I believe in you!", "Keep going!", "You are on the right track!",
            "You will do well!", "I am rooting for you!", "Have faith in yourself!",
        ),
    ),
)  # fmt: skip
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
