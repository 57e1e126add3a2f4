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
    """One quantity, in segments that are not connected (the other role's phases lie between them).

    ``spread`` has a place with the lower and the upper end of a band around the quantity there.
    """

    name: str
    color: Color
    segments: tuple[Points, ...]
    dashed: bool = False
    spread: tuple[tuple[float, float, float], ...] = ()

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
        values = series.values[:1] + series.values[1:][-1:]
        if self.unit != "number":
            return " → ".join(f"{value:.1%}" for value in values)
        digits = [".1f" if abs(v) >= 10 else ".2f" if abs(v) >= 0.1 or v == 0 else ".2g" for v in values]
        return " → ".join(map(format, values, digits))


@dataclass(frozen=True, slots=True)
class Axis:
    """A horizontal axis: its bands, and the points that lie on it.

    Attributes:
        points: place, measured values, their source (a role, ``probe``, or empty), and the segment of a series.
    """

    bands: tuple[Band, ...]
    points: tuple[tuple[float, Mapping[str, float], str, int], ...]

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
        for x, values, of, segment in self.points:
            if of == source and metric in values:
                segments.setdefault(segment, []).append((x, values[metric]))
        thin = (thinned(points, max(1, MAX_POINTS // len(segments))) for points in segments.values())
        return Series(name, color, tuple(thin), dashed)


def step_axis(steps: Sequence[StepRow], probes: Sequence[StepRow]) -> Axis:
    """The steps of the whole schedule, phase after phase; probes of the phases have the source ``probe``."""
    bands, starts, points, stop = [], {}, [], 0
    for slot, group in itertools.groupby(sorted(steps, key=lambda row: row.slot), key=lambda row: row.slot):
        rows, start = list(group), stop
        stop, label = start + max(row.step for row in rows) + 1, rows[-1].phase
        starts[slot] = start
        bands.append(Band(short_label(label), start, stop, tint_of(label)))
        points += [(start + row.step + 0.5, row.values, row.role, slot) for row in rows]
    points += [(starts[row.slot] + row.step + 0.5, row.values, "probe", 0) for row in probes if row.slot in starts]
    return Axis(tuple(bands), tuple(points))


def evaluation_axis(evaluations: Sequence[EvaluationRow], labels: Iterable[str] | None = None) -> Axis:
    """The evaluations one after the other, tinted by the role trained just before; labels are short by default."""
    labels = labels or [short_label(row.name) for row in evaluations]
    places = list(enumerate(zip(labels, evaluations, strict=True)))
    bands = (Band(label, i - 0.5, i + 0.5, tint_of(row.name)) for i, (label, row) in places)
    return Axis(tuple(bands), tuple((float(i), row.values, "", 0) for i, (_, row) in places))


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
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("reward/"))
    # Masked samples are rare: a series only where there are any.
    parts = [n.split("/", 1)[1] for n in names if n != "reward/masked" or any(row.get(n) for row in rows)]
    series = [
        (f"reward/{part}", _REWARD_PARTS[role].get(part, part), role, i > 0, role) for i, part in enumerate(parts)
    ]
    return step_axis(record.steps, record.probes).panel(series)


def warmup_panel(record: RunRecord) -> Panel:
    """The loss of both roles over the steps of the warm-up."""
    last = max([1, *(row.step for row in record.warmup)])
    points = tuple((float(row.step), row.values, row.role, 0) for row in record.warmup)
    return Axis((Band(f"{last} steps", 0.0, float(last)),), points).roles("loss", "number")


def probe_panel(record: RunRecord) -> Panel:
    """The metrics of the probes over the steps, and the level at which a phase ends."""
    names = dict.fromkeys(name for row in record.probes for name in row.values if name not in ("slot", "step"))
    until = record.recipe.schedule.until if record.recipe else None
    series = [(name, name, "accent", False, "probe") for name in names]
    return step_axis(record.steps, record.probes).panel(series, guide=until.at_least if until else None)
