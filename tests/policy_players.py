"""Scripted policies and reward models for tests of policy post-training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.runs.journal import Journal
from rubric_arm_lite.training.policy.state import FixedRubricJudge, IndependentJudge, PolicyModels, Request, Requests
from rubric_arm_lite.types import Example
from tests import players
from tests.players import PROMPTS, RUBRIC_TEXT, Judge
from tests.scripted import ScriptedSampler, Written

Writer = Callable[[Example, int], Written]
"""Writes the policy's answer to an example, by the index within its group."""


class Chat(ScriptedSampler):
    """A scripted sampler that has control tokens, as a chat model does."""

    def control_tokens(self) -> list[str]:
        return ["<|im_end|>"]


def chat(judge: Judge, policy: Writer) -> Chat:
    """One sampler for all three roles."""
    others = players.sampler(judge).script

    def script(adapter: str | None, example: Example, index: int) -> Written:
        return policy(example, index) if adapter == "policy" else others(adapter, example, index)

    return Chat(script)


def fixed_judge(sampler: Chat, requests: list[Request], broken: tuple[str, ...] = ()) -> FixedRubricJudge:
    """The scripted reward model, under a rubric for each request; those of ``broken`` do not parse."""
    recipe = players.recipe(evaluation={"rubric_max_tokens": 100, "judge_max_tokens": 500})
    texts = {r.prompt_id: "no rubric" if r.prompt_id in broken else RUBRIC_TEXT for r in requests}
    return FixedRubricJudge(
        RubricRewardModel(sampler, recipe), {key: parse_rubric(text) for key, text in texts.items()}
    )


def requests(count: int) -> list[Request]:
    return [Request(f"id{i}", f"request {i}") for i in range(count)]


@dataclass
class StandIn:
    """What a :class:`PolicyState` has, without a run directory: ``policy`` writes the answers."""

    policy: Any
    judge: FixedRubricJudge
    listed: list[Request]
    recipe: PolicyRecipe
    folder: Path = Path()
    independent_judge: IndependentJudge | None = None
    prompts: Any = field(default=PROMPTS)
    job: str = "test"

    @property
    def models(self) -> PolicyModels:
        return PolicyModels(self.policy, self.judge._model)

    @property
    def requests(self) -> Requests:
        return Requests(self.listed, self.listed, 0, 0)

    def round_journal(self, number: int, name: str) -> AbstractContextManager[Journal]:
        return Journal.open(self.folder / name, {"what": self.job})

    def show(self, done: int) -> None:
        pass
