"""Verdicts: which of two responses a judge prefers, over both orders of presentation and several votes.

A verdict translates the winners of swapped judgements back: A and B always mean the responses of the
:class:`~rubric_arm_lite.types.Comparison` that was judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.types import Criterion, Judgement, Rubric, Side, other_side

Orders = Literal["both", "original", "swapped"]
"""The orders of presentation in which the judge sees two responses."""


def majority(winners: Sequence[Side | None]) -> Side | None:
    """The side with more votes; None if equal or without votes."""
    lead = sum(winner == "A" for winner in winners) - sum(winner == "B" for winner in winners)
    return "A" if lead > 0 else "B" if lead < 0 else None


@dataclass(frozen=True, slots=True)
class Remark:
    """A justification for one criterion under one response, and in how many judgements it occurs word for word."""

    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Finding:
    """The remarks of the judgements on one criterion.

    Attributes:
        number: the criterion's place in the rubric, from 1.
        response_a: remarks on response A, the most frequent wording first, then by first appearance (original order
            before swapped). Empty if no judgement has exactly one line for the criterion under this response with
            the criterion's own kind.
        response_b: the same for response B.
    """

    number: int
    criterion: Criterion
    response_a: tuple[Remark, ...]
    response_b: tuple[Remark, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgements of one comparison under one rubric.

    Attributes:
        rubric: the criteria that the judge was given.
        original: judgements of the responses in the comparison's order, one per vote; empty if not sampled.
        swapped: judgements of the other order: their text's A is the comparison's B.
    """

    rubric: Rubric
    original: tuple[Judgement, ...] = ()
    swapped: tuple[Judgement, ...] = ()

    @property
    def winners(self) -> tuple[Side | None, ...]:
        """The winner of every judgement, original order first; None where a judgement names none."""
        swapped = [j.winner and other_side(j.winner) for j in self.swapped]
        return (*(j.winner for j in self.original), *swapped)

    @property
    def winner(self) -> Side | None:
        """The side that the majority of all judgements names; None without a majority."""
        return majority(self.winners)

    @property
    def confidence(self) -> float:
        """Share of the judgements that name the winner; 0 without one."""
        return 0.0 if self.winner is None else self.share(self.winner)

    @property
    def consistent(self) -> bool:
        """Whether every judgement names the same response."""
        return self.confidence == 1.0

    @property
    def order_winners(self) -> tuple[Side | None, Side | None]:
        """The majority of the original and of the swapped order."""
        votes = len(self.original)
        return majority(self.winners[:votes]), majority(self.winners[votes:])

    @property
    def agreed(self) -> Side | None:
        """The response that the majority of either order names; None if the orders disagree or one has none."""
        original, swapped = self.order_winners
        return original if original == swapped else None

    def orders_won(self, side: Side) -> int:
        """In how many orders, 0 to 2, the majority names ``side``; an order without a majority is not won."""
        return self.order_winners.count(side)

    def share(self, side: Side) -> float:
        """Share of the judgements that name ``side``; 0 if nothing was judged."""
        return self.winners.count(side) / len(self.winners) if self.winners else 0.0

    @property
    def preference(self) -> float:
        """Credit of response A in [0, 1]: the share of judgements for it, those without a winner counting ½."""
        return 0.5 + 0.5 * (self.share("A") - self.share("B"))

    def correct(self, label: Side, orders: Orders = "both", unparsed: float = 0.0) -> float:
        """Mean accuracy of the judgements in the given orders.

        Args:
            label: the preferred response of the comparison.
            unparsed: credit for a judgement without a winner, and where nothing was judged.
        """
        votes = len(self.original)
        winners = {"both": self.winners, "original": self.winners[:votes], "swapped": self.winners[votes:]}[orders]
        credits = [unparsed if winner is None else float(winner == label) for winner in winners]
        return sum(credits) / len(credits) if credits else unparsed

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One entry per criterion; empty if nothing was judged."""
        if not self.winners:
            return ()
        remarks: dict[tuple[Side, int], Counter[str]] = {}
        for judgement, swapped in [*((j, False) for j in self.original), *((j, True) for j in self.swapped)]:
            lines = Counter((a.side, a.number) for a in judgement.assessments)
            for a in judgement.assessments:
                matches = a.number <= len(self.rubric.criteria) and self.rubric.criteria[a.number - 1].kind is a.kind
                if matches and lines[a.side, a.number] == 1 and a.justification:
                    side = other_side(a.side) if swapped else a.side
                    remarks.setdefault((side, a.number), Counter())[a.justification] += 1

        def of(side: Side, number: int) -> tuple[Remark, ...]:
            # most_common keeps the order of first appearance among equals
            return tuple(Remark(text, n) for text, n in remarks.get((side, number), Counter()).most_common())

        return tuple(
            Finding(number, criterion, of("A", number), of("B", number))
            for number, criterion in enumerate(self.rubric.criteria, start=1)
        )
