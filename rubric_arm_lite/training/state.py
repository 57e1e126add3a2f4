"""TODO docstring."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import torch

from rubric_arm_lite.data import WarmupRow, load_data, read_trajectories
from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation import Evaluation, make_evaluator
from rubric_arm_lite.models import AdapterModel, Processes, Sampler, load_model
from rubric_arm_lite.models.parallel import ParallelSampler
from rubric_arm_lite.prompts import PromptBuilder, Templates, prompt_hash
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.reward_model import RubricCache, RubricGenerator, longest_prompt
from rubric_arm_lite.runs import RunDirectory
from rubric_arm_lite.training.learner import Learner


class Watcher(Protocol):
    """Shows a run to a person."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of ``steps`` steps begins."""
        ...

    def step(self, done: int, values: dict[str, float]) -> None:
        """Steps done in this stage, and what the last one measured."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None:
        """An evaluation is ready."""
        ...

    def note(self, text: str) -> None:
        """Something a reader should know."""
        ...


class RunParts:
    """The parts of one run, loaded once. Whoever changes them saves them, and :meth:`restore` brings them back."""

    def __init__(self, recipe: Recipe, directory: RunDirectory, watcher: Watcher, processes: Processes) -> None:
        self.processes = processes
        directory.after_commit = processes.wait
        self.recipe = recipe
        self.directory = directory
        self.watcher = watcher
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.model: AdapterModel = load_model(recipe.model, recipe.seed)
        self.prompts = PromptBuilder(Templates.of(recipe.prompts), self.model.control_tokens())
        self.data = load_data(recipe, lambda pair: longest_prompt(pair, recipe, self.model, self.prompts))
        self.warmup_rows: list[WarmupRow] = []
        self.counts = self.data.counts
        if recipe.warmup.source not in (None, "testbed"):
            # Read now: a mistake in this source should not wait until the base has been evaluated.
            held_out = {prompt_hash(pair.prompt) for pair in self.data.test}
            found = read_trajectories(
                recipe.warmup, recipe.seed, self.data.decontaminator, held_out, recipe.reward.judge == "pointwise"
            )
            self.warmup_rows, self.counts = found[0], (*self.counts, found[1])
        self.cache = RubricCache(recipe.cache.capacity)
        self.sampler: Sampler = self.model if processes.world == 1 else ParallelSampler(self.model, processes)
        self.writer = RubricGenerator(self.sampler, self.prompts, self.cache)
        self.learner = Learner(self.model, recipe, processes)
        self.evaluator = make_evaluator(recipe, self.writer, recipe.evaluation, self.data.test, self.data.recall)

    def save(self, folder: Path) -> None:
        """Write a checkpoint: all adapters, both optimizers and the cache."""
        for adapter in sorted(self.model.model.peft_config):
            self.model.save_adapter(adapter, folder / adapter)
        self.learner.save_optimizers(folder / "optimizers.safetensors")
        (folder / "cache.json").write_text(self.cache.dumps(), "utf-8")

    def restore(self) -> None:
        """Take the committed checkpoint back, if there is one.

        Raises:
            CheckpointError: if it is damaged.
        """
        folder = self.directory.checkpoint_path()
        if folder is None:
            return
        if (folder / "rubric_ref").is_dir():
            self.model.freeze_references()
        for adapter in sorted(self.model.model.peft_config):
            self.model.load_adapter(adapter, folder / adapter)
        self.learner.load_optimizers(folder / "optimizers.safetensors")
        try:
            text = (folder / "cache.json").read_text("utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}/cache.json cannot be read: {error}. Restore the checkpoint.") from error
        restored = RubricCache.loads(text, self.recipe.cache.capacity)
        self.cache = self.writer.cache = restored

    def log_time(self, stage: str, started: float, tokens: int) -> None:
        """Log seconds since ``started`` (of ``time.perf_counter``) and tokens sampled since there were ``tokens``."""
        row = {"stage": stage, "seconds": time.perf_counter() - started, "tokens": self.sampler.tokens_written - tokens}
        self.directory.append("timings.jsonl", row)
