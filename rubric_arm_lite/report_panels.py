"""Which small pictures a report has, by subject; those that have nothing to show are left out.

A :class:`~rubric_arm_lite.report_data.RunRecord` goes in; groups of panels come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rubric_arm_lite.report_data import RunRecord, StepRow
from rubric_arm_lite.report_lines import (
    MOST_POINTS,
    ROLE_WORDS,
    Band,
    Colour,
    Line,
    Panel,
    PhaseAxis,
    StepAxis,
    thinned,
    with_points,
)
from rubric_arm_lite.types import Role

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
