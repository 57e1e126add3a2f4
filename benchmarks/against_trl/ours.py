"""Our side: the package's own model, sampler, phases and learner.

Random weights write no rubric that parses and no judgement with a winner. To make a complete step all the same, the
real parsers and rewards run on the sampled texts, and then

- the synthetic rubric of :class:`.work.Work` with the same length replaces a rubric that does not parse (training
  still uses the sampled tokens), so that the judge's prompts have an exact length;
- seeded rewards that differ within a group replace the real ones, so that every group is informative.

TRL's side gets the same rubrics and the same rewards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.against_trl.work import BETA, LEARNING_RATE, LORA_ALPHA, LORA_RANK, BenchSettings, Part, Work, nudge
from rubric_arm_lite.models import AdapterModel, Sampler, Sampling, load_model
from rubric_arm_lite.prompts import parse_rubric
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.reward_model import RubricCache, RubricGenerator, make_judge
from rubric_arm_lite.training import JudgePhase, RubricPhase
from rubric_arm_lite.training.advantages import group_advantages
from rubric_arm_lite.training.alternating import rollout_step
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.phases import Phase
from rubric_arm_lite.types import ROLES, Example, PromptBlock, Reward, Role, RolloutGroup, Sample, StepMetrics

STIR, MOVE = 1, 2
"""Seeds of the noise in place of a warm-up, and of the noise by which the policies differ from it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run: seconds, and the number of tokens written or trained on."""

    seconds: float
    tokens: int


def clock() -> float:
    """Seconds on a clock, after all work queued on the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def recipe_of(settings: BenchSettings, folder: Path) -> Recipe:
    """The recipe of our side; TRL's trainers get the same values."""
    role = {
        "num_generations": settings.num_generations,
        "max_completion_length": settings.completion_length,
        "prompts_per_step": settings.prompts,
        "loss_type": "dapo",
        "beta": BETA,
        "learning_rate": LEARNING_RATE,
    }
    return Recipe.model_validate(
        {
            "seed": settings.seed,
            "model": {
                "base": str(folder),
                "max_context": settings.prompt_length + settings.completion_length,
                "gradient_checkpointing": settings.gradient_checkpointing,
                "lora": {"r": LORA_RANK, "alpha": LORA_ALPHA},
            },
            "judge": role,
            "rubric": role,
            "reward": {"judge_max_tokens": settings.completion_length},
        }
    )


def write_adapters(work: Work, folder: Path) -> None:
    """Write the adapters in place of a warm-up to ``folder/judge`` and ``folder/rubric``; both sides load them."""
    model = load_model(recipe_of(work.settings, folder).model, work.settings.seed)
    for role in ROLES:
        nudge(model.parameters(role), STIR)
        model.save_adapter(role, folder / role)


def load_ours(work: Work, folder: Path) -> AdapterModel:
    """The model: warm-up adapters, their frozen references, and policies that differ a little from them."""
    model = load_model(recipe_of(work.settings, folder).model, work.settings.seed)
    for role in ROLES:
        model.load_adapter(role, folder / role)
    model.freeze_references()
    for role in ROLES:
        nudge(model.parameters(role), MOVE)
    return model


class FullLengthSampler:
    """A sampler whose completions count as ended, with synthetic rubrics in place of those that do not parse."""

    def __init__(self, sampler: Sampler, work: Work) -> None:
        self._sampler = sampler
        self._work = work
        self.tokens_written = 0

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """Sample, and check that every prompt and completion has exactly its length."""
        groups = self._sampler.sample(adapter, examples, sampling)
        s = self._work.settings
        length = s.rubric_prompt_length if adapter == "rubric" else s.prompt_length
        check_lengths([group.prompt_ids for group in groups], length)
        check_lengths([s.token_ids for group in groups for s in group.samples], sampling.max_tokens)
        self.tokens_written += sum(len(s.token_ids) for group in groups for s in group.samples)
        return [self._finish(group, adapter == "rubric") for group in groups]

    def _finish(self, group: RolloutGroup, rubric: bool) -> RolloutGroup:
        samples = []
        for draw, sample in enumerate(group.samples):
            text = sample.text
            if rubric and not parse_rubric(text).usable:
                text = self._work.rubric(group.example.example_id, draw).text
            samples.append(replace(sample, text=text, finish_reason="stop"))
        return replace(group, samples=tuple(samples))

    def fingerprint(self, adapter: str | None) -> str:
        """The fingerprint of the model's adapter."""
        return self._sampler.fingerprint(adapter)

    def prompt_tokens(self, prompt: str) -> int:
        """The model's number of prompt tokens."""
        return self._sampler.prompt_tokens(prompt)


def check_lengths(sequences: Sequence[Sequence[int]], length: int) -> None:
    """Raise if a sequence has another number of tokens than both sides must read or write."""
    wrong = sorted({len(ids) for ids in sequences if len(ids) != length})
    if wrong:
        raise AssertionError(f"Sequences of {wrong} tokens instead of {length}: the sides do not do the same work.")


class SeededRewards:
    """A phase that scores as usual and then returns the work's seeded rewards."""

    def __init__(self, phase: Phase, work: Work) -> None:
        self.role: Role = phase.role
        self.step = 0
        self._phase = phase
        self._work = work

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """Prepare as the phase does."""
        return self._phase.prepare(batch, seed)

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Score as the phase does, then return the seeded rewards."""
        self._phase.score(groups, seed)
        return self._work.seeded_rewards(self.role, self.step)

    def metrics(self) -> dict[str, float]:
        """The phase's metrics."""
        return self._phase.metrics()


class Ours:
    """Our side, ready to run any part of the work; ``model`` replaces the benchmark's own model."""

    def __init__(self, work: Work, folder: Path, steps: int, model: AdapterModel | None = None) -> None:
        self.work = work
        self.recipe = recipe_of(work.settings, folder)
        self.model = model or load_ours(work, folder)
        self.learner = Learner(self.model, self.recipe)
        self._sampler = FullLengthSampler(self.model, work)
        self._blocks = work.blocks(steps)
        generator = RubricGenerator(self._sampler, work.prompts, RubricCache(self.recipe.cache.capacity))
        judge = make_judge(self.recipe, self._sampler, work.prompts)
        self._phases = {
            "judge": SeededRewards(JudgePhase(self.recipe, generator, judge), work),
            "rubric": SeededRewards(RubricPhase(self.recipe, generator, judge), work),
        }
        self._rollouts: list[RolloutGroup] | None = None

    def run(self, part: Part, step: int) -> Run:
        """Do one part of the work once, timed; ``step`` counts from 0 and chooses the prompts of a full step."""
        if part == "update":
            rollouts = self.rollouts()  # sampled before the clock starts
        before = self._sampler.tokens_written
        started = clock()
        match part:
            case "rollout":
                self.rollout()
            case "update":
                self.update(rollouts)
            case "judge" | "rubric":
                self._step(part, step)
        seconds = clock() - started
        s = self.work.settings
        trained = s.rows * s.completion_length if part == "update" else 0
        return Run(seconds, self._sampler.tokens_written - before + trained)

    def rollout(self) -> list[RolloutGroup]:
        """Sample a group for each of the judge's prompts."""
        s = self.work.settings
        return self._sampler.sample(
            "judge", self.work.judge_examples(), Sampling(s.completion_length, s.num_generations)
        )

    def rollouts(self) -> list[RolloutGroup]:
        """The rollouts that updates train on, sampled once."""
        if self._rollouts is None:
            self._rollouts = self.rollout()
        return self._rollouts

    def use_random_rollouts(self) -> None:
        """Train updates on random tokens, which cost as much as sampled ones, to measure memory without sampling."""
        s = self.work.settings
        groups = []
        for i, example in enumerate(self.work.judge_examples()):
            samples = []
            for j in range(s.num_generations):
                ids = tuple(self.work.random_ids(i * s.num_generations + j))
                samples.append(Sample("", ids, (-math.log(s.vocabulary),) * len(ids), "length"))
            groups.append(RolloutGroup(example, tuple(self.work.encode(example.prompt)), tuple(samples)))
        self._rollouts = groups

    def update(self, groups: Sequence[RolloutGroup]) -> StepMetrics:
        """One optimizer step of the judge on these rollouts."""
        rewards = self.work.seeded_rewards("judge", 0)
        return self.learner.update("judge", groups, [group_advantages(group) for group in rewards])

    def _step(self, role: Role, step: int) -> None:
        phase = self._phases[role]
        phase.step = step
        done = rollout_step(self.recipe, phase, self._blocks, self._sampler, 0, step)
        prompts = self.work.settings.prompts
        if len(done.groups) != prompts or not all(a.informative for a in done.advantages):
            raise AssertionError(f"A {role} step has {len(done.groups)} groups instead of {prompts} informative ones.")
        self.learner.update(role, done.groups, done.advantages)

    def switch_microseconds(self, repeats: int = 200) -> float:
        """Median time to switch the active adapter, from pairs of switches there and back."""
        times_taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            with self.model.using("rubric"):
                pass
            with self.model.using("judge"):
                pass
            times_taken.append((time.perf_counter() - started) / 2)
        return sorted(times_taken)[repeats // 2] * 1e6
