"""Verdicts: which of two responses a judge prefers, over both orders of presentation and several votes.

A pairwise verdict translates the winners of swapped judgements back: A and B always mean the responses of the
:class:`~rubric_arm_lite.types.Comparison` that was judged. A pointwise verdict is made of scores, each of the
probabilities of the judge's answers (RUBRIC-ARROW, arXiv 2605.29156).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.prompts.parsing import stated_met
from rubric_arm_lite.types import Criterion, CriterionKind, Judgement, ParseStatus, Rubric, Side, other_side

Orders = Literal["both", "original", "swapped"]
"""The orders of presentation in which the judge sees two responses."""
TIE = 1e-6
"""Largest difference of equal scores: the rounding of probabilities in float32."""
WEIGHTS = {CriterionKind.HARD_RULE: 3.0, CriterionKind.PRINCIPLE: 1.0}


def majority(winners: Sequence[Side | None]) -> Side | None:
    """The side with more votes; None if equal or without votes."""
    lead = sum(winner == "A" for winner in winners) - sum(winner == "B" for winner in winners)
    return "A" if lead > 0 else "B" if lead < 0 else None


@dataclass(frozen=True, slots=True)
class Remark:
    """A justification for one criterion under one response, and in how many judgements it occurs word for word."""

    text: str
    count: int

    @property
    def met(self) -> bool | None:
        """Whether its last words call the criterion met; None if not plainly."""
        return stated_met(self.text)


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
        findings = []
        for number, criterion in enumerate(self.rubric.criteria, start=1):
            remarks: dict[Side, Counter[str]] = {"A": Counter(), "B": Counter()}
            for i, judgement in enumerate((*self.original, *self.swapped)):
                for side in ("A", "B"):
                    lines = [a for a in judgement.assessments if (a.side, a.number) == (side, number)]
                    if len(lines) == 1 and lines[0].kind is criterion.kind and lines[0].justification:
                        shown = side if i < len(self.original) else other_side(side)
                        remarks[shown][lines[0].justification] += 1
            # most_common keeps the order of first appearance among equals
            counts = [tuple(Remark(*counted) for counted in remarks[side].most_common()) for side in ("A", "B")]
            findings.append(Finding(number, criterion, *counts))
        return tuple(findings)


# --- pointwise ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """Probabilities that the judge would answer a criterion with true and with false; they need not add up to 1."""

    criterion: Criterion
    p_true: float
    p_false: float
    justification: str = ""

    def __post_init__(self) -> None:
        if not (self.p_true >= 0 and self.p_false >= 0 and self.p_true + self.p_false <= 1 + 1e-3):
            raise ValueError(f"p_true {self.p_true}, p_false {self.p_false}: no probabilities of two words.")


@dataclass(frozen=True, slots=True)
class PointwiseScore:
    """How far a response meets a rubric.

    Attributes:
        value: in [−1, 1]; None if the rubric or the judge's text could not be read.
        answers: one per criterion, in order; empty without a value.
        rubric: the criteria that were used.
        text: the judge's text; empty if it answered every criterion at once.
        status: of the judge's text.
    """

    value: float | None
    answers: tuple[Answer, ...]
    rubric: Rubric
    text: str
    status: ParseStatus


def weighted_score(answers: Sequence[Answer]) -> float:
    """Σ w (p_true − p_false) / Σ w, with w = 3 for a hard rule and 1 for a principle; in [−1, 1].

    Raises:
        ValueError: without any answer.
    """
    if not answers:
        raise ValueError("A score needs at least one criterion.")
    weights = [WEIGHTS[answer.criterion.kind] for answer in answers]
    terms = [w * (answer.p_true - answer.p_false) for w, answer in zip(weights, answers, strict=True)]
    return math.fsum(terms) / math.fsum(weights)


def score_of_words(score: PointwiseScore) -> float | None:
    """The score of the likelier words alone, as if each had probability 1; None without a value."""
    if score.value is None:
        return None
    return weighted_score(
        [Answer(a.criterion, float(a.p_true > a.p_false), float(a.p_true <= a.p_false)) for a in score.answers]
    )


def mean_score(scores: Sequence[PointwiseScore]) -> float | None:
    """The mean of the readable scores; None without any."""
    values = [score.value for score in scores if score.value is not None]
    return math.fsum(values) / len(values) if values else None


def is_tie(margin: float | None) -> bool:
    """Whether two scores are equal but for rounding; a missing margin is no tie."""
    return margin is not None and abs(margin) <= TIE


def margin_accuracy(margin: float | None, unparsed: float) -> float:
    """Credit for a margin of the preferred response: 1, 0, ½ for a tie, ``unparsed`` without a score."""
    if margin is None:
        return unparsed
    return 0.5 if is_tie(margin) else float(margin > 0)


@dataclass(frozen=True, slots=True)
class PointwiseVerdict:
    """The scores of a comparison's two responses under one rubric, one per vote; none under an unusable rubric."""

    rubric: Rubric
    scores_a: tuple[PointwiseScore, ...] = ()
    scores_b: tuple[PointwiseScore, ...] = ()

    @property
    def margin(self) -> float | None:
        """Mean score of response A minus that of response B; None if either has no readable score."""
        a, b = mean_score(self.scores_a), mean_score(self.scores_b)
        return None if a is None or b is None else a - b

    @property
    def winner(self) -> Side | None:
        """The response with the higher score; None for a tie or without scores."""
        return None if self.margin is None or is_tie(self.margin) else "A" if self.margin > 0 else "B"

    def correct(self, label: Side, unparsed: float = 0.0) -> float:
        """1 if ``label`` scores higher, 0 if the other one does, ½ for a tie, ``unparsed`` without a score."""
        margin = self.margin
        return margin_accuracy(margin if label == "A" or margin is None else -margin, unparsed)


def is_skipped(result: Rubric | Verdict | PointwiseScore) -> bool:
    """Whether a result stands for a case that the model never saw, since its texts do not fit the context.

    A prompt too long for the generator has an empty, truncated rubric; a response too long for the judge leaves a
    usable rubric without a judgement.
    """
    if isinstance(result, Rubric):
        return result.status is ParseStatus.TRUNCATED and not result.text
    judged = bool(result.winners if isinstance(result, Verdict) else result.answers or result.text)
    return not judged and (result.rubric.usable or is_skipped(result.rubric))
