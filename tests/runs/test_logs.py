"""Rows of logs and journals that were edited by hand: whatever is missing is said once, with file and line."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.runs.directory import read_state
from rubric_arm_lite.runs.files import file_hash, read_jsonl, read_object
from rubric_arm_lite.runs.journal import Journal


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_missing_field_is_named_with_its_line_wherever_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "metrics.jsonl", {"kind": "step"}, {"kind": "x", "inner": [{"a": 1}]})
    first, second = read_jsonl(file)
    assert (first["kind"], second["inner"][0]["a"], first.get("slot"), "slot" in first) == ("step", 1, None, False)
    assert first == {"kind": "step"} and json.dumps(second) == '{"kind": "x", "inner": [{"a": 1}]}'
    told = r"metrics\.jsonl, line {}: no `{}` here.*Restore it, or start anew under another name\."
    with pytest.raises(CheckpointError, match=told.format(1, "slot")):
        first["slot"]
    with pytest.raises(CheckpointError, match=told.format(2, "b")):
        second["inner"][0]["b"]


@pytest.mark.parametrize("line", [b"{]\n", b"[1]\n", b"3\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(b'{"n": 1}\n' + line)
    rows = read_jsonl(file)
    assert next(rows) == {"n": 1}
    with pytest.raises(CheckpointError, match=r"log\.jsonl is damaged in line 2 \(.*\)\. Restore"):
        next(rows)


def test_a_line_still_being_written_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"n": 1}\n{"n": 2')
    assert list(read_jsonl(tmp_path / "log")) == [{"n": 1}]
    assert list(read_jsonl(tmp_path / "none")) == []


def test_a_file_of_one_object(tmp_path: Path) -> None:
    file = tmp_path / "final.json"
    file.write_text('{\n"rows": []\n}\n')
    assert read_object(file)["rows"] == []
    with pytest.raises(CheckpointError, match=r"final\.json: no `name` here"):
        read_object(file)["name"]
    for content in (b"{]", b"[1]", b"\xff", b"["):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"final\.json is damaged \(.*\)\. Restore"):
            read_object(file)


def test_what_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting anew would throw away what another user may read; a FIFO would never answer."""
    file = tmp_path / "state.json"
    file.write_text("{}")

    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        for name in ("open", "read_bytes", "read_text"):
            patch.setattr(Path, name, denied)
        for read in (read_object, read_state, file_hash, lambda path: list(read_jsonl(path))):
            with pytest.raises(
                CheckpointError, match=r"state\.json cannot be read \(Permission denied\)\. Check its"
            ) as told:
                read(file)
            assert "anew" not in str(told.value)
    os.mkfifo(tmp_path / "fifo")
    for read in (read_object, lambda path: list(read_jsonl(path))):
        with pytest.raises(CheckpointError, match=r"fifo is no file\. Restore it"):
            read(tmp_path / "fifo")


def test_the_rows_of_a_journal_know_their_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "work.jsonl", {"job": {}}, {"key": "a", "n": 1}, {"key": "b", "found": {}})
    with Journal.open(file, {}) as journal:
        assert journal.rows["a"]["n"] == 1
        with pytest.raises(CheckpointError, match=r"work\.jsonl, line 2: no `text` here"):
            journal.rows["a"]["text"]
        with pytest.raises(CheckpointError, match=r"work\.jsonl, line 3: no `m` here"):
            journal.rows["b"]["found"]["m"]
