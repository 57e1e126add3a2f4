"""Warm-up data from preference pairs, for those who have none: a teacher writes rubrics and judgements.

A rubric is written by contrast: the teacher sees the request, both responses and which one was preferred, and states
what must have counted. The judgement under that rubric is then asked without the label, in both orders. A pair is
kept only if both verdicts agree with the label and all three texts pass the parsers that training uses; else it is
tried again with other draws. The paper's warm-up data is synthetic too (sec. 4.1); how it was made is not stated.

Nothing is stored here: behind a :class:`~rubric_arm_lite.models.journaled.JournaledSampler` the same call goes on
where a killed one stopped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from rubric_arm_lite.data import prompt_as_json
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models import ChatSampler, Sampling
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric, prompt_text
from rubric_arm_lite.prompts.builder import ContrastPrompts
from rubric_arm_lite.prompts.parsing import fold
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import Judge, Verdict
from rubric_arm_lite.types import Example, ParseStatus, PreferencePair, Rubric, Side

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


WAVE = 256
"""Pairs that go through the three steps together, so that a server is kept busy and progress is seen."""


class Outcome(str, Enum):
    """How one attempt at a pair ended."""

    KEPT = "kept"
    TOO_LONG = "too long"
    RUBRIC_UNPARSED = "rubric unparsed"
    NAMES_A_RESPONSE = Leak.NAMES_A_RESPONSE.value
    QUOTES_A_RESPONSE = Leak.QUOTES_A_RESPONSE.value
    JUDGEMENT_UNPARSED = "judgement unparsed"
    WRONG_IN_ONE_ORDER = "wrong in one order"
    WRONG_IN_BOTH = "wrong in both orders"


@dataclass(frozen=True, slots=True)
class SynthesisSettings:
    """How the teacher is asked; lengths in tokens.

    Attributes:
        attempts: draws per pair until one is kept.
        max_context: what the teacher can take; None asks it about every pair.
        phrase_words: words in a row that count as a quotation of a response.
    """

    attempts: int = 3
    temperature: float = 0.7
    rubric_max_tokens: int = 1024
    judge_max_tokens: int = 2048
    max_context: int | None = None
    phrase_words: int = PHRASE_WORDS
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"attempts": 1, "rubric_max_tokens": 1, "judge_max_tokens": 1, "phrase_words": 2}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ConfigError(f"{name}: {getattr(self, name)} is too few. Use at least {limit}.")
        if not 0 < self.temperature <= 2:
            raise ConfigError(
                f"temperature: {self.temperature:g} is not in (0, 2]. At 0 every attempt would write the same; use "
                "0.7, for example."
            )


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What was kept of a pair: its rubric and the right judgements, by the side on which the preferred one stands."""

    pair: PreferencePair
    rubric: Rubric
    judgements: Mapping[Side, str]


@dataclass(frozen=True, slots=True)
class Synthesis:
    """All that was kept, in the order of the pairs, and how the rest was lost.

    Attributes:
        attempts: ends of all attempts.
        lost: pairs that were not kept, by the end of their last attempt.
    """

    kept: list[Trajectory] = field(default_factory=list)
    attempts: Counter[Outcome] = field(default_factory=Counter)
    lost: Counter[Outcome] = field(default_factory=Counter)


class Synthesizer:
    """Asks one teacher, with no adapter active, for trajectories of preference pairs."""

    def __init__(self, teacher: ChatSampler, settings: SynthesisSettings) -> None:
        control = teacher.control_tokens()
        self._teacher = teacher
        self._settings = settings
        self._contrast = ContrastPrompts(control)
        self._prompts = PromptBuilder(Templates.load(), control)
        self._judge = Judge(
            teacher, self._prompts, settings.judge_max_tokens, temperature=settings.temperature, adapter=None
        )

    def run(
        self, pairs: Sequence[PreferencePair], progress: Callable[[int, int], None] = lambda done, kept: None
    ) -> Synthesis:
        """Trajectories of ``pairs``; ``progress`` hears how many are done and kept."""
        found = Synthesis()
        for start in range(0, len(pairs), WAVE):
            self._wave(pairs[start : start + WAVE], found)
            progress(min(start + WAVE, len(pairs)), len(found.kept))
        return found

    def _wave(self, pairs: Sequence[PreferencePair], found: Synthesis) -> None:
        last: dict[str, Outcome] = {p.pair_id: Outcome.TOO_LONG for p in pairs if not self._can_be_asked(p)}
        found.attempts[Outcome.TOO_LONG] += len(last)
        kept: dict[str, Trajectory] = {}
        left = [pair for pair in pairs if pair.pair_id not in last]
        for attempt in range(self._settings.attempts):
            ends = self._attempt(left, attempt) if left else []
            for pair, end in zip(left, ends, strict=True):
                if isinstance(end, Trajectory):
                    kept[pair.pair_id] = end
                    found.attempts[Outcome.KEPT] += 1
                else:
                    last[pair.pair_id] = end
                    found.attempts[end] += 1
            left = [pair for pair in left if pair.pair_id not in kept]
        found.kept.extend(kept[pair.pair_id] for pair in pairs if pair.pair_id in kept)
        found.lost.update(last[pair.pair_id] for pair in pairs if pair.pair_id not in kept)

    def _can_be_asked(self, pair: PreferencePair) -> bool:
        """Whether the teacher's context holds this pair and a rubric."""
        settings = self._settings
        if settings.max_context is None:
            return True
        text = self._contrast.contrast_prompt(pair.prompt, pair.chosen, pair.rejected)
        return self._teacher.prompt_tokens(text) + settings.rubric_max_tokens <= settings.max_context

    def _attempt(self, pairs: Sequence[PreferencePair], attempt: int) -> list[Trajectory | Outcome]:
        """One rubric and two judgements for each pair."""
        rubrics = self._rubrics(pairs, attempt)
        faults = [self._fault(pair, rubric) for pair, rubric in zip(pairs, rubrics, strict=True)]
        sound = [(p, r) for p, r, fault in zip(pairs, rubrics, faults, strict=True) if fault is None]
        judge = replace(self._judge, seed=derive_seed(self._settings.seed, "judgement", attempt))
        verdicts = iter(judge.judge([pair.present("A").comparison for pair, _ in sound], [r for _, r in sound]))
        return [
            _outcome(pair, next(verdicts)) if fault is None else fault
            for pair, fault in zip(pairs, faults, strict=True)
        ]

    def _rubrics(self, pairs: Sequence[PreferencePair], attempt: int) -> list[Rubric]:
        settings = self._settings
        examples = [
            Example(
                pair.pair_id,
                self._contrast.contrast_prompt(pair.prompt, pair.chosen, pair.rejected),
                derive_seed(settings.seed, "rubric", pair.pair_id, attempt),
            )
            for pair in pairs
        ]
        groups = self._teacher.sample(None, examples, Sampling(settings.rubric_max_tokens, 1, settings.temperature))
        return [parse_rubric(group.samples[0].text, group.samples[0].finish_reason) for group in groups]

    def _fault(self, pair: PreferencePair, rubric: Rubric) -> Outcome | None:
        """Why a rubric cannot be judged by."""
        if rubric.status is ParseStatus.TRUNCATED:
            return Outcome.TOO_LONG
        if not rubric.usable:
            return Outcome.RUBRIC_UNPARSED
        leak = leak_of(rubric, prompt_text(pair.prompt), (pair.chosen, pair.rejected), self._settings.phrase_words)
        if leak is not None:
            return Outcome(leak.value)
        room = self._settings.max_context
        if room is not None:
            text = self._prompts.judge_prompt(pair.prompt, rubric, pair.chosen, pair.rejected)
            if self._teacher.prompt_tokens(text) + self._settings.judge_max_tokens > room:
                return Outcome.TOO_LONG
        return None


def _outcome(pair: PreferencePair, verdict: Verdict) -> Trajectory | Outcome:
    """The trajectory of a pair whose chosen response is A in both judgements' comparison, or why it is not kept."""
    judgements = (*verdict.original, *verdict.swapped)
    statuses = {judgement.status for judgement in judgements}
    if ParseStatus.TRUNCATED in statuses:
        return Outcome.TOO_LONG
    if ParseStatus.MALFORMED in statuses:
        return Outcome.JUDGEMENT_UNPARSED
    wrong = len(judgements) - verdict.winners.count("A")
    if wrong:
        return Outcome.WRONG_IN_BOTH if wrong == len(judgements) else Outcome.WRONG_IN_ONE_ORDER
    texts: dict[Side, str] = {"A": verdict.original[0].text.strip(), "B": verdict.swapped[0].text.strip()}
    return Trajectory(pair, verdict.rubric, texts)


def warmup_rows(kept: Sequence[Trajectory], seed: int) -> Iterator[dict[str, Any]]:
    """Rows as :func:`~rubric_arm_lite.data.pairs.load_trajectories` reads them, in the order given.

    In half of them, drawn by ``seed``, the preferred response stands first (with an odd number, in one fewer than in
    the other half), so that the warm-up teaches no position.
    """
    drawn = sorted((t.pair.pair_id for t in kept), key=lambda pair_id: derive_seed(seed, "side", pair_id))
    first = set(drawn[: len(drawn) // 2])
    for found in kept:
        side: Side = "A" if found.pair.pair_id in first else "B"
        comparison = found.pair.present(side).comparison
        yield {
            "prompt": prompt_as_json(found.pair.prompt),
            "rubric": found.rubric.render(),
            "response_a": comparison.response_a,
            "response_b": comparison.response_b,
            "judgement": found.judgements[side],
        }


def table(found: Synthesis) -> Iterable[tuple[str, int, int]]:
    """(how it ended, attempts, pairs) for every end, the good one first."""
    for outcome in Outcome:
        pairs = len(found.kept) if outcome is Outcome.KEPT else found.lost[outcome]
        yield outcome.value, found.attempts[outcome], pairs
