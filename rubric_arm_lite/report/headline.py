"""The result of a run in words: the headline with its caveats, and what each role brought to the gain.

Evaluations go in; sentences come out that claim no more than the paired intervals allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rubric_arm_lite.evaluation import bootstrap_interval
from rubric_arm_lite.evaluation.metrics import MOSTLY, evaluation_caveats, unparsed_share
from rubric_arm_lite.report.read import EvaluationRow, RunRecord
from rubric_arm_lite.report.tables import ACCURACY, INTERVAL, Table

SIDES = ("warm-up", "trained")
_RESAMPLES = 2000
_ORACLES = {
    "true": "the true rubrics",
    "generic": "the best rubric that is the same for all prompts",
    "hard_rule": "the hard rule alone",
}
"""Kinds of rubric whose ceiling is named."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A difference of accuracies with its 95% interval; no interval without verdicts per pair."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def clear(self) -> bool:
        """Whether there is an interval and it excludes 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def interval_text(self) -> str:
        """The interval in words; empty without one."""
        return "95% interval {} to {}".format(*map(points, self.interval)) if self.interval else ""

    def __str__(self) -> str:
        return points(self.value) + (f" ({self.interval_text})" if self.interval else "")


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def contrast(terms: Sequence[tuple[float, EvaluationRow]]) -> Estimate:
    """The weighted sum of accuracies, with a bootstrap interval over the pairs if all evaluations judged the same.

    For example ``[(1, final), (-1, warm_up)]`` is the gain.
    """
    scores = [(weight, row.scores()) for weight, row in terms]
    shared = list(scores[0][1])
    if shared and all(list(by_pair) == shared for _, by_pair in scores):
        per_pair = [sum(weight * by_pair[pair] for weight, by_pair in scores) for pair in shared]
        return Estimate(sum(per_pair) / len(per_pair), bootstrap_interval(per_pair, _RESAMPLES, 0))
    return Estimate(sum(weight * row.values.get("accuracy", 0.0) for weight, row in terms))


def by_role(record: RunRecord) -> str:
    """How much of the change came in the phases of each role, in a sentence."""
    sums: dict[str, float] = {}
    for before, after in itertools.pairwise(record.phases):
        roles, _, number = after.name.rpartition(" ")
        if number.isdigit():
            sums[roles] = sums.get(roles, 0.0) + after.values["accuracy"] - before.values["accuracy"]
    parts = " and by ".join(f"{points(total)} points in the {roles} phases" for roles, total in sums.items())
    return f"Added up over the schedule, accuracy changed by {parts}." if parts else ""


@dataclass(frozen=True, slots=True)
class CrossPlay:
    """The four combinations: ``cells[judge][rubrics]`` has accuracy and interval, both in the order of SIDES."""

    cells: tuple[tuple[tuple[str, str], ...], ...]
    sentences: tuple[str, ...]

    @property
    def table(self) -> Table:
        """The combinations as a table."""
        rows = (
            (f"{side} judge", *(f"{accuracy} ({interval})" for accuracy, interval in cells))
            for side, cells in zip(SIDES, self.cells, strict=True)
        )
        return Table(("accuracy (95% interval)", *(f"{side} rubrics" for side in SIDES)), tuple(rows))


def cross_play_name(judge: str, rubrics: str) -> str:
    """The name under which a combination is logged."""
    return f"{judge} judge, {rubrics} rubrics"


def cross_play(record: RunRecord) -> CrossPlay | None:
    """The 2 × 2 table with its reading, or None if it is not complete."""
    names = [cross_play_name(judge, rubrics) for judge in SIDES for rubrics in SIDES]
    evaluations = [record.cross_play[name] for name in names if name in record.cross_play]
    if len(evaluations) < len(names) or not all("accuracy" in row.values for row in evaluations):
        return None
    old, rubrics, judge, both = evaluations
    interaction = contrast([(1, both), (-1, judge), (-1, rubrics), (1, old)])
    if not interaction.clear:
        meaning = "the interval includes 0, so the two parts may simply add up"
    elif interaction.value > 0:
        meaning = "each role is worth more when the other one is trained as well"
    else:
        meaning = "the two overlap: part of what one brings the other brings too"
    judge_gain, rubrics_gain, gain = (contrast([(1, row), (-1, old)]) for row in (judge, rubrics, both))
    sentences = (
        f"Against the warm-up ({old.values['accuracy']:.1%}), in points: the trained judge alone {judge_gain}, the "
        f"trained rubrics alone {rubrics_gain}, both together {gain}.",
        f"Beyond the sum of the two: {interaction}; {meaning}.",
    )
    cells = [(ACCURACY.text(row.values), INTERVAL.text(row.values)) for row in evaluations]
    return CrossPlay((tuple(cells[:2]), tuple(cells[2:])), sentences)


@dataclass(frozen=True, slots=True)
class Headline:
    """The result in one sentence, details, and reasons why it may mean less than it seems to."""

    lead: str
    details: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


def headline(record: RunRecord) -> Headline:
    """From the warm-up to the last evaluation, with intervals and the oracle's ceiling."""
    phases, unparsed = record.phases, record.recipe.evaluation.unparsed_value if record.recipe else None
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
        unread, still = (row.values.get("unparsed", 0.0) for row in (start, last))
        if unread >= MOSTLY and still <= unread / 2:
            share = unparsed_share(start.values, unparsed)
            details.append(f"After the warm-up {share}: part of the change is that the judge learned its form.")
    if "true" in record.oracle:
        levels = [f"{record.oracle[kind]:.1%} with {name}" for kind, name in _ORACLES.items() if kind in record.oracle]
        details.append(f"A judge that never misreads reaches {', '.join(levels)}.")
    caveats = [*evaluation_caveats(last.values, unparsed), *record.alarms, *record.returns]
    return Headline(lead, tuple(details), tuple(caveats))
