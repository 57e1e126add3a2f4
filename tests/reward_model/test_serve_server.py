"""Binding an address, and stopping without losing a request."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import pytest

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.reward_model.serve.app import build_app
from rubric_arm_lite.reward_model.serve.batcher import BatchedJudge, Batcher
from rubric_arm_lite.reward_model.serve.schema import Body, WrittenRubric
from rubric_arm_lite.reward_model.serve.security import SecuritySettings
from rubric_arm_lite.reward_model.serve.server import bind, check_installed, is_loopback, key_from, run, url_of
from tests.serving import model
from tests.warm import begin, wait_for


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


def serve_scripted(go: Path) -> None:
    """Work for a process: serve a scripted model that waits for the file ``go``, until a signal."""
    scripted = model()
    judge = BatchedJudge(scripted, "final")

    def answer(requests: Sequence[Body]) -> list[WrittenRubric | Exception]:
        until(go.exists)
        return judge.answer(requests)

    app = build_app("script", judge, Batcher(answer, batch=1), SecuritySettings(), 60.0)
    with bind("127.0.0.1", 0) as bound:
        url = url_of(bound, "127.0.0.1")
        answered = run(app, bound, 60.0, lambda: print(url, flush=True), 1.5)
    print(f"answered {len(scripted.model.calls)}, all: {answered}")  # type: ignore[attr-defined]


@contextmanager
def serving(folder: Path) -> Iterator[tuple[BaseProcess, str]]:
    """The service in a process of its own, and its address; its model waits for ``folder / "go"``."""
    log = folder / "log"
    served = begin(serve_scripted, folder / "go", log=log)
    try:
        wait_for(lambda: log.read_text().endswith("/\n"), served, log)
        yield served, log.read_text().strip()
    finally:
        served.kill()
        served.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_taken_before_a_signal_are_answered(number: signal.Signals, tmp_path: Path) -> None:
    """Eight requests in batches of one, of which seven still wait when the signal comes."""
    with serving(tmp_path) as (served, url), httpx.Client(base_url=url, timeout=60) as client:
        with ThreadPoolExecutor(8) as pool:
            bodies = [{"prompt": f"request {i}"} for i in range(8)]
            asked = [pool.submit(client.post, "v1/rubric", json=body) for body in bodies]
            until(lambda: client.get("healthz").json()["waiting"] == 7)
            assert served.pid is not None
            os.kill(served.pid, number)
            until(lambda: not answers(url))
            (tmp_path / "go").touch()
            assert [future.result().json()["rubric"]["criteria"][0]["text"] for future in asked] == [
                f"The response is number {i}" for i in range(8)
            ]
        served.join(30)
        printed = (tmp_path / "log").read_text()
        assert served.exitcode == 0 and printed.endswith("\nanswered 8, all: True\n"), printed
        assert "Traceback" not in printed


def test_idle_connections_are_closed(tmp_path: Path) -> None:
    """Without a first byte, without the end of a head, without the end of a second head; one with a request stays."""
    with serving(tmp_path) as (_, url):
        port, whole = port_of(url), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        body = b'{"prompt": "request 1"}'
        head = b"POST /v1/rubric HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        asked = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        sent = (b"", b"POST /v1/rub", whole + whole[:9], asked)
        clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in sent]
        for client, content in zip(clients, sent, strict=True):
            client.sendall(content)
        received = [until_closed(client) for client in clients[:3]]
        assert [answer.count(b"HTTP/1.1 200") for answer in received] == [0, 0, 1]
        (tmp_path / "go").touch()
        assert b"The response is number 1" in until_closed(clients[3])


def until_closed(client: socket.socket) -> bytes:
    with client:
        return b"".join(iter(lambda: client.recv(9999), b""))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def port_of(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def answers(url: str) -> bool:
    """Whether the service accepts a new connection."""
    try:
        socket.create_connection(("127.0.0.1", port_of(url)), timeout=5).close()
    except OSError:
        return False
    return True
