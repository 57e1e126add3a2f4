"""The data of a run: its training prompts and held-out pairs that fit the context.

A recipe enters, with a function that measures a pair in the model's tokens; a :class:`RunData` leaves. Pairs are
grouped by prompt, split into training and test, shuffled, and filtered by length. Skipped rows are counted. For a
synthetic world the data also holds the world and the share of the world's principles that a rubric names.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rubric_arm_lite.data.benchmarks import Decontaminator, decontaminator_of
from rubric_arm_lite.data.counts import Counts
from rubric_arm_lite.data.pairs import read_pairs
from rubric_arm_lite.data.rows import RowError
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS, AnyWorld, make_world
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash, wording
from rubric_arm_lite.recipe import DataSettings, PolicyDataSettings, Recipe, derive_seed, is_plugin
from rubric_arm_lite.types import PreferencePair, PromptBlock, Recall

HeldOut = TypeVar("HeldOut", DataSettings, PolicyDataSettings)


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
    prompt of an empty side is borrowed from the other). Prompts of the same wording stay together: the least of their
    ids is drawn for all. The share is therefore ``test_fraction`` on average only.

    Raises:
        DataError: if there are fewer than two prompts.
    """
    wordings = [wording(block.prompt) for block in blocks]
    ids: dict[str, str] = {}
    for words, block in zip(wordings, blocks, strict=True):
        ids[words] = min(block.prompt_id, ids.get(words, block.prompt_id))
    if len(ids) < 2:
        raise DataError(
            f"{len(ids)} prompt(s) cannot be split into training and test. Give at least 2 different prompts, or a "
            "file of held-out pairs as data.evaluation."
        )
    draws = [derive_seed("split", seed, ids[words]) for words in wordings]
    in_test = [draw < test_fraction * 2**63 for draw in draws]
    if not any(in_test):
        in_test = [draw == min(draws) for draw in draws]
    elif all(in_test):
        in_test = [draw != max(draws) for draw in draws]
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


def read_blocks(
    settings: DataSettings, seed: int, decontaminator: Decontaminator | None = None
) -> tuple[list[PromptBlock], list[PromptBlock], tuple[Counts, ...]]:
    """Training and held-out prompts of a recipe's sources, in the order of a run, and the counts of each source.

    Raises:
        DataError: for a source or row that cannot be used, or if there is too little to split.
    """
    if settings.evaluation is None:
        pairs, *counts = _read_strictly(settings, seed, decontaminator)
        train, test = split_blocks(blocks_from_pairs(pairs), settings.test_fraction, seed)
    else:
        test_pairs, test_counts = _read_strictly(held_out_settings(settings), seed)
        test = blocks_from_pairs(test_pairs)
        pairs, train_counts = _read_strictly(settings, seed, decontaminator, {wording(block.prompt) for block in test})
        train, counts = blocks_from_pairs(pairs), [train_counts, test_counts]
    train = shuffle_blocks(train, seed)[: settings.train_prompts]
    return train, shuffle_blocks(test, seed)[: settings.test_prompts], tuple(counts)


def _read_strictly(
    settings: DataSettings, seed: int, decontaminator: Decontaminator | None = None, held_out: Collection[str] = ()
) -> tuple[list[PreferencePair], Counts]:
    """As :func:`read_pairs`; the error about a row says how to list all such rows."""
    try:
        return read_pairs(settings, seed, decontaminator, held_out)
    except RowError as error:
        raise DataError(f"{error} All such rows: rubric-arm data check {shlex.quote(str(settings.source))}") from error


def held_out_settings(settings: HeldOut) -> HeldOut:
    """The settings that read all of ``settings.evaluation``.

    Its format is that of `source` if it is the same source, or if the format is a plug-in.
    """
    same = settings.evaluation == settings.source
    changes = {
        "source": settings.evaluation,
        "split": settings.evaluation_split,
        "format": settings.format if same or is_plugin(settings.format) else "auto",
        "config": settings.config if same else None,
        "revision": settings.revision if same else None,
        "subset": settings.subset if same else (),
        "rows": None,
        "sample": None,
    }
    return settings.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class RunData:
    """Training prompts and held-out pairs.

    Attributes:
        too_long: pairs that do not fit the context.
        counts: rows of each source of pairs: read, kept and skipped.
        decontaminator: prompts of the benchmarks that must not be trained on.
    """

    train: list[PromptBlock]
    test: list[PreferencePair]
    too_long: int
    recall: Recall | None = None
    world: AnyWorld | None = None
    counts: tuple[Counts, ...] = ()
    decontaminator: Decontaminator | None = None

    def fingerprint(self) -> str:
        """Hash of all pairs in their order; a resumed run checks it against the data of its start."""
        digest = hashlib.sha256()
        for pair in [*(pair for block in self.train for pair in block.pairs), *self.test]:
            row = [pair.pair_id, prompt_hash(pair.prompt), pair.chosen, pair.rejected]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


def load_data(recipe: Recipe, longest: Callable[[PreferencePair], int], training: bool = True) -> RunData:
    """The recipe's training prompts and held-out pairs, without those that do not fit the context.

    Args:
        longest: tokens of the longest sequence that a pair can lead to, with room for the answers.
        training: False if nothing will be trained; the training prompts are then not measured, which would take a
            request to a server for each.

    Raises:
        ConfigError: if a synthetic world has fewer prompts than requested.
        DataError: if either is empty.
    """
    settings = recipe.data
    decontaminator = None
    counts: tuple[Counts, ...] = ()
    world, clean = make_world(settings, recipe.seed), make_world(settings, recipe.seed, label_noise=False)
    if world is not None and clean is not None:
        train = world.blocks("train", settings.train_prompts or TRAIN_PROMPTS)
        test = clean.blocks("test", settings.test_prompts or recipe.evaluation.pairs)
    else:
        decontaminator = decontaminator_of(settings.decontaminate, settings.overlap_words)
        train, test, counts = read_blocks(settings, recipe.seed, decontaminator)
    room = recipe.model.max_context
    train, dropped_train = filter_by_length(train, longest, room) if training else (train, 0)
    test, dropped_test = filter_by_length(test, longest, room)
    if not train or not test:
        raise DataError(
            f"No {'training' if not train else 'held-out'} pair fits model.max_context ({room} tokens): each needs its "
            "prompt plus room for a rubric and a judgement. Raise the context, or lower evaluation.rubric_max_tokens "
            f"({recipe.evaluation.rubric_max_tokens}) and evaluation.judge_max_tokens "
            f"({recipe.evaluation.judge_max_tokens})."
        )
    if len(train) < recipe.schedule.cycles:
        raise DataError(
            f"{len(train)} training prompts cannot be split into schedule.cycles: {recipe.schedule.cycles} parts. Use "
            "fewer cycles or more data."
        )
    # One pair per held-out prompt first, so that a bounded evaluation sees as many prompts as it can.
    deepest = max(len(block.pairs) for block in test)
    pairs = [block.pairs[i] for i in range(deepest) for block in test if i < len(block.pairs)]
    recall = None if world is None else world.recall
    return RunData(train, pairs, dropped_train + dropped_test, recall, world, counts, decontaminator)
