"""Scoring of the public benchmarks: from verdicts to values in [0, 1], and the averages of those values.

An :class:`Item` is one prompt with its responses and its *duels*: the pairs of responses that the judge compares, each
in both orders. An :class:`Answer` holds the judge's verdicts on all duels of one item. An :class:`Average` depends on
the items alone, so one average gives a number in either order, in a mix of both, and for a single vote.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rubric_arm_lite.data.benchmarks import CATALOGUE
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import Prompt

Outcome = bool | None
"""Whether a verdict names the first response of a duel; None if it names neither."""
Values = dict[str, float]
"""Values of one item by the rule that gave them; the empty name is the benchmark's own rule."""
STYLES = 3
"""RM-Bench writes every response in three styles: concise, detailed, detailed with markdown."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark.

    Attributes:
        duels: index pairs into ``responses``; the first response of a duel is the better one, except between two
            rejected responses of a round robin, where it is the earlier one.
        subset: the part of the benchmark that the item belongs to.
        where: the row it comes from, for messages.
    """

    item_id: str
    prompt: Prompt
    responses: tuple[str, ...]
    duels: tuple[tuple[int, int], ...] = ((0, 1),)
    subset: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcomes of every duel, one per vote and order; no votes if nothing was judged.

    ``original`` shows the first response of a duel as Response A, ``swapped`` as Response B.
    """

    original: tuple[tuple[Outcome, ...], ...]
    swapped: tuple[tuple[Outcome, ...], ...]

    def outcomes(self, vote: int | None = None) -> tuple[tuple[Outcome, ...], tuple[Outcome, ...]]:
        """One outcome per duel in the original and in the swapped order: of one vote or, for None, the majority."""

        def outcome(votes: Sequence[Outcome]) -> Outcome:
            return majority(votes) if vote is None or not votes else votes[vote]

        return tuple(map(outcome, self.original)), tuple(map(outcome, self.swapped))


def majority(votes: Sequence[Outcome]) -> Outcome:
    """The outcome of most votes; None if both responses have equally many."""
    lead = votes.count(True) - votes.count(False)
    return None if lead == 0 else lead > 0


def mix_orders(original: Sequence[Outcome], swapped: Sequence[Outcome], seed: int, item_id: str) -> tuple[Outcome, ...]:
    """One outcome per duel; the seed, the item's id and the duel's index decide from which order."""
    return tuple(
        first if random.Random(derive_seed(seed, "mixed", item_id, duel)).random() < 0.5 else second
        for duel, (first, second) in enumerate(zip(original, swapped, strict=True))
    )


# --- rules ----------------------------------------------------------------------------------------------------------


def share_won(outcomes: Sequence[Outcome], unparsed: float) -> float:
    """The mean of 1 for the better response, 0 for the other and ``unparsed`` for neither.

    For one duel this is RewardBench's rule for generative judges.
    """
    return math.fsum(unparsed if outcome is None else outcome for outcome in outcomes) / len(outcomes)


def beats_all(outcomes: Sequence[Outcome], unparsed: float) -> float:
    """Strict best of n: 1 if the best response wins every duel, 0 if it loses one.

    An item that loses no duel but has one without a verdict counts ``unparsed``, once. This is RMB's rule for best of
    n and our default for RewardBench 2, whose own generative mode shows all four responses at once.
    """
    return 0.0 if False in outcomes else unparsed if None in outcomes else 1.0


def round_robin(
    responses: int, duels: Sequence[tuple[int, int]], outcomes: Sequence[Outcome], unparsed: float
) -> float:
    """Best of n by all pairs: each response's wins are its score in :func:`best_of_scores`.

    A duel without a verdict gives ``unparsed`` wins to both responses. The best response has index 0.
    """
    wins, undecided = [0] * responses, [0] * responses
    for (first, second), outcome in zip(duels, outcomes, strict=True):
        if outcome is None:
            undecided[first] += 1
            undecided[second] += 1
        else:
            wins[first if outcome else second] += 1
    return best_of_scores([won + unparsed * open_duels for won, open_duels in zip(wins, undecided, strict=True)])


def best_of_scores(scores: Sequence[float]) -> float:
    """RewardBench 2, best of four by scores: 1 / (responses with the maximum) if response 0 has it, else 0."""
    top = max(scores)
    return 1 / scores.count(top) if scores[0] == top else 0.0


def style_values(outcomes: Sequence[Outcome], unparsed: float) -> Values:
    """RM-Bench: hard, normal and easy values of one item, and their mean under the empty name.

    ``outcomes[3 * i + j]`` is the chosen response in style i against the rejected one in style j. Hard is the mean of
    the upper triangle (the rejected response has the richer style), normal of the diagonal, easy of the lower one.
    """
    cells: dict[str, list[Outcome]] = {"hard": [], "normal": [], "easy": []}
    for index, outcome in enumerate(outcomes):
        row, column = divmod(index, STYLES)
        cells["hard" if column > row else "normal" if column == row else "easy"].append(outcome)
    values = {name: share_won(cell, unparsed) for name, cell in cells.items()}
    return {"": math.fsum(values.values()) / len(values), **values}


def sum_of_orders(original: Outcome, swapped: Outcome) -> float:
    """JudgeBench: +1 for the right response and −1 for the wrong one in each order; correct if the sum is positive.

    No verdict adds nothing, so one right verdict and one missing are correct. Two missing are not.
    """
    points = {True: 1, False: -1, None: 0}
    return float(points[original] + points[swapped] > 0)


# --- averages -------------------------------------------------------------------------------------------------------

SECTIONS = CATALOGUE["rewardbench"].sections
"""RewardBench's sections: the weight of each subset."""


@dataclass(frozen=True, slots=True)
class Average:
    """The weighted mean of the means of strata.

    Attributes:
        strata: weight and item ids of each; the weight does not depend on the number of items.
        rule: which of an item's values is averaged.
        note: why it is not the benchmark's own number; empty if it is.
    """

    name: str
    strata: tuple[tuple[float, tuple[str, ...]], ...]
    rule: str = ""
    note: str = ""

    @property
    def count(self) -> int:
        """Number of items."""
        return sum(len(ids) for _, ids in self.strata)

    def weighted(self, values: Mapping[str, Values]) -> list[tuple[float, list[float]]]:
        """Weight and values of each stratum; ``values`` are those of every item, by id."""
        return [(weight, [values[item_id][self.rule] for item_id in ids]) for weight, ids in self.strata]

    def value(self, values: Mapping[str, Values]) -> float:
        """The average, in [0, 1]."""
        strata = self.weighted(values)
        return math.fsum(w * math.fsum(v) / len(v) for w, v in strata) / math.fsum(w for w, _ in strata)


def overall(items: Sequence[Item]) -> list[Average]:
    """The mean over all items, and over each named subset if there are several."""
    headline = Average("accuracy", ((1.0, tuple(item.item_id for item in items)),))
    parts = by_group(items)
    return [headline, *(part for part in parts if part.name and len(parts) > 1)]


def sections(items: Sequence[Item]) -> list[Average]:
    """RewardBench: four sections, each the weighted mean of its subsets; the headline is the plain mean of the four."""
    subsets = _groups(items)
    averages = []
    for name, weights in SECTIONS.items():
        strata = tuple((weight, subsets[subset]) for subset, weight in weights.items() if subset in subsets)
        absent = [subset for subset in weights if subset not in subsets]
        if strata:
            averages.append(Average(name, strata, note=f"without {', '.join(absent)}" if absent else ""))
    return [*_mean_of("average of sections", averages, len(SECTIONS)), *averages, *by_group(items)]


def by_group(
    items: Sequence[Item], rules: Sequence[str] = ("",), key: Callable[[str], str] = str, parts: int = 0
) -> list[Average]:
    """One average per group of subsets, and so for each rule.

    Args:
        key: the group that a subset belongs to; without it every subset is a group.
        parts: number of groups whose plain mean is the headline of its rule; without all of them there is none.
    """
    groups = _groups(items, key)
    averages = []
    for rule in rules:
        means = [Average(f"{name}, {rule}" if rule else name, ((1.0, ids),), rule) for name, ids in groups.items()]
        averages += [*_mean_of(rule or "overall", means, parts), *means]
    return averages


def _groups(items: Sequence[Item], key: Callable[[str], str] = str) -> dict[str, tuple[str, ...]]:
    """Item ids by a part of their subset's name, sorted by name."""
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(key(item.subset), []).append(item.item_id)
    return {name: tuple(ids) for name, ids in sorted(groups.items())}


def _mean_of(name: str, averages: Sequence[Average], parts: int) -> list[Average]:
    """The plain mean of averages under one rule, if all ``parts`` are there."""
    if not parts or len(averages) != parts:
        return []
    strata = tuple((weight / sum(w for w, _ in each.strata), ids) for each in averages for weight, ids in each.strata)
    note = "; ".join(f"{average.name} {average.note}" for average in averages if average.note)
    return [Average(name, strata, averages[0].rule, note)]
