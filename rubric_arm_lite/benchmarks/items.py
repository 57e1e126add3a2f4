"""What crosses the borders of this package: questions, what the judge named, and measures with their weights.

An :class:`Item` is one prompt with its responses and the *duels* between two of them that are to be judged, each in
both orders. An :class:`Answer` holds what the judge named in every duel. Scoring (:mod:`.scoring`) turns an answer
into values of the item, and a benchmark collects those in :class:`Measure` s.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.evaluate import stratified_interval
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Prompt

Order = Literal["original", "flipped", "mixed"]
ORDERS: tuple[Order, ...] = ("original", "flipped", "mixed")
Outcome = bool | None
"""Whether a verdict named the first response of a duel; None is a verdict that named neither."""
Values = dict[str, float]
"""Values of one item, each in [0, 1], by what they measure; an empty name is the benchmark's own rule."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark.

    Attributes:
        duels: pairs of places in ``responses``. The first of a duel is the one that should win; between two wrong
            responses of a round robin it is just the earlier one.
        subset: the part of the benchmark that the item belongs to.
        where: the row it came from, for messages.
    """

    item_id: str
    prompt: Prompt
    responses: tuple[str, ...]
    duels: tuple[tuple[int, int], ...] = ((0, 1),)
    subset: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the judge named in each duel: ``votes`` outcomes per order, none if nothing was asked.

    ``original`` has the first response of a duel in place A, ``flipped`` in place B.
    """

    original: tuple[tuple[Outcome, ...], ...]
    flipped: tuple[tuple[Outcome, ...], ...]

    def vote(self, index: int | None) -> Reading:
        """What one sample of each judgement says or, for None, their majority."""

        def read(votes: Sequence[Outcome]) -> Outcome:
            if index is None:
                return majority_outcome(votes)
            return votes[index] if votes else None

        return Reading(tuple(map(read, self.original)), tuple(map(read, self.flipped)))


@dataclass(frozen=True, slots=True)
class Reading:
    """One outcome per duel and order."""

    original: tuple[Outcome, ...]
    flipped: tuple[Outcome, ...]

    def in_order(self, order: Order, seed: int, item_id: str) -> tuple[Outcome, ...]:
        """The outcomes of one order; mixed draws the order of every duel from the seed and the item's id."""
        match order:
            case "original":
                return self.original
            case "flipped":
                return self.flipped
            case "mixed":
                first = [
                    random.Random(derive_seed(seed, "mixed", item_id, duel)).random() < 0.5
                    for duel in range(len(self.original))
                ]
                return tuple(a if keep else b for a, b, keep in zip(self.original, self.flipped, first, strict=True))


def majority_outcome(votes: Sequence[Outcome]) -> Outcome:
    """What most votes named; None if equally many named either, or nobody voted."""
    lead = sum(vote is True for vote in votes) - sum(vote is False for vote in votes)
    return None if lead == 0 else lead > 0


@dataclass(frozen=True, slots=True)
class Stratum:
    """Values whose mean has a weight of its own in a measure, however many they are."""

    weight: float
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or self.weight <= 0:
            raise ValueError("A stratum needs a positive weight and at least one value.")


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a benchmark: the weighted mean of its strata's means.

    ``note`` says what it lacks to be the benchmark's own number; empty if nothing.
    """

    name: str
    strata: tuple[Stratum, ...]
    note: str = ""

    @property
    def value(self) -> float:
        """In [0, 1]."""
        total = math.fsum(s.weight for s in self.strata)
        return math.fsum(s.weight * math.fsum(s.values) / len(s.values) for s in self.strata) / total

    @property
    def count(self) -> int:
        """Values that it is a mean of."""
        return sum(len(s.values) for s in self.strata)

    def interval(self, resamples: int, seed: int) -> tuple[float, float]:
        """Bootstrap 95 % interval; each stratum is resampled by itself, as its weight is fixed."""
        return stratified_interval([(s.weight, s.values) for s in self.strata], resamples, seed)
