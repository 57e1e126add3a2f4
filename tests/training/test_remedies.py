"""What keeps a judge phase from destroying its judge: orders, silent pairs, repeated criteria, the learning rate."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rubric_arm_lite.models.shared_prefix.batching import Row
from rubric_arm_lite.prompts import parse_judgement, parse_rubric
from rubric_arm_lite.recipe import GRPOSettings
from rubric_arm_lite.training.advantages import advantages_by_group, group_advantages
from rubric_arm_lite.training.alternating import rollout_step
from rubric_arm_lite.training.learner import Learner, entropy_weight
from rubric_arm_lite.training.phases import is_silent
from rubric_arm_lite.training.schedule import learning_rate_factor
from rubric_arm_lite.types import Example, Reward, Rubric
from tests import tiny
from tests.judgements import write_judgement
from tests.players import RUBRIC_TEXT, block, blocks, judgement, recipe, right, sampler, says_a, totals
from tests.scripted import Written
from tests.training.test_phases import judge_phase, rollout, rubric_phase

BOTH = {"pair_orders": "both", "format_weight": 0.0}


# --- both orders of a pair in one group -------------------------------------------------------------------------------


def test_both_orders_of_a_pair_stand_side_by_side() -> None:
    examples = judge_phase(sampler(), recipe(reward=BOTH)).prepare([block("x", pairs=2), block("y")], seed=3)
    assert [e.example_id for e in examples] == ["id-x0 A", "id-x0 B", "id-x1 A", "id-x1 B", "id-y0 A", "id-y0 B"]
    assert [e.group for e in examples] == ["id-x0", "id-x0", "id-x1", "id-x1", "id-y0", "id-y0"]
    assert [e.comparisons[0].preferred for e in examples] == ["A", "B"] * 3
    assert len({e.seed for e in examples}) == len({e.prompt for e in examples}) == 6


def test_a_judge_that_always_says_a_has_a_gradient_in_both_orders_only() -> None:
    """In one order all samples of a group earn the same: nothing would ever change it."""
    one, both = recipe(reward={"format_weight": 0.0}), recipe(reward=BOTH)
    for settings, informative in ((one, False), (both, True)):
        scripted = sampler(says_a)
        step = rollout_step(settings, judge_phase(scripted, settings), blocks(6), scripted, cycle=0, step=0)
        assert {a.informative for a in step.advantages} == {informative}
    first, second = step.advantages[:2]
    scale = 0.5 / (math.sqrt(1 / 3) + 1e-4)  # rewards 1, 1, 0, 0 of four samples
    assert first.values == pytest.approx((scale, scale)) and second.values == pytest.approx((-scale, -scale))


def test_neighbors_of_one_group_are_centered_together() -> None:
    rewards = [[Reward(1.0), Reward(0.0)], [Reward(1.0), Reward(1.0)], [Reward(0.0, masked=True), Reward(2.0)]]
    named = [Example("a", "", 0, group="p"), Example("b", "", 0, group="p"), Example("c", "", 0)]
    together = advantages_by_group(named, rewards)
    whole = group_advantages([*rewards[0], *rewards[1]])
    assert together[0].values + together[1].values == whole.values and together[0].informative
    assert together[2] == group_advantages(rewards[2])
    alone = advantages_by_group([Example(e.example_id, "", 0) for e in named], rewards)
    assert alone == [group_advantages(row) for row in rewards]


def test_naming_the_same_response_in_both_orders_pays() -> None:
    """Sample 0 is right in both orders, sample 1 says A, sample 2 is wrong in both, sample 3 says nothing."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> Written:
        wrong = judgement(rubric, "B" if a.startswith("good") else "A")
        return [right(a, b, rubric, 0), judgement(rubric, "A"), wrong, "no verdict"][index]

    scripted = sampler(judge)
    settings = recipe(reward={**BOTH, "consistency_weight": 1.0})
    _, rewards = rollout(judge_phase(scripted, settings), scripted, blocks(1), n=4)
    # In the first order samples 0 and 1 name the good response, in the second sample 0 alone.
    assert totals(rewards) == [[1.25, 1.25, 0.5, 0.0], [1.5, 0.25, 0.25, 0.0]]
    assert rewards[0][0].parts == (("accuracy", 1.0), ("format", 1.0), ("consistency", 0.25))


# --- pairs on which the rubric says nothing ---------------------------------------------------------------------------


def findings_of(met_a: tuple[bool, bool], met_b: tuple[bool, bool], winner: Any = "A") -> str:
    """A judgement in the paper's form that says of each criterion whether A and B meet it."""
    rubric = parse_rubric(RUBRIC_TEXT)
    text = write_judgement(rubric, {"A": "first", "B": "second"}, winner)
    for side, met in (("first", met_a), ("second", met_b)):
        for outcome in met:
            text = text.replace(f"Justification: {side}", f"Justification: It is {'met' if outcome else 'missed'}.", 1)
    return text


@pytest.mark.parametrize(
    ("met", "silent"),
    [
        ([((True, False), (True, False))] * 3, True),
        ([((True, False), (True, True))] * 3, False),
        ([((True, False), (False, True))] * 3, False),
        ([((True, True), (True, True))] * 2 + [((True, False), (True, True))], True),
        ([((True, True), (True, True)), ((True, False), (True, True))], False),
    ],
    ids=["same", "one more", "others", "mostly the same", "half"],
)
def test_a_pair_is_silent_if_most_findings_agree_for_both_responses(met: list[Any], silent: bool) -> None:
    rubric = parse_rubric(RUBRIC_TEXT)
    judged = [parse_judgement(findings_of(*one), rubric, "stop") for one in met]
    assert is_silent(judged, rubric) is silent
    unclear = parse_judgement(judgement(rubric, "A"), rubric, "stop")
    assert is_silent([*judged, *[unclear] * 9], rubric) is silent, "only stated findings count"
    assert not is_silent([unclear], rubric)


@pytest.mark.parametrize("orders", ["one", "both"])
def test_silent_pairs_are_left_out(orders: str) -> None:
    def judge(a: str, b: str, rubric: Rubric, index: int) -> Written:
        same = "n0-" in a
        winner = "A" if index % 2 else "B"
        return findings_of((True, False), (True, False) if same else (True, True), winner)

    for skip in (True, False):
        scripted = sampler(judge)
        settings = recipe(reward={"skip_silent": skip, "pair_orders": orders})
        phase = judge_phase(scripted, settings)
        groups, rewards = rollout(phase, scripted, blocks(2))
        masked = [all(r.masked for r in row) for row in rewards]
        assert masked == ["n0-" in group.example.prompt and skip for group in groups]
        assert phase.metrics().get("pairs/silent") == (0.5 if skip else None)


# --- repeated criteria ------------------------------------------------------------------------------------------------

TWICE = "1. The response is kind [Principle]\n2. The response is KIND [Principle]"


def test_a_criterion_stated_twice() -> None:
    assert parse_rubric(TWICE).repeats == 1 and parse_rubric(RUBRIC_TEXT).repeats == 0
    for rule, judged, total in (("allow", 4, 1.0), ("zero", 2, 0.0)):
        scripted = sampler(generator=lambda request, example, i: TWICE if i else RUBRIC_TEXT)
        phase = rubric_phase(scripted, recipe(reward={"repeated_criteria": rule, "judge_orders": "both"}))
        _, rewards = rollout(phase, scripted, blocks(1))
        assert totals(rewards) == [[1.0, total]] and dict(rewards[0][1].parts)["parsed"] == 1.0
        assert len(scripted.prompts("judge")) == judged, "one that earns nothing is not judged"
        assert phase.metrics()["criteria/repeated"] == pytest.approx(1 / 4)


# --- learning rate and entropy ----------------------------------------------------------------------------------------


def test_the_learning_rate_rises_at_the_start_of_every_phase(tiny_folder: tiny.Folders) -> None:
    settings = GRPOSettings(warmup_steps=3)
    assert [learning_rate_factor(step, settings) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate_factor(0, GRPOSettings(warmup_steps=0)) == 1.0
    scripted = sampler()
    at = recipe(judge={"warmup_steps": 3})
    steps = [rollout_step(at, judge_phase(scripted, at), blocks(20), scripted, 0, step) for step in (0, 1, 5)]
    assert [step.rate for step in steps] == [0.25, 0.5, 1.0]
    moved = []
    for rate in (1.0, 0.25):
        fields = tiny.recipe(tiny_folder(), judge={"learning_rate": 1e-3, "beta": 0.0, "max_grad_norm": 1e9})
        learner = Learner(tiny.load(tiny_folder(), True), fields)
        groups = tiny.rollouts(learner.model, "judge")
        before = {name: p.detach().clone() for name, p in learner.model.parameters("judge")}
        learner.update("judge", groups, tiny.spread(groups), rate=rate)
        moved.append(max(float((p - before[name]).abs().max()) for name, p in learner.model.parameters("judge")))
    assert moved[1] == pytest.approx(moved[0] / 4, rel=1e-3), "AdamW's first step is the learning rate itself"


def test_the_entropy_bonus_ends_at_its_target(tiny_folder: tiny.Folders) -> None:
    def rows(*logprobs: tuple[float, ...]) -> list[Row]:
        return [Row((1,), tuple(range(len(lp))), lp, 1.0, 1.0) for lp in logprobs]

    settings = GRPOSettings(entropy_coef=0.1, entropy_target=0.5)
    assert entropy_weight(rows((-0.1, -0.3), (-0.2,)), settings) == pytest.approx(0.1 * (1 - 0.2 / 0.5))
    assert entropy_weight(rows((-0.5, -0.7)), settings) == 0.0, "over the target there is none, not a penalty"
    assert entropy_weight(rows((-9.0,)), GRPOSettings(entropy_coef=0.1)) == 0.1

    def gradient(learner: Learner) -> torch.Tensor:
        groups = tiny.rollouts(learner.model, "judge")
        learner.update("judge", groups, tiny.spread(groups))
        return torch.cat([p.grad.flatten() for _, p in learner.model.parameters("judge") if p.grad is not None])

    gradients = []
    for target in (None, 1e-9):
        changes = {"entropy_coef": 0.5, "entropy_target": target, "beta": 0.0, "learning_rate": 1e-3}
        gradients.append(gradient(Learner(tiny.load(tiny_folder(), True), tiny.recipe(tiny_folder(), judge=changes))))
    assert not torch.allclose(*gradients)
    plain = gradient(Learner(tiny.load(tiny_folder(), True), tiny.recipe(tiny_folder(), judge={"beta": 0.0})))
    torch.testing.assert_close(gradients[1], plain)
