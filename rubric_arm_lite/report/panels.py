"""Small pictures before they are drawn: series of measured values on a horizontal axis.

The templates define each picture with its title, caption and series; here are the axes, and the panels whose series
depend on what was logged.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rubric_arm_lite.report.read import EvaluationRow, RunRecord, StepRow
from rubric_arm_lite.types import ROLES

Color = Literal["ink", "muted", "accent", "judge", "rubric"]
Tint = Literal["tint-judge", "tint-rubric", "tint-none"]
Unit = Literal["share", "rate", "number"]
"""A share on an axis from 0 to 100%, a small share on an axis of its own scale, or a number."""
Points = tuple[tuple[float, float], ...]

MAX_POINTS = 240
"""A longer series is drawn as the means of equal stretches."""
ROLE_NAMES = {"judge": "judge", "rubric": "rubric generator"}
"""In the order of the paper's schedule: the judge first."""
_CODES = {"base": "B", "warm-up": "W", "final": "F"}


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity, in segments that are not connected (the other role's phases lie between them)."""

    name: str
    color: Color
    segments: tuple[Points, ...]
    dashed: bool = False

    @property
    def values(self) -> list[float]:
        """All values in order."""
        return [y for segment in self.segments for _, y in segment]


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of the horizontal axis that belongs to one phase or one evaluation."""

    label: str
    start: float
    stop: float
    tint: Tint = "tint-none"


@dataclass(frozen=True, slots=True)
class Panel:
    """The content of one small picture; ``guide`` is the height of a dotted level line."""

    series: tuple[Series, ...]
    bands: tuple[Band, ...]
    unit: Unit = "share"
    guide: float | None = None

    def ends(self, series: Series) -> str:
        """The first and the last value of a series, as written beside the picture."""
        return " → ".join(self._shown(value) for value in series.values[:1] + series.values[1:][-1:])

    def _shown(self, value: float) -> str:
        if self.unit != "number":
            return f"{value:.1%}"
        digits = ".1f" if abs(value) >= 10 else ".2f" if abs(value) >= 0.1 or value == 0 else ".2g"
        return f"{value:{digits}}"


@dataclass(frozen=True, slots=True)
class Point:
    """Measured values at one place of an axis, of a source, for example a role."""

    x: float
    values: Mapping[str, float]
    source: str = ""
    segment: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """A horizontal axis: its bands, and the points that lie on it."""

    bands: tuple[Band, ...]
    points: tuple[Point, ...]

    def panel(self, series: Iterable[tuple[Any, ...]], unit: Unit = "share", guide: float | None = None) -> Panel:
        """A panel of the series that have points, each given as the arguments of :meth:`series`."""
        drawn = (self.series(*arguments) for arguments in series)
        return Panel(tuple(each for each in drawn if each.segments), self.bands, unit, guide)

    def roles(self, metric: str, unit: Unit = "share", guide: float | None = None) -> Panel:
        """A panel of one metric of both roles."""
        return self.panel([(metric, name, role, False, role) for role, name in ROLE_NAMES.items()], unit, guide)

    def series(self, metric: str, name: str, color: Color, dashed: bool = False, source: str = "") -> Series:
        """A metric over the points of one source."""
        segments: dict[int, list[tuple[float, float]]] = {}
        for point in self.points:
            if point.source == source and metric in point.values:
                segments.setdefault(point.segment, []).append((point.x, point.values[metric]))
        thin = (thinned(points, max(1, MAX_POINTS // len(segments))) for points in segments.values())
        return Series(name, color, tuple(thin), dashed)


def step_axis(steps: Sequence[StepRow], probes: Sequence[StepRow]) -> Axis:
    """The steps of the whole schedule, phase after phase; probes of the phases have the source ``probe``."""
    phases: dict[int, list[StepRow]] = {}
    for row in sorted(steps, key=lambda row: row.slot):
        phases.setdefault(row.slot, []).append(row)
    bands, starts, start = [], {}, 0
    for slot, rows in phases.items():
        starts[slot], stop, label = start, start + max(row.step for row in rows) + 1, rows[-1].phase
        bands.append(Band(short_label(label), start, stop, tint_of(label)))
        start = stop
    points = [
        *(Point(starts[slot] + row.step + 0.5, row.values, row.role, slot) for slot in phases for row in phases[slot]),
        *(Point(starts[row.slot] + row.step + 0.5, row.values, "probe") for row in probes if row.slot in starts),
    ]
    return Axis(tuple(bands), tuple(points))


def evaluation_axis(evaluations: Sequence[EvaluationRow], labels: Iterable[str] | None = None) -> Axis:
    """The evaluations one after the other, tinted by the role trained just before; labels are short by default."""
    labels = labels or [short_label(row.name) for row in evaluations]
    bands = (
        Band(label, i - 0.5, i + 0.5, tint_of(row.name))
        for i, (label, row) in enumerate(zip(labels, evaluations, strict=True))
    )
    return Axis(tuple(bands), tuple(Point(float(i), row.values) for i, row in enumerate(evaluations)))


def short_label(phase: str) -> str:
    """``judge 1`` as ``J1``, ``judge+rubric 2`` as ``JR2``, ``warm-up`` as ``W``; four characters of any other name."""
    roles, _, number = phase.rpartition(" ")
    if number.isdigit() and all(role in ROLES for role in roles.split("+")):
        return "".join(role[0].upper() for role in roles.split("+")) + number
    return _CODES.get(phase, phase[:4])


def tint_of(phase: str) -> Tint:
    """The background of a phase: that of its role, none for both roles or neither."""
    roles = phase.rpartition(" ")[0]
    return "tint-judge" if roles == "judge" else "tint-rubric" if roles == "rubric" else "tint-none"


def thinned(points: Sequence[tuple[float, float]], most: int) -> Points:
    """The points, or the means of ``most`` equal stretches of them if there are more."""
    if len(points) <= most:
        return tuple(points)
    edges = [len(points) * i // most for i in range(most + 1)]
    parts = [points[a:b] for a, b in itertools.pairwise(edges)]
    return tuple((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts)


_REWARD_PARTS = {
    "judge": {"accuracy": "verdict right", "format": "well-formed"},
    "rubric": {"accuracy": "judge right", "parsed": "rubric parses", "short": "bonus for a short one"},
}


def reward_panel(record: RunRecord, role: str) -> Panel:
    """The parts of a role's reward over the steps of its phases."""
    rows = [row.values for row in record.steps if row.role == role]
    parts = dict.fromkeys(name.split("/", 1)[1] for row in rows for name in row if name.startswith("reward/"))
    # Masked samples are rare: a series only where there are any.
    shown = [part for part in parts if part != "masked" or any(row.get("reward/masked") for row in rows)]
    series = [
        (f"reward/{part}", _REWARD_PARTS[role].get(part, part), role, i > 0, role) for i, part in enumerate(shown)
    ]
    return step_axis(record.steps, record.probes).panel(series)


def warmup_panel(record: RunRecord) -> Panel:
    """The loss of both roles over the steps of the warm-up."""
    last = max([1, *(row.step for row in record.warmup)])
    points = tuple(Point(float(row.step), row.values, row.role) for row in record.warmup)
    return Axis((Band(f"{last} steps", 0.0, float(last)),), points).roles("loss", "number")


def probe_panel(record: RunRecord) -> Panel:
    """The metrics of the probes over the steps, and the level at which a phase ends."""
    names = dict.fromkeys(name for row in record.probes for name in row.values if name not in ("slot", "step"))
    until = record.recipe.schedule.until if record.recipe else None
    series = [(name, name, "accent", False, "probe") for name in names]
    return step_axis(record.steps, record.probes).panel(series, guide=until.at_least if until else None)
