"""A small OpenAI-compatible server for tests, on real sockets, that can misbehave in every way."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rubric_arm_lite.types import Example
from tests.scripted import END_TOKEN, Script


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][0]["content"] if "messages" in self.body else self.body["prompt"])


@dataclass
class Reply:
    """A response: a body of known length, or pieces of an unknown one; ``cut`` closes the connection before the end."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Sequence[bytes] | None = None
    cut: bool = False
    delay: float = 0.0
    """Seconds before the answer."""
    drip: float = 0.0
    """Seconds before each piece."""


Behavior = Callable[[Request], Reply]


class FakeServer:
    """Answers each POST by ``behavior``; records every request and the largest number at a time."""

    def __init__(self, behavior: Behavior, url: str) -> None:
        self.behavior = behavior
        self.url = url
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._active = 0
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            self._active += 1
            self.most_at_once = max(self.most_at_once, self._active)
        try:
            reply = self.behavior(request)
            time.sleep(reply.delay)
            return reply
        finally:
            with self._lock:
                self._active -= 1


@contextmanager
def serve(behavior: Behavior) -> Iterator[FakeServer]:
    """A server that runs within the ``with`` block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are written apart; the second would wait for an ACK

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            data = self.rfile.read(length)
            if len(data) < length:
                self.close_connection = True  # the client gave up
                return
            try:
                self._send(
                    fake.answer(Request(self.path, {k.title(): v for k, v in self.headers.items()}, json.loads(data)))
                )
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client gave up

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.pieces is None:
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
            else:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in reply.pieces:
                    time.sleep(reply.drip)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
                if not reply.cut:
                    self.wfile.write(b"0\r\n\r\n")
            self.close_connection = self.close_connection or reply.cut

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # a client that gave up is no error here
                super().handle_error(request, client_address)

    server = Quiet(("127.0.0.1", 0), Handler)
    fake = FakeServer(behavior, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def as_json(value: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {name.replace("_", "-"): text for name, text in headers.items()})


def completions(*texts: str, reason: Any = "stop", tokens: int | None = None) -> dict[str, Any]:
    """A whole answer; ``tokens`` is its usage (default: 10 for each text)."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        for i, text in enumerate(texts)
    ]
    return {"choices": choices, "usage": {"completion_tokens": 10 * len(texts) if tokens is None else tokens}}


def event(index: int = 0, text: str | None = None, reason: str | None = None, end: bytes = b"\n\n") -> bytes:
    """One event of a stream."""
    delta = {} if text is None else {"content": text}
    body = {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + end


def scripted(script: Script) -> Behavior:
    """A server whose models write what a :class:`ScriptedSampler` with this script writes, and count as it does."""

    def behave(request: Request) -> Reply:
        if request.path == "/tokenize":
            return as_json({"count": len(request.prompt.split()) + 4})
        body = request.body
        example = Example("", request.prompt, 0)
        written = [script(body["model"], example, i) for i in range(body.get("n", 1))]
        whole = [w if isinstance(w, tuple) else (w, "stop") for w in written]
        tokens = sum(len(text.encode()) + (reason == "stop") for text, reason in whole)
        assert END_TOKEN  # one token more than bytes, as there
        if not body.get("stream"):
            answer = completions(*(text for text, _ in whole), tokens=tokens)
            for choice, (_, reason) in zip(answer["choices"], whole, strict=True):
                choice["finish_reason"] = reason
            return as_json(answer)
        pieces = [event(i, text[j : j + 7]) for i, (text, _) in enumerate(whole) for j in range(0, len(text), 7)]
        pieces += [event(i, None, reason) for i, (_, reason) in enumerate(whole)]
        usage = json.dumps({"choices": [], "usage": {"completion_tokens": tokens}}).encode()
        return Reply(pieces=[*pieces, b"data: " + usage + b"\n\n", b"data: [DONE]\n\n"])

    return behave
