"""The state of a training run: everything that it loads, and what of it a checkpoint holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from rubric_arm_lite.data import load_data
from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation import make_evaluator
from rubric_arm_lite.models import ALONE, AdapterModel, Processes, Sampler, load_model
from rubric_arm_lite.models.parallel import ParallelSampler
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.reward_model import JudgementCache, RubricCache, RubricGenerator, longest_sequence
from rubric_arm_lite.runs import Progress, RunDirectory
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.warmup import read_warmup_rows, starting_adapters


class TrainingState:
    """Model, data, sampler, generator, learner and evaluator of one run, loaded once.

    Raises:
        BackendError: if the base cannot be loaded.
        DataError: if a source cannot be read, or no pair fits the context.
    """

    def __init__(
        self, recipe: Recipe, directory: RunDirectory, progress: Progress, processes: Processes = ALONE
    ) -> None:
        self.recipe, self.directory, self.progress, self.processes = recipe, directory, progress, processes
        directory.after_commit = processes.wait
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.model: AdapterModel = load_model(recipe.model, recipe.seed)
        self.prompts = PromptBuilder(Templates.of(recipe.prompts), self.model.control_tokens())
        self.data = load_data(recipe, lambda pair: longest_sequence(pair, recipe, self.model, self.prompts))
        # Read now: a mistake in the warm-up's source should not wait until the base has been evaluated.
        self.warmup_rows, warmup_counts = read_warmup_rows(recipe, self.data)
        warmed_up = "warmup-judge" in directory.state.stages
        self.starting_adapters = {} if warmed_up else starting_adapters(recipe)
        self.counts = (*self.data.counts, *warmup_counts)
        self.sampler: Sampler = self.model if processes.world == 1 else ParallelSampler(self.model, processes)
        self.generator = RubricGenerator(self.sampler, self.prompts, RubricCache(recipe.cache.capacity))
        self.judgements = JudgementCache(recipe.cache.judgements) if recipe.cache.judgements else None
        self.learner = Learner(self.model, recipe, processes)
        self.evaluator = make_evaluator(recipe, self.generator, recipe.evaluation, self.data.test, self.data.recall)

    def save(self, folder: Path) -> None:
        """Write a checkpoint: all adapters, both optimizers and the rubric cache."""
        for adapter in sorted(self.model.model.peft_config):
            self.model.save_adapter(adapter, folder / adapter)
        self.learner.save_optimizers(folder / "optimizers.safetensors")
        (folder / "cache.json").write_text(self.generator.cache.dumps(), "utf-8")
        if self.judgements is not None:
            (folder / "judgements.json").write_text(self.judgements.dumps(), "utf-8")

    def restore(self, checkpoint: str | None = None) -> None:
        """Load a kept checkpoint, by default the committed one, if there is one.

        Raises:
            CheckpointError: if it is damaged.
        """
        folder = self.directory.checkpoint_path(checkpoint)
        if folder is None:
            return
        if (folder / "rubric_ref").is_dir():
            self.model.freeze_references()
        for adapter in sorted(self.model.model.peft_config):
            self.model.load_adapter(adapter, folder / adapter)
        self.learner.load_optimizers(folder / "optimizers.safetensors")
        self.generator.cache = RubricCache.loads(self._read(folder / "cache.json"), self.recipe.cache.capacity)
        if self.judgements is not None:
            self.judgements.load(self._read(folder / "judgements.json"))

    def _read(self, file: Path) -> str:
        try:
            return file.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. Restore the checkpoint.") from error

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Log the seconds and the sampled tokens of a stage."""
        start, tokens = time.perf_counter(), self.sampler.tokens_written
        yield
        seconds, tokens = time.perf_counter() - start, self.sampler.tokens_written - tokens
        self.directory.append("timings.jsonl", {"stage": stage, "seconds": seconds, "tokens": tokens})
