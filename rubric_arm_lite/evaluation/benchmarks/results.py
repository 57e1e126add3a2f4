"""The rows of a benchmark's journal, and its numbers from them, as values for JSON, tables and the report.

Every number is given for both orders together, with its interval, and for the original, swapped and mixed order. With
several votes a duel's outcome is their majority; ``single`` is the mean of what each vote alone would score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypedDict

from rubric_arm_lite.data.counts import reasons_text
from rubric_arm_lite.evaluation.benchmarks.catalogue import Benchmark, mean_values
from rubric_arm_lite.evaluation.benchmarks.load import LoadedBenchmark
from rubric_arm_lite.evaluation.benchmarks.scoring import Answer, Item, Outcome, Values, mix_orders
from rubric_arm_lite.evaluation.metrics import mean, stratified_interval
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import EvaluationSettings
from rubric_arm_lite.reward_model import Verdict, is_skipped
from rubric_arm_lite.types import Side

ItemAnswers = Sequence[tuple[Item, Answer]]
Rows = Mapping[str, Mapping[str, Any]]
"""A journal's rows by item id."""
JUDGED, NO_RUBRIC, TOO_LONG = "judged", "no rubric", "too long"
"""Status of an item's row: only the first has verdicts, the second counts as unparsed, the third is skipped."""


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
        gaps: what is missing to be the whole benchmark; empty if all of it was judged.
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

    def number(self, name: str) -> Number | None:
        """The first number of this name."""
        return next((number for number in self.numbers if number.name == name), None)


def judge_temperature(settings: EvaluationSettings, votes: int) -> float:
    """The temperature at which the reward model samples so many votes."""
    return settings.judge_temperature if votes == 1 else settings.vote_temperature


def result_of(loaded: LoadedBenchmark, rows: Rows, settings: EvaluationSettings, votes: int, seed: int) -> Result:
    """The result of a benchmark whose items are all in ``rows``.

    Args:
        settings: what an unparsed verdict counts for, and the number of bootstrap resamples.
        seed: of the mixed order and the intervals.
    """
    benchmark, items = loaded.benchmark, loaded.items
    judged = [item for item in items if rows[item.item_id]["status"] != TOO_LONG]
    answers = [(item, answer_of(item, rows[item.item_id])) for item in judged]
    gaps = []
    if benchmark.rows not in (None, loaded.rows):
        gaps.append(f"{loaded.rows:,} of the benchmark's {benchmark.rows:,} rows read")
    if loaded.missing:
        gaps.append(f"nothing of {' and '.join(loaded.missing)} read")
    if len(items) < loaded.available:
        gaps.append(f"a sample of {len(items):,} of {loaded.available:,} items")
    if too_long := len(items) - len(answers):
        gaps.append(f"{too_long:,} items longer than the context skipped")
    duels = sum(len(item.duels) for item in items)
    seconds, tokens = (math.fsum(rows[item.item_id][name] for item in items) for name in ("seconds", "tokens"))
    return Result(
        name=benchmark.name,
        title=benchmark.title,
        source=loaded.source,
        rule=benchmark.rule,
        unparsed=benchmark.unparsed.format(pair=settings.unparsed_value, best_of=settings.unparsed_best_of),
        votes=votes,
        temperature=judge_temperature(settings, votes),
        numbers=numbers_of(benchmark, answers, settings, votes, seed) if answers else (),
        gaps=tuple(gaps),
        rates=_rates(loaded, rows, answers, votes),
        timing=Timing(seconds=seconds, seconds_per_pair=seconds / duels, tokens_per_pair=tokens / duels),
        skips=" and ".join(filter(None, [benchmark.skips, reasons_text(loaded.unusable)])),
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


def _rates(loaded: LoadedBenchmark, rows: Rows, answers: ItemAnswers, votes: int) -> Rates:
    statuses = [rows[item.item_id]["status"] for item in loaded.items]
    judged = [rows[item.item_id] for item in loaded.items if rows[item.item_id]["status"] == JUDGED]
    prompts = len({row["prompt"] for row in judged})
    outcomes = [pair for _, answer in answers for pair in zip(*answer.outcomes(), strict=True)]
    duels = [duel for _, answer in answers for duel in (*answer.original, *answer.swapped)]
    verdicts = [vote for duel in duels for vote in (duel or (None,) * votes)]
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


# --- rows of the journal --------------------------------------------------------------------------------------------


def row_of(item: Item, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """An item's row of the journal, from one verdict per duel."""
    rubric = verdicts[0].rubric
    judged = all(verdict.original for verdict in verdicts)
    return {
        "status": JUDGED if judged else TOO_LONG if any(map(is_skipped, verdicts)) else NO_RUBRIC,
        "prompt": prompt_hash(item.prompt),
        "subset": item.subset,
        "rubric": _storable(rubric.text),
        "rubric_status": rubric.status.value,
        "duels": [_duel(*pair) for pair in zip(item.duels, verdicts, strict=True)] if judged else [],
    }


def answer_of(item: Item, row: Mapping[str, Any]) -> Answer:
    """The answer in an item's row of the journal."""
    if not row["duels"]:
        return Answer(((),) * len(item.duels), ((),) * len(item.duels))

    def outcomes(order: str) -> tuple[tuple[Outcome, ...], ...]:
        return tuple(
            tuple(None if index is None else index == first for index in duel[order])
            for duel, (first, _) in zip(row["duels"], item.duels, strict=True)
        )

    return Answer(outcomes("original"), outcomes("swapped"))


def _duel(responses: tuple[int, int], verdict: Verdict) -> dict[str, Any]:
    """Texts and verdicts of one duel; a verdict is the index of the response that it names, or null."""
    votes = len(verdict.original)

    def named(sides: Sequence[Side | None]) -> list[int | None]:
        return [None if side is None else responses["AB".index(side)] for side in sides]

    return {
        "responses": list(responses),
        "original": named(verdict.winners[:votes]),
        "swapped": named(verdict.winners[votes:]),
        "judgements": [_storable(judgement.text) for judgement in verdict.original],
        "judgements_swapped": [_storable(judgement.text) for judgement in verdict.swapped],
    }


def _storable(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
