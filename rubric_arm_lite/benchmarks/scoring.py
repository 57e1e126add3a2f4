"""The scoring rules of the benchmarks: pure functions of outcomes, or of scores where a rule needs them.

``unparsed`` is what a verdict that names neither response counts for; it is printed beside every number. The rules
follow the benchmarks' own code; where that asks for what a pairwise judge does not give, the docstring says what we
put in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubric_arm_lite.benchmarks.items import Outcome, Reading, Values

STYLES = 3
"""RM-Bench writes every response in three styles: concise, detailed, detailed with markdown."""


def outcome_value(outcome: Outcome, unparsed: float) -> float:
    """1 if the better response was named, 0 if the other was, ``unparsed`` if neither."""
    return unparsed if outcome is None else float(outcome)


def share_won(outcomes: Sequence[Outcome], unparsed: float) -> float:
    """Mean over the duels of an item; for one duel RewardBench's rule in its generative mode."""
    return math.fsum(outcome_value(outcome, unparsed) for outcome in outcomes) / len(outcomes)


def beats_all(outcomes: Sequence[Outcome], unparsed: float) -> float:
    """Best of n, strict: 1 if the best response wins every duel, 0 if it loses one.

    Otherwise at least one duel has no verdict and none is lost: the item counts ``unparsed``, once. RMB's best of n,
    and our default for RewardBench 2, whose own generative mode shows all four responses at once.
    """
    if any(outcome is False for outcome in outcomes):
        return 0.0
    return unparsed if any(outcome is None for outcome in outcomes) else 1.0


def round_robin(
    responses: int, duels: Sequence[tuple[int, int]], outcomes: Sequence[Outcome], unparsed: float
) -> float:
    """Best of n by a tournament of all pairs: wins are the responses' scores in :func:`best_of_scores`.

    A duel without a verdict gives ``unparsed`` wins to both sides. The best response is number 0.
    """
    named = [0] * responses
    open_duels = [0] * responses
    for (first, second), outcome in zip(duels, outcomes, strict=True):
        if outcome is None:
            open_duels[first] += 1
            open_duels[second] += 1
        else:
            named[first if outcome else second] += 1
    return best_of_scores([wins + unparsed * left for wins, left in zip(named, open_duels, strict=True)])


def best_of_scores(scores: Sequence[float]) -> float:
    """RewardBench 2, best of four by scores: 1 / (number of responses at the maximum) if number 0 is one, else 0."""
    top = max(scores)
    return 1 / scores.count(top) if scores[0] == top else 0.0


def style_values(outcomes: Sequence[Outcome], unparsed: float) -> Values:
    """RM-Bench: hard, normal and easy values of one item from its 3×3 duels, chosen style by rejected style.

    ``outcomes[3 * i + j]``: the chosen response in style i against the rejected one in style j. Hard is the mean of
    the upper triangle (the rejected response has the richer style), normal of the diagonal, easy of the lower
    triangle. ``all`` is the mean of the three, which RM-Bench averages over a domain.
    """
    cells: dict[str, list[float]] = {"hard": [], "normal": [], "easy": []}
    for place, outcome in enumerate(outcomes):
        row, column = divmod(place, STYLES)
        name = "hard" if column > row else "normal" if column == row else "easy"
        cells[name].append(outcome_value(outcome, unparsed))
    values = {name: math.fsum(found) / len(found) for name, found in cells.items()}
    return {"all": math.fsum(values.values()) / len(values), **values}


def both_orders(reading: Reading) -> float:
    """JudgeBench: +1 for the right response and −1 for the wrong one in each order; correct if the sum is positive.

    No verdict adds nothing, so one right verdict and one missing are correct. Two missing are not.
    """
    points = {True: 1, False: -1, None: 0}
    return float(points[reading.original[0]] + points[reading.flipped[0]] > 0)


@dataclass(frozen=True, slots=True)
class Rated:
    """Scores of one prompt's responses in RewardBench 2's subset Ties, correct ones apart from incorrect ones."""

    correct: tuple[float, ...]
    incorrect: tuple[float, ...]

    @property
    def accurate(self) -> bool:
        """Whether every correct response scores above every incorrect one."""
        return bool(self.correct and self.incorrect) and min(self.correct) > max(self.incorrect)

    @property
    def margin(self) -> float:
        """Lowest correct minus highest incorrect score; 0 if either kind is missing."""
        return min(self.correct) - max(self.incorrect) if self.correct and self.incorrect else 0.0

    @property
    def spread(self) -> float | None:
        """Highest minus lowest correct score; None without two correct responses and an incorrect one."""
        return max(self.correct) - min(self.correct) if len(self.correct) > 1 and self.incorrect else None


def ties_score(reference: Mapping[str, Rated], tied: Mapping[str, Rated]) -> float:
    """RewardBench 2's score of the subset Ties, from pointwise scores; a pairwise judge has none to give.

    ``reference`` holds, by prompt, the responses with one correct answer among them, ``tied`` those with several:
    0.3 · accuracy(tied) + 0.3 · accuracy(reference) + 0.2 · share where the margin exceeds the spread of the correct
    + 0.2 · share where the smaller margin of both does + 0.01 · mean tanh(smaller margin / spread − 1).
    """
    score = 0.3 * _mean([float(r.accurate) for r in tied.values()])
    score += 0.3 * _mean([float(r.accurate) for r in reference.values()])
    both = [(reference[key], rated, rated.spread) for key, rated in tied.items() if key in reference]
    spreads = [
        (min(ref.margin, rated.margin), rated.margin, spread) for ref, rated, spread in both if spread is not None
    ]
    score += 0.2 * _mean([float(margin > spread) for _, margin, spread in spreads])
    score += 0.2 * _mean([float(smaller > spread) for smaller, _, spread in spreads])
    return score + 0.01 * _mean([math.tanh(smaller / spread - 1) for smaller, _, spread in spreads if spread > 0])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
