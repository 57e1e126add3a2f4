"""Rows that cannot be used, gathered in place of an end at the first: the first few, counts by reason, absent columns.

A reader tells a :class:`BadRows` of every row; :meth:`BadRows.lines` says it to whoever has to mend the file. A column
that no row has is one mistake and not one in every row, so it is named once, with the column that may be meant.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.data.pairs import WarmupRow
from rubric_arm_lite.data.rows import Row, RowError, show, show_names, without
from rubric_arm_lite.prompts import parse_judgement, parse_rubric, prompt_hash
from rubric_arm_lite.types import PreferencePair, Prompt


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


Measure = Callable[[str], int]
"""The length of a text, in tokens or words."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found. ``lengths`` holds the values at :data:`QUANTILES` for each kind of text, in ``unit``."""

    counts: Counts
    unit: str
    lengths: dict[str, tuple[int, ...]]
    facts: dict[str, float]
    subsets: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For ``--json``; the quantiles are named by their percentage."""
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        lengths = {kind: dict(zip(names, values, strict=True)) for kind, values in self.lengths.items()}
        return {
            **self.counts.as_json(),
            "unit": self.unit,
            "lengths": lengths,
            **self.facts,
            "subsets": self.subsets,
        }


def survey_pairs(pairs: Sequence[PreferencePair], counts: Counts, unit: str, measure: Measure) -> Survey:
    """Lengths, balance and duplicates of pairs."""
    texts = {
        "prompt": [_text(pair.prompt) for pair in pairs],
        "chosen": [pair.chosen for pair in pairs],
        "rejected": [pair.rejected for pair in pairs],
    }
    lengths = {kind: [measure(text) for text in found] for kind, found in texts.items()}
    prompts = Counter(prompt_hash(pair.prompt) for pair in pairs)
    sides = Counter((prompt_hash(pair.prompt), pair.chosen, pair.rejected) for pair in pairs)
    longer = zip(lengths["chosen"], lengths["rejected"], strict=True)
    facts: dict[str, float] = {
        "prompts": len(prompts),
        "most_pairs_of_a_prompt": max(prompts.values()),
        "conversations": sum(not isinstance(pair.prompt, str) for pair in pairs),
        "equal_to_an_earlier_pair": len(pairs) - len(sides),
        "contradicting_pairs": sum((prompt, rejected, chosen) in sides for prompt, chosen, rejected in sides) // 2,
        "chosen_longer": _share(_ahead(a, b) for a, b in longer),
    }
    if counts.ordered:
        facts["chosen_first"] = counts.chosen_first / counts.ordered
    subsets = Counter(pair.subset or pair.source for pair in pairs)
    return Survey(counts, unit, _quantiles(lengths), facts, dict(sorted_reasons(subsets)))


def survey_trajectories(rows: Sequence[WarmupRow], counts: Counts, unit: str, measure: Measure) -> Survey:
    """Lengths of the texts, what our parsers say to them, and which response the judgements name."""
    texts = {
        "prompt": [_text(row.prompt) for row in rows],
        "rubric": [row.rubric for row in rows],
        "judgement": [row.judgement for row in rows],
    }
    lengths = {kind: [measure(text) for text in found] for kind, found in texts.items()}
    rubrics = [parse_rubric(row.rubric) for row in rows]
    judged = [
        parse_judgement(row.judgement, rubric) for row, rubric in zip(rows, rubrics, strict=True) if rubric.usable
    ]
    winners = [judgement.winner for judgement in judged if judgement.winner is not None]
    facts: dict[str, float] = {
        "prompts": len({prompt_hash(row.prompt) for row in rows}),
        "conversations": sum(not isinstance(row.prompt, str) for row in rows),
        "well_formed_rubrics": _share(float(rubric.usable) for rubric in rubrics),
        "well_formed_judgements": sum(judgement.status.value == "ok" for judgement in judged) / len(rows),
        "criteria": _share(float(len(rubric.criteria)) for rubric in rubrics if rubric.usable),
        "winner_first": _share(float(winner == "A") for winner in winners),
    }
    return Survey(counts, unit, _quantiles(lengths), facts, {})


def _quantiles(lengths: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    """The smallest length that so large a share of the texts does not exceed."""
    return {
        kind: tuple(sorted(found)[max(math.ceil(share * len(found)) - 1, 0)] for share in QUANTILES)
        for kind, found in lengths.items()
    }


def _ahead(one: int, other: int) -> float:
    """1 if the first is larger, a half if they are equal."""
    return 1.0 if one > other else 0.5 if one == other else 0.0


def _share(values: Iterable[float]) -> float:
    """Mean; 0 of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
