"""What is measured of a policy: KL to its start, lengths, win rates by both judges, scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rubric_arm_lite.data.testbed.world import World, parse_task
from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe.policy import AnswerSettings, PolicyEvaluationSettings, PolicyRecipe
from rubric_arm_lite.recipe.seeds import derive_seed
from rubric_arm_lite.training.policy.evaluate import compare_with_start
from rubric_arm_lite.training.policy.state import Opinions, oracle
from rubric_arm_lite.types import Comparison
from tests import tiny
from tests.players import PROMPTS, says_a
from tests.policy_players import Request, StandIn, chat, fixed_judge

REQUESTS = [Request(f"id{i}", text) for i, text in enumerate(tiny.PROMPTS)]


def longest(comparisons: Sequence[Comparison]) -> Opinions:
    """An independent judge that likes what is long."""
    gaps = [len(c.response_a) - len(c.response_b) for c in comparisons]
    return [0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in gaps], [float(len(c.response_a)) for c in comparisons]


def compared(model: Any, independent: Any = None) -> tuple[dict[str, float], list[dict[str, Any]]]:
    judge = fixed_judge(chat(says_a, lambda example, index: ""), REQUESTS)
    settings = PolicyEvaluationSettings(bootstrap=100)
    answers = AnswerSettings(max_completion_length=12, temperature=0.8)
    recipe = PolicyRecipe(evaluation=settings, answers=answers, seed=3)
    return compare_with_start(StandIn(model, judge, REQUESTS, recipe, independent_judge=independent))  # type: ignore[arg-type]


@pytest.fixture
def model(tiny_folder: Any) -> Any:
    made = load_model(tiny.settings(tiny_folder()), 0, ("policy",))
    made.freeze_references()
    return made


def test_at_the_start_nothing_has_moved(model: Any) -> None:
    values, _ = compared(model, longest)
    assert values["kl"] == pytest.approx(0, abs=1e-4)
    assert values["length"] == values["length_start"]
    assert values["independent/win_rate"] == values["trained/win_rate"] == values["trained/win_rate_lc"] == 0.5


def test_kl_is_the_mean_log_ratio_of_the_policys_own_answers(model: Any) -> None:
    tiny.stir(model, "policy", seed=1)
    values, _ = compared(model)
    ratios = []
    seed = derive_seed(3, "policy evaluation")
    examples = [request.example(PROMPTS, seed) for request in REQUESTS]
    for group in model.sample("policy", examples, Sampling(12, 1, 0.8)):
        prompt, ids = list(group.prompt_ids), list(group.samples[0].token_ids)
        both = []
        for adapter in ("policy", "policy_ref"):
            with torch.no_grad(), model.using(adapter) as active:
                logits = active(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
            logp = torch.log_softmax(logits.float() / 0.8, -1)
            both.append(float(logp.gather(-1, torch.tensor(ids)[:, None]).sum()))
        ratios.append(both[0] - both[1])
    assert values["kl"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    assert values["kl"] > 0.1
    assert not [name for name in values if name.startswith("independent") or name == "score"]


def test_scores_and_preferences_stand_in_the_rows(model: Any) -> None:
    tiny.stir(model, "policy", seed=1)
    values, rows = compared(model, longest)
    assert values["score"] == sum(len(row["answer"]) for row in rows) / len(rows)
    assert values["score_low"] <= values["score"] <= values["score_high"]
    assert values["independent/win_rate"] == sum(row["independent"] for row in rows) / len(rows)
    assert all(row["trained"] == 0.5 for row in rows), "a judge that always says A prefers nobody"


def test_the_oracle_is_the_world_itself() -> None:
    world = World(3)
    request = Request("a", world.blocks("test", 1)[0].prompt)  # type: ignore[arg-type]
    task = parse_task(request.text)
    assert task is not None
    good, poor = (world.response(task, obeys, random.Random(1)) for obeys in (True, False))
    comparisons = [request.comparison(a, b) for a, b in ((good, poor), (poor, good), (good, good))]
    gap = world.score(task, good) - world.score(task, poor)
    preferences, scores = oracle(world)(comparisons)
    assert gap > 0 and preferences == [1.0, 0.0, 0.5]
    assert scores is not None and scores[0] == world.score(task, good)
    with pytest.raises(ValueError, match="Not a prompt of the testbed's world"):
        oracle(world)([Request("b", "Hello?").comparison("x", "y")])
