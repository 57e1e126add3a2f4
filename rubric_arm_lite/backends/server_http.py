"""Talk to an HTTP server that may be busy, broken or hostile: JSON goes out, bounded bytes come back.

Retried, with exponential backoff and jitter: refused and cut connections, timeouts, 408, 429 and 5xx (``Retry-After``
is honoured up to ``LONGEST_WAIT``). Every other answer is final. Whatever the server says is untrusted: an answer
is read up to a limit, compressed ones are refused (a small one can unpack to any size), and its words enter an error
only after :func:`~.server_text.clean`. Redirects are never followed, so the key goes to the host it was given for and
to no other.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from rubric_arm_lite.backends.server_text import MAX_MESSAGE, clean, message_of, named, quoted, seconds_to_wait
from rubric_arm_lite.errors import BackendError

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
