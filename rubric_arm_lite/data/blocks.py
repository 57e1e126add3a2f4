"""Prompt blocks: pairs grouped by prompt, split into training and test, shuffled, and filtered by length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import PreferencePair, PromptBlock

_SEED_RANGE = 2**63


def blocks_from_pairs(pairs: Iterable[PreferencePair]) -> list[PromptBlock]:
    """Group pairs by prompt; prompts and pairs keep the order in which they first came."""
    groups: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault(prompt_hash(pair.prompt), []).append(pair)
    return [PromptBlock(prompt_id, group[0].prompt, tuple(group)) for prompt_id, group in groups.items()]


def split_blocks(
    blocks: Sequence[PromptBlock], test_fraction: float, seed: int
) -> tuple[list[PromptBlock], list[PromptBlock]]:
    """Training and test blocks, each in the given order and with at least one block.

    Each prompt's side is drawn from (seed, prompt id) alone, so more rows never move a prompt (except that the last
    prompt of an empty side is borrowed from the other). The share is therefore ``test_fraction`` on average only.

    Raises:
        DataError: if there are fewer than two prompts.
        ValueError: if ``test_fraction`` is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: {test_fraction} must lie between 0 and 1, both excluded.")
    if len(blocks) < 2:
        raise DataError(
            f"{len(blocks)} prompt(s) cannot be split into training and test. Give at least 2 different prompts, or a "
            "file of held-out pairs as data.evaluation."
        )
    draws = [derive_seed("split", seed, block.prompt_id) for block in blocks]
    in_test = [draw < test_fraction * _SEED_RANGE for draw in draws]
    if not any(in_test):
        in_test[draws.index(min(draws))] = True
    elif all(in_test):
        in_test[draws.index(max(draws))] = False
    train = [block for block, held_out in zip(blocks, in_test, strict=True) if not held_out]
    test = [block for block, held_out in zip(blocks, in_test, strict=True) if held_out]
    return train, test


def shuffle_blocks(blocks: Sequence[PromptBlock], seed: int) -> list[PromptBlock]:
    """The blocks in an order that depends on the seed and their prompt ids, not on the order they came in."""
    return sorted(blocks, key=lambda block: (derive_seed("shuffle", seed, block.prompt_id), block.prompt_id))


def filter_by_length(
    blocks: Sequence[PromptBlock], longest: Callable[[PreferencePair], int], limit: int
) -> tuple[list[PromptBlock], int]:
    """Leave out pairs whose ``longest(pair)`` exceeds ``limit``, and blocks without pairs.

    Returns:
        The blocks that remain, and the number of pairs left out.
    """
    kept: list[PromptBlock] = []
    dropped = 0
    for block in blocks:
        pairs = tuple(pair for pair in block.pairs if longest(pair) <= limit)
        dropped += len(block.pairs) - len(pairs)
        if pairs:
            kept.append(PromptBlock(block.prompt_id, block.prompt, pairs))
    return kept, dropped
