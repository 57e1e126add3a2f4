"""Warm-up trajectories from any source: our own format, or data with rubrics and judgements such as OpenRubric-v2.

A trajectory in a published format, or of columns that a recipe describes, is kept only if its rubric means one in our
canonical form, its judgement is strictly well-formed for that rubric, and the verdict is the one its label names, if it
has one; others are skipped and counted by reason. The warm-up thus teaches no text that the format reward would punish.
Rows of our own format are taken as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.data.benchmarks import Decontaminator
from rubric_arm_lite.data.counts import BadRows, Counts
from rubric_arm_lite.data.formats import FORMATS, Format
from rubric_arm_lite.data.pairs import SourceReader, prompt_as_json
from rubric_arm_lite.data.rows import Row
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import PromptBuilder, parse_judgement, parse_rubric
from rubric_arm_lite.prompts.parsing import split_lines
from rubric_arm_lite.recipe import WarmupSettings, as_tuple
from rubric_arm_lite.types import Judgement, ParseStatus, Prompt, Rubric

_ITEM = re.compile(r"(?:[-*•][ \t]+)?[(*_]{0,3}([0-9]{1,2})[.):][)*_]{0,2}[ \t]*(\S.*)")
_TAGGED = re.compile(r"(.*?\S)[ \t]*(?P<bold>\*\*|__)?\[(?P<kind>Hard Rule|Principle)\](?(bold)(?P=bold))\.?")
_TAG_END = re.compile(r"(?P<bold>\*\*|__)?\[(?:Hard Rule|Principle)\](?(bold)(?P=bold))\.?$")
_LONGEST_TAG = 32
_ANY_TAG = re.compile(r"\[[^\w\[\]]*(?:hard\W*rule|principle)s?[^\w\[\]]*\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WarmupRow:
    """One warm-up trajectory of both roles: what a teacher wrote for a request and its responses.

    Without ``response_b`` the judgement is a pointwise one of ``response_a``.
    """

    prompt: Prompt
    rubric: str
    response_a: str
    response_b: str | None
    judgement: str
    judged_rubric: str | None = None

    def judge_prompt(self, prompts: PromptBuilder, rubric: Rubric) -> str:
        """The user turn that the judgement answers, under this rubric."""
        if self.response_b is None:
            return prompts.pointwise_prompt(self.prompt, rubric, self.response_a)
        return prompts.judge_prompt(self.prompt, rubric, self.response_a, self.response_b)


def trajectory_columns(row: Row, pointwise: bool | None) -> tuple[str, ...]:
    """The columns of a trajectory like ``row``; for ``pointwise`` None those of the kind that it is."""
    if pointwise is None:
        pointwise = "response" in row.columns and "response_a" not in row.columns
    return ("prompt", "rubric", *(("response",) if pointwise else ("response_a", "response_b")), "judgement")


def trajectory_of_row(row: Row, pointwise: bool | None = False) -> WarmupRow:
    """The trajectory of one row; a RowError if it cannot be used.

    Columns: ``prompt``, ``rubric``, ``response_a``, ``response_b``, ``judgement``; for a pointwise judge one
    ``response`` in place of the two. With ``pointwise`` None each row is taken as it is.
    """
    prompt, names = row.prompt(), trajectory_columns(row, pointwise)
    rubric, *responses, judgement = map(row.text, names[1:])
    return WarmupRow(prompt, rubric, responses[0], responses[1] if len(responses) > 1 else None, judgement)


def trajectory_as_row(row: WarmupRow) -> dict[str, Any]:
    """The columns from which :func:`trajectory_of_row` reads this trajectory again."""
    pair = {"response_a": row.response_a, "response_b": row.response_b}
    responses = pair if row.response_b is not None else {"response": row.response_a}
    return {"prompt": prompt_as_json(row.prompt), "rubric": row.rubric, **responses, "judgement": row.judgement}


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
            arguments are those of :class:`~rubric_arm_lite.data.pairs.SourceReader`.

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
    if format.published and format.columns.judgement is None:
        names = ", ".join(name for name, other in FORMATS.items() if other.columns.judgement)
        fix = f"Use our own format of trajectories, or one of: {names}."
        if settings.columns is not None:
            fix = "Name the columns of the texts in it: rubric and judgement."
        raise DataError(
            f"{settings.source} has the format `{format.name}`, which holds no judgements, so it cannot warm up a "
            f"judge. {fix}"
        )

    def read(row: Row) -> tuple[Prompt, WarmupRow]:
        if settings.subset:
            subset = row.optional_text(format.columns.subset) if format.columns.subset else ""
            reader.check_subset(subset or ("" if format.published else row.optional_text("source")))
        item = _checked_trajectory(row, format) if format.published else trajectory_of_row(row, pointwise)
        return item.prompt, item

    columns = format.required if format.published else trajectory_columns(reader.first_row, pointwise)
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
    """The trajectory of a row of a published format, or of one that a recipe describes.

    Raises:
        RowError: if the row does not have the format, or (skippable) its texts do not pass our parsers or contradict
            its label.
    """
    names = as_tuple(format.columns.judgement)
    column = next(filter(row.holds, names), names[0])
    row.require(*format.required, format.columns.rubric, column)
    prompt, response_a, response_b = format.read(row)
    rubric = canonical_rubric(row.optional_text(format.columns.rubric))
    judgement = checked_judgement(row.optional_text(column), rubric) if rubric.usable else None
    side = None if judgement is None or not format.label_columns else format.chosen_side(row)
    if not rubric.usable:
        problem, reason = f"column `{format.columns.rubric}` is no list of tagged criteria", "with a malformed rubric"
    elif judgement is None:
        problem = f"column `{column}` is no judgement in our format for its rubric"
        reason = "with a malformed judgement"
    elif side is None and format.label_columns:
        problem, reason = f"column `{format.label_columns[0]}` is a tie", "tie"
    elif judgement.winner != side and format.label_columns:
        problem = f"column `{column}` names another winner than `{format.label_columns[0]}`"
        reason = "with a judgement against its label"
    else:
        return WarmupRow(prompt, rubric.text, response_a, response_b, judgement.text)
    raise row.error(f"{problem}. Leave the row out.", reason, skippable=True)
