"""One run from recipe to report: base → warm-up → alternating GRPO → evaluation, in stages that can be resumed.

Everything that happens is appended to the run directory's logs; progress goes to a :class:`Watcher`. The order of
stages is fixed; each is committed when it is done, and the alternating stage commits inside as well.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch

from rubric_arm_lite import __version__
from rubric_arm_lite.alternating import Hooks, Position, Turn, alternate
from rubric_arm_lite.backends.base import ChatSampler, Sampler
from rubric_arm_lite.backends.loader import load_model
from rubric_arm_lite.backends.spread import SpreadSampler
from rubric_arm_lite.backends.transformers import TwoAdapterModel
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.data import WarmupRow, filter_by_length
from rubric_arm_lite.doubts import few_pairs_doubt, still_doubts, still_phases, unparsed_doubt
from rubric_arm_lite.errors import CheckpointError, ConfigError, DataError, TrainingError
from rubric_arm_lite.evaluate import Evaluation, Players, Recall
from rubric_arm_lite.judging import judge_prompts, make_evaluator, make_phases
from rubric_arm_lite.learner import Learner
from rubric_arm_lite.parallel import ALONE, Processes
from rubric_arm_lite.phases import RubricWriter
from rubric_arm_lite.prompts import PromptBuilder, Templates, prompt_hash
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.rubric_cache import RubricCache
from rubric_arm_lite.run_dir import RunDirectory, read_jsonl
from rubric_arm_lite.schedule import STAGES, Slot, slots
from rubric_arm_lite.sources.counts import Counts
from rubric_arm_lite.sources.overlap import Overlap, overlap_with
from rubric_arm_lite.sources.reading import read_blocks
from rubric_arm_lite.sources.trajectories import read_trajectories
from rubric_arm_lite.testbed import TRAIN_PROMPTS
from rubric_arm_lite.types import (
    ROLES,
    Criterion,
    CriterionKind,
    ParseStatus,
    PreferencePair,
    Prompt,
    PromptBlock,
    Role,
    Rubric,
    StepMetrics,
)
from rubric_arm_lite.warmup import role_examples, rows_of_testbed, updates, warm_up_role

CROSS_PLAY = {
    "warm-up judge, warm-up rubrics": Players("rubric_ref", "judge_ref"),
    "trained judge, warm-up rubrics": Players("rubric_ref", "judge"),
    "warm-up judge, trained rubrics": Players("rubric", "judge_ref"),
    "trained judge, trained rubrics": Players("rubric", "judge"),
}


_ONE_CRITERION = Rubric("", (Criterion("The response", CriterionKind.PRINCIPLE),), ParseStatus.OK)


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


@dataclass(frozen=True, slots=True)
class RunData:
    """Training prompts and held-out pairs, with what was left out because it was too long.

    Attributes:
        counts: what was read of the sources of pairs, and left out of them.
        overlap: prompts of the benchmarks that nothing may be trained on.
    """

    train: list[PromptBlock]
    test: list[PreferencePair]
    too_long: int
    recall: Recall | None = None
    world: Any = None
    counts: tuple[Counts, ...] = ()
    overlap: Overlap | None = None

    def fingerprint(self) -> str:
        """Hash of every pair in its order, to tell on a resume whether the data are still the same."""
        digest = hashlib.sha256()
        for pair in [*(pair for block in self.train for pair in block.pairs), *self.test]:
            row = [pair.pair_id, prompt_hash(pair.prompt), pair.chosen, pair.rejected]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


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


def rollout_rows(slot: Slot, step: int, turn: Turn) -> Iterator[dict[str, Any]]:
    """What a step sampled and what it earned, one row per group for the log."""
    for group, rewards, advantages in zip(turn.groups, turn.rewards, turn.advantages, strict=True):
        samples = [
            {
                "text": sample.text,
                "finish_reason": sample.finish_reason,
                "reward": reward.total,
                **dict(reward.parts),
                "advantage": advantage,
            }
            for sample, reward, advantage in zip(group.samples, rewards, advantages.values, strict=True)
        ]
        yield {
            "phase": slot.label,
            "step": step,
            "role": turn.role,
            "example_id": group.example.example_id,
            "prompt": group.example.prompt,
            "samples": samples,
        }


def load_data(recipe: Recipe, model: ChatSampler, prompts: PromptBuilder, training: bool = True) -> RunData:
    """The recipe's training prompts and held-out pairs, without those that do not fit the context.

    Args:
        training: false if nothing will be trained; the training prompts are then neither measured nor counted, which
            a server would be asked about one by one.

    Raises:
        DataError: if nothing is left of either.
    """
    settings = recipe.data
    world = None
    recall: Recall | None = None
    counts: tuple[Counts, ...] = ()
    overlap: Overlap | None = None
    if settings.source == "testbed":
        from rubric_arm_lite.testbed.world import World

        world = World(recipe.seed, settings.world)
        train = world.blocks("train", settings.train_prompts or TRAIN_PROMPTS)
        clean = World(recipe.seed, settings.world.model_copy(update={"label_noise": 0.0}))
        test = clean.blocks("test", settings.test_prompts or recipe.evaluation.pairs)
        recall = _recall_of(world)
    else:
        overlap = overlap_with(settings.decontaminate, settings.overlap_words)
        train, test, counts = read_blocks(settings, recipe.seed, overlap)
    room = recipe.model.max_context

    def longest(pair: PreferencePair) -> int:
        return longest_prompt(pair, recipe, model, prompts)

    train, dropped_train = filter_by_length(train, longest, room) if training else (train, 0)
    test, dropped_test = filter_by_length(test, longest, room)
    if not train or not test:
        raise DataError(
            f"No {'training' if not train else 'held-out'} pair fits model.max_context ({room} tokens): each needs its "
            "prompt plus room for a rubric and a judgement. Raise the context, or lower evaluation.rubric_max_tokens "
            f"({recipe.evaluation.rubric_max_tokens}) and evaluation.judge_max_tokens "
            f"({recipe.evaluation.judge_max_tokens})."
        )
    if len(train) < recipe.schedule.cycles:
        raise DataError(
            f"{len(train)} training prompts cannot be split into schedule.cycles: {recipe.schedule.cycles} parts. Use "
            "fewer cycles or more data."
        )
    # One pair per held-out prompt first, so that a bounded evaluation sees as many prompts as it can.
    deepest = max(len(block.pairs) for block in test)
    pairs = [block.pairs[i] for i in range(deepest) for block in test if i < len(block.pairs)]
    return RunData(train, pairs, dropped_train + dropped_test, recall, world, counts, overlap)


def longest_prompt(pair: PreferencePair, recipe: Recipe, model: ChatSampler, prompts: PromptBuilder) -> int:
    """Tokens of the longest sequence that this pair can lead to, with room for a rubric of full length."""
    evaluation = recipe.evaluation
    rubric_room = max(recipe.rubric.max_completion_length, evaluation.rubric_max_tokens)
    judge_room = max(recipe.judge.max_completion_length, recipe.reward.judge_max_tokens, evaluation.judge_max_tokens)
    generator = model.prompt_tokens(prompts.rubric_prompt(pair.prompt)) + rubric_room
    empty = judge_prompts(recipe, prompts, pair, _ONE_CRITERION)
    return max(generator, max(map(model.prompt_tokens, empty)) + rubric_room + judge_room)


def _recall_of(world: Any) -> Recall:
    from rubric_arm_lite.testbed.world import named_attributes, parse_task

    def recall(prompt: Prompt, rubric: Rubric) -> float:
        task = parse_task(str(prompt))
        if task is None:
            return 0.0
        likes = set(world.likes[task.topic])
        return len(named_attributes(rubric) & likes) / len(likes)

    return recall


def summarise(turn: Turn, metrics: StepMetrics, measured: dict[str, float]) -> dict[str, float]:
    """One step's values for the log."""
    rewards = [reward for group in turn.rewards for reward in group]
    samples = [sample for group in turn.groups for sample in group.samples]
    values = {"reward": _mean([r.total for r in rewards])}
    for name in dict.fromkeys(name for r in rewards for name, _ in r.parts):
        values[f"reward/{name}"] = _mean([dict(r.parts).get(name, 0.0) for r in rewards])
    values["reward/masked"] = _mean([float(r.masked) for r in rewards])
    values["groups"] = float(len(turn.groups))
    values["groups/informative"] = _mean([float(a.informative) for a in turn.advantages])
    values["completion_length"] = _mean([float(len(s.token_ids)) for s in samples])
    values["completions/truncated"] = _mean([float(s.finish_reason == "length") for s in samples])
    return {**values, **measured, **metrics.values}


def versions(model: TwoAdapterModel) -> dict[str, Any]:
    """What this run was made with: packages, machine, and the git revision where there is one."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
    found: dict[str, Any] = {"rubric-arm-lite": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["device"] = torch.cuda.get_device_name() if model.device.type == "cuda" else platform.processor() or "cpu"
    found["threads"] = torch.get_num_threads()
    found["git"] = _git_revision()
    return found


def _git_revision() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")


def evaluate_run(
    reward_model: RubricRewardModel, pairs: Sequence[PreferencePair] | None, votes: int, limit: int | None
) -> tuple[Evaluation, int]:
    """Evaluate a trained run on given pairs, or on those its recipe holds out; also how many were too long.

    Raises:
        DataError: if no pair fits the context.
    """
    recipe, model = reward_model.recipe, reward_model.model
    prompts = reward_model.prompts
    recall: Recall | None = None
    if pairs is None:
        data = load_data(recipe, model, prompts, training=False)
        pairs, recall, left_out = data.test, data.recall, data.too_long
    else:
        fitting = [p for p in pairs if longest_prompt(p, recipe, model, prompts) <= recipe.model.max_context]
        if not fitting:
            raise DataError(f"None of {len(pairs)} pairs fits model.max_context ({recipe.model.max_context} tokens).")
        left_out = len(pairs) - len(fitting)
        pairs = fitting
    settings = recipe.evaluation.model_copy(update={"pairs": limit or len(pairs), "votes": votes})
    writer = RubricWriter(model, prompts, RubricCache(recipe.cache.capacity))
    evaluator = make_evaluator(recipe, model, writer, settings, pairs, recall)
    return evaluator.evaluate("evaluation", votes=votes), left_out
