"""A few held-out prompts with everything that was written for them, side by side over the phases.

Evaluations go in; one :class:`Showcase` per prompt comes out: how every phase judged it in both orders, and the
rubric at the phases that changed the generator, with what changed since the one before marked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rubric_arm_lite.report_data import EvaluationRow

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
