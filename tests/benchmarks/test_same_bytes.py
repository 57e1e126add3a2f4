"""Two versions of runs are compared file by file and number by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.same_bytes import main

SUMMARY: dict[str, Any] = {"accuracy": 0.5, "seconds": 3.0, "finished": True, "by_phase": [{"loss": 1.25}]}


def make_run(folder: Path, judge: bytes = b"judge", summary: dict[str, Any] | None = SUMMARY) -> Path:
    for role, content in (("judge", judge), ("rubric", b"rubric")):
        file = folder / "adapters" / role / "adapter_model.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_equal_runs_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = make_run(tmp_path / "old"), make_run(tmp_path / "new", summary={**SUMMARY, "seconds": 9.0})
    assert main([str(old), str(new)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "./adapters/judge/adapter_model.safetensors",
        "./adapters/rubric/adapter_model.safetensors",
        "./summary.json",
    ]
    assert all(line.endswith("same") for line in lines[:2]) and len(lines[0].split()[1]) == 12
    assert lines[2].endswith("2 numbers same, 0 DIFFERENT, 0 under other keys"), "times are not compared"


def test_a_changed_adapter_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(make_run(tmp_path / "old")), str(make_run(tmp_path / "new", b"changed"))]) == 1
    assert "judge/adapter_model.safetensors" in next(
        line for line in capsys.readouterr().out.splitlines() if line.endswith("DIFFERENT")
    )


@pytest.mark.parametrize("side", ["OLD", "NEW"])
def test_a_missing_adapter_fails(side: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = make_run(tmp_path / "old"), make_run(tmp_path / "new")
    lost = old if side == "OLD" else new
    (lost / "adapters/judge/adapter_model.safetensors").unlink()
    assert main([str(old), str(new)]) == 1
    assert f"missing in {side}" in capsys.readouterr().out


def test_a_changed_number_fails_and_a_renamed_key_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = {"accuracy": 0.5, "by_phase": [{"policy_loss": 1.25}]}
    old = make_run(tmp_path / "old")
    assert main([str(old), str(make_run(tmp_path / "renamed", summary=renamed))]) == 0
    assert "1 numbers same, 0 DIFFERENT, 2 under other keys" in capsys.readouterr().out
    assert main([str(old), str(make_run(tmp_path / "new", summary={**SUMMARY, "by_phase": [{"loss": 1.5}]}))]) == 1
    assert "by_phase[0].loss: 1.25 → 1.5" in capsys.readouterr().out


def test_folders_of_runs_compare_the_runs_that_both_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("old", "new"):
        make_run(tmp_path / side / "demo", summary=None)
        make_run(tmp_path / side / "policies" / "dpo")
    make_run(tmp_path / "old" / "gone")
    assert main([str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert "policies/dpo/adapters/judge" in printed and "demo/summary.json  missing in OLD and NEW" in printed
    assert "gone  missing in NEW, not compared" in printed


def test_nothing_in_common_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "old" / "a")
    make_run(tmp_path / "new" / "b")
    assert main([str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    assert "no run in common" in capsys.readouterr().out
