"""Prompt blocks: what grouping, splitting, shuffling and filtering promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.data.load import blocks_from_pairs, filter_by_length, shuffle_blocks, split_blocks
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts.builder import prompt_hash, wording
from rubric_arm_lite.types import Message, PreferencePair, Prompt, PromptBlock


def pair(prompt: str, number: int = 0) -> PreferencePair:
    return PreferencePair(f"{prompt}-{number}", prompt, f"good {number}", "bad")


def blocks(count: int) -> list[PromptBlock]:
    return blocks_from_pairs(pair(f"prompt {i}", j) for i in range(count) for j in range(2))


def test_pairs_are_grouped_by_prompt_in_the_order_they_came() -> None:
    pairs = [pair("b", 0), pair("a", 0), pair("b", 1), pair("c", 0), pair("a", 1)]
    grouped = blocks_from_pairs(pairs)
    assert [block.prompt for block in grouped] == ["b", "a", "c"]
    assert [block.prompt_id for block in grouped] == [prompt_hash(p) for p in ("b", "a", "c")]
    assert grouped[0].pairs == (pairs[0], pairs[2])
    assert blocks_from_pairs([]) == []


def test_a_conversation_and_its_text_are_different_prompts() -> None:
    turns = (Message("system", "s"), Message("user", "u"))
    pairs = [PreferencePair("1", turns, "a", "b"), PreferencePair("2", "[system]\ns\n[user]\nu", "a", "b")]
    assert len(blocks_from_pairs(pairs)) == 2


@given(count=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 100))
def test_a_split_is_a_partition_in_order(count: int, fraction: float, seed: int) -> None:
    everything = blocks(count)
    train, test = split_blocks(everything, fraction, seed)
    assert train
    assert test
    assert {block.prompt_id for block in train}.isdisjoint(block.prompt_id for block in test)
    assert sorted([*train, *test], key=everything.index) == everything
    assert train == [block for block in everything if block in train]
    assert split_blocks(everything, fraction, seed) == (train, test)


@given(seed=st.integers(0, 1000))
def test_more_rows_move_no_prompt(seed: int) -> None:
    few, many = blocks(40), blocks(80)
    train, test = split_blocks(few, 0.5, seed)
    train_many, test_many = split_blocks(many[::-1], 0.5, seed)
    assert {block.prompt_id for block in train} <= {block.prompt_id for block in train_many}
    assert {block.prompt_id for block in test} <= {block.prompt_id for block in test_many}


SPELLINGS = (
    "Name prompt {}",
    "name prompt {}.",
    " NAME  Prompt {} ",
    "“Name prompt {}”?!",
    "name\nprompt-{}",
    "Name prompt: {}",
)


@given(seed=st.integers(0, 1000), fraction=st.sampled_from((1e-9, 0.1, 0.5, 1 - 1e-9)))
def test_spellings_of_a_prompt_stay_together(seed: int, fraction: float) -> None:
    everything = blocks_from_pairs(pair(spelling.format(i)) for spelling in SPELLINGS for i in range(10))
    assert len(everything) == 60
    sides = [{wording(block.prompt) for block in side} for side in split_blocks(everything, fraction, seed)]
    assert min(map(len, sides)) >= 1
    assert sides[0].isdisjoint(sides[1])
    assert len(sides[0] | sides[1]) == 10
    one_each = [
        block
        for block in everything
        if block.prompt_id == min(b.prompt_id for b in everything if wording(b.prompt) == wording(block.prompt))
    ]
    assert {wording(block.prompt) for block in split_blocks(one_each, fraction, seed)[1]} == sides[1]


def test_spellings_of_one_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"^1 prompt\(s\) cannot be split"):
        split_blocks(blocks_from_pairs([pair("a"), pair("A!")]), 0.5, 0)


@pytest.mark.parametrize(
    "other",
    ["x = 2", "x + 1 = 2", "x", "", "?", "??", "नमसत", "नमस्ते", (Message("system", "x1"),), (Message("user", "x 1"),)],
)
def test_other_prompts_have_another_wording(other: Prompt) -> None:
    known = ["X 1 = 2!", "x 1", "!", "नमस्ते दुनिया", (Message("system", "y"), Message("user", "x 1"))]
    assert wording(other) not in {wording(prompt) for prompt in known}


def test_conversations_are_compared_turn_by_turn() -> None:
    one = (Message("user", "Hello!"), Message("assistant", "Hi."), Message("user", "Name a river."))
    two = (Message("user", "hello"), Message("assistant", "hi"), Message("user", "name a RIVER"))
    assert wording(one) == wording(two) != wording((one[0], one[1], Message("user", "Name a fruit.")))


def test_the_share_is_right_on_average_and_depends_on_the_seed() -> None:
    _, test = split_blocks(blocks(2000), 0.1, 3)
    assert 160 <= len(test) <= 240
    assert test != split_blocks(blocks(2000), 0.1, 4)[1]


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_empty(fraction: float) -> None:
    train, test = split_blocks(blocks(5), fraction, 0)
    assert min(len(train), len(test)) == 1
    assert len(train) + len(test) == 5


@pytest.mark.parametrize("count", [0, 1])
def test_one_prompt_cannot_be_split(count: int) -> None:
    with pytest.raises(DataError, match=rf"^{count} prompt\(s\) cannot be split .* at least 2 different prompts"):
        split_blocks(blocks(count), 0.5, 0)


def test_shuffling_depends_on_seed_and_prompts_only() -> None:
    given_order = blocks(30)
    shuffled = shuffle_blocks(given_order, 1)
    assert shuffled != given_order
    assert sorted(shuffled, key=given_order.index) == given_order
    assert shuffle_blocks(given_order[::-1], 1) == shuffled
    assert shuffle_blocks(given_order, 2) != shuffled
    assert shuffle_blocks([], 0) == []


def test_long_pairs_and_empty_blocks_are_left_out_and_counted() -> None:
    pairs = [
        PreferencePair(str(i), prompt, "x" * length, "y")
        for i, (prompt, length) in enumerate([("a", 2), ("a", 9), ("b", 8), ("b", 7), ("c", 5)])
    ]
    kept, dropped = filter_by_length(blocks_from_pairs(pairs), lambda p: len(p.chosen), 5)
    assert dropped == 3
    assert [(block.prompt, [p.pair_id for p in block.pairs]) for block in kept] == [("a", ["0"]), ("c", ["4"])]
    assert kept[0].prompt_id == prompt_hash("a")
    assert filter_by_length(kept, lambda p: len(p.chosen), 0) == ([], 2)
