"""The testbed recipe, cut down to seconds: every stage happens, little is learned."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from filelock import FileLock

SHORT = (
    "judge.max_steps=2",
    "judge.prompts_per_step=6",
    "rubric.max_steps=2",
    "rubric.prompts_per_step=3",
    "rubric.num_generations=6",
    "data.train_prompts=60",
    "warmup.prompts=40",
    "warmup.rubric.max_steps=12",
    "warmup.judge.max_steps=20",
    "warmup.rubric.per_device_train_batch_size=8",
    "warmup.judge.per_device_train_batch_size=8",
    "warmup.rubric.save_steps=4",
    "warmup.judge.save_steps=4",
    "evaluation.pairs=12",
    "evaluation.vote_pairs=4",
    "evaluation.bootstrap=200",
    "schedule.cycles=2",
    "checkpoint.save_steps=1",
    "model.lora.dropout=0.1",  # whose random numbers a resumed run must draw again
)


def rewrite(run: Path, name: str, text: str) -> None:
    """Replace a committed file of a run, as if the run itself had written it so."""
    (run / name).write_text(text)
    state = json.loads((run / "state.json").read_text())
    state["hashes"][name] = sha256((run / name).read_bytes()).hexdigest()
    (run / "state.json").write_text(json.dumps(state))


def short_sets(*more: str) -> list[str]:
    """Command-line arguments that make the testbed recipe short."""
    return [part for value in (*SHORT, *more) for part in ("--set", value)]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the testbed recipe through the command line, only read afterwards.

    It is made once; processes of one test session copy it, as commands lock the folder that they look into.
    """
    mine = tmp_path_factory.getbasetemp()
    shared = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine
    made = shared / "finished-run"
    with FileLock(shared / "finished-run.lock"):
        if not (made / "summary.json").is_file():
            command = [sys.executable, "-m", "rubric_arm_lite", "demo", "--run-dir", str(made), "--json", *short_sets()]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["run"] == str(made), "nothing else is printed"
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("finished") / "run"))
