"""Rows that cannot be used, gathered in place of an end at the first: the first few, counts by reason, absent columns.

A reader tells a :class:`BadRows` of every row; :meth:`BadRows.lines` says it to whoever has to mend the file. A column
that no row has is one mistake and not one in every row, so it is named once, with the column that may be meant.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rubric_arm_lite.rows import Row, RowError, show, show_names, without
from rubric_arm_lite.sources.counts import sorted_reasons

MOST = 10
"""Rows that are named one by one."""
OWN_PAIRS = ("prompt", "chosen", "rejected")
OWN_TRAJECTORIES = ("prompt", "rubric", "response_a", "response_b", "judgement")
OWN_POINTWISE = ("prompt", "rubric", "response", "judgement")
_NEAR = 0.75
"""How alike two names must be to be taken for one with a slip, by difflib's ratio."""
_OTHER_NAMES = {
    "prompt": ("instruction", "question", "query", "input", "user"),
    "chosen": ("preferred", "accepted", "better", "winner", "response_chosen", "chosen_response"),
    "rejected": ("dispreferred", "worse", "loser", "response_rejected", "rejected_response"),
    "judgement": ("judgment", "judge"),
}
"""What others call the columns of our forms."""


class BadRows:
    """Rows of one source that cannot be used.

    Attributes:
        reasons: how many there are for each reason.
        no_rows: how many are lines that could not even be read as rows.
        stopped: whether the last one ended the reading, so that what comes after it was not seen.
        outcome: the error in which reading ended for another reason than a bad row, such as that no row is left.
    """

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.no_rows = 0
        self.stopped = False
        self.outcome = ""
        self._first: dict[str, list[tuple[int, str]]] = {}
        self._met: dict[str, None] = {}
        self._expected: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How many there are."""
        return self.reasons.total()

    def expect(self, columns: Sequence[str]) -> None:
        """The columns that every row should have."""
        self._expected = tuple(columns)

    def watched(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, with their columns noted, be they good or bad."""
        for row in rows:
            self._met.update(dict.fromkeys(row.columns))
            yield row

    def add_line(self, error: RowError) -> None:
        """Count a line that is no row at all."""
        self.no_rows += 1
        self.add(error)

    def add(self, error: RowError) -> None:
        """Count a bad row."""
        self.reasons[error.reason] += 1
        kept = self._first.setdefault(error.reason, [])
        if len(kept) < MOST:
            kept.append((self.total, str(error)))

    def stop(self, error: RowError) -> None:
        """Count a bad row after which no other can be found."""
        self.add(error)
        self.stopped = True

    @property
    def absent(self) -> tuple[str, ...]:
        """Expected columns that no row has, if a row was bad for want of one: a conversation needs no `prompt`."""
        found = tuple(name for name in self._expected if name not in self._met)
        return found if any(without(name) in self.reasons for name in found) else ()

    def first(self) -> list[str]:
        """The first bad rows, each with what to do; those that only lack an absent column are not among them."""
        said = {without(name) for name in self.absent}
        kept = [entry for reason, entries in self._first.items() if reason not in said for entry in entries]
        return [text for _, text in sorted(kept)[:MOST]]

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "rows": self.total,
            "reasons": dict(sorted_reasons(self.reasons)),
            "absent_columns": list(self.absent),
            "first": self.first(),
            "stopped": self.stopped,
            "outcome": self.outcome or None,
        }

    def lines(self, source: str) -> Iterator[str]:
        """What a person should know, line by line."""
        if self.outcome:
            yield self.outcome
        if self.absent:
            yield self._absent_line(source)
        yield from self.first()
        if self.stopped:
            yield "What comes after the last of these was not read."
        counted = "; ".join(f"{count:,} {reason}" for reason, count in sorted_reasons(self.reasons))
        yield f"{self.total:,} row{'' if self.total == 1 else 's'} of {source} cannot be used: {counted}."

    def _absent_line(self, source: str) -> str:
        absent = self.absent
        spare = [name for name in self._met if name not in self._expected]
        meant = [(name, found) for name in absent if (found := _meant(name, spare)) is not None]
        names = ", ".join(f"`{name}`" for name in absent)
        text = f"{source}: no row has the column{'' if len(absent) == 1 else 's'} {names}; found: "
        text += f"{show_names(list(self._met))}. "
        if meant:
            text += f"Did you mean {', '.join(f'`{show(found)[1:-1]}` for `{name}`' for name, found in meant)}? "
        return (
            f"{text}Rename the columns. Rows in the form of a known data set are converted with rubric-arm data "
            "convert and its --form."
        )


def _meant(name: str, spare: Iterable[str]) -> str | None:
    """The column that may hold what ``name`` should: one with a slip in its name, or with another project's."""
    folded = {other.casefold(): other for other in spare}
    near = difflib.get_close_matches(name, folded, n=1, cutoff=_NEAR)
    near += [other for other in _OTHER_NAMES.get(name, ()) if other in folded]
    return folded[near[0]] if near else None
