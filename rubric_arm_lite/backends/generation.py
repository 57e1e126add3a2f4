"""The decoding loop: each distinct prompt is prefilled once, its KV cache is shared out to the whole group.

Sampling is by inverse transform: one uniform number per (row, token), drawn beforehand from the example's own
seed. A completion therefore depends on its example alone, not on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rubric_arm_lite.backends.base import Sampling
from rubric_arm_lite.batching import pad_left, positions

COMPACT_BELOW = 0.7
"""Finished rows are dropped from the batch when the share of running ones falls below this."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Token ids (with the end token, if one was sampled) and their log-probabilities."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that writes into room kept free behind its tokens, in place of copying all at every token."""

    growth = 32

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys: Tensor
        self.values: Tensor
        self._rooms: list[Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values of shape (rows, heads, tokens, head size); returns all of them as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].shape[-2] < new:
            shape = (*key_states.shape[:2], new + self.growth)
            self._rooms = [
                torch.empty((*shape, s.shape[-1]), dtype=s.dtype, device=s.device) for s in (key_states, value_states)
            ]
            if old:
                self._rooms[0][:, :, :old] = self.keys
                self._rooms[1][:, :, :old] = self.values
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, old:new] = states
        self.keys, self.values = (room[:, :, :new] for room in self._rooms)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Give every row to ``repeats`` rows."""
        super().batch_repeat_interleave(repeats)
        self._rooms = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._rooms = None


def roomy_cache() -> DynamicCache:
    """An empty cache of :class:`RoomyLayer` for any number of layers."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache


def draw_uniforms(seed: int, rows: int, tokens: int) -> Tensor:
    """Uniform numbers in [0, 1) of shape (rows, tokens), fixed by ``seed``; more rows keep the earlier ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((rows, tokens), generator=generator)


def choose_tokens(logits: Tensor, uniforms: Tensor | None, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Pick one token per row and return its id and log-probability under the sampling distribution.

    Args:
        logits: shape (rows, vocabulary).
        uniforms: shape (rows,), or None for greedy. Greedy log-probs are those at temperature 1.
    """
    if uniforms is None:
        logp = torch.log_softmax(logits.float(), dim=-1)
        ids = logp.argmax(-1)
        return ids, logp.gather(-1, ids[:, None]).squeeze(-1)
    logp = torch.log_softmax(logits.float() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        logp = _keep_top_p(logp, sampling.top_p)
    cumulative = logp.exp().cumsum(-1)
    aim = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, aim, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return ids, logp.gather(-1, ids[:, None]).squeeze(-1)


def _keep_top_p(logp: Tensor, top_p: float) -> Tensor:
    ranked, order = logp.sort(-1, descending=True)
    before = ranked.exp().cumsum(-1) - ranked.exp()
    dropped = torch.zeros_like(logp, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return torch.log_softmax(logp.masked_fill(dropped, float("-inf")), dim=-1)


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    end_ids: frozenset[int],
    pad_id: int,
    max_rows: int,
) -> list[list[Completion]]:
    """``sampling.num_generations`` completions for each prompt, in order.

    Prompts are taken by length, in batches of at most ``max_rows`` rows, so that little is spent on padding.
    """
    found: list[list[Completion]] = [[] for _ in prompts]
    for batch in _by_length(prompts, max(1, max_rows // sampling.num_generations)):
        groups = _generate_batch(
            model, [prompts[i] for i in batch], [seeds[i] for i in batch], sampling, end_ids, pad_id
        )
        for i, group in zip(batch, groups, strict=True):
            found[i] = group
    return found


def _by_length(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _generate_batch(
    model: Any,
    prompts: list[Sequence[int]],
    seeds: list[int],
    sampling: Sampling,
    end_ids: frozenset[int],
    pad_id: int,
) -> list[list[Completion]]:
    device = model.device
    n = sampling.num_generations
    ids, mask = (t.to(device) for t in pad_left(prompts, pad_id))
    cache = roomy_cache()
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits = out.logits[:, -1].repeat_interleave(n, dim=0)
    cache.batch_repeat_interleave(n)
    lengths = mask.sum(-1).repeat_interleave(n)
    full_mask = torch.cat([mask, mask.new_ones((len(prompts), sampling.max_tokens))], dim=1).repeat_interleave(n, dim=0)
    uniforms = None
    if sampling.temperature > 0:
        uniforms = torch.cat([draw_uniforms(seed, n, sampling.max_tokens) for seed in seeds]).to(device)
    ends = torch.tensor(sorted(end_ids), device=device)

    rows = len(prompts) * n
    tokens = torch.full((rows, sampling.max_tokens), pad_id, dtype=torch.long, device=device)
    logprobs = torch.zeros((rows, sampling.max_tokens), device=device)
    running = torch.arange(rows, device=device)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    for t in range(sampling.max_tokens):
        chosen, logp = choose_tokens(logits, None if uniforms is None else uniforms[running, t], sampling)
        tokens[running, t] = chosen
        logprobs[running, t] = logp
        done = done | torch.isin(chosen, ends)
        left = int((~done).sum())
        if left == 0 or t + 1 == sampling.max_tokens:
            break
        if left < COMPACT_BELOW * len(running):
            kept = (~done).nonzero().squeeze(-1)
            cache.batch_select_indices(kept)
            running, done, chosen = running[kept], done[kept], chosen[kept]
        logits = model(
            input_ids=chosen[:, None],
            attention_mask=full_mask[running, : ids.shape[1] + t + 1],
            position_ids=(lengths[running] + t)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    flat = [
        _completion(ids_row, logp_row, end_ids)
        for ids_row, logp_row in zip(tokens.tolist(), logprobs.tolist(), strict=True)
    ]
    return [flat[i * n : (i + 1) * n] for i in range(len(prompts))]


def _completion(token_ids: list[int], logprobs: list[float], end_ids: frozenset[int]) -> Completion:
    for i, token in enumerate(token_ids):
        if token in end_ids:
            return Completion(tuple(token_ids[: i + 1]), tuple(logprobs[: i + 1]), True)
    return Completion(tuple(token_ids), tuple(logprobs), False)
