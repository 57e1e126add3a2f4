"""Shared prefixes inside transformers' own model code: an attention function, and what it is told in each pass.

A model loaded by :mod:`rubric_arm_lite.models.load` runs with the attention implementation :data:`ATTENTION_NAME`.
Called as usual it is sdpa. Called with ``shared=…`` it leaves the attention to that object: a :class:`PackedPass` for a
packed row of a prefix tree (updates, prefill), or a :class:`DecodePass` for one new token in every row, which reads
each shared prefix once for all rows below it and never copies its keys and values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from rubric_arm_lite.models.shared_prefix.attention import TreeLayout, attend_one_way, tree_attention, tree_layout
from rubric_arm_lite.models.shared_prefix.tree import PrefixTree, build_tree

ATTENTION_NAME = "rubric_arm_shared"
ROOM = 64
"""Tokens by which the buffers of a row's own keys and values grow."""
FIXED_ROOM = 256
"""The same where every step has the shapes of the last, which it reads in full and has to be recorded anew for."""
LEVEL_FROM = 128
"""Tokens from which a shared prefix is read once for its rows; a shorter one is given to each, in fewer calls."""


def register() -> None:
    """Make :data:`ATTENTION_NAME` known to transformers; more than once does no harm."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, sdpa_mask)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared: PackedPass | DecodePass | None = None,
    **kwargs: Any,
) -> Any:
    if shared is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):  # what is float32 in here is meant to be
        return shared.attend(module.layer_idx, query, key, value, scale), None


def decoder_of(base: Any) -> Any:
    """The part of a causal language model that ends with the last hidden states, before the head."""
    decoder = base.get_decoder()
    return base.model if decoder is base else decoder  # Llama-4's text model finds itself


def forward(decoder: Any, ids: Tensor, positions: Tensor, shared: PackedPass | DecodePass) -> Tensor:
    """Last hidden states of ``decoder`` for ids and positions of shape (rows, tokens), attention by ``shared``."""
    # A mask of four dimensions is taken as it is: the model builds none of its own. Nobody reads it.
    unread = torch.zeros((1, 1, 1, 1), dtype=torch.bool, device=ids.device)
    hidden: Tensor = decoder(
        input_ids=ids, position_ids=positions, attention_mask=unread, use_cache=False, shared=shared
    ).last_hidden_state
    return hidden


@dataclass(slots=True)
class PackedPass:
    """One packed row; with ``kept`` (a list) every layer's keys and values are kept for decoding."""

    layout: TreeLayout
    kept: list[tuple[Tensor, Tensor]] | None = None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Output (1, T, heads, head size) for query, key and value of (1, heads, T, head size)."""
        if self.kept is not None:
            if layer != len(self.kept):
                raise AssertionError(f"Layer {layer} came after {len(self.kept)} others.")
            self.kept.append((key, value))
        return tree_attention(query, key, value, self.layout, scale).transpose(1, 2)


class Level:
    """Prefixes at one depth of the tree, each shared by several rows.

    ``keys`` and ``values`` hold (n, K, P, D) per layer, padded behind. ``rows_nm`` lists the rows below each node,
    padded with row 0; None if rows divide evenly and in order. ``slot_R`` is each row's place among n × m.
    """

    def __init__(self, spans: Sequence[slice], node_of_R: list[int], kept: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.lengths = [span.stop - span.start for span in spans]
        longest = max(self.lengths)
        padding = [(0, 0, 0, longest - length) for length in self.lengths]
        # Slices of the packed (1, K, T, D) as (n, K, P, D).
        self.keys, self.values = (
            [torch.stack([pad(pair[i][0, :, s], p) for s, p in zip(spans, padding, strict=True)]) for pair in kept]
            for i in (0, 1)
        )
        self.node_of_R = node_of_R
        self._index()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows; prefixes without rows are dropped, maybe all of them."""
        nodes = [self.node_of_R[row] for row in rows]
        alive = sorted({node for node in nodes if node >= 0})
        self.node_of_R = [alive.index(node) if node >= 0 else -1 for node in nodes]
        dropped = len(self.lengths) - len(alive)
        self.lengths = [self.lengths[node] for node in alive]
        if not alive:
            return
        if dropped:
            index = torch.tensor(alive, device=self.keys[0].device)
            width = max(self.lengths)
            self.keys, self.values = (
                [t.index_select(0, index)[:, :, :width] for t in tensors] for tensors in (self.keys, self.values)
            )
        self._index()

    def _index(self) -> None:
        """Which rows stand below which node, what they see of it, and which have no prefix here."""
        device, width = self.keys[0].device, max(self.lengths)
        self._bias = hidden_behind(self.lengths, width, self.keys[0]) if min(self.lengths) < width else None
        absent = [node < 0 for node in self.node_of_R]
        self._absent_R = torch.tensor(absent, device=device) if any(absent) else None
        self.rows_nm: Tensor | None = None
        self.slot_R: Tensor | None = None
        below: list[list[int]] = [[] for _ in self.lengths]
        for row, node in enumerate(self.node_of_R):
            if node >= 0:
                below[node].append(row)
        most = max(map(len, below))
        in_order = [row for rows in below for row in rows] == list(range(len(self.node_of_R)))
        if in_order and all(len(rows) == most for rows in below):
            return
        slot = [0] * len(self.node_of_R)
        for node, rows in enumerate(below):
            for i, row in enumerate(rows):
                slot[row] = node * most + i
        self.rows_nm = torch.tensor([rows + [0] * (most - len(rows)) for rows in below], device=device)
        self.slot_R = torch.tensor(slot, device=device)

    def attend(self, layer: int, query_RKgD: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of each row to its prefix, (R, K × g, D), and its log-sum-exp, (R, K × g)."""
        spread = query_RKgD[self.rows_nm] if self.rows_nm is not None else query_RKgD
        spread = spread.reshape(len(self.lengths), -1, *query_RKgD.shape[1:])
        n, m, heads, groups, size = spread.shape
        queries = spread.permute(0, 2, 1, 3, 4).reshape(n, heads, m * groups, size)
        # The scale is in the queries already.
        out, lse = attend_one_way(queries, self.keys[layer], self.values[layer], self._bias, 1.0)
        out = out.view(n, heads, m, groups, -1).permute(0, 2, 1, 3, 4).reshape(n * m, heads * groups, -1)
        lse = lse.view(n, heads, m, groups).permute(0, 2, 1, 3).reshape(n * m, heads * groups)
        if self.slot_R is not None:
            out, lse = out.index_select(0, self.slot_R), lse.index_select(0, self.slot_R)
        return out, lse if self._absent_R is None else lse.masked_fill(self._absent_R[:, None], float("-inf"))


def hidden_behind(lengths: Sequence[int], width: int, like: Tensor) -> Tensor:
    """A bias of (n, 1, 1, width): 0 on the first ``lengths[i]`` columns, -inf after them."""
    hidden = torch.arange(width) >= torch.tensor(lengths)[:, None]
    return torch.zeros(hidden.shape, dtype=like.dtype).masked_fill(hidden, float("-inf")).to(like.device)[:, None, None]


class DecodePass:
    """Keys and values of all rows: long shared prefixes by level, and each row's own tokens.

    What a row does not share, or shares too little of to be worth a level, is its own from the start, padded in
    front. Attention does not depend on the order of keys, whose positions are in their rotation.

    With ``fixed`` shapes a step reads the whole buffer, hides what is not written yet, and finds the column to write
    in a tensor, ``column``, so that a CUDA graph can repeat it until :attr:`full`.
    """

    def __init__(
        self, tree: PrefixTree, prompt_of_R: Sequence[int], kept: Sequence[tuple[Tensor, Tensor]], fixed: bool = False
    ) -> None:
        self.fixed = fixed
        self._growth = FIXED_ROOM if fixed else ROOM
        paths = [tree.paths[prompt] for prompt in prompt_of_R]
        rows_below = Counter(node for path in paths for node in path)
        span = {node: slice(tree.nodes[node].start, tree.nodes[node].stop) for node in rows_below}
        shared = {n for n, s in span.items() if rows_below[n] > 1 and s.stop - s.start >= LEVEL_FROM}
        self.levels: list[Level] = []
        for depth in range(max(map(len, paths))):
            at_depth = [path[depth] if len(path) > depth and path[depth] in shared else -1 for path in paths]
            nodes = list(dict.fromkeys(node for node in at_depth if node >= 0))
            if nodes:
                index = {node: i for i, node in enumerate(nodes)}
                self.levels.append(Level([span[n] for n in nodes], [index.get(n, -1) for n in at_depth], kept))
        unshared = [
            [place for node in path if node not in shared for place in range(span[node].start, span[node].stop)]
            for path in paths
        ]
        self._own_lengths = list(map(len, unshared))
        start = max(self._own_lengths)
        places = torch.tensor([[0] * (start - len(row)) + row for row in unshared], dtype=torch.long)
        places = places.to(kept[0][0].device)
        # (K, R, tokens, D) as it comes, (R, K, tokens, D) as it is read, with room for what will be written.
        self._rooms = [[pad(t[0][:, places].transpose(0, 1), (0, 0, 0, self._growth)) for t in pair] for pair in kept]
        self._filled = [start] * len(kept)
        self._set_bias()

    @property
    def full(self) -> bool:
        """Whether the next token needs larger buffers."""
        return self._rooms[0][0].shape[2] == self._filled[0]

    def grow(self) -> None:
        """Make the buffers of all layers larger; with fixed shapes they never grow by themselves."""
        self._rooms = [[pad(t, (0, 0, 0, self._growth)) for t in pair] for pair in self._rooms]
        self._set_bias()

    def reveal_column(self) -> None:
        """Let a step with fixed shapes see the column that it writes."""
        self._seen.index_fill_(3, self.column, 0.0)

    def count_step(self) -> None:
        """Note on the host that a step with fixed shapes was made, recorded or not."""
        self._filled = [filled + 1 for filled in self._filled]

    def _set_bias(self) -> None:
        """What each row does not see in front of its own columns; None if there is nothing."""
        start = max(self._own_lengths)
        # Hidden in front is hidden behind, mirrored.
        front = hidden_behind(self._own_lengths, start, self._rooms[0][0]).flip(-1)
        self._bias = front if min(self._own_lengths) < start else None
        self._mask: Tensor | None = None
        if self.fixed:
            room, filled = self._rooms[0][0], self._filled[0]
            # Every row has its own mask: one that all rows shared would be written to through all of them.
            written = pad(front.expand(len(room), 1, 1, start), (0, filled - start))
            self._seen = pad(written, (0, room.shape[2] - filled), value=float("-inf"))
            self.column = torch.tensor([filled], device=room.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows."""
        index = torch.tensor(rows, device=self._rooms[0][0].device)
        for level in self.levels:
            level.keep(rows)
        self.levels = [level for level in self.levels if level.lengths]
        # Columns that only rows now gone have filled are cut off in front.
        width = max(self._own_lengths)
        self._own_lengths = [self._own_lengths[row] for row in rows]
        unused = width - max(self._own_lengths)
        self._rooms = [[tensor[:, :, unused:].index_select(0, index) for tensor in pair] for pair in self._rooms]
        self._filled = [filled - unused for filled in self._filled]
        self._set_bias()

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """One query per row, whose key and value join the row's own; output (rows, 1, heads, head size)."""
        if self.fixed:
            keys, values = self._rooms[layer]
            for room, new in ((keys, key), (values, value)):
                room.index_copy_(2, self.column, new)
            mask: Tensor | None = self._seen
        else:
            # The new token is written into room kept free behind the row's own keys and values.
            old = self._filled[layer]
            if self._rooms[layer][0].shape[2] == old:
                self._rooms[layer] = [pad(tensor, (0, 0, 0, self._growth)) for tensor in self._rooms[layer]]
            for room, new in zip(self._rooms[layer], (key, value), strict=True):
                room[:, :, old : old + 1] = new
            self._filled[layer] = old + 1
            keys, values = (room[:, :, : old + 1] for room in self._rooms[layer])
            if self._bias is not None and (self._mask is None or self._mask.shape[-1] != old + 1):
                self._mask = pad(self._bias, (0, old + 1 - self._bias.shape[-1]))  # once per step, for all layers
            mask = self._mask
        if not self.levels and not self.fixed:
            grouped = key.shape[1] != query.shape[1]
            attended = scaled_dot_product_attention(query, keys, values, mask, scale=scale, enable_gqa=grouped)
            return attended.transpose(1, 2)
        rows, heads, _, size = query.shape
        queries = (query * scale).reshape(rows, key.shape[1], heads // key.shape[1], size)
        out, lse = attend_one_way(queries, keys, values, mask, 1.0)
        parts = [(out.reshape(rows, heads, -1), lse.reshape(rows, heads))]
        parts += [level.attend(layer, queries) for level in self.levels]
        if len(parts) == 2 and self.fixed:  # in few kernels, which are what a step on a GPU costs
            (own, own_lse), (above, above_lse) = parts
            mixed = torch.lerp(above.float(), own.float(), torch.sigmoid(own_lse - above_lse)[..., None])
        else:
            shares = torch.softmax(torch.stack([part_lse for _, part_lse in parts]), dim=0)[..., None]
            shared_parts = (part.float() * share for (part, _), share in zip(parts, shares, strict=True))
            mixed = sum(shared_parts, start=shares.new_zeros(()))
        return mixed.to(value.dtype)[:, None]


def prefill(
    decoder: Any, prompts: Sequence[Sequence[int]], prompt_of_R: Sequence[int], fixed: bool = False
) -> tuple[Tensor, DecodePass]:
    """Run every distinct prefix of ``prompts`` through the network once.

    Returns:
        The last hidden state of each prompt, (prompts, H), and the state from which rows decode.
    """
    tree = build_tree(prompts)
    device = decoder.device
    kept: list[tuple[Tensor, Tensor]] = []
    ids = torch.tensor([tree.tokens], device=device)
    positions = torch.tensor([tree.positions], device=device)
    hidden = forward(decoder, ids, positions, PackedPass(tree_layout(tree.nodes, device), kept))
    last = torch.tensor([tree.nodes[path[-1]].stop - 1 for path in tree.paths], device=device)
    return hidden[0].index_select(0, last), DecodePass(tree, prompt_of_R, kept, fixed)
