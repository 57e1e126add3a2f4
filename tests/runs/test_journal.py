from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.runs.journal import Journal

JOB = {"source": "pairs.jsonl", "votes": 5}


def test_a_journal_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "work.jsonl"
    with Journal.open(path, JOB) as journal:
        journal.add([("a", {"winner": "A"}), ("b", {"winner": None})])
    with Journal.open(path, JOB) as journal:
        assert journal.rows == {"a": {"winner": "A"}, "b": {"winner": None}}
        journal.add([("c", {"text": "ü\u2028\n"})])
    with Journal.open(path, JOB) as journal:
        assert list(journal.rows) == ["a", "b", "c"]
        assert journal.rows["c"]["text"] == "ü\u2028\n"


@given(st.integers(min_value=0, max_value=400))
def test_cut_anywhere_it_keeps_every_whole_row_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "work.jsonl"
    rows = {f"k{i}": {"text": "é" * i} for i in range(5)}
    with Journal.open(path, JOB) as journal:
        journal.add(rows.items())
    whole = path.read_bytes()
    path.write_bytes(whole[:at])
    kept = max(0, whole[:at].count(b"\n") - 1)
    with Journal.open(path, JOB) as journal:
        assert journal.rows == dict(list(rows.items())[:kept])
        journal.add(list(rows.items())[kept:])
    assert path.read_bytes() == whole


def test_another_job_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    with Journal.open(path, JOB) as journal:
        journal.add([("a", {})])
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="another job \\(votes: 5 there, 3 now\\)"):
        Journal.open(path, {**JOB, "votes": 3}).__enter__()
    with pytest.raises(CheckpointError, match="exists"):
        Journal.open(path, JOB, "raise").__enter__()
    assert path.read_bytes() == before
    with Journal.open(path, {**JOB, "votes": 3}, "overwrite") as journal:
        assert journal.rows == {}


@pytest.mark.parametrize("content", ["hello", '{"prompt": "x"}\n', "[1]\n", '{"job": 3}\n', "\x00\n"])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="notes"):
        Journal.open(path, JOB).__enter__()
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["hello", '{"prompt": "x"}\n', "[1]\n"])
def test_starting_anew_does_not_empty_a_file_that_is_no_journal(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"pairs.jsonl is not a journal"):
        Journal.open(path, JOB, "overwrite").__enter__()
    assert path.read_text() == content


def test_a_broken_row_inside_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    path.write_text(json.dumps({"job": JOB}) + '\n{"key": "a"}\n{"key": \n{"key": "b"}\n')
    with pytest.raises(CheckpointError, match="line 3"):
        Journal.open(path, JOB).__enter__()


@pytest.mark.parametrize("key", ["3", "null", "[1]", '"a"'])
def test_a_key_that_is_no_text_or_is_there_twice_is_refused(tmp_path: Path, key: str) -> None:
    """As after rows of another journal were appended."""
    path = tmp_path / "work.jsonl"
    path.write_text(json.dumps({"job": JOB}) + f'\n{{"key": "a"}}\n{{"key": {key}}}\n')
    with pytest.raises(CheckpointError, match=r"line 3: not a row of a journal .* anew with --if-exists overwrite"):
        Journal.open(path, JOB).__enter__()


@pytest.mark.parametrize("results", [3, None, "ab", {"a": 1, "b": 2}, [], [1], [1, 2, 3]])
def test_results_that_are_not_those_of_a_batch_are_refused(tmp_path: Path, results: Any) -> None:
    path = tmp_path / "work.jsonl"
    path.write_text(json.dumps({"job": JOB}) + "\n" + json.dumps({"key": "from 0", "results": results}) + "\n")
    with (
        Journal.open(path, JOB) as journal,
        pytest.raises(CheckpointError, match=r"work\.jsonl, line 2: `results` is not a list of 2\. Restore"),
    ):
        journal.map(list, range(4), 2)


def test_one_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    with Journal.open(path, JOB), pytest.raises(CheckpointError, match="in use"):
        Journal.open(path, JOB).__enter__()
    with pytest.raises(CheckpointError, match="is a folder"):
        Journal.open(tmp_path, JOB).__enter__()


def test_a_key_is_done_once(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "work.jsonl", JOB) as journal:
        journal.add([("a", {})])
        with pytest.raises(ValueError, match="was added before"):
            journal.add([("a", {})])


def test_results_are_made_once_in_whole_batches(tmp_path: Path) -> None:
    batches: list[list[int]] = []
    counts: list[int] = []

    def double(batch: Sequence[int]) -> list[int]:
        batches.append([*batch])
        return [2 * item for item in batch]

    def run() -> list[int]:
        with Journal.open(path, JOB) as journal:
            return journal.map(double, range(5), 2, counts.append)

    path = tmp_path / "work.jsonl"
    assert run() == [0, 2, 4, 6, 8]
    assert (batches, counts) == ([[0, 1], [2, 3], [4]], [2, 4, 5])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:-3])  # killed while the second batch was written
    assert run() == [0, 2, 4, 6, 8]
    assert (batches[3:], counts[3:]) == ([[2, 3], [4]], [4, 5])
