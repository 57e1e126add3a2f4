"""The JSON of requests: what is allowed, and one sentence about what is not.

Requests are strict: unknown fields, numbers in place of texts and blank texts are refused, and so are texts that are
not Unicode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from rubric_arm_lite.comparing import given_rubric
from rubric_arm_lite.data import prompt_of
from rubric_arm_lite.rows import MESSAGE_ROLES
from rubric_arm_lite.serve.questions import PLACE, CompareQuestion, RubricQuestion, ScoreQuestion
from rubric_arm_lite.types import Prompt, Rubric
from rubric_arm_lite.verdicts import Orders

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
