"""The numbers of a benchmark from the rows of its journal, as values for JSON, tables and the report.

Every number is given for both orders together, with its interval, and for the original, swapped and mixed order. With
several votes a duel's outcome is their majority; ``single`` is the mean of what each vote alone would score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from rubric_arm_lite.evaluation.benchmarks.catalogue import Benchmark, mean_values
from rubric_arm_lite.evaluation.benchmarks.judging import JUDGED, NO_RUBRIC, TOO_LONG, answer_of
from rubric_arm_lite.evaluation.benchmarks.load import LoadedBenchmark
from rubric_arm_lite.evaluation.benchmarks.scoring import Answer, Item, Values, mix_orders
from rubric_arm_lite.evaluation.metrics import mean, stratified_interval
from rubric_arm_lite.recipe import EvaluationSettings

ItemAnswers = Sequence[tuple[Item, Answer]]


@dataclass(frozen=True, slots=True)
class Number:
    """One number of a benchmark, in [0, 1].

    Attributes:
        value: over both orders, by majority if there are several votes.
        low: lower end of the 95 % interval of ``value``; ``high`` is the upper one.
        single: the same for one judgement in place of the majority; equal to ``value`` with one vote.
        count: items that it is a mean of.
        note: why it is not the benchmark's own number; empty if it is.
    """

    name: str
    value: float
    low: float
    high: float
    original: float
    swapped: float
    mixed: float
    single: float
    count: int
    note: str = ""

    @property
    def position_bias(self) -> float:
        """Largest minus smallest of the three orders (paper, table 13)."""
        orders = (self.original, self.swapped, self.mixed)
        return max(orders) - min(orders)


class Rates(TypedDict):
    """Counts, and shares of duels and judgements."""

    items: float
    duels: float
    rows_skipped: float
    too_long: float
    without_rubric: float
    consistency: float
    unparsed: float
    undecided: float
    """Share of duel orders without a majority."""
    rubrics: float
    """Prompts with a rubric."""
    rubrics_reused: float
    """Judge prompts beyond the first that show the same rubric."""


class Timing(TypedDict):
    """Totals and means per duel: a pair judged in both orders with all votes, its share of the rubric included."""

    seconds: float
    seconds_per_pair: float
    tokens_per_pair: float


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one benchmark.

    Attributes:
        rule: the scoring rule, in words.
        unparsed: what an unparsed verdict counts for, in words.
        temperature: of the judge.
        numbers: the headline first.
        gaps: what is missing to be the whole benchmark.
        timing: the one part that differs between a killed and an unbroken evaluation.
        skips: which rows give no item.
        lacks: what cannot be computed from a pairwise judge.
    """

    name: str
    title: str
    source: str
    rule: str
    unparsed: str
    votes: int
    temperature: float
    numbers: tuple[Number, ...]
    gaps: tuple[str, ...]
    rates: Rates
    timing: Timing
    skips: str = ""
    lacks: str = ""

    @property
    def whole(self) -> bool:
        """Whether all of the benchmark was judged."""
        return not self.gaps

    def number(self, name: str) -> Number | None:
        """The first number of this name."""
        return next((number for number in self.numbers if number.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values; :meth:`from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """The result that :meth:`as_json` gave; raises ValueError for anything else."""
        return TypeAdapter(cls).validate_json(json.dumps(value), strict=True)


def judge_temperature(settings: EvaluationSettings, votes: int) -> float:
    """The temperature at which the reward model samples so many votes."""
    return settings.judge_temperature if votes == 1 else settings.vote_temperature


def result_of(
    loaded: LoadedBenchmark,
    rows: Mapping[str, Mapping[str, Any]],
    settings: EvaluationSettings,
    votes: int,
    seed: int,
) -> Result:
    """The result of a benchmark whose items are all in ``rows``.

    Args:
        rows: the journal's rows by item id.
        settings: what an unparsed verdict counts for, and the number of bootstrap resamples.
        seed: of the mixed order and the intervals.
    """
    benchmark = loaded.benchmark
    answers = [
        (item, answer_of(item, rows[item.item_id])) for item in loaded.items if rows[item.item_id]["status"] != TOO_LONG
    ]
    return Result(
        name=benchmark.name,
        title=benchmark.title,
        source=loaded.source,
        rule=benchmark.rule,
        unparsed=benchmark.unparsed_text(settings),
        votes=votes,
        temperature=judge_temperature(settings, votes),
        numbers=numbers_of(benchmark, answers, settings, votes, seed) if answers else (),
        gaps=tuple(_gaps(loaded, len(loaded.items) - len(answers))),
        rates=_rates(loaded, rows, answers, votes),
        timing=_timing(loaded, rows),
        skips=benchmark.skips,
        lacks=benchmark.lacks,
    )


def numbers_of(
    benchmark: Benchmark, answers: ItemAnswers, settings: EvaluationSettings, votes: int, seed: int
) -> tuple[Number, ...]:
    """Every number of the benchmark, in the order of its averages."""
    both: dict[str, Values] = {}
    single: dict[str, Values] = {}
    by_order: dict[str, dict[str, Values]] = {"original": {}, "swapped": {}, "mixed": {}}
    for item, answer in answers:
        original, swapped = answer.outcomes()
        mixed = mix_orders(original, swapped, seed, item.item_id)
        for order, outcomes in zip(by_order.values(), (original, swapped, mixed), strict=True):
            order[item.item_id] = benchmark.score(item, outcomes, settings)
        both[item.item_id] = benchmark.score_orders(item, original, swapped, settings)
        single[item.item_id] = mean_values(
            [benchmark.score_orders(item, *answer.outcomes(vote), settings) for vote in range(votes)]
        )
    numbers = []
    for average in benchmark.averages([item for item, _ in answers]):
        low, high = stratified_interval(average.weighted(both), settings.bootstrap, seed)
        orders = {order: average.value(values) for order, values in by_order.items()}
        value, alone = average.value(both), average.value(single)
        numbers.append(
            Number(average.name, value, low, high, **orders, single=alone, count=average.count, note=average.note)
        )
    return tuple(numbers)


def _gaps(loaded: LoadedBenchmark, too_long: int) -> list[str]:
    gaps = []
    if loaded.benchmark.rows not in (None, loaded.rows):
        gaps.append(f"{loaded.rows:,} of the benchmark's {loaded.benchmark.rows:,} rows read")
    if len(loaded.items) < loaded.available:
        gaps.append(f"a sample of {len(loaded.items):,} of {loaded.available:,} items")
    if too_long:
        gaps.append(f"{too_long:,} items longer than the context skipped")
    return gaps


def _rates(loaded: LoadedBenchmark, rows: Mapping[str, Mapping[str, Any]], answers: ItemAnswers, votes: int) -> Rates:
    own_rows = [rows[item.item_id] for item in loaded.items]
    statuses = [row["status"] for row in own_rows]
    judged = [row for row in own_rows if row["status"] == JUDGED]
    prompts = len({row["prompt"] for row in judged})
    outcomes = [pair for _, answer in answers for pair in zip(*answer.outcomes(), strict=True)]
    verdicts = [
        vote
        for _, answer in answers
        for duel in (*answer.original, *answer.swapped)
        for vote in (duel or (None,) * votes)
    ]
    return Rates(
        items=float(len(answers)),
        duels=float(len(outcomes)),
        rows_skipped=float(loaded.skipped),
        too_long=float(statuses.count(TOO_LONG)),
        without_rubric=mean([status == NO_RUBRIC for status in statuses if status != TOO_LONG]),
        consistency=mean([a is not None and a == b for a, b in outcomes]),
        unparsed=mean([verdict is None for verdict in verdicts]),
        undecided=mean([outcome is None for pair in outcomes for outcome in pair]),
        rubrics=float(prompts),
        rubrics_reused=float(sum(2 * len(row["duels"]) for row in judged) - prompts),
    )


def _timing(loaded: LoadedBenchmark, rows: Mapping[str, Mapping[str, Any]]) -> Timing:
    duels = sum(len(item.duels) for item in loaded.items)
    seconds, tokens = (math.fsum(rows[item.item_id][name] for item in loaded.items) for name in ("seconds", "tokens"))
    return Timing(seconds=seconds, seconds_per_pair=seconds / duels, tokens_per_pair=tokens / duels)
