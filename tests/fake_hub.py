"""A fake Hub for downloads: repositories are folders, served over sockets on this machine.

It answers the requests of ``datasets.load_dataset`` and ``hf://`` paths: repository information, trees, paths, and
files with ranges. Everything else is 404, as on the Hub.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


class FakeHub:
    """Data sets ``owner/name`` below a folder; ``requests`` holds every request as (method, path)."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.url = url
        self.requests: list[tuple[str, str]] = []

    def answer(self, path: str, body: bytes) -> Any:
        """The JSON answer to an API path, a file to send, or the Hub's code for a missing thing."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] != "datasets" and parts[:2] != ["api", "datasets"]:
            return "EntryNotFound"
        parts = parts[1:] if parts[0] == "datasets" else parts[2:]
        repo, rest = self.root.joinpath(*parts[:2]), parts[2:]
        if not repo.is_dir():
            return "RepoNotFound"
        if len(rest) > 1 and rest[1] not in REVISIONS:
            return "RevisionNotFound"
        if rest[:1] == ["resolve"]:
            file = repo.joinpath(*rest[2:])
            return file if file.is_file() else "EntryNotFound"
        files = sorted(file.relative_to(repo).as_posix() for file in repo.rglob("*") if file.is_file())
        match rest:
            case [] | ["revision", _]:
                siblings = [{"rfilename": name} for name in files]
                info = {"id": "/".join(parts[:2]), "sha": COMMIT, "private": False, "gated": False, "disabled": False}
                return {**info, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
            case ["tree", _, *folder]:
                return self._tree(repo, "/".join(folder))
            case ["paths-info", _]:
                paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode()).get("paths", [])
                return [entry for entry in self._tree(repo, "") if entry["path"] in paths]
        return "EntryNotFound"

    def _tree(self, repo: Path, folder: str) -> list[dict[str, Any]] | str:
        if not (repo / folder).is_dir():
            return "EntryNotFound"
        entries = []
        for path in sorted((repo / folder).rglob("*")):
            name = path.relative_to(repo).as_posix()
            kind, size = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
            entries.append({"type": kind, "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()})
        return entries


@contextmanager
def serve_hub(root: Path) -> Iterator[FakeHub]:
    """A running fake Hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            hub.requests.append((self.command, path))
            answer = hub.answer(path, body)
            if isinstance(answer, str):
                self._send(404, b'{"error": "not found"}', {"X-Error-Code": answer})
            elif isinstance(answer, Path):
                self._send_file(answer.read_bytes())
            else:
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        do_GET = do_HEAD = do_POST = _answer

        def _send_file(self, content: bytes) -> None:
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            headers["Accept-Ranges"] = "bytes"
            requested = self.headers.get("Range", "")
            if not requested.startswith("bytes="):
                self._send(200, content, headers)
                return
            first, _, last = requested.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(content)), len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            self._send(206, content[start:stop], headers)

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = FakeHub(root, f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
