"""The JSON of requests: what is allowed, and one sentence about what is not.

Requests are strict: unknown fields, numbers in place of texts and blank texts are refused, and so are texts that are
not Unicode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, assert_never

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from rubric_arm_lite.data import prompt_of
from rubric_arm_lite.data.rows import MESSAGE_ROLES
from rubric_arm_lite.prompts.parsing import stated_met
from rubric_arm_lite.reward_model.judge import given_rubric
from rubric_arm_lite.reward_model.pointwise import PointwiseScore
from rubric_arm_lite.reward_model.verdict import Orders, Remark, Verdict
from rubric_arm_lite.types import Judgement, Prompt, Rubric, Side, other_side

PLACE = "the request"
"""What an error calls a question."""


@dataclass(frozen=True, slots=True)
class RubricQuestion:
    """Which rubric the generator writes for a prompt."""

    state: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class CompareQuestion:
    """Which of two responses is better."""

    state: str
    prompt: Prompt
    response_a: str
    response_b: str
    rubric: Rubric | None
    votes: int
    orders: Orders


@dataclass(frozen=True, slots=True)
class ScoreQuestion:
    """How far a response meets its rubric."""

    state: str
    prompt: Prompt
    response: str
    rubric: Rubric | None
    justify: bool | None


Question = RubricQuestion | CompareQuestion | ScoreQuestion
Found = Rubric | Verdict | PointwiseScore


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says, and words of the request that its tokenizer does not know."""

    found: Found
    unknown_words: tuple[str, ...]


MAX_TEXT = 100_000
"""Characters of one text; of a conversation, all its turns together."""
MAX_TURNS = 100
MAX_VOTES = 32
SHOWN_FIELD = 60
"""Characters of a field's name that an error repeats."""


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank. Give some text.")
    return text


def _read_prompt(value: Any) -> Prompt:
    prompt = prompt_of(value, PLACE)
    length = len(prompt) if isinstance(prompt, str) else sum(len(message.content) for message in prompt)
    if length > MAX_TEXT:
        raise ValueError(f"has {length} characters, {MAX_TEXT} are allowed. Shorten it.")
    if isinstance(prompt, tuple) and len(prompt) > MAX_TURNS:
        raise ValueError(f"has {len(prompt)} turns, {MAX_TURNS} are allowed. Leave out the earlier ones.")
    return prompt


_TURN = {
    "type": "object",
    "properties": {"role": {"enum": list(MESSAGE_ROLES)}, "content": {"type": "string"}},
    "required": ["role", "content"],
}
PromptField = Annotated[
    Prompt,
    PlainValidator(_read_prompt),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": MAX_TEXT},
                {"type": "array", "items": _TURN, "minItems": 1, "maxItems": MAX_TURNS},
            ],
            "description": "The request that was answered: a text, or a conversation that ends with the user's turn.",
            "examples": ["Explain tides to a child."],
        }
    ),
    Field(),
]
Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_filled)]
RubricField = Annotated[
    Text | None,
    Field(
        description="Criteria to use in place of the generator's: a numbered list, each line ending in [Hard Rule] or "
        "[Principle].",
        examples=["1. The response names the moon as the cause [Hard Rule]\n2. The response is simple [Principle]"],
    ),
]
StateField = Annotated[
    str | None, Field(max_length=SHOWN_FIELD, description="Which adapters answer; the service's own if left out.")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RubricBody(_Body):
    """Write a rubric for a prompt."""

    prompt: PromptField
    state: StateField = None

    def question(self, state: str) -> RubricQuestion:
        """The question, for the state that was found for it."""
        return RubricQuestion(state, self.prompt)


class CompareBody(_Body):
    """Judge two responses to a prompt."""

    prompt: PromptField
    response_a: Text = Field(examples=["The moon pulls the sea towards it, so the water rises twice a day."])
    response_b: Text = Field(examples=["Tides are complicated."])
    rubric: RubricField = None
    votes: int = Field(1, ge=1, le=MAX_VOTES, description="Judgements per order; 1 is greedy, more are sampled.")
    orders: Orders = Field("both", description="Both orders, or one only: half the cost, and open to position bias.")
    state: StateField = None

    def question(self, state: str) -> CompareQuestion:
        """The question, for the state that was found for it.

        Raises:
            DataError: if the rubric given does not parse.
        """
        rubric = _rubric(self.rubric)
        return CompareQuestion(state, self.prompt, self.response_a, self.response_b, rubric, self.votes, self.orders)


class ScoreBody(_Body):
    """Score one response to a prompt, criterion by criterion."""

    prompt: PromptField
    response: Text = Field(examples=["The moon pulls the sea towards it, so the water rises twice a day."])
    rubric: RubricField = None
    justify: bool | None = Field(
        None,
        description="Whether the judge writes a justification before each answer, which is slower; as it was trained "
        "if left out.",
    )
    state: StateField = None

    def question(self, state: str) -> ScoreQuestion:
        """The question, for the state that was found for it.

        Raises:
            DataError: if the rubric given does not parse.
        """
        return ScoreQuestion(state, self.prompt, self.response, _rubric(self.rubric), self.justify)


def _rubric(text: str | None) -> Rubric | None:
    return None if text is None else given_rubric(text, PLACE)


# --- refusals -------------------------------------------------------------------------------------------------------


def sentence(errors: Sequence[Mapping[str, Any]]) -> str:
    """pydantic's errors about a body, reduced to the first one: its field, what is wrong, and the mend."""
    error = errors[0]
    place = [str(part) for part in error["loc"] if part != "body"]
    field = printable(".".join(place))[:SHOWN_FIELD]
    match error["type"]:
        case "json_invalid":
            said = f"The body is not JSON ({error.get('ctx', {}).get('error', 'no value')}). Send one JSON object."
        case "missing" if not place:
            said = "There is no body. Send one JSON object."
        case "missing":
            said = f"`{field}` is missing. Each request needs it."
        case "extra_forbidden":
            said = f"`{field}` is no field of this request. Leave it out; /docs lists the fields."
        case "value_error":
            problem = str(error["ctx"]["error"])
            said = f"`{field}` {problem}" if problem.startswith(("is ", "has ")) else problem
        case "string_unicode":
            what = f"`{field}`" if place else "The name of a field"
            said = f"{what} is not Unicode text: it has half of a surrogate pair. Convert it to UTF-8."
        case _ if not place:
            said = "The body is no JSON object. Send one, with the fields that /docs lists."
        case _:
            said = f"`{field}`: {error['msg']}. Correct it; /docs lists what is allowed."
    more = len(errors) - 1
    return said + (f" ({more} more to correct.)" if more else "")


def printable(text: str) -> str:
    """A text that can be sent and shown: what is no Unicode or does not print is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
        given=[_judgement(j, j.winner) for j in verdict.original],
        swapped=[_judgement(j, None if j.winner is None else other_side(j.winner)) for j in verdict.swapped],
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
