"""Win rates at equal length and the alarm, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_arm_lite.training.policy.evaluate import Alarm, alarms, length_controlled


def test_length_is_taken_out_of_a_win_rate() -> None:
    # Ten answers are longer by 4 and win 8; ten are shorter by 4 and win 5. At difference 0 the logits are averaged:
    # a = (ln 4 + ln 1) / 2 = ln 2, so 2/3, where the plain rate is 13/20.
    preferences = [1.0] * 8 + [0.0] * 2 + [1.0] * 5 + [0.0] * 5
    policy, start = [9] * 10 + [5] * 10, [5] * 10 + [9] * 10
    assert length_controlled(preferences, policy, start) == pytest.approx(2 / 3, abs=2e-3)


def test_a_policy_that_only_got_longer_has_gained_less_than_it_seems() -> None:
    # Wins where it is longer by 8, loses where it is as long: at equal length there is little left.
    preferences = [1.0] * 15 + [0.0] * 5
    policy, start = [20] * 15 + [12] * 5, [12] * 20
    assert length_controlled(preferences, policy, start) < 0.2 < 0.75


def test_without_a_difference_in_length_it_is_the_plain_rate() -> None:
    assert length_controlled([1.0, 0.5, 0.0, 1.0], [7] * 4, [7] * 4) == 0.625
    assert length_controlled([1.0, 0.0], [9, 9], [7, 7]) == 0.5, "a constant difference cannot be told from quality"
    assert length_controlled([1.0] * 3, [1, 2, 3], [3, 2, 1]) == 1.0
    assert length_controlled([0.0] * 3, [1, 2, 3], [3, 2, 1]) == 0.0


def test_lengths_must_belong_to_the_preferences() -> None:
    with pytest.raises(ValueError, match="Got 2 preferences for 1 and 2 lengths"):
        length_controlled([1.0, 0.0], [1], [1, 2])
    with pytest.raises(ValueError, match="Got 0 preferences"):
        length_controlled([], [], [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 60), st.integers(0, 60)), min_size=1))
def test_it_is_a_share_and_mirrors(rows: list[tuple[float, int, int]]) -> None:
    preferences, policy, start = map(list, zip(*rows, strict=True))
    rate = length_controlled(preferences, policy, start)
    mirrored = length_controlled([1 - p for p in preferences], start, policy)
    assert math.isfinite(rate) and 0 <= rate <= 1
    assert rate + mirrored == pytest.approx(1, abs=1e-3)


def curve(*points: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of the log with both judges' win rates."""
    return [
        {"name": f"round {i}", "trained/win_rate": trained, "independent/win_rate": independent}
        for i, (trained, independent) in enumerate(points)
    ]


def test_the_alarm_goes_when_one_rises_and_the_other_falls() -> None:
    raised = alarms(curve((0.5, 0.5), (0.7, 0.65), (0.8, 0.60)), 0.03)
    assert raised == [Alarm("round 1", "round 2", pytest.approx(0.1), pytest.approx(0.05))]


@pytest.mark.parametrize(
    "points",
    [
        [(0.5, 0.5), (0.7, 0.6), (0.8, 0.7)],  # both rise
        [(0.5, 0.5), (0.7, 0.6), (0.7, 0.5)],  # only the independent judge falls
        [(0.5, 0.5), (0.6, 0.4), (0.5, 0.4)],  # both are back, nothing gained since the best
        [(0.5, 0.5), (0.6, 0.48)],  # within the margin
        [(0.5, 0.5)],
        [],
    ],
)
def test_no_alarm(points: list[tuple[float, float]]) -> None:
    assert [a for a in alarms(curve(*points), 0.03) if a.at == f"round {len(points) - 1}"] == []


def test_a_slow_decline_is_measured_from_the_best() -> None:
    raised = alarms(curve((0.5, 0.5), (0.6, 0.6), (0.62, 0.585), (0.64, 0.57)), 0.03)
    assert [(a.since, a.at) for a in raised] == [("round 1", "round 3")]


def test_of_equally_good_rounds_the_one_with_less_reward_is_compared() -> None:
    raised = alarms(curve((0.7, 0.6), (0.6, 0.6), (0.72, 0.5)), 0.03)
    assert [(a.since, a.at, round(a.gained, 3)) for a in raised] == [("round 1", "round 2", 0.12)]


def test_a_margin_of_nothing_still_needs_a_rise_and_a_fall() -> None:
    assert alarms(curve((0.5, 0.5), (0.5, 0.5)), 0.0) == []
    assert len(alarms(curve((0.5, 0.5), (0.51, 0.49)), 0.0)) == 1
