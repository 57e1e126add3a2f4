"""Scoring rules of the public benchmarks: pure functions from verdicts to values in [0, 1].

An :class:`Item` is one prompt with its responses and its *duels*: the pairs of responses that the judge compares, each
in both orders. An :class:`Answer` holds the judge's verdicts on all duels of one item.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import Prompt

Outcome = bool | None
"""Whether a verdict names the first response of a duel; None if it names neither."""
Values = dict[str, float]
"""Values of one item by the rule that gave them; the empty name is the benchmark's own rule."""
STYLES = 3
"""RM-Bench writes every response in three styles: concise, detailed, detailed with markdown."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a benchmark.

    Attributes:
        duels: index pairs into ``responses``; the first response of a duel is the better one, except between two
            rejected responses of a round robin, where it is the earlier one.
        subset: the part of the benchmark that the item belongs to.
        where: the row it comes from, for messages.
    """

    item_id: str
    prompt: Prompt
    responses: tuple[str, ...]
    duels: tuple[tuple[int, int], ...] = ((0, 1),)
    subset: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcomes of every duel, one per vote and order; no votes if nothing was judged.

    ``original`` shows the first response of a duel as Response A, ``swapped`` as Response B.
    """

    original: tuple[tuple[Outcome, ...], ...]
    swapped: tuple[tuple[Outcome, ...], ...]

    def outcomes(self, vote: int | None = None) -> tuple[tuple[Outcome, ...], tuple[Outcome, ...]]:
        """One outcome per duel in the original and in the swapped order: of one vote or, for None, the majority."""

        def outcome(votes: Sequence[Outcome]) -> Outcome:
            if vote is None:
                return majority(votes)
            return votes[vote] if votes else None

        return tuple(map(outcome, self.original)), tuple(map(outcome, self.swapped))


def majority(votes: Sequence[Outcome]) -> Outcome:
    """The outcome of most votes; None if both responses have equally many."""
    lead = sum(vote is True for vote in votes) - sum(vote is False for vote in votes)
    return None if lead == 0 else lead > 0


def mix_orders(original: Sequence[Outcome], swapped: Sequence[Outcome], seed: int, item_id: str) -> tuple[Outcome, ...]:
    """One outcome per duel; the seed, the item's id and the duel's index decide from which order."""
    return tuple(
        first if random.Random(derive_seed(seed, "mixed", item_id, duel)).random() < 0.5 else second
        for duel, (first, second) in enumerate(zip(original, swapped, strict=True))
    )


# --- rules ----------------------------------------------------------------------------------------------------------


def outcome_value(outcome: Outcome, unparsed: float) -> float:
    """1 if the verdict names the better response, 0 if it names the other, ``unparsed`` if it names neither."""
    return unparsed if outcome is None else float(outcome)


def share_won(outcomes: Sequence[Outcome], unparsed: float) -> float:
    """Mean over the duels of an item; for one duel this is RewardBench's rule for generative judges."""
    return math.fsum(outcome_value(outcome, unparsed) for outcome in outcomes) / len(outcomes)


def beats_all(outcomes: Sequence[Outcome], unparsed: float) -> float:
    """Strict best of n: 1 if the best response wins every duel, 0 if it loses one.

    An item that loses no duel but has one without a verdict counts ``unparsed``, once. This is RMB's rule for best of
    n and our default for RewardBench 2, whose own generative mode shows all four responses at once.
    """
    if any(outcome is False for outcome in outcomes):
        return 0.0
    return unparsed if any(outcome is None for outcome in outcomes) else 1.0


def round_robin(
    responses: int, duels: Sequence[tuple[int, int]], outcomes: Sequence[Outcome], unparsed: float
) -> float:
    """Best of n by all pairs: each response's wins are its score in :func:`best_of_scores`.

    A duel without a verdict gives ``unparsed`` wins to both responses. The best response has index 0.
    """
    wins, undecided = [0] * responses, [0] * responses
    for (first, second), outcome in zip(duels, outcomes, strict=True):
        if outcome is None:
            undecided[first] += 1
            undecided[second] += 1
        else:
            wins[first if outcome else second] += 1
    return best_of_scores([won + unparsed * open_duels for won, open_duels in zip(wins, undecided, strict=True)])


def best_of_scores(scores: Sequence[float]) -> float:
    """RewardBench 2, best of four by scores: 1 / (responses with the maximum) if response 0 has it, else 0."""
    top = max(scores)
    return 1 / scores.count(top) if scores[0] == top else 0.0


def style_values(outcomes: Sequence[Outcome], unparsed: float) -> Values:
    """RM-Bench: hard, normal and easy values of one item, and their mean under the empty name.

    ``outcomes[3 * i + j]`` is the chosen response in style i against the rejected one in style j. Hard is the mean of
    the upper triangle (the rejected response has the richer style), normal of the diagonal, easy of the lower one.
    """
    cells: dict[str, list[float]] = {"hard": [], "normal": [], "easy": []}
    for index, outcome in enumerate(outcomes):
        row, column = divmod(index, STYLES)
        name = "hard" if column > row else "normal" if column == row else "easy"
        cells[name].append(outcome_value(outcome, unparsed))
    values = {name: _mean(cell) for name, cell in cells.items()}
    return {"": _mean(list(values.values())), **values}


def sum_of_orders(original: Outcome, swapped: Outcome) -> float:
    """JudgeBench: +1 for the right response and −1 for the wrong one in each order; correct if the sum is positive.

    No verdict adds nothing, so one right verdict and one missing are correct. Two missing are not.
    """
    points = {True: 1, False: -1, None: 0}
    return float(points[original] + points[swapped] > 0)


Scores = tuple[Sequence[float], Sequence[float]]
"""Scores of one prompt's responses: those of the correct ones, and those of the incorrect ones."""


def ties_score(reference: Mapping[str, Scores], tied: Mapping[str, Scores]) -> float:
    """RewardBench 2's score of the subset Ties, from pointwise scores; a pairwise judge gives none.

    ``reference`` holds, by prompt, the responses with one correct answer among them, ``tied`` those with several:
    0.3 · accuracy(tied) + 0.3 · accuracy(reference) + 0.2 · share where the margin exceeds the spread of the correct
    + 0.2 · share where the smaller margin of both does + 0.01 · mean tanh(smaller margin / spread − 1).
    """
    margins = []
    for prompt, (correct, incorrect) in tied.items():
        if prompt in reference and len(correct) > 1 and incorrect:
            margin = _margin(correct, incorrect)
            margins.append((min(margin, _margin(*reference[prompt])), margin, max(correct) - min(correct)))
    score = 0.3 * _mean([float(_margin(*scores) > 0) for scores in tied.values()])
    score += 0.3 * _mean([float(_margin(*scores) > 0) for scores in reference.values()])
    score += 0.2 * _mean([float(margin > spread) for _, margin, spread in margins])
    score += 0.2 * _mean([float(smaller > spread) for smaller, _, spread in margins])
    return score + 0.01 * _mean([math.tanh(smaller / spread - 1) for smaller, _, spread in margins if spread > 0])


def _margin(correct: Sequence[float], incorrect: Sequence[float]) -> float:
    """Lowest correct minus highest incorrect score, positive if accurate; 0 if either kind is missing."""
    return min(correct) - max(incorrect) if correct and incorrect else 0.0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
