"""Rubrics and judgements that other models wrote for training, brought into our form where that loses nothing.

:mod:`.parsing` reads what our models write and stays strict. A published rubric often has the right items under a
headline, with other marks for their numbers, or broken over lines; here such a text is written again in the canonical
form and then has to pass the strict parser like any other. Nothing is added, and no criterion is left out.
"""

from __future__ import annotations

import re

from rubric_arm_lite.parsing import parse_judgement, parse_rubric, split_lines
from rubric_arm_lite.types import Judgement, ParseStatus, Rubric

_ITEM = re.compile(r"(?:[-*•][ \t]+)?[(*_]{0,3}([0-9]{1,2})[.):][)*_]{0,2}[ \t]*(\S.*)")
_TAGGED = re.compile(r"(.*?\S)[ \t]*(?P<bold>\*\*|__)?\[(?P<kind>Hard Rule|Principle)\](?(bold)(?P=bold))\.?")
_ANY_TAG = re.compile(r"\[\W*(?:hard\W*rule|principle)s?\W*\]", re.IGNORECASE)


def canonical_rubric(text: str) -> Rubric:
    """The rubric that a teacher's text means, with the canonical rendering as its text.

    Beyond what :func:`~rubric_arm_lite.parsing.parse_rubric` accepts, this takes remarks before the first and after
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
