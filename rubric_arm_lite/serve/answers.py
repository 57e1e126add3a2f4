"""The JSON of answers. They hold texts that models wrote; whoever shows them must show them as text."""

from __future__ import annotations

from typing import Literal, assert_never

from pydantic import BaseModel, Field

from rubric_arm_lite.parsing import stated_met
from rubric_arm_lite.pointwise import PointwiseScore
from rubric_arm_lite.serve.questions import Question, Reply
from rubric_arm_lite.types import Judgement, Rubric, Side, other_side
from rubric_arm_lite.verdicts import Remark, Verdict


class CriterionAnswer(BaseModel):
    """One line of a rubric."""

    number: int
    text: str
    kind: Literal["hard_rule", "principle"]


class RubricAnswer(BaseModel):
    """A rubric; `criteria` is empty unless `status` is `ok`, and only such a rubric is shown to a judge."""

    text: str
    status: Literal["ok", "malformed", "truncated"]
    criteria: list[CriterionAnswer]


class WrittenRubric(BaseModel):
    """Answer of `/v1/rubric`."""

    state: str
    rubric: RubricAnswer
    unknown_words: list[str] = Field(description="Words of the request that the base does not know.")


class RemarkAnswer(BaseModel):
    """What judgements say of one response under one criterion."""

    text: str
    count: int = Field(description="Judgements that say it in these words.")
    met: bool | None = Field(description="Whether its last words call the criterion met; null if not plainly.")


class FindingAnswer(BaseModel):
    """What was found under one criterion, for both responses as they were given."""

    number: int
    response_a: list[RemarkAnswer]
    response_b: list[RemarkAnswer]


class JudgementAnswer(BaseModel):
    """One judgement. `text` calls the responses what the judge saw; `winner` means the caller's A and B."""

    text: str
    winner: Literal["A", "B"] | None
    status: Literal["ok", "malformed", "truncated"]


class ComparedResponses(BaseModel):
    """Answer of `/v1/compare`."""

    state: str
    winner: Literal["A", "B"] | None = Field(description="Of the majority over orders and votes; null without one.")
    confidence: float = Field(description="Share of the judgements that named the winner, 0 to 1.")
    consistent: bool = Field(description="Whether every judgement named the same response.")
    rubric: RubricAnswer
    findings: list[FindingAnswer]
    given: list[JudgementAnswer] = Field(description="Judgements that saw A first.")
    swapped: list[JudgementAnswer] = Field(description="Judgements that saw B first, called A in their text.")
    unknown_words: list[str]


class CheckAnswer(BaseModel):
    """One criterion of a score: probabilities that the judge calls it met, and not."""

    number: int
    p_true: float
    p_false: float
    justification: str


class ScoredResponse(BaseModel):
    """Answer of `/v1/score`."""

    state: str
    value: float | None = Field(description="From -1 to 1; null if the rubric or the judge's text is unusable.")
    status: Literal["ok", "malformed", "truncated"]
    checks: list[CheckAnswer]
    rubric: RubricAnswer
    text: str
    unknown_words: list[str]


class Refused(BaseModel):
    """Every answer that is not a success."""

    error: str = Field(description="What was given, what is allowed, what to do.")


Answer = WrittenRubric | ComparedResponses | ScoredResponse


def answer_to(question: Question, reply: Reply) -> Answer:
    """The JSON of a reply."""
    unknown = list(reply.unknown_words)
    match reply.found:
        case Rubric() as rubric:
            return WrittenRubric(state=question.state, rubric=_shown(rubric), unknown_words=unknown)
        case Verdict() as verdict:
            return _compared(question.state, verdict, unknown)
        case PointwiseScore() as score:
            return _scored(question.state, score, unknown)
        case never:
            assert_never(never)


def _compared(state: str, verdict: Verdict, unknown: list[str]) -> ComparedResponses:
    return ComparedResponses(
        state=state,
        winner=verdict.winner,
        confidence=verdict.confidence,
        consistent=verdict.consistent,
        rubric=_shown(verdict.rubric),
        findings=[
            FindingAnswer(
                number=finding.number,
                response_a=[_remark(remark) for remark in finding.response_a],
                response_b=[_remark(remark) for remark in finding.response_b],
            )
            for finding in verdict.findings
        ],
        given=[_judgement(j, j.winner) for j in verdict.judgements],
        swapped=[_judgement(j, None if j.winner is None else other_side(j.winner)) for j in verdict.flipped],
        unknown_words=unknown,
    )


def _scored(state: str, score: PointwiseScore, unknown: list[str]) -> ScoredResponse:
    return ScoredResponse(
        state=state,
        value=score.value,
        status=score.status.value,
        checks=[
            CheckAnswer(number=i, p_true=a.p_true, p_false=a.p_false, justification=a.justification)
            for i, a in enumerate(score.answers, start=1)
        ],
        rubric=_shown(score.rubric),
        text=score.text,
        unknown_words=unknown,
    )


def _shown(rubric: Rubric) -> RubricAnswer:
    criteria = [
        CriterionAnswer(number=i, text=c.text, kind=c.kind.value) for i, c in enumerate(rubric.criteria, start=1)
    ]
    return RubricAnswer(text=rubric.text, status=rubric.status.value, criteria=criteria)


def _remark(remark: Remark) -> RemarkAnswer:
    return RemarkAnswer(text=remark.text, count=remark.count, met=stated_met(remark.text))


def _judgement(judgement: Judgement, winner: Side | None) -> JudgementAnswer:
    return JudgementAnswer(text=judgement.text, winner=winner, status=judgement.status.value)
