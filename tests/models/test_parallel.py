"""Two processes on one run: the same update as one, everything known to both, one that writes, and a resume."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rubric_arm_lite.errors import BackendError, ConfigError, PromptTooLongError
from rubric_arm_lite.models.parallel import ALONE, ParallelSampler, Processes, connect_processes
from rubric_arm_lite.models.sampler import NextWords, Sampling
from rubric_arm_lite.recipe.fields import SFTSettings
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.warmup import rows_and_passes
from rubric_arm_lite.types import Example
from tests import tiny
from tests.pointwise_players import PointwiseSampler
from tests.scripted import ScriptedSampler
from tests.short_run import short_sets
from tests.warm import begin, command

ROOT = Path(__file__).parents[2]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def two(log: Path, work: Callable[..., object], *given: Any, limit: int = 280) -> None:
    """Two processes with a launcher's variables that have their libraries already, which saves most of the time."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    processes = [begin(work, *given, log=log, environment={**common, **rank}) for rank in ranks]
    for process in processes:
        process.join(limit)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0], log.read_text()[-3000:]


def one_update(folder: Path, processes: Processes, **changes: Any) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The judge's weights and what was measured after one step on rollouts that all processes drew together."""
    torch.set_num_threads(1)
    model = tiny.load(folder)
    sampler = ParallelSampler(model, processes)
    groups = sampler.sample("judge", tiny.examples(), Sampling(12, 4, 1.0))
    # Plain SGD in effect: Adam's first step is the sign of a gradient, which rounding can turn.
    settings = {"learning_rate": 1e-2, "beta": 0.01, "max_grad_norm": 1e9, **changes}
    learner = Learner(model, tiny.recipe(folder, judge=settings), processes)
    learner.optimizers["judge"] = torch.optim.SGD([p for _, p in model.parameters("judge")], lr=1e-2)  # type: ignore[assignment]
    values = learner.update("judge", groups, tiny.spread(groups)).values
    return tiny.weights(model, "judge"), values


def one_of_two(folder: Path, out: Path, loss_type: str) -> None:
    """What each of two processes does."""
    processes = connect_processes()
    weights, values = one_update(folder, processes, loss_type=loss_type)
    save_file(weights, out / f"weights-{processes.rank}.safetensors")
    (out / f"values-{processes.rank}.json").write_text(json.dumps(values))
    processes.close()


def test_two_processes_make_the_update_of_one(tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    folder, loss_type = tiny_folder(), "dapo"
    expected, values = one_update(folder, ALONE, loss_type=loss_type)
    before = tiny.weights(tiny.load(folder), "judge")
    two(tmp_path / "log", one_of_two, folder, tmp_path, loss_type)
    found = [load_file(tmp_path / f"weights-{rank}.safetensors") for rank in (0, 1)]
    for name, weight in expected.items():
        assert torch.equal(found[0][name], found[1][name]), "both stepped with the same gradient, to the last bit"
        assert float((found[0][name] - weight).abs().max()) <= 1e-6
    assert any(float((weight - before[name]).abs().max()) > 1e-4 for name, weight in expected.items())
    measured = [json.loads((tmp_path / f"values-{rank}.json").read_text()) for rank in (0, 1)]
    assert measured[0] == measured[1]
    for name in ("loss", "kl", "entropy", "grad_norm", "log_ratio/max"):
        assert measured[0][name] == pytest.approx(values[name], abs=1e-5), name
    assert measured[0]["micro_batches"] == 2, "each had a part"


JOIN = """
from rubric_arm_lite.models.parallel import connect_processes
processes = connect_processes()
with open(f"rank-{processes.rank}", "w") as file:  # what both print may reach one pipe mixed up
    file.write(str(processes.gather(processes.rank)))
processes.close()
"""


def test_two_processes_of_torchrun_find_each_other(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(JOIN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    done = subprocess.run(
        [*launcher, "--master_port", free_port(), str(script)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)] == ["[0, 1]", "[0, 1]"]


@pytest.mark.slow
def test_a_run_of_two_processes_is_complete_and_resumes(tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    shorter = ("schedule.cycles=1", "warmup.rubric.max_steps=10", "warmup.judge.max_steps=10")
    verb = ["run", "testbed", *short_sets(*shorter), "--run-dir", str(folder), "--json"]
    two(log, command, *verb, "--stage", "warmup")
    stages = json.loads((folder / "state.json").read_text())["stages"]
    assert stages[-1] == "warmup"
    log.write_text("")
    two(log, command, *verb, "--resume")
    assert log.read_text().count(f'"run": "{folder}"') == 1, "one process prints"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = [row["name"] for row in rows if row["kind"] == "evaluation"]
    assert names[:2] == ["base", "warm-up"] and names[-1] == "final" and len(names) == len(set(names))
    steps = [(row["slot"], row["step"]) for row in rows if row["kind"] == "step"]
    assert len(steps) == len(set(steps)) and steps
    for role in ("rubric", "judge"):
        assert (folder / "adapters" / role / "adapter_model.safetensors").is_file()
    assert (folder / "report.html").is_file()


# --- shares -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 6))
def test_shares_cover_everything_once_and_in_order(weights: list[int], world: int) -> None:
    parts = [list(Processes(rank, world).own_indices(weights)) for rank in range(world)]
    assert [i for part in parts for i in part] == list(range(len(weights)))
    if weights:
        most = max(sum(weights[i] for i in part) for part in parts)
        assert most <= sum(weights) / world + 2 * max(weights)


class Both(Processes):
    """Two processes played in one: what both would say is gathered from a list."""

    def __init__(self, others: list[Any]) -> None:
        super().__init__(0, 2)
        self._others = others

    def gather(self, value: Any) -> list[Any]:
        return [value, *self._others]


def examples(count: int) -> list[Example]:
    return [Example(f"e{i}", f"prompt {i}", i) for i in range(count)]


def test_a_problem_of_one_process_is_raised_in_all() -> None:
    sampler = ParallelSampler(ScriptedSampler(lambda adapter, example, i: "x"), Both([([], "the disk is gone", False)]))
    with pytest.raises(BackendError, match="the disk is gone"):
        sampler.sample("judge", examples(2), Sampling(3))


def test_prompts_too_long_in_one_part_are_written_as_empty() -> None:
    class Long(ScriptedSampler):
        def sample(self, adapter: Any, examples: Any, sampling: Any) -> Any:
            raise PromptTooLongError("prompt of 900 tokens")

    fine = ScriptedSampler(lambda adapter, example, i: "fine").sample("judge", examples(1), Sampling(3, 2))
    mixed = ParallelSampler(Long(lambda *_: "x"), Both([(fine, "", False)]))
    found = mixed.sample("judge", examples(2), Sampling(3, 2))
    assert [s.finish_reason for s in found[0].samples] == ["length"] * 2 and found[1] == fine[0]
    alone = ParallelSampler(Long(lambda *_: "x"), Both([([], "", False)]))
    with pytest.raises(PromptTooLongError, match="900"):
        alone.sample("judge", examples(2), Sampling(3, 2))
    assert alone.sample("judge", [], Sampling(3, 2)) == []


def test_probabilities_are_shared_out_and_gathered_in_order() -> None:
    prompts = [f"<response>\ngood {i}\n</response><rubric>\n\n</rubric>" for i in range(4)]
    questions = [NextWords(prompt, "x", (" a", " b")) for prompt in prompts]
    scripted = PointwiseSampler()
    theirs = [(-7.0, -8.0)] * 2
    found = ParallelSampler(scripted, Both([(theirs, "", False)])).next_word_logprobs("judge", questions)
    assert scripted.questions == questions[:2] and found[2:] == theirs and len(found) == 4
    with pytest.raises(BackendError, match="cannot be told apart"):
        ParallelSampler(scripted, Both([([], "they cannot be told apart", False)])).next_word_logprobs(
            "judge", questions
        )
    with pytest.raises(BackendError, match="does not give the probabilities"):
        ParallelSampler(ScriptedSampler(lambda *_: "x"), Both([])).next_word_logprobs("judge", questions)


# --- set-up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "passes", "expected"), [(8, 1, (4, 1)), (1, 16, (1, 8)), (3, 4, (3, 2))])
def test_warm_up_batches_are_divided(rows: int, passes: int, expected: tuple[int, int]) -> None:
    settings = SFTSettings(per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    assert rows_and_passes(settings, 2) == expected
    assert rows_and_passes(settings, 1) == (rows, passes)


def test_warm_up_batches_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be shared by 2 processes"):
        rows_and_passes(SFTSettings(per_device_train_batch_size=3), 2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "start the processes with torchrun"),
    ],
)
def test_a_launcher_that_makes_no_sense(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        connect_processes()


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert connect_processes() is ALONE and ALONE.first
    assert ALONE.gather(3) == [3]
