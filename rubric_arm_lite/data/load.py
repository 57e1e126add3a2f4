"""The data of a run: its training prompts and held-out pairs, as far as they fit the context.

A recipe goes in, with the model whose tokens decide what fits; a :class:`RunData` comes out. What was left out is
counted, and where the data are the testbed's, the world and the share of its principles that a rubric names come along.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from rubric_arm_lite.data.check import OWN_PAIRS, BadRows, Counts, sorted_reasons
from rubric_arm_lite.data.decontaminate import Overlap, overlap_with
from rubric_arm_lite.data.formats import PairForm, form_of, known_form, read_pair
from rubric_arm_lite.data.pairs import RowIds, blocks_from_pairs, filter_by_length, shuffle_blocks, split_blocks
from rubric_arm_lite.data.rows import Row, RowError, UnusableRowError
from rubric_arm_lite.data.sources import open_rows, was_saved
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import DataSettings, Recipe, derive_seed
from rubric_arm_lite.recipe.fields import SourceSettings
from rubric_arm_lite.types import PreferencePair, Prompt, PromptBlock, Recall, Rubric

OVERLAPS = "overlapping with a benchmark"
HELD_OUT = "with a held-out prompt"
OTHER_SUBSET = "of another subset"
NOT_SAMPLED = "not in the sample"
Item = TypeVar("Item")


def read_pairs(
    settings: DataSettings,
    seed: int,
    overlap: Overlap | None = None,
    held_out: Collection[str] = (),
    bad: BadRows | None = None,
) -> tuple[list[PreferencePair], Counts]:
    """The pairs of ``settings.source``, in the source's order, and what was left out.

    Args:
        overlap: prompts of benchmarks that are not to be trained on.
        held_out: ids of prompts that are not to be trained on.
        bad: gathers rows that cannot be used, which are then left out; without it the first is an error.

    Raises:
        DataError: for a source or row that cannot be used, or if no pair is left.
    """
    form, rows = rows_and_form(settings, bad)
    if bad is not None:
        bad.expect(OWN_PAIRS if form is None else form.columns)
    ids, reasons = RowIds(), Counter[str]()
    seen = _Seen(settings.deduplicate)
    subsets = _Subsets(settings.subset)
    sample = Sample[tuple[PreferencePair, bool | None]](settings.sample, seed)
    read = 0
    for row in rows:
        read += 1
        try:
            found = read_pair(row, form, ids, str(settings.source))
        except RowError as error:
            leave_out(error, form, reasons, bad)
            continue
        pair = found.pair
        prompt_id = prompt_hash(pair.prompt)
        reason = (
            subsets.reason(pair.subset or pair.source)
            or seen.reason(pair, prompt_id)
            or (OVERLAPS if overlap is not None and overlap.found_in(pair.prompt) else None)
            or (HELD_OUT if prompt_id in held_out else None)
        )
        if reason is not None:
            reasons[reason] += 1
        else:
            sample.add(prompt_id, (pair, None if found.chosen_side is None else found.chosen_side == "A"))
    kept = sample.items()
    if sample.dropped:
        reasons[NOT_SAMPLED] = sample.dropped
    orders = [first for _, first in kept if first is not None]
    if bad is not None:
        read, reasons = read + bad.no_rows, reasons + bad.reasons
    name = "pairs" if form is None else form.name
    counts = Counts(str(settings.source), name, read, len(kept), sorted_reasons(reasons), len(orders), sum(orders))
    if not kept:
        raise DataError(f"{counts.line()} {subsets.hint()}Loosen what is left out, or give another source.")
    return [pair for pair, _ in kept], counts


def read_blocks(
    settings: DataSettings, seed: int, overlap: Overlap | None = None
) -> tuple[list[PromptBlock], list[PromptBlock], tuple[Counts, ...]]:
    """Training and held-out prompts of a recipe's sources, in the order of a run, and what was left out of each source.

    Raises:
        DataError: for a source or row that cannot be used, or if there is too little to split.
    """
    if settings.evaluation is None:
        found, read = _strictly_read(settings, seed, overlap)
        train, test = split_blocks(blocks_from_pairs(found), settings.test_fraction, seed)
        counts: tuple[Counts, ...] = (read,)
    else:
        held_out, read_test = _strictly_read(held_out_settings(settings), seed)
        test = blocks_from_pairs(held_out)
        found, read = _strictly_read(settings, seed, overlap, {block.prompt_id for block in test})
        train, counts = blocks_from_pairs(found), (read, read_test)
    train = shuffle_blocks(train, seed)[: settings.train_prompts]
    return train, shuffle_blocks(test, seed)[: settings.test_prompts], counts


def _strictly_read(
    settings: DataSettings, seed: int, overlap: Overlap | None = None, held_out: Collection[str] = ()
) -> tuple[list[PreferencePair], Counts]:
    """As :func:`read_pairs`; what is wrong with a row says how to find all such rows."""
    try:
        return read_pairs(settings, seed, overlap, held_out)
    except RowError as error:
        raise DataError(f"{error} All such rows: rubric-arm data check {shlex.quote(str(settings.source))}") from error


def held_out_settings(settings: DataSettings) -> DataSettings:
    """The settings that read ``settings.evaluation``: all of it, in the form of `source` if it is the same one."""
    same = settings.evaluation == settings.source
    changes = {
        "source": settings.evaluation,
        "split": settings.evaluation_split,
        "form": settings.form if same else "auto",
        "config": settings.config if same else None,
        "revision": settings.revision if same else None,
        "subset": settings.subset if same else (),
        "rows": None,
        "sample": None,
    }
    return settings.model_copy(update=changes)


def leave_out(error: RowError, form: PairForm | None, reasons: Counter[str], bad: BadRows | None) -> None:
    """Count a row that a known form calls unusable, or one that ``bad`` gathers; any other is an error.

    Raises:
        RowError: if it is neither.
    """
    if form is not None and isinstance(error, UnusableRowError):
        reasons[error.reason] += 1
    elif bad is not None:
        bad.add(error)
    else:
        raise error


def rows_and_form(settings: SourceSettings, bad: BadRows | None = None) -> tuple[PairForm | None, Iterator[Row]]:
    """The rows of a source, and the form they have; None is our own. ``bad`` gathers lines that are no rows."""
    source = str(settings.source)
    known = known_form(source)
    split, config = settings.split, settings.config
    if known is not None and not was_saved(source):
        split, config = split or known.split, config or known.config
    rows = open_rows(
        source,
        config=config,
        split=split,
        revision=settings.revision,
        streaming=settings.streaming,
        on_bad=None if bad is None else bad.add_line,
    )
    if settings.rows is not None:
        rows = islice(rows, settings.rows)
    first = next(rows)
    found = chain([first], rows)
    form = form_of(settings.form, source, list(first.columns))
    return form, found if bad is None else bad.watched(found)


class Sample(Generic[Item]):
    """At most ``size`` prompts with all that belongs to them, drawn by (seed, prompt id); None keeps all.

    The draw depends neither on the order of the rows nor on what else there is: with more rows a kept prompt leaves
    only for one with a smaller draw.
    """

    def __init__(self, size: int | None, seed: int) -> None:
        self.dropped = 0
        self._size = size
        self._seed = seed
        self._number = 0
        self._kept: dict[str, list[tuple[int, Item]]] = {}
        self._largest: list[tuple[int, str]] = []

    def add(self, prompt_id: str, item: Item) -> None:
        """Consider an item of a prompt."""
        self._number += 1
        if prompt_id not in self._kept and not self._enter(prompt_id):
            self.dropped += 1
            return
        self._kept[prompt_id].append((self._number, item))

    def items(self) -> list[Item]:
        """What was kept, in the order in which it came."""
        numbered = [entry for entries in self._kept.values() for entry in entries]
        return [item for _, item in sorted(numbered, key=lambda entry: entry[0])]

    def _enter(self, prompt_id: str) -> bool:
        if self._size is None:
            self._kept[prompt_id] = []
            return True
        draw = derive_seed("sample", self._seed, prompt_id)
        if len(self._kept) == self._size:
            if -self._largest[0][0] <= draw:
                return False
            _, leaving = heapq.heappop(self._largest)
            self.dropped += len(self._kept.pop(leaving))
        heapq.heappush(self._largest, (-draw, prompt_id))
        self._kept[prompt_id] = []
        return True


class _Seen:
    """Pairs and prompts that came before."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._keys: set[bytes] = set()

    def reason(self, pair: PreferencePair, prompt_id: str) -> str | None:
        if self._mode == "none":
            return None
        parts = [prompt_id] if self._mode == "prompts" else [prompt_id, pair.chosen, pair.rejected]
        key = hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
        if key in self._keys:
            return "with a prompt that came before" if self._mode == "prompts" else "equal to an earlier pair"
        self._keys.add(key)
        return None


class _Subsets:
    """The subsets asked for, and those met."""

    def __init__(self, wanted: tuple[str, ...]) -> None:
        self._wanted = frozenset(wanted)
        self._met: Counter[str] = Counter()

    def reason(self, subset: str) -> str | None:
        self._met[subset] += 1
        return OTHER_SUBSET if self._wanted and subset not in self._wanted else None

    def hint(self) -> str:
        if not self._wanted:
            return ""
        names = ", ".join(name or "(none)" for name, _ in self._met.most_common(20))
        return f"It has the subsets: {names}. "


@dataclass(frozen=True, slots=True)
class RunData:
    """Training prompts and held-out pairs, with what was left out because it was too long.

    Attributes:
        counts: what was read of the sources of pairs, and left out of them.
        overlap: prompts of the benchmarks that nothing may be trained on.
    """

    train: list[PromptBlock]
    test: list[PreferencePair]
    too_long: int
    recall: Recall | None = None
    world: Any = None
    counts: tuple[Counts, ...] = ()
    overlap: Overlap | None = None

    def fingerprint(self) -> str:
        """Hash of every pair in its order, to tell on a resume whether the data are still the same."""
        digest = hashlib.sha256()
        for pair in [*(pair for block in self.train for pair in block.pairs), *self.test]:
            row = [pair.pair_id, prompt_hash(pair.prompt), pair.chosen, pair.rejected]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


def load_data(recipe: Recipe, longest: Callable[[PreferencePair], int], training: bool = True) -> RunData:
    """The recipe's training prompts and held-out pairs, without those that do not fit the context.

    Args:
        longest: tokens of the longest sequence that a pair can lead to, with room for the answers.
        training: false if nothing will be trained; the training prompts are then neither measured nor counted, which
            a server would be asked about one by one.

    Raises:
        DataError: if nothing is left of either.
    """
    settings = recipe.data
    world = None
    recall: Recall | None = None
    counts: tuple[Counts, ...] = ()
    overlap: Overlap | None = None
    if settings.source == "testbed":
        from rubric_arm_lite.data.testbed.world import World

        world = World(recipe.seed, settings.world)
        train = world.blocks("train", settings.train_prompts or TRAIN_PROMPTS)
        clean = World(recipe.seed, settings.world.model_copy(update={"label_noise": 0.0}))
        test = clean.blocks("test", settings.test_prompts or recipe.evaluation.pairs)
        recall = _recall_of(world)
    else:
        overlap = overlap_with(settings.decontaminate, settings.overlap_words)
        train, test, counts = read_blocks(settings, recipe.seed, overlap)
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
    return RunData(train, pairs, dropped_train + dropped_test, recall, world, counts, overlap)


def _recall_of(world: Any) -> Recall:
    from rubric_arm_lite.data.testbed.world import named_attributes, parse_task

    def recall(prompt: Prompt, rubric: Rubric) -> float:
        task = parse_task(str(prompt))
        if task is None:
            return 0.0
        likes = set(world.likes[task.topic])
        return len(named_attributes(rubric) & likes) / len(likes)

    return recall
