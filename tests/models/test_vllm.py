"""The sampler over HTTP against vLLM itself: ``RUBRIC_ARM_VLLM=path/to/vllm pytest tests/models/test_vllm.py``.

vLLM lives in an environment of its own, as it pins torch; its build for CPUs will do (docs/measured.md).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.server import ServerSampler, ServerSettings
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.runs.states import recipe_of
from rubric_arm_lite.types import Example
from tests.cli.test_cli import call

VLLM = os.environ.get("RUBRIC_ARM_VLLM")
CONTEXT = 512
pytestmark = pytest.mark.skipif(VLLM is None, reason="needs vLLM: RUBRIC_ARM_VLLM names its executable")


class Vllm:
    """A server of its own process group that has the adapters of a run; it can be killed and started anew."""

    def __init__(self, run: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "vllm.log"
        self._command = [
            str(VLLM), "serve", str(base_folder()), "--served-model-name", "base", "--port", str(self.port),
            "--dtype", "float32", "--max-model-len", str(CONTEXT), "--generation-config", "vllm",
            "--block-size", "32",  # short enough for the testbed's prompts to be kept, as a GPU's blocks are
            "--enable-lora", "--max-lora-rank", "16",
            "--lora-modules", *(f"{role}={run / 'adapters' / role}" for role in ("rubric", "judge")),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(300):
            assert self._process.poll() is None, self._log.read_text("utf-8", "replace")[-3000:]
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
            except OSError:
                time.sleep(1)
            else:
                return
        raise AssertionError(f"no answer from vLLM; see {self._log}")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def cached_tokens(self) -> float:
        """Tokens of prompts that were not read, because vLLM had them."""
        text = urllib.request.urlopen(f"{self.url}/metrics", timeout=30).read().decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:prefix_cache_hits_t"))


@pytest.fixture(scope="module")
def server(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    started = Vllm(finished_run, tmp_path_factory.mktemp("vllm"))
    try:
        started.start()
        yield started
    finally:
        started.kill()


@pytest.fixture(scope="module")
def here(finished_run: Path) -> RubricRewardModel:
    threads = torch.get_num_threads()
    model = RubricRewardModel.from_run(finished_run)
    torch.set_num_threads(threads)
    return model


def there(server: Vllm, run: Path, **changes: object) -> tuple[RubricRewardModel, ServerSampler]:
    sampler = ServerSampler(ServerSettings(server.url, **changes))  # type: ignore[arg-type]
    return RubricRewardModel(sampler, recipe_of(run)), sampler


def texts_of(model: RubricRewardModel, prompts: int = 12) -> list[str]:
    """Rubrics and judgements, both orders, of some pairs of the testbed."""
    pairs = [block.pairs[0] for block in World(3).blocks("test", prompts)]
    verdicts = model.compare_many([(pair.prompt, pair.chosen, pair.rejected, None) for pair in pairs])
    return [t for v in verdicts for t in (v.rubric.text, *(j.text for j in (*v.original, *v.swapped)))]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_it_writes_what_is_written_here(
    server: Vllm, here: RubricRewardModel, finished_run: Path, stream: bool
) -> None:
    model, sampler = there(server, finished_run, stream=stream)
    found = texts_of(model)
    assert len(found) >= 24 and found == texts_of(here)
    assert sampler.prompt_tokens("Write a note") == here.model.prompt_tokens("Write a note")


def test_several_completions_of_one_request_and_seeds(server: Vllm, finished_run: Path) -> None:
    _, sampler = there(server, finished_run)
    prompt = World(3).blocks("test", 1)[0].prompt
    drawn = [
        [s.text for s in sampler.sample("rubric", [Example("e", prompt, seed)], Sampling(32, 4))[0].samples]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) > 1


def test_adapters_are_swapped_under_the_same_path(
    server: Vllm, here: RubricRewardModel, finished_run: Path, tmp_path: Path
) -> None:
    model, sampler = there(server, finished_run)
    first, moving = texts_of(model), tmp_path / "moving"
    shutil.copytree(finished_run / "adapters" / "judge", moving)
    sampler.load_adapter("judge", moving)
    assert texts_of(model) == first
    cached = server.cached_tokens()
    assert texts_of(model) == first
    assert server.cached_tokens() > cached, "vLLM keeps what it read, or this test shows nothing"
    weights = load_file(moving / "adapter_model.safetensors")
    save_file({name: w * (1.7 if "lora_B" in name else 1) for name, w in weights.items()}, moving / "new.safetensors")
    (moving / "new.safetensors").replace(moving / "adapter_model.safetensors")
    sampler.load_adapter("judge", moving)
    after = texts_of(model)
    other = RubricRewardModel.from_adapters(recipe_of(finished_run), finished_run / "adapters" / "rubric", moving)
    assert after == texts_of(other) != first
    sampler.load_adapter("judge", finished_run / "adapters" / "judge")
    assert texts_of(model) == first


def test_adapters_that_do_not_fit(server: Vllm, finished_run: Path, tmp_path: Path) -> None:
    model, sampler = there(server, finished_run)
    first, wide = texts_of(model, 2), tmp_path / "wide"
    shutil.copytree(finished_run / "adapters" / "judge", wide)
    config = json.loads((wide / "adapter_config.json").read_text())
    (wide / "adapter_config.json").write_text(json.dumps(config | {"r": 64}))
    for path, said in ((wide, "--max-lora-rank"), (tmp_path / "nowhere", "path it has there")):
        started = time.monotonic()
        with pytest.raises(BackendError, match=f"still answers.*{said}"):
            sampler.load_adapter("judge", path)
        assert time.monotonic() - started < 5, "not tried again and again"
        assert texts_of(model, 2) == first


def test_questions_that_it_refuses(server: Vllm, finished_run: Path) -> None:
    model, _ = there(server, finished_run, judge_model="jduge")
    with pytest.raises(BackendError, match=r"404.*jduge.*--judge-model"):
        texts_of(model, 1)
    _, sampler = there(server, finished_run)
    with pytest.raises(BackendError, match=r"400.*fit the server's context"):
        sampler.sample("rubric", [Example("e", "note " * CONTEXT, 1)], Sampling(8))


def test_a_label_job_outlives_the_server(server: Vllm, finished_run: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    pairs = [pair for block in World(5).blocks("test", 6) for pair in block.pairs]
    rows = [{"prompt": p.prompt, "responses": [p.rejected, p.chosen]} for p in pairs]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("--server", server.url, "--batch", "4", "--concurrency", "8")
    done = call("label", finished_run, source, tmp_path / "whole.jsonl", *asked)
    assert done.returncode == 0, done.stderr
    target = tmp_path / "killed.jsonl"
    part = target.with_name(target.name + ".part")
    command = ["label", str(finished_run), str(source), str(target), *asked]
    with (tmp_path / "err.txt").open("wb") as err:
        job = subprocess.Popen([sys.executable, "-m", "rubric_arm_lite", *command], stdout=err, stderr=err)
        while job.poll() is None and not (part.is_file() and part.read_bytes().count(b"\n") > 4):
            time.sleep(0.02)
        assert job.poll() is None, "the job was over before the server could be killed"
        server.kill()
        assert job.wait(120) == 2, (tmp_path / "err.txt").read_text()
    assert "Traceback" not in (tmp_path / "err.txt").read_text() and not target.exists()
    server.start()
    done = call(*command)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
