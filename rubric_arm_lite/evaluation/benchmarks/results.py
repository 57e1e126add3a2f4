"""Numbers of a benchmark from the rows of its journal, as values that go to JSON, tables and the report.

Every number is given for both orders together, with its interval, and for the original, flipped and mixed order. With
several votes a duel's verdict is their majority; what a single judgement would score is beside it, as the mean over
the votes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from rubric_arm_lite.evaluation.benchmarks.catalogue import Benchmark
from rubric_arm_lite.evaluation.benchmarks.engine import JUDGED, NO_RUBRIC, TOO_LONG, Loaded, answer_of
from rubric_arm_lite.evaluation.benchmarks.scoring import ORDERS, Answer, Item, Measure, Order, Reading, Values
from rubric_arm_lite.recipe import EvaluationSettings

Judged = Sequence[tuple[Item, Answer]]
RATES = (
    "items",
    "duels",
    "rows_skipped",
    "too_long",
    "without_rubric",
    "consistency",
    "unparsed",
    "undecided",
    "rubrics",
    "rubrics_reused",
)
"""Shares over all duels and judgements, and counts. Undecided: of a duel's two orders, those without a majority;
rubrics: prompts that have one; reused: judge prompts beyond the first that show the same rubric."""
TIMES = ("seconds", "seconds_per_pair", "tokens_per_pair")


@dataclass(frozen=True, slots=True)
class Number:
    """One number of a benchmark, in [0, 1].

    Attributes:
        value: over both orders, with several votes that of their majority.
        single: the same for one judgement in place of the majority; equal to ``value`` with one vote.
        count: items it is a mean of.
        note: what it lacks to be the benchmark's own.
    """

    name: str
    value: float
    low: float
    high: float
    original: float
    flipped: float
    mixed: float
    single: float
    count: int
    note: str = ""

    @property
    def position_bias(self) -> float:
        """Largest minus smallest of the three orders (paper, table 13)."""
        orders = (self.original, self.flipped, self.mixed)
        return max(orders) - min(orders)


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one benchmark after its evaluation.

    Attributes:
        temperature: of the judge.
        numbers: the headline first.
        whole: whether these are the benchmark's own numbers; ``gaps`` says what is missing otherwise.
        rates: by the names of :data:`RATES`.
        timing: seconds and tokens; the one part that differs between a killed and an unbroken evaluation.
        skips: what the rows without an item are.
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
    rates: Mapping[str, float]
    timing: Mapping[str, float]
    skips: str = ""
    lacks: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing of the benchmark is missing in what was judged."""
        return not self.gaps

    def number(self, name: str) -> Number | None:
        """A number by its name."""
        return next((number for number in self.numbers if number.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values; :meth:`from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """The result that :meth:`as_json` gave; raises KeyError or TypeError for anything else."""
        numbers = tuple(Number(**number) for number in value["numbers"])
        found = cls(**{**value, "numbers": numbers, "gaps": tuple(value["gaps"])})
        for wanted, others in ((str, found._texts()), ((int, float), found._figures())):
            if not all(isinstance(other, wanted) for other in others):
                raise TypeError(f"a text or a number is not one in {found.name!r}")
        return found

    def _texts(self) -> list[object]:
        told = [self.name, self.title, self.source, self.rule, self.unparsed, self.skips, self.lacks]
        return [*told, *self.gaps, *(text for n in self.numbers for text in (n.name, n.note))]

    def _figures(self) -> list[object]:
        known = [self.votes, self.temperature, *(self.rates[name] for name in RATES), *(self.timing[t] for t in TIMES)]
        return [*known, *(value for n in self.numbers for value in astuple(n)[1:9])]


def judge_temperature(settings: EvaluationSettings, votes: int) -> float:
    """At which temperature the reward model asks for so many votes."""
    return settings.judge_temperature if votes == 1 else settings.vote_temperature


def result_of(
    benchmark: Benchmark,
    source: str,
    loaded: Loaded,
    rows: Mapping[str, Mapping[str, Any]],
    settings: EvaluationSettings,
    votes: int,
    seed: int,
) -> Result:
    """The numbers of a benchmark whose items are all in ``rows``.

    Args:
        settings: what a missing verdict counts for, and the number of bootstrap resamples.
        seed: of the mixed order and the intervals.
    """
    kept = [item for item in loaded.items if rows[item.item_id]["status"] != TOO_LONG]
    judged = [(item, answer_of(item, rows[item.item_id])) for item in kept]
    numbers = numbers_of(benchmark, judged, settings, votes, seed) if judged else ()
    return Result(
        name=benchmark.name,
        title=benchmark.title,
        source=source,
        rule=benchmark.rule,
        unparsed=benchmark.unparsed(settings),
        votes=votes,
        temperature=judge_temperature(settings, votes),
        numbers=numbers,
        gaps=tuple(_gaps(benchmark, loaded, len(loaded.items) - len(kept))),
        rates=_rates(loaded, rows, judged, votes),
        timing=_timing(loaded, rows),
        skips=benchmark.skips,
        lacks=benchmark.lacks,
    )


def numbers_of(
    benchmark: Benchmark, judged: Judged, settings: EvaluationSettings, votes: int, seed: int
) -> tuple[Number, ...]:
    """Every measure of the benchmark: value, interval, the three orders and the single judgement."""

    def measured(score: Callable[[Item, Answer], Values]) -> list[Measure]:
        return benchmark.measures([(item, score(item, answer)) for item, answer in judged])

    def in_order(order: Order) -> Callable[[Item, Answer], Values]:
        def score(item: Item, answer: Answer) -> Values:
            return benchmark.score(item, answer.vote(None).in_order(order, seed, item.item_id), settings)

        return score

    def single(item: Item, answer: Answer) -> Values:
        return _mean_values([both_orders(benchmark, item, answer.vote(vote), settings) for vote in range(votes)])

    found = []
    # The measures depend on the items alone, so they come in the same order; names, which data may give, could repeat.
    for both, original, flipped, mixed, alone in zip(
        measured(lambda item, answer: both_orders(benchmark, item, answer.vote(None), settings)),
        *(measured(in_order(order)) for order in ORDERS),
        measured(single),
        strict=True,
    ):
        low, high = both.interval(settings.bootstrap, seed)
        by_order = (original.value, flipped.value, mixed.value)
        found.append(Number(both.name, both.value, low, high, *by_order, alone.value, both.count, both.note))
    return tuple(found)


def both_orders(benchmark: Benchmark, item: Item, reading: Reading, settings: EvaluationSettings) -> Values:
    """Values of an item from both orders: the benchmark's own rule, or the mean of the two."""
    if benchmark.both is not None:
        return benchmark.both(reading)
    return _mean_values([benchmark.score(item, outcomes, settings) for outcomes in (reading.original, reading.flipped)])


def _mean_values(found: Sequence[Values]) -> Values:
    return {name: math.fsum(values[name] for values in found) / len(found) for name in found[0]}


def _gaps(benchmark: Benchmark, loaded: Loaded, too_long: int) -> list[str]:
    gaps = []
    if benchmark.rows is not None and loaded.rows != benchmark.rows:
        gaps.append(f"{loaded.rows:,} of the benchmark's {benchmark.rows:,} rows read")
    if len(loaded.items) < loaded.available:
        gaps.append(f"a sample of {len(loaded.items):,} of {loaded.available:,} items")
    if too_long:
        gaps.append(f"{too_long:,} items longer than the context left out")
    return gaps


def _rates(loaded: Loaded, rows: Mapping[str, Mapping[str, Any]], judged: Judged, votes: int) -> dict[str, float]:
    statuses = [rows[item.item_id]["status"] for item in loaded.items]
    duels = sum(len(item.duels) for item, _ in judged)
    readings = [answer.vote(None) for _, answer in judged]
    both = [pair for reading in readings for pair in zip(reading.original, reading.flipped, strict=True)]
    said = [
        vote
        for _, answer in judged
        for duel in (*answer.original, *answer.flipped)
        for vote in (duel or (None,) * votes)
    ]
    with_rubric = [rows[item.item_id] for item in loaded.items if rows[item.item_id]["status"] == JUDGED]
    prompts = {row["prompt"] for row in with_rubric}
    found = (
        len(judged),
        duels,
        loaded.skipped,
        statuses.count(TOO_LONG),
        statuses.count(NO_RUBRIC) / len(judged) if judged else 0.0,
        _share([a is not None and a == b for a, b in both]),
        _share([vote is None for vote in said]),
        _share([outcome is None for pair in both for outcome in pair]),
        len(prompts),
        sum(2 * len(row["duels"]) for row in with_rubric) - len(prompts),
    )
    return dict(zip(RATES, map(float, found), strict=True))


def _timing(loaded: Loaded, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Means per duel, which is a pair judged in both orders with all votes, its share of the rubric included."""
    duels = sum(len(item.duels) for item in loaded.items)
    seconds = math.fsum(rows[item.item_id]["seconds"] for item in loaded.items)
    tokens = math.fsum(rows[item.item_id]["tokens"] for item in loaded.items)
    return dict(zip(TIMES, (seconds, seconds / duels, tokens / duels), strict=True))


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
