"""Scoring rules against numbers worked by hand; the arithmetic stands beside each."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.evaluation.benchmarks.scoring import (
    Answer,
    Average,
    Outcome,
    beats_all,
    best_of_scores,
    majority,
    mix_orders,
    round_robin,
    share_won,
    style_values,
    sum_of_orders,
)
from rubric_arm_lite.evaluation.metrics import stratified_interval

T, F, N = True, False, None
outcomes = st.sampled_from((True, False, None))


@pytest.mark.parametrize("unparsed", [0.0, 0.25, 0.5])
def test_a_pair_counts_its_verdict_or_what_a_missing_one_is_worth(unparsed: float) -> None:
    assert [share_won([outcome], unparsed) for outcome in (T, F, N)] == [1.0, 0.0, unparsed]
    assert share_won([T, F, N, N], unparsed) == (1 + 2 * unparsed) / 4


@pytest.mark.parametrize(
    ("verdicts", "value"),
    [
        ([T, T, T], 1.0),
        ([T, F, T], 0.0),
        ([T, N, T], 0.25),  # not lost, but not won either: counts once
        ([N, N, N], 0.25),
        ([N, F, T], 0.0),  # a lost duel decides, whatever is missing
    ],
)
def test_strict_best_of_four(verdicts: list[Outcome], value: float) -> None:
    assert beats_all(verdicts, 0.25) == value


SIX = list(itertools.combinations(range(4), 2))
"""(0,1) (0,2) (0,3) (1,2) (1,3) (2,3)"""


@pytest.mark.parametrize(
    ("verdicts", "value"),
    [
        # wins of responses 0-3                     0: 3, 1: 2, 2: 1, 3: 0
        ([T, T, T, T, T, T], 1.0),
        # 0 beats 1 and 2, loses to 3; 1 beats 2 and 3; 2 beats 3: 2, 2, 1, 1: shared by two
        ([T, T, F, T, T, T], 1 / 2),
        # 0 loses to 1, beats 2 and 3; 1 beats 2, loses to 3; 3 beats 2: 2, 2, 0, 2: shared by three
        ([F, T, T, T, F, F], 1 / 3),
        # 0 loses all: 0, then 1 has 3
        ([F, F, F, T, T, T], 0.0),
        # nothing parsed: each has 3 * unparsed, shared by four
        ([N, N, N, N, N, N], 1 / 4),
        # unparsed 0.5: 0 has 1 + 1 + 0.5 = 2.5; 1 has 0 + 1 + 1 = 2; 3 has 0.5
        ([T, T, N, T, T, T], 1.0),
        # 0 has 1 + 0.5 + 0.5 = 2, 1 has 1 + 1 = 2, 2 has 0.5 + 1, 3 has 0.5: shared by two
        ([T, N, N, T, T, T], 1 / 2),
    ],
)
def test_round_robin_by_hand(verdicts: list[Outcome], value: float) -> None:
    assert round_robin(4, SIX, verdicts, 0.5) == value


def test_the_value_of_a_missing_verdict_changes_who_wins_a_round_robin() -> None:
    verdicts = [T, N, N, T, T, T]  # as above, with 0 for a missing verdict: 0 has 1, and 1 has 2
    assert round_robin(4, SIX, verdicts, 0.0) == 0.0


@given(st.lists(outcomes, min_size=6, max_size=6))
def test_who_wins_every_duel_wins_the_round_robin_too(verdicts: list[Outcome]) -> None:
    if beats_all(verdicts[:3], 0.25) == 1.0:
        assert round_robin(4, SIX, verdicts, 0.5) == 1.0
    if verdicts[:3] == [F, F, F]:
        assert round_robin(4, SIX, verdicts, 0.5) == 0.0


@pytest.mark.parametrize(
    ("scores", "value"),
    [([3, 1, 2, 0], 1.0), ([3, 3, 2, 0], 0.5), ([1, 1, 1, 1], 0.25), ([2, 3, 1, 1], 0.0), ([0], 1.0)],
)
def test_best_of_scores_shares_the_maximum(scores: list[float], value: float) -> None:
    assert best_of_scores(scores) == value


# RM-Bench, rows are the chosen response's style (concise, detailed, markdown), columns the rejected one's:
#            concise  detailed  markdown
# concise       1        0         0        hard (above the diagonal): 0, 0, 1 → 1/3
# detailed      1        1         1        normal (on it):            1, 1, 0 → 2/3
# markdown      1        ½         0        easy (below it):           1, 1, ½ → 5/6
GRID: list[Outcome] = [T, F, F, T, T, T, T, N, F]


def test_the_nine_cells_of_rm_bench_by_hand() -> None:
    values = style_values(GRID, 0.5)
    assert values == pytest.approx({"hard": 1 / 3, "normal": 2 / 3, "easy": 5 / 6, "": (1 / 3 + 2 / 3 + 5 / 6) / 3})


@pytest.mark.parametrize(("row", "column"), list(itertools.product(range(3), range(3))))
def test_each_cell_of_rm_bench_counts_in_its_own_difficulty(row: int, column: int) -> None:
    one = [place == 3 * row + column for place in range(9)]
    values = style_values(one, 0.5)
    expected = "hard" if column > row else "normal" if column == row else "easy"
    assert {name for name, value in values.items() if value} == {expected, ""}
    assert values[expected] == pytest.approx(1 / 3) and values[""] == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("original", "swapped", "value"),
    [
        (T, T, 1.0), (T, N, 1.0), (N, T, 1.0),  # +2, +1, +1
        (T, F, 0.0), (F, T, 0.0), (N, N, 0.0),  # 0
        (F, N, 0.0), (N, F, 0.0), (F, F, 0.0),  # -1, -1, -2
    ],
)  # fmt: skip
def test_judgebench_adds_both_orders(original: Outcome, swapped: Outcome, value: float) -> None:
    assert sum_of_orders(original, swapped) == value


@pytest.mark.parametrize(
    ("votes", "winner"),
    [((T, T, F), T), ((F, F, T), F), ((T, F), N), ((T, N, N), T), ((N, N), N), ((), N), ((F,), F)],
)
def test_majority(votes: tuple[Outcome, ...], winner: Outcome) -> None:
    assert majority(votes) is winner


def test_an_answer_is_read_vote_by_vote_or_as_a_majority() -> None:
    answer = Answer(((T, F, T), ()), ((N, N, F), ()))
    assert answer.outcomes() == ((T, N), (F, N))
    assert answer.outcomes(1) == ((F, N), (N, N))


def test_mixed_takes_either_order_of_every_duel_and_depends_on_nothing_else() -> None:
    mixed = mix_orders((T,) * 400, (F,) * 400, 5, "item")
    assert 150 < sum(outcome is True for outcome in mixed) < 250
    assert mix_orders((T,) * 400, (F,) * 400, 5, "item") == mixed != mix_orders((T,) * 400, (F,) * 400, 6, "item")
    assert mix_orders((T,) * 3, (F,) * 3, 5, "item") == mixed[:3]


def test_an_average_weighs_its_strata_not_their_sizes() -> None:
    """(3 · ½ + 1 · 1) / 4 = 0.625, though six of seven values are 1."""
    average = Average("m", ((3.0, ("a", "b")), (1.0, ("c", "d", "e", "f", "g"))))
    values = {name: {"": float(name != "a"), "other": 0.0} for name in "abcdefg"}
    assert (average.value(values), average.count) == (0.625, 7)
    low, high = stratified_interval(average.weighted(values), 500, 1)
    # the second stratum is constant and the first has only means 0, ½ and 1
    assert (low, high) == pytest.approx((0.25, 1.0))
    constant = [(3.0, [0.0, 0.0]), (1.0, [1.0])]
    assert stratified_interval(constant, 500, 1) == (0.25, 0.25), "weights alone make no spread"
    assert Average("m", average.strata, "other").value(values) == 0.0
