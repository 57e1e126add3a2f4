"""The state of a policy run: its models as last committed, its requests and its judges.

The judges are the reward model that the policy is trained against, and an independent one.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from rubric_arm_lite.data import Counts, shuffle_blocks, split_blocks
from rubric_arm_lite.data.load import held_out_settings
from rubric_arm_lite.data.pairs import load_answers, read_prompts
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS, AnyWorld, known_task, make_world
from rubric_arm_lite.errors import CheckpointError, ConfigError, DataError
from rubric_arm_lite.models import AdapterModel, ServerSettings, load_model
from rubric_arm_lite.models.lora import adamw_8bit
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric, prompt_hash, wording
from rubric_arm_lite.recipe import WORLDS, PolicyRecipe, Recipe, derive_seed
from rubric_arm_lite.reward_model import RubricRewardModel, Verdict, check_compares
from rubric_arm_lite.runs import Journal, Progress, RunDirectory, adapter_folder, recipe_of_run
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.types import ROLES, Comparison, Example, ParseStatus, Prompt, PromptBlock, Role, Rubric

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
        self.judge_adapters: dict[Role, Path] = {}
        if recipe.evaluation.judge not in (None, "oracle"):
            run = Path(str(recipe.evaluation.judge))
            _comparing_recipe(str(run))
            self.judge_adapters = {role: adapter_folder(run, role, recipe.evaluation.judge_state) for role in ROLES}
        optimizers = {recipe.policy.optim if recipe.method == "grpo" else recipe.dpo.optim}
        if recipe.start.source is not None:
            optimizers.add(recipe.start.sft.optim)
        if "adamw_8bit" in optimizers:
            adamw_8bit()
        # Through transformers, as DPO's trainer loads it so.
        self.model_settings = (recipe.model or self.reward_recipe.model).model_copy(update={"backend": "transformers"})
        recipe.check_room(self.model_settings.max_context)
        self.world: AnyWorld | None = None
        if (source := recipe.data.source) in WORLDS:
            data = self.reward_recipe.data
            if data.source != source:
                raise ConfigError(
                    f"data.source: {source} means the world that the reward model was trained in, but {r.run} was "
                    f"trained on {data.source}. Give a file of prompts, or a run of {source}."
                )
            self.world = make_world(data, self.reward_recipe.seed)
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


# --- requests --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A single request to the policy."""

    prompt_id: str
    text: str

    def comparison(self, answer: str, other: str) -> Comparison:
        """Two answers to this request, the policy's first."""
        return Comparison(self.prompt_id, self.text, answer, other)

    def example(self, prompts: PromptBuilder, seed: int) -> Example:
        """The policy's prompt; its draws derive from ``seed`` and the request."""
        return Example(self.prompt_id, prompts.policy_prompt(self.text), derive_seed(seed, self.prompt_id))


@dataclass(frozen=True, slots=True)
class Requests:
    """Training and held-out requests, the numbers of skipped conversations and of requests that are too long, and the
    counts of the rows of each source."""

    train: list[Request]
    test: list[Request]
    conversations: int
    too_long: int
    sources: tuple[Counts, ...] = ()

    @property
    def all(self) -> list[Request]:
        """Training requests, then held-out ones."""
        return [*self.train, *self.test]

    def fingerprint(self) -> str:
        """Hash of all requests in their order."""
        rows = [[r.prompt_id for r in self.train], [r.prompt_id for r in self.test]]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def load_requests(recipe: PolicyRecipe, world: AnyWorld | None, fits: Callable[[str], bool]) -> Requests:
    """The recipe's requests that fit the context. Conversations are skipped: the policy answers single requests.

    Raises:
        DataError: if either part is empty.
    """
    data, limit = recipe.data, recipe.evaluation.prompts
    sources: list[Counts] = []
    if world is not None:
        blocks = [world.blocks("train", data.train_prompts or TRAIN_PROMPTS), world.blocks("test", limit)]
    else:
        prompts, of_train = read_prompts(data, recipe.seed)
        train = _blocks(prompts)
        sources.append(of_train)
        if data.evaluation is None:
            train, test = split_blocks(train, data.test_fraction, recipe.seed)
        else:
            prompts, of_test = read_prompts(held_out_settings(data), recipe.seed)
            test = _blocks(prompts)
            sources.append(of_test)
            held_out = {wording(block.prompt) for block in test}
            train = [block for block in train if wording(block.prompt) not in held_out]
        blocks = [shuffle_blocks(part, recipe.seed) for part in (train, test)]
    single = [[Request(b.prompt_id, b.prompt) for b in part if isinstance(b.prompt, str)] for part in blocks]
    fitting = [[request for request in part if fits(request.text)] for part in single]
    for requests, name in zip(fitting, ("training", "held-out"), strict=True):
        if not requests:
            raise DataError(
                f"No {name} request of {data.source} is a single text that fits the context with its answer. Give "
                "more prompts, or raise model.max_context."
            )
    counts = [sum(map(len, parts)) for parts in (blocks, single, fitting)]
    train_part, test_part = fitting[0][: data.train_prompts], fitting[1][:limit]
    return Requests(train_part, test_part, counts[0] - counts[1], counts[1] - counts[2], tuple(sources))


def _blocks(prompts: Iterable[Prompt]) -> list[PromptBlock]:
    return [PromptBlock(prompt_hash(prompt), prompt, ()) for prompt in prompts]


def start_answers(
    recipe: PolicyRecipe, world: AnyWorld | None, held_out: Set[str] = frozenset()
) -> Sequence[tuple[str, str]]:
    """Requests with the answers that the supervised start imitates; empty without such a start.

    In a synthetic world these are all responses of its pairs, chosen or not: the start learns the form of an answer,
    not which one is good. Other answers to the prompts of ``held_out``, by wording, are skipped.

    Raises:
        DataError: if no answer is left.
    """
    source = recipe.start.source
    if source is None:
        return []
    if world is not None and source == world.source:
        pairs = [p for b in world.blocks("train", recipe.data.train_prompts or TRAIN_PROMPTS) for p in b.pairs]
        return [(str(pair.prompt), answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    answers = [(p, a) for p, a in load_answers(source) if isinstance(p, str) and wording(p) not in held_out]
    if not answers:
        raise DataError(
            f"{source}: every row is a conversation, or answers a held-out request. The start imitates answers to "
            "single requests; give some."
        )
    return answers


# --- judges ----------------------------------------------------------------------------------------------------------


Opinions = tuple[list[float], list[float] | None]
"""For every comparison 1 where response A is better, 0 where B is, ½ in between; and, if the judge gives any, the score
of response A by itself."""
IndependentJudge = Callable[[Sequence[Comparison]], Opinions]
"""A judge other than the reward model that the policy is trained against."""


class FixedRubricJudge:
    """The reward model with one rubric per request, written beforehand, as its generator is frozen."""

    def __init__(self, model: RubricRewardModel, rubrics: Mapping[str, Rubric]) -> None:
        self._model = model
        self._rubrics = rubrics

    def has_rubric(self, prompt_id: str) -> bool:
        """Whether the request's rubric is usable."""
        return self._rubrics[prompt_id].usable

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """Verdicts in both orders under the request's rubric; empty if that is not usable, or a text is too long."""
        rubrics = [self._rubrics[c.comparison_id] for c in comparisons]
        cases = [
            (c.prompt, c.response_a, c.response_b, rubric)
            for c, rubric in zip(comparisons, rubrics, strict=True)
            if rubric.usable
        ]
        verdicts = iter(self._model.compare_many(cases, too_long="skip"))
        return [next(verdicts) if rubric.usable else Verdict(rubric) for rubric in rubrics]


def oracle(world: AnyWorld) -> IndependentJudge:
    """A synthetic world as a judge: it knows the hidden score of every response, from 0 to 4."""

    def score(prompt: Prompt, response: str) -> float:
        return float(world.score(known_task(world, prompt), response))

    def judge(comparisons: Sequence[Comparison]) -> Opinions:
        scores = [score(c.prompt, c.response_a) for c in comparisons]
        others = [score(c.prompt, c.response_b) for c in comparisons]
        return [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(scores, others, strict=True)], scores

    return judge


def run_judge(model: RubricRewardModel) -> IndependentJudge:
    """Another run's reward model as a judge: both orders under its own greedy rubric, without scores."""

    def judge(comparisons: Sequence[Comparison]) -> Opinions:
        cases = [(c.prompt, c.response_a, c.response_b, None) for c in comparisons]
        return [verdict.preference for verdict in model.compare_many(cases, too_long="skip")], None

    return judge
