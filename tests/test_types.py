from __future__ import annotations

import dataclasses
import math

import pytest

from rubric_arm_lite import types
from rubric_arm_lite.types import (
    Criterion,
    CriterionKind,
    ParseStatus,
    PreferencePair,
    Reward,
    Rubric,
    StepMetrics,
    other_side,
)

PAIR = PreferencePair("p", "x", chosen="good", rejected="bad")


def test_the_other_side() -> None:
    assert (other_side("A"), other_side("B")) == ("B", "A")


def test_a_pair_is_laid_out_in_either_order() -> None:
    one, two = PAIR.present("A"), PAIR.present("B")
    assert (one.comparison.response_a, one.comparison.response_b, one.preferred) == ("good", "bad", "A")
    assert (two.comparison.response_a, two.comparison.response_b, two.preferred) == ("bad", "good", "B")
    assert one.comparison.comparison_id == "p" and one.comparison.prompt == "x"
    assert one.comparison.swapped() == two.comparison and two.comparison.swapped() == one.comparison
    assert not hasattr(one.comparison, "preferred"), "what a judge may see has no label"


def test_a_rubric_renders_its_criteria_in_the_papers_form() -> None:
    criteria = (Criterion("The response is short", CriterionKind.HARD_RULE), Criterion("b", CriterionKind.PRINCIPLE))
    rubric = Rubric("as written", criteria, ParseStatus.OK)
    assert rubric.render() == "1. The response is short [Hard Rule]\n2. b [Principle]"
    assert rubric.usable
    assert not Rubric("", (), ParseStatus.TRUNCATED).usable


@pytest.mark.parametrize("total", [math.nan, math.inf, -math.inf])
def test_a_reward_is_finite(total: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Reward(total)


def test_every_value_is_frozen_and_slotted() -> None:
    found = [value for value in vars(types).values() if dataclasses.is_dataclass(value) and isinstance(value, type)]
    assert len(found) >= 13
    for value in found:
        assert value.__dataclass_params__.frozen, value  # type: ignore[attr-defined]
        assert "__slots__" in vars(value), value
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAIR.chosen = "bad"  # type: ignore[misc]


def test_metrics_do_not_share_their_default() -> None:
    assert StepMetrics().values is not StepMetrics().values
