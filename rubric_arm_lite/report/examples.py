"""Example prompts over the whole schedule: the rubric and judgement after each phase, with the changes marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rubric_arm_lite.report.read import EvaluationRow

Mark = Literal["same", "ins", "del"]
Outcome = Literal["right", "wrong", "none"]
MarkedLine = tuple[tuple[Mark, str], ...]

_MAX_DIFF = 400
"""Lines, or words of a line, above which a change is shown as a whole."""
_MIN_SIMILARITY = 0.5
"""How similar two lines must be for their words to be compared."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How one evaluation judged the prompt's pair, in both orders; a pointwise judge has one outcome for both."""

    phase: str
    original: Outcome
    swapped: Outcome


@dataclass(frozen=True, slots=True)
class Version:
    """What the models wrote after one phase, or after several with the same texts and verdicts.

    Attributes:
        lines: the rubric, with the changes against the version before it marked.
        item: rubric, status, judgement, winner with the preferred response first, recall of principles.
    """

    phases: tuple[str, ...]
    verdicts: Verdicts
    lines: tuple[MarkedLine, ...]
    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt over the whole schedule; ``item`` has prompt, response_a (the preferred one) and response_b."""

    item: Mapping[str, Any]
    verdicts: tuple[Verdicts, ...]
    versions: tuple[Version, ...]


def examples(evaluations: Sequence[EvaluationRow]) -> list[Example]:
    """The prompts that the evaluations along the schedule kept, in the order in which they first appear."""
    by_pair: dict[str, list[tuple[Verdicts, Mapping[str, Any]]]] = {}
    for evaluation in evaluations:
        for item in evaluation.examples:
            by_pair.setdefault(str(item["pair_id"]), []).append((_verdicts(evaluation, item), item))
    return [_example(items) for items in by_pair.values()]


def clearest(candidates: Sequence[Example]) -> Example | None:
    """The first example whose verdicts improved from the first version to the last, or else the first one."""

    def right(version: Version) -> int:
        return (version.verdicts.original, version.verdicts.swapped).count("right")

    better = [example for example in candidates if right(example.versions[-1]) > right(example.versions[0])]
    return next(iter([*better, *candidates]), None)


def _example(items: Sequence[tuple[Verdicts, Mapping[str, Any]]]) -> Example:
    """A column per phase that trained the generator, the warm-up and the last one; equal neighbors share one."""
    names = [verdicts.phase for verdicts, _ in items]
    generator = [name for name in names if "rubric" in name] or [name for name in names if name != "base"]
    versions: list[Version] = []
    for verdicts, item in items:
        name, before = verdicts.phase, versions[-1] if versions else None
        if name not in ("warm-up", names[-1], *generator):
            continue
        same = before and all(before.item[key] == item[key] for key in ("rubric", "judgement"))
        if before and same and replace(before.verdicts, phase=name) == verdicts:
            versions[-1] = replace(before, phases=(*before.phases, name), verdicts=verdicts)
        else:
            lines = marked_lines(str(before.item["rubric"]) if before else None, str(item["rubric"]))
            versions.append(Version((name,), verdicts, tuple(lines), item))
    return Example(items[-1][1], tuple(verdicts for verdicts, _ in items), tuple(versions))


def _verdicts(evaluation: EvaluationRow, item: Mapping[str, Any]) -> Verdicts:
    def outcome(winner: Any, label: str) -> Outcome:
        return "none" if winner not in ("A", "B") else "right" if winner == label else "wrong"

    row = next((row for row in evaluation.rows if row["pair_id"] == item["pair_id"]), None)
    first = outcome(item["winner"], "A")
    if row is None or "accuracy" in row:
        return Verdicts(evaluation.name, first, "none" if row is None else first)
    return Verdicts(evaluation.name, outcome(row["original_winner"], "A"), outcome(row["swapped_winner"], "B"))


def marked_lines(before: str | None, after: str) -> list[MarkedLine]:
    """The lines of ``after``, with what is new and what ``before`` had in its place marked; no marks without before.

    Joining the parts that are not ``del`` gives ``after`` back, line by line (a line that is all ``del`` is gone).
    """
    new = after.split("\n")
    if before is None:
        return _whole("same", new)
    old = before.split("\n")
    if max(len(old), len(new)) > _MAX_DIFF:
        return _whole("del", old) + _whole("ins", new)
    marked: list[MarkedLine] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            marked += _whole("same", new[c:d])
        else:
            paired = min(b - a, d - c)
            for pair in zip(old[a : a + paired], new[c : c + paired], strict=True):
                marked += _marked_words(*pair)
            marked += _whole("del", old[a + paired : b]) + _whole("ins", new[c + paired : d])
    return marked


def _whole(mark: Mark, lines: Sequence[str]) -> list[MarkedLine]:
    return [((mark, line),) for line in lines]


def _marked_words(before: str, after: str) -> list[MarkedLine]:
    """One line with its changed words marked, or the old and the new line if they have little in common."""
    old, new = (re.findall(r"\s+|\S+", line) for line in (before, after))
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if max(len(old), len(new)) > _MAX_DIFF or matcher.ratio() < _MIN_SIMILARITY:
        return [*_whole("del", [before]), *_whole("ins", [after])]
    parts: list[tuple[Mark, str]] = []
    for tag, a, b, c, d in matcher.get_opcodes():
        texts: dict[Mark, list[str]] = {"same": new[c:d]} if tag == "equal" else {"del": old[a:b], "ins": new[c:d]}
        parts += [(mark, "".join(words)) for mark, words in texts.items() if words]
    return [tuple(parts)]
