"""The small pictures of a reward model's run; the template of the page has their titles and captions."""

from __future__ import annotations

from rubric_arm_lite.report.read import RunRecord
from rubric_arm_lite.report.series import Axis, Band, Color, Panel, Point, evaluation_axis, step_axis

_REWARD_PARTS = {
    "judge": {"accuracy": "verdict right", "format": "well-formed"},
    "rubric": {"accuracy": "judge right", "parsed": "rubric parses", "short": "bonus for a short one"},
}


def panels(record: RunRecord) -> dict[str, Panel]:
    """All pictures that have something to show, by the key that the template uses."""
    steps, phases = step_axis(record.steps, record.probes), evaluation_axis(record.phases)
    series = phases.series
    probes = dict.fromkeys(name for row in record.probes for name in row.values if name not in ("slot", "step"))
    until = record.recipe.schedule.until if record.recipe else None
    candidates = {
        "reward": steps.roles("reward", "number"),
        "reward-judge": _reward_parts(record, steps, "judge"),
        "reward-rubric": _reward_parts(record, steps, "rubric"),
        "warmup": _warmup(record),
        "informative": steps.roles("groups/informative"),
        "kl": steps.roles("kl", "number"),
        "entropy": steps.roles("entropy", "number"),
        "clip": steps.roles("clip_ratio", "rate"),
        "grad": steps.roles("grad_norm", "number"),
        "probe": steps.panel(
            [steps.series(name, name, "accent", source="probe") for name in probes],
            guide=until.at_least if until else None,
        ),
        "parsed": steps.roles("parse/ok"),
        "truncated": steps.roles("completions/truncated", "rate"),
        "format": phases.panel(
            [
                series("format_sampled", "sampled", "judge"),
                series("format", "greedy", "judge", dashed=True),
                series("unparsed", "without a verdict", "muted"),
            ]
        ),
        "margin": phases.panel([series("margin", "margin", "judge")], "number"),
        "ties": phases.panel(
            [series("tie_rate", "by probabilities", "judge"), series("tie_rate_words", "by words", "ink", dashed=True)]
        ),
        "position": phases.panel(
            [series("consistency", "both orders agree", "accent"), series("position_bias", "bias", "ink", dashed=True)]
        ),
        "says-a": phases.panel([series("says_a", "for A", "judge")], guide=0.5),
        "verdicts-a": steps.roles("verdicts/A", guide=0.5),
        "recall": phases.panel([series("principle_recall", "named", "rubric")]),
        "shape": phases.panel(
            [
                series("rubric_usable", "usable", "accent"),
                series("rubric_hard_rules", "hard rules", "rubric"),
                series("rubric_duplicates", "duplicates", "ink", dashed=True),
            ]
        ),
        "criteria": phases.panel([series("rubric_criteria", "criteria", "rubric")], "number"),
        "words": phases.panel([series("rubric_words", "words", "rubric")], "number"),
        "length": steps.roles("completion_length", "number"),
        "cache": steps.panel([steps.series("cache/hit_rate", "served", "judge", source="judge")]),
    }
    return {key: panel for key, panel in candidates.items() if panel.series}


def _reward_parts(record: RunRecord, steps: Axis, role: Color) -> Panel:
    rows = (row.values for row in record.steps if row.role == role)
    parts = dict.fromkeys(name.split("/", 1)[1] for row in rows for name in row if name.startswith("reward/"))
    series = [
        steps.series(f"reward/{part}", _REWARD_PARTS[role].get(part, part), role, i > 0, role)
        for i, part in enumerate(parts)
    ]
    # Masked samples are rare: a series only where there are any.
    return steps.panel(each for each in series if each.name != "masked" or any(each.values))


def _warmup(record: RunRecord) -> Panel:
    last = max([1, *(row.step for row in record.warmup)])
    points = tuple(Point(float(row.step), row.values, row.role) for row in record.warmup)
    return Axis((Band(f"{last} steps", 0.0, float(last)),), points).roles("loss", "number")
