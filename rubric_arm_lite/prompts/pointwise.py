"""Pointwise judgements after RUBRIC-ARROW (arXiv 2605.29156): every criterion of one response is met or not.

The form of the judge's text, its parser, and the score: one for training, inference and tests. A text has one line per
criterion, in order and with its kind, and nothing else::

    - Criterion 1 [Hard Rule]: Justification: it names the river. Answer: true

The justification may be missing, and a recipe may put other words in the place of ``Answer: true`` (for a base whose
tokenizer lacks them). The parser is a total function; text that is not of this form has no answers at all, so that
nothing which a response made the judge repeat can pass for one.

What a *written* text scores: at every answer, the probabilities that the judge who wrote it gives to both words right
there, after all that it had written so far. The log-probabilities stored with a sample hold only the word that was
drawn, so both are computed again, exactly, by the same weights (temperature 1). RUBRIC-ARROW reads its score of the
probabilities of the two words as well; that the place is in the judge's own sample is our reading of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rubric_arm_lite.prompts.parsing import JUSTIFICATION_PREFIX, behind_thoughts
from rubric_arm_lite.recipe import PointwiseWords
from rubric_arm_lite.types import Criterion, FinishReason, ParseStatus, Rubric

OUR_WORDS = PointwiseWords()
_LINE_TEXT = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
"""What stands between two line breaks of any kind."""
_LINE = re.compile(r"- Criterion ([1-9][0-9]?) \[(Hard Rule|Principle)\]:")


@dataclass(frozen=True, slots=True)
class CriterionAnswer:
    """A judge's answer on one criterion.

    Attributes:
        number: the criterion's place in the rubric, from 1.
        justification: empty if the judge gave none.
        met: the word that was written.
        end: characters of the judge's text up to where the answer's word begins, the blank before it excluded.
    """

    number: int
    justification: str
    met: bool
    end: int


@dataclass(frozen=True, slots=True)
class PointwiseJudgement:
    """A parsed pointwise judgement; ``answers`` is empty unless ``status`` is OK."""

    text: str
    answers: tuple[CriterionAnswer, ...]
    status: ParseStatus

    def prefixes(self) -> list[str]:
        """What was written before each answer's word."""
        return [self.text[: answer.end] for answer in self.answers]


def pointwise_line(
    number: int, criterion: Criterion, met: bool, justification: str = "", words: PointwiseWords = OUR_WORDS
) -> str:
    """A criterion's line as a judge should write it."""
    said = f"{JUSTIFICATION_PREFIX} {justification}" if justification else ""
    return answer_prefix(number, criterion, words, said) + words.options[0 if met else 1]


def answer_prefix(number: int, criterion: Criterion, words: PointwiseWords = OUR_WORDS, said: str = "") -> str:
    """The beginning of a criterion's line, up to its answer; ``said`` is the justification."""
    return " ".join(filter(None, (f"- Criterion {number} [{criterion.kind.label}]:", said, words.answer)))


def parse_pointwise(
    text: str, rubric: Rubric, finish_reason: FinishReason = "stop", words: PointwiseWords = OUR_WORDS
) -> PointwiseJudgement:
    """Parse a pointwise judgement written for ``rubric``; never raises, takes time linear in the text.

    OK only if the text is one line per criterion, numbered in the rubric's order, each with the criterion's kind and
    ending in ``Answer: true`` or ``Answer: false`` (or the recipe's words) with one blank before the word. Blank lines
    do not count, nor do a model's thoughts before them. A text cut by length is truncated, also within its thoughts.
    """
    answer_text = behind_thoughts(text, lambda line: _LINE.match(line) is not None)
    if finish_reason == "length" or answer_text is None:
        return PointwiseJudgement(text, (), ParseStatus.TRUNCATED)
    found = _LINE_TEXT.finditer(text, len(text) - len(answer_text))
    lines = [(m.end() - len(m[0].lstrip()), m[0].strip()) for m in found if m[0].strip()]
    answers: list[CriterionAnswer] = []
    if len(lines) == len(rubric.criteria):
        for number, ((start, line), criterion) in enumerate(zip(lines, rubric.criteria, strict=True), start=1):
            answer = _read(start, line, number, criterion, words)
            if answer is None:
                break
            answers.append(answer)
    if not answers or len(answers) != len(lines):
        return PointwiseJudgement(text, (), ParseStatus.MALFORMED)
    return PointwiseJudgement(text, tuple(answers), ParseStatus.OK)


def _read(start: int, line: str, number: int, criterion: Criterion, words: PointwiseWords) -> CriterionAnswer | None:
    """The answer of a line that begins at ``start``; None if it is not the criterion's line."""
    head = _LINE.match(line)
    if head is None or (int(head[1]), head[2]) != (number, criterion.kind.label):
        return None
    for met, option in zip((True, False), words.options, strict=True):
        at = len(line) - len(words.answer + option)
        if not line.endswith(words.answer + option) or at < head.end():
            continue
        said = line[head.end() : at]
        if not words.answer and said.endswith((" ", "\t")):
            return None
        said = said.strip()
        if said and not said.startswith(JUSTIFICATION_PREFIX):
            return None
        justification = said.removeprefix(JUSTIFICATION_PREFIX).strip()
        return CriterionAnswer(number, justification, met, start + at + len(words.answer))
    return None
