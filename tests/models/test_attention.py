"""Attention over a prefix tree equals attention under the mask it stands for, values and gradients."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rubric_arm_lite.models.shared_prefix import attention as module
from rubric_arm_lite.models.shared_prefix.attention import (
    attend_one_way,
    attend_plainly,
    attend_plainly_backward,
    kernel_error,
    tree_attention,
    tree_layout,
)
from rubric_arm_lite.models.shared_prefix.tree import PrefixTree, build_tree

CPU = torch.device("cpu")


def mask_of(tree: PrefixTree) -> Tensor:
    """(T, T), True where a token sees another: itself and everything on its path before it."""
    seen = torch.zeros((len(tree.tokens),) * 2, dtype=torch.bool)
    for i in range(len(tree.paths)):
        places = tree.places(i)
        for k, place in enumerate(places):
            seen[place, places[: k + 1]] = True
    return seen


def masked(query: Tensor, key: Tensor, value: Tensor, tree: PrefixTree, scale: float) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ keys.mT * scale).masked_fill(~mask_of(tree), float("-inf"))
    return torch.softmax(scores, -1) @ values


def random_tree(rng: random.Random, longest: int) -> PrefixTree:
    """Nodes of all lengths: single tokens, short runs that are batched, and runs beyond ``LONG``."""
    starts = [[rng.randrange(9) for _ in range(rng.choice([1, 5, 40]))] for _ in range(2)]
    rows = []
    for _ in range(rng.randrange(1, 9)):
        end = [rng.randrange(9) for _ in range(rng.choice([1, 2, 9, 30, longest]))]
        rows.append([*rng.choice(starts), *rng.choice([[1] * 20, []]), *end])
    return build_tree(rows, min_saved=rng.choice([1, 8]))


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("plain", [False, True], ids=["kernel", "plain"])
def test_equals_masked_attention(heads: tuple[int, int], plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:  # what a device without a kernel of its own uses
        monkeypatch.setattr(module, "_kernel", lambda tensor: "none")
    rng = random.Random(0)
    torch.manual_seed(0)
    for _ in range(12):
        tree = random_tree(rng, longest=150)
        layout = tree_layout(tree.nodes, CPU)
        shapes = [(1, h, len(tree.tokens), 8) for h in (heads[0], heads[1], heads[1])]
        inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
        ours, theirs = tree_attention(*inputs, layout, 0.4), masked(*inputs, tree, 0.4)
        assert float((ours - theirs).detach().abs().max()) < 1e-5
        slope = torch.randn_like(ours)
        found, expected = (torch.autograd.grad(out, inputs, slope) for out in (ours, theirs))
        for one, other in zip(found, expected, strict=True):
            assert float((one - other).abs().max()) < 1e-5 * max(1.0, float(other.abs().max()))


def test_layout_batches_short_nodes_only() -> None:
    rows = [[i] * length for i, length in enumerate([3, 3, 2, 200, 1])]
    layout = tree_layout(build_tree(rows).nodes, CPU)
    sizes = [1 if isinstance(batch, slice) else len(batch.places_BL) for batch in layout.selves]
    assert sorted(sizes) == [1, 1, 3] and not layout.parents


def test_gradients_are_those_of_finite_differences() -> None:
    """In double precision, through the plain operations that stand in for kernels."""
    tree = build_tree([[1, 2, 3, 4], [1, 2, 3, 5, 6], [7]], min_saved=1)
    layout = tree_layout(tree.nodes, CPU)
    torch.manual_seed(0)
    inputs = [torch.randn(1, h, len(tree.tokens), 3, dtype=torch.float64, requires_grad=True) for h in (2, 1, 1)]
    found = torch.autograd.grad(tree_attention(*inputs, layout, 0.7).sin().sum(), inputs)
    for tensor, gradient in zip(inputs, found, strict=True):
        flat = tensor.detach().clone().flatten()
        for i in range(0, len(flat), 3):
            values = []
            for step in (1e-3, -1e-3):
                moved = flat.clone()
                moved[i] += step
                there = [moved.view_as(tensor) if other is tensor else other for other in inputs]
                values.append(masked(*there, tree, 0.7).sin().sum())
            slope = (values[0] - values[1]) / 2e-3
            assert float(gradient.flatten()[i]) == pytest.approx(float(slope), abs=1e-4)


def test_halves_add_up_to_the_whole() -> None:
    """Given the log-sum-exp of all keys, gradients of two halves are the gradients of the whole."""
    torch.manual_seed(0)
    query, gradient = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    key, value = torch.randn(2, 3, 8, 4), torch.randn(2, 3, 8, 4)
    out, lse = attend_plainly(query, key, value, False, 0.5)
    whole = attend_plainly_backward(gradient, query, key, value, out, lse, False, 0.5)
    halves = [
        attend_plainly_backward(gradient, query, key[:, :, s], value[:, :, s], out, lse, False, 0.5)
        for s in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(halves[0][0] + halves[1][0], whole[0])
    for i in (1, 2):
        torch.testing.assert_close(torch.cat([halves[0][i], halves[1][i]], 2), whole[i])


@pytest.mark.parametrize("plain", [False, True], ids=["kernel", "plain"])
def test_one_way_attention_with_hidden_columns(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr(module, "_kernel", lambda tensor: "none")
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 8), torch.randn(3, 2, 6, 8), torch.randn(3, 2, 6, 8)
    bias = torch.zeros(3, 1, 1, 6)
    bias[1, ..., 2:] = float("-inf")
    for given in (None, bias):
        out, lse = attend_one_way(query, key, value, given, 0.3)
        scores = query @ key.mT * 0.3 + (0 if given is None else given)
        torch.testing.assert_close(out, torch.softmax(scores, -1) @ value, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lse.float(), torch.logsumexp(scores, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_this_machines_kernels_pass_their_own_check(dtype: torch.dtype, tolerance: float) -> None:
    assert kernel_error(CPU, dtype) < tolerance


def test_the_check_of_kernels_sees_a_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._attend_backward
    monkeypatch.setattr(module, "_attend_backward", lambda *a: (lambda q, k, v: (q, k * 1.1, v))(*real(*a)))
    assert kernel_error(CPU, torch.float32) > 0.01


def test_what_a_gpus_kernel_is_given_and_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calling convention, played on a CPU: log-sum-exps come and go in whole tiles of 32 queries."""

    def forward(q: Tensor, k: Tensor, v: Tensor, bias: None, with_lse: bool, p: float, causal: bool, *, scale: float):  # type: ignore[no-untyped-def]
        assert with_lse and q.shape[1] == k.shape[1] == v.shape[1] and p == 0.0
        out, lse = attend_plainly(q, k, v, causal, scale)
        return out, torch.nn.functional.pad(lse, (0, -q.shape[2] % 32), value=7.0), None, None

    def backward(  # type: ignore[no-untyped-def]
        g: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: None,
        out: Tensor,
        lse: Tensor,
        seed,
        offset,
        p,
        wanted,
        causal,
        *,
        scale,
    ):
        assert (
            lse.shape[2] % 32 == 0 and lse[..., q.shape[2] :].eq(float("inf")).all() and wanted == [True] * 3 + [False]
        )
        assert out.transpose(1, 2).is_contiguous()
        return *attend_plainly_backward(g, q, k, v, out, lse[..., : q.shape[2]], causal, scale), None

    kernels = SimpleNamespace(
        _scaled_dot_product_efficient_attention=forward,
        _scaled_dot_product_efficient_attention_backward=backward,
    )
    monkeypatch.setattr(torch.ops, "aten", kernels)
    monkeypatch.setattr(module, "_kernel", lambda tensor: "efficient")
    assert kernel_error(CPU, torch.float32) < 1e-5


def test_what_flash_attention_is_given_and_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(q: Tensor, k: Tensor, v: Tensor, p: float, causal: bool, debug: bool, *, scale: float):  # type: ignore[no-untyped-def]
        assert q.shape[1] == k.shape[1] == v.shape[1] and p == 0.0 and not debug
        return *attend_plainly(q, k, v, causal, scale), None, None

    def backward(g, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, p, causal, seed, offset, *, scale):  # type: ignore[no-untyped-def]
        assert cum_q is None and cum_k is None and (max_q, max_k) == (q.shape[2], k.shape[2]) and lse.is_contiguous()
        return attend_plainly_backward(g, q, k, v, out, lse, causal, scale)

    kernels = SimpleNamespace(
        _scaled_dot_product_flash_attention=forward, _scaled_dot_product_flash_attention_backward=backward
    )
    monkeypatch.setattr(torch.ops, "aten", kernels)
    monkeypatch.setattr(module, "_kernel", lambda tensor: "flash")
    assert kernel_error(CPU, torch.float32) < 1e-5


def test_a_kernel_that_refuses_or_gives_no_numbers_has_no_bound_on_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._attend
    monkeypatch.setattr(module, "_attend", lambda *a: (real(*a)[0] * float("nan"), real(*a)[1]))
    assert kernel_error(CPU, torch.float32) == float("inf")

    def refuse(*_: object) -> None:
        raise RuntimeError("not for this dtype")

    monkeypatch.setattr(module, "_attend", refuse)
    assert kernel_error(CPU, torch.float32) == float("inf")
