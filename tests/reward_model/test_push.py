"""Pushing to the Hub, against a stand-in of its API that keeps what it is sent."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from rubric_arm_lite.errors import BackendError, ConfigError
from rubric_arm_lite.reward_model import files_to_push, push_to_hub
from tests.cli.test_cli import refused


class Hub:
    """What the stand-in was asked, and whether it lets anybody in."""

    def __init__(self) -> None:
        self.status = 200
        self.address = ""
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.keys: set[str] = set()
        self.card_errors: list[str] = []

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/me/pair", "name": "me/pair"}
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if "/commit/" in path:
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    self.files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            return {"commitUrl": f"{self.address}/me/pair/commit/1", "commitOid": "1", "hookOutput": ""}
        return {"id": "me/pair", "sha": "0", "siblings": [], "tags": []}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    played = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            played.keys.add(self.headers.get("Authorization", ""))
            path = self.path.split("?")[0]
            status = 400 if played.card_errors and path == "/api/validate-yaml" else played.status
            answer = played.answer(path, body) if status == 200 else {"error": "Storage is full.\n\x1b[31mPay"}
            if status == 400:
                answer = {"errors": [{"message": error} for error in played.card_errors]}
            text = json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = played.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    import huggingface_hub

    real = huggingface_hub.HfApi.__init__
    # The library reads its environment when it is imported, which other tests have done before.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "__init__", lambda self: real(self, endpoint=address, token="hf_secret"))
    yield played
    server.shutdown()
    server.server_close()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    for role in ("rubric", "judge"):
        (folder / role).mkdir(parents=True)
        (folder / role / "README.md").write_text(f"# {role}\n")
        (folder / role / "adapter_config.json").write_text("{}")
        (folder / role / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 9)
    (folder / "recipe.yaml").write_text("name: mine\n")  # as export_run writes it
    return folder


def test_a_folder_arrives_as_it_is(hub: Hub, exported: Path) -> None:
    assert push_to_hub(exported, "me/pair") == f"{hub.address}/me/pair/commit/1"
    expected = {path.relative_to(exported).as_posix(): path.read_bytes() for path in files_to_push(exported, "me/pair")}
    assert hub.files == expected and len(expected) == 7
    asked = hub.created[0]
    assert asked.get("private") is True or asked.get("visibility") == "private"
    assert hub.keys == {"Bearer hf_secret"}


def test_the_hubs_own_reasons_are_shown(hub: Hub, exported: Path) -> None:
    hub.status = 403
    with pytest.raises(BackendError, match=r"refused me/pair \(403: .*Storage is full"):
        push_to_hub(exported, "me/pair")
    hub.status, hub.card_errors = 200, ['"base_model" is not valid', '"license" is unknown']
    reasons = r'refused me/pair \(.*"base_model" is not valid - "license" is unknown\)\. Correct what it names'
    with pytest.raises(BackendError, match=reasons):
        push_to_hub(exported / "judge", "me/pair")


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_a_hub_that_refuses_is_one_clear_error(status: int, hub: Hub, exported: Path) -> None:
    hub.status = status
    with pytest.raises(BackendError, match=r"refused me/pair|cannot be uploaded") as raised:
        push_to_hub(exported, "me/pair")
    assert "hf_secret" not in str(raised.value) and not hub.files


def test_a_hub_that_cannot_be_reached_is_one_clear_error(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens; the library's client raises errors of its own kind, and tries again for half a minute."""
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> None:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unreachable)
    with pytest.raises(BackendError, match=r"me/pair cannot be uploaded .*Connection refused.*HF_ENDPOINT"):
        push_to_hub(exported, "me/pair")


@pytest.mark.parametrize("name", ["weights.bin", "state.pt", "run.pkl", "secret.env"])
def test_what_does_not_belong_is_refused(name: str, hub: Hub, exported: Path) -> None:
    (exported / "judge" / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        push_to_hub(exported, "me/pair")
    assert not hub.created


def test_links_are_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "private.json").write_text("{}")
    (exported / "judge" / "more.json").symlink_to(tmp_path / "private.json")
    with pytest.raises(ConfigError, match=r"more\.json is not uploaded"):
        files_to_push(exported, "me/pair")


def test_what_cannot_be_read_is_refused_before_anything_is_sent(
    hub: Hub, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO would never answer, and the library leaves out a folder that it may not list."""
    os.mkfifo(exported / "judge" / "more.json")
    with pytest.raises(ConfigError, match=r"more\.json is not uploaded: only plain files"):
        push_to_hub(exported, "me/pair")
    (exported / "judge" / "more.json").unlink()
    allowed = os.access
    for denied in (exported, exported / "judge", exported / "judge" / "README.md"):

        def access(path: str | Path, mode: int, denied: Path = denied) -> bool:
            return Path(path) != denied and allowed(path, mode)

        with monkeypatch.context() as patch, pytest.raises(ConfigError, match=rf"{denied} cannot be read\. Check its"):
            patch.setattr(os, "access", access)
            push_to_hub(exported, "me/pair")
    assert not hub.created


@pytest.mark.parametrize("repo", ["pair", "me/pair/x", "../pair", "me/", "me/../x", "me/pa ir", ""])
def test_names_that_are_no_repository(repo: str, exported: Path) -> None:
    with pytest.raises(ConfigError, match="Give owner/name"):
        push_to_hub(exported, repo)


def test_a_dry_run_sends_nothing(exported: Path, tmp_path: Path) -> None:
    from tests.cli.test_cli import call

    shown = call("push", exported, "me/pair", "--dry-run").stdout
    assert "judge/adapter_model.safetensors" in shown and "7 files" in shown
    (tmp_path / "empty").mkdir()
    assert "is no export" in refused("push", tmp_path / "empty", "me/pair", "--dry-run")
    assert "Give owner/name" in refused("push", exported, "pair", "--dry-run")
