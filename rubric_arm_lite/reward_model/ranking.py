"""Rank many responses by comparing them in pairs: everybody against everybody, or by Swiss rounds.

Pure tournaments: a function that judges pairs comes in, standings go out. A pair's result is the share of judgements
that named either side, so that a judge who contradicts himself over the two orders gives half a point to both.
Nothing is drawn at random: equal inputs give equal standings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.types import Rubric

Method = Literal["round_robin", "swiss"]
Pair = tuple[int, int]
JudgePairs = Callable[[Sequence[Pair]], Sequence[float]]
"""Judges pairs of players and gives the first one's part of each point, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One player's place.

    Attributes:
        player: its index in the order given.
        rank: from 1; equals share a rank, and the next one counts them (1, 2, 2, 4).
        points: sum over its games, each in [0, 1].
        games: played; a bye counts as a game won.
        strength: sum of its opponents' points, which orders equal points after Swiss rounds.
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
        index: its place in the list that was given.
        rank: from 1; equals share a rank. Responses with the same text are one player, so they always do.
        points: sum over its games of the share of judgements for it; a judgement without verdict gives half.
        games: played; a bye of Swiss rounds counts as a game won.
    """

    index: int
    response: str
    rank: int
    points: float
    games: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Responses from the best to the worst, and what it took.

    Attributes:
        ranked: one entry per response given; equals in the order given.
        rubric: the criteria that were used. If they could not be read nothing was judged, and all are equal.
        pairs: pairs of different responses that were judged.
        judge_calls: judgements asked for: pairs × 2 orders × votes.
        unparsed: judgements that named no winner.
    """

    ranked: tuple[RankedResponse, ...]
    rubric: Rubric
    pairs: int
    judge_calls: int
    unparsed: int


def play(players: int, method: Method, judge: JudgePairs, rounds: int | None = None) -> tuple[list[Standing], int]:
    """Let players meet; returns standings from the best, and how many pairs were judged.

    Round robin judges n (n − 1) / 2 pairs at once. Swiss judges at most ⌊n / 2⌋ pairs in each of ``rounds`` rounds,
    by default ⌈log2 n⌉, with which the best of a judge without contradictions is first for certain; more rounds order
    the others better. Equals among equals stay in the order given.

    Raises:
        ConfigError: for no players, an unknown method, or rounds where they have no meaning.
    """
    if players < 1:
        raise ConfigError("There is nobody to rank. Give at least one response.")
    if rounds is not None and (rounds < 1 or method != "swiss"):
        raise ConfigError(f"rounds: {rounds} with method {method!r}. Give at least 1, and only with 'swiss'.")
    table = _Table(players)
    match method:
        case "round_robin":
            table.meet(list(combinations(range(players), 2)), judge)
        case "swiss":
            for _ in range(min(rounds or (players - 1).bit_length(), players - 1)):
                table.meet(list(table.next_round()), judge)
        case _:
            raise ConfigError(f"method: {method!r} is not one of round_robin, swiss.")
    return table.standings(), len(table.results)


def placed(
    responses: Sequence[str], players: Sequence[str], standings: Sequence[Standing]
) -> tuple[RankedResponse, ...]:
    """Every response in its player's place; a rank counts the responses before it, equal texts included."""
    standing_of = {players[standing.player]: standing for standing in standings}
    found = []
    for i, text in enumerate(responses):
        own = standing_of[text]
        rank = 1 + sum(standing_of[other].rank < own.rank for other in responses)
        found.append(RankedResponse(i, text, rank, own.points, own.games))
    return tuple(sorted(found, key=lambda one: (one.rank, one.index)))


class _Table:
    def __init__(self, players: int) -> None:
        self.results: dict[Pair, float] = {}
        self._points = [0.0] * players
        self._opponents: list[list[int]] = [[] for _ in range(players)]
        self._byes: set[int] = set()

    def meet(self, pairs: Sequence[Pair], judge: JudgePairs) -> None:
        """Play some games; two who met before keep their result, which counts again."""
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

    def next_round(self) -> Iterator[Pair]:
        """Pair neighbours in the standings who have not met; with an odd number the last one without a bye gets it."""
        order = sorted(range(len(self._points)), key=lambda i: (-self._points[i], i))
        if len(order) % 2:
            resting = next((i for i in reversed(order) if i not in self._byes), order[-1])
            self._byes.add(resting)
            self._points[resting] += 1
            order.remove(resting)
        pairs: list[list[int]] = []
        while order:
            first = order.pop(0)
            other = next((i for i in order if not self._met(first, i)), None)
            if other is None:
                other = order[0]
                pairs.append(self._swapped(first, other, pairs))
            else:
                pairs.append([first, other])
            order.remove(other)
        yield from ((min(pair), max(pair)) for pair in pairs)

    def _swapped(self, first: int, other: int, pairs: list[list[int]]) -> list[int]:
        """Two who have met are parted by an exchange with the nearest earlier pair that allows it, if one does."""
        for pair in reversed(pairs):
            for a, b in (pair, pair[::-1]):
                if not self._met(first, a) and not self._met(other, b):
                    pair[:] = [a, first]
                    return [b, other]
        return [first, other]

    def _met(self, a: int, b: int) -> bool:
        return (min(a, b), max(a, b)) in self.results

    def standings(self) -> list[Standing]:
        """Everybody, from the best."""
        strength = [sum(self._points[i] for i in opponents) for opponents in self._opponents]
        # After a round robin everybody met everybody, so that strength says nothing that points do not.
        marks = [(self._points[i], strength[i] if self._uneven() else 0.0) for i in range(len(strength))]
        order = sorted(range(len(marks)), key=lambda i: (-marks[i][0], -marks[i][1], i))
        found = []
        for i in order:
            rank = 1 + sum(mark > marks[i] for mark in marks)
            games = len(self._opponents[i]) + (i in self._byes)
            found.append(Standing(i, rank, self._points[i], games, strength[i]))
        return found

    def _uneven(self) -> bool:
        players = len(self._points)
        return len(self.results) < players * (players - 1) // 2
