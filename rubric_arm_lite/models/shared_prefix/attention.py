"""Exact attention over a tree of shared prefixes: every token sees the nodes above it and its own node up to itself.

The attention of a packed row falls into rectangles without a mask: each node onto itself (causal), and all of a
node's descendants onto that node. Each rectangle goes to a fused kernel that also returns the log-sum-exp of its
scores; partial results are merged by these. In backward every rectangle is given the merged output and log-sum-exp,
which makes its softmax the global one, so the gradients are exact and no score matrix is ever stored.

Shape letters: H query heads, K key heads, T packed tokens, D head size, B nodes in a batch, L tokens of a node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rubric_arm_lite.models.shared_prefix.tree import Node, build_tree

LONG = 128
"""Nodes up to this length are attended to in padded batches, longer ones alone and without a copy."""


@dataclass(frozen=True, slots=True)
class Padded:
    """Several nodes side by side.

    Attributes:
        places_BL: packed places, padded with the node's first place; ``real_BL`` is False there.
        kept_N: indices of the real ones among B × L; ``places_N`` their packed places.
    """

    places_BL: Tensor
    real_BL: Tensor
    kept_N: Tensor
    places_N: Tensor


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """The rectangles of a packed row.

    Attributes:
        selves: nodes whose attention to themselves is computed in one call, or the places of a single one.
        parents: nodes that have descendants.
    """

    selves: tuple[Padded | slice, ...]
    parents: tuple[Node, ...]


def tree_layout(nodes: Sequence[Node], device: torch.device) -> TreeLayout:
    """Rectangles for ``nodes``; short nodes of similar length are batched."""
    selves: list[Padded | slice] = []
    by_length: dict[int, list[Node]] = {}
    for node in nodes:
        length = node.stop - node.start
        if length > LONG:
            selves.append(slice(node.start, node.stop))
        else:
            by_length.setdefault(length.bit_length(), []).append(node)
    for members in by_length.values():
        if len(members) == 1:
            selves.append(slice(members[0].start, members[0].stop))
            continue
        offsets = torch.arange(max(node.stop - node.start for node in members))
        starts = torch.tensor([node.start for node in members])[:, None]
        real = offsets < torch.tensor([node.stop - node.start for node in members])[:, None]
        places = torch.where(real, starts + offsets, starts)
        kept = real.flatten().nonzero().squeeze(-1)
        selves.append(Padded(*(tensor.to(device) for tensor in (places, real, kept, places.flatten()[kept]))))
    return TreeLayout(tuple(selves), tuple(node for node in nodes if node.subtree > node.stop))


def tree_attention(query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float) -> Tensor:
    """Attention of a packed row, differentiable, of the query's shape.

    Args:
        query: shape (1, H, T, D); key and value (1, K, T, D) with K a divisor of H.
        scale: factor on the scores.
    """
    out: Tensor = _TreeAttention.apply(query, key, value, layout, scale)  # type: ignore[no-untyped-call]
    return out


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: TreeLayout, scale: float) -> Tensor:
        heads, tokens = query.shape[1:3]
        wide = _wide(query)
        out = torch.empty((1, heads, tokens, value.shape[-1]), dtype=wide, device=query.device)
        lse = torch.empty((1, heads, tokens), dtype=wide, device=query.device)
        for batch in layout.selves:
            q, k, v = (_tokens_of(t, batch) for t in (query, key, value))
            part, part_lse = _attend(q, k, v, True, scale)
            if isinstance(batch, slice):
                out[:, :, batch], lse[:, :, batch] = part, part_lse
            else:
                out[0].index_copy_(1, batch.places_N, _real(part, batch).to(wide))
                lse[0].index_copy_(1, batch.places_N, _real(part_lse[..., None], batch)[..., 0])
        for node in layout.parents:
            below, above = slice(node.stop, node.subtree), slice(node.start, node.stop)
            folded = _with_heads(query[:, :, below], key.shape[1])
            part, part_lse = _attend(folded, key[:, :, above], value[:, :, above], False, scale)
            part, part_lse = _with_heads(part, heads).to(wide), part_lse.reshape(1, heads, -1)
            merged = torch.logaddexp(lse[:, :, below], part_lse)
            out[:, :, below] *= (lse[:, :, below] - merged).exp()[..., None]
            out[:, :, below] += part * (part_lse - merged).exp()[..., None]
            lse[:, :, below] = merged
        result = out.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.layout, ctx.scale = layout, scale
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        with torch.autocast(gradients[0].device.type, enabled=False):
            query, key, value, out, lse = ctx.saved_tensors
            layout, scale = ctx.layout, ctx.scale
            gradient = gradients[0].to(query.dtype)
            wide = _wide(query)
            grads = [torch.zeros(t.shape, dtype=wide, device=t.device) for t in (query, key, value)]
            for batch in layout.selves:
                grad, q, k, v, part = (_tokens_of(t, batch) for t in (gradient, query, key, value, out))
                if isinstance(batch, slice):
                    part_lse = lse[:, :, batch]
                else:  # padding: no gradient, and a log-sum-exp that makes its probabilities 0
                    grad = grad * batch.real_BL[:, None, :, None]
                    part_lse = lse[0][:, batch.places_BL].transpose(0, 1)
                    part_lse = part_lse.masked_fill(~batch.real_BL[:, None], float("inf"))
                parts = _attend_backward(grad, q, k, v, part, part_lse, True, scale)
                for total, part in zip(grads, parts, strict=True):
                    if isinstance(batch, slice):
                        total[:, :, batch] += part
                    else:
                        total[0].index_add_(1, batch.places_N, _real(part, batch).to(wide))
            heads, key_heads = query.shape[1], key.shape[1]
            for node in layout.parents:
                below, above = slice(node.stop, node.subtree), slice(node.start, node.stop)
                grad, q, part = (_with_heads(t[:, :, below], key_heads) for t in (gradient, query, out))
                part_lse = lse[:, :, below].reshape(1, key_heads, -1)
                k, v = key[:, :, above], value[:, :, above]
                dq, dk, dv = _attend_backward(grad, q, k, v, part, part_lse, False, scale)
                grads[0][:, :, below] += _with_heads(dq, heads)
                grads[1][:, :, above] += dk
                grads[2][:, :, above] += dv
            dq, dk, dv = (g.to(t.dtype) for g, t in zip(grads, (query, key, value), strict=True))
            return dq, dk, dv, None, None


def _wide(tensor: Tensor) -> torch.dtype:
    """The dtype to add up in: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _tokens_of(tensor: Tensor, batch: Padded | slice) -> Tensor:
    """Tokens of a batch of nodes, (B, heads, L, D), out of (1, heads, T, D)."""
    if isinstance(batch, slice):
        return tensor[:, :, batch]
    return tensor[0].transpose(0, 1)[batch.places_BL].transpose(1, 2)


def _real(tensor: Tensor, padded: Padded) -> Tensor:
    """What is no padding of (B, heads, L, D), as (heads, N, D)."""
    flat = tensor.transpose(1, 2).flatten(0, 1)
    return flat.index_select(0, padded.kept_N).transpose(0, 1)


def _with_heads(tensor: Tensor, heads: int) -> Tensor:
    """(1, H, n, D) as (1, K, H / K × n, D), the heads of a key head one after another as more queries; and back."""
    return tensor.reshape(1, heads, -1, tensor.shape[-1])


def kernel_error(device: torch.device, dtype: torch.dtype) -> float:
    """Largest relative error of this device's kernels on a small tree, output and gradients, against plain operations.

    A check at load time; infinite if a kernel refuses or gives no numbers.
    """
    tree = build_tree([(1,) * 40 + (i,) * n for i, n in ((2, 3), (3, 150), (4, 9))])
    layout = tree_layout(tree.nodes, device)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn((1, heads, len(tree.tokens), 32), generator=generator) for heads in (4, 2, 2, 4)]
    *inputs, slope = (tensor.to(device, dtype) for tensor in drawn)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    try:
        out = tree_attention(inputs[0], inputs[1], inputs[2], layout, 0.2)
        measured = [out, *torch.autograd.grad(out, inputs, slope)]
    except RuntimeError:
        return float("inf")
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    keys, values = (tensor.repeat_interleave(2, dim=1) for tensor in exact[1:])
    seen = torch.zeros((len(tree.tokens),) * 2, dtype=torch.bool, device=device)
    for node in tree.nodes:
        seen[node.start : node.stop, node.start : node.stop] = True
        seen[node.stop : node.subtree, node.start : node.stop] = True
    seen = seen.tril()
    weights = torch.softmax((exact[0] @ keys.mT * 0.2).masked_fill(~seen, float("-inf")), dim=-1)
    expected = [weights @ values, *torch.autograd.grad(weights @ values, exact, slope.float(), retain_graph=True)]
    worst = max(
        float(((one.float() - other).abs().max() / other.abs().max()).detach())
        for one, other in zip(measured, expected, strict=True)
    )
    return worst if math.isfinite(worst) else float("inf")


def _kernel(tensor: Tensor) -> str:
    """Whose fused kernels to use: ``cpu``, ``flash``, ``efficient``, or another name for plain operations."""
    if tensor.device.type != "cuda":
        return tensor.device.type
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return "flash" if half and torch.cuda.get_device_capability(tensor.device) >= (8, 0) else "efficient"


def _attend(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores, (B, H, n, D) and (B, H, n) in float32."""
    key, value = _per_head(query, key), _per_head(query, value)
    match _kernel(query):
        case "cpu":
            cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            out, lse = cpu(query, key, value, 0.0, causal, scale=scale)
        case "flash":
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            out, lse = flash(query, key, value, 0.0, causal, False, scale=scale)[:2]
        case "efficient":
            efficient = torch.ops.aten._scaled_dot_product_efficient_attention
            out, lse = efficient(query, key, value, None, True, 0.0, causal, scale=scale)[:2]
            lse = lse[..., : query.shape[2]]
        case _:
            out, lse = attend_plainly(query, key, value, causal, scale)
    return out, lse.to(_wide(query))


def attend_one_way(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Few queries over many keys, without gradient: attention and its log-sum-exp.

    Args:
        query: shape (B, K, n, D), the heads that share a key head folded into n.
        bias: added to the scores, broadcastable to (B, K, n, keys).
    """
    if _kernel(query) == "cpu":
        cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = cpu(query, key, value, 0.0, False, attn_mask=bias, scale=scale)
        return out, lse
    scores = _wide_product(query, key)
    if scale != 1.0:
        scores = scores * scale
    if bias is not None:
        scores = scores + bias
    # As logsumexp, in fewer kernels: the largest weight is exp(largest score - log-sum-exp).
    weights = torch.softmax(scores, dim=-1)
    lse = scores.amax(-1) - weights.amax(-1).log()
    return weights.to(value.dtype) @ value, lse


def _wide_product(query: Tensor, key: Tensor) -> Tensor:
    """All products of (B, K, n, D) and (B, K, keys, D), at least in float32 and without rounding in between."""
    wide = _wide(query)
    if query.dtype == wide:
        return query @ key.mT
    if query.device.type == "cuda" and hasattr(torch.ops.aten.bmm, "dtype"):  # torch 2.8
        products: Tensor = torch.bmm(query.flatten(0, 1), key.flatten(0, 1).mT, out_dtype=wide)
        return products.view(*query.shape[:3], key.shape[2])
    return query.to(wide) @ key.to(wide).mT


def _attend_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, where ``out`` and ``lse`` may include scores of other rectangles."""
    groups = query.shape[1] // key.shape[1]
    key, value = _per_head(query, key), _per_head(query, value)
    match _kernel(query):
        case "cpu":
            cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            dq, dk, dv = cpu(gradient.contiguous(), query, key, value, out, lse.contiguous(), 0.0, causal, scale=scale)
        case "flash":
            seed = torch.zeros((), dtype=torch.long, device=query.device)
            flash = torch.ops.aten._scaled_dot_product_flash_attention_backward
            lengths = (None, None, query.shape[2], key.shape[2])
            inputs = (gradient, query, key, value, out, lse.contiguous())
            dq, dk, dv = flash(*inputs, *lengths, 0.0, causal, seed, seed, scale=scale)
        case "efficient":
            # In half precision the kernel takes tokens to come before heads in memory, whatever the strides say.
            out = out.transpose(1, 2).contiguous().transpose(1, 2)
            # The kernel wants the log-sum-exp padded to whole tiles of queries.
            padded = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=float("inf"))
            seed = torch.zeros((), dtype=torch.long, device=query.device)
            efficient = torch.ops.aten._scaled_dot_product_efficient_attention_backward
            wanted = [True, True, True, False]
            tensors = (gradient, query, key, value, None, out, padded, seed, seed)
            dq, dk, dv = efficient(*tensors, 0.0, wanted, causal, scale=scale)[:3]
        case _:
            dq, dk, dv = attend_plainly_backward(gradient, query, key, value, out, lse, causal, scale)
    if groups > 1:
        dk, dv = (t.reshape(len(t), -1, groups, *t.shape[2:]).sum(2) for t in (dk, dv))
    return dq, dk, dv


def _per_head(query: Tensor, shared: Tensor) -> Tensor:
    """Keys or values, given to every query head that uses them."""
    groups = query.shape[1] // shared.shape[1]
    return shared if groups == 1 else shared.repeat_interleave(groups, dim=1)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The same in plain operations, for other devices and as the reference that kernels are checked against."""
    scores = _scores(query, key, causal, scale)
    lse = torch.logsumexp(scores, dim=-1)
    return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse


def attend_plainly_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in plain operations."""
    weights = (_scores(query, key, causal, scale) - lse[..., None]).exp()
    gradient, out, *inputs = (t.to(_wide(query)) for t in (gradient, out, query, key, value))
    slope = weights * (gradient @ inputs[2].mT - (gradient * out).sum(-1, keepdim=True))
    dq, dk = slope @ inputs[1] * scale, slope.mT @ inputs[0] * scale
    return dq.to(query.dtype), dk.to(key.dtype), (weights.mT @ gradient).to(value.dtype)


def _scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    scores = (query.to(_wide(query)) @ key.to(_wide(query)).mT) * scale
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores
