"""Tables of public benchmarks: every number of a result, and our numbers above the paper's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.evaluation.benchmarks.paper import AVERAGES, COLUMNS, ROWS, SOURCE, WRITING
from rubric_arm_lite.evaluation.benchmarks.results import Number
from rubric_arm_lite.report.read import safe_text
from rubric_arm_lite.report.tables import ABSENT, Table

PARTIAL = "*"
_HEADER = ("", "accuracy", "95%", "original", "swapped", "mixed", "bias", "single", "items")


def numbers_table(result: Result, most: int | None = None) -> Table:
    """Every number of one benchmark, in percent; at most the first ``most``."""
    return Table(_HEADER, tuple(map(_row, result.numbers[:most])), tuple(_notes(result)))


def summary_table(results: Sequence[Result]) -> Table:
    """The first five numbers of each benchmark with their interval and position bias, in percent."""
    rows = [(safe_text(result.title), _row(number)) for result in results for number in result.numbers[:5]]
    header = ("benchmark", "number", "accuracy", "95%", "bias")
    return Table(header, tuple((title, *cells[:3], cells[6]) for title, cells in rows))


def paper_table(results: Sequence[Result]) -> Table | None:
    """Our numbers above the paper's rows, one column per benchmark of its table 1, in percent.

    None if the table has no column for any of the results, for example for pair files of one's own.
    """
    by_name = {result.name: result for result in results}
    if all(column.benchmark not in by_name for column in COLUMNS):
        return None
    votes = max(result.votes for result in results)
    numbers = [by_name[c.benchmark].number(c.number) if c.benchmark in by_name else None for c in COLUMNS]
    gaps = [
        "" if number is None else "; ".join(filter(None, [*by_name[column.benchmark].gaps, number.note]))
        for column, number in zip(COLUMNS, numbers, strict=True)
    ]
    absent = [column.title for column, number in zip(COLUMNS, numbers, strict=True) if number is None]
    partial = [f"{column.title} ({gap})" for column, gap in zip(COLUMNS, gaps, strict=True) if gap]

    def ours(name: str, value: Callable[[Number], float]) -> tuple[str, ...]:
        cells = [
            ABSENT if number is None else _percent(value(number)) + (PARTIAL if gap else "")
            for number, gap in zip(numbers, gaps, strict=True)
        ]
        values = [value(number) for number in numbers if number is not None]
        return (name, *cells, ABSENT if absent or partial else _percent(sum(values) / len(values)))

    rows = [ours("ours", lambda number: number.single)]
    if votes > 1:
        rows.append(ours(f"ours, voting@{votes}", lambda number: number.value))
    rows += [(name, *(f"{value:.1f}" for value in values), f"{AVERAGES[name]:.1f}") for name, values in ROWS.items()]
    notes = [f"The paper's figures: {SOURCE}."]
    notes += [f"Not evaluated: {', '.join(absent)}."] if absent else []
    notes += [f"Only in part, with an asterisk: {', '.join(partial)}."] if partial else []
    if absent or partial:
        notes.append("We show no average of ours, because it would be the plain mean of ten whole columns.")
    return Table(("", *(column.title for column in COLUMNS), "average"), tuple(rows), tuple(notes))


def _row(number: Number) -> tuple[str, ...]:
    shares = (number.original, number.flipped, number.mixed, number.position_bias, number.single)
    interval = f"{_percent(number.low)}–{_percent(number.high)}"
    name = safe_text(number.name) + (PARTIAL if number.note else "")  # names of subsets come from data
    return (name, _percent(number.value), interval, *map(_percent, shares), f"{number.count:,}")


def _notes(result: Result) -> list[str]:
    rates, timing = result.rates, result.timing
    votes = "one judgement per order" if result.votes == 1 else f"majority of {result.votes} judgements per order"
    notes = [
        f"{result.rule[:1].upper()}{result.rule[1:]}; {votes} at temperature {result.temperature:g}. "
        f"An unparsed verdict counts: {result.unparsed}.",
        f"Both orders prefer the same response in {rates['consistency']:.1%} of {rates['duels']:,.0f} pairs; "
        f"{rates['unparsed']:.1%} of the judgements have no verdict, {rates['without_rubric']:.1%} of the items have "
        f"no usable rubric. {rates['rubrics']:,.0f} rubrics, reused {rates['rubrics_reused']:,.0f} times; "
        f"{timing['tokens_per_pair']:,.1f} tokens and {timing['seconds_per_pair']:.3g} s a pair.",
    ]
    gaps = [*result.gaps, *(f"{number.name} {number.note}" for number in result.numbers if number.note)]
    notes += [f"Not the whole benchmark: {'; '.join(gaps)}."] if gaps else []
    notes += [f"{rates['rows_skipped']:,.0f} rows skipped: {result.skips}."] if rates["rows_skipped"] else []
    notes += [f"Not computed: {result.lacks}."] if result.lacks else []
    return [safe_text(note) for note in [*notes, *_paper_notes(result)]]


def _paper_notes(result: Result) -> list[str]:
    """The paper's numbers of the benchmark, if it has any."""
    if result.name == "writing":
        numbers = [f"{name} {value:.1f}" for name, value in WRITING.items()]
        return [f"Paper: {', '.join(numbers)}."]
    numbers = [
        f"{column.number} {single:.1f}, {voted:.1f} with voting@5"
        for column, single, voted in zip(COLUMNS, ROWS["Rubric-ARM"], ROWS["Rubric-ARM voting@5"], strict=True)
        if column.benchmark == result.name
    ]
    return [f"Paper: {'; '.join(numbers)}."] if numbers else []


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
