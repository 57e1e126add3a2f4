"""Score single responses under a rubric: the probabilities of true and false on every criterion (RUBRIC-ARROW).

Prompts, responses and perhaps rubrics go in; a :class:`~rubric_arm_lite.pointwise.PointwiseScore` each comes out. The
judge answers either at once, each criterion by itself in one pass over the prompt, or after writing a text with a
justification per criterion, in which the probabilities are read where it wrote its answers. Departures from the paper
stand in :func:`~rubric_arm_lite.pointwise.parse_checks`: our form is lines, theirs is an object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rubric_arm_lite.backends.base import ChatSampler, NextWords, Sampling, WordReader
from rubric_arm_lite.comparing import CASES_AT_ONCE, Comparer, Progress, TooLong
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.pointwise import (
    OPTIONS,
    Answer,
    Checks,
    PointwiseScore,
    answer_prefix,
    parse_checks,
    weighted_score,
)
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Example, ParseStatus, Prompt, Rubric

ScoreCase = tuple[Prompt, str, Rubric | str | None]
"""A prompt, a response, and criteria to use in place of the generator's, if any."""

LINE_TOKENS = 64
"""A criterion's line without a justification has at most so many, whatever the tokenizer: it has fewer bytes."""
_Asked = tuple[str | None, Rubric]
"""The judge's user turn, None if it is not asked, and the rubric in it."""


class Scorer:
    """Asks the judge about one response at a time."""

    def __init__(self, model: ChatSampler, recipe: Recipe, prompts: PromptBuilder, comparer: Comparer) -> None:
        self._model = model
        self._recipe = recipe
        self._prompts = prompts
        self._comparer = comparer

    def score(
        self,
        cases: Sequence[ScoreCase],
        names: Sequence[str],
        justify: bool = False,
        too_long: TooLong = "raise",
        progress: Progress | None = None,
    ) -> list[PointwiseScore]:
        """One score per case, in order.

        Raises:
            BackendError: if the backend does not give probabilities of words, or the tokenizer has none for them.
            DataError: if a rubric given as text does not parse, or a text is longer than the context.
        """
        if not isinstance(self._model, WordReader):
            raise BackendError(
                "This backend does not give the probabilities of words, which a pointwise score is made of. Load the "
                "adapters or checkpoints on this machine, or compare responses in pairs."
            )
        rubrics = self._comparer.rubrics_for([(prompt, rubric) for prompt, _, rubric in cases], names, too_long)
        sampling = Sampling(self._recipe.evaluation.judge_max_tokens if justify else LINE_TOKENS, 1, 0.0)
        asked: list[_Asked] = []
        for (prompt, response, _), rubric, name in zip(cases, rubrics, names, strict=True):
            text = self._prompts.pointwise_prompt(prompt, rubric, response) if rubric.usable else None
            fits = text is not None and self._comparer.fits(name, text, sampling, too_long)
            asked.append((text if fits else None, rubric))
        found: list[PointwiseScore] = []
        for start in range(0, len(asked), CASES_AT_ONCE):
            found += self._score(self._model, asked[start : start + CASES_AT_ONCE], sampling, justify)
            if progress is not None:
                progress(len(found), len(asked))
        return found

    def _score(
        self, reader: WordReader, cases: Sequence[_Asked], sampling: Sampling, justify: bool
    ) -> list[PointwiseScore]:
        asked = {text: rubric for text, rubric in cases if text is not None}
        written = self._write(asked, sampling) if justify and asked else {}
        prefixes = {text: _prefixes(rubric, written.get(text)) for text, rubric in asked.items()}
        questions = [NextWords(text, prefix, OPTIONS) for text, own in prefixes.items() for prefix in own]
        read = iter(reader.next_word_logprobs("judge", questions) if questions else [])
        scores = {text: _scored(rubric, written.get(text), read) for text, rubric in asked.items()}
        return [
            _unscored(rubric, "", rubric.status if not rubric.usable else ParseStatus.TRUNCATED)
            if text is None
            else scores[text]
            for text, rubric in cases
        ]

    def _write(self, asked: dict[str, Rubric], sampling: Sampling) -> dict[str, Checks]:
        seed = derive_seed(self._recipe.seed, "score")
        examples = [Example(f"response {i}", text, derive_seed(seed, text)) for i, text in enumerate(asked, start=1)]
        groups = self._model.sample("judge", examples, sampling)
        return {
            text: parse_checks(group.samples[0].text, rubric, group.samples[0].finish_reason)
            for (text, rubric), group in zip(asked.items(), groups, strict=True)
        }


def _prefixes(rubric: Rubric, written: Checks | None) -> list[str]:
    if written is not None:
        return written.prefixes()
    return [answer_prefix(number, criterion) for number, criterion in enumerate(rubric.criteria, start=1)]


def _scored(rubric: Rubric, written: Checks | None, read: Iterator[tuple[float, ...]]) -> PointwiseScore:
    if written is not None and written.status is not ParseStatus.OK:
        return _unscored(rubric, written.text, written.status)
    said = [""] * len(rubric.criteria) if written is None else [check.justification for check in written.checks]
    answers = []
    for criterion, justification in zip(rubric.criteria, said, strict=True):
        true, false = map(math.exp, next(read))
        answers.append(Answer(criterion, true, false, justification))
    text = "" if written is None else written.text
    return PointwiseScore(weighted_score(answers), tuple(answers), rubric, text, ParseStatus.OK)


def _unscored(rubric: Rubric, text: str, status: ParseStatus) -> PointwiseScore:
    return PointwiseScore(None, (), rubric, text, status)
