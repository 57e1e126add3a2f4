"""The token budget: counted on a CPU, fitted to two peaks on a GPU (whose counters are played here)."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from rubric_arm_lite.models import memory
from rubric_arm_lite.models.memory import CPU_CAP, CUDA_CAP, TokenBudget, is_out_of_memory, saved_bytes, token_budget

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Card:
    """What torch would say of a GPU: an update takes ``fixed`` bytes and ``per_token`` more for each token."""

    def __init__(
        self, fixed: int, per_token: int, free: int, held: int = 1000, reserved: int = 1500, share: float = 1.0
    ) -> None:
        self.fixed, self.per_token, self.free, self.share = fixed, per_token, free, share
        self.held, self.reserved, self.peak = held, reserved, held
        self.asked: list[tuple[int, bool]] = []

    def step(self, tokens: int, backward: bool) -> int:
        """An update of exactly so many tokens."""
        self.asked.append((tokens, backward))
        self.peak = self.held + self.fixed + self.per_token * tokens
        return tokens

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Answer in torch's place."""
        answers = {
            "synchronize": lambda device: None,
            "memory_allocated": lambda device: self.held,
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", self.held),
            "max_memory_allocated": lambda device: self.peak,
            "memory_reserved": lambda device: self.reserved,
            "mem_get_info": lambda device: (self.free, 10 * self.free),
            "get_per_process_memory_fraction": lambda device: self.share,
            "empty_cache": lambda: setattr(self, "reserved", self.held),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)


def test_a_gpus_budget_fills_its_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.8 × (99,500 free + 500 reserved but unused) - 20,000 fixed leaves 60,000 bytes: 600 tokens of 100."""
    card = Card(fixed=20_000, per_token=100, free=99_500)
    card.install(monkeypatch)
    assert token_budget(torch.nn.Linear(1, 1), CUDA, card.step, longest=50) == TokenBudget.flat(600)
    assert card.asked == [(50, True), (100, True)], "two updates, backward included"


def test_a_cap_on_this_process_bounds_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 % of the card's 995,000 bytes less the 1,000 held are 48,750; 0.8 of that less 20,000 fixed: 190 tokens."""
    card = Card(fixed=20_000, per_token=100, free=99_500, share=0.05)
    card.install(monkeypatch)
    assert memory.free_cuda(CUDA) == 48_750
    assert token_budget(torch.nn.Linear(1, 1), CUDA, card.step, longest=50) == TokenBudget.flat(190)


def test_a_probe_that_runs_out_of_memory_bounds_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card(fixed=20_000, per_token=100, free=99_500)
    card.install(monkeypatch)

    def step(tokens: int, backward: bool) -> int:
        if tokens > 50:
            raise torch.OutOfMemoryError("no room")
        return card.step(tokens, backward)

    assert token_budget(torch.nn.Linear(1, 1), CUDA, step, longest=50) == TokenBudget.flat(50)
    assert card.reserved == card.held, "cached blocks were given back"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (Card(fixed=0, per_token=1, free=10**9), CUDA_CAP),
        (Card(fixed=99_000, per_token=100, free=99_500), 50),
        (Card(fixed=40_000, per_token=0, free=99_500), 100),
    ],
    ids=["capped", "the longest row must fit", "no slope: all counts per token"],
)
def test_a_gpus_budget_has_bounds(card: Card, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a slope 40,000 bytes for 50 tokens are 800 each: 50 + (80,000 - 40,000) / 800 = 100."""
    card.install(monkeypatch)
    assert token_budget(torch.nn.Linear(1, 1), CUDA, card.step, longest=50) == TokenBudget.flat(expected)


def test_a_cpus_budget_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of width 1000 saves its input, 4,000 bytes a token; a quarter of 32 MB over twice that is 1,000.

    128 MiB hold 33,554 such tokens, so several groups may fill the cap; with 100 times the width they hold 335.
    """
    layer, wide = torch.nn.Linear(1000, 1), torch.nn.Linear(100_000, 1)

    def step(tokens: int, backward: bool) -> int:
        assert not backward
        layer(torch.randn(100, 1000)).sum()
        return 100

    def wide_step(tokens: int, backward: bool) -> int:
        wide(torch.randn(100, 100_000)).sum()
        return 100

    pages = {"SC_PHYS_PAGES": 8000, "SC_PAGE_SIZE": 4000}
    monkeypatch.setattr(memory.os, "sysconf", pages.__getitem__)
    assert token_budget(layer, CPU, step, longest=10) == TokenBudget.flat(1000)
    assert token_budget(layer, CPU, step, longest=1234) == TokenBudget.flat(1234)
    pages["SC_PHYS_PAGES"] = 10**9
    assert token_budget(layer, CPU, step, longest=10) == TokenBudget.flat(CPU_CAP)
    assert token_budget(wide, CPU, wide_step, longest=10) == TokenBudget(CPU_CAP, 335)
    assert token_budget(layer, CPU, lambda tokens, backward: 1, longest=10) == TokenBudget.flat(CPU_CAP), "none saved"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_counting_memory_holds_on_to_none() -> None:
    """A hook that kept tensors would keep their graph, and the graph its hooks: a cycle nobody collects."""
    layer = torch.nn.Linear(10, 20)
    with saved_bytes(layer):
        out = torch.nn.functional.silu(layer(torch.randn(7, 10, requires_grad=True))).square()
    token = type("Token", (), {})()
    out.grad_fn.next_functions[0][0].metadata["token"] = token  # the node whose output the square has saved
    held = weakref.ref(token)
    del token, out
    gc.collect()
    assert held() is None


def test_an_operation_that_saves_its_own_output_is_let_go() -> None:
    """As the attention over a prefix tree does."""

    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
            out = inputs.square()
            ctx.save_for_backward(out)
            return out

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * 2 * ctx.saved_tensors[0].sqrt()

    inputs = torch.tensor([3.0], requires_grad=True)
    with saved_bytes(torch.nn.Linear(1, 1)) as total:
        out = Squared.apply(inputs)
    assert total[0] == 4
    assert torch.autograd.grad(out, inputs, retain_graph=True)[0].item() == 6
    token = type("Token", (), {})()
    out.grad_fn.metadata["token"] = token
    held = weakref.ref(token)
    del token, out
    gc.collect()
    assert held() is None


def test_memory_saved_for_backward_is_counted() -> None:
    layer = torch.nn.Linear(10, 20, bias=False)
    inputs = torch.randn(7, 10, requires_grad=True)
    with saved_bytes(layer) as total:
        torch.nn.functional.silu(layer(inputs)).square().sum()
    # The layer keeps its input (and its weight, which is the model's own); silu and square keep theirs.
    assert total[0] == 4 * (7 * 10 + 7 * 20 + 7 * 20)
