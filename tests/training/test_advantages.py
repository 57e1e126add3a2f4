from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.training.advantages import group_advantages
from rubric_arm_lite.types import Reward

Scale = Literal["group", "none"]
MASKED = Reward(9.0, masked=True)


def of(*totals: float) -> list[Reward]:
    return [Reward(total) for total in totals]


@pytest.mark.parametrize(
    ("rewards", "scale", "values"),
    [
        # mean 0.5, squared deviations 4 · 0.25 = 1, standard deviation sqrt(1 / 3) = 0.577350
        (of(1, 0, 0, 1), "group", (0.865876, -0.865876, -0.865876, 0.865876)),
        (of(1, 0, 0, 1), "none", (0.5, -0.5, -0.5, 0.5)),
        # mean 0.25, deviations 0.75 and three times -0.25: squares 0.75, standard deviation 0.5
        (of(1, 0, 0, 0), "group", (1.499700, -0.499900, -0.499900, -0.499900)),
        (of(2, 1), "group", (0.707007, -0.707007)),
        (of(2, 1, 0), "none", (1.0, 0.0, -1.0)),
        ([*of(2), MASKED, *of(0)], "none", (1.0, None, -1.0)),
        ([MASKED, *of(1, 0, 0, 1)], "group", (None, 0.865876, -0.865876, -0.865876, 0.865876)),
    ],
)
def test_hand_computed_advantages(rewards: list[Reward], scale: Scale, values: tuple[float | None, ...]) -> None:
    result = group_advantages(rewards, scale)
    assert result.informative
    assert len(result.values) == len(values)
    for value, expected in zip(result.values, values, strict=True):
        assert (value is None) == (expected is None)
        assert value is None or expected is None or math.isclose(value, expected, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("rewards", "values"),
    [
        ([], ()),
        (of(1), (0.0,)),
        (of(1, 1, 1), (0.0, 0.0, 0.0)),
        (of(0.1, 0.1, 0.1), (0.0, 0.0, 0.0)),
        ([MASKED, MASKED], (None, None)),
        ([MASKED, *of(1)], (None, 0.0)),
        ([MASKED, *of(1, 1)], (None, 0.0, 0.0)),
    ],
)
def test_groups_without_spread_carry_no_gradient(rewards: list[Reward], values: tuple[float | None, ...]) -> None:
    scales: tuple[Scale, ...] = ("group", "none")
    for scale in scales:
        result = group_advantages(rewards, scale)
        assert (result.values, result.informative) == (values, False)


totals = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


@given(totals, st.sampled_from(["group", "none"]))
def test_advantages_are_centred_and_keep_the_order(group: list[float], scale: Scale) -> None:
    result = group_advantages(of(*group), scale)
    values = [value for value in result.values if value is not None]
    assert math.isclose(math.fsum(values), 0.0, abs_tol=1e-6)
    assert result.informative == (len(set(group)) > 1)
    for one, two in zip(sorted(zip(group, values, strict=True)), sorted(values), strict=True):
        assert math.isclose(one[1], two, abs_tol=1e-9)


@given(totals, st.data())
def test_masked_samples_leave_the_others_as_they_were(group: list[float], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(group)))
    rewards = of(*group)
    with_masked = [*rewards[:at], MASKED, *rewards[at:]]
    result = group_advantages(with_masked)
    assert result.values[at] is None
    assert result.values[:at] + result.values[at + 1 :] == group_advantages(rewards).values
