"""Checks of requests before the service handles them."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from rubric_arm_lite.reward_model.serve.security import host_name
from tests.serving import PAIR, Served, serving

KEY = "s3cret-key"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(
        page=True, max_body=2000, body_seconds=0.5, hosts=("judge.example", ".colab.dev"), log_requests=True
    ) as s:
        yield s


def error_of(reply: httpx.Response) -> str:
    """The one sentence of a refusal."""
    assert reply.headers["content-type"] == "application/json"
    assert reply.json().keys() == {"error"}
    return str(reply.json()["error"])


def raw(served: Served, request: bytes) -> bytes:
    """Send bytes as they are and read until the service closes the connection, or is silent for a while."""
    port = int(served.url.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except TimeoutError:
            pass
        return b"".join(parts)


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("192.168.1.5", True),  # a rebound name is a name, never an address
        ("judge.example:8000", True),
        ("8000-abc.prod.colab.dev", True),
        ("evil.example", False),
        ("judge.example.evil.com", False),
        ("evilcolab.dev", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("", False),
        ("[evil", False),
    ],
)
def test_only_known_names_are_answered(served: Served, host: str, passes: bool) -> None:
    for reply in (
        served.client.get("/", headers={"host": host}),
        served.client.post("/v1/compare", json=PAIR, headers={"host": host}),
    ):
        assert reply.status_code == (200 if passes else 403)
        if not passes:
            assert "--allow-host" in error_of(reply)


def test_host_names() -> None:
    assert [host_name(h) for h in ("A.b:1", "[::1]:80", "::1", "a.b.", "")] == ["a.b", "::1", "", "a.b", ""]


def test_a_page_of_another_site_cannot_post(served: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "application/jsonp"):
        reply = served.client.post("/v1/compare", content=b"{}", headers={"content-type": kind})
        assert reply.status_code == 415
        assert "application/json" in error_of(reply)
    asks = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    preflight = served.client.options("/v1/compare", headers=asks)
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers(served: Served) -> None:
    for reply in (
        served.client.get("/"),
        served.client.get("/nowhere"),
        served.client.post("/v1/rubric", json={"prompt": "a"}),
        served.client.get("/", headers={"host": "evil.example"}),
    ):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"


def test_bodies_have_a_hard_limit(served: Served) -> None:
    large = {**PAIR, "response_a": "x" * 3000}
    reply = served.client.post("/v1/compare", json=large)
    assert reply.status_code == 413
    assert "2000 bytes" in error_of(reply)

    def chunks() -> Iterator[bytes]:  # without a length
        for _ in range(100):
            yield b"x" * 100

    reply = served.client.post("/v1/compare", content=chunks(), headers={"content-type": "application/json"})
    assert reply.status_code == 413
    head = b"POST /v1/compare HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    start = time.monotonic()
    announced = raw(served, head + b"Content-Length: 99999999999999999999999\r\n\r\n{")
    assert announced.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
    endless = raw(served, head + b"Transfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"x" * 100 + b"\r\n")
    assert endless.startswith(b"HTTP/1.1 408"), endless  # it stops in the middle
    assert time.monotonic() - start < 5
    compressed = served.client.post(
        "/v1/compare", content=b"{}", headers={"content-type": "application/json", "content-encoding": "gzip"}
    )
    assert compressed.status_code == 415
    assert served.post("/v1/compare", **PAIR).status_code == 200


def test_a_key_is_required_if_set() -> None:
    with serving(key=KEY) as served:
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {KEY}"},
            {"authorization": KEY},
        ):
            reply = served.client.post("/v1/compare", json=PAIR, headers=headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert KEY not in error_of(reply)
        odd = served.client.get("/v1/about", headers={"authorization": b"Bearer \xff\xfe"})
        assert odd.status_code == 401
        right = served.client.post("/v1/compare", json=PAIR, headers={"authorization": f"bearer {KEY}"})
        assert right.status_code == 200
        assert [served.client.get(p).status_code for p in ("/healthz", "/docs", "/openapi.json")] == [200] * 3
        assert served.client.get("/v1/about").status_code == 401


def test_too_many_open_requests_are_refused() -> None:
    with serving(max_open=0) as served:
        reply = served.post("/v1/rubric", prompt="request")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert served.client.get("/healthz").status_code == 200


def test_the_log_has_no_texts(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rubric_arm_lite.reward_model.serve")
    served.post("/v1/rubric", prompt="a private matter")
    served.client.get("/private/matter?q=private")
    served.post("/v1/rubric", private="private")
    deadline = time.monotonic() + 5  # an answer is logged when it has been sent
    while len(caplog.records) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" ")[0].rsplit(" ", 1)[0] for line in lines] == [
        "POST /v1/rubric 200",
        "GET - 404",
        "POST /v1/rubric 422",
    ]
    assert "private" not in "".join(lines)
