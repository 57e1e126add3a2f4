"""The ``openai`` client with bounds: it sees an answer only once all of it has arrived, in time and not too large.

A stream is read to its end, too, so that the client's own retries also cover streams that break off or report an error.
This module imports ``openai``; import it only where a server is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
from collections.abc import Mapping
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, Omit

from rubric_arm_lite.errors import MAX_MESSAGE, BackendError, clean
from rubric_arm_lite.models.server_answers import RefusedRequest, describe_status

MAX_BODY = 64 * 2**20
"""Bytes of an answer."""
MAX_MATCHED = 64 * 2**10
"""Characters of an error message that are kept, to find the name of a refused field in it."""
EVENT_STREAM = "text/event-stream"
LOAD_ADAPTER = "/v1/load_lora_adapter"
_KEY = "Check the key in the environment variable that the settings name (--server-key-env)."
_ADDRESS = "Check the address, and that the server has models of these names (--rubric-model, --judge-model)."
_HINTS = {401: _KEY, 403: _KEY, 404: _ADDRESS, 405: _ADDRESS}
_OTHER_HINT = "Check the names of the models, and that prompt and answer fit the server's context."


class BoundedHttpClient(httpx2.AsyncClient):
    """Reads every answer whole, within ``timeout`` seconds for the attempt and :data:`MAX_BODY`.

    A stream becomes the JSON list of its events, or the error response that it reports.
    """

    def __init__(self, host: str, timeout: float, connections: int) -> None:
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        mounts = {f"all://{f'[{host}]' if ':' in host else host}": None} if _is_loopback(host) else None  # no proxy
        super().__init__(timeout=timeout, limits=limits, mounts=mounts, headers={"Accept-Encoding": "identity"})
        self._seconds = timeout

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request and return its complete response.

        Raises:
            httpx2.RequestError: for a failure that another attempt may not meet.
            BackendError: if the answer is compressed or too large.
        """
        try:
            async with asyncio.timeout(self._seconds):
                response = await super().send(request, **options | {"stream": True})
                async with contextlib.aclosing(response):
                    body = await _read(response)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("the answer took too long", request=request) from error
        status, headers = response.status_code, response.headers
        if response.is_success and request.headers["Accept"] == EVENT_STREAM:
            status, body = _unwrap(body, request)
        # vLLM answers 500 where an adapter does not fit its base; it would not fit the next time either.
        if status == 501 or (status == 500 and request.url.path.endswith(LOAD_ADAPTER)):
            headers["x-should-retry"] = "false"
        return httpx2.Response(status, headers=headers, content=body, request=request)


def _is_loopback(host: str) -> bool:
    """Whether a host is this machine, which no proxy of the environment can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _read(response: httpx2.Response) -> bytes:
    path, encoding = response.request.url.path, response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise BackendError(
            f"POST {path} was answered compressed ({clean(encoding)}), which was not requested. Switch compression off "
            "in the server, or in the proxy before it."
        )
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            raise BackendError(
                f"POST {path} was answered with more than {MAX_BODY} bytes. Check that the address is an "
                "OpenAI-compatible server's."
            )
    return bytes(body)


def _unwrap(stream: bytes, request: httpx2.Request) -> tuple[int, bytes]:
    """Status and body that a stream stands for: a list of its events, or the first error that it reports.

    Lines end in LF or CRLF, events with a blank line; ``[DONE]`` needs none. Comments and other fields are skipped.
    """
    blocks = re.split(rb"(?:\r?\n){2}", stream)
    events = [b"\n".join(re.findall(rb"^data: ?(.*?)\r?$", block, re.MULTILINE)) for block in blocks]
    for event in events:
        if b'"error"' in event:
            try:
                error = json.loads(event).get("error")
            except (ValueError, AttributeError, RecursionError):
                continue  # the reader of the answer reports it
            if error:
                code = error.get("code") if isinstance(error, dict) else None
                status = code if type(code) is int and 400 <= code < 600 else 400
                return status, json.dumps({"error": error}).encode("ascii")
    if b"[DONE]" not in events:
        raise httpx2.RemoteProtocolError("the stream broke off before its end", request=request)
    return 200, b"[" + b",".join(filter(None, events[: events.index(b"[DONE]")])) + b"]"


class ServerClient:
    """POSTs JSON to the paths of one server; the ``openai`` client retries failures that may pass.

    ``timeout`` is for one attempt, from connecting to the last byte. The key is sent as a Bearer token; no error shows
    it, even if the server repeats it.

    Raises:
        BackendError: if the address or the environment's proxies cannot be used.
    """

    def __init__(self, root: str, key: str | None, timeout: float, retries: int, connections: int) -> None:
        self.root, self._key, self._timeout = root, key, timeout
        # `openai` would also send an admin key, an organization and a project from the environment.
        authorization = Omit() if key is None else f"Bearer {key}"
        self._headers = {"Authorization": authorization, "OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        try:
            http = BoundedHttpClient(httpx2.URL(root).host, timeout, connections)
            self.openai = AsyncOpenAI(
                api_key=key or "none", base_url=root, timeout=timeout, max_retries=retries, http_client=http
            )
        except (ValueError, ImportError, httpx2.InvalidURL) as error:  # its text may hold a proxy's password
            raise BackendError(
                f"No connection can be made to {root} from this environment. Check the address; give HTTP_PROXY, "
                "HTTPS_PROXY and ALL_PROXY as http://host:port, or unset them."
            ) from error

    async def post(self, path: str, body: Mapping[str, Any], stream: bool = False) -> bytes:
        """The answer's bytes; for a stream the JSON list of its events.

        Raises:
            RefusedRequest: if the server refuses the request for good.
            BackendError: if the last attempt fails, or the answer cannot be used.
        """
        headers = self._headers | {"Accept": EVENT_STREAM if stream else "application/json"}
        content = json.dumps(body).encode("ascii")  # \u escapes: the request is well-formed whatever the text is
        try:
            response = await self.openai.post(
                path, cast_to=httpx2.Response, content=content, options={"headers": headers}
            )
        except APIStatusError as error:
            raise self._status_error(path, error) from None  # its own text may repeat the key
        except APIConnectionError as error:
            cause = error.__cause__ or error
            reason = f"the connection failed ({self.redact(str(cause)) or type(cause).__name__})"
            if isinstance(error, APITimeoutError):
                reason = f"no complete answer within {self._timeout:g} s"
            raise self._failed(path, error, reason) from error
        return response.content

    def redact(self, text: str, limit: int = MAX_MESSAGE) -> str:
        """Untrusted text for an error (see :func:`~rubric_arm_lite.errors.clean`), without the key."""
        return clean(text.replace(self._key, "***") if self._key else text, limit)

    def _status_error(self, path: str, error: APIStatusError) -> BackendError:
        response, status = error.response, error.status_code
        if response.is_redirect:
            target = self.redact(response.headers.get("Location", "")) or "another address"
            hint = f"It redirects to {target}. Give the final address of the server; redirects are not followed."
            return RefusedRequest(path, status, "", hint)
        message: object = error.body
        for name in ("error", "message", "detail"):  # OpenAI's form, or FastAPI's
            message = message.get(name, message) if isinstance(message, dict) else message
        text = self.redact(message if isinstance(message, str) else response.text, MAX_MATCHED)
        may_pass = status >= 500 or status in (408, 409, 429)
        if not may_pass or response.headers.get("x-should-retry") == "false":
            return RefusedRequest(path, status, text, _HINTS.get(status, _OTHER_HINT))
        delay = self.redact(response.headers.get("Retry-After", ""))
        retry_after = f", with Retry-After: {delay}" if delay else ""
        return self._failed(path, error, f"the server answered {describe_status(status, text)}{retry_after}")

    def _failed(self, path: str, error: APIConnectionError | APIStatusError, reason: str) -> BackendError:
        attempts = int(error.request.headers["x-stainless-retry-count"]) + 1
        return BackendError(
            f"POST {path} failed {attempts} times at {self.root}, at last: {reason}. Check that the server runs there "
            "and is not overloaded; or allow it more time, more retries or less concurrency."
        )
