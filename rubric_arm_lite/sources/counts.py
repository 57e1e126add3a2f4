"""What was read from a source, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one source: read, kept, and left out by reason.

    Attributes:
        form: the form the rows were read in.
        ordered: kept rows whose source shows the responses in an order of its own; ``chosen_first`` of them have the
            chosen one first.
    """

    source: str
    form: str
    rows: int
    kept: int
    left_out: tuple[tuple[str, int], ...] = ()
    ordered: int = 0
    chosen_first: int = 0

    def as_json(self) -> dict[str, Any]:
        """For ``data.json`` and ``--json``."""
        found: dict[str, Any] = {"source": self.source, "form": self.form, "rows": self.rows, "kept": self.kept}
        if self.ordered:
            found |= {"ordered": self.ordered, "chosen_first": self.chosen_first}
        return {**found, "left_out": dict(self.left_out)}

    def line(self, what: str = "pairs") -> str:
        """One line for a reader."""
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.left_out)
        out = f"; left out: {reasons}" if reasons else ""
        return f"{self.source}: {self.rows:,} rows read, {self.kept:,} {what} kept{out}."


def sorted_reasons(reasons: Counter[str]) -> tuple[tuple[str, int], ...]:
    """Reasons with their counts, the largest first, ties by name."""
    return tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
