"""The state of a policy run: its models as last committed, its requests and its judges."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from rubric_arm_lite.data.testbed import World
from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.models import AdapterModel, ServerSettings, load_model
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric, wording
from rubric_arm_lite.recipe import PolicyRecipe, Recipe
from rubric_arm_lite.reward_model import RubricRewardModel, check_compares
from rubric_arm_lite.runs import Journal, Progress, RunDirectory, adapter_folder, recipe_of_run
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.policy.judges import FixedRubricJudge, IndependentJudge, oracle, run_judge
from rubric_arm_lite.training.policy.requests import Request, load_requests, start_answers
from rubric_arm_lite.types import ROLES, ParseStatus, Role

BATCH = 64
"""Requests that are sampled or judged in one call."""


@dataclass(frozen=True, slots=True)
class PolicyModels:
    """The policy's model, with adapter ``policy``, and the reward model; a shared base is the same object in both."""

    policy: AdapterModel
    reward: RubricRewardModel


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
        self.reward_recipe = _comparing_recipe(recipe.reward.run)
        r = recipe.reward
        self.server: ServerSettings | None = None
        if r.server is not None:
            names = r.rubric_model, r.judge_model
            self.server = ServerSettings(r.server, *names, api_key_env=r.key_env, concurrency=r.concurrency)
        self.judge_adapters = _judge_adapters(recipe)
        # Through transformers, as DPO's trainer loads it so.
        self.model_settings = (recipe.model or self.reward_recipe.model).model_copy(update={"backend": "transformers"})
        recipe.check_room(self.model_settings.max_context)
        self.world: World | None = None
        if recipe.data.source == "testbed":
            data = self.reward_recipe.data
            if data.source != "testbed":
                raise ConfigError(
                    f"data.source: testbed means the world that the reward model was trained in, but {r.run} was "
                    f"trained on {data.source}. Give a file of prompts, or a run of the testbed."
                )
            self.world = World(self.reward_recipe.seed, data.world)
        self.requests = load_requests(recipe, self.world, self._fits)
        if recipe.method == "grpo" and len(self.requests.train) < recipe.rounds:
            raise ConfigError(
                f"{len(self.requests.train)} training requests cannot be split into rounds: {recipe.rounds} parts. Use "
                "fewer rounds or more data."
            )

    @cached_property
    def start_answers(self) -> Sequence[tuple[str, str]]:
        """Requests and answers that the supervised start imitates."""
        return start_answers(self.recipe, self.world, {wording(request.text) for request in self.requests.test})

    @cached_property
    def models(self) -> PolicyModels:
        """Policy and reward model, in the committed state; equal bases are loaded once."""
        settings, seed = self.model_settings, self.recipe.seed
        if self.server is not None:
            policy = load_model(settings, seed, ("policy",))
            reward = RubricRewardModel.from_server(self.server, self.reward_recipe)
        else:
            run, state = Path(self.recipe.reward.run), self.recipe.reward.state
            folders = {role: adapter_folder(run, role, state) for role in ROLES}  # raises before anything is loaded
            reward_settings = self.reward_recipe.model.model_copy(update={"backend": "transformers"})
            shared = settings == reward_settings
            model = load_model(reward_settings, seed, (*ROLES, "policy") if shared else ROLES)
            for role, adapter in folders.items():
                model.load_adapter(role, adapter)
            policy = model if shared else load_model(settings, seed, ("policy",))
            reward = RubricRewardModel(model, self.reward_recipe)
        if (folder := self.directory.checkpoint_path()) is not None:
            policy.freeze_references(("policy",))
            for name in ("policy", "policy_ref"):
                policy.load_adapter(name, folder / name)
        return PolicyModels(policy, reward)

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
        """The reward model with one greedy rubric per request, which the stage ``rubrics`` writes for the whole run.

        Raises:
            CheckpointError: if one is missing after that stage, or their file is damaged.
        """

        def write(batch: Sequence[Request]) -> list[tuple[str, bool]]:
            if "rubrics" in self.directory.state.stages:
                raise CheckpointError(
                    f"{journal.path} lacks rubrics. Restore it, or start anew with --if-exists overwrite."
                )
            rubrics = self.models.reward.rubrics([request.text for request in batch])
            return [(rubric.text, rubric.status is ParseStatus.TRUNCATED) for rubric in rubrics]

        requests = self.requests.all
        requests, job = self.requests.all, {"requests": self.requests.fingerprint()}
        with Journal.open(self.directory.path / "rubrics.jsonl", job) as journal:
            rows = journal.map(write, requests, BATCH, self.show)
        rubrics = [parse_rubric(text, "length" if truncated else "stop") for text, truncated in rows]
        return FixedRubricJudge(self.models.reward, dict(zip((r.prompt_id for r in requests), rubrics, strict=True)))

    @cached_property
    def independent_judge(self) -> IndependentJudge | None:
        """A judge other than the reward model, if the recipe names one."""
        settings = self.recipe.evaluation
        if settings.judge is None:
            return None
        if settings.judge == "oracle" and self.world is not None:
            return oracle(self.world)
        threads = torch.get_num_threads()
        model = RubricRewardModel.from_run(settings.judge, settings.judge_state)
        torch.set_num_threads(threads)  # a loaded run sets its own, and sums depend on their number
        return run_judge(model)

    def release_models(self) -> None:
        """Free the memory of all models: a trainer loads a base of its own, and two may not fit."""
        for name in ("models", "learner", "prompts", "judge", "independent_judge"):
            vars(self).pop(name, None)
        gc.collect()
        torch.cuda.empty_cache()

    def round_journal(self, number: int, name: str) -> AbstractContextManager[Journal]:
        """A journal of a round of DPO, to be opened; the run directory checks the recipe."""
        policy = self.models.policy.fingerprint("policy")
        job = {"requests": self.requests.fingerprint(), "policy": policy, "file": name}
        return Journal.open(self.directory.path / "rounds" / str(number) / name, job)

    def show(self, done: int) -> None:
        """Report the number of requests that a stage is done with."""
        self.progress.step(done, {})

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


def _comparing_recipe(run: str) -> Recipe:
    """The recipe of a run, whose judge must compare two responses."""
    recipe = recipe_of_run(run)
    try:
        check_compares(recipe)
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from error
    return recipe


def _judge_adapters(recipe: PolicyRecipe) -> dict[Role, Path]:
    """The adapters of the independent judge, checked before any training; none for the oracle or no judge."""
    settings, reward = recipe.evaluation, recipe.reward
    if settings.judge in (None, "oracle"):
        return {}
    run = Path(str(settings.judge))
    _comparing_recipe(str(run))
    if (run.resolve(), settings.judge_state) == (Path(reward.run).resolve(), reward.state):
        raise ConfigError(
            f"evaluation.judge: {settings.judge} is the reward model itself, so its win rate cannot fall while that "
            "one's rises. Name another run or judge_state, or null."
        )
    return {role: adapter_folder(run, role, settings.judge_state) for role in ROLES}
