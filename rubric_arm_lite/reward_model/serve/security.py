"""What stands before the service: who may ask, how much, and which headers go with every answer.

A request's Host must be a name that this service has, or a bare address: a page of another site whose name was made to
point here (DNS rebinding) comes with its own. A body must call itself JSON, which no page of another site can send
without asking first, and nobody here says yes. It is read whole before anything looks at it, up to a hard limit of
bytes and seconds, whatever length it announced. Texts of requests never reach the log.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("rubric_arm_lite.reward_model.serve")
OPEN_PATHS = ("/healthz", "/docs", "/docs.css", "/openapi.json")
"""Paths that need no key; they tell nothing that README does not."""
EMBEDDERS = (
    "'self' http://localhost:* http://127.0.0.1:* https://colab.research.google.com https://*.googleusercontent.com "
    "https://*.colab.dev"
)
"""Who may show the page in a frame: notebooks on this machine and on Colab."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors {EMBEDDERS}"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Who may ask, and how much."""

    hosts: tuple[str, ...] = ()
    """Names by which the service may be called besides ``localhost`` and addresses; ``.name`` means all below it."""
    key: str | None = None
    max_body: int = 1 << 20
    """Bytes of a body."""
    body_seconds: float = 30.0
    """Time for a body to arrive."""
    max_open: int = 512
    """Requests in progress, waiting ones included."""
    log_requests: bool = False
    """A line per request: method, route, status, milliseconds; never a text."""


class Refusal(Exception):  # noqa: N818  (an answer as much as an error)
    """An answer that is not a success: status, one sentence, and more headers."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


class Gate:
    """ASGI middleware around the whole service."""

    def __init__(self, app: ASGIApp, settings: GateSettings) -> None:
        self._app = app
        self._settings = settings
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        self._open += 1
        try:
            await self._app(scope, await self._admit(scope, receive), answer)
        except Refusal as refusal:
            await _refuse(refusal, answer)
        except Exception as error:
            log_error(error)
            if not status:
                await _refuse(Refusal(500, "The service failed. Its log says where; please report it."), answer)
        finally:
            self._open -= 1
            if self._settings.log_requests:
                route = getattr(scope.get("route"), "path", "-")
                spent = 1000 * (time.monotonic() - start)
                LOG.info("%s %s %d %.0f ms", _word(scope["method"]), route, status, spent)

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """The rest of the request, its body already read.

        Raises:
            Refusal: if it may not pass.
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._check_host(headers.get("host", ""))
        self._check_key(scope["path"], headers.get("authorization", ""))
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive  # its body, if it has one, is never read
        if self._open > self._settings.max_open:
            raise Refusal(503, "Too many requests are open. Try again later.", {"retry-after": "1"})
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "The body is not called JSON. Send it with Content-Type: application/json.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal(415, "The body is compressed. Send it as it is.")
        body = await self._read(headers.get("content-length", ""), receive)
        return _replay(body, receive)

    def _check_host(self, host: str) -> None:
        name = host_name(host)
        if name == "localhost" or _is_address(name):
            return
        if any(name == known or (known[:1] == "." and name.endswith(known)) for known in self._settings.hosts):
            return
        raise Refusal(403, "The service does not know the name it was called by. Start it with --allow-host NAME.")

    def _check_key(self, path: str, given: str) -> None:
        key = self._settings.key
        if key is None or path in OPEN_PATHS:
            return
        scheme, _, value = given.partition(" ")
        same = hmac.compare_digest(value.strip().encode("latin-1"), key.encode())
        if scheme.lower() != "bearer" or not same:
            said = "The key is missing or wrong. Send it as Authorization: Bearer KEY."
            raise Refusal(401, said, {"www-authenticate": "Bearer"})

    async def _read(self, announced: str, receive: Receive) -> bytes:
        limit = self._settings.max_body
        too_large = Refusal(413, f"The body is larger than {limit} bytes. Shorten the texts.", {"connection": "close"})
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refusal(400, "The body ended early. Send all of it.")
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Refusal(408, "The body came too slowly. Send it at once.", {"connection": "close"}) from None
        try:
            body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refusal(400, f"The body is not UTF-8 at byte {error.start}. Send JSON in UTF-8.") from None
        if 0 in body:  # no JSON in UTF-8 has one, and Python would take it for UTF-16 or UTF-32
            raise Refusal(400, "The body has bytes of zero. Send JSON in UTF-8.")
        return bytes(body)


def host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _replay(body: bytes, receive: Receive) -> Receive:
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed


async def _refuse(refusal: Refusal, send: Send) -> None:
    content = json.dumps({"error": refusal.sentence}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **refusal.headers}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})


def log_error(error: Exception) -> None:
    """Log what kind of error it was and where it came from, without its message: that may hold a request's text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("%s at\n%s", type(error).__name__, frames)


def _word(method: str) -> str:
    return method if method.isalpha() and len(method) < 10 else "-"
