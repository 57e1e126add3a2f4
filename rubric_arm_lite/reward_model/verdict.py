"""What a judge says of two responses, in the caller's order: the winner, and the findings per criterion.

Judgements of both orders and of several votes go in; one :class:`Verdict` comes out. A judgement that saw the two
responses swapped is turned round here, so that A and B always mean what the caller gave as A and B.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.types import (
    Criterion,
    Judgement,
    Rubric,
    Side,
    other_side,
)


def majority(winners: Sequence[Side | None]) -> Side | None:
    """The side with more votes; None if equal or nobody voted."""
    lead = sum(winner == "A" for winner in winners) - sum(winner == "B" for winner in winners)
    return "A" if lead > 0 else "B" if lead < 0 else None


Orders = Literal["both", "given", "swapped"]
"""In which orders the judge sees two responses."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that judgements say about a response, and how many of them say it in these words."""

    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What the judgements say about one criterion.

    Attributes:
        number: the criterion's place in the rubric, from 1.
        response_a: remarks on response A, the most frequent wording first, then by first appearance (judgements in
            the order given come before swapped ones). Empty if no judgement has exactly one line for the criterion
            under this response, with the criterion's own kind.
        response_b: the same for response B.
    """

    number: int
    criterion: Criterion
    response_a: tuple[Remark, ...]
    response_b: tuple[Remark, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of two responses.

    Attributes:
        winner: "A" or "B" as the caller gave them; None if there is no majority over orders and votes.
        consistent: whether every verdict named the same response.
        confidence: share of the verdicts asked for that named the winner.
        rubric: the criteria that were used.
        judgements: the judge's texts, in the caller's order of responses.
        flipped: the judge's texts with the two responses swapped.
        findings: one entry per criterion; empty if nothing was judged.
    """

    winner: Side | None
    consistent: bool
    confidence: float
    rubric: Rubric
    judgements: tuple[Judgement, ...]
    flipped: tuple[Judgement, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def named(self) -> tuple[Side | None, ...]:
        """What every single judgement named, in the caller's order; None where it named nothing."""
        return (*(j.winner for j in self.judgements), *map(_turned, (j.winner for j in self.flipped)))

    @property
    def agreed(self) -> Side | None:
        """The response that the majority of either order names; None if the orders disagree or one has none."""
        given = majority([j.winner for j in self.judgements])
        swapped = _turned(majority([j.winner for j in self.flipped]))
        return given if given == swapped else None

    def orders_won(self, side: Side) -> int:
        """In how many orders, 0 to 2, the majority named ``side``; an order without a verdict is not won."""
        given = majority([j.winner for j in self.judgements])
        swapped = _turned(majority([j.winner for j in self.flipped]))
        return (given == side) + (swapped == side)

    def share(self, side: Side) -> float:
        """Share of the judgements that named ``side``; 0 if nothing was judged."""
        named = self.named
        return sum(name == side for name in named) / len(named) if named else 0.0


def verdict_of(rubric: Rubric, given: Sequence[Judgement], swapped: Sequence[Judgement]) -> Verdict:
    """Merge judgements in the order given and in the swapped one; either may be empty."""
    named = [*(j.winner for j in given), *(_turned(j.winner) for j in swapped)]
    winner = majority(named)
    share = sum(n == winner for n in named) / len(named) if winner is not None else 0.0
    findings = _findings(rubric, given, swapped) if named else ()
    return Verdict(winner, share == 1.0, share, rubric, tuple(given), tuple(swapped), findings)


def _findings(rubric: Rubric, given: Sequence[Judgement], swapped: Sequence[Judgement]) -> tuple[Finding, ...]:
    said: dict[tuple[Side, int], Counter[str]] = {}
    for judgement, turned in [*((j, False) for j in given), *((j, True) for j in swapped)]:
        lines = Counter((a.side, a.number) for a in judgement.assessments)
        for a in judgement.assessments:
            known = a.number <= len(rubric.criteria) and rubric.criteria[a.number - 1].kind is a.kind
            if known and lines[a.side, a.number] == 1 and a.justification:
                side = other_side(a.side) if turned else a.side
                said.setdefault((side, a.number), Counter())[a.justification] += 1

    def remarks(side: Side, number: int) -> tuple[Remark, ...]:
        # most_common keeps the order of first appearance among equals
        return tuple(Remark(text, count) for text, count in said.get((side, number), Counter()).most_common())

    return tuple(
        Finding(number, criterion, remarks("A", number), remarks("B", number))
        for number, criterion in enumerate(rubric.criteria, start=1)
    )


def _turned(side: Side | None) -> Side | None:
    return None if side is None else other_side(side)
