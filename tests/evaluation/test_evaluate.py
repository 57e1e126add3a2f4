"""Evaluation: every number against one worked by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.evaluation.evaluate import AdapterPair, Evaluation, Evaluator, make_evaluator
from rubric_arm_lite.evaluation.metrics import (
    bootstrap_interval,
    copied_criteria,
    rubric_statistics,
    topical_principles,
)
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe.fields import EvaluationSettings
from rubric_arm_lite.recipe.seeds import derive_seed
from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
from rubric_arm_lite.reward_model.verdict import majority
from rubric_arm_lite.types import Example, PreferencePair, Recall, Rubric, Side
from tests.players import PROMPTS, RUBRIC_TEXT, judgement, pair, recipe, right, sampler, says_a
from tests.scripted import ScriptedSampler, Written


def evaluator(
    scripted: ScriptedSampler, data: list[PreferencePair], recall: Recall | None = None, **changes: Any
) -> Evaluator:
    settings = EvaluationSettings.model_validate({"pairs": 300, "vote_pairs": 300, "bootstrap": 500, **changes})
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(300))
    return make_evaluator(recipe(seed=11), generator, settings, data, recall)


# What the judge says of each pair with the chosen response first, then second; None is an unreadable verdict.
VERDICTS: dict[str, tuple[Side | None, Side | None]] = {"p": ("A", "B"), "q": ("A", "A"), "r": (None, "B")}
PAIRS = [pair("p", subset="one"), pair("q", subset="two"), pair("r", subset="one"), pair("s")]


def by_table(a: str, b: str, rubric: Rubric, index: int) -> str:
    name = a.split()[1]
    winner = VERDICTS[name][0 if a.startswith("good") else 1]
    return "no verdict" if winner is None else judgement(rubric, winner)


def without_s(request: str, example: Example, index: int) -> Written:
    """The generator that has no rubric for the last pair's prompt."""
    return "no rubric" if request == "request s" else RUBRIC_TEXT


@pytest.fixture
def evaluation() -> Evaluation:
    return evaluator(sampler(by_table, without_s), PAIRS).evaluate("after")


def test_accuracies_by_hand(evaluation: Evaluation) -> None:
    """Original 1, 1, ½, ½; swapped 1, 0, 1, ½: what has no verdict counts ½."""
    values = evaluation.values
    assert [row["original"] for row in evaluation.rows] == [1, 1, 0.5, 0.5]
    assert [row["swapped"] for row in evaluation.rows] == [1, 0, 1, 0.5]
    assert values["accuracy_original"] == 0.75
    assert values["accuracy_swapped"] == 0.625
    assert values["accuracy"] == 0.6875
    assert values["accuracy_low"] <= 0.6875 <= values["accuracy_high"]
    mixed = [row["mixed"] for row in evaluation.rows]
    assert values["accuracy_mixed"] == sum(mixed) / 4
    three = (0.75, 0.625, sum(mixed) / 4)
    assert values["position_bias"] == max(three) - min(three)
    assert values["consistency"] == 0.25, "only the first pair gets one response named in both orders"
    assert values["unparsed"] == 3 / 8
    assert values["verdicts_for_a"] == 3 / 8
    assert values["format"] == 5 / 8
    assert values["pairs"] == 4.0


def test_rows_say_what_happened(evaluation: Evaluation) -> None:
    first, second, third, last = evaluation.rows
    assert (first["pair_id"], first["subset"], first["rubric"]) == ("id-p", "one", "ok")
    assert (second["original_winner"], second["swapped_winner"]) == ("A", "A")
    assert (third["original_winner"], third["original_format"], third["swapped_format"]) == (None, 0.0, 1.0)
    assert (last["rubric"], last["original_winner"], last["swapped_winner"]) == ("malformed", None, None)
    assert evaluation.name == "after"


@pytest.mark.parametrize(("value", "accuracy"), [(0.0, 0.5), (0.5, 0.6875), (1.0, 0.875)])
def test_the_recipe_says_what_an_unparsed_verdict_counts(value: float, accuracy: float) -> None:
    values = evaluator(sampler(by_table, without_s), PAIRS, unparsed_value=value).evaluate("e").values
    assert values["accuracy"] == accuracy


def test_mixed_takes_either_order_by_the_pair() -> None:
    """A judge that always says A is right in the original order only, so mixed shows which order was taken."""
    pairs = [pair(str(i)) for i in range(200)]
    rows = evaluator(sampler(says_a), pairs).evaluate("e").rows
    seed = derive_seed(11, "evaluation")
    expected = [random.Random(derive_seed(seed, "mixed", p.pair_id)).random() < 0.5 for p in pairs]
    assert [row["mixed"] for row in rows] == [float(x) for x in expected]
    assert 70 < sum(expected) < 130
    few = evaluator(sampler(says_a), pairs[5:9]).evaluate("e").rows
    assert [row["mixed"] for row in few] == [row["mixed"] for row in rows[5:9]], "and does not depend on the others"


def test_position_bias() -> None:
    pairs = [pair(str(i)) for i in range(50)]
    biased = evaluator(sampler(says_a), pairs).evaluate("e").values
    assert (biased["accuracy_original"], biased["accuracy_swapped"], biased["position_bias"]) == (1.0, 0.0, 1.0)
    assert (biased["accuracy"], biased["consistency"], biased["verdicts_for_a"]) == (0.5, 0.0, 1.0)
    other = evaluator(sampler(lambda a, b, rubric, i: judgement(rubric, "B")), pairs).evaluate("e").values
    assert (other["accuracy_original"], other["accuracy_swapped"], other["position_bias"]) == (0.0, 1.0, 1.0)
    perfect = evaluator(sampler(right), pairs).evaluate("e").values
    assert (perfect["accuracy"], perfect["position_bias"], perfect["consistency"]) == (1.0, 0.0, 1.0)
    assert (perfect["verdicts_for_a"], perfect["unparsed"], perfect["format"]) == (0.5, 0.0, 1.0)
    assert (perfect["accuracy_low"], perfect["accuracy_high"]) == (1.0, 1.0)


def test_mixed_counts_in_the_position_bias() -> None:
    """Right as A only on even pairs, as B only on odd ones: both orders reach ½, mixed what the draw gives."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        return judgement(rubric, "B" if int(a.split()[1]) % 2 else "A")

    values = evaluator(sampler(judge), [pair(str(i)) for i in range(10)]).evaluate("e").values
    assert values["accuracy_original"] == values["accuracy_swapped"] == 0.5 != values["accuracy_mixed"]
    assert values["position_bias"] == abs(values["accuracy_mixed"] - 0.5)


def test_no_usable_rubric_at_all() -> None:
    scripted = sampler(right, lambda request, example, index: "no rubric")
    values = evaluator(scripted, PAIRS).evaluate("e", votes=3).values
    assert scripted.prompts("judge") == []
    assert (values["accuracy"], values["position_bias"], values["unparsed"]) == (0.5, 0.0, 1.0)
    assert (values["rubric_usable"], values["rubric_criteria"], values["rubric_words"]) == (0.0, 0.0, 0.0)
    assert (values["voting@3"], values["format_sampled"]) == (0.5, 0.0)


# --- how it asks --------------------------------------------------------------------------------------------------


def test_rubrics_are_greedy_and_one_per_prompt() -> None:
    shared = [pair("a", prompt="request x"), pair("b", prompt="request x"), pair("c")]
    scripted = sampler(right)
    values = evaluator(scripted, shared, rubric_max_tokens=31, judge_max_tokens=47).evaluate("e").values
    first, second = scripted.calls[:2]
    assert (first.adapter, first.sampling) == ("rubric", Sampling(31, 1, 0.0))
    assert len(first.examples) == 2
    assert (second.adapter, second.sampling) == ("judge", Sampling(47, 1, 0.0))
    assert len(second.examples) == 6
    written = 2 * (len(RUBRIC_TEXT) + 1) + 6 * (len(judgement(parse_rubric(RUBRIC_TEXT), "A")) + 1)
    assert values["tokens_per_pair"] == written / 3, "sampled judgements for votes are not counted"


def test_a_sampled_judge() -> None:
    scripted = sampler(right)
    evaluator(scripted, PAIRS, judge_temperature=1.0).evaluate("e")
    assert scripted.calls[1].sampling.temperature == 1.0


def test_players_name_the_adapters() -> None:
    scripted = sampler(right)
    pairwise = evaluator(scripted, PAIRS[:1])
    pairwise.evaluate("e", AdapterPair("rubric_ref", "judge_ref"))
    pairwise.evaluate("e", AdapterPair(None, None))
    adapters = [call.adapter for call in scripted.calls]
    assert adapters == ["rubric_ref", "judge_ref", "judge_ref", None, None, None]


def test_it_is_the_same_every_time() -> None:
    """The same questions with the same seeds, whatever was evaluated before."""
    scripted = sampler(right)
    pairwise = evaluator(scripted, PAIRS)
    one = pairwise.evaluate("e", votes=3)
    scripted.fingerprints["rubric"] = "another"
    other = pairwise.evaluate("e", votes=3)
    half = len(scripted.calls) // 2
    assert scripted.calls[:half] == scripted.calls[half:]
    assert one == other


def test_only_so_many_pairs() -> None:
    assert evaluator(sampler(right), PAIRS, pairs=2).evaluate("e").values["pairs"] == 2.0


# --- votes --------------------------------------------------------------------------------------------------------


def test_voting_by_hand() -> None:
    """Three votes per pair and order. p: A A B, right as A, wrong as B. q: always right. r: A B and one unreadable."""
    votes: dict[str, tuple[str, str, str]] = {"p": ("A", "A", "B"), "r": ("A", "B", "")}

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        name = a.split()[1]
        if name == "q":
            return right(a, b, rubric, index)
        winner = votes[name][index]
        return judgement(rubric, winner) if winner else "no verdict"  # type: ignore[arg-type]

    scripted = sampler(judge, without_s)
    values = evaluator(scripted, PAIRS, vote_temperature=0.7, judge_max_tokens=50).evaluate("e", votes=3).values
    assert scripted.calls[-1].sampling == Sampling(50, 3, 0.7)
    correct = [1, 0, 1, 1, 0.5, 0.5, 0.5, 0.5]  # p, q, r and s, each as A and as B
    assert values["voting@3"] == sum(correct) / 8
    assert values["format_sampled"] == 16 / 18, "of the judgements there were"
    fewer = evaluator(sampler(judge, without_s), PAIRS, vote_pairs=2).evaluate("e", votes=3).values
    assert fewer["voting@3"] == 0.75


def test_without_votes_only_the_format_is_sampled(evaluation: Evaluation) -> None:
    assert not any(name.startswith("voting") for name in evaluation.values)
    assert evaluation.values["format_sampled"] == 5 / 6


@pytest.mark.parametrize(
    ("winners", "expected"),
    [
        (["A"], "A"),
        (["A", "B", "B"], "B"),
        (["A", "B"], None),
        (["A", None, None], "A"),
        ([None, None], None),
        ([], None),
        (["A", "B", "A", "B", None], None),
    ],
)
def test_majority(winners: list[Side | None], expected: Side | None) -> None:
    assert majority(winners) == expected


# --- statistics ---------------------------------------------------------------------------------------------------


def test_rubric_statistics_by_hand() -> None:
    rubrics = [
        parse_rubric("1. The response is short [Hard Rule]\n2. The response is kind [Principle]"),
        parse_rubric("1. The response is KIND [Principle]\n2. The response is kind [Principle]\n3. It is [Principle]"),
        parse_rubric("nothing"),
        parse_rubric("1. The response is short [Hard Rule]\n2. The response is kind [Principle]"),
    ]
    prompts = ["x", "y", "z", "x"]  # the last pair shares the first one's prompt
    values = rubric_statistics(prompts, rubrics, recall=lambda prompt, rubric: len(rubric.criteria) / 4)
    assert values == {
        "rubric_usable": pytest.approx(2 / 3),
        "rubric_criteria": 5 / 2,
        "rubric_duplicates": 1 / 5,
        "rubric_hard_rules": 1 / 5,
        "rubric_words": (4 + 4 + 4 + 4 + 2) / 2,
        "principle_recall": pytest.approx((2 / 4 + 3 / 4 + 0) / 3),
    }
    assert "principle_recall" not in rubric_statistics(prompts, rubrics)


def rubrics_of(*texts: str) -> list[Rubric]:
    """Rubrics of principles that are separated by a bar; an empty text is unusable."""
    return [
        parse_rubric("\n".join(f"{i}. {c} [Principle]" for i, c in enumerate(text.split(" | "), 1)) if text else "")
        for text in texts
    ]


def test_copied_criteria_by_hand() -> None:
    kind, short = rubrics_of("It is kind | It is short", "It is SHORT"), rubrics_of("It is short | It is new", "")
    # "kind" stands in no rubric of the other prompt, "short" in all; of the first prompt half have "kind".
    assert copied_criteria([kind, short]) == pytest.approx((0 + 1 + 1 + 1 + 0) / 5)
    assert copied_criteria([kind, short, rubrics_of("")]) == copied_criteria([kind, short])
    assert copied_criteria([kind]) == copied_criteria([]) == copied_criteria([rubrics_of("")]) == 0.0
    assert copied_criteria([kind, kind, kind]) == pytest.approx((0.5 + 1 + 1) / 3)


@given(st.lists(st.lists(st.sampled_from(["a", "a | b", "b | c", ""]), min_size=1, max_size=3), max_size=4))
def test_a_share_of_copied_criteria_is_one_whatever_the_order(texts: list[list[str]]) -> None:
    share = copied_criteria([rubrics_of(*own) for own in texts])
    assert 0.0 <= share <= 1.0
    assert copied_criteria([rubrics_of(*own) for own in reversed(texts)]) == pytest.approx(share)


def test_principles_that_name_things_of_their_prompt() -> None:
    prompts = ["Write about a river", "Write about a garden", "Write about old gardens"]
    river = rubrics_of("The response mentions the River | It is kind", "It is about kindness")
    garden, other = rubrics_of("The response mentions a river"), rubrics_of("About gardens")
    assert topical_principles(prompts, [river, garden, other]) == pytest.approx((1 + 0 + 0 + 0 + 1) / 5)
    assert topical_principles(prompts[:1], [river]) == 0.0, "of a single prompt, every word could be a common one"
    hard = [parse_rubric("1. It names a river [Hard Rule]")]
    assert topical_principles(prompts, [hard, hard, hard]) == topical_principles([], []) == 0.0


def own_rubric(request: str, example: Example, index: int) -> Written:
    return f"1. The response is about {request.split()[1]} [Principle]"


def test_whether_the_rubrics_matter() -> None:
    """A judge that reads the rubric, one that does not, and a generator that writes the same one for each prompt."""
    pairs = [pair(name) for name in "pqrs"]

    def reads(a: str, b: str, rubric: Rubric, index: int) -> str:
        right = rubric.criteria[0].text.endswith(f" {a.split()[1]}")
        return judgement(rubric, "A" if a.startswith("good") == right else "B")

    values = evaluator(sampler(reads, own_rubric), pairs, probes=3).evaluate("e").values
    assert values["rubric_gain"] == values["rubric_gain_high"] == 1.0 and values["verdicts_unchanged"] == 0.0
    values = evaluator(sampler(right, own_rubric), pairs).evaluate("e").values
    assert values["rubric_gain"] == values["rubric_gain_high"] == 0.0 and values["verdicts_unchanged"] == 1.0
    values = evaluator(sampler(reads), pairs).evaluate("e").values
    assert values["rubric_gain_high"] == 0.0 and "verdicts_unchanged" not in values
    for without in ({"probes": 0}, {}):
        silent = sampler(lambda a, b, rubric, i: "no verdict", own_rubric)
        values = evaluator(silent if not without else sampler(reads, own_rubric), pairs, **without).evaluate("e").values
        assert "rubric_gain" not in values
    scripted = sampler(right, own_rubric)
    evaluator(scripted, pairs, probes=2, vote_pairs=1).evaluate("e")
    assert len(scripted.prompts("judge")) == 2 * (4 + 2 + 1), "two are judged again, and one is sampled"


def test_bootstrap_interval() -> None:
    assert bootstrap_interval([0.5] * 20, 200, seed=1) == (0.5, 0.5)
    values = [0.0, 1.0] * 50
    low, high = bootstrap_interval(values, 4000, seed=1)
    assert bootstrap_interval(values, 4000, seed=1) == (low, high)
    odd = [float(i) ** 0.5 for i in range(100)]
    assert bootstrap_interval(odd, 50, seed=2) != bootstrap_interval(odd, 50, seed=1)
    # Half the width of a 95 % interval of a mean of 100 coin tosses: 1.96 · 0.5 / 10.
    assert low == pytest.approx(0.5 - 0.098, abs=0.012)
    assert high == pytest.approx(0.5 + 0.098, abs=0.012)
    assert np.isfinite([low, high]).all()


# --- showcase -----------------------------------------------------------------------------------------------------


def test_the_showcase_has_one_prompt_per_subset() -> None:
    shown = evaluator(sampler(by_table, without_s), PAIRS, showcase=3).evaluate("e").showcase
    assert [row["pair_id"] for row in shown] == ["id-p", "id-q", "id-s"]
    first, _, last = shown
    assert (first["prompt"], first["response_a"], first["response_b"]) == ("request p", "good p", "poor p")
    assert (first["preferred"], first["winner"], first["rubric"]) == ("A", "A", RUBRIC_TEXT)
    assert first["judgement"].endswith("Winner: Response A")
    assert (last["rubric_status"], last["judgement"], last["winner"]) == ("malformed", "", None)
    assert evaluator(sampler(by_table, without_s), PAIRS, showcase=0).evaluate("e").showcase == []


def test_recall_is_measured_and_shown() -> None:
    evaluation = evaluator(
        sampler(right), PAIRS[:2], recall=lambda prompt, rubric: float(prompt == "request p")
    ).evaluate("e")
    assert evaluation.values["principle_recall"] == 0.5
    assert [row["recall"] for row in evaluation.showcase] == [1.0, 0.0]
