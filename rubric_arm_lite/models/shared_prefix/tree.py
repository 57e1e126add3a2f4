"""Token sequences as a tree of shared prefixes, laid out in one packed row (DESIGN, "Shared prefixes").

Input: token sequences, such as a batch of prompts, or prompts with their completions. Output: each distinct prefix
once, its tokens side by side in depth-first order, and for every sequence the packed places of its tokens. A group's
prompt is one node above its completions; the instruction and responses that G rubrics share are one node above
those; and the fixed text of a template is one node above everything.

Example: sequences (1, 2, 3, 7), (1, 2, 3, 8) with ``min_saved=1`` pack to 1 2 3 | 7 | 8, where both 7 and 8 stand at
position 3 and see 1 2 3 but not each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

MIN_SAVED = 32
"""A prefix becomes a node of its own if that saves at least so many tokens; each node costs a kernel call a layer."""
_STRIDE = 64


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens that one or more sequences share.

    Attributes:
        start: packed place of its first token; its tokens end before ``stop``.
        subtree: its descendants' tokens stand at ``stop`` to ``subtree``.
        depth: tokens above it, which is the position of its first token.
        parent: index of the node above, -1 for none.
    """

    start: int
    stop: int
    subtree: int
    depth: int
    parent: int


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A forest of nodes in depth-first order.

    Attributes:
        tokens: the packed row's ids, T in all.
        positions: each token's position in its sequences.
        paths: for each given sequence the nodes it runs through, from the top.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    nodes: tuple[Node, ...]
    paths: tuple[tuple[int, ...], ...]

    def places(self, sequence: int) -> list[int]:
        """Packed places of a sequence's tokens, in its own order."""
        return [place for i in self.paths[sequence] for place in range(self.nodes[i].start, self.nodes[i].stop)]


def build_tree(sequences: Sequence[Sequence[int]], min_saved: int = MIN_SAVED) -> PrefixTree:
    """Merge the common prefixes of ``sequences``; equal sequences share all of their nodes.

    Raises:
        ValueError: if a sequence is empty, since nothing could be predicted after it.
    """
    whole = [tuple(sequence) for sequence in sequences]
    if not all(whole):
        raise ValueError("A sequence without tokens cannot be placed in a tree. Leave it out.")
    ranked = sorted(set(whole))
    shared = [common_length(one, other) for one, other in itertools.pairwise(ranked)]
    tokens: list[int] = []
    positions: list[int] = []
    spans: list[tuple[int, int, int, int]] = []
    path_of: dict[tuple[int, ...], tuple[int, ...]] = {}
    waiting: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(ranked), 0, ())] if ranked else []
    while waiting:
        low, high, depth, path = waiting.pop()
        common = min([len(ranked[low]), *shared[low : high - 1]])
        if high - low == 1 or (common - depth) * (high - low - 1) >= min_saved:
            if common > depth:
                spans.append((len(tokens), len(tokens) + common - depth, depth, path[-1] if path else -1))
                path = (*path, len(spans) - 1)
                tokens += ranked[low][depth:common]
                positions += range(depth, common)
            depth = common
        ends_here = len(ranked[low]) == depth
        if ends_here:
            path_of[ranked[low]] = path
        first = low + ends_here
        # Reversed, so that the stack gives the parts back in order and descendants stay side by side.
        bounds = [first, *(i + 1 for i in range(first, high - 1) if shared[i] <= common), high]
        waiting += [(a, b, depth, path) for a, b in itertools.pairwise(bounds) if a < b][::-1]
    ends = [stop for _, stop, _, _ in spans]
    for i in range(len(spans) - 1, -1, -1):
        parent = spans[i][3]
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[i])
    nodes = tuple(Node(a, b, end, depth, parent) for (a, b, depth, parent), end in zip(spans, ends, strict=True))
    return PrefixTree(tuple(tokens), tuple(positions), nodes, tuple(path_of[sequence] for sequence in whole))


def common_length(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common prefix, found in strides since most prefixes are long."""
    limit = min(len(one), len(other))
    at = 0
    while at < limit and one[at : at + _STRIDE] == other[at : at + _STRIDE]:
        at += _STRIDE
    at = min(at, limit)
    while at < limit and one[at] == other[at]:
        at += 1
    return at
