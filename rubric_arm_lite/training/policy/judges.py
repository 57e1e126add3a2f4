"""The judges of a policy run, the reward model and an independent one, and the models that they are loaded on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rubric_arm_lite.data.testbed.world import World, parse_task
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models import AdapterModel, ServerSettings, load_model
from rubric_arm_lite.recipe import ModelSettings, PolicyRecipe, Recipe
from rubric_arm_lite.reward_model import RubricRewardModel, Verdict, check_compares
from rubric_arm_lite.runs import adapter_folder, recipe_of_run
from rubric_arm_lite.types import ROLES, Comparison, Prompt, Role, Rubric


@dataclass(frozen=True, slots=True)
class Request:
    """A single request to the policy, with its identity."""

    prompt_id: str
    text: str

    def comparison(self, answer: str, other: str) -> Comparison:
        """Two answers to this request; the policy's own stands first."""
        return Comparison(self.prompt_id, self.text, answer, other)


class IndependentJudge(Protocol):
    """A judge beside the reward model that the policy is trained against."""

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """1 where response A is better, 0 where response B is, ½ between."""
        ...

    def scores(self, comparisons: Sequence[Comparison]) -> list[float] | None:
        """What each response A is worth by itself, if this judge can tell."""
        ...


class FixedRubricJudge:
    """The reward model under rubrics written before: one per request, as its generator is frozen."""

    def __init__(self, model: RubricRewardModel, rubrics: dict[str, Rubric]) -> None:
        self._model = model
        self._rubrics = rubrics

    def has_rubric(self, prompt_id: str) -> bool:
        """Whether the request's rubric is usable."""
        return self._rubrics[prompt_id].usable

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts in both orders under the request's rubric; a text that does not fit the context stays unjudged.

        Raises:
            ValueError: for a request without a usable rubric.
        """
        unusable = [c.comparison_id for c in comparisons if not self.has_rubric(c.comparison_id)]
        if unusable:
            raise ValueError(f"The request {unusable[0]} has no usable rubric.")
        cases = [(c.prompt, c.response_a, c.response_b, self._rubrics[c.comparison_id]) for c in comparisons]
        return self._model.compare_many(cases, too_long="leave")

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Credit of every response A; ½ also where there is no rubric."""
        verdicts = iter(self.verdicts([c for c in comparisons if self.has_rubric(c.comparison_id)]))
        return [next(verdicts).preference if self.has_rubric(c.comparison_id) else 0.5 for c in comparisons]


class Oracle:
    """The testbed's world itself: it knows the hidden score of every response."""

    def __init__(self, world: World) -> None:
        self._world = world

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """By the hidden scores."""
        gaps = [self._score(c.prompt, c.response_a) - self._score(c.prompt, c.response_b) for c in comparisons]
        return [0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in gaps]

    def scores(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Hidden scores of the responses A, from 0 to 4."""
        return [float(self._score(c.prompt, c.response_a)) for c in comparisons]

    def _score(self, prompt: Prompt, response: str) -> int:
        task = parse_task(str(prompt))
        if task is None:
            raise ValueError(f"Not a prompt of the testbed's world: {prompt!r}")
        return self._world.score(task, response)


class OtherRun:
    """A reward model of another run; it writes rubrics of its own."""

    def __init__(self, model: RubricRewardModel) -> None:
        self._model = model

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Both orders under this model's own greedy rubric."""
        cases = [(c.prompt, c.response_a, c.response_b, None) for c in comparisons]
        return [verdict.preference for verdict in self._model.compare_many(cases, too_long="leave")]

    def scores(self, comparisons: Sequence[Comparison]) -> None:
        """A pairwise judge gives no scores."""


@dataclass(frozen=True, slots=True)
class PolicyModels:
    """The policy's model, with adapter ``policy``, and the reward model; a shared base is the same object in both."""

    policy: AdapterModel
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


def reward_identity(players: PolicyModels, recipe: PolicyRecipe) -> dict[str, str]:
    """What must stay the same over a run: the weights that are loaded here, or the names on a server that may move."""
    reward = recipe.reward
    if reward.server is not None:
        return {"rubric": f"served as {reward.rubric_model}", "judge": f"served as {reward.judge_model}"}
    return {role: players.reward.model.fingerprint(role) for role in ROLES}


def load_policy_models(recipe: PolicyRecipe, reward_recipe: Recipe) -> PolicyModels:
    """Policy with a fresh adapter, and reward model in the state that the recipe names; equal bases are loaded once.

    A reward model on a server leaves this machine to the policy.

    Raises:
        CheckpointError: if the reward model's run has not come that far.
        BackendError: if a base cannot be loaded.
    """
    asked = reward_server(recipe)
    if asked is not None:
        policy = load_model(policy_model(recipe, reward_recipe), recipe.seed, ("policy",))
        return PolicyModels(policy, RubricRewardModel.from_server(asked, reward_recipe))
    run, state = Path(recipe.reward.run), recipe.reward.state
    folders = {role: adapter_folder(run, role, state) for role in ROLES}  # refused before anything is loaded
    policy_settings, reward_settings = policy_model(recipe, reward_recipe), _in_transformers(reward_recipe.model)
    shared = policy_settings == reward_settings
    model = load_model(reward_settings, recipe.seed, (*ROLES, "policy") if shared else ROLES)
    for role, folder in folders.items():
        model.load_adapter(role, folder)
    policy = model if shared else load_model(policy_settings, recipe.seed, ("policy",))
    return PolicyModels(policy, RubricRewardModel(model, reward_recipe))


def _in_transformers(settings: ModelSettings) -> ModelSettings:
    """DPO's trainer loads its base through transformers, so the rest of a policy run does too."""
    return settings.model_copy(update={"backend": "transformers"})
