"""Numbers and tables in one form, for the page and for the Markdown text alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.report.read import EvaluationRow

ABSENT = "–"


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
        low, high = f"{self.key}_low", f"{self.key}_high"
        if (low if self.part == "interval" else self.key) not in values:
            return ABSENT
        if self.part == "interval":
            return f"{self._number(values[low])}–{self._number(values[high])}"
        value = self._number(values[self.key])
        if self.part == "value" or low not in values:
            return value
        return f"{value} [{self._number(values[low])}, {self._number(values[high])}]"

    def _number(self, value: float) -> str:
        return f"{value:{self.form}}".removesuffix("%")


ACCURACY = Column("accuracy", "accuracy", brief=True)
INTERVAL = Column("95% interval", "accuracy", part="interval", brief=True)
_COLUMNS = (
    ACCURACY,
    INTERVAL,
    Column("original", "accuracy_original", brief=True),
    Column("swapped", "accuracy_swapped", brief=True),
    Column("mixed", "accuracy_mixed"),
    Column("bias", "position_bias", brief=True),
    Column("agree", "consistency", brief=True),
    Column("ties", "tie_rate", brief=True),
    Column("margin", "margin", ".2f", brief=True),
    Column("by words", "accuracy_words", brief=True),
    Column("ties by words", "tie_rate_words", brief=True),
    Column("no verdict", "unparsed"),
    Column("for A", "says_a"),
    Column("format", "format"),
    Column("sampled", "format_sampled", brief=True),
    Column("named", "principle_recall", brief=True),
    Column("tokens a pair", "tokens_per_pair", ".0f"),
)


def evaluation_columns(evaluations: Sequence[EvaluationRow], brief: bool = False) -> list[Column]:
    """The columns that at least one evaluation has a value for, those of voting last."""
    votes = dict.fromkeys(key for row in evaluations for key, _ in row.voting)
    columns = [*_COLUMNS, *(Column(key, key) for key in votes)]
    return [
        column
        for column in columns
        if (column.brief or not brief) and any(column.text(row.values) != ABSENT for row in evaluations)
    ]


def evaluation_table(evaluations: Iterable[EvaluationRow], columns: Sequence[Column]) -> Table:
    """One row per evaluation."""
    rows = ((row.name, *(column.text(row.values) for column in columns)) for row in evaluations)
    return Table(("after", *(column.title for column in columns)), tuple(rows))


def timing_table(times: Mapping[str, tuple[float, float]]) -> Table:
    """Seconds and sampled tokens per stage, the total in the last row."""
    total, all_tokens = (sum(column) for column in zip(*times.values(), strict=True)) if times else (0.0, 0.0)

    def row(stage: str, seconds: float, tokens: float) -> tuple[str, ...]:
        rate = f"{tokens / (seconds or 1):,.0f}" if tokens else ABSENT
        return (stage, f"{seconds:.1f}", f"{seconds / (total or 1):.0%}", f"{tokens:,.0f}", rate)

    rows = [*(row(stage, *sums) for stage, sums in times.items()), row("total", total, all_tokens)]
    return Table(("stage", "seconds", "share", "tokens", "tokens/s"), tuple(rows))


def markdown_table(table: Table) -> str:
    """The table in Markdown, padded so that it reads as plain text; all but the first column are right-aligned."""
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if i else "-" * w for i, w in enumerate(widths)]
    return "\n".join(map(line, (table.header, rule, *table.rows)))
