"""Run the service until SIGTERM or SIGINT: take no new requests, answer the others, return."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from rubric_arm_lite.errors import ConfigError


def check_installed() -> None:
    """Raise a ConfigError unless the libraries of the extra ``serve`` are there."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; the service needs it. In the project's folder: pip install -e '.[serve]'"
        ) from error


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, not yet listening, so that a taken port is known before a model is loaded.

    Raises:
        ConfigError: if the address cannot be used.
    """
    bound = None
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = addresses[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        problem = f"--host {host} --port {port} cannot be used: {error.strerror or error}"
        raise ConfigError(f"{problem}. Choose another port (0 takes a free one) or host.") from error
    return bound


def url_of(bound: socket.socket, host: str) -> str:
    """The URL of a bound socket for a client on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{bound.getsockname()[1]}/"


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a bound socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def key_from(variable: str) -> str:
    """The key that requests must carry, from an environment variable.

    Raises:
        ConfigError: if the variable is not set, or holds what a header cannot.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        problem = "the variable is not set, or has blanks or letters that a key cannot have"
        raise ConfigError(f"--key-env {variable}: {problem}. Set it to the key.")
    return key


def run(
    app: object, bound: socket.socket, seconds: float, started: Callable[[], None], idle_seconds: float = 30.0
) -> bool:
    """Serve at a bound socket until a signal; a second SIGINT stops at once.

    Args:
        seconds: time limit of a request.
        started: called when requests are taken.
        idle_seconds: time that a connection may be open without a complete request head; a body has its own limit.

    Returns:
        Whether all requests that had been taken were answered.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    idle_since: dict[tuple[Any, Any], float] = {}

    async def close_idle_connections() -> None:
        """Close connections on which no request arrives; uvicorn's keep-alive limit ends with the first byte."""
        nonlocal idle_since
        now = time.monotonic()
        connections: list[Any] = list(server.server_state.connections)
        idle = [(c, c.cycle) for c in connections if c.cycle is None or c.cycle.response_complete]
        idle_since = {each: idle_since.get(each, now) for each in idle}
        for (connection, _), since in idle_since.items():
            if now - since >= idle_seconds:
                connection.shutdown()

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",  # limits the size of a request's head
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(seconds) + 5,  # so many seconds more than a request may take
        callback_notify=close_idle_connections,
        timeout_notify=1,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # uvicorn raises a signal again after an orderly stop; to have been stopped is a success here.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server = Server(config)
    server.run(sockets=[bound])
    return not server.force_exit
