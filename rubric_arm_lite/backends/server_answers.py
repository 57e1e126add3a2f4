"""Read what an OpenAI-compatible server answers: one JSON object, or a stream of events (SSE).

Bytes go in, an :class:`Answer` comes out. Every field is checked before it is used. What does not have the protocol's
form is a :class:`BackendError`; a stream that ends before ``[DONE]`` is a cut connection, and asked for again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rubric_arm_lite.backends.server_http import PassingFailure
from rubric_arm_lite.backends.server_text import clean, parse_json
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.types import FinishReason

ANSWER_BYTES_PER_TOKEN = 4
"""Of a text whose tokens nobody counted."""
_PLAIN = re.compile(r"[\w.-]{0,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion's text and why it ended."""

    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Answer:
    """The completions of one request in the order of their indices, and how many tokens they took.

    ``prompt_tokens`` is None if the server did not say.
    """

    completions: tuple[Completion, ...]
    tokens: int
    prompt_tokens: int | None = None


class StreamError(Exception):
    """An error that the server sent inside a stream."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


def read_answer(chunks: Iterable[bytes], wanted: int) -> Answer:
    """The answer in one piece; at most ``wanted`` completions.

    Tokens are ``usage.completion_tokens``; a server that does not say is taken to write one for 4 bytes.
    """
    body = _json(b"".join(chunks))
    choices = _choices(body)
    if not choices:
        _wrong("no completions (`choices` is empty)")
    texts: dict[int, Completion] = {}
    for place, choice in enumerate(choices):
        index = _index(choice, place, wanted)
        if index in texts:
            _wrong(f"two completions with index {index}")
        texts[index] = _completion(_text(choice, "message"), choice.get("finish_reason"))
    completions = _in_order(texts)
    tokens = _tokens(body, "completion_tokens")
    if tokens is None:
        tokens = sum(likely_tokens(c.text) for c in completions)
    return Answer(completions, tokens, _tokens(body, "prompt_tokens"))


@dataclass(slots=True)
class _Growing:
    """A completion while it streams."""

    parts: list[str] = field(default_factory=list)
    reason: Any = None


def read_stream(chunks: Iterable[bytes], wanted: int) -> Answer:
    """The answer as a stream of events up to ``[DONE]``; at most ``wanted`` completions.

    Tokens are ``usage.completion_tokens`` where the stream says it, else the number of events with text.

    Raises:
        PassingFailure: if the stream ends early.
        StreamError: if the server reports an error in it.
    """
    growing: dict[int, _Growing] = {}
    tokens: int | None = None
    prompt_tokens: int | None = None
    events = 0
    for data in events_of(chunks):
        if data == b"[DONE]":
            break
        body = _json(data)
        if isinstance(body, dict) and body.get("error"):
            raise _reported(body["error"])
        choices = _choices(body)
        for place, choice in enumerate(choices):
            one = growing.setdefault(_index(choice, place, wanted), _Growing())
            text = _text(choice, "delta")
            if text:
                one.parts.append(text)
                events += 1
            one.reason = choice.get("finish_reason") or one.reason
        found = _tokens(body, "completion_tokens")
        tokens = tokens if found is None else found
        found = _tokens(body, "prompt_tokens")
        prompt_tokens = prompt_tokens if found is None else found
    else:
        raise PassingFailure("the stream was cut before its end")
    if not growing:
        _wrong("a stream without completions")
    texts = {index: _completion("".join(one.parts), one.reason) for index, one in growing.items()}
    return Answer(_in_order(texts), events if tokens is None else tokens, prompt_tokens)


def likely_tokens(text: str) -> int:
    """Tokens of a text that nobody counted."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // ANSWER_BYTES_PER_TOKEN)


def events_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The ``data`` of every event of a stream, whatever pieces it arrives in; comments and other fields are skipped.

    Lines end in LF or CRLF. An event ends with a blank line; ``[DONE]`` needs none.
    """
    data: list[bytes] = []
    for line in _lines(chunks):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
            if data == [b"[DONE]"]:
                yield data.pop()
        elif not line and data:
            yield b"\n".join(data)
            data = []


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, the last one also without its end; pieces are joined only there, so a long line costs linear time."""
    pieces: list[bytes] = []
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join((*pieces, end)).removesuffix(b"\r")
            pieces = []
        if rest:
            pieces.append(rest)
    if pieces:
        yield b"".join(pieces)


def _json(data: bytes) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:  # UnicodeDecodeError is one; its own words would repeat the bytes
        why = "no UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"no JSON ({clean(str(error))})"
        raise BackendError(
            f"The server's answer is {why}. Check that the address is an OpenAI-compatible server's."
        ) from None


def _choices(body: Any) -> list[dict[str, Any]]:
    if not isinstance(body, dict):
        _wrong(f"{_kind(body)} where an object belongs")
    choices = body.get("choices")
    if not isinstance(choices, list):
        _wrong(f"{_kind(choices)} as `choices`" if "choices" in body else "no `choices`")
    for choice in choices:
        if not isinstance(choice, dict):
            _wrong(f"{_kind(choice)} as a completion")
    return choices


def _index(choice: dict[str, Any], place: int, wanted: int) -> int:
    index = choice.get("index", place)
    if type(index) is not int or not 0 <= index < wanted:
        _wrong(f"a completion with index {_shown(index)} where {wanted} were asked for")
    return int(index)


def _text(choice: dict[str, Any], holder: str) -> str:
    """The text of a choice: chat completions hold it in ``message`` or ``delta``, plain ones in ``text``.

    A null is no text: a first event may have it, and a server that keeps a model's thoughts apart may have nothing
    else when they were cut.
    """
    if "text" in choice:
        text = choice["text"]
    else:
        held = choice.get(holder)
        if not isinstance(held, dict):
            _wrong(f"{_kind(held)} as `{holder}`")
        text = held.get("content")
        if text is None and choice.get("finish_reason") == "stop" and holder == "message":
            _wrong("a finished completion without text")
    if text is not None and not isinstance(text, str):
        _wrong(f"{_kind(text)} as a completion's text")
    return text or ""


def _completion(text: str, reason: Any) -> Completion:
    match reason:
        case "stop" | "length":
            # \u escapes can hold halves of characters, which no file and no terminal takes.
            whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return Completion(whole, reason)
        case _:
            raise BackendError(
                f"A completion ended with finish_reason {_shown(reason)}; only stop and length can be used. Switch off "
                "tools, filters and whatever else makes the server end a text in this way."
            )


def _in_order(texts: dict[int, Completion]) -> tuple[Completion, ...]:
    return tuple(texts[index] for index in sorted(texts))


def _tokens(body: dict[str, Any], name: str) -> int | None:
    usage = body.get("usage")
    if usage is None:
        return None
    if not isinstance(usage, dict):
        _wrong(f"{_kind(usage)} as `usage`")
    tokens = usage.get(name)
    if tokens is None:
        return None
    if type(tokens) is not int or not 0 <= tokens < 2**40:
        _wrong(f"{_shown(tokens)} as `usage.{name}`")
    return int(tokens)


def _reported(error: Any) -> StreamError:
    found = error if isinstance(error, dict) else {"message": error}
    code = found.get("code")
    said = found.get("message")
    return StreamError(
        code if type(code) is int and 400 <= code < 600 else 400, said if isinstance(said, str) else _shown(said)
    )


def _shown(value: Any) -> str:
    """A value in an error: whole if it is short and plain (so that a key in it can be found), else its type."""
    plain = isinstance(value, int | float | None) or (isinstance(value, str) and _PLAIN.fullmatch(value))
    return f"`{value}`" if plain else _kind(value)


def _kind(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def _wrong(what: str) -> NoReturn:
    raise BackendError(f"The server's answer has {what}. Check that the address is an OpenAI-compatible server's.")
