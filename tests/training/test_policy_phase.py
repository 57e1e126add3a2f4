"""Online GRPO's phase: answers against the policy's own greedy one, in both orders, under one rubric."""

from __future__ import annotations

import pytest

from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.training.alternating import rollout_step
from rubric_arm_lite.training.policy.stages import PolicyPhase
from rubric_arm_lite.training.rewards import policy_reward
from rubric_arm_lite.types import Example, PromptBlock
from tests.players import Judge, right, says_a, section, totals
from tests.policy_players import Chat, StandIn, chat, fixed_judge, requests
from tests.scripted import Written

RECIPE = PolicyRecipe.model_validate(
    {"policy": {"num_generations": 3, "max_completion_length": 50, "prompts_per_step": 2}}
)
REQUESTS = requests(2)
BLOCKS = [PromptBlock(r.prompt_id, r.text, ()) for r in REQUESTS]


def answers(example: Example, index: int) -> Written:
    return f"{('good', 'poor', 'good')[index]} {index} {example.prompt}"


def phase_of(judge: Judge, broken: tuple[str, ...] = ()) -> tuple[PolicyPhase, Chat]:
    def policy(example: Example, index: int) -> Written:
        greedy = sampler.calls[-1].sampling.temperature == 0
        return f"poor greedy {example.prompt}" if greedy else answers(example, index)

    sampler = chat(judge, policy)
    state = StandIn(sampler, fixed_judge(sampler, REQUESTS, broken), REQUESTS, RECIPE)
    return PolicyPhase(state), sampler  # type: ignore[arg-type]


def test_an_answer_earns_half_the_orders_it_wins() -> None:
    phase, sampler = phase_of(right)
    rollout = rollout_step(RECIPE, phase, BLOCKS, sampler, 0, 0)
    # Poor against poor: the judge falls back on B, so each wins one order.
    assert totals(rollout.rewards) == [[1.0, 0.5, 1.0]] * 2
    assert phase.metrics()["orders/2"] == pytest.approx(4 / 6)
    assert phase.metrics()["rubrics/usable"] == 1.0
    policy_calls = [call for call in sampler.calls if call.adapter == "policy"]
    assert [(c.sampling.num_generations, c.sampling.temperature) for c in policy_calls] == [(3, 1.0), (1, 0.0)]


def test_a_judge_that_always_says_a_gives_half_to_everybody() -> None:
    phase, sampler = phase_of(says_a)
    rollout = rollout_step(RECIPE, phase, BLOCKS, sampler, 0, 0)
    assert totals(rollout.rewards) == [[0.5] * 3] * 2
    assert not any(a.informative for a in rollout.advantages)


def test_both_orders_are_asked_under_the_same_rubric_and_none_is_written() -> None:
    phase, sampler = phase_of(right)
    rollout_step(RECIPE, phase, BLOCKS[:1], sampler, 0, 0)
    prompts = sampler.prompts("judge")
    assert len(prompts) == 6
    pairs = {(section("response_a", p), section("response_b", p)) for p in prompts}
    assert pairs == {(b, a) for a, b in pairs}
    assert len({section("rubric", p) for p in prompts}) == 1
    assert sampler.prompts("rubric") == []


def test_requests_without_a_usable_rubric_are_left_out_and_counted() -> None:
    phase, sampler = phase_of(right, broken=("id0",))
    rollout = rollout_step(RECIPE, phase, BLOCKS, sampler, 0, 0)
    assert [group.example.example_id for group in rollout.groups] == ["id1"]
    assert phase.metrics()["rubrics/unusable"] == 0.5
    assert phase.score([], 0) == []


def test_control_tokens_of_a_request_are_broken_up_and_nothing_else_changes() -> None:
    from rubric_arm_lite.prompts.builder import PromptBuilder, Templates

    builder = PromptBuilder(Templates.load(), ["<|im_end|>"])
    assert builder.policy_prompt("<rubric>\nWinner: Response A") == "<rubric>\nWinner: Response A"
    assert "<|im_end|>" not in builder.policy_prompt("a<|im_end|>b")


def test_reward_by_hand() -> None:
    assert policy_reward(("A", "A")).total == 1.0
    assert policy_reward(("A", "B")).total == policy_reward(("A", None)).total == 0.5
    assert policy_reward((None, "B")).total == 0.0
    assert policy_reward(()).total == 0.0
    assert dict(policy_reward(("A", None)).parts) == {"wins": 0.5, "judged": 0.5}
    assert not policy_reward(()).masked
