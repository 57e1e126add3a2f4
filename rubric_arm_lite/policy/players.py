"""Load a policy and the reward model it is trained against.

That is one base with three adapters, two bases, or a base here and a reward model on a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rubric_arm_lite.backends.loader import load_model
from rubric_arm_lite.backends.server_settings import ServerSettings
from rubric_arm_lite.backends.transformers import TwoAdapterModel
from rubric_arm_lite.config import ModelSettings, Recipe
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.policy_config import PolicyRecipe
from rubric_arm_lite.reward_model import RubricRewardModel, check_compares
from rubric_arm_lite.run_states import adapter_folder, recipe_of_run
from rubric_arm_lite.types import ROLES, Role


@dataclass(frozen=True, slots=True)
class Players:
    """The policy's model, with adapter ``policy``, and the reward model; a shared base is the same object in both."""

    policy: TwoAdapterModel
    reward: RubricRewardModel


def policy_model(recipe: PolicyRecipe, reward_recipe: Recipe) -> ModelSettings:
    """The settings of the base under the policy."""
    return _in_transformers(reward_recipe.model if recipe.model is None else recipe.model)


def comparing_recipe(run: str) -> Recipe:
    """The recipe of a run whose judge compares two responses.

    Raises:
        CheckpointError: if there is no such run.
        ConfigError: if its judge checks one response at a time.
    """
    recipe = recipe_of_run(run)
    try:
        check_compares(recipe)
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from error
    return recipe


def check_judge(recipe: PolicyRecipe) -> dict[Role, Path]:
    """Refuse an independent judge that could not be asked, or is not independent, before anything is trained.

    Returns:
        Its adapters; nothing if the judge is the oracle, or nobody.

    Raises:
        CheckpointError: if its run has not come that far.
        ConfigError: if it is the reward model itself, or checks one response at a time.
    """
    judge, reward = recipe.evaluation, recipe.reward
    if judge.judge in (None, "oracle"):
        return {}
    run = Path(str(judge.judge))
    comparing_recipe(str(run))
    if (run.resolve(), judge.judge_state) == (Path(reward.run).resolve(), reward.state):
        raise ConfigError(
            f"evaluation.judge: {judge.judge} is the reward model itself, so its win rate cannot fall while that one's "
            "rises. Name another run or judge_state, or null."
        )
    return {role: adapter_folder(run, role, judge.judge_state) for role in ROLES}


def reward_server(recipe: PolicyRecipe) -> ServerSettings | None:
    """The server that the recipe's reward model is asked on; None if it is loaded here.

    Raises:
        ConfigError: if the address cannot be used.
    """
    reward = recipe.reward
    if reward.server is None:
        return None
    return ServerSettings(
        reward.server,
        reward.rubric_model,
        reward.judge_model,
        api_key_env=reward.key_env,
        concurrency=reward.concurrency,
    )


def reward_identity(players: Players, recipe: PolicyRecipe) -> dict[str, str]:
    """What must stay the same over a run: the weights that are loaded here, or the names on a server that may move."""
    reward = recipe.reward
    if reward.server is not None:
        return {"rubric": f"served as {reward.rubric_model}", "judge": f"served as {reward.judge_model}"}
    return {role: players.reward.model.fingerprint(role) for role in ROLES}


def load_players(recipe: PolicyRecipe, reward_recipe: Recipe) -> Players:
    """Policy with a fresh adapter, and reward model in the state that the recipe names; equal bases are loaded once.

    A reward model on a server leaves this machine to the policy.

    Raises:
        CheckpointError: if the reward model's run has not come that far.
        BackendError: if a base cannot be loaded.
    """
    asked = reward_server(recipe)
    if asked is not None:
        policy = load_model(policy_model(recipe, reward_recipe), recipe.seed, ("policy",))
        return Players(policy, RubricRewardModel.from_server(asked, reward_recipe))
    run, state = Path(recipe.reward.run), recipe.reward.state
    folders = {role: adapter_folder(run, role, state) for role in ROLES}  # refused before anything is loaded
    policy_settings, reward_settings = policy_model(recipe, reward_recipe), _in_transformers(reward_recipe.model)
    shared = policy_settings == reward_settings
    model = load_model(reward_settings, recipe.seed, (*ROLES, "policy") if shared else ROLES)
    for role, folder in folders.items():
        model.load_adapter(role, folder)
    policy = model if shared else load_model(policy_settings, recipe.seed, ("policy",))
    return Players(policy, RubricRewardModel(model, reward_recipe))


def _in_transformers(settings: ModelSettings) -> ModelSettings:
    """DPO's trainer loads its base through transformers, so the rest of a policy run does too."""
    return settings.model_copy(update={"backend": "transformers"})
