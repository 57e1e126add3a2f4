"""What a run's numbers say, in words and table columns that both reports share.

A :class:`~rubric_arm_lite.report.read.RunRecord` goes in; sentences come out that claim no more than the intervals
allow.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.evaluation.benchmarks.paper import AVERAGES, COLUMNS, ROWS, SOURCE, WRITING, Column
from rubric_arm_lite.evaluation.benchmarks.results import Number
from rubric_arm_lite.evaluation.caveats import (
    MOSTLY,
    evaluation_caveats,
    no_gradient_caveats,
    phases_without_gradient,
    unparsed_share,
)
from rubric_arm_lite.report.read import Estimate, EvaluationRow, RunRecord, contrast, safe_text

SIDES = ("warm-up", "trained")
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Headline:
    """The result in one sentence, what it must be read with, and why it may mean less than it seems to."""

    lead: str
    details: tuple[str, ...]
    caveats: tuple[str, ...] = ()


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
        return Headline(lead, tuple(_ceiling(record, last)), tuple(_caveats(record, last)))
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
        lead, (measured, *_form(record, start, last), *_ceiling(record, last)), tuple(_caveats(record, last))
    )


def _caveats(record: RunRecord, last: EvaluationRow) -> list[str]:
    """Why the last evaluation, or the training before it, may mean less than it seems to."""
    done = {part.name for part in record.parts if part.done}
    steps = [(row.phase, row.role, row.values) for row in record.steps if row.phase in done]
    return [
        *evaluation_caveats(last.values, _unparsed_value(record)),
        *no_gradient_caveats(phases_without_gradient(steps)),
    ]


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


ABSENT = "–"
PARTIAL = "*"
NUMBERS_HEADER = ("", "accuracy", "95%", "original", "flipped", "mixed", "bias", "single", "items")


@dataclass(frozen=True, slots=True)
class Table:
    """A header, rows of cells, and what is to be known to read them."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    sentences: tuple[str, ...]


def numbers_table(result: Result, most: int | None = None) -> Table:
    """Every number of one benchmark, in percent; at most the first ``most``."""
    return Table(NUMBERS_HEADER, tuple(map(_cells, result.numbers[:most])), tuple(_facts(result)))


def paper_table(results: Sequence[Result]) -> Table | None:
    """Ours above the paper's rows, one column per benchmark of its table 1, in percent.

    None if none of the results has a column there: of one's own files the paper says nothing.
    """
    known = {result.name: result for result in results}
    if all(column.benchmark not in known for column in COLUMNS):
        return None
    votes = max((result.votes for result in results), default=1)
    rows = [("ours", *_ours(known, lambda number: number.single))]
    if votes > 1:
        rows.append((f"ours, voting@{votes}", *_ours(known, lambda number: number.value)))
    rows += [(name, *(f"{value:.1f}" for value in values), f"{AVERAGES[name]:.1f}") for name, values in ROWS.items()]
    header = ("", *(column.title for column in COLUMNS), "average")
    return Table(header, tuple(rows), tuple(_missing(known)))


def beside(result: Result) -> str:
    """What the paper has for a benchmark, in a few words; empty if nothing."""
    if result.name == "writing":
        return "Paper: " + ", ".join(f"{name} {value:.1f}" for name, value in WRITING.items()) + "."
    told = [
        f"{column.number} {alone:.1f}, {voted:.1f} with voting@5"
        for column, alone, voted in zip(COLUMNS, ROWS["Rubric-ARM"], ROWS["Rubric-ARM voting@5"], strict=True)
        if column.benchmark == result.name
    ]
    return f"Paper: {'; '.join(told)}." if told else ""


def _cells(number: Number) -> tuple[str, ...]:
    shares = (number.original, number.swapped, number.mixed, number.position_bias, number.single)
    interval = f"{100 * number.low:.1f}-{100 * number.high:.1f}"
    name = safe_text(number.name) + (PARTIAL if number.note else "")  # names of subsets come from data
    return (name, _percent(number.value), interval, *map(_percent, shares), f"{number.count:,}")


def _facts(result: Result) -> list[str]:
    rates, timing = result.rates, result.timing
    votes = "one judgement per order" if result.votes == 1 else f"majority of {result.votes} judgements per order"
    facts = [
        f"{result.rule[:1].upper()}{result.rule[1:]}; {votes} at temperature {result.temperature:g}. "
        f"Counted for an unparsed verdict: {result.unparsed}.",
        f"Both orders name the same response in {_percent(rates['consistency'])} % of {rates['duels']:,.0f} pairs; "
        f"{_percent(rates['unparsed'])} % of the judgements name none, "
        f"{_percent(rates['without_rubric'])} % of the items have no usable rubric. "
        f"{rates['rubrics']:,.0f} rubrics, used again {rates['rubrics_reused']:,.0f} times; "
        f"{timing['tokens_per_pair']:,.1f} tokens and {timing['seconds_per_pair']:.3g} s a pair.",
    ]
    notes = [f"{number.name} {number.note}" for number in result.numbers if number.note]
    if result.gaps or notes:
        facts.append(f"Not the whole benchmark: {'; '.join([*result.gaps, *notes])}.")
    if result.rates["rows_skipped"]:
        facts.append(f"{result.rates['rows_skipped']:,.0f} rows ask nothing: {result.skips}.")
    if result.lacks:
        facts.append(f"Not computed: {result.lacks}.")
    return [*facts, *filter(None, [beside(result)])]


def _ours(known: Mapping[str, Result], value: Callable[[Number], float]) -> list[str]:
    """Our cells under the paper's columns, and their mean if they are all there and whole."""
    cells, values = [], []
    for column in COLUMNS:
        number = _number_of(known, column)
        if number is None:
            cells.append(ABSENT)
            continue
        whole = _is_whole(known[column.benchmark], number)
        cells.append(f"{_percent(value(number))}{'' if whole else PARTIAL}")
        values += [value(number)] if whole else []
    return [*cells, _percent(sum(values) / len(values)) if len(values) == len(COLUMNS) else ABSENT]


def _missing(known: Mapping[str, Result]) -> list[str]:
    """Which columns stand in the way of an average."""
    numbers = {column: _number_of(known, column) for column in COLUMNS}
    absent = [column.title for column, number in numbers.items() if number is None]
    partial = [
        f"{column.title} ({'; '.join(filter(None, [*known[column.benchmark].gaps, number.note]))})"
        for column, number in numbers.items()
        if number is not None and not _is_whole(known[column.benchmark], number)
    ]
    told = [f"The paper's figures: {SOURCE}."]
    if absent:
        told.append(f"Not evaluated: {', '.join(absent)}.")
    if partial:
        told.append(f"With an asterisk, in part: {', '.join(partial)}.")
    if absent or partial:
        told.append("So there is no average of ours: it is the plain mean of ten whole columns.")
    return told


def _number_of(known: Mapping[str, Result], column: Column) -> Number | None:
    return known[column.benchmark].number(column.number) if column.benchmark in known else None


def _is_whole(result: Result, number: Number) -> bool:
    return result.whole and not number.note


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


Mark = Literal["same", "ins", "del"]
Outcome = Literal["right", "wrong", "none"]
MarkedLine = tuple[tuple[Mark, str], ...]

MARKS: dict[Outcome, str] = {"right": "✓", "wrong": "✗", "none": "–"}
_LONGEST_DIFF = 400
"""Lines, or words of a line, above which a change is shown as a whole and not looked into."""
_ALIKE = 0.5
"""How alike two lines must be for their words to be compared."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How one evaluation judged the prompt's pair, in both orders; a pointwise judge has one outcome for both."""

    phase: str
    original: Outcome
    flipped: Outcome


@dataclass(frozen=True, slots=True)
class Version:
    """What one phase wrote: the rubric with its changes marked, and the judgement with the preferred one first."""

    phases: tuple[str, ...]
    rubric: str
    lines: tuple[MarkedLine, ...]
    status: str
    changed: bool
    verdicts: Verdicts
    winner: str | None
    judgement: str
    recall: float | None


@dataclass(frozen=True, slots=True)
class Showcase:
    """One prompt over the whole schedule. Response A is the preferred one."""

    prompt: str
    preferred: str
    rejected: str
    verdicts: tuple[Verdicts, ...]
    versions: tuple[Version, ...]


def showcases(evaluations: Sequence[EvaluationRow]) -> list[Showcase]:
    """The prompts that the evaluations along the schedule kept, in the order of the last one."""
    found: dict[str, list[tuple[EvaluationRow, Mapping[str, Any]]]] = {}
    for evaluation in evaluations:
        for item in evaluation.showcase:
            found.setdefault(str(item.get("pair_id")), []).append((evaluation, item))
    return [_showcase(pair_id, seen) for pair_id, seen in found.items()]


def _showcase(pair_id: str, seen: Sequence[tuple[EvaluationRow, Mapping[str, Any]]]) -> Showcase:
    last = seen[-1][1]
    verdicts = tuple(_verdicts(evaluation, item, pair_id) for evaluation, item in seen)
    versions: list[Version] = []
    for (evaluation, item), judged in zip(seen, verdicts, strict=True):
        if not _shown(evaluation.name, [e.name for e, _ in seen]):
            continue
        before = versions[-1] if versions else None
        version = _version(item, judged, before)
        if before is not None and _same(before, version):
            versions[-1] = replace(before, phases=(*before.phases, evaluation.name), verdicts=judged)
        else:
            versions.append(version)
    return Showcase(
        str(last.get("prompt", "")),
        str(last.get("response_a", "")),
        str(last.get("response_b", "")),
        verdicts,
        tuple(versions),
    )


def _same(one: Version, other: Version) -> bool:
    def told(version: Version) -> tuple[str, str, Outcome, Outcome]:
        return version.rubric, version.judgement, version.verdicts.original, version.verdicts.flipped

    return told(one) == told(other)


def _shown(name: str, names: Sequence[str]) -> bool:
    """Whether a phase gets a column: the warm-up, what trained the generator, and the end."""
    if name in ("warm-up", names[-1]):
        return True
    if any("rubric" in other for other in names):
        return "rubric" in name
    return name != "base"


def _verdicts(evaluation: EvaluationRow, item: Mapping[str, Any], pair_id: str) -> Verdicts:
    row = next((row for row in evaluation.rows if str(row.get("pair_id")) == pair_id), None)
    if row is None:
        return Verdicts(evaluation.name, _outcome(item.get("winner"), "A"), "none")
    if "accuracy" in row:
        above = _outcome(item.get("winner"), "A")
        return Verdicts(evaluation.name, above, above)
    return Verdicts(
        evaluation.name, _outcome(row.get("original_winner"), "A"), _outcome(row.get("flipped_winner"), "B")
    )


def _outcome(winner: Any, preferred: str) -> Outcome:
    return "none" if winner not in ("A", "B") else "right" if winner == preferred else "wrong"


def _version(item: Mapping[str, Any], judged: Verdicts, before: Version | None) -> Version:
    rubric, recall, winner = str(item.get("rubric", "")), item.get("recall"), item.get("winner")
    return Version(
        phases=(judged.phase,),
        rubric=rubric,
        lines=tuple(marked_lines(None if before is None else before.rubric, rubric)),
        status=str(item.get("rubric_status", "")),
        changed=before is not None and before.rubric != rubric,
        verdicts=judged,
        winner=winner if winner in ("A", "B") else None,
        judgement=str(item.get("judgement", "")),
        recall=float(recall) if isinstance(recall, (int, float)) else None,
    )


# --- what changed ---------------------------------------------------------------------------------------------------


def _whole(mark: Mark, line: str) -> MarkedLine:
    return ((mark, line),)


def marked_lines(before: str | None, after: str) -> list[MarkedLine]:
    """The lines of ``after`` with what ``before`` lacked marked, and what it had instead; nothing without a before.

    Joining the parts that are not ``del`` gives ``after`` back, line by line (a line that is all ``del`` is gone).
    """
    new = after.split("\n")
    if before is None:
        return [_whole("same", line) for line in new]
    old = before.split("\n")
    if max(len(old), len(new)) > _LONGEST_DIFF:
        return [_whole("del", line) for line in old] + [_whole("ins", line) for line in new]
    marked: list[MarkedLine] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            marked += [_whole("same", line) for line in new[c:d]]
        else:
            paired = min(b - a, d - c)
            for x, y in zip(old[a : a + paired], new[c : c + paired], strict=True):
                marked += _marked_words(x, y)
            marked += [_whole("del", line) for line in old[a + paired : b]]
            marked += [_whole("ins", line) for line in new[c + paired : d]]
    return marked


def _marked_words(before: str, after: str) -> list[MarkedLine]:
    """One line with its changed words marked, or the old and the new line if they have little in common."""
    old, new = (re.findall(r"\s+|[^\s]+", line) for line in (before, after))
    whole = [_whole("del", before), _whole("ins", after)]
    if max(len(old), len(new)) > _LONGEST_DIFF:
        return whole
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return whole
    parts: list[tuple[Mark, str]] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            parts.append(("same", "".join(new[c:d])))
        else:
            parts += [("del", "".join(old[a:b]))] if b > a else []
            parts += [("ins", "".join(new[c:d]))] if d > c else []
    return [tuple(parts)]
