"""The decoding loop: each distinct prefix is computed once and shared by all rows below it.

Sampling is by inverse transform: one uniform number per (row, token), drawn beforehand from the example's own
seed. A completion therefore depends on its example alone, not on what else is in the batch.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rubric_arm_lite.errors import first_line
from rubric_arm_lite.models.base import cache_name
from rubric_arm_lite.models.memory import is_out_of_memory
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.shared_prefix.batching import pad_left, positions
from rubric_arm_lite.models.shared_prefix.passes import decoder_of, forward, prefill
from rubric_arm_lite.models.shared_prefix.tree import build_tree

CacheUse = Literal["shared", "copied", "copied_by_length", "none"]
"""How a prompt's cache serves its completions: kept once and read by all, copied to each (``copied_by_length``: in
batches of one length, where padding would change a state), or not at all."""
COMPACT_BELOW = 0.7
"""Finished rows are dropped from the batch when the share of running ones falls below this."""


def ask_every(device: torch.device) -> int:
    """Tokens between two looks at which rows have ended: looking waits for a GPU, and costs nothing on a CPU."""
    return 1 if device.type == "cpu" else 8


def fixed_shapes(device: torch.device) -> bool:
    """Whether every step has the shapes of the last: a GPU can then repeat a recorded one, a CPU would only do more."""
    return device.type == "cuda"


@dataclass(frozen=True, slots=True)
class Completion:
    """Token ids (with the end token, if one was sampled) and their log-probabilities."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that writes into room kept free behind its tokens, in place of copying all at every token."""

    growth = 32
    keys: Tensor
    values: Tensor
    _rooms: list[Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values of shape (rows, heads, tokens, head size); returns all of them as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._rooms is None or self._rooms[0].shape[-2] < new:
            shape = (*key_states.shape[:2], new + self.growth)
            self._rooms = [s.new_empty((*shape, s.shape[-1])) for s in (key_states, value_states)]
            if old:
                self._rooms[0][:, :, :old] = self.keys
                self._rooms[1][:, :, :old] = self.values
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, old:new] = states
        self.keys, self.values = (room[:, :, :new] for room in self._rooms)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Make new rows of the rows with these indices."""
        super().reorder_cache(beam_idx)
        self._rooms = None


def roomy_cache() -> DynamicCache:
    """An empty cache of :class:`RoomyLayer` for any number of layers."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache


def take_rows(cache: Any, index: Tensor) -> None:
    """Make the rows of a cache those with these indices, in place; a row may be taken several times."""
    if hasattr(cache, "linear_cache"):  # MiniMax's class reorders its keys and values only
        cache.linear_cache = [state[index] if torch.is_tensor(state) else state for state in cache.linear_cache]
    cache.reorder_cache(index)


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
        ranked, order = logp.sort(-1, descending=True)
        before = ranked.exp().cumsum(-1) - ranked.exp()
        dropped = torch.zeros_like(logp, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logp = torch.log_softmax(logp.masked_fill(dropped, float("-inf")), dim=-1)
    cumulative = logp.exp().cumsum(-1)
    aim = uniforms.to(cumulative)[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, aim, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return ids, logp.gather(-1, ids[:, None]).squeeze(-1)


class SharedDecoding:
    """Every distinct prefix is computed once, kept once, and read once per step for all rows below it.

    On a GPU the steps between two changes of shape are recorded once as a CUDA graph and replayed: a step of a large
    model is a few thousand small kernels, which Python launches more slowly than the GPU runs them.
    """

    def __init__(self, model: Any, head: Callable[[Tensor], Tensor], prompts: Sequence[Sequence[int]], n: int) -> None:
        self._decoder = decoder_of(model.get_base_model())
        self._head = head
        prompt_of_R = [i for i in range(len(prompts)) for _ in range(n)]
        self._fixed = fixed_shapes(self._decoder.device)
        last, self._rows = prefill(self._decoder, prompts, prompt_of_R, self._fixed)
        self.logits = head(last).repeat_interleave(n, dim=0)
        self._positions = torch.tensor([len(prompts[i]) for i in prompt_of_R], device=last.device)
        self._unrecorded = 0.0
        self._record: StepRecord | None = None

    def step(self, chosen_R: Tensor) -> Tensor:
        """Take one more token per row and return the logits (R, V) of the next."""
        if not self._fixed:
            hidden = forward(self._decoder, chosen_R[:, None], self._positions[:, None], self._rows)
            self._positions = self._positions + 1
            return self._head(hidden[:, -1])
        if self._rows.full:
            self._rows.grow()
            self._unrecorded, self._record = 0.0, None
        # Once steps of this shape have cost as much as recording one does: shapes that soon change again are not
        # worth it, and the first step lets libraries set themselves up, which cannot be recorded.
        if self._record is None and self._unrecorded > StepRecord.cost and StepRecord.possible(chosen_R.device):
            self._record = StepRecord.of(self._step, chosen_R)
        if self._record is not None:
            logits = self._record.replay(chosen_R)
        else:
            started = time.perf_counter()
            logits = self._step(chosen_R)
            self._unrecorded += time.perf_counter() - started
        self._rows.count_step()
        return logits

    def _step(self, chosen_R: Tensor) -> Tensor:
        """A step in which all state is updated in place, on the device alone."""
        self._rows.reveal_column()
        hidden = forward(self._decoder, chosen_R[:, None], self._positions[:, None], self._rows)
        logits = self._head(hidden[:, -1])
        self._rows.column += 1
        self._positions += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows."""
        self._rows.keep(rows)
        self._positions = self._positions[torch.tensor(rows, device=self._positions.device)]
        self._unrecorded, self._record = 0.0, None


class StepRecord:
    """A step as a CUDA graph: the same kernels on the same memory, launched as one."""

    broken = False
    """Set for the rest of the process where recording fails; steps then run one kernel at a time."""
    cost = 0.2
    """Seconds that the last recording took; a guess before the first."""

    def __init__(self, graph: torch.cuda.CUDAGraph, chosen_R: Tensor, logits: Tensor) -> None:
        self._graph, self._chosen_R, self._logits = graph, chosen_R, logits

    @classmethod
    def possible(cls, device: torch.device) -> bool:
        """Whether steps can be recorded here."""
        return device.type == "cuda" and not cls.broken

    @classmethod
    def of(cls, step: Callable[[Tensor], Tensor], chosen_R: Tensor) -> StepRecord | None:
        """Record ``step`` without running it; None, with a warning the first time, if that fails."""
        torch.cuda.synchronize(chosen_R.device)
        started = time.perf_counter()
        graph = torch.cuda.CUDAGraph()
        chosen_R = chosen_R.clone()
        try:
            with torch.cuda.graph(graph):
                logits = step(chosen_R)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            cls.broken = True
            warnings.warn(
                f"Decoding steps cannot be recorded as a CUDA graph ({first_line(error)}), so writing is "
                "slower here. The results are the same.",
                stacklevel=2,
            )
            return None
        torch.cuda.synchronize(chosen_R.device)
        cls.cost = time.perf_counter() - started
        return cls(graph, chosen_R, logits)

    def replay(self, chosen_R: Tensor) -> Tensor:
        """Run the step; its logits are overwritten by the next."""
        self._chosen_R.copy_(chosen_R)
        self._graph.replay()
        return self._logits


class ExpandedDecoding:
    """For layers that shared prefixes do not cover (windows, caps, states): a prompt once, its cache copied to rows.

    Layers of plain attention get a cache with room behind its tokens, other architectures the cache of their own class.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], n: int, pad_id: int, max_tokens: int) -> None:
        self._model = model
        ids, mask = (t.to(model.device) for t in pad_left(prompts, pad_id))
        base = model.get_base_model()
        takes = inspect.signature(base.forward).parameters
        self._takes_positions = "position_ids" in takes
        self._cache_name = cache_name(base)
        # A base that keeps more than the keys and values of its attention must make its own cache.
        kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ())
        own = bool(getattr(base, "_is_stateful", False)) or not kinds <= {"full_attention", "sliding_attention"}
        options = {self._cache_name: None if own else roomy_cache(), "use_cache": True}
        if "logits_to_keep" in takes:
            options["logits_to_keep"] = 1
        out = model(input_ids=ids, attention_mask=mask, **options, **self._at(positions(mask)))
        self._cache = getattr(out, self._cache_name)
        copies = torch.arange(len(prompts), device=mask.device).repeat_interleave(n)
        self.logits: Tensor = out.logits[copies, -1]
        take_rows(self._cache, copies)
        whole = torch.cat([mask, mask.new_ones((len(prompts), max_tokens))], dim=1)
        self._lengths, self._mask = mask.sum(-1)[copies], whole[copies]
        self._width = ids.shape[1]
        self._done = 0

    def _at(self, positions_RT: Tensor) -> dict[str, Tensor]:
        """Positions as an argument; architectures with biases in place of positions take none."""
        return {"position_ids": positions_RT} if self._takes_positions else {}

    def step(self, chosen_R: Tensor) -> Tensor:
        """See :meth:`SharedDecoding.step`."""
        self._done += 1
        logits: Tensor = self._model(
            input_ids=chosen_R[:, None],
            attention_mask=self._mask[:, : self._width + self._done],
            use_cache=True,
            **{self._cache_name: self._cache},
            **self._at((self._lengths + self._done - 1)[:, None]),
        ).logits[:, -1]
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows."""
        index = torch.tensor(rows, device=self._lengths.device)
        take_rows(self._cache, index)
        self._lengths, self._mask = self._lengths[index], self._mask[index]


class UncachedDecoding:
    """For architectures whose state cannot be copied: each token is a pass over the whole row, padded behind."""

    def __init__(
        self, model: Any, head: Callable[[Tensor], Tensor], prompts: Sequence[Sequence[int]], n: int, pad_id: int
    ) -> None:
        self._decoder = decoder_of(model.get_base_model())
        self._head, self._pad_id = head, pad_id
        self._rows = [list(prompt) for prompt in prompts for _ in range(n)]
        self.logits = self._last_logits()

    def _last_logits(self) -> Tensor:
        width = max(map(len, self._rows))
        padded = [row + [self._pad_id] * (width - len(row)) for row in self._rows]
        ids = torch.tensor(padded, device=self._decoder.device)
        hidden = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        last = torch.tensor([len(row) - 1 for row in self._rows], device=hidden.device)
        return self._head(hidden[torch.arange(len(last), device=hidden.device), last])

    def step(self, chosen_R: Tensor) -> Tensor:
        """See :meth:`SharedDecoding.step`."""
        for row, token in zip(self._rows, chosen_R.tolist(), strict=True):
            row.append(token)
        return self._last_logits()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows."""
        self._rows = [self._rows[row] for row in rows]


Decoding = SharedDecoding | ExpandedDecoding | UncachedDecoding


def start_decoding(
    model: Any,
    head: Callable[[Tensor], Tensor],
    prompts: Sequence[Sequence[int]],
    n: int,
    pad_id: int,
    max_tokens: int,
    cache_use: CacheUse,
) -> Decoding:
    """Run prompts through the network; ``n`` rows of each can then be decoded."""
    match cache_use:
        case "shared":
            return SharedDecoding(model, head, prompts, n)
        case "none":
            return UncachedDecoding(model, head, prompts, n, pad_id)
        case _:
            return ExpandedDecoding(model, prompts, n, pad_id, max_tokens)


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    end_ids: frozenset[int],
    pad_id: int,
    max_rows: int,
    head: Callable[[Tensor], Tensor],
    cache_use: CacheUse,
) -> list[list[Completion]]:
    """``sampling.num_generations`` completions for each prompt, in order.

    Prompts are taken in batches of at most ``max_rows`` rows, those with a common prefix together, else by length.

    Args:
        head: from hidden states to logits.
        cache_use: ``shared`` needs a model whose attention is
            :data:`~rubric_arm_lite.models.shared_prefix.passes.ATTENTION_NAME`.
    """
    n = sampling.num_generations
    groups: list[list[Completion]] = [[] for _ in prompts]
    for batch in batches(prompts, max(1, max_rows // n), cache_use):
        texts = [prompts[i] for i in batch]
        decoding = start_decoding(model, head, texts, n, pad_id, sampling.max_tokens, cache_use)
        uniforms = None
        if sampling.temperature > 0:
            uniforms = torch.cat([draw_uniforms(seeds[i], n, sampling.max_tokens) for i in batch]).to(model.device)
        flat = _decode(decoding, uniforms, sampling, end_ids)
        for place, i in enumerate(batch):
            groups[i] = flat[place * n : (place + 1) * n]
    return groups


def batches(prompts: Sequence[Sequence[int]], size: int, cache_use: CacheUse) -> Iterator[list[int]]:
    """Indices of prompts in runs of at most ``size``: by length, and where prefixes are shared by families that share.

    With ``copied_by_length`` the prompts of a run have one length.
    """
    keys: list[tuple[int, ...]] = [(len(prompt), i) for i, prompt in enumerate(prompts)]
    if cache_use == "shared" and len(prompts) > size:
        paths = build_tree(prompts).paths
        parents = [path[-2] if len(path) > 1 else -1 - i for i, path in enumerate(paths)]
        longest: dict[int, int] = {}
        for parent, prompt in zip(parents, prompts, strict=True):
            longest[parent] = max(longest.get(parent, 0), len(prompt))
        keys = [(longest[parent], parent, *key) for parent, key in zip(parents, keys, strict=True)]
    order = sorted(range(len(prompts)), key=keys.__getitem__)
    for _, run in groupby(order, key=lambda i: len(prompts[i]) if cache_use == "copied_by_length" else 0):
        same = list(run)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _decode(
    decoding: Decoding, uniforms: Tensor | None, sampling: Sampling, end_ids: frozenset[int]
) -> list[Completion]:
    """The loop. On a GPU it asks only every few tokens whether rows have ended, since asking waits for the device."""
    logits = decoding.logits
    device, rows = logits.device, len(logits)
    every = ask_every(device)
    ends = torch.tensor(sorted(end_ids), device=device, dtype=torch.long)
    tokens = torch.zeros((rows, sampling.max_tokens), dtype=torch.long, device=device)
    logprobs = torch.zeros((rows, sampling.max_tokens), device=device)
    running = torch.arange(rows, device=device)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    for t in range(sampling.max_tokens):
        chosen, logp = choose_tokens(logits, None if uniforms is None else uniforms[running, t], sampling)
        tokens[running, t] = chosen
        logprobs[running, t] = logp
        if t + 1 == sampling.max_tokens:
            break
        done = done | torch.isin(chosen, ends)
        if (t + 1) % every == 0:
            left = int((~done).sum())
            if left == 0:
                tokens, logprobs = tokens[:, : t + 1], logprobs[:, : t + 1]
                break
            if left < COMPACT_BELOW * len(running):
                kept = (~done).nonzero().squeeze(-1)
                decoding.keep(kept.tolist())
                running, done, chosen = running[kept], done[kept], chosen[kept]
        logits = decoding.step(chosen)
    return completed(tokens, logprobs, end_ids)


def completed(tokens_RT: Tensor, logprobs_RT: Tensor, end_ids: frozenset[int]) -> list[Completion]:
    """Rows of tokens, each up to its first end token."""
    completions = []
    for ids, logprobs in zip(tokens_RT.tolist(), logprobs_RT.tolist(), strict=True):
        end = next((i for i, token in enumerate(ids) if token in end_ids), None)
        length = len(ids) if end is None else end + 1
        completions.append(Completion(tuple(ids[:length]), tuple(logprobs[:length]), end is not None))
    return completions
