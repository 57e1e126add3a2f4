"""Binding an address, and stopping without losing a request."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.reward_model.serve.server import bind, check_installed, is_loopback, key_from, url_of


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"^uvicorn is not installed; .* pip install -e '\.\[serve\]'$"):
        check_installed()


def test_addresses() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert url_of(bound, "127.0.0.1") == f"http://127.0.0.1:{port}/"
        assert url_of(bound, "0.0.0.0") == f"http://127.0.0.1:{port}/"
        assert url_of(bound, "::1") == f"http://[::1]:{port}/"
        assert is_loopback(bound)
    with bind("0.0.0.0", 0) as bound:
        assert not is_loopback(bound)


def test_unusable_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} cannot be used: Address already in use"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot be used"):
        bind("no such host", 0)


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", " s3cret \n")
    assert key_from("A_KEY") == "s3cret"
    for unusable in ("", "  ", "two words", "schlüssel"):
        monkeypatch.setenv("A_KEY", unusable)
        with pytest.raises(ConfigError, match="--key-env A_KEY"):
            key_from("A_KEY")
    monkeypatch.delenv("A_KEY")
    with pytest.raises(ConfigError, match="not set"):
        key_from("A_KEY")


@contextmanager
def serving() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The service in a process of its own, and its address; its model waits for :func:`let_go`."""
    root, pipe = Path(__file__).resolve().parents[2], subprocess.PIPE
    command = [sys.executable, "-m", "tests.serve_script"]
    served = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=root)
    assert served.stdout is not None
    try:
        yield served, served.stdout.readline().strip()
    finally:
        served.kill()
        served.communicate()


def let_go(served: subprocess.Popen[str]) -> None:
    assert served.stdin is not None
    served.stdin.write("go\n")
    served.stdin.flush()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_taken_before_a_signal_are_answered(number: signal.Signals) -> None:
    """Eight requests in batches of one, of which seven still wait when the signal comes."""
    with serving() as (served, url):
        with ThreadPoolExecutor(8) as pool:
            bodies = [{"prompt": f"request {i}"} for i in range(8)]
            asked = [pool.submit(httpx.post, f"{url}v1/rubric", json=body, timeout=60) for body in bodies]
            until(lambda: httpx.get(f"{url}healthz").json()["waiting"] == 7)
            served.send_signal(number)
            until(lambda: not answers(url))
            let_go(served)
            assert [future.result().json()["rubric"]["criteria"][0]["text"] for future in asked] == [
                f"The response is number {i}" for i in range(8)
            ]
        out, err = served.communicate(timeout=30)
        assert (served.returncode, out) == (0, "answered 8, all: True\n")
        assert "Traceback" not in err


def test_idle_connections_are_closed() -> None:
    """Without a first byte, without the end of a head, without the end of a second head; one with a request stays."""
    with serving() as (served, url):
        port, whole = int(url.rstrip("/").rpartition(":")[2]), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        body = b'{"prompt": "request 1"}'
        head = b"POST /v1/rubric HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        asked = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        sent = (b"", b"POST /v1/rub", whole + whole[:9], asked)
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in sent]
        for client, content in zip(clients, sent, strict=True):
            client.sendall(content)
        received = [until_closed(client) for client in clients[:3]]
        assert [answer.count(b"HTTP/1.1 200") for answer in received] == [0, 0, 1]
        let_go(served)
        assert b"The response is number 1" in until_closed(clients[3])


def until_closed(client: socket.socket) -> bytes:
    with client:
        return b"".join(iter(lambda: client.recv(9999), b""))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Whether the service accepts a new connection."""
    try:
        httpx.get(f"{url}healthz", timeout=5)
    except httpx.HTTPError:
        return False
    return True
