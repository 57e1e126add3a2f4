"""One run from recipe to report: base → warm-up → alternating GRPO → evaluation, in stages that can be resumed.

Everything that happens is appended to the run directory's logs; progress goes to a :class:`Watcher`. The order of
stages is fixed; each is committed when it is done, and the alternating stage commits inside as well.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from rubric_arm_lite.alternating import Hooks, Position, Turn, alternate
from rubric_arm_lite.backends.base import Sampler
from rubric_arm_lite.backends.loader import load_model
from rubric_arm_lite.backends.spread import SpreadSampler
from rubric_arm_lite.backends.transformers import TwoAdapterModel
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.data import WarmupRow
from rubric_arm_lite.doubts import few_pairs_doubt, still_doubts, still_phases, unparsed_doubt
from rubric_arm_lite.errors import CheckpointError, ConfigError, TrainingError
from rubric_arm_lite.evaluate import Evaluation, Players
from rubric_arm_lite.judging import make_evaluator, make_phases
from rubric_arm_lite.learner import Learner
from rubric_arm_lite.parallel import ALONE, Processes
from rubric_arm_lite.phases import RubricWriter
from rubric_arm_lite.prompts import PromptBuilder, Templates, prompt_hash
from rubric_arm_lite.rubric_cache import RubricCache
from rubric_arm_lite.run_data import load_data
from rubric_arm_lite.run_dir import RunDirectory, read_jsonl
from rubric_arm_lite.schedule import STAGES, Slot, slots
from rubric_arm_lite.sources.trajectories import read_trajectories
from rubric_arm_lite.step_rows import rollout_rows, summarise
from rubric_arm_lite.types import ROLES, Role, StepMetrics
from rubric_arm_lite.versions import versions
from rubric_arm_lite.warmup import role_examples, rows_of_testbed, updates, warm_up_role

CROSS_PLAY = {
    "warm-up judge, warm-up rubrics": Players("rubric_ref", "judge_ref"),
    "trained judge, warm-up rubrics": Players("rubric_ref", "judge"),
    "warm-up judge, trained rubrics": Players("rubric", "judge_ref"),
    "trained judge, trained rubrics": Players("rubric", "judge"),
}


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


class Run:
    """A run in progress: the model, the data and the stages."""

    def __init__(self, recipe: Recipe, directory: RunDirectory, watcher: Watcher, processes: Processes = ALONE) -> None:
        if recipe.model.checkpoints is not None:
            raise ConfigError(
                "model.checkpoints: full checkpoints are asked and evaluated, not trained. Use rubric-arm evaluate, "
                "judge or rubric with this recipe, or a recipe without model.checkpoints."
            )
        self.processes = processes
        directory.after_commit = processes.wait
        self.recipe = recipe
        self.directory = directory
        self.watcher = watcher
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.model: TwoAdapterModel = load_model(recipe.model, recipe.seed)
        self.prompts = PromptBuilder(Templates.of(recipe.prompts), self.model.control_tokens())
        self.data = load_data(recipe, self.model, self.prompts)
        self.warmup_rows: list[WarmupRow] = []
        self.counts = self.data.counts
        if recipe.warmup.source not in (None, "testbed"):
            # Read now: a mistake in this source should not wait until the base has been evaluated.
            held_out = {prompt_hash(pair.prompt) for pair in self.data.test}
            found = read_trajectories(
                recipe.warmup, recipe.seed, self.data.overlap, held_out, recipe.reward.judge == "pointwise"
            )
            self.warmup_rows, self.counts = found[0], (*self.counts, found[1])
        self.cache = RubricCache(recipe.cache.capacity)
        self.sampler: Sampler = self.model if processes.world == 1 else SpreadSampler(self.model, processes)
        self.writer = RubricWriter(self.sampler, self.prompts, self.cache)
        self.learner = Learner(self.model, recipe, processes)
        self.evaluator = make_evaluator(
            recipe, self.sampler, self.writer, recipe.evaluation, self.data.test, self.data.recall
        )

    # --- stages -------------------------------------------------------------------------------------------------

    def execute(self, until: str | None = None) -> None:
        """Do every stage that is not done yet, up to and including ``until``."""
        self._restore()
        wanted = STAGES[: STAGES.index(until) + 1] if until else STAGES
        for counts in self.counts:
            if counts.left_out:
                self.watcher.note(counts.line("rows"))
        if self.data.too_long:
            self.watcher.note(
                f"{self.data.too_long} pairs are longer than model.max_context ({self.recipe.model.max_context} "
                "tokens) and were left out."
            )
        for doubt in few_pairs_doubt(len(self.evaluator.pairs)):
            self.watcher.note(doubt)
        if self.directory.state.stages:
            self._check_same_data()
        else:
            self.directory.write_json("versions.json", versions(self.model))
            self._describe_data()
        for stage in wanted:
            if stage in self.directory.state.stages:
                continue
            started, tokens = time.perf_counter(), self.sampler.tokens_written
            match stage:
                case "base":
                    self._evaluate("base", Players(None, None))
                    self.directory.commit(stage=stage)
                case "warmup-rubric":
                    self._warm_up("rubric", stage)
                case "warmup-judge":
                    self._warm_up("judge", stage)
                case "warmup":
                    self._evaluate("warm-up")
                    self.directory.commit(stage=stage)
                case "alternating":
                    self._alternate(stage)
                case "cross-play":
                    self._cross_play()
                    self.directory.commit(stage=stage)
                case "final":
                    self._finish(stage)
            if stage != "alternating":
                self._time(stage, started, tokens)
        if "final" in self.directory.state.stages:
            self._restore_lost_adapters()

    def _describe_data(self) -> None:
        data = self.data
        described: dict[str, Any] = {
            "train_prompts": len(data.train),
            "train_pairs": sum(len(block.pairs) for block in data.train),
            "test_pairs": len(self.evaluator.pairs),
            "left_out_too_long": data.too_long,
            "fingerprint": data.fingerprint(),
        }
        if self.counts:
            described["sources"] = [counts.as_json() for counts in self.counts]
        if data.world is not None:
            from rubric_arm_lite.testbed.oracle import oracle

            described["oracle"] = oracle(data.world, self.evaluator.pairs)
            described["likes"] = data.world.likes
        self.directory.write_json("data.json", described)

    def _check_same_data(self) -> None:
        file = self.directory.path / "data.json"
        try:
            before = json.loads(file.read_text("utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged or of an older version ({type(error).__name__}: {error}). Keep this run as it "
                "is and start anew under another name."
            ) from error
        if before != self.data.fingerprint():
            raise CheckpointError(
                f"{self.recipe.data.source} now holds other pairs than when {self.directory.path} began. Restore the "
                "data, or start anew under another name."
            )

    def _evaluate(self, name: str, players: Players | None = None, votes: int = 1) -> Evaluation:
        self.watcher.stage(f"evaluate {name}", 1)
        evaluation = self.evaluator.evaluate(name, players, votes)
        self.directory.append("metrics.jsonl", {"kind": "evaluation", "name": name, **evaluation.values})
        self.directory.write_json(
            f"evaluations/{_slug(name)}.json",
            {"name": name, "values": evaluation.values, "rows": evaluation.rows, "showcase": evaluation.showcase},
        )
        self.watcher.evaluated(evaluation)
        if name == "warm-up":  # the base is not expected to know the form, and the report says it of the end
            for doubt in unparsed_doubt(evaluation.values, self.recipe.evaluation.unparsed_value):
                self.watcher.note(doubt)
        return evaluation

    def _warm_up(self, role: Role, stage: str) -> None:
        settings = self.recipe.warmup
        folder = self.directory.path / "warmup" / role
        if settings.source is not None:
            rows = self.warmup_rows
            if settings.source == "testbed":
                pointwise = self.recipe.reward.judge == "pointwise"
                words = self.recipe.prompts.pointwise_words if pointwise else None
                rows = rows_of_testbed(settings, self.data.world, self.recipe.seed, words)
            examples, too_long = role_examples(rows, role, self.model, self.prompts)
            if too_long:
                self.watcher.note(f"{too_long} warm-up rows of the {role} are longer than the context; left out.")
            skipped = len(rows) - len(examples) - too_long
            if skipped:
                self.watcher.note(f"{skipped} warm-up rows have a rubric that does not parse; the judge skips them.")
            sft = settings.rubric if role == "rubric" else settings.judge
            self.watcher.stage(f"warm-up {role}", updates(sft, len(examples)))
            seed = self.recipe.seed
            losses = warm_up_role(self.model, role, examples, sft, seed, folder, self.watcher.step, self.processes)
            for step, loss in losses:
                self.directory.append("metrics.jsonl", {"kind": "warmup", "role": role, "step": step, "loss": loss})
        if role == "judge":
            self.model.freeze_references()
        self.directory.commit(self._save, stage=stage, keep=self.recipe.checkpoint.save_total_limit)
        if self.directory.writes:
            shutil.rmtree(folder, ignore_errors=True)

    def _alternate(self, stage: str) -> None:
        phases = make_phases(self.recipe, self.sampler, self.writer, self.prompts)
        order = slots(self.recipe.schedule)
        keep = self.recipe.checkpoint.save_total_limit
        frozen: dict[str, str] = {}
        clock = {"phase": time.perf_counter(), "tokens": float(self.sampler.tokens_written)}

        def before_phase(slot: Slot, steps: int) -> None:
            frozen.clear()
            names = [*(role for role in ROLES if role not in slot.roles), "rubric_ref", "judge_ref"]
            frozen.update({name: self.model.fingerprint(name) for name in names})
            clock.update(phase=time.perf_counter(), tokens=float(self.sampler.tokens_written))
            self.watcher.stage(slot.label, steps)

        def after_step(slot: Slot, step: int, done: list[tuple[Turn, StepMetrics]]) -> bool:
            for turn, metrics in done:
                values = summarise(turn, metrics, phases[turn.role].measured())
                row = {
                    "kind": "step",
                    "slot": slot.index,
                    "phase": slot.label,
                    "role": turn.role,
                    "step": step,
                    **values,
                }
                self.directory.append("metrics.jsonl", row)
                for rollout in rollout_rows(slot, step, turn):
                    self.directory.append("rollouts.jsonl", rollout)
                seconds = max(time.perf_counter() - clock["phase"], 1e-9)
                rate = (self.sampler.tokens_written - clock["tokens"]) / seconds
                self.watcher.step(step + 1, {**values, "tokens/s": rate})
            ended = self._reached(slot, step)
            if not ended and (step + 1) % self.recipe.checkpoint.save_steps == 0:
                self.directory.commit(self._save, position=(slot.index, step + 1), keep=keep)
            return ended

        def after_phase(slot: Slot) -> None:
            for name, fingerprint in frozen.items():
                if self.model.fingerprint(name) != fingerprint:
                    raise TrainingError(f"The frozen adapter `{name}` changed in the phase {slot.label}.")
            self._check_same_weights(slot.label)
            self._time(slot.label, clock["phase"], int(clock["tokens"]))
            started, tokens = time.perf_counter(), self.sampler.tokens_written
            if self.recipe.evaluation.after_phases:
                self._evaluate(slot.label)
                self._time(f"evaluate {slot.label}", started, tokens)
            self._say_if_still(slot)
            self.directory.commit(self._save, position=(slot.index + 1, 0), keep=keep)

        slot, step = self.directory.state.position
        if slot < len(order):
            hooks = Hooks(before_phase, after_step, after_phase)
            position = Position(slot, step)
            alternate(self.recipe, order, phases, self.data.train, self.sampler, self.learner, hooks, position)
        self.directory.commit(stage=stage)

    def _say_if_still(self, slot: Slot) -> None:
        """Say so if no step of this phase, those before a resume included, had anything to learn from."""
        logged = read_jsonl(self.directory.path / "metrics.jsonl") if self.directory.writes else ()
        steps = [row for row in logged if row["kind"] == "step" and row["slot"] == slot.index]
        for doubt in still_doubts(still_phases((row["phase"], row["role"], row) for row in steps)):
            self.watcher.note(doubt)

    def _check_same_weights(self, phase: str) -> None:
        """All processes have stepped with the same gradients, so their adapters are the same to the last bit."""
        for role in ROLES:
            if len(set(self.processes.gather(self.model.fingerprint(role)))) > 1:
                raise TrainingError(
                    f"The adapter `{role}` differs between processes after {phase}. All must run the same versions on "
                    "the same kind of device; resume with those."
                )

    def _reached(self, slot: Slot, step: int) -> bool:
        """Whether the recipe's ``until`` ends this phase after this step."""
        until = self.recipe.schedule.until
        if until is None or until.phase not in slot.roles or (step + 1) % until.every:
            return False
        probe = [pair for block in reversed(self.data.train) for pair in block.pairs][: until.pairs]
        settings = self.recipe.evaluation.model_copy(update={"pairs": until.pairs, "vote_pairs": 1, "showcase": 0})
        evaluator = make_evaluator(self.recipe, self.sampler, self.writer, settings, probe)
        value = evaluator.evaluate("probe").values[until.metric]
        self.directory.append(
            "metrics.jsonl",
            {"kind": "probe", "slot": slot.index, "phase": slot.label, "step": step, until.metric: value},
        )
        return value >= until.at_least

    def _cross_play(self) -> None:
        found = {}
        for name, players in CROSS_PLAY.items():
            found[name] = self._evaluate(f"cross-play: {name}", players).values
        self.directory.write_json("cross_play.json", found)

    def _finish(self, stage: str) -> None:
        evaluation = self._evaluate("final", votes=self.recipe.evaluation.votes)
        for role in ROLES if self.directory.writes else ():
            self.model.save_adapter(role, self.directory.path / "adapters" / role)
        self.directory.write_json(
            "summary.json", {"recipe": self.recipe.name, "seed": self.recipe.seed, **evaluation.values}
        )
        self.directory.commit(stage=stage)

    def _restore_lost_adapters(self) -> None:
        """Write the adapters of a finished run again if somebody took them away."""
        for role in ROLES if self.directory.writes else ():
            folder = self.directory.path / "adapters" / role
            if not (folder / "adapter_model.safetensors").is_file():
                self.watcher.note(f"{folder} was gone and is written again from the last checkpoint.")
                self.model.save_adapter(role, folder)

    # --- state --------------------------------------------------------------------------------------------------

    def _save(self, folder: Path) -> None:
        for adapter in sorted(self.model.model.peft_config):
            self.model.save_adapter(adapter, folder / adapter)
        self.learner.save_optimizers(folder / "optimizers.safetensors")
        (folder / "cache.json").write_text(self.cache.dumps(), "utf-8")

    def _restore(self) -> None:
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

    def _time(self, stage: str, started: float, tokens: int) -> None:
        row = {"stage": stage, "seconds": time.perf_counter() - started, "tokens": self.sampler.tokens_written - tokens}
        self.directory.append("timings.jsonl", row)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")
