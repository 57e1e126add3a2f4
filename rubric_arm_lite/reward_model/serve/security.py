"""Checks before a request reaches the service: who may ask, and how much.

The Host header must be a name of this service or a bare address: a page of another site whose name was made to point
here (DNS rebinding) sends its own name. A body must have the content type of JSON, which no page of another site can
send without a preflight request, and no preflight is granted here. A body is read whole before anything parses it, up
to a hard limit of bytes and seconds, whatever length it announced. Texts of requests never reach the log.

Starlette's TrustedHostMiddleware cannot admit every address, and uvicorn's ``limit_concurrency`` counts idle
connections and refuses health checks, so neither takes the place of these checks.
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
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
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
"""Headers of every answer."""


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """Who may ask, and how much."""

    hosts: tuple[str, ...] = ()
    """Names of the service besides ``localhost`` and addresses; ``.name`` means all names below it."""
    key: str | None = None
    max_body: int = 1 << 20
    """Bytes of a body."""
    body_seconds: float = 30.0
    """Time for a body to arrive."""
    max_open: int = 512
    """Requests in progress, waiting ones included."""
    log_requests: bool = False
    """Log method, route, status and milliseconds of each request; never a text."""


class AsciiJSON(JSONResponse):
    """JSON in ASCII, in which half of a surrogate pair in a model's text is an escape."""

    def render(self, content: Any) -> bytes:
        """The bytes of the body."""
        return json.dumps(content).encode("ascii")


def refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> AsciiJSON:
    """An answer that is not a success."""
    return AsciiJSON({"error": sentence}, status, headers)


class SecurityMiddleware:
    """ASGI middleware around the whole service."""

    def __init__(self, app: ASGIApp, settings: SecuritySettings) -> None:
        self._app = app
        self._settings = settings
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self._open += 1
        try:
            await self._app(scope, await self._admit(scope, receive), send_with_headers)
        except HTTPException as error:
            await refusal(error.status_code, error.detail, error.headers)(scope, receive, send_with_headers)
        except Exception as error:  # answered by the application; its message may hold a request's text
            frames = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("%s at\n%s", type(error).__name__, frames)
        finally:
            self._open -= 1
            if self._settings.log_requests:
                method = scope["method"] if scope["method"].isalpha() and len(scope["method"]) < 10 else "-"
                route = getattr(scope.get("route"), "path", "-")
                LOG.info("%s %s %d %.0f ms", method, route, status, 1000 * (time.monotonic() - start))

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """The rest of the request, its body already read; an HTTPException if it is refused."""
        headers = Headers(scope=scope)
        if not self._is_ours(host_name(headers.get("host", ""))):
            raise HTTPException(
                403, "The service was called by a name it does not know. Start it with --allow-host NAME."
            )
        if self._settings.key is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(key.strip().encode(), self._settings.key.encode())
            if scheme.lower() != "bearer" or not right:
                sentence = "The key is missing or wrong. Send it as Authorization: Bearer KEY."
                raise HTTPException(401, sentence, {"www-authenticate": "Bearer"})
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return receive  # its body, if it has one, is never read
        if self._open > self._settings.max_open:
            raise HTTPException(503, "Too many requests are open. Try again later.", {"retry-after": "1"})
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "The body is not called JSON. Send it with Content-Type: application/json.")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "The body is compressed. Send it as it is.")
        first: list[Message] = [{"type": "http.request", "body": await self._read(Request(scope, receive))}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        return replay

    def _is_ours(self, name: str) -> bool:
        if any(name == own or (own.startswith(".") and name.endswith(own)) for own in self._settings.hosts):
            return True
        try:
            return name == "localhost" or bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    async def _read(self, request: Request) -> bytes:
        """The whole body; an HTTPException if it is too large, too slow or not UTF-8."""
        limit, close = self._settings.max_body, {"connection": "close"}
        too_large = HTTPException(413, f"The body is larger than {limit} bytes. Shorten the texts.", close)
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > limit:
                        raise too_large
            body.decode("utf-8")
        except TimeoutError:
            raise HTTPException(408, "The body came too slowly. Send it at once.", close) from None
        except ClientDisconnect:
            raise HTTPException(400, "The body ended early. Send all of it.") from None
        except UnicodeDecodeError as error:
            raise HTTPException(400, f"The body is not UTF-8 at byte {error.start}. Send JSON in UTF-8.") from None
        if 0 in body:  # never in JSON in UTF-8, and Python would take it for UTF-16 or UTF-32
            raise HTTPException(400, "The body has bytes of zero. Send JSON in UTF-8.")
        return bytes(body)


def host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")
