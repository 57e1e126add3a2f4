"""The prefix tree: nothing lost, nothing mixed, and what is worth sharing stands once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.models.shared_prefix.tree import MIN_SAVED, build_tree

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=9)


@given(given_sequences=sequences, min_saved=st.sampled_from([1, 2, 3, 7, MIN_SAVED]))
def test_every_sequence_is_found_again(given_sequences: list[list[int]], min_saved: int) -> None:
    tree = build_tree(given_sequences, min_saved)
    assert len(tree.tokens) == len(tree.positions) == sum(node.stop - node.start for node in tree.nodes)
    for i, sequence in enumerate(given_sequences):
        places = tree.places(i)
        assert [tree.tokens[place] for place in places] == sequence
        assert [tree.positions[place] for place in places] == list(range(len(sequence)))


@given(given_sequences=sequences, min_saved=st.sampled_from([1, 2, 3, 7]))
def test_nodes_stand_in_depth_first_order(given_sequences: list[list[int]], min_saved: int) -> None:
    """Descendants fill exactly ``stop`` to ``subtree``, so that attention to a node is one rectangle."""
    tree = build_tree(given_sequences, min_saved)
    for path in tree.paths:
        assert [tree.nodes[i].parent for i in path] == [-1, *path[:-1]]
    for i, node in enumerate(tree.nodes):
        assert node.start < node.stop <= node.subtree
        below = [other for other in tree.nodes if node.stop <= other.start < node.subtree]
        for other in below:
            up = other
            while up.parent not in (-1, i):
                up = tree.nodes[up.parent]
            assert up.parent == i
        assert sum(other.stop - other.start for other in below) == node.subtree - node.stop


@given(given_sequences=sequences)
def test_sharing_all_leaves_each_distinct_prefix_once(given_sequences: list[list[int]]) -> None:
    distinct = {tuple(s[: i + 1]) for s in given_sequences for i in range(len(s))}
    assert len(build_tree(given_sequences, min_saved=1).tokens) == len(distinct)


def test_a_node_must_save_enough() -> None:
    start = tuple(range(10))
    rows = [(*start, 50 + i) for i in range(4)]
    shared, apart = build_tree(rows, min_saved=30), build_tree(rows, min_saved=31)
    assert len(shared.tokens) == 10 + 4 and len(shared.nodes) == 5
    assert len(apart.tokens) == 4 * 11 and all(node.parent == -1 for node in apart.nodes)


def test_levels_of_a_rubric_phase() -> None:
    """Template above pairs, pairs above rubrics, rubrics above completions; two draws of one rubric are one node."""
    template, pairs = (9,) * 100, [(p,) * 80 for p in (1, 2)]
    prompts = [(*template, *pair, r, r, r) for pair in pairs for r in (5, 6, 6)]
    tree = build_tree(prompts)
    assert len(tree.tokens) == 100 + 2 * (80 + 2 * 3)
    assert [len(path) for path in tree.paths] == [3] * 6
    assert tree.paths[1] == tree.paths[2] and tree.paths[0][:2] == tree.paths[1][:2]


def test_long_common_prefixes_are_found_to_the_token() -> None:
    for length in (63, 64, 65, 127, 128, 200):
        one, other = (7,) * length + (1,), (7,) * length + (2,)
        assert len(build_tree([one, other], min_saved=1).tokens) == length + 2
        assert len(build_tree([one, one[:-1]], min_saved=1).tokens) == length + 1


def test_nothing_is_nothing_and_empty_sequences_are_refused() -> None:
    assert build_tree([]).tokens == ()
    with pytest.raises(ValueError, match="without tokens"):
        build_tree([(1,), ()])
