"""Judgements of the English world in the short form, which quote what they found (:mod:`rubric_arm_lite.prompts`)::

    --- Final Judgment ---
    1 coil: A "The coil gets", B none.
    2 greeting: A none, B "Hi there!".
    Justification: A 2+0=2, B 0+1=1.
    Winner: Response A

In the paper's form a justification quotes as well; :class:`~rubric_arm_lite.data.testbed.trajectories.Teacher` writes
it with :meth:`.world.EnglishWorld.find`.
"""

from __future__ import annotations

import random

from rubric_arm_lite.data.testbed.english.world import EnglishTask, EnglishWorld, short_name
from rubric_arm_lite.data.testbed.preference import criterion_weight
from rubric_arm_lite.data.testbed.trajectories import Teacher
from rubric_arm_lite.prompts.parsing import FINAL_HEADING, JUSTIFICATION_PREFIX, WINNER_PREFIX
from rubric_arm_lite.types import Comparison, Rubric, Side


def write_short_judgement(
    world: EnglishWorld,
    rubric: Rubric,
    comparison: Comparison,
    winner: Side | None = None,
    overlooked: frozenset[int] = frozenset(),
    if_equal: Side = "A",
) -> str:
    """The judgement of a careful judge in the short form.

    Args:
        winner: the side to name regardless of the findings; None names the side with more points.
        overlooked: criteria (by number, from 1) that are reported as missed for both responses.
        if_equal: the side to name if both have the same points.
    """
    responses: dict[Side, str] = {"A": comparison.response_a, "B": comparison.response_b}
    points: dict[Side, list[int]] = {"A": [], "B": []}
    lines = [FINAL_HEADING]
    for number, criterion in enumerate(rubric.criteria, start=1):
        shown = []
        for side, response in responses.items():
            quote = None if number in overlooked else world.quote(criterion, response)
            points[side].append(0 if quote is None else criterion_weight(criterion))
            shown.append(f"{side} none" if quote is None else f'{side} "{quote}"')
        lines.append(f"{number} {short_name(criterion)}: {', '.join(shown)}.")
    a, b = sum(points["A"]), sum(points["B"])
    if winner is None:
        winner = if_equal if a == b else ("A" if a > b else "B")
    sums = ", ".join(f"{side} {'+'.join(map(str, found))}={sum(found)}" for side, found in points.items())
    return "\n".join([*lines, f"{JUSTIFICATION_PREFIX} {sums}.", f"{WINNER_PREFIX} {winner}"])


class ShortTeacher(Teacher[EnglishTask]):
    """Writes judgements in the short form."""

    world: EnglishWorld

    def write(
        self, rubric: Rubric, comparison: Comparison, winner: Side | None, overlooked: frozenset[int], if_equal: Side
    ) -> str:
        """A well-formed judgement; see :func:`write_short_judgement`."""
        return write_short_judgement(self.world, rubric, comparison, winner, overlooked, if_equal)

    def broken(self, text: str, rng: random.Random) -> str:
        """The text of a judgement with one fault."""
        return break_short_judgement(text, rng)


def break_short_judgement(text: str, rng: random.Random) -> str:
    """A judgement in the short form with one fault: a finding missing, repeated or without its mark, or no sums."""
    lines = text.split("\n")
    at = rng.randrange(1, len(lines) - 2)
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            lines[at] = lines[at].replace(", B ", " B ", 1)
        case _:
            del lines[-2]
    return "\n".join(lines)
