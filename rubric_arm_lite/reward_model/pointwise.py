"""The pointwise judge: it checks one response at a time, criterion by criterion (RUBRIC-ARROW, arXiv 2605.29156).

It has the methods of :class:`~rubric_arm_lite.reward_model.judge.Judge`; its verdicts are made of scores. It answers
either at once, each criterion by itself in one pass over the prompt, or after a justification per criterion; a score is
made of the probabilities of its answers. Departure from the paper: our format is lines, theirs is an object (see
``prompts.pointwise.parse_pointwise``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models import NextWords, Sampler, Sampling, WordReader
from rubric_arm_lite.prompts import PointwiseJudgement, PromptBuilder, parse_pointwise
from rubric_arm_lite.prompts.pointwise import OUR_WORDS, answer_prefix
from rubric_arm_lite.recipe import PointwiseWords, derive_seed
from rubric_arm_lite.reward_model.verdict import Orders
from rubric_arm_lite.types import Comparison, Criterion, CriterionKind, Example, ParseStatus, Prompt, Rubric, Side

TIE = 1e-6
"""Largest difference of equal scores: the rounding of probabilities in float32."""
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
        text: the judge's text; empty if it answered every criterion at once.
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
    """The score of the likelier words alone, as if each had probability 1; None without a value."""
    if score.value is None:
        return None
    return weighted_score(
        [Answer(a.criterion, float(a.p_true > a.p_false), float(a.p_true <= a.p_false)) for a in score.answers]
    )


def mean_score(scores: Sequence[PointwiseScore]) -> float | None:
    """The mean of the readable scores; None without any."""
    values = [score.value for score in scores if score.value is not None]
    return math.fsum(values) / len(values) if values else None


def is_tie(margin: float | None) -> bool:
    """Whether two scores are equal but for rounding; a missing margin is no tie."""
    return margin is not None and abs(margin) <= TIE


def margin_accuracy(margin: float | None, unparsed: float) -> float:
    """Credit for a margin of the preferred response: 1, 0, ½ for a tie, ``unparsed`` without a score."""
    if margin is None:
        return unparsed
    return 0.5 if is_tie(margin) else float(margin > 0)


@dataclass(frozen=True, slots=True)
class PointwiseVerdict:
    """The scores of a comparison's two responses under one rubric, one per vote; none under an unusable rubric."""

    rubric: Rubric
    scores_a: tuple[PointwiseScore, ...] = ()
    scores_b: tuple[PointwiseScore, ...] = ()

    @property
    def margin(self) -> float | None:
        """Mean score of response A minus that of response B; None if either has no readable score."""
        a, b = mean_score(self.scores_a), mean_score(self.scores_b)
        return None if a is None or b is None else a - b

    @property
    def winner(self) -> Side | None:
        """The response with the higher score; None for a tie or without scores."""
        return None if self.margin is None or is_tie(self.margin) else "A" if self.margin > 0 else "B"

    def correct(self, label: Side, unparsed: float = 0.0) -> float:
        """1 if ``label`` scores higher, 0 if the other one does, ½ for a tie, ``unparsed`` without a score."""
        margin = self.margin
        return margin_accuracy(margin if label == "A" or margin is None else -margin, unparsed)


@dataclass(frozen=True, slots=True)
class JudgedText:
    """A user turn for the judge, its rubric, and its judgement; None if it answers every criterion at once."""

    prompt: str
    rubric: Rubric
    judgement: PointwiseJudgement | None = None

    def prefixes(self, words: PointwiseWords) -> list[str]:
        """The text before each answer; nothing if the judgement could not be parsed."""
        if self.judgement is not None:
            return self.judgement.prefixes()
        return [answer_prefix(number, c, words) for number, c in enumerate(self.rubric.criteria, start=1)]


@dataclass(frozen=True)
class PointwiseJudge:
    """A pointwise judge; :func:`dataclasses.replace` makes one with other settings.

    Attributes: as those of :class:`~rubric_arm_lite.reward_model.judge.Judge`, and

        words: the two answers.
        justify: whether it writes a justification before each answer; otherwise it answers every criterion at once.
    """

    sampler: Sampler
    prompts: PromptBuilder
    max_tokens: int
    temperature: float = 0.0
    vote_temperature: float = 1.0
    seed: int = 0
    adapter: str | None = "judge"
    words: PointwiseWords = OUR_WORDS
    justify: bool = True

    def sampling(self, votes: int = 1) -> Sampling:
        """How judgements are drawn."""
        return Sampling(self.max_tokens, votes, self.temperature if votes == 1 else self.vote_temperature)

    def judge(
        self, comparisons: Sequence[Comparison], rubrics: Sequence[Rubric], orders: Orders = "both", votes: int = 1
    ) -> list[PointwiseVerdict]:
        """One verdict per comparison under its rubric, in order; ``orders`` has no effect."""
        cases = [
            (c.prompt, response, rubric)
            for c, rubric in zip(comparisons, rubrics, strict=True)
            if rubric.usable
            for response in (c.response_a, c.response_b)
        ]
        scores = map(tuple, self.score(cases, votes))
        return [PointwiseVerdict(r, *((next(scores), next(scores)) if r.usable else ())) for r in rubrics]

    def turns(self, comparison: Comparison, rubric: Rubric) -> list[str]:
        """The user turns that one comparison leads to: one per response."""
        return [
            self.prompts.pointwise_prompt(comparison.prompt, rubric, response)
            for response in (comparison.response_a, comparison.response_b)
        ]

    def score(self, cases: Sequence[tuple[Prompt, str, Rubric]], votes: int = 1) -> list[list[PointwiseScore]]:
        """``votes`` scored judgements per (prompt, response, rubric); equal prompts are judged once."""
        turns = [self.prompts.pointwise_prompt(prompt, rubric, response) for prompt, response, rubric in cases]
        judgements = self._write(dict(zip(turns, (rubric for _, _, rubric in cases), strict=True)), votes)
        scores = iter(self.read([text for texts in judgements.values() for text in texts]))
        scored = {turn: [next(scores) for _ in texts] for turn, texts in judgements.items()}
        return [scored[turn] for turn in turns]

    def _write(self, turns: dict[str, Rubric], votes: int) -> dict[str, list[JudgedText]]:
        """Judgements of user turns, each with the rubric that it shows; sampled unless the judge answers at once."""
        if not self.justify:
            return {turn: [JudgedText(turn, rubric)] for turn, rubric in turns.items()}
        examples = [Example(f"response {i}", t, derive_seed(self.seed, t)) for i, t in enumerate(turns, start=1)]
        groups = self.sampler.sample(self.adapter, examples, self.sampling(votes)) if examples else []
        return {
            turn: [
                JudgedText(turn, rubric, parse_pointwise(s.text, rubric, s.finish_reason, self.words))
                for s in group.samples
            ]
            for (turn, rubric), group in zip(turns.items(), groups, strict=True)
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

    def read(self, texts: Sequence[JudgedText]) -> list[PointwiseScore]:
        """The scores of judgements, by the probabilities that the adapter gives to their answers.

        Raises:
            BackendError: if the backend does not give probabilities of words, or the tokenizer has none for them.
        """
        reader = self.reader()
        distinct = list(dict.fromkeys(texts))
        questions = [NextWords(t.prompt, p, self.words.options) for t in distinct for p in t.prefixes(self.words)]
        logprobs = iter(reader.next_word_logprobs(self.adapter, questions) if questions else [])
        scores = {text: _scored(text, logprobs) for text in distinct}
        return [scores[text] for text in texts]


def unscored(rubric: Rubric, text: str, status: ParseStatus) -> PointwiseScore:
    """The score of a response without a readable judgement."""
    return PointwiseScore(None, (), rubric, text, status)


def _scored(judged: JudgedText, logprobs: Iterator[tuple[float, ...]]) -> PointwiseScore:
    rubric, judgement = judged.rubric, judged.judgement
    if judgement is not None and judgement.status is not ParseStatus.OK:
        return unscored(rubric, judgement.text, judgement.status)
    written = [] if judgement is None else [answer.justification for answer in judgement.answers]
    answers = []
    for criterion, justification in zip(rubric.criteria, written or [""] * len(rubric.criteria), strict=True):
        true, false = map(math.exp, next(logprobs))
        answers.append(Answer(criterion, true, false, justification))
    text = "" if judgement is None else judgement.text
    return PointwiseScore(weighted_score(answers), tuple(answers), rubric, text, ParseStatus.OK)
