"""The state of a training run: everything that it loads, and what of it a checkpoint holds."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from rubric_arm_lite.data import WarmupRow, load_data, read_trajectories
from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation import make_evaluator
from rubric_arm_lite.models import ALONE, AdapterModel, Processes, Sampler, load_model
from rubric_arm_lite.models.parallel import ParallelSampler
from rubric_arm_lite.prompts import PromptBuilder, Templates, prompt_hash
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.reward_model import RubricCache, RubricGenerator, longest_prompt
from rubric_arm_lite.runs import Progress, RunDirectory
from rubric_arm_lite.training.learner import Learner


class TrainingState:
    """Model, data, sampler, generator, learner and evaluator of one run, loaded once.

    Raises:
        BackendError: if the base cannot be loaded.
        DataError: if a source cannot be read, or no pair fits the context.
    """

    def __init__(
        self, recipe: Recipe, directory: RunDirectory, progress: Progress, processes: Processes | None = None
    ) -> None:
        self.recipe, self.directory, self.progress = recipe, directory, progress
        self.processes = processes or ALONE
        directory.after_commit = self.processes.wait
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.model: AdapterModel = load_model(recipe.model, recipe.seed)
        self.prompts = PromptBuilder(Templates.of(recipe.prompts), self.model.control_tokens())
        self.data = load_data(recipe, lambda pair: longest_prompt(pair, recipe, self.model, self.prompts))
        self.counts = self.data.counts
        self.warmup_rows: list[WarmupRow] = []
        if recipe.warmup.source not in (None, "testbed"):
            # Read now: a mistake in this source should not wait until the base has been evaluated.
            held_out = {prompt_hash(pair.prompt) for pair in self.data.test}
            pointwise = recipe.reward.judge == "pointwise"
            self.warmup_rows, counts = read_trajectories(
                recipe.warmup, recipe.seed, self.data.decontaminator, held_out, pointwise
            )
            self.counts = (*self.counts, counts)
        self.cache = RubricCache(recipe.cache.capacity)
        self.sampler: Sampler = self.model if self.processes.world == 1 else ParallelSampler(self.model, self.processes)
        self.writer = RubricGenerator(self.sampler, self.prompts, self.cache)
        self.learner = Learner(self.model, recipe, self.processes)
        self.evaluator = make_evaluator(recipe, self.writer, recipe.evaluation, self.data.test, self.data.recall)

    def save(self, folder: Path) -> None:
        """Write a checkpoint: all adapters, both optimizers and the rubric cache."""
        for adapter in sorted(self.model.model.peft_config):
            self.model.save_adapter(adapter, folder / adapter)
        self.learner.save_optimizers(folder / "optimizers.safetensors")
        (folder / "cache.json").write_text(self.cache.dumps(), "utf-8")

    def restore(self) -> None:
        """Load the committed checkpoint, if there is one.

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
        self.cache = self.writer.cache = RubricCache.loads(text, self.recipe.cache.capacity)

    def clock(self) -> tuple[float, int]:
        """Seconds of a monotonic clock, and tokens sampled so far."""
        return time.perf_counter(), self.sampler.tokens_written

    def since(self, start: tuple[float, int]) -> tuple[float, int]:
        """Seconds and sampled tokens since :meth:`clock` returned ``start``."""
        seconds, tokens = self.clock()
        return seconds - start[0], tokens - start[1]

    def log_time(self, stage: str, start: tuple[float, int]) -> None:
        """Log the seconds and sampled tokens of a stage that began at ``start``."""
        seconds, tokens = self.since(start)
        self.directory.append("timings.jsonl", {"stage": stage, "seconds": seconds, "tokens": tokens})
