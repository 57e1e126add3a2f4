"""The state of a policy run: its models as last committed, its requests, the reward model and the evaluator."""

from __future__ import annotations

import gc
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.errors import CheckpointError, ConfigError, first_line
from rubric_arm_lite.models import release
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric
from rubric_arm_lite.recipe import PolicyRecipe
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.runs import Progress, RunDirectory, read_jsonl
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


class PolicyState:
    """What a policy run works with; models are loaded when first used and can be released.

    Raises:
        CheckpointError: if the reward model's or the judge's run has not come far enough.
        ConfigError: if the recipe cannot be used with them.
        DataError: if there are no requests.
    """

    def __init__(self, recipe: PolicyRecipe, directory: RunDirectory, progress: Progress) -> None:
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.recipe, self.directory, self.progress = recipe, directory, progress
        # Mistakes are refused here, before anything is loaded.
        self.reward_recipe = comparing_recipe(recipe.reward.run)
        reward_server(recipe)
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
    def models(self) -> PolicyModels:
        """Policy and reward model, in the committed state."""
        models = load_policy_models(self.recipe, self.reward_recipe)
        folder = self.directory.checkpoint_path()
        if folder is not None:
            models.policy.freeze_references(("policy",))
            for adapter in ("policy", "policy_ref"):
                models.policy.load_adapter(adapter, folder / adapter)
        return models

    @cached_property
    def learner(self) -> Learner:
        """The optimizer of online GRPO, in the committed state."""
        learner = Learner(self.models.policy, self.recipe)
        folder = self.directory.checkpoint_path()
        if folder is not None and (folder / "optimizers.safetensors").is_file():
            learner.load_optimizers(folder / "optimizers.safetensors")
        return learner

    @cached_property
    def prompts(self) -> PromptBuilder:
        """Builds the policy's prompts, without the control tokens of its tokenizer."""
        return PromptBuilder(Templates.of(self.reward_recipe.prompts), self.models.policy.control_tokens())

    @cached_property
    def judge(self) -> FixedRubricJudge:
        """The reward model with the rubrics that the stage ``rubrics`` wrote.

        Raises:
            CheckpointError: if a rubric is missing or their file is damaged.
        """
        file = self.directory.path / RUBRICS
        rubrics: dict[str, Rubric] = {}
        try:
            for row in read_jsonl(file):
                for prompt_id, text, truncated in row.get("rubrics", []):
                    rubrics[prompt_id] = parse_rubric(text, "length" if truncated else "stop")
            missing = {request.prompt_id for request in self.requests.all} - rubrics.keys()
            problem = f"lacks the rubrics of {len(missing)} requests" if missing else None
        except (ValueError, TypeError, AttributeError) as error:
            problem = f"is damaged ({first_line(error)})"
        if problem is not None:
            raise CheckpointError(f"{file} {problem}. Restore it, or start anew under another name.")
        return FixedRubricJudge(self.models.reward, rubrics)

    @cached_property
    def evaluator(self) -> PolicyEvaluator:
        """Compares the policy with its start on the held-out requests."""
        return PolicyEvaluator(
            self.models.policy,
            self.prompts,
            self.judge,
            self._independent_judge(),
            self.requests.test,
            self.recipe.answers,
            self.recipe.evaluation,
            self.recipe.seed,
        )

    def release_models(self) -> None:
        """Free the memory of all models: a trainer loads a base of its own, and two may not fit."""
        device = self.models.policy.device
        for name in ("models", "learner", "prompts", "judge", "evaluator"):
            vars(self).pop(name, None)
        gc.collect()
        release(device)

    def job(self, name: str, number: int = 0) -> dict[str, Any]:
        """The identity of a journal's job; the recipe is checked by the run directory."""
        return {
            "what": name,
            "round": number,
            "requests": self.requests.fingerprint(),
            "policy": self.models.policy.fingerprint("policy"),
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint: the policy and its start, and the optimizer of online GRPO."""
        for adapter in ("policy", "policy_ref"):
            self.models.policy.save_adapter(adapter, folder / adapter)
        if self.recipe.method == "grpo":
            self.learner.save_optimizers(folder / "optimizers.safetensors")

    def _fits(self, request: str) -> bool:
        length = self.models.policy.prompt_tokens(self.prompts.policy_prompt(request))
        return (
            length + self.recipe.longest_answer <= self.model_settings.max_context
            and self.models.reward.has_room_for(request)
        )

    def _independent_judge(self) -> IndependentJudge | None:
        settings = self.recipe.evaluation
        if settings.judge is None:
            return None
        if settings.judge == "oracle" and self.world is not None:
            return Oracle(self.world)
        threads = torch.get_num_threads()
        judge = OtherRun(RubricRewardModel.from_run(settings.judge, settings.judge_state))
        torch.set_num_threads(threads)  # a loaded run sets its own, and sums depend on their number
        return judge
