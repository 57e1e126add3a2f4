"""The models of a policy run, and its two judges: the reward model and an independent one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rubric_arm_lite.data.testbed import World, parse_task
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models import AdapterModel, ServerSettings, load_model
from rubric_arm_lite.recipe import ModelSettings, PolicyRecipe, Recipe
from rubric_arm_lite.reward_model import RubricRewardModel, Verdict, check_compares
from rubric_arm_lite.runs import adapter_folder, recipe_of_run
from rubric_arm_lite.types import ROLES, Comparison, Role, Rubric


@dataclass(frozen=True, slots=True)
class Request:
    """A single request to the policy."""

    prompt_id: str
    text: str

    def comparison(self, answer: str, other: str) -> Comparison:
        """Two answers to this request, the policy's first."""
        return Comparison(self.prompt_id, self.text, answer, other)


class IndependentJudge(Protocol):
    """A judge other than the reward model that the policy is trained against."""

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """1 where response A is better, 0 where response B is, ½ in between."""
        ...

    def scores(self, comparisons: Sequence[Comparison]) -> list[float] | None:
        """Score of each response A by itself; None if this judge gives no scores."""
        ...


class FixedRubricJudge:
    """The reward model with one rubric per request, written beforehand, as its generator is frozen."""

    def __init__(self, model: RubricRewardModel, rubrics: dict[str, Rubric]) -> None:
        self._model = model
        self._rubrics = rubrics

    def has_rubric(self, prompt_id: str) -> bool:
        """Whether the request's rubric is usable."""
        return self._rubrics[prompt_id].usable

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts in both orders under the request's rubric; empty if a text does not fit the context.

        Raises:
            ValueError: for a request without a usable rubric.
        """
        for comparison in comparisons:
            if not self.has_rubric(comparison.comparison_id):
                raise ValueError(f"The request {comparison.comparison_id} has no usable rubric.")
        cases = [(c.prompt, c.response_a, c.response_b, self._rubrics[c.comparison_id]) for c in comparisons]
        return self._model.compare_many(cases, too_long="skip")

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Credit of every response A; ½ also without a usable rubric."""
        verdicts = iter(self.verdicts([c for c in comparisons if self.has_rubric(c.comparison_id)]))
        return [next(verdicts).preference if self.has_rubric(c.comparison_id) else 0.5 for c in comparisons]


class Oracle:
    """The testbed's world, which knows the hidden score of every response."""

    def __init__(self, world: World) -> None:
        self._world = world

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """By the hidden scores."""
        scores_b = self.scores([c.swapped() for c in comparisons])
        gaps = [a - b for a, b in zip(self.scores(comparisons), scores_b, strict=True)]
        return [0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in gaps]

    def scores(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Hidden scores of the responses A, from 0 to 4."""
        scores = []
        for c in comparisons:
            task = parse_task(str(c.prompt))
            if task is None:
                raise ValueError(f"Not a prompt of the testbed's world: {c.prompt!r}")
            scores.append(float(self._world.score(task, c.response_a)))
        return scores


class OtherRun:
    """The reward model of another run, which writes its own rubrics."""

    def __init__(self, model: RubricRewardModel) -> None:
        self._model = model

    def preferences(self, comparisons: Sequence[Comparison]) -> list[float]:
        """Credit of every response A, in both orders under this model's greedy rubric."""
        cases = [(c.prompt, c.response_a, c.response_b, None) for c in comparisons]
        return [verdict.preference for verdict in self._model.compare_many(cases, too_long="skip")]

    def scores(self, comparisons: Sequence[Comparison]) -> None:
        """A pairwise judge gives no scores."""


@dataclass(frozen=True, slots=True)
class PolicyModels:
    """The policy's model, with adapter ``policy``, and the reward model; a shared base is the same object in both."""

    policy: AdapterModel
    reward: RubricRewardModel


def policy_model(recipe: PolicyRecipe, reward_recipe: Recipe) -> ModelSettings:
    """The settings of the policy's base; through transformers, as DPO's trainer loads it so."""
    return (recipe.model or reward_recipe.model).model_copy(update={"backend": "transformers"})


def comparing_recipe(run: str) -> Recipe:
    """The recipe of a run whose judge compares two responses.

    Raises:
        CheckpointError: if there is no such run.
        ConfigError: if its judge is pointwise.
    """
    recipe = recipe_of_run(run)
    try:
        check_compares(recipe)
    except ConfigError as error:
        raise ConfigError(f"{run}: {error}") from error
    return recipe


def check_judge(recipe: PolicyRecipe) -> dict[Role, Path]:
    """The adapters of the independent judge, checked before any training; none for the oracle or no judge.

    Raises:
        CheckpointError: if the judge's run has not come that far.
        ConfigError: if the judge is the reward model itself, or pointwise.
    """
    settings, reward = recipe.evaluation, recipe.reward
    if settings.judge in (None, "oracle"):
        return {}
    run = Path(str(settings.judge))
    comparing_recipe(str(run))
    if (run.resolve(), settings.judge_state) == (Path(reward.run).resolve(), reward.state):
        raise ConfigError(
            f"evaluation.judge: {settings.judge} is the reward model itself, so its win rate cannot fall while that "
            "one's rises. Name another run or judge_state, or null."
        )
    return {role: adapter_folder(run, role, settings.judge_state) for role in ROLES}


def reward_server(recipe: PolicyRecipe) -> ServerSettings | None:
    """The server of the reward model; None if it is loaded on this machine.

    Raises:
        ConfigError: if the address cannot be used.
    """
    r = recipe.reward
    if r.server is None:
        return None
    return ServerSettings(r.server, r.rubric_model, r.judge_model, api_key_env=r.key_env, concurrency=r.concurrency)


def reward_identity(players: PolicyModels, recipe: PolicyRecipe) -> dict[str, str]:
    """What must stay the same over a run: fingerprints of weights loaded here, or the models' names on a server."""
    reward = recipe.reward
    if reward.server is not None:
        return {"rubric": f"served as {reward.rubric_model}", "judge": f"served as {reward.judge_model}"}
    return {role: players.reward.model.fingerprint(role) for role in ROLES}


def load_policy_models(recipe: PolicyRecipe, reward_recipe: Recipe) -> PolicyModels:
    """Load the policy with a fresh adapter, and the reward model in the recipe's state; equal bases are loaded once.

    Raises:
        CheckpointError: if the reward model's run has not come that far.
        BackendError: if a base cannot be loaded.
    """
    settings = policy_model(recipe, reward_recipe)
    server = reward_server(recipe)
    if server is not None:
        policy = load_model(settings, recipe.seed, ("policy",))
        return PolicyModels(policy, RubricRewardModel.from_server(server, reward_recipe))
    run, state = Path(recipe.reward.run), recipe.reward.state
    folders = {role: adapter_folder(run, role, state) for role in ROLES}  # raises before anything is loaded
    reward_settings = reward_recipe.model.model_copy(update={"backend": "transformers"})
    shared = settings == reward_settings
    model = load_model(reward_settings, recipe.seed, (*ROLES, "policy") if shared else ROLES)
    for role, folder in folders.items():
        model.load_adapter(role, folder)
    policy = model if shared else load_model(settings, recipe.seed, ("policy",))
    return PolicyModels(policy, RubricRewardModel(model, reward_recipe))
