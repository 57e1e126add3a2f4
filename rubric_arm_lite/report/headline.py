"""The result of a run in one sentence, with the details and the caveats needed to read it."""

from __future__ import annotations

from dataclasses import dataclass

from rubric_arm_lite.evaluation.caveats import (
    MOSTLY,
    evaluation_caveats,
    no_gradient_caveats,
    phases_without_gradient,
    unparsed_share,
)
from rubric_arm_lite.report.gains import contrast, points
from rubric_arm_lite.report.read import EvaluationRow, RunRecord


@dataclass(frozen=True, slots=True)
class Headline:
    """The result in one sentence, details, and reasons why it may mean less than it seems to."""

    lead: str
    details: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def headline(record: RunRecord) -> Headline:
    """From the warm-up to the last evaluation, with intervals and the oracle's ceiling."""
    phases = record.phases
    if not phases:
        return Headline("Nothing has been evaluated yet.")
    last, start = phases[-1], next((row for row in phases if row.name == "warm-up"), None)
    how = "each response scored by itself" if record.pointwise else "each judged in both orders"
    pairs = f"{last.values.get('pairs', 0):.0f} held-out pairs, {how}"
    accuracy, low, high = (last.values.get(f"accuracy{end}") for end in ("", "_low", "_high"))
    result = f"{accuracy:.1%}"
    interval = "" if low is None or high is None else f" (95% interval {low:.1%} to {high:.1%})"
    details = []
    if start is None or start is last:
        when = {"base": "of the untrained base", "warm-up": "after the warm-up"}.get(last.name, f"after {last.name}")
        lead = f"Accuracy {when} is {result}{interval} on {pairs}."
    else:
        end = "at the end" if last.name == "final" else f"after {last.name}"
        before = f"{start.values['accuracy']:.1%} after the warm-up"
        lead = f"Accuracy on held-out pairs went from {before} to {result} {end}{interval}."
        gain = contrast([(1, last), (-1, start)])
        chance = "more than chance explains" if gain.clear else "which chance alone could explain"
        resampled = f" ({gain.interval_text} with the same pairs resampled), {chance}" if gain.interval else ""
        details.append(f"Measured on {pairs}. The change is {points(gain.value)} points{resampled}.")
        details += _form(record, start, last)
    return Headline(lead, (*details, *_ceiling(record)), tuple(_caveats(record, last)))


def _form(record: RunRecord, start: EvaluationRow, last: EvaluationRow) -> list[str]:
    """The share of a gain that is one of form, where the judge named no winners after the warm-up."""
    before, after = (row.values.get("unparsed", 0.0) for row in (start, last))
    if before < MOSTLY or after > before / 2:
        return []
    share = unparsed_share(start.values, record.unparsed_value)
    return [f"After the warm-up {share}: part of the change is that the judge learned its form."]


def _ceiling(record: RunRecord) -> list[str]:
    rubrics = {
        "true": "the true rubrics",
        "generic": "the best rubric that is the same for all prompts",
        "hard_rule": "the hard rule alone",
    }
    levels = [f"{record.oracle[kind]:.1%} with {name}" for kind, name in rubrics.items() if kind in record.oracle]
    return [f"A judge that never misreads reaches {', '.join(levels)}."] if "true" in record.oracle else []


def _caveats(record: RunRecord, last: EvaluationRow) -> list[str]:
    """Why the last evaluation, or the training before it, may mean less than it seems to."""
    steps = [(row.phase, row.role, row.values) for row in record.steps if record.parts.get(row.phase)]
    caveats = evaluation_caveats(last.values, record.unparsed_value)
    return [*caveats, *no_gradient_caveats(phases_without_gradient(steps))]
