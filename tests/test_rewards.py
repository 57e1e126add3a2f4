from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.config import RewardSettings
from rubric_arm_lite.parsing import parse_judgement
from rubric_arm_lite.rewards import accuracy_value, format_reward, is_correct, judge_reward, rubric_reward
from rubric_arm_lite.types import Comparison, Judgement, ParseStatus, PreferencePair, Rubric, Side, other_side
from tests.judgements import RUBRIC, any_text, write_judgement

PAIR = PreferencePair("p", "Write a note.", chosen="good", rejected="bad")
SIDES: tuple[Side, ...] = ("A", "B")
UNUSABLE = Rubric("?", (), ParseStatus.MALFORMED)


def verdict(winner: Side | None) -> Judgement:
    text = write_judgement(RUBRIC, {"A": "met.", "B": "met."}, winner or "A")
    return parse_judgement(text if winner else text.replace("Winner: Response A", "Winner: both"), RUBRIC)


def broken(winner: Side) -> Judgement:
    """A verdict in a judgement that lacks its gatekeeper line, one of seven parts."""
    lines = verdict(winner).text.split("\n")
    return parse_judgement("\n".join([lines[0], *lines[2:]]), RUBRIC)


@pytest.mark.parametrize("preferred", SIDES)
@pytest.mark.parametrize(("winner", "right"), [("A", "A"), ("B", "B"), (None, None)])
def test_a_verdict_is_right_or_not(winner: Side | None, right: Side | None, preferred: Side) -> None:
    comparison = PAIR.present(preferred)
    expected = right == preferred
    assert is_correct(verdict(winner), comparison) is expected
    unparsed = accuracy_value(verdict(winner), comparison, 0.5)
    assert unparsed == (0.5 if winner is None else float(expected))


@pytest.mark.parametrize(
    ("judgement", "settings", "total", "parts"),
    [
        (verdict("A"), RewardSettings(), 2.0, {"accuracy": 1.0, "format": 1.0}),
        (verdict("B"), RewardSettings(), 1.0, {"accuracy": 0.0, "format": 1.0}),
        (broken("A"), RewardSettings(), 1.0, {"accuracy": 1.0, "format": 0.0}),
        (broken("B"), RewardSettings(), 0.0, {"accuracy": 0.0, "format": 0.0}),
        (verdict(None), RewardSettings(), 0.0, {"accuracy": 0.0, "format": 0.0}),
        (verdict("A"), RewardSettings(format_weight=0.25), 1.25, {"accuracy": 1.0, "format": 1.0}),
        (verdict("A"), RewardSettings(format_weight=0.0), 1.0, {"accuracy": 1.0, "format": 1.0}),
        (broken("A"), RewardSettings(format_mode="graded"), 1 + 6 / 7, {"accuracy": 1.0, "format": 6 / 7}),
        (verdict(None), RewardSettings(format_mode="graded"), 6 / 7, {"accuracy": 0.0, "format": 6 / 7}),
        (parse_judgement("", RUBRIC), RewardSettings(format_mode="graded"), 0.0, {"accuracy": 0.0, "format": 0.0}),
    ],
)
def test_judge_reward(judgement: Judgement, settings: RewardSettings, total: float, parts: dict[str, float]) -> None:
    reward = judge_reward(judgement, RUBRIC, PAIR.present("A"), settings)
    assert reward.total == pytest.approx(total)
    assert dict(reward.parts) == pytest.approx(parts)
    assert not reward.masked


@pytest.mark.parametrize("mode", ["strict", "graded"])
def test_a_judgement_cut_by_length_earns_nothing(mode: str) -> None:
    cut = parse_judgement(verdict("A").text, RUBRIC, "length")
    assert format_reward(cut, RUBRIC, mode) == 0.0
    assert judge_reward(cut, RUBRIC, PAIR.present("A"), RewardSettings()).total == 0.0


@given(any_text, st.sampled_from(SIDES), st.sampled_from(["strict", "graded"]))
def test_rewards_are_bounded_for_any_text(text: str, preferred: Side, mode: str) -> None:
    settings = RewardSettings.model_validate({"format_mode": mode})
    reward = judge_reward(parse_judgement(text, RUBRIC), RUBRIC, PAIR.present(preferred), settings)
    assert 0.0 <= reward.total <= 2.0
    assert reward.total == sum(value for _, value in reward.parts)


@given(st.sampled_from(SIDES), st.sampled_from(SIDES), st.text("met or not.", min_size=1), st.text("xyz", min_size=1))
def test_swapped_presentation_mirrors_the_reward(preferred: Side, winner: Side, first: str, second: str) -> None:
    """The same judgement in the other order earns the same; the same text under the other order the opposite."""
    text = write_judgement(RUBRIC, {"A": first, "B": second}, winner)
    mirrored = write_judgement(RUBRIC, {"A": second, "B": first}, other_side(winner))
    here, there = PAIR.present(preferred), PAIR.present(other_side(preferred))
    settings = RewardSettings()
    original = judge_reward(parse_judgement(text, RUBRIC), RUBRIC, here, settings)
    assert judge_reward(parse_judgement(mirrored, RUBRIC), RUBRIC, there, settings) == original
    accuracy = dict(judge_reward(parse_judgement(text, RUBRIC), RUBRIC, there, settings).parts)["accuracy"]
    assert accuracy == 1.0 - dict(original.parts)["accuracy"]


@pytest.mark.parametrize(
    ("winners", "accuracy", "missing"),
    [
        (["A"], 1.0, False),
        (["B"], 0.0, False),
        ([None], 0.0, True),
        (["A", "B"], 0.5, False),
        (["A", None], 0.5, True),
        (["A", "A", "A", "B"], 0.75, False),
    ],
)
def test_rubric_reward_is_the_share_of_right_verdicts(
    winners: list[Side | None], accuracy: float, missing: bool
) -> None:
    verdicts: list[tuple[Comparison, Judgement]] = [(PAIR.present("A"), verdict(winner)) for winner in winners]
    counted = rubric_reward(RUBRIC, verdicts, RewardSettings(unparsed="zero"))
    assert (counted.total, dict(counted.parts), counted.masked) == (
        accuracy,
        {"accuracy": accuracy, "parsed": 1.0},
        False,
    )
    assert rubric_reward(RUBRIC, verdicts, RewardSettings(unparsed="mask")).masked is missing


def test_a_judge_that_always_says_a_earns_a_rubric_half_over_both_orders() -> None:
    verdicts = [(PAIR.present(side), verdict("A")) for side in SIDES]
    assert rubric_reward(RUBRIC, verdicts, RewardSettings()).total == 0.5


def test_a_rubric_that_did_not_parse_earns_nothing_and_is_not_judged() -> None:
    reward = rubric_reward(UNUSABLE, [], RewardSettings(unparsed="mask"))
    assert (reward.total, dict(reward.parts)["parsed"], reward.masked) == (0.0, 0.0, False)
    with pytest.raises(ValueError, match="cannot have verdicts"):
        rubric_reward(UNUSABLE, [(PAIR.present("A"), verdict("A"))], RewardSettings())


def test_a_usable_rubric_needs_a_verdict() -> None:
    with pytest.raises(ValueError, match="at least one verdict"):
        rubric_reward(RUBRIC, [], RewardSettings())
