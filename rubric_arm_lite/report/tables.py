"""Numbers and tables in one form, for the page and for the Markdown text alike.

Evaluations, timings and results of public benchmarks go in; tables come out, all shares in percent.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.evaluation.benchmarks import paper
from rubric_arm_lite.evaluation.benchmarks.results import Number
from rubric_arm_lite.report.read import EvaluationRow, safe_text

ABSENT = "–"
PARTIAL = "*"


@dataclass(frozen=True, slots=True)
class Table:
    """A header, rows of cells, and notes that explain them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table of evaluations.

    Attributes:
        key: the measured value; its interval is under ``KEY_low`` and ``KEY_high``.
        form: format specification; a percentage is written without its sign.
        part: the value, its interval, or the value with the interval behind it.
        brief: whether the narrower table of the Markdown text has the column too.
    """

    title: str
    key: str
    form: str = ".1%"
    part: Literal["value", "interval", "both"] = "value"
    brief: bool = False

    def text(self, values: Mapping[str, float]) -> str:
        """The cell of an evaluation; :data:`ABSENT` without a value."""

        def number(key: str) -> str:
            return f"{values[key]:{self.form}}".removesuffix("%")

        low, high = f"{self.key}_low", f"{self.key}_high"
        if (low if self.part == "interval" else self.key) not in values:
            return ABSENT
        if self.part == "interval":
            return f"{number(low)}–{number(high)}"
        interval = f" [{number(low)}, {number(high)}]" if self.part == "both" and low in values else ""
        return number(self.key) + interval


_FILE = json.loads(Path(__file__).with_name("columns.json").read_text("utf-8"))
COLUMNS, POLICY_COLUMNS = ([Column(**fields) for fields in _FILE[kind]] for kind in ("reward_model", "policy"))
ACCURACY, INTERVAL = COLUMNS[:2]


def evaluation_columns(
    evaluations: Sequence[EvaluationRow], brief: bool = False, columns: Sequence[Column] = COLUMNS
) -> list[Column]:
    """The columns that at least one evaluation has a value for, those of voting last."""
    votes = dict.fromkeys(key for row in evaluations for key in row.values if key.startswith("voting@"))
    shown = [column for column in (*columns, *(Column(key, key) for key in votes)) if column.brief or not brief]
    return [column for column in shown if any(column.text(row.values) != ABSENT for row in evaluations)]


def evaluation_table(evaluations: Iterable[EvaluationRow], columns: Sequence[Column]) -> Table:
    """One row per evaluation."""
    rows = ((row.name, *(column.text(row.values) for column in columns)) for row in evaluations)
    return Table(("after", *(column.title for column in columns)), tuple(rows))


def timing_table(times: Mapping[str, tuple[float, float]]) -> Table:
    """Seconds and sampled tokens per stage, the total in the last row."""
    total = sum(seconds for seconds, _ in times.values())
    rows = []
    for stage, (seconds, tokens) in [*times.items(), ("total", (total, sum(tokens for _, tokens in times.values())))]:
        rate = f"{tokens / (seconds or 1):,.0f}" if tokens else ABSENT
        rows.append((stage, f"{seconds:.1f}", f"{seconds / (total or 1):.0%}", f"{tokens:,.0f}", rate))
    return Table(("stage", "seconds", "share", "tokens", "tokens/s"), tuple(rows))


def cell_text(text: str) -> str:
    """Text for a table or a sentence: one line, no column marks, no longer than a name should be."""
    return textwrap.shorten(text.replace("|", "/").replace("`", "'"), 44, placeholder="…")


def markdown_table(table: Table) -> str:
    """The table in Markdown, padded so that it reads as plain text; all but the first column are right-aligned."""
    rows = [[cell_text(cell) for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(table.header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if i else "-" * w for i, w in enumerate(widths)]
    return "\n".join(map(line, (table.header, rule, *rows)))


def numbers_table(result: Result, most: int | None = None) -> Table:
    """Every number of one benchmark, in percent; at most the first ``most``."""
    header = ("", "accuracy", "95%", "original", "swapped", "mixed", "bias", "single", "items")
    return Table(header, tuple(map(_row, result.numbers[:most])), tuple(_notes(result)))


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
    shared = [(by_name.get(column.benchmark), column) for column in paper.COLUMNS]
    if not any(result for result, _ in shared):
        return None
    votes = max(result.votes for result in results)
    numbers = [result.number(column.number) if result else None for result, column in shared]
    absent = [column.title for (_, column), number in zip(shared, numbers, strict=True) if number is None]
    gaps = {
        column.title: "; ".join(filter(None, [*result.gaps, number.note]))
        for (result, column), number in zip(shared, numbers, strict=True)
        if result and number and (result.gaps or number.note)
    }
    rows = []
    for name, key in (("ours", "single"), (f"ours, voting@{votes}", "value"))[: 1 if votes == 1 else 2]:
        values = {c.title: getattr(number, key) for c, number in zip(paper.COLUMNS, numbers, strict=True) if number}
        shown = {title: _percent(value) + (PARTIAL if title in gaps else "") for title, value in values.items()}
        average = ABSENT if absent or gaps else _percent(sum(values.values()) / len(values))
        rows.append((name, *(shown.get(column.title, ABSENT) for column in paper.COLUMNS), average))
    rows += [(name, *(f"{value:.1f}" for value in values)) for name, values in paper.ROWS.items()]
    notes = [f"The paper's figures: {paper.SOURCE}."]
    notes += [f"Not evaluated: {', '.join(absent)}."] if absent else []
    partial = ", ".join(f"{title} ({gap})" for title, gap in gaps.items())
    notes += [f"Only in part, with an asterisk: {partial}."] if gaps else []
    if absent or gaps:
        notes.append("We show no average of ours, because it would be the plain mean of ten whole columns.")
    return Table(("", *(column.title for column in paper.COLUMNS), "average"), tuple(rows), tuple(notes))


def _row(number: Number) -> tuple[str, ...]:
    shares = (number.original, number.swapped, number.mixed, number.position_bias, number.single)
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
    if result.name == "writing":
        notes.append(f"Paper: {', '.join(f'{name} {value:.1f}' for name, value in paper.WRITING.items())}.")
    single, voted = paper.ROWS["Rubric-ARM"], paper.ROWS["Rubric-ARM voting@5"]
    printed = [
        f"{column.number} {one:.1f}, {five:.1f} with voting@5"
        for column, one, five in zip(paper.COLUMNS, single, voted, strict=False)
        if column.benchmark == result.name
    ]
    notes += [f"Paper: {'; '.join(printed)}."] if printed else []
    return [safe_text(note) for note in notes]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
