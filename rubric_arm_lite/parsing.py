"""Interpret model text: rubrics and judgements (paper, app. E).

Both parsers are total functions: any string goes in, a value with a :class:`ParseStatus` comes out, nothing is
raised and there is no default winner. Model text is hostile: a judge may quote a response that itself contains
headings or a winner line, so a verdict counts only where it cannot have been quoted.

A winner is taken from a judgement only if all of these hold: the text was not cut by length; the heading of the
final section stands exactly once; a winner line stands after it; and every line of the whole text that looks like
a winner line names the same response.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rubric_arm_lite.types import (
    Assessment,
    Criterion,
    CriterionKind,
    FinishReason,
    Judgement,
    ParseStatus,
    Rubric,
    Side,
)

MAX_CRITERIA = 32
"""A rubric with more items than this is malformed: no judge can address them all."""

COMPLIANCE_HEADING = "--- Compliance Check ---"
ANALYSIS_HEADING = "--- Analysis ---"
FINAL_HEADING = "--- Final Judgment ---"
GATEKEEPER_PREFIX = "Identified Gatekeeper Criterion:"
JUSTIFICATION_PREFIX = "Justification:"
WINNER_PREFIX = "Winner: Response"
RESPONSE_HEADINGS: dict[Side, str] = {"A": "**Response A:**", "B": "**Response B:**"}

_KINDS = {kind.label: kind for kind in CriterionKind}
_TAG = r"\[(Hard Rule|Principle)\]"
_RUBRIC_ITEM = re.compile(rf"([0-9]{{1,3}})[.)][ \t]+(.*\S)[ \t]*{_TAG}")
_ANY_TAG = re.compile(r"\[\s*(?:hard\s+rule|principle)\s*\]", re.IGNORECASE)
_ASSESSMENT = re.compile(rf"- Criterion ([0-9]{{1,3}}) {_TAG}: {JUSTIFICATION_PREFIX}[ \t]*(.*)")
_WINNER_EXACT = re.compile(r"Winner: Response ([AB])")
# Deliberately wide: anything a reader could take for a winner line must agree with the verdict.
_WINNER_LIKE = re.compile(r"^\W*winner\b\W*(?:is\b\W*)?(?:response\b\W*)?([ab])?\b", re.IGNORECASE)
_FINAL_LIKE = re.compile(r"^\W*final\s+judge?ment\W*$", re.IGNORECASE)
_LINE_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class FormatCheck:
    """Which parts of the judgement format are present, for the format reward.

    ``present`` and ``required`` count the parts; ``strict`` is True only if all are there, once, in order, and
    nothing else is.
    """

    present: int
    required: int
    strict: bool

    @property
    def share(self) -> float:
        """Share of the required parts that are present, in [0, 1]."""
        return self.present / self.required


def split_lines(text: str) -> list[str]:
    """Split at every kind of line break and strip the blanks around each line."""
    return [line.strip() for line in _LINE_BREAK.split(text)]


def parse_rubric(text: str, finish_reason: FinishReason = "stop") -> Rubric:
    """Parse a numbered list of criteria, each ending in ``[Hard Rule]`` or ``[Principle]``.

    OK only if the text is that list and nothing else: numbered 1, 2, 3, … without a gap, at most
    :data:`MAX_CRITERIA` items, one tag per item, at its end. Never raises.
    """
    if finish_reason == "length":
        return Rubric(text, (), ParseStatus.TRUNCATED)
    lines = [line for line in split_lines(text) if line]
    malformed = Rubric(text, (), ParseStatus.MALFORMED)
    if not 1 <= len(lines) <= MAX_CRITERIA:
        return malformed
    criteria = []
    for number, line in enumerate(lines, start=1):
        match = _RUBRIC_ITEM.fullmatch(line)
        if match is None or int(match[1]) != number or _ANY_TAG.search(match[2]):
            return malformed
        criteria.append(Criterion(match[2], _KINDS[match[3]]))
    return Rubric(text, tuple(criteria), ParseStatus.OK)


def parse_judgement(text: str, rubric: Rubric, finish_reason: FinishReason = "stop") -> Judgement:
    """Parse a judgement written for ``rubric``.

    The status is OK only if :func:`check_format` finds it strictly well-formed; the winner is found whenever it
    is unambiguous (see the module's docstring), also in a malformed text. Never raises.
    """
    lines = [line for line in split_lines(text) if line]
    strict = finish_reason == "stop" and _Layout(lines, rubric).strict
    if finish_reason == "length":
        status = ParseStatus.TRUNCATED
    else:
        status = ParseStatus.OK if strict else ParseStatus.MALFORMED
    return Judgement(
        text=text,
        gatekeeper=_after_prefix(lines, GATEKEEPER_PREFIX),
        assessments=tuple(_assessments(lines)),
        justification=_final_justification(lines),
        winner=None if finish_reason == "length" else _winner(lines),
        status=status,
    )


def check_format(judgement: Judgement, rubric: Rubric) -> FormatCheck:
    """Say how far ``judgement`` has the form asked for (paper, sec. 4.2, R_fmt).

    The parts are: the gatekeeper line; for each response one line per criterion of ``rubric``, in order, with its
    kind and a non-empty justification; the overall justification; exactly one winner line. Strict also asks for
    the three headings and for nothing before, between or after.
    """
    layout = _Layout([line for line in split_lines(judgement.text) if line], rubric)
    return FormatCheck(layout.present, layout.required, judgement.status is ParseStatus.OK and layout.strict)


class _Layout:
    """The lines of a judgement held against the lines its rubric asks for."""

    def __init__(self, lines: list[str], rubric: Rubric) -> None:
        self._lines = lines
        self._kinds = [criterion.kind for criterion in rubric.criteria]
        self.required = 3 + 2 * len(self._kinds)
        self.present = self._count()
        self.strict = bool(self._kinds) and self._is_strict()

    def _is_strict(self) -> bool:
        k = len(self._kinds)
        lines = self._lines
        if len(lines) != 8 + 2 * k:
            return False
        fixed = {0: COMPLIANCE_HEADING, 2: ANALYSIS_HEADING, 3: RESPONSE_HEADINGS["A"], 4 + k: RESPONSE_HEADINGS["B"]}
        fixed[5 + 2 * k] = FINAL_HEADING
        if any(lines[at] != heading for at, heading in fixed.items()):
            return False
        if not _has_content(lines[1], GATEKEEPER_PREFIX) or not _has_content(lines[6 + 2 * k], JUSTIFICATION_PREFIX):
            return False
        if sum(bool(_WINNER_LIKE.match(line)) for line in lines) != 1 or not _WINNER_EXACT.fullmatch(lines[-1]):
            return False
        blocks = (lines[4 : 4 + k], lines[5 + k : 5 + 2 * k])
        return all(self._addressed(block) == k for block in blocks)

    def _addressed(self, block: list[str]) -> int:
        """Length of the prefix of ``block`` that addresses criteria 1, 2, … with the right kind."""
        count = 0
        for number, (line, kind) in enumerate(zip(block, self._kinds, strict=False), start=1):
            match = _ASSESSMENT.fullmatch(line)
            if match is None or int(match[1]) != number or _KINDS[match[2]] is not kind or not match[3].strip():
                break
            count = number
        return count

    def _count(self) -> int:
        present = sum(_has_content(line, GATEKEEPER_PREFIX) for line in self._lines) == 1
        total = int(present) + int(_final_justification(self._lines) is not None)
        total += sum(bool(_WINNER_LIKE.match(line)) for line in self._lines) == 1 and _winner(self._lines) is not None
        for side, heading in RESPONSE_HEADINGS.items():
            if self._lines.count(heading) == 1:
                start = self._lines.index(heading) + 1
                stop = RESPONSE_HEADINGS["B"] if side == "A" else FINAL_HEADING
                block = self._lines[start:]
                block = block[: block.index(stop)] if stop in block else block
                total += self._addressed(block)
        return total


def _has_content(line: str, prefix: str) -> bool:
    return line.startswith(prefix) and bool(line[len(prefix) :].strip())


def _after_prefix(lines: list[str], prefix: str) -> str | None:
    found = [line[len(prefix) :].strip() for line in lines if _has_content(line, prefix)]
    return found[0] if len(found) == 1 else None


def _final_section(lines: list[str]) -> list[str] | None:
    """The lines after the final heading, or None unless the heading stands exactly once."""
    at = [i for i, line in enumerate(lines) if _FINAL_LIKE.match(line)]
    return lines[at[0] + 1 :] if len(at) == 1 else None


def _final_justification(lines: list[str]) -> str | None:
    section = _final_section(lines)
    return None if section is None else _after_prefix(section, JUSTIFICATION_PREFIX)


def _winner(lines: list[str]) -> Side | None:
    section = _final_section(lines)
    if section is None:
        return None
    exact = [match[1] for line in section if (match := _WINNER_EXACT.fullmatch(line))]
    named = {(match[1] or "?").upper() for line in lines if (match := _WINNER_LIKE.match(line))}
    if not exact or named != set(exact):
        return None
    if named == {"A"}:
        return "A"
    return "B" if named == {"B"} else None


def _assessments(lines: list[str]) -> list[Assessment]:
    side: Side | None = None
    found = []
    for line in lines:
        if line == RESPONSE_HEADINGS["A"]:
            side = "A"
        elif line == RESPONSE_HEADINGS["B"]:
            side = "B"
        elif _FINAL_LIKE.match(line):
            side = None
        elif side is not None and (match := _ASSESSMENT.fullmatch(line)):
            found.append(Assessment(side, int(match[1]), _KINDS[match[2]], match[3].strip()))
    return found
