"""Ranking of many responses by pairwise judgements: a round robin, or Swiss rounds.

Tournaments are pure functions without randomness. The result of a pair is the share of judgements for either response,
so a judge that contradicts itself over the two orders gives half a point to both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.types import Rubric

Method = Literal["round_robin", "swiss"]
Pair = tuple[int, int]
JudgePairs = Callable[[Sequence[Pair]], Sequence[float]]
"""Judges pairs of players; returns the first player's part of each point, in [0, 1]."""


@dataclass(slots=True)
class Standing:
    """The place of one player.

    Attributes:
        player: its index.
        points: sum over its games, each in [0, 1].
        opponents: indices, in the order of the games.
        byes: rounds in which it rested, for a point.
        rank: from 1; ties share a rank (1, 2, 2, 4).
        strength: sum of its opponents' points, the tie-break after Swiss rounds.
    """

    player: int
    points: float = 0.0
    opponents: list[int] = field(default_factory=list)
    byes: int = 0
    rank: int = 0
    strength: float = 0.0

    @property
    def games(self) -> int:
        """Games played; a bye counts as a game won."""
        return len(self.opponents) + self.byes


@dataclass(frozen=True, slots=True)
class RankedResponse:
    """A response and its place.

    Attributes:
        index: its index in the input.
        rank: from 1; ties share a rank, and so do responses with the same text.
        points: sum over its games of the share of judgements for it; a judgement without a winner counts half.
        games: played; a bye of Swiss rounds counts as a game won.
    """

    index: int
    response: str
    rank: int
    points: float
    games: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Responses from best to worst, and the cost of ranking them.

    Attributes:
        ranked: one entry per response; ties in input order.
        rubric: the criteria. If they are not usable nothing is judged, and all responses tie.
        pairs: pairs of different responses that were judged.
        judge_calls: number of judgements: pairs × 2 orders × votes.
        unparsed: judgements that named no winner.
    """

    ranked: tuple[RankedResponse, ...]
    rubric: Rubric
    pairs: int
    judge_calls: int
    unparsed: int


def tournament(
    players: int, method: Method, judge: JudgePairs, rounds: int | None = None
) -> tuple[list[Standing], int]:
    """Standings from the best, and the number of pairs judged.

    A round robin judges n (n − 1) / 2 pairs at once. Swiss judges at most ⌊n / 2⌋ pairs in each of ``rounds`` rounds,
    by default ⌈log2 n⌉, which is enough to put the best first under a consistent judge; more rounds order the others
    better. Ties stay in input order.

    Raises:
        ConfigError: for no players, an unknown method, or rounds with a round robin.
    """
    if players < 1:
        raise ConfigError("There is nothing to rank. Give at least one response.")
    if rounds is not None and (rounds < 1 or method != "swiss"):
        raise ConfigError(f"rounds: {rounds} with method {method!r}. Give at least 1, and only with 'swiss'.")
    standings = [Standing(i) for i in range(players)]
    results: dict[Pair, float] = {}
    match method:
        case "round_robin":
            _play(list(combinations(range(players), 2)), standings, results, judge)
        case "swiss":
            for _ in range(min(rounds or (players - 1).bit_length(), players - 1)):
                _play(_next_round(standings), standings, results, judge)
        case _:
            raise ConfigError(f"method: {method!r} is not one of round_robin, swiss.")
    for standing in standings:
        standing.strength = sum(standings[i].points for i in standing.opponents)
    # After a round robin everybody has met everybody, so strength adds nothing to points.
    uneven = len(results) < players * (players - 1) // 2
    marks = [(standing.points, standing.strength if uneven else 0.0) for standing in standings]
    for standing, mark in zip(standings, marks, strict=True):
        standing.rank = 1 + sum(other > mark for other in marks)
    return sorted(standings, key=lambda standing: standing.rank), len(results)


def placed(
    responses: Sequence[str], players: Sequence[str], standings: Sequence[Standing]
) -> tuple[RankedResponse, ...]:
    """Every response at its player's place; a rank counts the responses before it, equal texts included."""
    standing_of = {players[standing.player]: standing for standing in standings}
    ranked = []
    for i, text in enumerate(responses):
        standing = standing_of[text]
        rank = 1 + sum(standing_of[other].rank < standing.rank for other in responses)
        ranked.append(RankedResponse(i, text, rank, standing.points, standing.games))
    return tuple(sorted(ranked, key=lambda response: (response.rank, response.index)))


def _play(pairs: Sequence[Pair], standings: list[Standing], results: dict[Pair, float], judge: JudgePairs) -> None:
    """Play some games; a pair that met before keeps its result, which counts again."""
    new = [pair for pair in pairs if pair not in results]
    for pair, share in zip(new, judge(new) if new else [], strict=True):
        if not 0 <= share <= 1:
            raise ValueError(f"A pair's first player gets a part of a point in [0, 1], not {share}.")
        results[pair] = share
    for a, b in pairs:
        for player, opponent, share in ((a, b, results[a, b]), (b, a, 1 - results[a, b])):
            standings[player].points += share
            standings[player].opponents.append(opponent)


def _next_round(standings: list[Standing]) -> list[Pair]:
    """Pair neighbors by points who have not met; with an odd number the last player without a bye rests."""
    order = sorted(standings, key=lambda standing: standing.points, reverse=True)
    leaders = {s.player for s in order if s.points == order[0].points}
    if len(order) % 2:
        resting = next((s for s in reversed(order) if not s.byes), order[-1])
        resting.byes += 1
        resting.points += 1
        order.remove(resting)
    pairs: list[list[Standing]] = []
    while order:
        first = order.pop(0)
        other = next((s for s in order if s.player not in first.opponents), order[0])
        order.remove(other)
        if other.player in first.opponents:
            first, other = _exchange(first, other, [p for p in pairs if not leaders.issuperset(s.player for s in p)])
        pairs.append([first, other])
    return [(min(a.player, b.player), max(a.player, b.player)) for a, b in pairs]


def _exchange(first: Standing, other: Standing, pairs: list[list[Standing]]) -> tuple[Standing, Standing]:
    """Separate two who have met by an exchange with the nearest earlier pair that allows it, if there is one.

    Pairs of two leaders are not broken: that the unbeaten meet is what puts the best first.
    """
    for pair in reversed(pairs):
        for a, b in (pair, pair[::-1]):
            if a.player not in first.opponents and b.player not in other.opponents:
                pair[:] = [a, first]
                return b, other
    return first, other
