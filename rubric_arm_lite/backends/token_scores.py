"""Scores of a batch's completion tokens for an update: hidden states in one of three layouts, then the head.

All layouts give the same numbers; they differ in how often a prompt goes through the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rubric_arm_lite.backends import shared_prefix
from rubric_arm_lite.batching import Layout, RowBatch, positions
from rubric_arm_lite.losses import TokenScores, score_tokens


class Head:
    """From hidden states to logits, as the architecture does it (some cap or scale their logits)."""

    def __init__(self, base: Any) -> None:
        config = base.config.get_text_config()
        self._layer = base.get_output_embeddings()
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._factor = float(getattr(config, "logit_scale", 1.0) or 1.0)
        self._divisor = float(getattr(config, "logits_scaling", 1.0) or 1.0)

    def __call__(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._layer(hidden) * (self._factor / self._divisor)
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits


def score_batch(base: Any, head: Head, batch: RowBatch, temperature: float, layout: Layout) -> TokenScores:
    """Log-probabilities and entropies of a batch's completion tokens under the active adapter.

    All layouts give the same numbers; they differ in how often a prompt goes through the network.
    """
    kept = batch.mask_RC.bool().flatten()
    match layout:
        case "packed":
            hidden_N = _packed_hidden(base, batch)
        case "expanded":
            hidden_N = _expanded_hidden(base, batch).flatten(0, 1)[kept]
        case "separate":
            hidden_N = _separate_hidden(base, batch).flatten(0, 1)[kept]
    rows, length = batch.completions_RC.shape
    logp, entropy = score_tokens(
        hidden_N,
        batch.completions_RC.flatten()[kept],
        head,
        temperature,
        base.config.get_text_config().vocab_size,
    )
    spread = torch.zeros((2, rows * length), dtype=logp.dtype, device=logp.device)
    index = kept.nonzero().squeeze(-1)
    return TokenScores(
        spread[0].index_copy(0, index, logp).view(rows, length),
        spread[1].index_copy(0, index, entropy).view(rows, length),
    )


def _packed_hidden(base: Any, batch: RowBatch) -> Tensor:
    """Hidden states (N, H) that predict each completion token, every distinct prefix computed once."""
    packed = batch.packed
    if packed is None:
        raise AssertionError("The batch was made for another layout.")
    one_row = shared_prefix.PackedPass(packed.tree)
    hidden = shared_prefix.forward(base.get_decoder(), packed.ids_1T, packed.positions_1T, one_row)
    return hidden[0].index_select(0, packed.source_N)


def _expanded_hidden(base: Any, batch: RowBatch) -> Tensor:
    """Hidden states (R, C, H) that predict each completion token, prompts computed once."""
    from transformers import DynamicCache

    cache = DynamicCache()
    mask = batch.prompt_mask_gP
    prompt = base.get_decoder()(
        input_ids=batch.prompts_gP,
        attention_mask=mask,
        position_ids=positions(mask),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    last = torch.index_select(prompt[:, -1:], 0, batch.group_of_R)
    if batch.completions_RC.shape[1] == 1:
        return last
    cache.batch_select_indices(batch.group_of_R)
    lengths = mask.sum(-1).index_select(0, batch.group_of_R)
    inputs = batch.completions_RC[:, :-1]
    whole_mask = torch.cat([mask.index_select(0, batch.group_of_R), batch.mask_RC[:, :-1]], dim=1)
    rest = base.get_decoder()(
        input_ids=inputs,
        attention_mask=whole_mask,
        position_ids=lengths[:, None] + torch.arange(inputs.shape[1], device=lengths.device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return torch.cat([last, rest], dim=1)


def _separate_hidden(base: Any, batch: RowBatch) -> Tensor:
    """Hidden states (R, C, H), every row with its own prompt."""
    ids = torch.cat([batch.prompts_gP.index_select(0, batch.group_of_R), batch.completions_RC], dim=1)
    mask = torch.cat([batch.prompt_mask_gP.index_select(0, batch.group_of_R), batch.mask_RC], dim=1)
    width = batch.prompts_gP.shape[1]
    hidden: Tensor = base.get_decoder()(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
    ).last_hidden_state
    return torch.narrow(hidden, 1, width - 1, batch.completions_RC.shape[1])
