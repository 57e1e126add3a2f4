"""What only a CUDA machine can show: its kernels, recorded steps, half precision, 4 bits and memory that runs out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from rubric_arm_lite.models import generate as generation
from rubric_arm_lite.models.generate import StepRecord
from rubric_arm_lite.models.memory import free_cuda
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.shared_prefix import attention as tree_attention
from rubric_arm_lite.models.shared_prefix import passes as shared_prefix
from rubric_arm_lite.models.shared_prefix.attention import kernel_error
from rubric_arm_lite.models.shared_prefix.batching import Row, make_batch
from rubric_arm_lite.training.learner import Learner
from tests import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU and RUBRIC_ARM_TESTS=gpu"),
]
LEARNING = {"learning_rate": 1e-3, "beta": 0.01}
HALVES = ["bfloat16", "float16"]


def shaped(tmp_path: Path, kind: str = "qwen3") -> Path:
    """A tiny folder whose sizes the fused kernels and bitsandbytes take."""
    changes = {} if kind == "qwen3" else {"head_dim": 16}
    return tiny.make_folder(kind, tmp_path / "shaped", hidden_size=64, intermediate_size=128, **changes)


def rows_of(model: Any, n: int = 4) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for g, prompt in enumerate(tiny.PROMPTS):
        for _ in range(n - g % 2):
            ids = torch.randint(4, 240, (14 - g,), generator=generator).tolist()
            rows.append(Row(tuple(model.encode(prompt)), tuple(ids), (0.0,) * len(ids), 1.0, 1.0))
    return rows


def logprobs(model: Any, layout: Any) -> torch.Tensor:
    batch = make_batch(rows_of(model), 0, model.device, layout)
    with model.using("judge") as active, torch.no_grad():
        return model.score(active, batch, 1.0, layout).logprobs[batch.mask_RC.bool()].float().cpu()


@pytest.mark.parametrize("kernel", ["efficient", "flash"])
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.005)], ids=str
)
def test_kernels(dtype: torch.dtype, limit: float, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after memory has been used for other things, which a kernel that reads too far would see."""
    if kernel == "flash" and (dtype == torch.float32 or torch.cuda.get_device_capability() < (8, 0)):
        pytest.skip("flash attention is for half precision, from compute capability 8.0")
    monkeypatch.setattr(tree_attention, "_kernel", lambda tensor: kernel)
    for _ in range(3):
        torch.full((2**24,), float("nan"), device="cuda")
        assert kernel_error(torch.device("cuda"), dtype) < limit


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "gemma"])
def test_packed_is_separate_and_is_the_cpu(
    kind: str, tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.load(tiny_folder(kind))
    assert model.device.type == "cuda" and model.layout == "packed"
    packed, separate = logprobs(model, "packed"), logprobs(model, "separate")
    assert float((packed - separate).abs().max()) < 1e-4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = tiny.load(tiny_folder(kind))
    assert on_cpu.device.type == "cpu"
    assert float((packed - logprobs(on_cpu, "packed")).abs().max()) < 1e-3


@pytest.mark.parametrize("sampling", [Sampling(60, 1, 0.0), Sampling(60, 3, 1.0)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["qwen3", "gemma"])
def test_recorded_steps_write_what_unrecorded_ones_write(
    kind: str, sampling: Sampling, tiny_folder: tiny.Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over growing buffers and rows that end, and the same as with an expanded cache."""
    monkeypatch.setattr(shared_prefix, "FIXED_ROOM", 16)
    monkeypatch.setattr(shared_prefix, "LEVEL_FROM", 4)
    model = tiny.load(tiny_folder(kind))
    monkeypatch.setattr(StepRecord, "cost", 0.0)
    replays = []
    real = StepRecord.replay
    monkeypatch.setattr(StepRecord, "replay", lambda self, chosen: replays.append(1) or real(self, chosen))

    def written(cache_use: Any) -> list[list[tuple[int, ...]]]:
        with model.using("judge") as active:
            prompts = [model.encode(prompt) for prompt in tiny.PROMPTS]
            ends = frozenset(range(4, 12))
            found = generation.generate(active, prompts, range(4), sampling, ends, 0, 64, model.head, cache_use)
        return [[completion.token_ids for completion in group] for group in found]

    recorded = written("shared")
    assert len(replays) > 10 and not StepRecord.broken
    assert recorded == written("copied")
    monkeypatch.setattr(StepRecord, "possible", classmethod(lambda cls, device: False))
    assert recorded == written("shared")


def test_sampled_logprobs_are_those_of_a_fresh_forward(tiny_folder: tiny.Folders) -> None:
    model = tiny.load(tiny_folder())
    learner = Learner(model, tiny.recipe(tiny_folder(), judge=LEARNING))
    groups = tiny.rollouts(model)
    assert learner.update("judge", groups, tiny.spread(groups)).values["log_ratio/max"] < 1e-4


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_half_precision_and_4_bits_learn_and_touch_one_adapter_only(
    dtype: str, quantization: str, checkpointing: bool, tmp_path: Path
) -> None:
    if quantization == "nf4":
        pytest.importorskip("bitsandbytes")
    folder = shaped(tmp_path)
    changes = {"dtype": dtype, "quantization": quantization, "gradient_checkpointing": checkpointing}
    model = tiny.load(folder, **changes)
    assert model.layout == "packed"
    assert {p.dtype for _, p in model.parameters("judge")} == {torch.float32}
    learner = Learner(model, tiny.recipe(folder, model=changes, judge=LEARNING))
    before = tiny.everything(model)
    for _ in range(3):
        groups = tiny.rollouts(model)
        values = learner.update("judge", groups, tiny.spread(groups)).values
        assert 0 < values["grad_norm"] < float("inf")
        assert values["log_ratio/max"] < 0.3
    changed = tiny.changed(before, tiny.everything(model))
    assert changed == {name for name, _ in model.parameters("judge")}


@pytest.mark.parametrize("dtype", HALVES)
def test_packed_differs_from_separate_by_rounding(dtype: str, tmp_path: Path) -> None:
    folder = shaped(tmp_path)
    model, exact = tiny.load(folder, dtype=dtype), tiny.load(folder)
    truth = logprobs(exact, "separate")
    packed, separate = logprobs(model, "packed"), logprobs(model, "separate")
    noise = float((separate - truth).abs().max())
    assert noise > 0
    assert float((packed - truth).abs().max()) <= 2 * noise


def test_memory_that_runs_out_costs_time_only(tmp_path: Path) -> None:
    """Under a cap that one micro-batch of all rows exceeds, the update is done in smaller ones: the same gradient."""
    folder = tiny.make_folder("qwen3", tmp_path, hidden_size=512, intermediate_size=2048, num_hidden_layers=4)
    model = tiny.load(folder)
    recipe = tiny.recipe(folder, judge={**LEARNING, "micro_batch_tokens": 10**6})
    groups = tiny.rollouts(model, tokens=64, n=16)
    norm = Learner(model, recipe).update("judge", groups, tiny.spread(groups)).values["grad_norm"]
    again = tiny.load(folder)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 60 * 2**20) / total)
        assert free_cuda(torch.device("cuda")) <= 61 * 2**20
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            capped = Learner(again, recipe).update("judge", groups, tiny.spread(groups)).values
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("Memory ran out in an update" in str(w.message) for w in seen)
    assert capped["micro_batches"] > 1
    assert capped["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_a_measured_budget_holds(tmp_path: Path) -> None:
    """The budget found under a cap is one that does not run out of memory."""
    folder = tiny.make_folder("qwen3", tmp_path, hidden_size=512, intermediate_size=2048, num_hidden_layers=4)
    model = tiny.load(folder)
    groups = tiny.rollouts(model, tokens=64, n=16)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 250 * 2**20) / total)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            learner = Learner(model, tiny.recipe(folder, judge=LEARNING))
            values = learner.update("judge", groups, tiny.spread(groups)).values
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert values["grad_norm"] > 0
