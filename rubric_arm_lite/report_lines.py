"""The lines of the report's small pictures, laid out over steps or over evaluations.

Measured values go in, :class:`Panel` comes out. Which panels there are is chosen in :mod:`.report_panels`; drawing is
in :mod:`.report_figures`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.report_data import EvaluationRow, RunRecord
from rubric_arm_lite.types import ROLES

Colour = Literal["ink", "muted", "accent", "judge", "rubric"]
Tint = Literal["tint-judge", "tint-rubric", "tint-none"]
Unit = Literal["share", "rate", "number"]
"""A share of all on an axis from 0 to 100%; a small share on an axis of its own; anything else."""
Points = tuple[tuple[float, float], ...]

MOST_POINTS = 240
"""A longer line is drawn as the means of equal stretches."""
_CODES = {"base": "B", "warm-up": "W", "final": "F"}
ROLE_WORDS = {"judge": "judge", "rubric": "rubric generator"}


@dataclass(frozen=True, slots=True)
class Line:
    """One quantity, in stretches that are not connected (the other role's phases lie between them)."""

    name: str
    colour: Colour
    stretches: tuple[Points, ...]
    dashed: bool = False

    @property
    def values(self) -> list[float]:
        """All its values in order."""
        return [y for stretch in self.stretches for _, y in stretch]


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of the horizontal axis that belongs to one phase or one evaluation."""

    label: str
    start: float
    stop: float
    tint: Tint = "tint-none"


@dataclass(frozen=True, slots=True)
class Panel:
    """One small picture: its title, what to see in it, and its lines."""

    key: str
    title: str
    caption: str
    unit: Unit
    lines: tuple[Line, ...]
    bands: tuple[Band, ...]
    guide: float | None = None

    @property
    def described(self) -> str:
        """The picture in words, for those who do not see it."""
        return f"{self.title}. " + "; ".join(f"{line.name}: {self.ends(line)}" for line in self.lines)

    def ends(self, line: Line) -> str:
        """A line's first and last value."""
        first, last = (shown(value, self.unit) for value in (line.values[0], line.values[-1]))
        return f"{first} → {last}" if len(line.values) > 1 else first


class StepAxis:
    """The steps of the whole schedule in a row, phase after phase."""

    def __init__(self, record: RunRecord) -> None:
        self.rows = record.steps
        lengths: dict[int, int] = {}
        labels: dict[int, str] = {}
        for row in self.rows:
            lengths[row.slot] = max(lengths.get(row.slot, 0), row.step + 1)
            labels[row.slot] = row.phase
        ends = itertools.accumulate(lengths[slot] for slot in sorted(lengths))
        stops = dict(zip(sorted(lengths), ends, strict=True))
        self.starts = {slot: stops[slot] - lengths[slot] for slot in stops}
        self.bands = tuple(
            Band(short_label(labels[slot]), self.starts[slot], stops[slot], tint_of(labels[slot])) for slot in stops
        )

    def of(self, metric: str, role: str, name: str | None = None, dashed: bool = False) -> Line:
        """A metric of one role."""
        stretches = []
        for slot, start in self.starts.items():
            rows = [r for r in self.rows if r.slot == slot and r.role == role and metric in r.values]
            points = [(start + row.step + 0.5, row.values[metric]) for row in rows]
            if points:
                stretches.append(thinned(points, max(1, MOST_POINTS // len(self.starts))))
        colour: Colour = "judge" if role == "judge" else "rubric"
        return Line(name or ROLE_WORDS[role], colour, tuple(stretches), dashed)

    def panel(
        self,
        key: str,
        title: str,
        caption: str,
        lines: Iterable[Line],
        unit: Unit = "number",
        guide: float | None = None,
    ) -> Panel:
        """A panel over steps."""
        return Panel(key, title, caption, unit, with_points(lines), self.bands, guide)


class PhaseAxis:
    """The evaluations along the schedule, one after the other."""

    def __init__(self, evaluations: Sequence[EvaluationRow]) -> None:
        self.evaluations = evaluations
        self.bands = evaluation_bands(evaluations)

    def of(self, metric: str, name: str, colour: Colour, dashed: bool = False) -> Line:
        """A metric over the evaluations."""
        points = tuple((float(i), e.values[metric]) for i, e in enumerate(self.evaluations) if metric in e.values)
        return Line(name, colour, (points,) if points else (), dashed)

    def panel(
        self,
        key: str,
        title: str,
        caption: str,
        lines: Iterable[Line],
        unit: Unit = "share",
        guide: float | None = None,
    ) -> Panel:
        """A panel over evaluations."""
        return Panel(key, title, caption, unit, with_points(lines), self.bands, guide)


def evaluation_bands(evaluations: Sequence[EvaluationRow], whole: bool = False) -> tuple[Band, ...]:
    """One band per evaluation, tinted by the role that was trained just before it; labels in whole or short."""
    names = [e.name[:12] if whole else short_label(e.name) for e in evaluations]
    return tuple(
        Band(name, i - 0.5, i + 0.5, tint_of(e.name))
        for i, (name, e) in enumerate(zip(names, evaluations, strict=True))
    )


def shown(value: float, unit: Unit) -> str:
    """A value as it is written beside a picture."""
    if unit != "number":
        return f"{100 * value:.1f}%"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def short_label(phase: str) -> str:
    """``judge 1`` as ``J1``, ``judge+rubric 2`` as ``JR2``, ``warm-up`` as ``W``; others cut to four characters."""
    roles, _, number = phase.rpartition(" ")
    if number.isdigit() and all(role in ROLES for role in roles.split("+")):
        return "".join(role[0].upper() for role in roles.split("+")) + number
    return _CODES.get(phase, phase[:4])


def tint_of(phase: str) -> Tint:
    """The background of a phase: that of its role, none for both roles or neither."""
    roles = phase.rpartition(" ")[0]
    return "tint-judge" if roles == "judge" else "tint-rubric" if roles == "rubric" else "tint-none"


def with_points(lines: Iterable[Line]) -> tuple[Line, ...]:
    """The lines that have something to show."""
    return tuple(line for line in lines if line.stretches)


def thinned(points: Sequence[tuple[float, float]], most: int) -> Points:
    """The points, or the means of ``most`` equal stretches of them if there are more."""
    if len(points) <= most:
        return tuple(points)
    edges = [len(points) * i // most for i in range(most + 1)]
    parts = [points[a:b] for a, b in itertools.pairwise(edges)]
    return tuple((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts)
