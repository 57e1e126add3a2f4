from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.evaluation.metrics import format_reward
from rubric_arm_lite.prompts.parsing import parse_judgement
from rubric_arm_lite.recipe.fields import RewardSettings
from rubric_arm_lite.reward_model.verdict import PointwiseScore, PointwiseVerdict, Verdict, margin_accuracy
from rubric_arm_lite.training.rewards import (
    judge_reward,
    pointwise_judge_rewards,
    pointwise_rubric_rewards,
    rubric_reward,
)
from rubric_arm_lite.types import (
    Judgement,
    LabeledComparison,
    ParseStatus,
    PreferencePair,
    Rubric,
    Side,
    other_side,
)
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
@pytest.mark.parametrize("winner", ["A", "B", None])
def test_a_verdict_is_right_or_not(winner: Side | None, preferred: Side) -> None:
    judged = Verdict(RUBRIC, original=(verdict(winner),))
    assert judged.correct(preferred) == float(winner == preferred)
    assert judged.correct(preferred, unparsed=0.5) == (0.5 if winner is None else float(winner == preferred))


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
    verdicts = [(PAIR.present("A"), Verdict(RUBRIC, original=(verdict(winner),))) for winner in winners]
    votes = [(PAIR.present("A"), Verdict(RUBRIC, original=tuple(map(verdict, winners))))]
    assert rubric_reward(RUBRIC, votes, RewardSettings()) == rubric_reward(RUBRIC, verdicts, RewardSettings())
    counted = rubric_reward(RUBRIC, verdicts, RewardSettings(unparsed="zero"))
    assert (counted.total, dict(counted.parts), counted.masked) == (
        accuracy,
        {"accuracy": accuracy, "parsed": 1.0},
        False,
    )
    assert rubric_reward(RUBRIC, verdicts, RewardSettings(unparsed="mask")).masked is missing


def test_a_judge_that_always_says_a_earns_a_rubric_half_over_both_orders() -> None:
    verdicts = [(PAIR.present(side), Verdict(RUBRIC, original=(verdict("A"),))) for side in SIDES]
    assert rubric_reward(RUBRIC, verdicts, RewardSettings()).total == 0.5


def test_a_rubric_that_did_not_parse_earns_nothing_and_is_not_judged() -> None:
    reward = rubric_reward(UNUSABLE, [], RewardSettings(unparsed="mask"))
    assert (reward.total, dict(reward.parts)["parsed"], reward.masked) == (0.0, 0.0, False)
    with pytest.raises(ValueError, match="cannot have verdicts"):
        rubric_reward(UNUSABLE, [(PAIR.present("A"), Verdict(UNUSABLE, (verdict("A"),)))], RewardSettings())


def test_a_usable_rubric_needs_a_verdict() -> None:
    with pytest.raises(ValueError, match="at least one verdict"):
        rubric_reward(RUBRIC, [], RewardSettings())


# --- pointwise (RUBRIC-ARROW) ---------------------------------------------------------------------------------------


def test_a_pointwise_judge_is_measured_against_the_other_side_s_mean() -> None:
    """Means: 0.3 on A (0.6, 0.0), −0.1 on B (0.2, −0.4; the broken one does not count)."""
    a, b = [0.6, 0.0], [0.2, -0.4, None]
    on_a, on_b = pointwise_judge_rewards(a, b, PAIR.present("A"))
    assert [r.total for r in on_a] == [1.0, 1.0], "0.6 and 0.0 are both above −0.1"
    assert [r.total for r in on_b] == [1.0, 1.0, -1.0], "0.2 and −0.4 are both below 0.3"
    on_a, on_b = pointwise_judge_rewards(a, b, PAIR.present("B"))
    assert [r.total for r in on_a] == [-1.0, -1.0] and [r.total for r in on_b] == [-1.0, -1.0, -1.0]
    assert dict(on_b[2].parts) == {"accuracy": 0.0, "format": 0.0} and dict(on_b[0].parts)["format"] == 1.0


def test_equal_scores_beat_nothing_and_without_another_side_there_is_nothing_to_beat() -> None:
    for side in SIDES:
        on_a, on_b = pointwise_judge_rewards([0.5, 0.5 + 1e-8], [0.5], PAIR.present(side))
        assert [r.total for r in (*on_a, *on_b)] == [-1.0] * 3, "rounding decides nothing"
        on_a, on_b = pointwise_judge_rewards([0.9, None], [None, None], PAIR.present(side))
        assert [r.total for r in on_a] == [0.0, -1.0] and [r.total for r in on_b] == [-1.0, -1.0]


@given(
    st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=1, max_size=6),
    st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=1, max_size=6),
)
def test_exchanging_the_responses_exchanges_the_rewards(a: list[float | None], b: list[float | None]) -> None:
    one, two = pointwise_judge_rewards(a, b, PAIR.present("A"))
    assert (two, one) == pointwise_judge_rewards(b, a, PAIR.present("B"))
    assert {r.total for r in (*one, *two)} <= {-1.0, 0.0, 1.0}


def rubric_of(items: int) -> Rubric:
    return Rubric("", RUBRIC.criteria[:1] * items, ParseStatus.OK)


def with_scores(a: float | None, b: float | None) -> PointwiseVerdict:
    """A verdict of one score per response."""
    first, second = (PointwiseScore(value, (), RUBRIC, "", ParseStatus.OK) for value in (a, b))
    return PointwiseVerdict(RUBRIC, (first,), (second,))


def scored(*margins: float | None) -> list[tuple[LabeledComparison, PointwiseVerdict]]:
    """Comparisons with the preferred response as A, scored above the other one by so much."""
    return [(PAIR.present("A"), with_scores(margin, None if margin is None else 0.0)) for margin in margins]


def test_a_pointwise_rubric_earns_by_the_order_of_scores() -> None:
    rubrics = [rubric_of(2), rubric_of(2), rubric_of(2), rubric_of(2), UNUSABLE]
    cases = [scored(0.1), scored(-0.1), scored(0.0), scored(0.1, 0.2, -0.3, 0.4), []]
    rewards = pointwise_rubric_rewards(rubrics, cases, RewardSettings())
    assert [r.total for r in rewards] == [1.0, -1.0, -1.0, 0.5, -1.0]
    assert dict(rewards[3].parts) == {"accuracy": 0.75, "short": 0.0, "parsed": 1.0}
    swapped = [(PAIR.present("B"), with_scores(0.0, 0.1))]
    assert pointwise_rubric_rewards([rubric_of(1)], [swapped], RewardSettings())[0].total == 1.0


def test_the_shortest_right_rubrics_earn_more_once_right_ones_are_long() -> None:
    """Right ones have 4, 4 and 7 items: 5 on average, so both of 4 get 0.1; a wrong one of 1 item gets nothing."""
    rubrics = [rubric_of(4), rubric_of(7), rubric_of(1), rubric_of(4), UNUSABLE]
    cases = [scored(0.1), scored(0.1), scored(-0.1), scored(0.2), []]
    rewards = pointwise_rubric_rewards(rubrics, cases, RewardSettings())
    assert [r.total for r in rewards] == pytest.approx([1.1, 1.0, -1.0, 1.1, -1.0])
    assert [dict(r.parts)["short"] for r in rewards] == [0.1, 0.0, 0.0, 0.1, 0.0]
    shorter = pointwise_rubric_rewards([rubric_of(4), rubric_of(5)], cases[:2], RewardSettings())
    assert [r.total for r in shorter] == [1.0, 1.0], "4.5 items on average are few enough"
    other = RewardSettings(short_bonus=0.5, short_from=4)
    assert [r.total for r in pointwise_rubric_rewards([rubric_of(4), rubric_of(5)], cases[:2], other)] == [1.5, 1.0]
    partly = pointwise_rubric_rewards([rubric_of(9)], [scored(0.1, -0.1)], RewardSettings())
    assert partly[0].total == 0.0, "right is right on every comparison"


def test_a_score_that_is_missing() -> None:
    rubrics, cases = [rubric_of(9), rubric_of(9)], [scored(0.1, None), scored(0.1)]
    wrong = pointwise_rubric_rewards(rubrics, cases, RewardSettings())
    assert [(r.total, r.masked) for r in wrong] == [(0.0, False), (1.1, False)]
    masked = pointwise_rubric_rewards(rubrics, cases, RewardSettings(unparsed="mask"))
    assert [r.masked for r in masked] == [True, False]
    with pytest.raises(ValueError, match="if it is judged, else none"):
        pointwise_rubric_rewards([UNUSABLE], [scored(0.1)], RewardSettings())
    with pytest.raises(ValueError, match="at least one scored comparison"):
        pointwise_rubric_rewards([rubric_of(1)], [[]], RewardSettings())


def test_margins() -> None:
    assert with_scores(0.5, 0.2).margin == pytest.approx(0.3) and with_scores(0.5, 0.2).winner == "A"
    assert with_scores(0.2, 0.5).correct("B") == 1.0 and with_scores(0.2, 0.5).correct("A") == 0.0
    assert with_scores(None, 0.2).margin is None and with_scores(None, 0.2).correct("A", unparsed=0.25) == 0.25
    assert with_scores(0.2, 0.2 + 1e-9).winner is None and with_scores(0.2, 0.2).correct("B") == 0.5
    assert [margin_accuracy(m, 0.25) for m in (0.3, -0.3, 1e-9, None)] == [1.0, 0.0, 0.5, 0.25]
