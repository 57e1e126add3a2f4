"""Run the service until SIGTERM or SIGINT: then no new requests, the others answered, and a return."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from rubric_arm_lite.errors import ConfigError

EXTRA_SECONDS = 5
"""Beyond a request's own time, what stopping waits for at most before it gives up on connections."""

HEAD_SECONDS = 30.0
"""How long a connection may be open without a whole request's head on it; a body has its own time (:mod:`.gate`)."""


class IdleConnections:
    """Closes connections on which no request comes: uvicorn waits for the rest of a head without end."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[tuple[Any, Any], float] = {}

    def close(self, connections: Iterable[Any], now: float) -> None:
        """Look at uvicorn's connections, at a time in seconds; one that waits for a new request is a new one."""
        idle = [(c, c.cycle) for c in connections if c.cycle is None or c.cycle.response_complete]
        self._since = {each: self._since.get(each, now) for each in idle}
        for (connection, _), since in self._since.items():
            if now - since >= self._seconds:
                connection.shutdown()


def check_installed() -> None:
    """Raise a ConfigError unless the libraries of the extra ``serve`` are there."""
    try:
        import fastapi
        import uvicorn
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; the service needs it. In the project's folder: pip install -e '.[serve]'"
        ) from error
    del fastapi, uvicorn


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, not yet listening, so that a taken port is known before a model is loaded.

    Raises:
        ConfigError: if the address cannot be had.
    """
    found = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        if found is not None:
            found.close()
        raise ConfigError(
            f"--host {host} --port {port} cannot be used: {error.strerror or error}. Choose another port (0 takes a "
            "free one) or host."
        ) from error
    return found


def url_of(bound: socket.socket, host: str) -> str:
    """How a client on this machine calls a bound socket."""
    port = bound.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a bound socket."""
    import ipaddress

    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def key_from(variable: str) -> str:
    """The key that requests must carry.

    Raises:
        ConfigError: if the variable is not set, or holds what no header can.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"--key-env {variable}: the variable is not set, or has blanks or letters that no key has. Set it to the "
            "key."
        )
    return key


def run(
    app: object,
    bound: socket.socket,
    seconds: float,
    started: Callable[[], None],
    head_seconds: float = HEAD_SECONDS,
) -> bool:
    """Serve at a bound socket until a signal; a second SIGINT ends it at once.

    Returns:
        Whether what had been asked was waited for.

    Args:
        seconds: time that a request may take.
        started: called when requests are taken.
        head_seconds: time that a connection may have no request on it.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    idle = IdleConnections(head_seconds)

    async def look() -> None:
        idle.close(list(server.server_state.connections), time.monotonic())

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=int(seconds) + EXTRA_SECONDS,
        callback_notify=look,
        timeout_notify=1,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # uvicorn answers a signal by an orderly stop and then raises it again; to have been stopped is a success here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server = Server(config)
    server.run(sockets=[bound])
    return not server.force_exit
