"""Rollout groups as tensors, in three exact layouts for the update (DESIGN, "Shared prefixes").

*Packed*: one row without padding, in which every distinct prefix stands once (form b, with attention over the tree
in place of a mask). *Expanded*: each prompt stands once, its KV cache is given to the completions, rows of their own
on top of it (form a). *Separate*: every row holds its prompt and its completion. The last two are left-padded in the
prompt and right-padded in the completion.

Shape letters: g prompts (groups), R rows (completions), P prompt tokens, C completion tokens, T packed tokens, N
real completion tokens of all rows.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rubric_arm_lite.models.memory import TokenBudget
from rubric_arm_lite.models.shared_prefix.attention import TreeLayout, tree_layout
from rubric_arm_lite.models.shared_prefix.tree import MIN_SAVED, build_tree
from rubric_arm_lite.types import RolloutGroup

Layout = Literal["packed", "expanded", "separate"]


@dataclass(frozen=True, slots=True)
class Row:
    """One completion on its way into an update.

    Attributes:
        weight: of each of its tokens in the loss.
        entropy_factor: what ``weight`` is multiplied by for the entropy, whose mean is over all tokens.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float
    weight: float
    entropy_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Tensors of several rows.

    Attributes:
        prompts_gP: prompt ids, left-padded; ``prompt_mask_gP`` is 1 on real tokens.
        group_of_R: index of each row's prompt in ``prompts_gP``.
        completions_RC: completion ids, right-padded; ``mask_RC`` is 1 on real tokens.
        old_logprobs_RC: log-probabilities when sampled, in nats.
        advantages_R: one per row, as ``entropy_factors_R``.
        weights_RC: each token's weight in the loss, 0 on padding.
    """

    prompts_gP: Tensor
    prompt_mask_gP: Tensor
    group_of_R: Tensor
    completions_RC: Tensor
    mask_RC: Tensor
    old_logprobs_RC: Tensor
    advantages_R: Tensor
    entropy_factors_R: Tensor
    weights_RC: Tensor
    packed: Packed | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """The same rows as one packed row.

    Attributes:
        ids_1T: token ids; ``positions_1T`` their positions.
        source_N: the packed place whose hidden state predicts each completion token, row by row.
        tree: how the tokens see each other.
    """

    ids_1T: Tensor
    positions_1T: Tensor
    source_N: Tensor
    tree: TreeLayout


def pack(rows: Sequence[Row], device: torch.device) -> Packed:
    """Lay rows out without padding; a row's last token predicts nothing and is omitted."""
    tree = build_tree([(*row.prompt_ids, *row.token_ids[:-1]) for row in rows])
    source = [place for r, row in enumerate(rows) for place in tree.places(r)[len(row.prompt_ids) - 1 :]]
    ids, positions_T, source_N = (torch.tensor(x, device=device) for x in (tree.tokens, tree.positions, source))
    return Packed(ids[None], positions_T[None], source_N, tree_layout(tree.nodes, device))


def pad_left(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of shape (rows, longest), padded on the left."""
    return _padded(rows, value, side="left"), _padded([[1] * len(row) for row in rows], 0, side="left")


def _padded(
    rows: Sequence[Sequence[float]], value: float, dtype: torch.dtype = torch.long, side: str = "right"
) -> Tensor:
    return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], True, value, side)


def positions(mask: Tensor) -> Tensor:
    """Position ids of shape (rows, tokens): real tokens count from 0, padding stands at 0."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def make_batch(rows: Sequence[Row], pad_id: int, device: torch.device, layout: Layout = "separate") -> RowBatch:
    """Lay rows out as tensors; equal prompts of neighboring rows are stored once."""
    prompts: list[tuple[int, ...]] = []
    group_of = []
    for row in rows:
        if not prompts or prompts[-1] != row.prompt_ids:
            prompts.append(row.prompt_ids)
        group_of.append(len(prompts) - 1)
    prompt_ids, prompt_mask = pad_left(prompts, pad_id)
    mask = _padded([[1] * len(row.token_ids) for row in rows], 0)
    return RowBatch(
        prompts_gP=prompt_ids.to(device),
        prompt_mask_gP=prompt_mask.to(device),
        group_of_R=torch.tensor(group_of, device=device),
        completions_RC=_padded([row.token_ids for row in rows], pad_id).to(device),
        mask_RC=mask.to(device),
        old_logprobs_RC=_padded([row.logprobs for row in rows], 0, torch.float32).to(device),
        advantages_R=torch.tensor([row.advantage for row in rows], dtype=torch.float32, device=device),
        entropy_factors_R=torch.tensor([row.entropy_factor for row in rows], dtype=torch.float32, device=device),
        weights_RC=(mask.float() * torch.tensor([row.weight for row in rows])[:, None]).to(device),
        packed=pack(rows, device) if layout == "packed" else None,
    )


def row_weight(loss_type: str, length: int, rows: int, tokens: int, max_completion_length: int) -> float:
    """Weight of one token of a row, so that the loss is a plain sum over tokens of weight × token loss.

    ``grpo``: mean over the row's tokens, then over rows. ``dapo``: mean over all tokens of the batch. ``dr_grpo``:
    sum over tokens divided by rows × ``max_completion_length``.
    """
    match loss_type:
        case "grpo":
            return 1.0 / (max(length, 1) * max(rows, 1))
        case "dapo":
            return 1.0 / max(tokens, 1)
        case "dr_grpo":
            return 1.0 / (max(rows, 1) * max_completion_length)
        case _:
            raise ValueError(f"loss_type: {loss_type!r} is not one of grpo, dapo, dr_grpo.")


def make_rows(
    groups: Sequence[RolloutGroup],
    advantages: Sequence[Sequence[float | None]],
    loss_type: str,
    max_completion_length: int,
    mask_truncated: bool = False,
) -> list[Row]:
    """One row per sample that takes part; samples without an advantage are left out of every count.

    With ``mask_truncated`` completions cut by length keep their place in the row count but weigh nothing, as in
    TRL's ``mask_truncated_completions``.
    """
    used = [
        (group.prompt_ids, sample, advantage, mask_truncated and sample.finish_reason == "length")
        for group, values in zip(groups, advantages, strict=True)
        for sample, advantage in zip(group.samples, values, strict=True)
        if advantage is not None and sample.token_ids
    ]
    tokens = sum(len(sample.token_ids) for _, sample, _, dropped in used if not dropped)
    rows = []
    for prompt_ids, sample, advantage, dropped in used:
        weight = row_weight(loss_type, len(sample.token_ids), len(used), tokens, max_completion_length)
        factor = 1.0 / (max(tokens, 1) * weight)
        rows.append(Row(prompt_ids, sample.token_ids, sample.logprobs, advantage, 0.0 if dropped else weight, factor))
    return rows


def micro_batches(rows: Sequence[Row], budget: TokenBudget, layout: Layout) -> Iterator[list[Row]]:
    """Split rows into runs: several groups within ``budget.aim``, one within ``budget.most``, a row of any length.

    A group that fits ``budget.most`` stays in one run, since its prompt would have to be computed in each.
    """
    run: list[Row] = []
    for _, members in itertools.groupby(rows, key=lambda row: row.prompt_ids):
        group = list(members)
        if run and count_tokens([*run, *group], layout) > budget.aim:
            yield run
            run = []
        for row in group:
            if run and count_tokens([*run, row], layout) > budget.most:
                yield run
                run = []
            run.append(row)
    if run:
        yield run


def count_tokens(rows: Sequence[Row], layout: Layout) -> int:
    """Tokens that go through the network for these rows, padding included where the layout has any.

    In the packed layout an upper bound: prefixes that different prompts share are counted for each, and of a prompt
    up to `MIN_SAVED` tokens may be repeated, since sharing them would not pay.
    """
    prompts = Counter(row.prompt_ids for row in rows)
    if layout == "packed":
        repeated = sum(min(MIN_SAVED - 1, len(ids) * (count - 1)) for ids, count in prompts.items())
        return sum(map(len, prompts)) + repeated + sum(len(row.token_ids) for row in rows)
    copies = len(prompts) if layout == "expanded" else len(rows)
    return copies * max(len(r.prompt_ids) for r in rows) + len(rows) * max(len(r.token_ids) for r in rows)
