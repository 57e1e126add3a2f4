"""Faithfulness: whether verdicts follow from the findings of their own judgement."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.data.testbed.preference import known_task
from rubric_arm_lite.data.testbed.trajectories import write_judgement as write_world_judgement
from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.evaluation.metrics import faithfulness, follows_findings, follows_justification
from rubric_arm_lite.prompts.parsing import parse_judgement, parse_rubric
from rubric_arm_lite.recipe.fields import RewardSettings
from rubric_arm_lite.recipe.load import load_recipe
from rubric_arm_lite.reward_model.verdict import Answer
from rubric_arm_lite.training.rewards import judge_reward
from rubric_arm_lite.types import Comparison, LabeledComparison, ParseStatus, Rubric, Side, other_side
from tests.judgements import RUBRIC, any_text, write_judgement
from tests.players import blocks, recipe, right, sampler
from tests.training.test_phases import judge_phase, rollout

ONE = parse_rubric("1. The response is short [Hard Rule]")


@pytest.mark.parametrize(
    ("finding_a", "finding_b", "better"),
    [
        ("it is met.", "it is missed.", "A"),
        ("it is not met.", "it is satisfied.", "B"),
        ("it is met.", "it is met.", None),  # equal: any verdict is compatible
        ("it is missed.", "it is missed.", None),
        ("it is met.", "it is partly met.", None),  # a hedge is no finding
        ("it is met.", "three words.", None),
    ],
)
@pytest.mark.parametrize("rubric", [ONE, RUBRIC])
def test_a_verdict_follows_or_contradicts(finding_a: str, finding_b: str, better: Side | None, rubric: Rubric) -> None:
    for winner in ("A", "B"):
        text = write_judgement(rubric, {"A": finding_a, "B": finding_b}, winner)
        expected = None if better is None else winner == better
        assert follows_findings(parse_judgement(text, rubric), rubric) is expected


def test_criteria_that_disagree_decide_nothing() -> None:
    """A meets one criterion, B the other: which weighs more is the judge's to say."""
    text = write_judgement(RUBRIC, {"A": "met.", "B": "missed."}, "A").split("\n")
    at = [i for i, line in enumerate(text) if line.startswith("- Criterion 2")]
    text[at[0]], text[at[1]] = text[at[1]], text[at[0]]
    assert follows_findings(parse_judgement("\n".join(text), RUBRIC), RUBRIC) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [line for line in lines if not line.startswith("- Criterion 2")],
        lambda lines: [*lines[:5], lines[4], *lines[5:]],  # a criterion twice
        lambda lines: [line.replace("[Principle]", "[Hard Rule]") for line in lines],
        lambda lines: lines[:-1],  # no winner
    ],
)
def test_what_is_not_whole_is_not_counted(change: object) -> None:
    lines = write_judgement(RUBRIC, {"A": "met.", "B": "missed."}, "B").split("\n")
    assert follows_findings(parse_judgement("\n".join(lines), RUBRIC), RUBRIC) is False
    assert callable(change)
    assert follows_findings(parse_judgement("\n".join(change(lines)), RUBRIC), RUBRIC) is None


@given(st.integers(0, 10_000), st.booleans())
def test_a_careful_judge_is_faithful_and_one_that_turns_its_verdict_is_not(seed: int, hard: bool) -> None:
    """In the world hard rules weigh 2: a judge that adds up its findings never contradicts them."""
    world, rng = World(seed % 7), random.Random(seed)
    pair = rng.choice(world.blocks("test", 8)).pairs[0]
    rubric = world.true_rubric(known_task(world, pair.prompt))
    text = write_world_judgement(rubric, pair.chosen, pair.rejected)
    judgement = parse_judgement(text, rubric)
    follows = follows_findings(judgement, rubric)
    assert follows in (True, None)
    assert judgement.winner is not None
    turned = write_world_judgement(rubric, pair.chosen, pair.rejected, winner=other_side(judgement.winner))
    assert follows_findings(parse_judgement(turned, rubric), rubric) is (None if follows is None else False)


def test_the_short_form_quotes_its_findings() -> None:
    """The judge that an update destroyed found the right words, and wrote the same tally whatever it had found."""
    text = '--- Final Judgment ---\n1 short: A none, B "Yes.".\n2 kind: A none, B none.\nJustification: A 1, B 0.\n'
    for winner, follows in (("A", False), ("B", True)):
        judgement = parse_judgement(f"{text}Winner: Response {winner}", RUBRIC)
        assert judgement.status is ParseStatus.OK and follows_findings(judgement, RUBRIC) is follows


@given(any_text)
def test_any_text_has_a_value(text: str) -> None:
    assert follows_findings(parse_judgement(text, RUBRIC), RUBRIC) in (True, False, None)


def test_shares_by_hand() -> None:
    assert faithfulness([True, True, False, None]) == {"faithfulness": pytest.approx(2 / 3), "findings_decide": 0.75}
    assert faithfulness([None, None]) == {"findings_decide": 0.0}, "no share of nothing"
    assert faithfulness([]) == {"findings_decide": 0.0}


def test_a_pointwise_answer_against_its_justification() -> None:
    criterion = ONE.criteria[0]
    assert follows_justification(Answer(criterion, 0.9, 0.1, "three words, is met.")) is True
    assert follows_justification(Answer(criterion, 0.2, 0.8, "three words, is met.")) is False
    assert follows_justification(Answer(criterion, 0.2, 0.8, "it is missed.")) is True
    assert follows_justification(Answer(criterion, 0.9, 0.1, "three words")) is None


# --- in training ------------------------------------------------------------------------------------------------------


def test_a_verdict_against_its_findings_can_lose_the_format_reward() -> None:
    labeled = LabeledComparison(Comparison("p", "Write a note.", "good", "bad"), "A")
    texts = {winner: write_judgement(RUBRIC, {"A": "missed.", "B": "met."}, winner) for winner in ("A", "B")}
    totals = {}
    for faithful in (False, True):
        settings = RewardSettings(faithful=faithful, format_weight=0.5)
        rewards = [judge_reward(parse_judgement(text, RUBRIC), RUBRIC, labeled, settings) for text in texts.values()]
        totals[faithful] = [reward.total for reward in rewards]
    assert totals == {False: [1.5, 0.5], True: [1.0, 0.5]}, "the right verdict, which its findings deny, earns no form"


def test_a_judge_phase_logs_both_shares() -> None:
    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        if index == 2:
            return right(a, b, rubric, index)  # its findings favor neither response
        return write_judgement(rubric, {"A": "met.", "B": "missed."}, "A" if index else "B")

    scripted = sampler(judge)
    phase = judge_phase(scripted, recipe())
    rollout(phase, scripted, blocks(2), n=3)
    values = phase.metrics()
    assert (values["findings/followed"], values["findings/contradicted"]) == (0.5, 0.5)


def test_a_pointwise_judge_has_no_verdict_to_follow() -> None:
    with pytest.raises(ConfigError, match=r"reward\.faithful: true is for verdicts between two responses"):
        load_recipe("arrow-testbed", ["reward.faithful=true"])
