"""What a run's numbers say, in words and table columns that both reports share.

A :class:`~rubric_arm_lite.report_data.RunRecord` goes in; sentences come out that claim no more than the intervals
allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rubric_arm_lite.doubts import MOSTLY, evaluation_doubts, still_doubts, still_phases, unparsed_share
from rubric_arm_lite.report_data import Estimate, EvaluationRow, RunRecord, contrast

SIDES = ("warm-up", "trained")
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Headline:
    """The result in one sentence, what it must be read with, and why it may mean less than it seems to."""

    lead: str
    details: tuple[str, ...]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One quantity before and after, for the row of figures under the headline."""

    label: str
    before: str
    after: str
    note: str


@dataclass(frozen=True, slots=True)
class CrossPlay:
    """The four combinations: ``cells[judge][rubrics]``, both in the order of :data:`SIDES`."""

    cells: tuple[tuple[EvaluationRow, EvaluationRow], tuple[EvaluationRow, EvaluationRow]]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column of the evaluation table."""

    title: str
    of: Callable[[EvaluationRow], str]
    brief: bool = False
    """Whether the terminal's narrower table has it too."""


def percent(value: float) -> str:
    """A share with its sign, for a sentence."""
    return f"{100 * value:.1f}%"


def points(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


# --- headline -------------------------------------------------------------------------------------------------------


def headline(record: RunRecord) -> Headline:
    """From the warm-up to the last evaluation, with intervals and the oracle's ceiling."""
    phases = [row for row in record.phases if "accuracy" in row.values]
    if not phases:
        return Headline("Nothing has been evaluated yet.", ())
    last = phases[-1]
    start = next((row for row in phases if row.name == "warm-up"), None)
    how = "each response scored by itself" if record.pointwise else "each judged in both orders"
    pairs = f"{last.values.get('pairs', 0):.0f} held-out pairs, {how}"
    if start is None or start is last:
        where = {"base": "of the untrained base", "warm-up": "after the warm-up"}.get(last.name, f"after {last.name}")
        lead = f"Accuracy {where} is {percent(last.values['accuracy'])}{_interval(last)} on {pairs}."
        return Headline(lead, tuple(_ceiling(record, last)), tuple(_doubts(record, last)))
    end = "at the end" if last.name == "final" else f"after {last.name}"
    lead = (
        f"Accuracy on held-out pairs went from {percent(start.values['accuracy'])} after the warm-up to "
        f"{percent(last.values['accuracy'])} {end}{_interval(last)}."
    )
    gain = contrast([(1, last), (-1, start)])
    measured = f"Measured on {pairs}. The change is {points(gain.value)} points"
    if gain.interval is None:
        measured += "."
    else:
        known = "more than chance explains" if gain.clear else "which chance alone could explain"
        measured += f" ({_range(gain)} with the same pairs resampled), {known}."
    return Headline(
        lead, (measured, *_form(record, start, last), *_ceiling(record, last)), tuple(_doubts(record, last))
    )


def _doubts(record: RunRecord, last: EvaluationRow) -> list[str]:
    """Why the last evaluation, or the training before it, may mean less than it seems to."""
    done = {part.name for part in record.parts if part.done}
    steps = [(row.phase, row.role, row.values) for row in record.steps if row.phase in done]
    return [*evaluation_doubts(last.values, _unparsed_value(record)), *still_doubts(still_phases(steps))]


def _form(record: RunRecord, start: EvaluationRow, last: EvaluationRow) -> list[str]:
    """That part of a gain is one of form, where the judge could not yet name winners after the warm-up."""
    before, after = (row.values.get("unparsed", 0.0) for row in (start, last))
    if before < MOSTLY or after > before / 2:
        return []
    share = unparsed_share(start.values, _unparsed_value(record))
    return [f"After the warm-up {share}: part of the change is that the judge learned its form."]


def _unparsed_value(record: RunRecord) -> float | None:
    return None if record.recipe is None else record.recipe.evaluation.unparsed_value


def _interval(row: EvaluationRow) -> str:
    low, high = row.values.get("accuracy_low"), row.values.get("accuracy_high")
    return "" if low is None or high is None else f" (95% interval {percent(low)} to {percent(high)})"


def _ceiling(record: RunRecord, last: EvaluationRow) -> list[str]:
    oracle = record.oracle
    if "true" not in oracle:
        return []
    text = f"A judge that never misreads reaches {percent(oracle['true'])} with the true rubrics"
    floors = [
        f"{percent(oracle[name])} with {words}"
        for name, words in (
            ("generic", "the best rubric that is the same for all prompts"),
            ("hard_rule", "the hard rule alone"),
        )
        if name in oracle
    ]
    return [f"{text}{''.join(', ' + floor for floor in floors)}."]


def changes(record: RunRecord) -> list[Change]:
    """The figures under the headline; empty until there is something after the warm-up."""
    start, phases = record.evaluations.get("warm-up"), record.phases
    if start is None or phases[-1] is start:
        return []
    last = phases[-1]
    wanted = (
        ("accuracy", "Accuracy", "chosen scored higher" if record.pointwise else "mean of both orders"),
        ("position_bias", "Position bias", "points between the orders"),
        ("consistency", "Orders agree", "same response named twice"),
        ("tie_rate", "Ties", "pairs with equal scores"),
        ("margin", "Margin", "chosen above rejected, of 2"),
        ("format_sampled", "Well-formed", "sampled judgements"),
        ("principle_recall", "Principles named", "of each prompt's true ones"),
    )
    found = [
        Change(label, _plain(key, start.values[key]), _plain(key, last.values[key]), note)
        for key, label, note in wanted
        if key in start.values and key in last.values
    ]
    voted = "mean of sampled scores" if record.pointwise else "majority of samples"
    votes = [Change(_capital(key), "", percent(value), voted) for key, value in _voting(last)]
    return found + votes


def _plain(key: str, value: float) -> str:
    if key == "margin":
        return f"{value:+.2f}"
    return f"{100 * value:.1f}" if key == "position_bias" else percent(value)


def by_role(record: RunRecord) -> str:
    """How much of the change came in the phases of each role."""
    phases = [row for row in record.phases if "accuracy" in row.values]
    sums: dict[str, float] = {}
    for before, after in itertools.pairwise(phases):
        roles, _, number = after.name.rpartition(" ")
        if number.isdigit():
            sums[roles] = sums.get(roles, 0.0) + after.values["accuracy"] - before.values["accuracy"]
    if not sums:
        return ""
    told = " and by ".join(f"{points(total)} points in the {roles} phases" for roles, total in sums.items())
    return f"Added up over the schedule, accuracy changed by {told}."


# --- cross-play -----------------------------------------------------------------------------------------------------


def cross_play_name(judge: str, rubrics: str) -> str:
    """The name under which a combination is logged."""
    return f"{judge} judge, {rubrics} rubrics"


def cross_play(record: RunRecord) -> CrossPlay | None:
    """The 2 × 2 table with what it says, or None if it is not complete."""
    names = [[cross_play_name(judge, rubrics) for rubrics in SIDES] for judge in SIDES]
    found = record.cross_play
    if any("accuracy" not in found[name].values if name in found else True for row in names for name in row):
        return None
    (old, rubrics), (judge, both) = ((found[a], found[b]) for a, b in names)
    alone = {"the trained judge alone": judge, "the trained rubrics alone": rubrics, "both together": both}
    told = [f"{who} {_with_range(contrast([(1, row), (-1, old)]))}" for who, row in alone.items()]
    interaction = contrast([(1, both), (-1, judge), (-1, rubrics), (1, old)])
    if not interaction.clear:
        meaning = "the interval includes 0, so the two parts may simply add up"
    elif interaction.value > 0:
        meaning = "each role is worth more with the other one trained as well"
    else:
        meaning = "the two overlap: part of what one brings the other brings too"
    sentences = (
        f"Against the warm-up ({percent(old.values['accuracy'])}), in points: {told[0]}, {told[1]}, {told[2]}.",
        f"Beyond the sum of the two: {_with_range(interaction)}; {meaning}.",
    )
    return CrossPlay(((old, rubrics), (judge, both)), sentences)


def _with_range(found: Estimate) -> str:
    return points(found.value) if found.interval is None else f"{points(found.value)} ({_range(found)})"


def _range(found: Estimate) -> str:
    low, high = found.interval or (0.0, 0.0)
    return f"95% interval {points(low)} to {points(high)}"


# --- the evaluation table -------------------------------------------------------------------------------------------


def columns(evaluations: Sequence[EvaluationRow]) -> list[TableColumn]:
    """The columns that at least one evaluation has a value for; shares are in percent."""
    found = [
        TableColumn("accuracy", accuracy_text, True),
        TableColumn("95% interval", interval_text, True),
        TableColumn("original", _share("accuracy_original"), True),
        TableColumn("flipped", _share("accuracy_flipped"), True),
        TableColumn("mixed", _share("accuracy_mixed")),
        TableColumn("bias", _share("position_bias"), True),
        TableColumn("agree", _share("consistency"), True),
        TableColumn("ties", _share("tie_rate"), True),
        TableColumn("margin", lambda row: _number(row, "margin", 2), True),
        TableColumn("by words", _share("accuracy_words"), True),
        TableColumn("ties by words", _share("tie_rate_words"), True),
        TableColumn("no verdict", _share("unparsed")),
        TableColumn("for A", _share("says_a")),
        TableColumn("format", _share("format")),
        TableColumn("sampled", _share("format_sampled"), True),
        TableColumn("named", _share("principle_recall"), True),
        TableColumn("tokens a pair", lambda row: _number(row, "tokens_per_pair", 0)),
    ]
    votes = dict.fromkeys(key for row in evaluations for key, _ in _voting(row))
    found += [TableColumn(key, _share(key)) for key in votes]
    return [column for column in found if any(column.of(row) != NOTHING for row in evaluations)]


def accuracy_text(row: EvaluationRow) -> str:
    """The accuracy in percent, without its sign."""
    return _share("accuracy")(row)


def interval_text(row: EvaluationRow) -> str:
    """The accuracy's 95 % interval in percent."""
    low, high = _share("accuracy_low")(row), _share("accuracy_high")(row)
    return NOTHING if NOTHING in (low, high) else f"{low}–{high}"


def _share(key: str) -> Callable[[EvaluationRow], str]:
    return lambda row: f"{100 * row.values[key]:.1f}" if key in row.values else NOTHING


def _number(row: EvaluationRow, key: str, digits: int) -> str:
    return f"{row.values[key]:.{digits}f}" if key in row.values else NOTHING


def _voting(row: EvaluationRow) -> list[tuple[str, float]]:
    return [(key, value) for key, value in row.values.items() if key.startswith("voting@")]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
