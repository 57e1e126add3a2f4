"""Evaluation of a pointwise judge: every number against one worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rubric_arm_lite.cli.evaluate import evaluation_text
from rubric_arm_lite.evaluation.evaluate import AdapterPair, Evaluation, make_evaluator
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe.fields import EvaluationSettings
from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
from rubric_arm_lite.types import Example, PreferencePair, Rubric
from tests.players import PROMPTS, RUBRIC_TEXT, pair, recipe
from tests.pointwise_players import PointwiseSampler, Probability, checks
from tests.scripted import Written

POINTWISE = recipe(seed=11, reward={"judge": "pointwise"})
# p_true on both criteria of the chosen and of the rejected response of each pair.
TABLE = {"p": (0.9, 0.2), "q": (0.6, 0.8), "r": (0.7, 0.7), "s": (0.9, 0.6), "t": (0.9, 0.1)}
PAIRS = [pair("p", subset="one"), pair("q", subset="two"), pair("r", subset="three"), pair("s"), pair("t"), pair("u")]


def probability(response: str, rubric: Rubric, written: str) -> float:
    quality, name = response.split()
    return TABLE[name][0 if quality == "good" else 1]


def judge(response: str, rubric: Rubric, index: int) -> Written:
    """One response of pair t cannot be read."""
    return "no checks" if response == "poor t" else checks(rubric)


def generator(request: str, example: Example, index: int) -> Written:
    return "no rubric" if request == "request u" else RUBRIC_TEXT


def evaluated(scripted: PointwiseSampler, data: list[PreferencePair], votes: int = 1, **changes: Any) -> Evaluation:
    settings = EvaluationSettings.model_validate({"pairs": 9, "vote_pairs": 2, "bootstrap": 200, **changes})
    rubrics = RubricGenerator(scripted, PROMPTS, RubricCache(9))
    evaluator = make_evaluator(POINTWISE, rubrics, settings, data)
    return evaluator.evaluate("after", votes=votes)


@pytest.fixture
def scripted() -> PointwiseSampler:
    return PointwiseSampler(probability, judge, generator)


def test_values_by_hand(scripted: PointwiseSampler) -> None:
    """Scores are 2p − 1: margins 1.4, −0.4, 0, 0.6; t and u cannot be read and count ½. By words p alone differs:
    the others have all criteria true on both sides."""
    evaluation = evaluated(scripted, PAIRS)
    values = evaluation.values
    assert [row["accuracy"] for row in evaluation.rows] == [1, 0, 0.5, 1, 0.5, 0.5]
    assert values["accuracy"] == pytest.approx(3.5 / 6)
    assert values["accuracy_low"] <= values["accuracy"] <= values["accuracy_high"]
    assert [row["margin"] for row in evaluation.rows[:4]] == [pytest.approx(m) for m in (1.4, -0.4, 0.0, 0.6)]
    assert values["margin"] == pytest.approx(1.6 / 4) and values["tie_rate"] == pytest.approx(1 / 6)
    assert values["tie_rate_words"] == 3 / 6 and values["accuracy_words"] == pytest.approx((1 + 5 * 0.5) / 6)
    assert values["unparsed"] == pytest.approx(2 / 6) and values["format"] == pytest.approx((4 + 0.5) / 6)
    assert values["pairs"] == 6.0 and values["rubric_usable"] == pytest.approx(5 / 6)
    assert "position_bias" not in values and "consistency" not in values, "there is no order to measure"


def test_whether_the_rubrics_matter() -> None:
    """By scores: for a judge that reads the rubric the preferred response scores higher under its own one alone."""

    def own_rubric(request: str, example: Example, index: int) -> Written:
        return f"1. The response is about {request.split()[1]} [Principle]"

    def reads(response: str, rubric: Rubric, written: str) -> float:
        quality, name = response.split()
        return 0.9 if (quality == "good") == rubric.criteria[0].text.endswith(f" {name}") else 0.2

    def judged(p_true: Probability) -> dict[str, float]:
        return evaluated(PointwiseSampler(p_true, generator=own_rubric), PAIRS[:4]).values

    assert (judged(reads)["rubric_gain"], judged(reads)["verdicts_unchanged"]) == (1.0, 0.0)
    ignores = judged(probability)
    assert (ignores["rubric_gain"], ignores["rubric_gain_high"], ignores["verdicts_unchanged"]) == (0.0, 0.0, 1.0)


def test_rows_and_showcase_say_what_happened(scripted: PointwiseSampler) -> None:
    evaluation = evaluated(scripted, PAIRS, showcase=6)
    row = evaluation.rows[4]
    assert (row["chosen_score"], row["rejected_score"], row["margin"]) == (pytest.approx(0.8), None, None)
    shown = {item["pair_id"]: item for item in evaluation.showcase}
    assert [shown[f"id-{name}"]["winner"] for name in "pqrtu"] == ["A", "B", None, None, None]
    text = shown["id-p"]["judgement"]
    assert text.startswith("Response A: score +0.800\n- Criterion 1") and "Response B: score -0.600\n" in text
    assert "Response B: no score\nno checks" in shown["id-t"]["judgement"]
    assert shown["id-u"]["rubric_status"] == "malformed"


def test_votes_compare_mean_scores_and_sampled_form(scripted: PointwiseSampler) -> None:
    def sometimes(response: str, rubric: Rubric, index: int) -> Written:
        return checks(rubric) if index != 1 else "no checks"

    values = evaluated(PointwiseSampler(probability, sometimes), PAIRS[:3], votes=4).values
    assert evaluation_text(values, 0.5).count("\n") > len(values), "every value has its meaning"
    assert values["format_sampled"] == pytest.approx(3 / 4) and values["voting@4"] == 0.5


def test_other_players_and_what_they_cost(scripted: PointwiseSampler) -> None:
    settings = EvaluationSettings.model_validate({"pairs": 2, "vote_pairs": 1, "bootstrap": 50})
    rubrics = RubricGenerator(scripted, PROMPTS, RubricCache(9))
    evaluator = make_evaluator(POINTWISE, rubrics, settings, PAIRS)
    evaluation = evaluator.evaluate("base", AdapterPair(None, "judge_ref"))
    assert [call.adapter for call in scripted.calls] == [None, "judge_ref", "judge_ref"]
    rubrics, texts = 2 * (len(RUBRIC_TEXT) + 1), 4 * (len(checks(parse_rubric(RUBRIC_TEXT))) + 1)
    assert evaluation.values["tokens_per_pair"] == (rubrics + texts) / 2, "bytes and an end token each"
