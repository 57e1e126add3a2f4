"""A sampler over an OpenAI-compatible HTTP server (vLLM, llama.cpp, a cloud endpoint): for evaluation and judging.

The prompts are the project's own; a prompt travels as the content of one user message, which the server puts into its
chat template. Only completions' texts are taken from the server; what they mean is decided by :mod:`..parsing` alone.
Token ids and log-probabilities are not known here, so what this sampler writes can be evaluated but never trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import re
import socket
import threading
import time
import unicodedata
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from rubric_arm_lite.errors import BackendError, ConfigError
from rubric_arm_lite.models.sampler import Sampling, Usage
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import Example, FinishReason, RolloutGroup, Sample

MAX_MESSAGE = 300
LONGEST_WAIT = 120.0
"""Most seconds that a server's ``Retry-After`` is obeyed for."""


def clean(text: str, limit: int = MAX_MESSAGE) -> str:
    """Untrusted text for one line of an error: no control, format or unassigned characters, none beyond ``limit``."""
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 16 * limit])
    line = " ".join(shown.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def parse_json(data: bytes) -> Any:
    """JSON of UTF-8 bytes.

    Raises:
        ValueError: if it is not, or nests too deep.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it nests too deep") from None


def seconds_to_wait(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for (a number, or a date), between 0 and :data:`LONGEST_WAIT`."""
    if header is None:
        return None
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", header.strip(), re.ASCII):
        return min(float(header), LONGEST_WAIT)
    try:
        then = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return min(max((then - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT)


def message_of(body: bytes) -> str:
    """The server's own words in the body of an error: OpenAI's form, FastAPI's, or the text as it is."""
    try:
        found = parse_json(body)
    except ValueError:
        return body.decode("utf-8", "replace")
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else body.decode("utf-8", "replace")


def named(status: int) -> str:
    """A status with its usual name."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def quoted(said: str) -> str:
    """What a server said, to stand behind a status; nothing if it said nothing."""
    return f' ("{said}")' if said else ""


if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Pause = Callable[[threading.Event, float], object]
"""Waits some seconds, or until the event is set."""

MAX_BODY = 16 * 2**20
MAX_STREAM = 64 * 2**20
"""A stream wraps every token in a line of JSON, so it may be longer."""
MAX_ERROR_BODY = 64 * 2**10
FIRST_WAIT = 0.5
LONGEST_BACKOFF = 30.0

_HINTS = {
    400: "Check the names of the models, and that prompt and answer fit the server's context.",
    401: "Check the key in the environment variable that the settings name (--server-key-env).",
    404: "Check the address, and that the server has models of these names (--rubric-model, --judge-model).",
}
_HINTS |= {403: _HINTS[401], 405: _HINTS[404], 413: _HINTS[400], 422: _HINTS[400]}


class RefusedRequest(BackendError):  # noqa: N818  (says what happened)
    """A request whose answer is an error that will not pass; ``said`` is the server's message, cleaned, not cut."""

    def __init__(self, path: str, status: int, said: str, hint: str) -> None:
        super().__init__(f"POST {path} was answered {named(status)}{quoted(clean(said))}. {hint}")
        self.status = status
        self.said = said


class PassingFailure(Exception):  # noqa: N818  (not an error yet: it is tried again)
    """A failure that another attempt may not meet; never leaves :meth:`JsonServer.ask`."""

    def __init__(self, what: str, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class JsonServer:
    """POSTs JSON to the paths of one server, from several threads at once.

    Args:
        root: address that paths are appended to.
        key: sent as a Bearer token; it is in no error, whatever the server repeats.
        timeout: seconds for one attempt. Silence is cut after it; an answer that trickles, at the latest after twice.
        retries: further attempts after the first.
        pause: waits between attempts.
    """

    def __init__(
        self,
        root: str,
        key: str | None,
        timeout: float,
        retries: int,
        connections: int,
        pause: Pause = threading.Event.wait,
    ) -> None:
        import httpx

        self.root = root
        self._key = key
        self._timeout = timeout
        self._retries = retries
        self._pause = pause
        self._jitter = random.Random()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        try:
            self._client = httpx.Client(
                headers=headers,
                timeout=timeout,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:  # the environment's proxies are read here
            raise BackendError(
                "No connection can be made with this environment's HTTP_PROXY, HTTPS_PROXY or ALL_PROXY. Give a proxy "
                "as http://host:port, or unset them."
            ) from error

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def abort(self) -> None:
        """Break all connections, so that no thread waits for an answer any more; later requests open new ones."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            _break(stream)

    def _remember(self, stopped: threading.Event, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpx (its ``trace`` extension) when a connection is made."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            with self._lock:
                self._streams.add(info["return_value"])
            if stopped.is_set():  # too late for abort to have seen it
                _break(info["return_value"])

    def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Iterator[bytes]], T],
        stopped: threading.Event | None = None,
        limit: int = MAX_BODY,
        final: Collection[int] = (),
    ) -> T:
        """What ``read`` makes of the answer's bytes; a status in ``final`` is not asked for again.

        ``read`` gets them as they arrive, and may raise :class:`PassingFailure` to have the request sent again.
        Setting ``stopped`` ends the waiting between attempts, and the reading at the next bytes. :meth:`abort`, after
        it, does not wait for those.

        Raises:
            RefusedRequest: if the server refuses it.
            BackendError: if the last attempt fails, or the answer is unusable.
        """
        stopped = stopped or threading.Event()
        data = json.dumps(body).encode("ascii")  # \u escapes: whatever the text is, the request is well-formed
        for attempt in range(self._retries + 1):
            _go_on(path, stopped)
            try:
                return self._attempt(path, data, read, stopped, limit, final)
            except PassingFailure as failure:
                last = failure
            if attempt < self._retries:
                self._pause(stopped, self._wait(attempt, last.retry_after))
        raise BackendError(
            f"POST {path} failed {attempt + 1} times at {self.root}, at last: {last}. Check that the server runs there "
            "and is not overloaded; or allow it more time, more retries or less concurrency."
        ) from last

    def _attempt(
        self,
        path: str,
        data: bytes,
        read: Callable[[Iterator[bytes]], T],
        stopped: threading.Event,
        limit: int,
        final: Collection[int],
    ) -> T:
        import httpx

        try:
            tracing = {"trace": partial(self._remember, stopped)}
            with self._client.stream("POST", self.root + path, content=data, extensions=tracing) as response:
                if not response.is_success:
                    raise self._failure(path, response, stopped, final)
                return self._read(read, self._bounded(path, response, stopped, limit))
        except httpx.TimeoutException as error:
            raise PassingFailure(f"no answer within {self._timeout:g} s") from error
        except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError) as error:
            raise PassingFailure(f"the connection failed ({self.clean(str(error)) or type(error).__name__})") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BackendError(
                f"POST {path} cannot be sent to {self.root}: {self.clean(str(error))}. Check the address of the server."
            ) from error

    def _read(self, read: Callable[[Iterator[bytes]], T], chunks: Iterator[bytes]) -> T:
        try:
            return read(chunks)
        except RefusedRequest:
            raise  # its words are clean
        except BackendError as error:
            if self._key is None or self._key not in str(error):
                raise
            raise BackendError(str(error).replace(self._key, "***")) from None

    def _bounded(self, path: str, response: httpx.Response, stopped: threading.Event, limit: int) -> Iterator[bytes]:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise BackendError(
                f"POST {path} was answered compressed ({self.clean(encoding)}), which was not asked for. Switch "
                "compression off in the server, or in the proxy before it."
            )
        size = 0
        for chunk in self._timed(path, response, stopped):
            size += len(chunk)
            if size > limit:
                raise BackendError(
                    f"POST {path} was answered with more than {limit} bytes. Check that the address is an "
                    "OpenAI-compatible server's."
                )
            yield chunk

    def _timed(self, path: str, response: httpx.Response, stopped: threading.Event) -> Iterator[bytes]:
        deadline = time.monotonic() + self._timeout
        for chunk in response.iter_raw():
            if time.monotonic() > deadline:
                raise PassingFailure(f"no complete answer within {self._timeout:g} s")
            _go_on(path, stopped)
            yield chunk

    def _failure(
        self, path: str, response: httpx.Response, stopped: threading.Event, final: Collection[int]
    ) -> Exception:
        status = response.status_code
        plain = response.headers.get("Content-Encoding", "identity") == "identity"
        body = _first_bytes(self._timed(path, response, stopped), MAX_ERROR_BODY) if plain else b""
        said = self.clean(message_of(body), MAX_ERROR_BODY)
        if is_passing(status) and status not in final:
            return PassingFailure(
                f"the server answered {named(status)}{quoted(clean(said))}",
                seconds_to_wait(response.headers.get("Retry-After")),
            )
        if response.is_redirect:
            target = self.clean(response.headers.get("Location", ""))
            hint = (
                f"It sends us to {target or 'another address'}. Give the final address of the server; none is followed."
            )
            return RefusedRequest(path, status, "", hint)
        return RefusedRequest(path, status, said, _HINTS.get(status, _HINTS[400]))

    def refusal(self, path: str, status: int, said: str) -> Exception:
        """The failure that an error inside a stream stands for."""
        said = self.clean(said, MAX_ERROR_BODY)
        if is_passing(status):
            return PassingFailure(f"the server broke off with {named(status)}{quoted(clean(said))}")
        return RefusedRequest(path, status, said, _HINTS.get(status, _HINTS[400]))

    def clean(self, text: str, limit: int = MAX_MESSAGE) -> str:
        """A server's words, fit for an error (see :func:`~.server_text.clean`), without the key."""
        return clean(text.replace(self._key, "***") if self._key else text, limit)

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        if retry_after is not None:
            return retry_after
        return float(min(FIRST_WAIT * 2**attempt, LONGEST_BACKOFF) * self._jitter.uniform(0.5, 1.0))


def _break(stream: Any) -> None:
    """End a connection for the thread that reads from it, too; closing the socket would not wake that thread."""
    with contextlib.suppress(OSError):  # closed already
        stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _go_on(path: str, stopped: threading.Event) -> None:
    if stopped.is_set():
        raise BackendError(f"POST {path} was given up, because another request failed. See that one's error.")


def is_passing(status: int) -> bool:
    """Whether an answer with this status may be another one later."""
    return status in (408, 429) or (status >= 500 and status != 501)


def _first_bytes(chunks: Iterable[bytes], limit: int) -> bytes:
    found = b""
    for chunk in chunks:
        found += chunk
        if len(found) >= limit:
            break
    return found[:limit]


_LOAD = "/v1/load_lora_adapter"
_UNLOAD = "/v1/unload_lora_adapter"
_FINAL = frozenset({500})
"""vLLM answers so where an adapter does not fit its base; it would not fit the next time either."""


def load_lora(server: JsonServer, model: str, path: str | Path) -> None:
    """Have the server load a PEFT folder under the name ``model``, in place of what it has there.

    Args:
        path: the folder as the server's machine sees it.

    Raises:
        BackendError: if the server cannot load adapters while it runs, or not this one.
    """
    body = {"lora_name": model, "lora_path": str(path)}
    kept = "What it had under this name still answers."
    try:
        try:
            server.ask(_LOAD, body | {"load_inplace": True}, b"".join, final=_FINAL)
            return
        except RefusedRequest as error:
            if error.status != 400 or "already" not in error.said:
                raise
        _forget(server, model)
        kept = "It has nothing under this name now: load a folder that it takes."
        server.ask(_LOAD, body, b"".join, final=_FINAL)
    except RefusedRequest as error:
        if error.status in (401, 403):
            raise
        raise BackendError(
            f'The server did not load adapter `{model}` from {path}: {error.status}, "{clean(error.said)}". '
            + _mend(error, kept)
        ) from error


def _forget(server: JsonServer, model: str) -> None:
    try:
        server.ask(_UNLOAD, {"lora_name": model}, b"".join, final=_FINAL)
    except RefusedRequest as error:
        if error.status not in (400, 404):  # somebody else was faster
            raise


def _mend(error: RefusedRequest, kept: str) -> str:
    if error.status in (404, 405) and "no adapter" not in error.said.lower():
        return (
            "It cannot load adapters while it runs: start vLLM with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or start it anew with the new adapters."
        )
    if error.status == 404:
        return f"{kept} Give a folder that the server's machine has, with the path it has there."
    return f"{kept} Check that the folder was made for the server's base, and that --max-lora-rank is no less."


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


DEFAULT_KEY_ENV = "OPENAI_API_KEY"
USUAL_CONTROL_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<start_of_turn>", "<end_of_turn>", "<bos>",
    "<eos>", "<pad>", "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<|system|>",
    "<|user|>", "<|assistant|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<think>",
    "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<|object_ref_start|>",
    "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|pad|>",
)  # fmt: skip
"""Control tokens of Qwen (all that its tokenizers add), Llama, Gemma, Mistral, Phi, gpt-oss and the testbed.

Servers read them in a message's content, too."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server is, what its models are called, and how to ask it."""

    base_url: str
    """``http(s)://host[:port][/path]``, with or without the ``/v1`` at the end."""
    rubric_model: str = "rubric"
    judge_model: str = "judge"
    base_model: str | None = None
    """The model without adapters; needed only to sample from it."""
    api_key_env: str = DEFAULT_KEY_ENV
    """Name of the environment variable that holds the key; without a value no key is sent."""
    timeout: float = 600.0
    """Seconds for one attempt."""
    retries: int = 5
    concurrency: int = 32
    """Requests at a time; a GPU's server is not busy with few."""
    stream: bool = False
    chat: bool = True
    """``/v1/chat/completions``; false is ``/v1/completions``, where the prompt stands without any template."""
    disable_thinking: bool = True
    """Send ``enable_thinking: false`` to the chat template, as in training; left out if the server refuses it."""
    revision: str | None = None
    """What to call the weights that are served; change it when they change."""
    control_tokens: tuple[str, ...] = USUAL_CONTROL_TOKENS
    """Strings that the server's tokenizer reads as control tokens; prompts have them broken up."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields for each request, such as ``{"top_k": -1}`` where the server has defaults of its own."""

    def __post_init__(self) -> None:
        root_of(self.base_url)
        for name in ("rubric_model", "judge_model", "api_key_env"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty. Give a name, or leave it out for the default.")
        if not (0 < self.timeout < math.inf) or self.retries < 0 or self.concurrency < 1:
            raise ConfigError(
                f"timeout {self.timeout}, retries {self.retries}, concurrency {self.concurrency}: the timeout must be "
                "positive, retries not negative and concurrency at least 1. Change what is not."
            )


def root_of(base_url: str) -> str:
    """The address without ``/v1``, which paths are appended to.

    Raises:
        ConfigError: if it is no plain http or https address.
    """
    if "@" in base_url:  # may hold a password, so it is not repeated
        raise ConfigError(
            "The server's address has a user or password in it. Leave it out; a key comes from an environment variable."
        )
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or half a bracket
        usable = False
    plain = base_url.isascii() and base_url.isprintable() and not set(base_url) & set(" ?#\\")
    if not usable or not plain:
        raise ConfigError(
            f'"{clean(base_url)}" is no server\'s address. Give scheme, host, port and path only, like '
            "http://localhost:8000/v1."
        )
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


def key_from(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key:
        if variable != DEFAULT_KEY_ENV:
            raise BackendError(f"The environment variable {variable} is not set. Set it to the key, or name another.")
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BackendError(f"The key in {variable} has blanks or characters that no key has. Set it again.")
    return key


BYTES_PER_TOKEN = 2
TEMPLATE_TOKENS = 64
_DROPPED_IF_NAMED = {
    "chat_template_kwargs": ("chat_template_kwargs", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
}
"""Fields that not every server knows, and the words by which it refuses them."""


class ServerSampler:
    """A :class:`~rubric_arm_lite.models.sampler.Sampler` over HTTP.

    Samples have empty ``token_ids`` and ``logprobs``, and groups empty ``prompt_ids``. ``tokens_written`` counts what
    the server says it wrote (:mod:`.server_answers` where it does not). Seeds are sent; whether equal seeds give equal
    texts is up to the server.

    Args:
        pause: waits between attempts; tests pass their own.

    Raises:
        BackendError: if the environment variable of the key cannot be used.
    """

    def __init__(self, settings: ServerSettings, pause: Pause = threading.Event.wait) -> None:
        self.settings = settings
        self.tokens_written = 0
        self._server = JsonServer(
            root_of(settings.base_url),
            key_from(settings.api_key_env),
            settings.timeout,
            settings.retries,
            settings.concurrency,
            pause,
        )
        self._dropped: set[str] = set()
        self._one_by_one = False
        self._counts_tokens = True
        self._reloads: dict[str, list[str]] = {}
        self._salts: dict[str, str] = {}

    # --- the Sampler protocol -----------------------------------------------------------------------------------

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """One group per example, in the order of the examples; the first error, or Ctrl-C, ends all.

        Raises:
            BackendError: if a request fails for good, or an answer cannot be used.
        """
        found = {place: group for place, group, _ in self.answered(adapter, examples, sampling)}
        return [found[place] for place in range(len(examples))]

    def answered(
        self, adapter: str | None, examples: Sequence[Example], sampling: Sampling
    ) -> Iterator[tuple[int, RolloutGroup, Usage]]:
        """:meth:`sample` as the answers come in: the example's place, its group, and what it took.

        After an error nothing more is yielded, but everything that was answered before it has been.
        """
        model = self._model(adapter)
        stopped = threading.Event()
        pool = ThreadPoolExecutor(self.settings.concurrency, "rubric-arm-server")
        left = iter(enumerate(examples))
        places: dict[Future[tuple[RolloutGroup, Usage]], int] = {}
        try:
            # No request goes out before there is one less on its way or waiting to be taken: whoever stores what is
            # yielded can lose no more than `concurrency` answers.
            while True:
                for place, example in islice(left, self.settings.concurrency - len(places)):
                    places[pool.submit(self._group, model, example, sampling, stopped)] = place
                if not places:
                    return
                done, _ = wait(places, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: (f.exception() is not None, places[f])):
                    group, usage = future.result()  # raises what it raised, while others may still run
                    self.tokens_written += usage.completion_tokens
                    yield places[future], group, usage
                    del places[future]
        except BaseException:
            stopped.set()
            for future in places:
                future.cancel()
            self._server.abort()
            raise
        finally:
            pool.shutdown()

    def fingerprint(self, adapter: str | None) -> str:
        """Name of what is asked: address, model, revision and fields; the weights themselves are not at hand.

        It changes with :meth:`load_adapter`. If other hands change the weights, change ``revision``.
        """
        settings = self.settings
        model = self._model(adapter)
        parts = [
            self._server.root,
            model,
            settings.revision,
            settings.chat,
            settings.disable_thinking,
            dict(settings.extra_body),
            self._reloads.get(model, []),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def prompt_tokens(self, prompt: str) -> int:
        """Length of a user turn in tokens: what the server's ``/tokenize`` counts (vLLM has it).

        Elsewhere an estimate on the high side for most texts: a token for 2 bytes of UTF-8, and 64 for the template.
        """
        if self._counts_tokens:
            body: dict[str, Any] = {"model": self.settings.base_model or self.settings.rubric_model}
            body |= self._prompt(prompt) | ({"add_generation_prompt": True} if self.settings.chat else {})
            try:
                found = self._server.ask("/tokenize", self._without_dropped(body), _json_or_none)
            except RefusedRequest as error:
                if error.status in (401, 403):
                    raise
                found = None
            count = found.get("count") if isinstance(found, dict) else None
            if type(count) is int and count > 0:
                return count
            self._counts_tokens = False
        return -(-len(prompt.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN) + TEMPLATE_TOKENS

    def control_tokens(self) -> list[str]:
        """What the settings say: a server does not tell which strings its tokenizer reads as control tokens."""
        return list(self.settings.control_tokens)

    # --- more ---------------------------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Have the server load a PEFT folder under an adapter's name, in place of what it has there (vLLM).

        vLLM keeps keys and values of prompts it has read and would use the old adapter's under the new one, where the
        path is the same (in older versions, where the name is). From here on this sampler's requests carry a
        ``cache_salt`` of their own, so they are read anew; other samplers of the same server should be given weights
        by a path that it has not seen.

        Args:
            name: ``rubric`` or ``judge``.
            path: the folder as the server's machine sees it.

        Raises:
            BackendError: if the server cannot load adapters while it runs, or not this one.
        """
        model = self._model(name)
        self._salts[model] = uuid.uuid4().hex  # first: an answer that is lost on its way may have been a yes
        load_lora(self._server, model, path)
        self._reloads.setdefault(model, []).append(str(path))

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    # --- requests -----------------------------------------------------------------------------------------------

    def _model(self, adapter: str | None) -> str:
        match adapter:
            case "rubric":
                return self.settings.rubric_model
            case "judge":
                return self.settings.judge_model
            case None if self.settings.base_model:
                return self.settings.base_model
            case None:
                raise BackendError(
                    "base_model is not given, so the base cannot be asked. Name the server's base model."
                )
            case _:
                raise BackendError(f"Adapter `{adapter}` is not on a server; rubric and judge are. Use one of them.")

    def _group(
        self, model: str, example: Example, sampling: Sampling, stopped: threading.Event
    ) -> tuple[RolloutGroup, Usage]:
        """The completions of one example and what they took: all in one request where the server can."""
        wanted = sampling.num_generations
        written: list[Completion] = []
        tokens = read = 0
        refused = False
        while len(written) < wanted:
            at_once = wanted if wanted > 1 and not written and not refused and not self._one_by_one else 1
            seed = derive_seed(example.seed, len(written)) % 2**31  # fits what any server takes for a seed
            try:
                answer = self._complete(model, example.prompt, sampling, at_once, seed, stopped)
            except RefusedRequest as error:
                if at_once == 1 or error.status not in (400, 422):
                    raise
                refused = True  # perhaps for its n; if for something else, so is the next one
                continue
            written += answer.completions
            tokens += answer.tokens
            read += likely_tokens(example.prompt) if answer.prompt_tokens is None else answer.prompt_tokens
            self._one_by_one = self._one_by_one or refused
        samples = tuple(Sample(c.text, (), (), c.finish_reason) for c in written)
        return RolloutGroup(example, (), samples), Usage(read, tokens)

    def _complete(
        self, model: str, prompt: str, sampling: Sampling, n: int, seed: int, stopped: threading.Event
    ) -> Answer:
        settings = self.settings
        path = "/v1/chat/completions" if settings.chat else "/v1/completions"
        body: dict[str, Any] = {
            **settings.extra_body,
            "model": model,
            **self._prompt(prompt, sampling.thinking),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        if n > 1:
            body["n"] = n
        if model in self._salts:
            body["cache_salt"] = self._salts[model]
        if settings.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        while True:
            sent = self._without_dropped(body)
            try:
                if settings.stream:
                    return self._server.ask(path, sent, partial(self._streamed, path, n), stopped, MAX_STREAM)
                return self._server.ask(path, sent, partial(read_answer, wanted=n), stopped, MAX_BODY)
            except RefusedRequest as error:
                named = {key for key, words in _DROPPED_IF_NAMED.items() if any(w in error.said for w in words)}
                if error.status not in (400, 422) or not named & sent.keys():
                    raise
                self._dropped |= named  # each round leaves out one more field, so there are few

    def _streamed(self, path: str, n: int, chunks: Iterator[bytes]) -> Answer:
        try:
            return read_stream(chunks, n)
        except StreamError as error:
            raise self._server.refusal(path, error.status, error.said) from None

    def _prompt(self, prompt: str, thinking: bool = False) -> dict[str, Any]:
        if not self.settings.chat:
            return {"prompt": prompt}
        body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        if self.settings.disable_thinking or thinking:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        return body

    def _without_dropped(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in body.items() if key not in self._dropped}


def _json_or_none(chunks: Iterator[bytes]) -> Any:
    try:
        return parse_json(b"".join(chunks))
    except ValueError:
        return None
