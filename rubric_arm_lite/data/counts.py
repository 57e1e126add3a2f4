"""Counts of a source's rows: read, kept, skipped by reason, and bad."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.data.rows import RowError, missing_reason, names_list, short_repr
from rubric_arm_lite.errors import DataError

MAX_SHOWN = 10
"""Bad rows that are named one by one."""
_CUTOFF = 0.75
"""Similarity of two names, by difflib's ratio, from which one may be a misspelling of the other."""
_WINNER = re.compile("winner|label|prefer|choice|better|best|vote", re.IGNORECASE)
"""Parts of the names of columns that say which response is better."""
_OTHER_NAMES = {
    "prompt": ("instruction", "question", "query", "input", "user"),
    "chosen": ("preferred", "accepted", "better", "winner", "response_chosen", "chosen_response"),
    "rejected": ("dispreferred", "worse", "loser", "response_rejected", "rejected_response"),
    "judgement": ("judgment", "judge"),
}
"""Names that other projects give to the columns of our formats."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of one source: read, kept, and skipped by reason.

    Attributes:
        format: the format in which the rows were read.
        ordered: kept rows whose source shows the responses in an order of its own; in ``chosen_first`` of them the
            chosen one is first.
        unit: what is counted: rows of the source, or comparisons where its lists of responses are compared.
    """

    source: str
    format: str
    rows: int
    kept: int
    skipped: tuple[tuple[str, int], ...] = ()
    ordered: int = 0
    chosen_first: int = 0
    unit: str = "rows"

    def as_json(self) -> dict[str, Any]:
        """For ``data.json`` and ``--json``."""
        counts: dict[str, Any] = {"source": self.source, "format": self.format, "rows": self.rows, "kept": self.kept}
        if self.ordered:
            counts |= {"ordered": self.ordered, "chosen_first": self.chosen_first}
        return {**counts, "skipped": dict(self.skipped)}

    def line(self, what: str = "pairs") -> str:
        """One line of text."""
        skipped = f"; skipped: {reasons_text(self.skipped)}" if self.skipped else ""
        return f"{self.source}: {self.rows:,} {self.unit} read, {self.kept:,} {what} kept{skipped}."


def sorted_reasons(reasons: Counter[str]) -> tuple[tuple[str, int], ...]:
    """Reasons with their counts, the largest first, ties by name."""
    return tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def reasons_text(reasons: Iterable[tuple[str, int]]) -> str:
    """Reasons with their counts in one line."""
    return "; ".join(f"{count:,} {reason}" for reason, count in reasons)


class BadRows:
    """Rows of one source that cannot be used: counted by reason, and the first ones named.

    A column that no row has is one mistake and not one per row, so it is reported once.

    Attributes:
        expected: the columns that every row should have.
        columns: the names of the columns of all rows, as keys in the order in which they first came.
        reasons: counts of bad rows by reason.
        stopped: whether the last one ended the reading, so that later rows were not seen.
        outcome: the error that ended the reading for another reason, such as that no row is left.
    """

    def __init__(self) -> None:
        self.expected: tuple[str, ...] = ()
        self.columns: dict[str, None] = {}
        self.reasons: Counter[str] = Counter()
        self.stopped = False
        self.outcome = ""
        self._messages: dict[str, list[tuple[int, str]]] = {}

    @property
    def total(self) -> int:
        """The number of bad rows."""
        return self.reasons.total()

    def add(self, error: RowError) -> None:
        """Count a bad row."""
        self.reasons[error.reason] += 1
        messages = self._messages.setdefault(error.reason, [])
        if len(messages) < MAX_SHOWN:
            messages.append((self.total, str(error)))

    def end(self, error: DataError) -> None:
        """Record the error that ended the reading."""
        if isinstance(error, RowError):
            self.add(error)
            self.stopped = True
        else:
            self.outcome = str(error)

    @property
    def absent(self) -> tuple[str, ...]:
        """Expected columns that no row has, if a row was bad without one: a conversation needs no `prompt`."""
        absent = tuple(name for name in self.expected if name not in self.columns)
        return absent if any(missing_reason(name) in self.reasons for name in absent) else ()

    def first(self) -> list[str]:
        """Messages of the first bad rows, without those that only lack an absent column."""
        hidden = {missing_reason(name) for name in self.absent}
        shown = [entry for reason, entries in self._messages.items() if reason not in hidden for entry in entries]
        return [text for _, text in sorted(shown)[:MAX_SHOWN]]

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
        """The report, line by line; none without bad rows."""
        if not self.total:
            return
        if self.outcome:
            yield self.outcome
        if self.absent:
            spare = {other.casefold(): other for other in self.columns if other not in self.expected}
            likely = [
                f"`{short_repr(other)[1:-1]}` for `{name}`" for name in self.absent if (other := _likely(name, spare))
            ]
            names = ", ".join(f"`{name}`" for name in self.absent)
            hint = f"Did you mean {', '.join(likely)}? " if likely else ""
            described = _described(self.absent, spare)
            fix = f"Rename the columns{f', or describe them: --columns {shlex.quote(described)}' if described else ''}."
            yield (
                f"{source}: no row has the column{'s' * (len(self.absent) > 1)} {names}; found: "
                f"{names_list(self.columns)}. {hint}{fix} Rows in the format of a known data set are "
                "converted with rubric-arm data convert and its --format."
            )
        yield from self.first()
        if self.stopped:
            yield "Rows after the last of these were not read."
        counted = reasons_text(sorted_reasons(self.reasons))
        yield f"{self.total:,} row{'' if self.total == 1 else 's'} of {source} cannot be used: {counted}."


def _described(absent: Sequence[str], others: dict[str, str]) -> str:
    """What ``--columns`` may be for two numbered or lettered responses among ``others``; empty without them."""
    names = list(others.values())
    ends = (("1", "2"), ("a", "b"), ("A", "B"), ("0", "1"))
    pairs = [(name, name[:-1] + b) for name in names for a, b in ends if name.endswith(a) and name[:-1] + b in names]
    if not {"chosen", "rejected"} <= {*absent} or not pairs:
        return ""
    prompt = _likely("prompt", others) if "prompt" in absent else None
    winner = next((name for name in names if name not in pairs[0] and _WINNER.search(name)), None)
    fields = {"prompt": prompt, "responses": f"[{', '.join(map(_yaml, pairs[0]))}]", "winner": winner and _yaml(winner)}
    values = ", first: VALUE, second: VALUE, tie: VALUE" if winner else ""
    return f"{{{', '.join(f'{field}: {name}' for field, name in fields.items() if name)}{values}}}"


def _yaml(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_][\w .-]*", name) else json.dumps(name)


def _likely(name: str, others: dict[str, str]) -> str | None:
    """The one of ``others`` (by their folded names) that may be ``name``: a misspelling, or another project's name."""
    likely = difflib.get_close_matches(name, others, n=1, cutoff=_CUTOFF)
    likely += [other for other in _OTHER_NAMES.get(name, ()) if other in others]
    return others[likely[0]] if likely else None
