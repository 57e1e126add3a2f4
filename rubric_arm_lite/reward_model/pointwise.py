"""Score single responses under a rubric: the probabilities of true and false on every criterion (RUBRIC-ARROW).

Prompts, responses and perhaps rubrics go in; a `PointwiseScore` each comes out. The
judge answers either at once, each criterion by itself in one pass over the prompt, or after writing a text with a
justification per criterion, in which the probabilities are read where it wrote its answers. Departures from the paper
stand in :func:`~rubric_arm_lite.prompts.pointwise.parse_checks`: our form is lines, theirs is an object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models import ChatSampler, NextWords, Sampler, Sampling, WordReader
from rubric_arm_lite.prompts import Checks, PromptBuilder, parse_checks
from rubric_arm_lite.prompts.pointwise import OUR_WORDS, answer_prefix
from rubric_arm_lite.recipe import PointwiseWords, Recipe, derive_seed
from rubric_arm_lite.reward_model.judge import CASES_AT_ONCE, Comparer, Progress, TooLong
from rubric_arm_lite.types import Criterion, CriterionKind, Example, ParseStatus, Prompt, Rubric

WEIGHTS = {CriterionKind.HARD_RULE: 3.0, CriterionKind.PRINCIPLE: 1.0}


@dataclass(frozen=True, slots=True)
class Answer:
    """Probabilities that the judge would answer a criterion with true and with false; they need not add up to 1."""

    criterion: Criterion
    p_true: float
    p_false: float
    justification: str = ""

    def __post_init__(self) -> None:
        if not (self.p_true >= 0 and self.p_false >= 0 and self.p_true + self.p_false <= 1 + 1e-3):
            raise ValueError(f"p_true {self.p_true}, p_false {self.p_false}: no probabilities of two words.")


@dataclass(frozen=True, slots=True)
class PointwiseScore:
    """How far a response meets a rubric.

    Attributes:
        value: in [−1, 1]; None if the rubric or the judge's text could not be read.
        answers: one per criterion, in order; empty without a value.
        rubric: the criteria that were used.
        text: what the judge wrote; empty where only the probabilities were asked for.
        status: of the judge's text.
    """

    value: float | None
    answers: tuple[Answer, ...]
    rubric: Rubric
    text: str
    status: ParseStatus


def weighted_score(answers: Sequence[Answer]) -> float:
    """Σ w (p_true − p_false) / Σ w, with w = 3 for a hard rule and 1 for a principle; in [−1, 1].

    Raises:
        ValueError: without any answer.
    """
    if not answers:
        raise ValueError("A score needs at least one criterion.")
    weights = [WEIGHTS[answer.criterion.kind] for answer in answers]
    terms = [w * (answer.p_true - answer.p_false) for w, answer in zip(weights, answers, strict=True)]
    return math.fsum(terms) / math.fsum(weights)


def score_of_words(score: PointwiseScore) -> float | None:
    """The score that the likelier words alone give, as if each had probability 1; None without a value."""
    if score.value is None:
        return None
    return weighted_score(
        [Answer(a.criterion, float(a.p_true > a.p_false), float(a.p_true <= a.p_false)) for a in score.answers]
    )


def mean_score(scores: Sequence[PointwiseScore]) -> float | None:
    """The mean of the scores that could be read, if any."""
    values = [score.value for score in scores if score.value is not None]
    return math.fsum(values) / len(values) if values else None


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the judge was asked, and what it wrote; without ``checks`` it is to answer every criterion at once."""

    prompt: str
    rubric: Rubric
    checks: Checks | None = None

    def prefixes(self, words: PointwiseWords) -> list[str]:
        """What stands before each answer; nothing if the text cannot be read."""
        if self.checks is not None:
            return self.checks.prefixes()
        return [answer_prefix(number, c, words) for number, c in enumerate(self.rubric.criteria, start=1)]


class ScoreDesk:
    """Asks the judge about many responses at once; equal prompts are asked, and equal texts read, once."""

    def __init__(self, sampler: Sampler, prompts: PromptBuilder, words: PointwiseWords = OUR_WORDS) -> None:
        self.sampler = sampler
        self.prompts = prompts
        self.words = words

    def score(
        self,
        cases: Sequence[tuple[Prompt, str, Rubric]],
        sampling: Sampling,
        seed: int,
        adapter: str | None = "judge",
    ) -> list[list[PointwiseScore]]:
        """``sampling.num_generations`` written judgements per (prompt, response, rubric), scored, in order."""
        texts = [self.prompts.pointwise_prompt(prompt, rubric, response) for prompt, response, rubric in cases]
        sheets = self.write(dict(zip(texts, (rubric for _, _, rubric in cases), strict=True)), sampling, seed, adapter)
        scores = iter(self.read([sheet for own in sheets.values() for sheet in own], adapter))
        found = {text: [next(scores) for _ in own] for text, own in sheets.items()}
        return [found[text] for text in texts]

    def write(
        self, asked: dict[str, Rubric], sampling: Sampling, seed: int, adapter: str | None = "judge"
    ) -> dict[str, list[Sheet]]:
        """Let the judge write its judgements for user turns, each with the rubric that it shows."""
        examples = [Example(f"response {i}", t, derive_seed(seed, t)) for i, t in enumerate(asked, start=1)]
        groups = self.sampler.sample(adapter, examples, sampling) if examples else []
        return {
            text: [Sheet(text, rubric, parse_checks(w.text, rubric, w.finish_reason, self.words)) for w in g.samples]
            for (text, rubric), g in zip(asked.items(), groups, strict=True)
        }

    def reader(self) -> WordReader:
        """The sampler, if it gives probabilities of words.

        Raises:
            BackendError: if it does not.
        """
        if not isinstance(self.sampler, WordReader):
            raise BackendError(
                "This backend does not give the probabilities of words, which a pointwise score is made of. Load the "
                "adapters or checkpoints on this machine, or compare responses in pairs."
            )
        return self.sampler

    def read(self, sheets: Sequence[Sheet], adapter: str | None = "judge") -> list[PointwiseScore]:
        """The scores of judgements, by the probabilities that ``adapter`` gives to its answers.

        Raises:
            BackendError: if the backend does not give probabilities of words, or the tokenizer has none for them.
        """
        reader = self.reader()
        distinct = list(dict.fromkeys(sheets))
        questions = [NextWords(s.prompt, p, self.words.options) for s in distinct for p in s.prefixes(self.words)]
        read = iter(reader.next_word_logprobs(adapter, questions) if questions else [])
        scores = {sheet: _scored(sheet, read) for sheet in distinct}
        return [scores[sheet] for sheet in sheets]


def unscored(rubric: Rubric, text: str, status: ParseStatus) -> PointwiseScore:
    """What there is to say of a response without a readable judgement."""
    return PointwiseScore(None, (), rubric, text, status)


def _scored(sheet: Sheet, read: Iterator[tuple[float, ...]]) -> PointwiseScore:
    rubric, written = sheet.rubric, sheet.checks
    if written is not None and written.status is not ParseStatus.OK:
        return unscored(rubric, written.text, written.status)
    said = [""] * len(rubric.criteria) if written is None else [check.justification for check in written.checks]
    answers = []
    for criterion, justification in zip(rubric.criteria, said, strict=True):
        true, false = map(math.exp, next(read))
        answers.append(Answer(criterion, true, false, justification))
    text = "" if written is None else written.text
    return PointwiseScore(weighted_score(answers), tuple(answers), rubric, text, ParseStatus.OK)


ScoreCase = tuple[Prompt, str, Rubric | str | None]
"""A prompt, a response, and criteria to use in place of the generator's, if any."""

LINE_TOKENS = 64
"""A criterion's line without a justification has at most so many, whatever the tokenizer: it has fewer bytes."""
_Asked = tuple[str | None, Rubric]
"""The judge's user turn, None if it is not asked, and the rubric in it."""


class Scorer:
    """Asks the judge about one response at a time."""

    def __init__(self, model: ChatSampler, recipe: Recipe, prompts: PromptBuilder, comparer: Comparer) -> None:
        self._recipe = recipe
        self._prompts = prompts
        self._comparer = comparer
        self._desk = ScoreDesk(model, prompts, recipe.prompts.pointwise_words)

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
        self._desk.reader()  # before anything is asked
        rubrics = self._comparer.rubrics_for([(prompt, rubric) for prompt, _, rubric in cases], names, too_long)
        sampling = Sampling(self._recipe.evaluation.judge_max_tokens if justify else LINE_TOKENS, 1, 0.0)
        asked: list[_Asked] = []
        for (prompt, response, _), rubric, name in zip(cases, rubrics, names, strict=True):
            text = self._prompts.pointwise_prompt(prompt, rubric, response) if rubric.usable else None
            fits = text is not None and self._comparer.fits(name, text, sampling, too_long)
            asked.append((text if fits else None, rubric))
        found: list[PointwiseScore] = []
        for start in range(0, len(asked), CASES_AT_ONCE):
            found += self._score(asked[start : start + CASES_AT_ONCE], sampling, justify)
            if progress is not None:
                progress(len(found), len(asked))
        return found

    def _score(self, cases: Sequence[_Asked], sampling: Sampling, justify: bool) -> list[PointwiseScore]:
        asked = {text: rubric for text, rubric in cases if text is not None}
        if justify:
            written = self._desk.write(asked, sampling, derive_seed(self._recipe.seed, "score"))
            sheets = [sheet for own in written.values() for sheet in own]
        else:
            sheets = [Sheet(text, rubric) for text, rubric in asked.items()]
        scores = dict(zip(asked, self._desk.read(sheets), strict=True))
        return [
            unscored(rubric, "", rubric.status if not rubric.usable else ParseStatus.TRUNCATED)
            if text is None
            else scores[text]
            for text, rubric in cases
        ]
