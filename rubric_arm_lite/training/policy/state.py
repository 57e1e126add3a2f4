"""What a policy run has at hand: its folder, its models in the committed state, requests, referee and evaluator."""

from __future__ import annotations

import gc
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from rubric_arm_lite.errors import CheckpointError, ConfigError, first_line
from rubric_arm_lite.models import release
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric
from rubric_arm_lite.recipe import PolicyRecipe
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.runs import RunDirectory, read_jsonl
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.policy.evaluate import PolicyEvaluator
from rubric_arm_lite.training.policy.judges import (
    FixedRubricJudge,
    IndependentJudge,
    Oracle,
    OtherRun,
    PolicyModels,
    check_judge,
    comparing_recipe,
    load_policy_models,
    policy_model,
    reward_server,
)
from rubric_arm_lite.training.policy.requests import load_requests, world_of
from rubric_arm_lite.types import Rubric

RUBRICS = "rubrics.jsonl"


class PolicyWatcher(Protocol):
    """Shows a policy run to a person."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of ``steps`` steps begins."""
        ...

    def step(self, done: int, values: dict[str, float]) -> None:
        """Steps done in this stage, and what the last one measured."""
        ...

    def said(self, name: str, text: str) -> None:
        """A line of results."""
        ...

    def note(self, text: str) -> None:
        """Something a reader should know."""
        ...


class PolicyState:
    """A policy run's unhashed_fields. Models are loaded when first needed and can be let go."""

    def __init__(self, recipe: PolicyRecipe, directory: RunDirectory, watcher: PolicyWatcher) -> None:
        self.recipe = recipe
        self.directory = directory
        self.watcher = watcher
        self.reward_recipe = comparing_recipe(recipe.reward.run)
        reward_server(recipe)  # an address that cannot be used is refused before anything is loaded
        self.judge_adapters = check_judge(recipe)
        self.model_settings = policy_model(recipe, self.reward_recipe)
        recipe.check_room(self.model_settings.max_context)
        self.world = world_of(recipe, self.reward_recipe)
        self.requests = load_requests(recipe, self.world, self._fits)
        if recipe.method == "grpo" and len(self.requests.train) < recipe.rounds:
            raise ConfigError(
                f"{len(self.requests.train)} training requests cannot be split into rounds: {recipe.rounds} parts. Use "
                "fewer rounds or more data."
            )

    @cached_property
    def players(self) -> PolicyModels:
        """Policy and reward model, in the committed state."""
        players = load_policy_models(self.recipe, self.reward_recipe)
        folder = self.directory.checkpoint_path()
        if folder is not None:
            players.policy.freeze_references(("policy",))
            for adapter in ("policy", "policy_ref"):
                players.policy.load_adapter(adapter, folder / adapter)
        return players

    @cached_property
    def learner(self) -> Learner:
        """The optimizer of online GRPO, in the committed state."""
        learner = Learner(self.players.policy, self.recipe)
        folder = self.directory.checkpoint_path()
        if folder is not None and (folder / "optimizers.safetensors").is_file():
            learner.load_optimizers(folder / "optimizers.safetensors")
        return learner

    @cached_property
    def prompts(self) -> PromptBuilder:
        """Writes the policy's user turns; it knows the control tokens of the policy's tokenizer."""
        return PromptBuilder(Templates.of(self.reward_recipe.prompts), self.players.policy.control_tokens())

    @cached_property
    def referee(self) -> FixedRubricJudge:
        """The reward model with the rubrics that the stage ``rubrics`` wrote."""
        return FixedRubricJudge(self.players.reward, self._rubrics())

    def _rubrics(self) -> dict[str, Rubric]:
        """The rubrics of all requests.

        Raises:
            CheckpointError: if one is not there.
        """
        file = self.directory.path / RUBRICS
        rubrics: dict[str, Rubric] = {}
        try:
            for row in read_jsonl(file):
                for prompt_id, text, cut in row.get("rubrics", []):
                    rubrics[prompt_id] = parse_rubric(text, "length" if cut else "stop")
            missing = {r.prompt_id for r in (*self.requests.train, *self.requests.test)} - rubrics.keys()
            problem = f"lacks the rubrics of {len(missing)} requests" if missing else None
        except (ValueError, TypeError, AttributeError) as error:
            problem = f"is damaged ({first_line(error)})"
        if problem is not None:
            raise CheckpointError(f"{file} {problem}. Restore it, or start anew under another name.")
        return rubrics

    @cached_property
    def evaluator(self) -> PolicyEvaluator:
        """Measures the policy on the held-out requests."""
        recipe = self.recipe
        return PolicyEvaluator(
            self.players.policy,
            self.prompts,
            self.referee,
            self._independent(),
            self.requests.test,
            recipe.answers,
            recipe.evaluation,
            recipe.seed,
        )

    def let_go(self) -> None:
        """Free the memory of all models: a trainer loads a base of its own, and two may not fit."""
        device = self.players.policy.device
        for name in ("players", "learner", "prompts", "referee", "evaluator"):
            vars(self).pop(name, None)
        gc.collect()
        release(device)

    def job(self, what: str, number: int = 0) -> dict[str, Any]:
        """What decides the rows of a journal; the recipe is checked by the run directory."""
        return {
            "what": what,
            "round": number,
            "requests": self.requests.fingerprint(),
            "policy": self.players.policy.fingerprint("policy"),
        }

    def round_file(self, number: int, name: str) -> Path:
        """A file or folder of one round."""
        return self.directory.path / "rounds" / str(number) / name

    def save(self, folder: Path) -> None:
        """Write a checkpoint: the policy and its start, and the optimizer if it was used."""
        for adapter in ("policy", "policy_ref"):
            self.players.policy.save_adapter(adapter, folder / adapter)
        if self.recipe.method == "grpo":
            self.learner.save_optimizers(folder / "optimizers.safetensors")

    def _fits(self, request: str) -> bool:
        length = self.players.policy.prompt_tokens(self.prompts.policy_prompt(request))
        return (
            length + self.recipe.longest_answer <= self.model_settings.max_context
            and self.players.reward.has_room_for(request)
        )

    def _independent(self) -> IndependentJudge | None:
        settings = self.recipe.evaluation
        if settings.judge is None:
            return None
        if settings.judge == "oracle" and self.world is not None:
            return Oracle(self.world)
        threads = torch.get_num_threads()
        judge = OtherRun(RubricRewardModel.from_run(settings.judge, settings.judge_state))
        torch.set_num_threads(threads)  # a loaded run sets its own, and sums depend on their number
        return judge
