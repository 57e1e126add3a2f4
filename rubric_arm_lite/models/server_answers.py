"""Bytes that an OpenAI-compatible server sends become completions or one clear error; nothing in them is trusted."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from rubric_arm_lite.errors import BackendError, clean
from rubric_arm_lite.models.sampler import Usage
from rubric_arm_lite.types import Sample

BYTES_PER_TOKEN = 4
"""Estimate for a text whose tokens the server does not count."""


def describe_status(status: int, message: str) -> str:
    """A status with its usual name and the server's message, as in ``404 Not Found ("no such model")``."""
    name = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    return name + (f' ("{clean(message)}")' if message else "")


class RefusedRequest(BackendError):  # noqa: N818  (names the event)
    """A request that the server refuses for good; ``message`` is the server's, cleaned but not truncated."""

    def __init__(self, path: str, status: int, message: str, hint: str) -> None:
        super().__init__(f"POST {path} was answered {describe_status(status, message)}. {hint}")
        self.status = status
        self.message = message


class _Message(BaseModel, strict=True):
    content: str | None = None


class _Choice(BaseModel, strict=True):
    """Chat completions hold their text in ``message`` or, streamed, ``delta``; plain completions in ``text``."""

    index: int | None = None
    finish_reason: str | None = None
    text: str | None = None
    message: _Message | None = None
    delta: _Message | None = None


class _Usage(BaseModel, strict=True):
    prompt_tokens: Annotated[int, Field(ge=0, lt=2**40)] | None = None
    completion_tokens: Annotated[int, Field(ge=0, lt=2**40)] | None = None


class _Event(BaseModel, strict=True):
    """A whole answer, or one event of a stream."""

    choices: list[_Choice]
    usage: _Usage | None = None


_EVENTS = TypeAdapter(list[_Event])


def read_answer(body: bytes, prompt: str, requested: int, stream: bool) -> tuple[list[Sample], Usage]:
    """Completions of a response body, ordered by their index: one object, or with ``stream`` a list of events.

    Tokens come from ``usage``. Without it every event with text counts as one completion token; of a prompt or an
    answer in one piece, every 4 bytes.

    Raises:
        BackendError: if the answer does not follow the protocol, has more than ``requested`` completions, or has one
            that ended for another reason than ``stop`` or ``length``.
    """
    try:
        parsed = json.loads(body.decode("utf-8"))
        events = _EVENTS.validate_python(parsed if stream else [parsed])
    except ValidationError as error:
        detail = error.errors(include_input=False)[0]
        field = ".".join(map(str, detail["loc"][1:])) or "its top level"
        problem = detail["msg"].partition(" or instance")[0]
        raise _unusable(f"does not follow the protocol at {field} ({problem})") from None
    except (ValueError, RecursionError) as error:
        raise _unusable(f"is not JSON ({clean(str(error))})") from None
    parts: dict[int, list[str]] = {}
    reasons: dict[int, str | None] = {}
    for place, choice in ((place, choice) for event in events for place, choice in enumerate(event.choices)):
        index = place if choice.index is None else choice.index
        if not 0 <= index < requested:
            raise _unusable(f"has a completion with index {index} where {requested} were requested")
        if index in parts and not stream:
            raise _unusable(f"has two completions with index {index}")
        message = choice.message or choice.delta
        text = message.content if message else choice.text
        # A text may be missing while it streams, and where a server keeps a model's thoughts apart and truncated them.
        if text is None and choice.finish_reason == "stop" and not stream:
            raise _unusable("has a finished completion without text")
        parts.setdefault(index, []).extend([text] if text else [])
        reasons[index] = choice.finish_reason or reasons.get(index)
    if not parts:
        raise _unusable("has no completions")
    samples = []
    for index in sorted(parts):
        reason: Any = reasons[index]
        if reason not in ("stop", "length"):
            raise BackendError(
                f"A completion ended with finish_reason `{reason}`; only stop and length can be used. Switch off "
                "tools, filters and whatever else makes the server end a text in this way."
            )
        # \u escapes can hold halves of characters, which files and terminals do not take.
        text = "".join(parts[index]).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        samples.append(Sample(text, (), (), reason))
    usage = next((event.usage for event in reversed(events) if event.usage), _Usage())
    prompt_tokens, tokens = usage.prompt_tokens, usage.completion_tokens
    if tokens is None:
        tokens = sum(map(len, parts.values())) if stream else sum(estimate_tokens(s.text) for s in samples)
    return samples, Usage(estimate_tokens(prompt) if prompt_tokens is None else prompt_tokens, tokens)


def estimate_tokens(text: str, bytes_per_token: int = BYTES_PER_TOKEN) -> int:
    """Tokens of a text that the server does not count, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // bytes_per_token)


def _unusable(problem: str) -> BackendError:
    return BackendError(f"The server's answer {problem}. Check that the address is an OpenAI-compatible server's.")
