"""The lines of the report's small pictures, laid out over steps or over evaluations.

Measured values go in, :class:`Panel` comes out. Which panels there are is chosen in :mod:`.report_panels`; drawing is
in :mod:`.report_figures`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.report.read import EvaluationRow, RunRecord, StepRow
from rubric_arm_lite.types import ROLES, Role

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


_ORDER: tuple[Role, ...] = ("judge", "rubric")
"""As in the schedule of the paper: the judge first."""
_PART_WORDS = {
    ("judge", "accuracy"): "verdict right",
    ("judge", "format"): "well-formed",
    ("rubric", "accuracy"): "judge right",
    ("rubric", "parsed"): "rubric parses",
    ("rubric", "short"): "bonus for a short one",
}


_REWARD_WORDS: dict[bool, dict[Role, str]] = {
    False: {
        "judge": "Right verdicts pay most; form pays its weight.",
        "rubric": "The share of the frozen judge's verdicts that are right under the sampled rubric.",
    },
    True: {
        "judge": "Samples on the right side of the other response's mean score; form is needed for that.",
        "rubric": "The share of pairs whose preferred response the frozen judge scores higher under the rubric.",
    },
}
"""What the parts of a role's reward mean, by whether the judge is pointwise."""


@dataclass(frozen=True, slots=True)
class Group:
    """Panels that are read together."""

    title: str
    text: str
    panels: tuple[Panel, ...]


def groups(record: RunRecord) -> list[Group]:
    """All small pictures of a run, by subject."""
    steps, phases = StepAxis(record), PhaseAxis(record.phases)
    found = [
        Group("Rewards", "What the active role earned in every step of its phases.", _rewards(steps, record)),
        Group(
            "Learning signal", "Whether there was something to learn from, and how far it led.", _signal(steps, record)
        ),
        Group("Form", "Whether texts keep the form that the parsers accept.", _form(steps, phases)),
        Group("Scores", "How clearly a pointwise judge tells the preferred response from the other.", _scores(phases)),
        Group(
            "Order of the responses",
            "Whether the verdict depends on which response comes first.",
            _order(steps, phases),
        ),
        Group(
            "Rubrics", "What the generator writes, and how often the cache spared it the work.", _rubrics(steps, phases)
        ),
    ]
    return [group for group in found if group.panels]


def _rewards(steps: StepAxis, record: RunRecord) -> tuple[Panel, ...]:
    panels = [
        steps.panel(
            "reward",
            "Mean reward",
            "Should rise within a role's phases.",
            [steps.of("reward", role) for role in _ORDER],
        )
    ]
    for role in _ORDER:
        names = dict.fromkeys(
            n for row in steps.rows if row.role == role for n in row.values if n.startswith("reward/")
        )
        lines = [
            steps.of(name, role, _PART_WORDS.get((role, part), part), dashed=i > 0)
            for i, name in enumerate(names)
            for part in [name.removeprefix("reward/")]
        ]
        # Masked samples are rare: a line only where there are any.
        lines = [line for line in lines if line.name != "masked" or any(line.values)]
        title = f"Parts of the {ROLE_WORDS[role]}'s reward"
        text = _REWARD_WORDS[record.pointwise][role]
        panels.append(steps.panel(f"reward-{role}", title, text, lines, "share"))
    return _present(panels)


def _signal(steps: StepAxis, record: RunRecord) -> tuple[Panel, ...]:
    both = _both_roles(steps)
    return _present(
        [
            _warmup_panel(record.warmup),
            steps.panel(
                "informative",
                "Informative groups",
                "Groups whose rewards differ; the others carry no gradient.",
                both("groups/informative"),
                "share",
            ),
            steps.panel("kl", "KL to the warm-up copy", "Nats per token; how far each role has moved.", both("kl")),
            steps.panel(
                "entropy", "Entropy", "Nats per token; near 0 means nothing is tried any more.", both("entropy")
            ),
            steps.panel(
                "clip",
                "Clipped tokens",
                "Where the bounds bind; 0 with one update per rollout.",
                both("clip_ratio"),
                "rate",
            ),
            steps.panel("grad", "Gradient norm", "Before it is cut to its bound.", both("grad_norm")),
            _probe_panel(record, steps),
        ]
    )


def _form(steps: StepAxis, phases: PhaseAxis) -> tuple[Panel, ...]:
    both = _both_roles(steps)
    return _present(
        [
            steps.panel(
                "parsed", "Samples that parse", "Sampled in training at its temperature.", both("parse/ok"), "share"
            ),
            steps.panel(
                "truncated", "Samples cut by length", "Cut texts earn nothing.", both("completions/truncated"), "rate"
            ),
            phases.panel(
                "format",
                "Well-formed judgements",
                "Held-out pairs; sampled judgements show what greedy ones hide.",
                [
                    phases.of("format_sampled", "sampled", "judge"),
                    phases.of("format", "greedy", "judge", dashed=True),
                    phases.of("unparsed", "without a verdict", "muted"),
                ],
            ),
        ]
    )


def _scores(phases: PhaseAxis) -> tuple[Panel, ...]:
    return _present(
        [
            phases.panel(
                "margin",
                "Margin",
                "The preferred response's score above the other one's, on held-out pairs; scores run from −1 to 1.",
                [phases.of("margin", "margin", "judge")],
                "number",
            ),
            phases.panel(
                "ties",
                "Ties",
                "Pairs with equal scores, and what the words true and false alone would tie.",
                [
                    phases.of("tie_rate", "by probabilities", "judge"),
                    phases.of("tie_rate_words", "by words", "ink", dashed=True),
                ],
            ),
        ]
    )


def _order(steps: StepAxis, phases: PhaseAxis) -> tuple[Panel, ...]:
    return _present(
        [
            phases.panel(
                "position",
                "Consistency and position bias",
                "Agreement should near 100%, bias 0.",
                [
                    phases.of("consistency", "both orders agree", "accent"),
                    phases.of("position_bias", "bias", "ink", dashed=True),
                ],
            ),
            phases.panel(
                "says-a",
                "Verdicts for Response A",
                "On held-out pairs, half of the preferred responses stand first.",
                [phases.of("says_a", "for A", "judge")],
                guide=0.5,
            ),
            steps.panel(
                "verdicts-a",
                "Verdicts for Response A in training",
                "The judge's samples in its own phases, the frozen judge's verdicts in the generator's.",
                _both_roles(steps)("verdicts/A"),
                "share",
                guide=0.5,
            ),
        ]
    )


def _rubrics(steps: StepAxis, phases: PhaseAxis) -> tuple[Panel, ...]:
    return _present(
        [
            phases.panel(
                "recall",
                "Principles named",
                "Share of a prompt's true principles that its rubric names.",
                [phases.of("principle_recall", "named", "rubric")],
            ),
            phases.panel(
                "shape",
                "Shape of the rubrics",
                "Rubrics that parse; criteria that are hard rules; criteria said twice, a sign of drift.",
                [
                    phases.of("rubric_usable", "usable", "accent"),
                    phases.of("rubric_hard_rules", "hard rules", "rubric"),
                    phases.of("rubric_duplicates", "duplicates", "ink", dashed=True),
                ],
            ),
            phases.panel(
                "criteria",
                "Criteria per rubric",
                "Growth without better verdicts is drift.",
                [phases.of("rubric_criteria", "criteria", "rubric")],
                "number",
            ),
            phases.panel(
                "words",
                "Words per rubric",
                "Growth without better verdicts is drift.",
                [phases.of("rubric_words", "words", "rubric")],
                "number",
            ),
            steps.panel(
                "length",
                "Tokens per sample",
                "Mean length of what each role writes.",
                _both_roles(steps)("completion_length"),
            ),
            steps.panel(
                "cache",
                "Cache hit rate",
                "Rubrics served from the cache since the run began.",
                [steps.of("cache/hit_rate", "judge", "served")],
                "share",
            ),
        ]
    )


def _warmup_panel(rows: Sequence[StepRow]) -> Panel:
    lines = []
    for role in _ORDER:
        points = [(float(row.step), row.values["loss"]) for row in rows if row.role == role and "loss" in row.values]
        colour: Colour = "judge" if role == "judge" else "rubric"
        lines.append(Line(ROLE_WORDS[role], colour, (thinned(points, MOST_POINTS),) if points else ()))
    last = max([1, *(row.step for row in rows)])
    text = "Supervised loss over its steps, before any reinforcement."
    return Panel(
        "warmup", "Warm-up loss", text, "number", with_points(lines), (Band(f"{last} steps", 0.0, float(last)),)
    )


def _probe_panel(record: RunRecord, steps: StepAxis) -> Panel:
    names = dict.fromkeys(name for row in record.probes for name in row.values if name not in ("slot", "step"))
    lines = []
    for name in names:
        rows = [row for row in record.probes if name in row.values and row.slot in steps.starts]
        points = tuple((steps.starts[row.slot] + row.step + 0.5, row.values[name]) for row in rows)
        lines.append(Line(name, "accent", (points,) if points else ()))
    guide = record.recipe.schedule.until.at_least if record.recipe and record.recipe.schedule.until else None
    text = "Measured on the probe set inside a phase; at the dotted mark the phase ends."
    return steps.panel("probe", "Probe", text, lines, "share", guide)


def _both_roles(steps: StepAxis) -> Callable[[str], list[Line]]:
    return lambda metric: [steps.of(metric, role) for role in _ORDER]


def _present(panels: Iterable[Panel]) -> tuple[Panel, ...]:
    return tuple(panel for panel in panels if panel.lines)
