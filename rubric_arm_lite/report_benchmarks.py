"""Benchmark results as tables: all numbers with their orders, and ours beside the paper's.

Results go in, cells of text come out; :mod:`.report` and :mod:`.report_text` lay them out. Nothing is averaged that is
not all there: the mean of the paper's ten columns is given only if all ten were evaluated, each in whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rubric_arm_lite.benchmarks.paper import AVERAGES, COLUMNS, ROWS, SOURCE, WRITING, Column
from rubric_arm_lite.benchmarks.results import Number, Result
from rubric_arm_lite.report_data import safe_text

ABSENT = "–"
PARTIAL = "*"
NUMBERS_HEADER = ("", "accuracy", "95%", "original", "flipped", "mixed", "bias", "single", "items")


@dataclass(frozen=True, slots=True)
class Table:
    """A header, rows of cells, and what is to be known to read them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]


def numbers_table(result: Result, most: int | None = None) -> Table:
    """Every number of one benchmark, in percent; at most the first ``most``."""
    return Table(NUMBERS_HEADER, tuple(map(_cells, result.numbers[:most])), tuple(_facts(result)))


def paper_table(results: Sequence[Result]) -> Table | None:
    """Ours above the paper's rows, one column per benchmark of its table 1, in percent.

    None if none of the results has a column there: of one's own files the paper says nothing.
    """
    known = {result.name: result for result in results}
    if all(column.benchmark not in known for column in COLUMNS):
        return None
    votes = max((result.votes for result in results), default=1)
    rows = [("ours", *_ours(known, lambda number: number.single))]
    if votes > 1:
        rows.append((f"ours, voting@{votes}", *_ours(known, lambda number: number.value)))
    rows += [(name, *(f"{value:.1f}" for value in values), f"{AVERAGES[name]:.1f}") for name, values in ROWS.items()]
    header = ("", *(column.title for column in COLUMNS), "average")
    return Table(header, tuple(rows), tuple(_missing(known)))


def beside(result: Result) -> str:
    """What the paper has for a benchmark, in a few words; empty if nothing."""
    if result.name == "writing":
        return "Paper: " + ", ".join(f"{name} {value:.1f}" for name, value in WRITING.items()) + "."
    told = [
        f"{column.number} {alone:.1f}, {voted:.1f} with voting@5"
        for column, alone, voted in zip(COLUMNS, ROWS["Rubric-ARM"], ROWS["Rubric-ARM voting@5"], strict=True)
        if column.benchmark == result.name
    ]
    return f"Paper: {'; '.join(told)}." if told else ""


def _cells(number: Number) -> tuple[str, ...]:
    shares = (number.original, number.flipped, number.mixed, number.position_bias, number.single)
    interval = f"{100 * number.low:.1f}-{100 * number.high:.1f}"
    name = safe_text(number.name) + (PARTIAL if number.note else "")  # names of subsets come from data
    return (name, _percent(number.value), interval, *map(_percent, shares), f"{number.count:,}")


def _facts(result: Result) -> list[str]:
    rates, timing = result.rates, result.timing
    votes = "one judgement per order" if result.votes == 1 else f"majority of {result.votes} judgements per order"
    facts = [
        f"{result.rule[:1].upper()}{result.rule[1:]}; {votes} at temperature {result.temperature:g}. "
        f"Counted for an unparsed verdict: {result.unparsed}.",
        f"Both orders name the same response in {_percent(rates['consistency'])} % of {rates['duels']:,.0f} pairs; "
        f"{_percent(rates['unparsed'])} % of the judgements name none, "
        f"{_percent(rates['without_rubric'])} % of the items have no usable rubric. "
        f"{rates['rubrics']:,.0f} rubrics, used again {rates['rubrics_reused']:,.0f} times; "
        f"{timing['tokens_per_pair']:,.1f} tokens and {timing['seconds_per_pair']:.3g} s a pair.",
    ]
    notes = [f"{number.name} {number.note}" for number in result.numbers if number.note]
    if result.gaps or notes:
        facts.append(f"Not the whole benchmark: {'; '.join([*result.gaps, *notes])}.")
    if result.rates["rows_skipped"]:
        facts.append(f"{result.rates['rows_skipped']:,.0f} rows ask nothing: {result.skips}.")
    if result.lacks:
        facts.append(f"Not computed: {result.lacks}.")
    return [*facts, *filter(None, [beside(result)])]


def _ours(known: Mapping[str, Result], value: Callable[[Number], float]) -> list[str]:
    """Our cells under the paper's columns, and their mean if they are all there and whole."""
    cells, values = [], []
    for column in COLUMNS:
        number = _number_of(known, column)
        if number is None:
            cells.append(ABSENT)
            continue
        whole = _is_whole(known[column.benchmark], number)
        cells.append(f"{_percent(value(number))}{'' if whole else PARTIAL}")
        values += [value(number)] if whole else []
    return [*cells, _percent(sum(values) / len(values)) if len(values) == len(COLUMNS) else ABSENT]


def _missing(known: Mapping[str, Result]) -> list[str]:
    """Which columns stand in the way of an average."""
    numbers = {column: _number_of(known, column) for column in COLUMNS}
    absent = [column.title for column, number in numbers.items() if number is None]
    partial = [
        f"{column.title} ({'; '.join(filter(None, [*known[column.benchmark].gaps, number.note]))})"
        for column, number in numbers.items()
        if number is not None and not _is_whole(known[column.benchmark], number)
    ]
    told = [f"The paper's figures: {SOURCE}."]
    if absent:
        told.append(f"Not evaluated: {', '.join(absent)}.")
    if partial:
        told.append(f"With an asterisk, in part: {', '.join(partial)}.")
    if absent or partial:
        told.append("So there is no average of ours: it is the plain mean of ten whole columns.")
    return told


def _number_of(known: Mapping[str, Result], column: Column) -> Number | None:
    return known[column.benchmark].number(column.number) if column.benchmark in known else None


def _is_whole(result: Result, number: Number) -> bool:
    return result.whole and not number.note


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
