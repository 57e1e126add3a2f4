"""Warm-up trajectories from any source: our own form, or data with rubrics and judges' texts such as OpenRubric-v2.

A published trajectory is kept only if its rubric means one in our canonical form, its judgement is strictly well-formed
for that rubric, and the verdict is the one its label names; the rest is left out and counted by reason. So the
warm-up teaches no form that the format reward would punish. Rows of our own form are taken as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

from rubric_arm_lite.data.check import OWN_POINTWISE, OWN_TRAJECTORIES, BadRows, Counts, sorted_reasons
from rubric_arm_lite.data.decontaminate import Overlap
from rubric_arm_lite.data.formats import FORMS, PairForm, winner_of
from rubric_arm_lite.data.load import HELD_OUT, NOT_SAMPLED, OTHER_SUBSET, OVERLAPS, Sample, leave_out, rows_and_form
from rubric_arm_lite.data.pairs import WarmupRow, trajectory_of_row
from rubric_arm_lite.data.rows import Row, RowError
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import parse_judgement, parse_rubric, prompt_hash
from rubric_arm_lite.prompts.parsing import split_lines
from rubric_arm_lite.recipe import WarmupSettings
from rubric_arm_lite.types import Judgement, ParseStatus, Rubric

_ITEM = re.compile(r"(?:[-*•][ \t]+)?[(*_]{0,3}([0-9]{1,2})[.):][)*_]{0,2}[ \t]*(\S.*)")
_TAGGED = re.compile(r"(.*?\S)[ \t]*(?P<bold>\*\*|__)?\[(?P<kind>Hard Rule|Principle)\](?(bold)(?P=bold))\.?")
_ANY_TAG = re.compile(r"\[\W*(?:hard\W*rule|principle)s?\W*\]", re.IGNORECASE)


def canonical_rubric(text: str) -> Rubric:
    """The rubric that a teacher's text means, with the canonical rendering as its text.

    Beyond what `parse_rubric` accepts, this takes remarks before the first and after
    the last item, numbers written ``1)``, ``(1)``, ``1:`` or ``**1.**`` that count up by one from any start, items
    broken over several lines, and tags in bold. Everything else is malformed. Never raises.
    """
    rubric = parse_rubric(text)
    if not rubric.usable:
        rubric = parse_rubric(_rewritten(text) or text)
    return Rubric(rubric.render(), rubric.criteria, rubric.status) if rubric.usable else Rubric(text, (), rubric.status)


def checked_judgement(text: str, rubric: Rubric) -> Judgement | None:
    """The judgement if it is strictly well-formed for this rubric, without the blanks around it; else None."""
    judgement = parse_judgement(text.strip(), rubric)
    return judgement if judgement.status is ParseStatus.OK else None


def _rewritten(text: str) -> str | None:
    """The items numbered from 1, or None if the text is no list of tagged items with remarks around it."""
    items: list[str] = []
    numbers: list[int] = []
    is_open = has_ended = False  # the last item waits for its tag; a remark has come behind the list
    for line in filter(None, split_lines(text)):
        begun = _ITEM.fullmatch(line)
        if begun is not None:
            if is_open or has_ended:
                return None
            numbers.append(int(begun[1]))
            items.append(begun[2])
        elif is_open:
            items[-1] += f" {line}"
        elif _ANY_TAG.search(line):
            return None  # a criterion without a number: without it this would be another rubric
        else:
            has_ended = bool(items)
            continue
        is_open = _TAGGED.fullmatch(items[-1]) is None
    tagged = [match for item in items if (match := _TAGGED.fullmatch(item))]
    if is_open or not items or numbers != list(range(numbers[0], numbers[0] + len(items))):
        return None
    return "\n".join(f"{number}. {match[1]} [{match['kind']}]" for number, match in enumerate(tagged, start=1))


def read_trajectories(
    settings: WarmupSettings,
    seed: int,
    overlap: Overlap | None = None,
    held_out: Collection[str] = (),
    pointwise: bool = False,
    bad: BadRows | None = None,
) -> tuple[list[WarmupRow], Counts]:
    """The trajectories of ``settings.source``, in the source's order, and what was left out.

    Args:
        overlap: prompts of benchmarks that are not to be trained on.
        held_out: ids of prompts that are not to be trained on.
        pointwise: rows of our own form have one ``response``, for a judge that checks one at a time.
        bad: gathers rows that cannot be used, which are then left out; without it the first is an error.

    Raises:
        DataError: for a source or row that cannot be used, or if no trajectory is left.
    """
    form, rows = rows_and_form(settings, bad)
    if form is not None and pointwise:
        raise DataError(
            f"{settings.source} has the form `{form.name}`, whose judgements compare two responses, so it cannot warm "
            "up a pointwise judge. Use our own form with one response a row, or reward.judge: pairwise."
        )
    if form is not None and not form.judgement:
        able = ", ".join(name for name, other in FORMS.items() if other.judgement)
        raise DataError(
            f"{settings.source} has the form `{form.name}`, which holds no judgements, so it cannot warm up a judge. "
            f"Use our own form of trajectories, or one of: {able}."
        )
    if bad is not None:
        bad.expect(form.columns if form is not None else OWN_POINTWISE if pointwise else OWN_TRAJECTORIES)
    reasons, read = Counter[str](), 0
    sample = Sample[WarmupRow](settings.sample, seed)
    for row in rows:
        read += 1
        try:
            if settings.subset and _subset(row, form) not in settings.subset:
                reasons[OTHER_SUBSET] += 1
                continue
            found = trajectory_of_row(row, pointwise) if form is None else _checked(row, form)
        except RowError as error:
            leave_out(error, form, reasons, bad)
            continue
        prompt_id = prompt_hash(found.prompt)
        if overlap is not None and overlap.found_in(found.prompt):
            reasons[OVERLAPS] += 1
        elif prompt_id in held_out:
            reasons[HELD_OUT] += 1
        else:
            sample.add(prompt_id, found)
    kept = sample.items()
    if sample.dropped:
        reasons[NOT_SAMPLED] = sample.dropped
    if bad is not None:
        read, reasons = read + bad.no_rows, reasons + bad.reasons
    name = "trajectories" if form is None else form.name
    counts = Counts(str(settings.source), name, read, len(kept), sorted_reasons(reasons))
    if not kept:
        raise DataError(f"{counts.line('trajectories')} Loosen what is left out, or give another source.")
    return kept, counts


def _subset(row: Row, form: PairForm | None) -> str:
    return row.label(form.subset) if form is not None else row.label("subset") or row.label("source")


def _checked(row: Row, form: PairForm) -> WarmupRow:
    """The trajectory of a row of a known form.

    Raises:
        UnusableRowError: if it does not pass our parsers, or says something else than its label.
    """
    column = next((name for name in form.judgement if name in row.columns), None)
    expected = (*form.columns, "rubric", column or form.judgement[0])
    row.require(*expected)
    assert column is not None and form.prompt is not None
    prompt = row.prompt(form.prompt)
    response_a, response_b = (row.text(name) for name in form.responses)
    rubric = canonical_rubric(row.label("rubric"))
    if not rubric.usable:
        raise row.unusable("column `rubric` is no list of tagged criteria. Leave it out.", "with a malformed rubric")
    judgement = checked_judgement(row.label(column), rubric)
    if judgement is None:
        raise row.unusable(
            f"column `{column}` is no judgement in our form for its rubric. Leave it out.", "with a malformed judgement"
        )
    side = winner_of(row, form.label_column)
    if side is None:
        raise row.unusable(f"column `{form.label_column}` is a tie. Leave the row out.", "tie")
    if judgement.winner != side:
        raise row.unusable(
            f"column `{column}` names another winner than `{form.label_column}`. Leave it out.",
            "with a judgement against its label",
        )
    return WarmupRow(prompt, rubric.text, response_a, response_b, judgement.text)
