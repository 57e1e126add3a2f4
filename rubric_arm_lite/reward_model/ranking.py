"""Ranking of many responses by pairwise judgements: a round robin, or Swiss rounds.

Tournaments are pure functions without randomness. The result of a pair is the share of judgements for either response,
so a judge that contradicts itself over the two orders gives half a point to both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.types import Rubric

Method = Literal["round_robin", "swiss"]
Pair = tuple[int, int]
JudgePairs = Callable[[Sequence[Pair]], Sequence[float]]
"""Judges pairs of players; returns the first player's part of each point, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The place of one player.

    Attributes:
        player: its index.
        rank: from 1; ties share a rank (1, 2, 2, 4).
        points: sum over its games, each in [0, 1].
        games: played; a bye counts as a game won.
        strength: sum of its opponents' points, the tie-break after Swiss rounds.
    """

    player: int
    rank: int
    points: float
    games: int
    strength: float


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
    table = _Table(players)
    match method:
        case "round_robin":
            table.judge(list(combinations(range(players), 2)), judge)
        case "swiss":
            for _ in range(min(rounds or (players - 1).bit_length(), players - 1)):
                table.judge(table.next_round(), judge)
        case _:
            raise ConfigError(f"method: {method!r} is not one of round_robin, swiss.")
    return table.standings(), len(table.results)


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


class _Table:
    """Results of a tournament so far: of each pair, and points, opponents and byes of each player."""

    def __init__(self, players: int) -> None:
        self.results: dict[Pair, float] = {}
        self._points = [0.0] * players
        self._opponents: list[list[int]] = [[] for _ in range(players)]
        self._byes: set[int] = set()

    def judge(self, pairs: Sequence[Pair], judge: JudgePairs) -> None:
        """Play some games; a pair that met before keeps its result, which counts again."""
        new = [pair for pair in pairs if pair not in self.results]
        for pair, share in zip(new, judge(new) if new else [], strict=True):
            if not 0 <= share <= 1:
                raise ValueError(f"A pair's first player gets a part of a point in [0, 1], not {share}.")
            self.results[pair] = share
        for a, b in pairs:
            self._points[a] += self.results[a, b]
            self._points[b] += 1 - self.results[a, b]
            self._opponents[a].append(b)
            self._opponents[b].append(a)

    def next_round(self) -> list[Pair]:
        """Pair neighbors in the standings who have not met; with an odd number the last player without a bye rests."""
        order = sorted(range(len(self._points)), key=self._points.__getitem__, reverse=True)
        leaders = {i for i in order if self._points[i] == self._points[order[0]]}
        if len(order) % 2:
            resting = next((i for i in reversed(order) if i not in self._byes), order[-1])
            self._byes.add(resting)
            self._points[resting] += 1
            order.remove(resting)
        pairs: list[list[int]] = []
        while order:
            first = order.pop(0)
            other = next((i for i in order if i not in self._opponents[first]), order[0])
            order.remove(other)
            if other in self._opponents[first]:
                first, other = self._exchange(first, other, [pair for pair in pairs if not leaders.issuperset(pair)])
            pairs.append([first, other])
        return [(min(pair), max(pair)) for pair in pairs]

    def _exchange(self, first: int, other: int, pairs: list[list[int]]) -> tuple[int, int]:
        """Separate two who have met by an exchange with the nearest earlier pair that allows it, if there is one.

        Pairs of two leaders are not broken: that the unbeaten meet is what puts the best first.
        """
        for pair in reversed(pairs):
            for a, b in (pair, pair[::-1]):
                if a not in self._opponents[first] and b not in self._opponents[other]:
                    pair[:] = [a, first]
                    return b, other
        return first, other

    def standings(self) -> list[Standing]:
        """All players, from the best."""
        strength = [sum(self._points[i] for i in opponents) for opponents in self._opponents]
        # After a round robin everybody has met everybody, so strength adds nothing to points.
        uneven = len(self.results) < len(strength) * (len(strength) - 1) // 2
        marks = [(points, s if uneven else 0.0) for points, s in zip(self._points, strength, strict=True)]
        games = [len(opponents) + (i in self._byes) for i, opponents in enumerate(self._opponents)]
        ranks = [1 + sum(other > mark for other in marks) for mark in marks]
        order = sorted(range(len(marks)), key=marks.__getitem__, reverse=True)
        return [Standing(i, ranks[i], self._points[i], games[i], strength[i]) for i in order]
