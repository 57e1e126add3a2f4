"""Our side of a benchmark: the package's own model, sampler, phases and learner, through their public seams.

Random weights write no rubric that parses and no judgement with a winner. So that a step is a whole step all the same,
the real parsers and rewards run on what was written, and then

- a rubric that does not parse is read as the synthetic one of the same length that :class:`.work.Work` has for it
  (the tokens that are trained on stay the sampled ones), so that the judge is asked with prompts of exact length;
- the rewards are replaced by seeded ones with spread, so that every group is informative.

The trainer on the other side gets the same rubrics and the same rewards.
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
from rubric_arm_lite.reward_model import JudgeDesk, RubricCache, RubricGenerator
from rubric_arm_lite.training.advantages import group_advantages
from rubric_arm_lite.training.alternating import rollout_step
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.phases import JudgePhase, Phase, RubricPhase
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.types import ROLES, Example, PromptBlock, Reward, Role, RolloutGroup, Sample, StepMetrics

STIR, MOVE = 1, 2
"""Seeds of the noise that stands for the warm-up, and of that by which the policies have moved away from it."""


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run: its seconds, and the tokens it wrote or trained on."""

    seconds: float
    tokens: int


def clock() -> float:
    """Seconds, after the device has done what was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def recipe_of(settings: BenchSettings, folder: Path) -> Recipe:
    """The recipe of our side; the trainer's settings say the same in its own words."""
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
    """Write the adapters that stand for a warm-up into ``folder/judge`` and ``folder/rubric``; both sides load them."""
    model = load_model(recipe_of(work.settings, folder).model, work.settings.seed)
    for role in ROLES:
        nudge(model.parameters(role), STIR)
        model.save_adapter(role, folder / role)


def load_ours(work: Work, folder: Path) -> AdapterModel:
    """The two-adapter model: warm-up adapters, their frozen references, and policies that have moved a little."""
    model = load_model(recipe_of(work.settings, folder).model, work.settings.seed)
    for role in ROLES:
        model.load_adapter(role, folder / role)
    model.freeze_references()
    for role in ROLES:
        nudge(model.parameters(role), MOVE)
    return model


class FullLength:
    """The model as the phases see it: every text is taken as ended, and a rubric that says nothing is replaced."""

    def __init__(self, sampler: Sampler, work: Work) -> None:
        self._sampler = sampler
        self._work = work
        self.tokens_written = 0

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """As the model's, with every prompt and completion checked to have exactly its length."""
        groups = self._sampler.sample(adapter, examples, sampling)
        s = self._work.settings
        wanted = s.rubric_prompt_length if adapter == "rubric" else s.prompt_length
        check_lengths([group.prompt_ids for group in groups], wanted)
        check_lengths([s.token_ids for group in groups for s in group.samples], sampling.max_tokens)
        self.tokens_written += sum(len(s.token_ids) for group in groups for s in group.samples)
        return [self._read(group, adapter == "rubric") for group in groups]

    def _read(self, group: RolloutGroup, rubric: bool) -> RolloutGroup:
        samples = []
        for draw, sample in enumerate(group.samples):
            text = sample.text
            if rubric and not parse_rubric(text).usable:
                text = self._work.rubric(group.example.example_id, draw).text
            samples.append(replace(sample, text=text, finish_reason="stop"))
        return replace(group, samples=tuple(samples))

    def fingerprint(self, adapter: str | None) -> str:
        """The model's."""
        return self._sampler.fingerprint(adapter)

    def prompt_tokens(self, prompt: str) -> int:
        """The model's."""
        return self._sampler.prompt_tokens(prompt)


def check_lengths(sequences: Sequence[Sequence[int]], length: int) -> None:
    """Refuse a run in which a side reads or writes another number of tokens than it was asked for."""
    wrong = sorted({len(ids) for ids in sequences if len(ids) != length})
    if wrong:
        raise AssertionError(f"Sequences of {wrong} tokens in place of {length}: the sides do not do the same work.")


class DrawnRewards:
    """A phase whose own scoring runs in full and whose rewards are then replaced by the work's."""

    def __init__(self, phase: Phase, work: Work) -> None:
        self.role: Role = phase.role
        self.step = 0
        self._phase = phase
        self._work = work

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """The phase's own."""
        return self._phase.prepare(batch, seed)

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """The phase's own scoring, then the drawn rewards."""
        self._phase.score(groups, seed)
        return self._work.drawn_rewards(self.role, self.step)

    def measured(self) -> dict[str, float]:
        """The phase's own."""
        return self._phase.measured()


class Ours:
    """Our side, ready to run any part of the work, on the benchmark's own model or on one that is given."""

    def __init__(self, work: Work, folder: Path, steps: int, model: AdapterModel | None = None) -> None:
        self.work = work
        self.recipe = recipe_of(work.settings, folder)
        self.model = model or load_ours(work, folder)
        self.learner = Learner(self.model, self.recipe)
        self._sampler = FullLength(self.model, work)
        self._blocks = work.blocks(steps)
        writer = RubricGenerator(self._sampler, work.prompts, RubricCache(self.recipe.cache.capacity))
        desk = JudgeDesk(self._sampler, work.prompts)
        self._phases = {
            "judge": DrawnRewards(JudgePhase(self.recipe, writer, work.prompts), work),
            "rubric": DrawnRewards(RubricPhase(self.recipe, desk, work.prompts), work),
        }
        self._given: list[RolloutGroup] | None = None

    def run(self, part: Part, step: int) -> Run:
        """Do one part of the work once, timed; ``step`` counts from 0 and chooses the prompts of a full step."""
        if part == "update":
            given = self.given()  # sampled before the clock starts
        before = self._sampler.tokens_written
        started = clock()
        match part:
            case "rollout":
                self.rollout()
            case "update":
                self.update(given)
            case "judge" | "rubric":
                self._play(part, step)
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

    def given(self) -> list[RolloutGroup]:
        """The rollouts that updates are given, sampled once."""
        if self._given is None:
            self._given = self.rollout()
        return self._given

    def give_random(self) -> None:
        """Let updates be given random tokens, which cost as much as sampled ones, so that memory is theirs alone."""
        s = self.work.settings
        groups = []
        for i, example in enumerate(self.work.judge_examples()):
            samples = []
            for j in range(s.num_generations):
                ids = tuple(self.work.random_ids(i * s.num_generations + j))
                samples.append(Sample("", ids, (-math.log(s.vocabulary),) * len(ids), "length"))
            groups.append(RolloutGroup(example, tuple(self.work.encode(example.prompt)), tuple(samples)))
        self._given = groups

    def update(self, groups: Sequence[RolloutGroup]) -> StepMetrics:
        """One optimizer step of the judge on given rollouts."""
        rewards = self.work.drawn_rewards("judge", 0)
        return self.learner.update("judge", groups, [group_advantages(group) for group in rewards])

    def _play(self, role: Role, step: int) -> None:
        phase = self._phases[role]
        phase.step = step
        turn = rollout_step(self.recipe, phase, self._blocks, self._sampler, ScheduledPhase(0, 0, (role,)), step)
        wanted = self.work.settings.prompts
        if len(turn.groups) != wanted or not all(a.informative for a in turn.advantages):
            raise AssertionError(f"A {role} step of {len(turn.groups)} groups in place of {wanted} informative ones.")
        self.learner.update(role, turn.groups, turn.advantages)

    def switch_microseconds(self, times: int = 200) -> float:
        """Median time of one switch of the active adapter, there and back measured together."""
        found = []
        for _ in range(times):
            started = time.perf_counter()
            with self.model.using("rubric"):
                pass
            with self.model.using("judge"):
                pass
            found.append((time.perf_counter() - started) / 2)
        return sorted(found)[times // 2] * 1e6
