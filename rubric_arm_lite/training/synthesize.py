"""Synthesis of warm-up data from preference pairs: a teacher model writes rubrics and judgements.

The teacher sees the prompt, both responses and the label, and writes the rubric that explains the preference. It then
judges under that rubric without the label, in both orders. A pair is kept only if both verdicts agree with the label
and all three texts parse; otherwise it is tried again with other draws. The paper's warm-up data is synthetic too
(sec. 4.1); it does not state how it was made.

Nothing is stored here: with a :class:`~rubric_arm_lite.models.journaled.JournaledSampler` a killed call resumes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from itertools import chain
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
"""This many words in a row that are in a response but not in the prompt are a quotation."""

WAVE = 256
"""Pairs that go through the three steps together, which keeps a server busy and lets progress be reported."""
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


class Outcome(str, Enum):
    """Outcome of one attempt at a pair; a rubric that names or quotes a response gives the label away."""

    KEPT = "kept"
    TOO_LONG = "too long"
    RUBRIC_UNPARSED = "rubric unparsed"
    NAMES_A_RESPONSE = "names a response"
    QUOTES_A_RESPONSE = "quotes a response"
    JUDGEMENT_UNPARSED = "judgement unparsed"
    WRONG_IN_ONE_ORDER = "wrong in one order"
    WRONG_IN_BOTH = "wrong in both orders"


def find_disclosure(
    rubric: Rubric, prompt: str, responses: Iterable[str], phrase_words: int = PHRASE_WORDS
) -> Outcome | None:
    """How a parsed rubric gives away the responses that it was generated from, or None.

    A quotation is any of these, if in a response but not in the prompt: ``phrase_words`` words in a row that are
    not all everyday words, a number of two digits or more, or anything in quotation marks.
    """
    asked, *answered = map(_words, (prompt, *responses))

    @cache
    def only_answered(length: int) -> set[tuple[str, ...]]:
        """Runs of so many words of a response that the prompt does not have: as sets, found in time linear in both."""
        return set().union(*(_runs(words, length) for words in answered)) - set(_runs(asked, length))

    for criterion in rubric.criteria:
        if _NAMED.search(criterion.text):
            return Outcome.NAMES_A_RESPONSE
        words = _words(criterion.text)
        numbers = ((word,) for word in words if sum(c.isdigit() for c in word) > 1)
        quoted = (tuple(_words(match[1] or match[2])) for match in _QUOTED.finditer(criterion.text))
        phrases = (p for p in chain(_runs(words, phrase_words), numbers, quoted) if not _EVERYDAY.issuperset(p))
        if any(phrase in only_answered(len(phrase)) for phrase in phrases):
            return Outcome.QUOTES_A_RESPONSE
    return None


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def _words(text: str) -> list[str]:
    return _WORD.findall(fold(text))


@dataclass(frozen=True, slots=True)
class SynthesisSettings:
    """Sampling of the teacher; lengths in tokens.

    Attributes:
        attempts: most draws per pair until one is kept.
        max_context: context of the teacher; None for no limit.
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
    """A kept pair: its rubric and its two correct judgements, by the side of the preferred response."""

    pair: PreferencePair
    rubric: Rubric
    judgements: Mapping[Side, str]


@dataclass(frozen=True, slots=True)
class Synthesis:
    """Result of a synthesis: the kept trajectories in the order of the pairs, and counts of the others.

    Attributes:
        attempts: number of attempts by outcome.
        lost: number of pairs that were not kept, by the outcome of their last attempt.
    """

    kept: list[Trajectory] = field(default_factory=list)
    attempts: Counter[Outcome] = field(default_factory=Counter)
    lost: Counter[Outcome] = field(default_factory=Counter)


class Synthesizer:
    """Samples trajectories of preference pairs from one teacher, without adapters."""

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
        """Trajectories of ``pairs``; ``progress`` is called with the numbers of pairs done and kept."""
        synthesis = Synthesis()
        for start in range(0, len(pairs), WAVE):
            results = self._wave(pairs[start : start + WAVE], synthesis.attempts)
            synthesis.kept.extend(result for result in results if isinstance(result, Trajectory))
            synthesis.lost.update(result for result in results if isinstance(result, Outcome))
            progress(min(start + WAVE, len(pairs)), len(synthesis.kept))
        return synthesis

    def _wave(self, pairs: Sequence[PreferencePair], counts: Counter[Outcome]) -> list[Trajectory | Outcome]:
        """The result of the last attempt at each pair; ``counts`` receives those of all attempts."""
        tokens, write = self._settings.rubric_max_tokens, self._contrast.contrast_prompt
        left = [pair for pair in pairs if self._has_room(write(pair.prompt, pair.chosen, pair.rejected), tokens)]
        counts[Outcome.TOO_LONG] += len(pairs) - len(left)
        results: dict[str, Trajectory | Outcome] = {pair.pair_id: Outcome.TOO_LONG for pair in pairs}
        for attempt in range(self._settings.attempts):
            if not left:
                break
            for pair, result in zip(left, self._attempt(left, attempt), strict=True):
                results[pair.pair_id] = result
                counts[result if isinstance(result, Outcome) else Outcome.KEPT] += 1
            left = [pair for pair in left if isinstance(results[pair.pair_id], Outcome)]
        return list(results.values())

    def _has_room(self, text: str, max_tokens: int) -> bool:
        """Whether a user turn and its answer fit the teacher's context."""
        room = self._settings.max_context
        return room is None or self._teacher.prompt_tokens(text) + max_tokens <= room

    def _attempt(self, pairs: Sequence[PreferencePair], attempt: int) -> list[Trajectory | Outcome]:
        """One rubric and two judgements for each pair."""
        s, write = self._settings, self._contrast.contrast_prompt
        prompts = [write(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
        examples = [
            Example(pair.pair_id, prompt, derive_seed(s.seed, "rubric", pair.pair_id, attempt))
            for pair, prompt in zip(pairs, prompts, strict=True)
        ]
        groups = self._teacher.sample(None, examples, Sampling(s.rubric_max_tokens, 1, s.temperature))
        rubrics = [parse_rubric(group.samples[0].text, group.samples[0].finish_reason) for group in groups]
        faults = [self._fault(pair, rubric) for pair, rubric in zip(pairs, rubrics, strict=True)]
        usable = [(p, r) for p, r, fault in zip(pairs, rubrics, faults, strict=True) if fault is None]
        judge = replace(self._judge, seed=derive_seed(s.seed, "judgement", attempt))
        verdicts = iter(judge.judge([p.present("A").comparison for p, _ in usable], [r for _, r in usable]))
        return [fault or _outcome(pair, next(verdicts)) for pair, fault in zip(pairs, faults, strict=True)]

    def _fault(self, pair: PreferencePair, rubric: Rubric) -> Outcome | None:
        """Why a rubric cannot be used; None if it can."""
        if rubric.status is ParseStatus.TRUNCATED:
            return Outcome.TOO_LONG
        if not rubric.usable:
            return Outcome.RUBRIC_UNPARSED
        settings, responses = self._settings, (pair.chosen, pair.rejected)
        disclosure = find_disclosure(rubric, prompt_text(pair.prompt), responses, settings.phrase_words)
        if disclosure is not None:
            return disclosure
        text = self._prompts.judge_prompt(pair.prompt, rubric, *responses)
        return None if self._has_room(text, settings.judge_max_tokens) else Outcome.TOO_LONG


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
    """Warm-up rows as :func:`~rubric_arm_lite.data.pairs.trajectory_of_row` reads them.

    The preferred response comes first in a random half of them, drawn by ``seed`` (rounded down), so that the warm-up
    teaches no position.
    """
    drawn = sorted((t.pair.pair_id for t in kept), key=lambda pair_id: derive_seed(seed, "side", pair_id))
    first = set(drawn[: len(drawn) // 2])
    for trajectory in kept:
        side: Side = "A" if trajectory.pair.pair_id in first else "B"
        comparison = trajectory.pair.present(side).comparison
        yield {
            "prompt": prompt_as_json(comparison.prompt),
            "rubric": trajectory.rubric.render(),
            "response_a": comparison.response_a,
            "response_b": comparison.response_b,
            "judgement": trajectory.judgements[side],
        }
