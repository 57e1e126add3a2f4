"""``warmup.until``: a judge that cannot read after its warm-up is trained on, or refused before any phase."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite import train
from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.runs import adapter_folder, read_jsonl
from tests.short_run import SHORT
from tests.training.test_run import Recorder

PAIRS = "warmup.until.pairs=6"
STRICT = (PAIRS, "warmup.until.accuracy=1", "warmup.until.position_bias=0")
LENIENT = (PAIRS, "warmup.until.accuracy=0", "warmup.until.position_bias=1")


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_jsonl(run / "metrics.jsonl") if row["kind"] == kind]


def test_a_judge_that_reads_is_measured_once_and_left_as_it_is(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train("testbed", run, overrides=[*SHORT, *LENIENT], until="warmup-judge")
    (reading,) = rows(run, "reading")
    assert reading["pairs"] == 6 and 0 <= reading["accuracy"] <= 1 and "position_bias" in reading
    weights = [adapter_folder(folder, "judge", "warm-up") for folder in (run, finished_run)]
    hashes = {sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest() for folder in weights}
    assert len(hashes) == 1, "measuring changes nothing"


def test_a_judge_that_cannot_read_is_trained_again_then_refused(tmp_path: Path) -> None:
    run, progress = tmp_path / "run", Recorder()
    overrides = [*SHORT, *STRICT, "warmup.until.repeats=1"]
    with pytest.raises(TrainingError, match=r"A judge phase would not teach it to read\. Lengthen warmup\.judge"):
        train("testbed", run, overrides=overrides, until="warmup", progress=progress)
    assert len(rows(run, "reading")) == 2
    steps = [row["step"] for row in rows(run, "warmup") if row["role"] == "judge"]
    assert steps == sorted(steps) and steps[-1] == 40, "20 steps, and 20 more"
    (note,) = [note for note in progress.notes if "repeated" in note]
    assert note.startswith(("The warmed-up judge has a position bias of", "With true rubrics the warmed-up judge is"))
    assert note.endswith("its warm-up is repeated (1 of 1).")


def test_a_judge_can_be_refused_at_once(finished_run: Path, tmp_path: Path) -> None:
    overrides = [*SHORT, *STRICT, "warmup.until.action=refuse"]
    with pytest.raises(TrainingError, match="warmed-up judge"):
        train("testbed", tmp_path / "own", overrides=overrides, until="warmup")
    assert len(rows(tmp_path / "own", "reading")) == 1
    shared = [*SHORT, *STRICT, "warmup.source=null", f"warmup.from={finished_run}"]
    with pytest.raises(TrainingError, match="warmed-up judge"):  # there is nothing to repeat
        train("testbed", tmp_path / "shared", overrides=shared, until="warmup")


def test_without_a_world_only_the_bias_is_measured(finished_run: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    blocks = World(0).blocks("train", 20)
    shown = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for block in blocks for p in block.pairs]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in shown))
    own = [f"data.source={pairs}", "data.train_prompts=null", "warmup.source=null", f"warmup.from={finished_run}"]
    bounds = (PAIRS, "warmup.until.accuracy=1", "warmup.until.position_bias=1")
    train("testbed", tmp_path / "run", overrides=[*SHORT, *own, *bounds], until="warmup-judge")
    (reading,) = rows(tmp_path / "run", "reading")
    assert reading["accuracy"] < 1.0, "below the bound, which is for true rubrics"
