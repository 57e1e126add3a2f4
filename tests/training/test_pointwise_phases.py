"""The two pointwise phases: groups in pairs, exact scores of the judge's own samples, rewards by hand."""

from __future__ import annotations

from typing import Any

import pytest

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
from rubric_arm_lite.reward_model.judge import make_judge, pointwise_judge
from rubric_arm_lite.training.phases import JudgePhase, RubricPhase, make_phases
from rubric_arm_lite.types import Example, Reward, RolloutGroup, Rubric
from tests.players import PROMPTS, block, blocks, recipe, sampler, section, totals
from tests.pointwise_players import PointwiseSampler, checks
from tests.scripted import Written

POINTWISE = {"judge": "pointwise", "rubric_attempts": 1}


def judge_phase(scripted: PointwiseSampler, **reward: Any) -> JudgePhase:
    settings = recipe(reward={**POINTWISE, **reward})
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(9))
    return JudgePhase(settings, generator, pointwise_judge(settings, scripted, PROMPTS))


def rubric_phase(scripted: PointwiseSampler, **reward: Any) -> RubricPhase:
    settings = recipe(reward={**POINTWISE, **reward})
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(9))
    return RubricPhase(settings, generator, pointwise_judge(settings, scripted, PROMPTS))


def played(
    phase: JudgePhase | RubricPhase, scripted: PointwiseSampler, count: int = 1, n: int = 2
) -> tuple[list[RolloutGroup], list[list[Reward]]]:
    groups = scripted.sample(phase.role, phase.prepare(blocks(count), 3), Sampling(90, n))
    return groups, phase.score(groups, 3)


def answer(group: RolloutGroup) -> str:
    return section("response", group.example.prompt)


# --- judge ----------------------------------------------------------------------------------------------------------


def test_each_pair_is_two_groups_that_show_one_response_each() -> None:
    scripted = PointwiseSampler()
    examples = judge_phase(scripted).prepare(blocks(8), 3)
    assert len(examples) == 16
    firsts = set()
    for one, two in zip(examples[::2], examples[1::2], strict=True):
        assert one.comparisons == two.comparisons and one.rubric == two.rubric and one.seed != two.seed
        shown = [section("response", e.prompt) for e in (one, two)]
        comparison = one.comparisons[0].comparison
        assert shown == [comparison.response_a, comparison.response_b]
        assert {text.split()[0] for text in shown} == {"good", "poor"}
        firsts.add(shown[0].split()[0])
    assert firsts == {"good", "poor"}, "which response comes first says nothing of the label"


def test_rewards_of_a_judge_that_is_right_and_of_one_that_is_not() -> None:
    right = PointwiseSampler()
    _, rewards = played(judge_phase(right), right, 2)
    assert totals(rewards) == [[1, 1]] * 4
    wrong = PointwiseSampler(lambda response, rubric, written: 0.1 if response.startswith("good") else 0.8)
    _, rewards = played(judge_phase(wrong), wrong, 2)
    assert totals(rewards) == [[-1, -1]] * 4
    tied = PointwiseSampler(lambda response, rubric, written: 0.7)
    assert totals(played(judge_phase(tied), tied)[1]) == [[-1, -1]] * 2


def test_each_sample_is_scored_by_what_it_wrote_itself() -> None:
    """Sample 0 says `high` and scores 0.8 on both responses, sample 1 says `low` and scores −0.6 on both: the means
    are 0.1, so on the chosen response only the first is above, on the other only the second below."""

    def judge(response: str, rubric: Rubric, index: int) -> Written:
        return checks(rubric, said="high" if index == 0 else "low")

    def probability(response: str, rubric: Rubric, written: str) -> float:
        return 0.9 if written.endswith("high Answer:") else 0.2

    scripted = PointwiseSampler(probability, judge)
    groups, rewards = played(judge_phase(scripted), scripted)
    expected = {"good": [1, -1], "poor": [-1, 1]}
    assert totals(rewards) == [expected[answer(group).split()[0]] for group in groups]
    assert len(scripted.questions) == 8, "two criteria, in two texts, on two responses"
    assert dict(rewards[0][0].parts)["format"] == 1.0


def test_a_broken_form_earns_minus_one_and_is_in_no_mean() -> None:
    def judge(response: str, rubric: Rubric, index: int) -> Written:
        return "no checks" if index == 1 else checks(rubric)

    scripted = PointwiseSampler(judge=judge)
    phase = judge_phase(scripted)
    assert totals(played(phase, scripted)[1]) == [[1, -1]] * 2
    values = phase.metrics()
    assert values["parse/malformed"] == 0.5 and values["answers/true"] == 1.0 and values["rubrics/usable"] == 1.0
    cut = PointwiseSampler(judge=lambda response, rubric, index: (checks(rubric), "length"))
    assert totals(played(judge_phase(cut), cut)[1]) == [[-1, -1]] * 2 and not cut.questions


def test_where_the_other_side_cannot_be_read_the_form_still_pays() -> None:
    def judge(response: str, rubric: Rubric, index: int) -> Written:
        return checks(rubric) if response.startswith("good") and index == 0 else "no checks"

    scripted = PointwiseSampler(judge=judge)
    groups, rewards = played(judge_phase(scripted), scripted)
    expected = {"good": [0, -1], "poor": [-1, -1]}
    assert totals(rewards) == [expected[answer(group).split()[0]] for group in groups]


def test_a_prompt_without_a_usable_rubric_is_left_out() -> None:
    scripted = PointwiseSampler(generator=lambda request, example, index: "no rubric")
    phase = judge_phase(scripted)
    assert phase.prepare(blocks(2), 3) == [] and phase.score([], 3) == []
    assert phase.metrics()["rubrics/unusable"] == 1.0


def test_a_backend_without_probabilities_says_so() -> None:
    with pytest.raises(BackendError, match="does not give the probabilities"):
        pointwise_judge(recipe(), sampler(), PROMPTS).read([])


# --- generator ------------------------------------------------------------------------------------------------------


def test_a_rubric_earns_by_the_frozen_greedy_judge() -> None:
    """Only under a rubric that says `kind` does the judge score the chosen response higher."""

    def generator(request: str, example: Example, index: int) -> Written:
        return ["1. The response is kind [Principle]", "1. The response is blue [Principle]", "no rubric"][index]

    def probability(response: str, rubric: Rubric, written: str) -> float:
        return 0.9 if response.startswith("good") == ("kind" in rubric.criteria[0].text) else 0.2

    scripted = PointwiseSampler(probability, generator=generator)
    phase = rubric_phase(scripted)
    _, rewards = played(phase, scripted, n=3)
    assert totals(rewards) == [[1, -1, -1]]
    call = scripted.calls[-1]
    assert call.adapter == "judge" and call.sampling.temperature == 0.0 and len(call.examples) == 4
    values = phase.metrics()
    assert values["scores/read"] == 1.0 and values["criteria"] == 1.0 and values["parse/ok"] == 2 / 3


def test_several_pairs_are_averaged_and_equal_prompts_asked_once() -> None:
    def probability(response: str, rubric: Rubric, written: str) -> float:
        return 0.9 if response.startswith("good") != response.endswith("0") else 0.2

    scripted = PointwiseSampler(probability)
    phase = rubric_phase(scripted)
    groups = scripted.sample("rubric", phase.prepare([block("x", 4)], 3), Sampling(90, 2))
    assert totals(phase.score(groups, 3)) == [[0.5, 0.5]], "three of four pairs: (3 − 1) / 4"
    assert len(scripted.calls[-1].examples) == 8, "both samples are the same rubric"


@pytest.mark.parametrize(("unparsed", "masked"), [("zero", False), ("mask", True)])
def test_a_judge_that_cannot_be_read(unparsed: str, masked: bool) -> None:
    scripted = PointwiseSampler(judge=lambda response, rubric, index: "no checks")
    phase = rubric_phase(scripted, unparsed=unparsed)
    _, rewards = played(phase, scripted)
    assert [(r.total, r.masked) for r in rewards[0]] == [(-1, masked)] * 2
    assert phase.metrics()["scores/unread"] == 1.0


def test_sampled_judgements_are_averaged() -> None:
    scripted = PointwiseSampler(judge=lambda response, rubric, index: checks(rubric) if index else "no checks")
    phase = rubric_phase(scripted, judge_samples=3)
    _, rewards = played(phase, scripted)
    assert totals(rewards) == [[1, 1]], "the mean is over what can be read"
    assert scripted.calls[-1].sampling.temperature == 1.0 and scripted.calls[-1].sampling.num_generations == 3


# --- the choice -----------------------------------------------------------------------------------------------------


def test_the_recipe_chooses_the_form() -> None:
    scripted = PointwiseSampler()
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(9))
    pair = block("x").pairs[0]
    rubric = generator.write([pair.prompt], Sampling(9), 0)[0]
    for form, prompts, counted in (("pairwise", 1, "verdicts/none"), ("pointwise", 2, "answers/true")):
        settings = recipe(reward={"judge": form})
        phases = make_phases(settings, generator)
        assert counted in phases["judge"].metrics() and len(phases["judge"].prepare([block("x")], 0)) == prompts
        shown = make_judge(settings, scripted, PROMPTS).user_prompts(pair.present("A").comparison, rubric, "original")
        assert len(shown) == prompts
