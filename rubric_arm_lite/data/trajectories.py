"""Warm-up trajectories from any source: our own format, or data with rubrics and judgements such as OpenRubric-v2.

A published trajectory is kept only if its rubric means one in our canonical form, its judgement is strictly well-formed
for that rubric, and the verdict is the one its label names; others are skipped and counted by reason. The warm-up thus
teaches no text that the format reward would punish. Rows of our own format are taken as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from rubric_arm_lite.data.counts import BadRows, Counts
from rubric_arm_lite.data.decontaminate import Decontaminator
from rubric_arm_lite.data.formats import Format
from rubric_arm_lite.data.pairs import WarmupRow, trajectory_columns, trajectory_of_row
from rubric_arm_lite.data.published import FORMATS
from rubric_arm_lite.data.reader import SourceReader
from rubric_arm_lite.data.rows import Row
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import parse_judgement, parse_rubric
from rubric_arm_lite.prompts.parsing import split_lines
from rubric_arm_lite.recipe import WarmupSettings
from rubric_arm_lite.types import Judgement, ParseStatus, Prompt, Rubric

_ITEM = re.compile(r"(?:[-*•][ \t]+)?[(*_]{0,3}([0-9]{1,2})[.):][)*_]{0,2}[ \t]*(\S.*)")
_TAGGED = re.compile(r"(.*?\S)[ \t]*(?P<bold>\*\*|__)?\[(?P<kind>Hard Rule|Principle)\](?(bold)(?P=bold))\.?")
_TAG_END = re.compile(r"(?P<bold>\*\*|__)?\[(?:Hard Rule|Principle)\](?(bold)(?P=bold))\.?$")
_LONGEST_TAG = 32
_ANY_TAG = re.compile(r"\[[^\w\[\]]*(?:hard\W*rule|principle)s?[^\w\[\]]*\]", re.IGNORECASE)


def read_trajectories(
    settings: WarmupSettings,
    seed: int,
    decontaminator: Decontaminator | None = None,
    held_out: Collection[str] = (),
    pointwise: bool | None = False,
    bad: BadRows | None = None,
) -> tuple[list[WarmupRow], Counts]:
    """The trajectories of ``settings.source``, in the source's order, and the counts of its rows.

    Args:
        pointwise: rows of our own format have one ``response``, for a pointwise judge; None: as the rows are. The other
            arguments are those of :class:`~rubric_arm_lite.data.reader.SourceReader`.

    Raises:
        DataError: for a source or row that cannot be used, or if no trajectory is selected.
    """
    reader: SourceReader[WarmupRow] = SourceReader(settings, seed, decontaminator, held_out, bad)
    format = reader.format
    if format.published and pointwise:
        raise DataError(
            f"{settings.source} has the format `{format.name}`, whose judgements compare two responses, so it cannot "
            "warm up a pointwise judge. Use our own format with one response per row, or reward.judge: pairwise."
        )
    if format.published and not format.judgement:
        names = ", ".join(name for name, other in FORMATS.items() if other.judgement)
        raise DataError(
            f"{settings.source} has the format `{format.name}`, which holds no judgements, so it cannot warm up a "
            f"judge. Use our own format of trajectories, or one of: {names}."
        )

    def read(row: Row) -> tuple[Prompt, WarmupRow]:
        if settings.subset:
            own = not format.published
            reader.check_subset(row.optional_text(format.subset) or (row.optional_text("source") if own else ""))
        item = _checked_trajectory(row, format) if format.published else trajectory_of_row(row, pointwise)
        return item.prompt, item

    columns = format.columns if format.published else trajectory_columns(reader.first_row, pointwise)
    name = format.name if format.published or format.plugin else "trajectories"
    return reader.read(read, columns, name, "trajectories")


def canonical_rubric(text: str) -> Rubric:
    """The rubric that a teacher's text means, with its canonical rendering as text.

    Beyond what `parse_rubric` accepts, this accepts remarks before the first and after the last item, numbers written
    ``1)``, ``(1)``, ``1:`` or ``**1.**`` that count up by one from any start, items broken over several lines, and tags
    in bold. Everything else is malformed. Never raises.
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
    items: list[list[str]] = []
    numbers: list[int] = []
    is_open = has_ended = False  # the last item waits for its tag; a remark has come behind the list
    for line in filter(None, split_lines(text)):
        begun = _ITEM.fullmatch(line)
        if begun is not None:
            if is_open or has_ended:
                return None
            numbers.append(int(begun[1]))
            items.append([begun[2]])
        elif is_open:
            items[-1].append(line)
        elif _ANY_TAG.search(line):
            return None  # a criterion without a number: without it this would be another rubric
        else:
            has_ended = bool(items)
            continue
        # Only the end, or an item of many lines would be read again for each of them; a tag has at most two.
        is_open = _TAG_END.search(" ".join(items[-1][-2:])[-_LONGEST_TAG:]) is None
    tagged = [match for item in items if (match := _TAGGED.fullmatch(" ".join(item)))]
    if is_open or not items or len(tagged) != len(items) or numbers != list(range(numbers[0], numbers[0] + len(items))):
        return None
    return "\n".join(f"{number}. {match[1]} [{match['kind']}]" for number, match in enumerate(tagged, start=1))


def _checked_trajectory(row: Row, format: Format) -> WarmupRow:
    """The trajectory of a row of a published format.

    Raises:
        RowError: if the row does not have the format, or (skippable) its texts do not pass our parsers or contradict
            its label.
    """
    column = next((name for name in format.judgement if name in row.columns), format.judgement[0])
    row.require(*format.columns, "rubric", column)
    assert isinstance(format.prompt, str)
    prompt = row.prompt(format.prompt)
    response_a, response_b = (row.text(name) for name in format.responses)
    rubric = canonical_rubric(row.optional_text("rubric"))
    judgement = checked_judgement(row.optional_text(column), rubric) if rubric.usable else None
    side = None if judgement is None else format.chosen_side(row)
    if not rubric.usable:
        problem, reason = "column `rubric` is no list of tagged criteria", "with a malformed rubric"
    elif judgement is None:
        problem = f"column `{column}` is no judgement in our format for its rubric"
        reason = "with a malformed judgement"
    elif side is None:
        problem, reason = f"column `{format.label_columns[0]}` is a tie", "tie"
    elif judgement.winner != side:
        problem = f"column `{column}` names another winner than `{format.label_columns[0]}`"
        reason = "with a judgement against its label"
    else:
        return WarmupRow(prompt, rubric.text, response_a, response_b, judgement.text)
    raise row.error(f"{problem}. Leave the row out.", reason, skippable=True)
