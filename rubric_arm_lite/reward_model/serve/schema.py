"""The JSON of requests and answers, as pydantic models.

Requests are strict: unknown fields, numbers in place of texts, blank texts and texts that are not Unicode are refused,
each with one sentence. Answers are built from what the reward model returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from rubric_arm_lite.data import prompt_of
from rubric_arm_lite.recipe.entries import printable
from rubric_arm_lite.reward_model.judge import given_rubric
from rubric_arm_lite.reward_model.verdict import Orders, PointwiseScore, Verdict
from rubric_arm_lite.types import CriterionKind, ParseStatus, Prompt, Rubric, Side, other_side

REQUEST = "the request"
"""What an error calls a request."""
MAX_TEXT = 100_000
"""Characters of one text; of a conversation, all its turns together."""
MAX_TURNS = 100
MAX_VOTES = 32
MAX_NAME = 60
"""Characters of a state's name, and of a field's name that an error repeats."""


# --- requests -------------------------------------------------------------------------------------------------------


class Turn(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


def _read_prompt(value: Any) -> Prompt:
    prompt = prompt_of(value, REQUEST)
    length = len(prompt) if isinstance(prompt, str) else sum(len(message.content) for message in prompt)
    if length > MAX_TEXT:
        raise ValueError(f"has {length} characters, {MAX_TEXT} are allowed. Shorten it.")
    if isinstance(prompt, tuple) and len(prompt) > MAX_TURNS:
        raise ValueError(f"has {len(prompt)} turns, {MAX_TURNS} are allowed. Leave out the earlier ones.")
    return prompt


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank. Give some text.")
    return text


def _parseable(rubric: str) -> str:
    given_rubric(rubric, REQUEST)
    return rubric


_PromptJson = (
    Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    | Annotated[list[Turn], Field(min_length=1, max_length=MAX_TURNS)]
)
Text = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_not_blank)]
RubricField = Annotated[
    Annotated[Text, AfterValidator(_parseable)] | None,
    Field(
        description="Criteria to use in place of the generator's: a numbered list, each line ending in [Hard Rule] or "
        "[Principle].",
        examples=["1. The response names the moon as the cause [Hard Rule]\n2. The response is simple [Principle]"],
    ),
]
StateField = Annotated[
    str | None, Field(max_length=MAX_NAME, description="Which adapters answer; the service's own if left out.")
]
_GOOD_RESPONSE = "The moon pulls the sea towards it, so the water rises twice a day."


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: Annotated[Prompt, PlainValidator(_read_prompt, json_schema_input_type=_PromptJson)] = Field(
        description="The prompt that was answered: a text, or a conversation that ends with the user's turn.",
        examples=["Explain tides to a child."],
    )


class RubricBody(_Body):
    """Write a rubric for a prompt."""

    state: StateField = None


class CompareBody(_Body):
    """Judge two responses to a prompt."""

    response_a: Text = Field(examples=[_GOOD_RESPONSE])
    response_b: Text = Field(examples=["Tides are complicated."])
    rubric: RubricField = None
    votes: int = Field(1, ge=1, le=MAX_VOTES, description="Judgements per order; 1 is greedy, more are sampled.")
    orders: Orders = Field(
        "both", description="Both orders, or only one at half the cost, which leaves position bias in the verdict."
    )
    state: StateField = None


class ScoreBody(_Body):
    """Score one response to a prompt, criterion by criterion."""

    response: Text = Field(examples=[_GOOD_RESPONSE])
    rubric: RubricField = None
    justify: bool | None = Field(
        None,
        description="Whether the judge writes a justification before each answer, which is slower; as it was trained "
        "if left out.",
    )
    state: StateField = None


Body = RubricBody | CompareBody | ScoreBody


def validation_message(errors: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about pydantic's first error in a body: the field, what is wrong with it, and the fix."""
    error = errors[0]
    place = [str(part) for part in error["loc"] if part != "body"]
    field = f"`{printable('.'.join(place))[:MAX_NAME]}`"
    match error["type"]:
        case "json_invalid":
            message = f"The body is not JSON ({error.get('ctx', {}).get('error', 'no value')}). Send one JSON object."
        case "missing" if not place:
            message = "There is no body. Send one JSON object."
        case "missing":
            message = f"{field} is missing. Each request needs it."
        case "extra_forbidden":
            message = f"{field} is not a field of this request. Leave it out; /docs lists the fields."
        case "value_error":
            message = str(error["ctx"]["error"])
            if message.startswith(("is ", "has ")):
                message = f"{field} {message}"
        case "string_unicode":
            what = field if place else "The name of a field"
            message = f"{what} is not Unicode text: it has half of a surrogate pair. Convert it to UTF-8."
        case _ if not place:
            message = "The body is not a JSON object. Send one, with the fields that /docs lists."
        case _:
            message = f"{field}: {error['msg']}. Correct it; /docs lists what is allowed."
    return message + (f" ({len(errors) - 1} more to correct.)" if len(errors) > 1 else "")


# --- answers --------------------------------------------------------------------------------------------------------


def _numbered(items: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"number": i, **asdict(item)} for i, item in enumerate(items, start=1)]


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class CriterionAnswer(_Answer):
    """One line of a rubric."""

    number: int
    text: str
    kind: CriterionKind


class RubricAnswer(_Answer):
    """A rubric; `criteria` is empty unless `status` is `ok`, and only such a rubric is shown to a judge."""

    text: str
    status: ParseStatus
    criteria: Annotated[list[CriterionAnswer], BeforeValidator(_numbered)]


class RemarkAnswer(_Answer):
    """What judgements say about one response under one criterion."""

    text: str
    count: int = Field(description="Judgements that say it in these words.")
    met: bool | None = Field(description="Whether its last words call the criterion met; null if not plainly.")


class FindingAnswer(_Answer):
    """What the judgements say about one criterion, for both responses as the caller named them."""

    number: int
    response_a: list[RemarkAnswer]
    response_b: list[RemarkAnswer]


class JudgementAnswer(_Answer):
    """One judgement. `text` names the responses as the judge saw them; `winner` means the caller's A and B."""

    text: str
    winner: Side | None
    status: ParseStatus


class CheckAnswer(_Answer):
    """One criterion of a score: probabilities that the judge calls it met, and not."""

    number: int
    p_true: float
    p_false: float
    justification: str


class WrittenRubric(_Answer):
    """Answer of `/v1/rubric`."""

    state: str
    rubric: RubricAnswer
    unknown_words: list[str] = Field(description="Words of the request that the base model does not know.")


class ComparedResponses(WrittenRubric):
    """Answer of `/v1/compare`."""

    winner: Side | None = Field(description="By majority over orders and votes; null without one.")
    confidence: float = Field(description="Share of the judgements that named the winner, 0 to 1.")
    consistent: bool = Field(description="Whether every judgement named the same response.")
    findings: list[FindingAnswer]
    original: list[JudgementAnswer] = Field(description="Judgements that saw A first.")
    swapped: list[JudgementAnswer] = Field(description="Judgements that saw B first, called A in their text.")


class ScoredResponse(WrittenRubric):
    """Answer of `/v1/score`."""

    value: float | None = Field(description="From -1 to 1; null if the rubric or the judge's text is unusable.")
    status: ParseStatus
    checks: Annotated[list[CheckAnswer], BeforeValidator(_numbered)]
    text: str


class Refused(BaseModel):
    """Every answer that is not a success."""

    error: str = Field(description="What was given, what is allowed, what to do.")


Result = Rubric | Verdict | PointwiseScore


def answer_of(result: Result, state: str, unknown_words: Sequence[str]) -> WrittenRubric:
    """The JSON of what the reward model returned for one request."""
    values: dict[str, Any] = {"state": state, "unknown_words": unknown_words}
    if isinstance(result, Rubric):
        return WrittenRubric.model_validate({**values, "rubric": result})
    values["rubric"] = result.rubric
    if isinstance(result, PointwiseScore):
        values |= {"value": result.value, "status": result.status, "checks": result.answers, "text": result.text}
        return ScoredResponse.model_validate(values)
    values |= {"winner": result.winner, "confidence": result.confidence, "consistent": result.consistent}
    swapped = [
        replace(judgement, winner=judgement.winner and other_side(judgement.winner)) for judgement in result.swapped
    ]
    values |= {"findings": result.findings, "original": result.original, "swapped": swapped}
    return ComparedResponses.model_validate(values)
