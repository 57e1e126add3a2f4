"""The public benchmarks: what reads, scores and averages each entry of ``data/benchmarks.yaml``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

from rubric_arm_lite.data import Row
from rubric_arm_lite.data.benchmarks import CATALOGUE, PublicBenchmark
from rubric_arm_lite.evaluation.benchmarks import readers, scoring
from rubric_arm_lite.evaluation.benchmarks.scoring import Average, Item, Outcome, Values
from rubric_arm_lite.recipe import EvaluationSettings

BestOf = Literal["strict", "round-robin"]
Outcomes = Sequence[Outcome]
Score = Callable[[Item, Outcomes, EvaluationSettings], Values]

STRICT = "chosen beats every rejected"


def score_pair(item: Item, outcomes: Outcomes, settings: EvaluationSettings) -> Values:
    """The share of an item's duels that name the better response."""
    return {"": scoring.share_won(outcomes, settings.unparsed_value)}


def score_strict(item: Item, outcomes: Outcomes, settings: EvaluationSettings) -> Values:
    """Best of n: whether the best response wins every duel."""
    return {"": scoring.beats_all(outcomes, settings.unparsed_best_of)}


def score_round_robin(item: Item, outcomes: Outcomes, settings: EvaluationSettings) -> Values:
    """Best of n by all pairs of responses, and the strict value of the duels with the best one, which come first."""
    won = scoring.round_robin(len(item.responses), item.duels, outcomes, settings.unparsed_value)
    return {"": won, STRICT: scoring.beats_all(outcomes[: len(item.responses) - 1], settings.unparsed_best_of)}


@dataclass(frozen=True, slots=True)
class Benchmark(PublicBenchmark):
    """One benchmark with its readers and its rules.

    Attributes:
        reads: for each part the function that reads its rows.
        score: values of one item from the outcomes of one order.
        averages: what is averaged, the headline first.
        score_both: value of one item from its outcomes in both orders; None for the mean of the two.
    """

    reads: tuple[Callable[[Row], list[Item]], ...] = ()
    score: Score = score_pair
    averages: Callable[[Sequence[Item]], list[Average]] = scoring.overall
    score_both: Callable[[Outcome, Outcome], float] | None = None

    def score_orders(self, item: Item, original: Outcomes, swapped: Outcomes, settings: EvaluationSettings) -> Values:
        """Values of an item from both orders: the benchmark's own rule, or the mean of the two."""
        if self.score_both is not None:
            return {"": self.score_both(original[0], swapped[0])}
        return mean_values([self.score(item, outcomes, settings) for outcomes in (original, swapped)])


def mean_values(values: Sequence[Values]) -> Values:
    """The mean of an item's values, by rule."""
    return {rule: math.fsum(each[rule] for each in values) / len(values) for rule in values[0]}


def _benchmark(name: str, *reads: Callable[[Row], list[Item]], **rules: Any) -> Benchmark:
    """The entry of this name in the catalogue of sources, with what reads and scores it."""
    entry = CATALOGUE[name]
    return Benchmark(**{field.name: getattr(entry, field.name) for field in fields(entry)}, reads=reads, **rules)


BENCHMARKS: tuple[Benchmark, ...] = (
    _benchmark("rewardbench", readers.rewardbench, averages=scoring.sections),
    _benchmark("rewardbench2", readers.rewardbench2, score=score_strict, averages=scoring.by_group),
    _benchmark(
        "rm-bench",
        readers.rm_bench,
        score=lambda item, outcomes, settings: scoring.style_values(outcomes, settings.unparsed_value),
        averages=partial(
            scoring.by_group, rules=("", "hard", "normal", "easy"), key=lambda s: s.partition("-")[0], parts=4
        ),
    ),
    _benchmark(
        "judgebench",
        *[readers.judgebench] * 2,
        score=lambda item, outcomes, settings: {"": scoring.share_won(outcomes, 0.0)},
        averages=lambda items: [
            *scoring.by_group(items, key=lambda subset: subset.partition(",")[0]),
            *scoring.by_group(items),
        ],
        score_both=scoring.sum_of_orders,
    ),
    _benchmark(
        "rmb",
        readers.rmb_pairs,
        readers.rmb_best_of,
        score=lambda item, *rest: (score_strict if item.subset.startswith("best of n") else score_pair)(item, *rest),
        averages=partial(scoring.by_group, parts=4),
    ),
    _benchmark("ppe-ifeval", readers.ppe_best_of_k),
    _benchmark("helpsteer3", readers.helpsteer3),
    _benchmark("writing", readers.writing),
)


def with_rule(benchmark: Benchmark, best_of: BestOf) -> Benchmark:
    """The benchmark under a rule for best of four; only RewardBench 2 has a choice."""
    if benchmark.name != "rewardbench2" or best_of == "strict":
        return benchmark

    def read_all_pairs(row: Row) -> list[Item]:
        items = readers.rewardbench2(row)
        return [replace(i, duels=tuple(itertools.combinations(range(len(i.responses)), 2))) for i in items]

    return replace(
        benchmark,
        reads=(read_all_pairs,),
        rule="round robin: 1 / (responses with as many wins) if the chosen one has most, mean of both orders",
        score=score_round_robin,
        averages=partial(scoring.by_group, rules=("", STRICT)),
        unparsed="{pair:g} in a pair, {best_of:g} in best of n",
    )
