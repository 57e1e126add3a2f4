"""Tournaments: transitive, cyclic and noisy judges, ties, byes, and the number of pairs judged."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rubric_arm_lite.reward_model.ranking import JudgePairs, Method, Pair, tournament


def by_strength(strength: Sequence[float], seen: list[Pair] | None = None) -> JudgePairs:
    """A judge without contradictions: the stronger wins, equals share the point."""

    def judge(pairs: Sequence[Pair]) -> list[float]:
        if seen is not None:
            seen.extend(pairs)
        return [0.5 if strength[a] == strength[b] else float(strength[a] > strength[b]) for a, b in pairs]

    return judge


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_round_robin_orders_as_the_judge_does_and_equals_share_a_rank(strength: list[int]) -> None:
    standings, judged = tournament(len(strength), "round_robin", by_strength(strength))
    assert judged == len(strength) * (len(strength) - 1) // 2
    assert [strength[s.player] for s in standings] == sorted(strength, reverse=True)
    for standing in standings:
        assert standing.rank == 1 + sum(other > strength[standing.player] for other in strength)
    assert sum(s.points for s in standings) == judged


@example(5, 271)  # two who have met at the bottom must not part two who are unbeaten
@example(5, 10)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_swiss_finds_the_best_with_few_pairs(players: int, seed: int) -> None:
    strength = random.Random(seed).sample(range(1000), players)
    seen: list[Pair] = []
    standings, judged = tournament(players, "swiss", by_strength(strength, seen))
    assert strength[standings[0].player] == max(strength) and standings[0].rank == 1
    rounds = (players - 1).bit_length()
    assert judged == len(seen) == len(set(seen)) <= rounds * (players // 2)
    assert all(a < b for a, b in seen)
    assert sorted(s.player for s in standings) == list(range(players))
    assert {s.games for s in standings} == {rounds}


def test_swiss_with_more_rounds_orders_better_and_never_judges_a_pair_twice() -> None:
    strength = random.Random(3).sample(range(100), 12)
    few, _ = tournament(12, "swiss", by_strength(strength), rounds=4)
    seen: list[Pair] = []
    many, judged = tournament(12, "swiss", by_strength(strength, seen), rounds=11)
    assert judged == len(set(seen)) <= 66

    def misplaced(standings: list) -> int:  # type: ignore[type-arg]
        order = [strength[s.player] for s in standings]
        return sum(a < b for i, a in enumerate(order) for b in order[i + 1 :])

    assert misplaced(many) < misplaced(few)


def test_by_hand_with_a_bye() -> None:
    """Strengths 1, 3, 2: player 1 beats 0 and then 2, who had rested; 0 rests in the second round."""
    standings, judged = tournament(3, "swiss", by_strength([1, 3, 2]))
    assert [(s.player, s.points, s.games, s.strength) for s in standings] == [
        (1, 2.0, 2, 2.0),
        (0, 1.0, 2, 2.0),
        (2, 1.0, 2, 2.0),
    ]
    assert [s.rank for s in standings] == [1, 2, 2] and judged == 2


@pytest.mark.parametrize("method", ["round_robin", "swiss"])
def test_a_cycle_is_a_tie(method: Method) -> None:
    """Rock, paper, scissors: everybody wins once and loses once."""
    standings, judged = tournament(3, method, lambda pairs: [float((b - a) % 3 == 1) for a, b in pairs])
    if method == "round_robin":
        assert [s.rank for s in standings] == [1, 1, 1] and judged == 3
        assert [s.player for s in standings] == [0, 1, 2]
    else:
        assert standings[0].rank == 1 and judged == 2


def test_equal_points_are_ordered_by_the_opponents_after_swiss_rounds() -> None:
    """Four players, two rounds, the lower number wins: 1 and 2 have a point each, 2 from the weaker opponent."""
    standings, _ = tournament(4, "swiss", by_strength([4, 3, 2, 1]))
    assert [(s.player, s.points) for s in standings] == [(0, 2.0), (1, 1.0), (2, 1.0), (3, 0.0)]


@given(st.integers(2, 16), st.integers(0, 100))
def test_a_noisy_judge_still_ranks_better_than_chance(players: int, seed: int) -> None:
    rng = random.Random(seed)
    noise = {pair: rng.random() < 0.15 for pair in ((a, b) for a in range(players) for b in range(a + 1, players))}

    def judge(pairs: Sequence[Pair]) -> list[float]:
        return [float((a < b) != noise[a, b]) for a, b in pairs]

    one, two = tournament(players, "swiss", judge), tournament(players, "swiss", judge)
    assert one == two, "the same every time"
    robin, _ = tournament(players, "round_robin", judge)
    assert sum(s.points for s in robin) == players * (players - 1) / 2
    if players >= 8:
        order = [s.player for s in robin]
        wrong = sum(a > b for i, a in enumerate(order) for b in order[i + 1 :])
        assert wrong < players * (players - 1) / 4


def test_what_has_no_meaning_is_refused() -> None:
    fair = by_strength([1, 2, 3])
    assert tournament(1, "swiss", fair)[1] == 0
    for players, method, rounds in ((0, "swiss", None), (3, "elo", None), (3, "round_robin", 2), (3, "swiss", 0)):
        with pytest.raises(ValueError, match=r"nothing to rank|not one of|rounds"):
            tournament(players, method, fair, rounds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="part of a point"):
        tournament(2, "swiss", lambda pairs: [2.0])
