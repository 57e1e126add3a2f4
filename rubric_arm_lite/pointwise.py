"""Pointwise judgements after RUBRIC-ARROW (arXiv 2605.29156): every criterion of one response is met or not.

The form of the judge's text, its parser, and the score: one for training, inference and tests. A text has one line per
criterion, in order and with its kind, and nothing else::

    - Criterion 1 [Hard Rule]: Justification: it names the river. Answer: true

The justification may be missing. The parser is a total function; text that is not of this form has no answers at all,
so that nothing which a response made the judge repeat can pass for one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rubric_arm_lite.parsing import JUSTIFICATION_PREFIX, LINE_BREAK
from rubric_arm_lite.types import Criterion, CriterionKind, FinishReason, ParseStatus, Rubric

ANSWER_PREFIX = "Answer:"
OPTIONS = (" true", " false")
"""What the probabilities are read of, right after :data:`ANSWER_PREFIX`."""
WEIGHTS = {CriterionKind.HARD_RULE: 3.0, CriterionKind.PRINCIPLE: 1.0}
_LINE = re.compile(r"- Criterion ([1-9][0-9]?) \[(Hard Rule|Principle)\]:[ \t]*")


@dataclass(frozen=True, slots=True)
class Check:
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
class Checks:
    """A parsed pointwise judgement; ``checks`` is empty unless ``status`` is OK."""

    text: str
    checks: tuple[Check, ...]
    status: ParseStatus

    def prefixes(self) -> list[str]:
        """What was written before each answer's word."""
        return [self.text[: check.end] for check in self.checks]


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


def answer_prefix(number: int, criterion: Criterion) -> str:
    """The beginning of a criterion's line, up to its answer, without a justification."""
    return f"- Criterion {number} [{criterion.kind.label}]: {ANSWER_PREFIX}"


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


def parse_checks(text: str, rubric: Rubric, finish_reason: FinishReason = "stop") -> Checks:
    """Parse a pointwise judgement written for ``rubric``; never raises, takes time linear in the text.

    OK only if the text is one line per criterion, numbered in the rubric's order, each with the criterion's kind and
    ending in ``Answer: true`` or ``Answer: false``. Blank lines do not count. A text cut by length is truncated.
    """
    if finish_reason == "length":
        return Checks(text, (), ParseStatus.TRUNCATED)
    malformed = Checks(text, (), ParseStatus.MALFORMED)
    lines = list(_lines(text))
    if not rubric.criteria or len(lines) != len(rubric.criteria):
        return malformed
    checks = []
    for number, ((start, line), criterion) in enumerate(zip(lines, rubric.criteria, strict=True), start=1):
        check = _read(start, line, number, criterion)
        if check is None:
            return malformed
        checks.append(check)
    return Checks(text, tuple(checks), ParseStatus.OK)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each with the place where it begins."""
    start = 0
    for found in [*LINE_BREAK.finditer(text), None]:
        stop = len(text) if found is None else found.start()
        line = text[start:stop]
        if line.strip():
            yield start + len(line) - len(line.lstrip()), line.strip()
        start = stop if found is None else found.end()


def _read(start: int, line: str, number: int, criterion: Criterion) -> Check | None:
    head = _LINE.match(line)
    at = line.rfind(ANSWER_PREFIX)
    if head is None or at < head.end() or int(head[1]) != number or head[2] != criterion.kind.label:
        return None
    end = at + len(ANSWER_PREFIX)
    said, word = line[head.end() : at].strip(), line[end:].strip(" \t")
    if word not in ("true", "false") or (said and not said.startswith(JUSTIFICATION_PREFIX)):
        return None
    return Check(number, said.removeprefix(JUSTIFICATION_PREFIX).strip(), word == "true", start + end)
