"""A policy run from recipe to figures, in stages that can be resumed (paper, sec. 4.3).

DPO: start → rubrics → evaluation → per round: sample → label → train → evaluate → final. Iterative DPO repeats the
round; each round starts from the policy of the one before, which is also its reference. Online GRPO has one stage
``train`` in place of the rounds, the very loop that trains the reward model, with an evaluation after each round.
KL and win rates are always those against the policy after ``start``.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from rubric_arm_lite.alternating import Hooks, Position, Turn, alternate
from rubric_arm_lite.errors import CheckpointError, TrainingError
from rubric_arm_lite.journal import Journal
from rubric_arm_lite.learner import Learner
from rubric_arm_lite.memory import release
from rubric_arm_lite.parsing import parse_rubric
from rubric_arm_lite.pipeline import rollout_rows, summarise, versions
from rubric_arm_lite.policy.dpo import train_dpo
from rubric_arm_lite.policy.evaluate import PolicyEvaluation, PolicyEvaluator
from rubric_arm_lite.policy.pairs import REASONS, TrainingPair, label_pairs, portions, sample_pairs
from rubric_arm_lite.policy.phase import PolicyPhase
from rubric_arm_lite.policy.players import Players, load_players, policy_model
from rubric_arm_lite.policy.referee import IndependentJudge, Oracle, OtherRun, Referee
from rubric_arm_lite.policy.requests import Requests, load_requests, start_answers, world_of
from rubric_arm_lite.policy.statistics import Alarm, Point, alarms
from rubric_arm_lite.policy_config import PolicyRecipe
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.reward_model import RubricRewardModel, recipe_of_run
from rubric_arm_lite.run_dir import RunDirectory, read_jsonl
from rubric_arm_lite.schedule import Slot
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import ROLES, ParseStatus, PromptBlock, Rubric, StepMetrics
from rubric_arm_lite.warmup import updates, warm_up_role


class PolicyWatcher(Protocol):
    """Shows a policy run to a person."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of ``steps`` steps begins."""
        ...

    def step(self, done: int, values: dict[str, float]) -> None:
        """Steps done in this stage, and what the last one measured."""
        ...

    def said(self, name: str, text: str) -> None:
        """A line of results."""
        ...

    def note(self, text: str) -> None:
        """Something a reader should know."""
        ...


def stages_of(recipe: PolicyRecipe) -> list[str]:
    """The stages of a run in order."""
    first = ["start", "rubrics", "evaluate 0"]
    if recipe.method == "grpo":
        return [*first, "train", "final"]
    rounds = range(1, (recipe.dpo.rounds if recipe.method == "iterdpo" else 1) + 1)
    inside = [f"{step} {k}" for k in rounds for step in ("sample", "label", "train", "evaluate")]
    return [*first, *inside, "final"]


class PolicyRun:
    """A policy run in progress."""

    def __init__(self, recipe: PolicyRecipe, directory: RunDirectory, watcher: PolicyWatcher) -> None:
        self.recipe = recipe
        self.directory = directory
        self.watcher = watcher
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.reward_recipe = recipe_of_run(recipe.reward.run)
        self.world = world_of(recipe, self.reward_recipe)
        self._players: Players | None = None
        self._learner: Learner | None = None
        self.requests = load_requests(recipe, self.world, self._fits)

    # --- who plays ----------------------------------------------------------------------------------------------

    @property
    def players(self) -> Players:
        """Policy and reward model, loaded when first needed, in the committed state."""
        if self._players is None:
            self._players = load_players(self.recipe, self.reward_recipe)
            folder = self.directory.checkpoint_path()
            if folder is not None:
                self._players.policy.freeze_references(("policy",))
                for adapter in ("policy", "policy_ref"):
                    self._players.policy.load_adapter(adapter, folder / adapter)
        return self._players

    @property
    def learner(self) -> Learner:
        """The optimizer of online GRPO, in the committed state."""
        if self._learner is None:
            self._learner = Learner(self.players.policy, self.recipe)
            folder = self.directory.checkpoint_path()
            if folder is not None and (folder / "optimizers.safetensors").is_file():
                self._learner.load_optimizers(folder / "optimizers.safetensors")
        return self._learner

    def _send_home(self) -> None:
        """Let go of all models: a trainer loads a base of its own, and two may not fit."""
        device = self.players.policy.device
        self._players = self._learner = None
        for name in ("prompts", "referee", "evaluator"):
            vars(self).pop(name, None)
        gc.collect()
        release(device)

    @cached_property
    def prompts(self) -> PromptBuilder:
        """Writes the policy's user turns; it knows the control tokens of the policy's tokenizer."""
        settings = self.reward_recipe.prompts
        templates = Templates.load(settings.rubric_template, settings.judge_template)
        return PromptBuilder(templates, self.players.policy.control_tokens())

    def _fits(self, request: str) -> bool:
        recipe = self.recipe
        room = max(recipe.answers.max_completion_length, recipe.policy.max_completion_length)
        length = self.players.policy.prompt_tokens(self.prompts.policy_prompt(request))
        return length + room <= policy_model(recipe, self.reward_recipe).max_context

    @cached_property
    def referee(self) -> Referee:
        """The reward model with the rubrics of the stage ``rubrics``."""
        rubrics: dict[str, Rubric] = {}
        for row in read_jsonl(self.directory.path / "rubrics.jsonl"):
            for prompt_id, text, cut in row.get("rubrics", []):
                rubrics[prompt_id] = parse_rubric(text, "length" if cut else "stop")
        return Referee(self.players.reward, rubrics)

    @cached_property
    def evaluator(self) -> PolicyEvaluator:
        """Measures the policy on the held-out requests."""
        recipe = self.recipe
        return PolicyEvaluator(
            self.players.policy,
            self.prompts,
            self.referee,
            self._independent(),
            self.requests.test,
            recipe.answers,
            recipe.evaluation,
            recipe.seed,
        )

    def _independent(self) -> IndependentJudge | None:
        settings = self.recipe.evaluation
        if settings.judge is None:
            return None
        if settings.judge == "oracle" and self.world is not None:
            return Oracle(self.world)
        return OtherRun(RubricRewardModel.from_run(settings.judge, settings.judge_state))

    # --- stages -------------------------------------------------------------------------------------------------

    def execute(self) -> None:
        """Do every stage that is not done yet."""
        self._check_same_data()
        for stage in stages_of(self.recipe):
            if stage in self.directory.state.stages:
                continue
            started = time.perf_counter()
            word, _, number = stage.partition(" ")
            self._stage(word, int(number) if number else 0, stage)
            self.directory.append("timings.jsonl", {"stage": stage, "seconds": time.perf_counter() - started})

    def _stage(self, word: str, number: int, stage: str) -> None:
        match word:
            case "start":
                self._start(stage)
            case "rubrics":
                self._write_rubrics()
                self.directory.commit(stage=stage)
            case "evaluate":
                self._evaluate("start" if number == 0 else f"round {number}")
                self.directory.commit(stage=stage)
            case "sample":
                self._sample(number)
                self.directory.commit(stage=stage)
            case "label":
                self._label(number)
                self.directory.commit(stage=stage)
            case "train" if number:
                self._train_dpo(number, stage)
            case "train":
                self._train_online(stage)
            case "final":
                self._finish(stage)

    def _describe(self) -> dict[str, Any]:
        requests: Requests = self.requests
        reward = self.players.reward.model
        return {
            "train_requests": len(requests.train),
            "test_requests": len(requests.test),
            "left_out_conversations": requests.conversations,
            "left_out_too_long": requests.too_long,
            "fingerprint": requests.fingerprint(),
            "reward_model": {role: reward.fingerprint(role) for role in ROLES},
        }

    def _check_same_data(self) -> None:
        """Requests and reward model must be those that the run began with."""
        now, requests = self._describe(), self.requests
        if not self.directory.state.stages:
            if requests.conversations:
                self.watcher.note(f"{requests.conversations} conversations are left out: single requests only.")
            if requests.too_long:
                self.watcher.note(f"{requests.too_long} requests do not fit the context with an answer; left out.")
            self.directory.write_json("versions.json", versions(self.players.policy))
            self.directory.write_json("data.json", now)
            return
        file = self.directory.path / "data.json"
        try:
            before = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. Start anew under another name.") from error
        changed = [name for name in now if not isinstance(before, dict) or before.get(name) != now[name]]
        if changed:
            raise CheckpointError(
                f"{self.directory.path} began with other requests or another reward model ({', '.join(changed)} "
                f"changed). Restore {self.recipe.data.source} and {self.recipe.reward.run}, or start anew under "
                "another name."
            )

    def _start(self, stage: str) -> None:
        model, settings = self.players.policy, self.recipe.start
        if settings.adapter is not None:
            model.load_adapter("policy", Path(settings.adapter))
        rows = start_answers(self.recipe, self.world)
        folder = self.directory.path / "start"
        if rows:
            encoded = [(model.encode(self.prompts.policy_prompt(p)), model.encode_completion(a)) for p, a in rows]
            examples = [ids for ids in encoded if len(ids[0]) + len(ids[1]) <= model.settings.max_context]
            if len(examples) < len(rows):
                self.watcher.note(f"{len(rows) - len(examples)} answers of the start are longer than the context.")
            self.watcher.stage("start", updates(settings.sft, len(examples)))
            losses = warm_up_role(model, "policy", examples, settings.sft, self.recipe.seed, folder, self.watcher.step)
            for step, loss in losses:
                self.directory.append("metrics.jsonl", {"kind": "start", "step": step, "loss": loss})
        model.freeze_references(("policy",))
        self.directory.commit(self._save, stage=stage, keep=self.recipe.checkpoint.save_total_limit)
        shutil.rmtree(folder, ignore_errors=True)

    def _write_rubrics(self) -> None:
        """One greedy rubric per request, kept for the whole run: the generator is frozen."""
        requests = [*self.requests.train, *self.requests.test]
        self.watcher.stage("rubrics", len(requests))
        reward, done = self.players.reward, 0
        with Journal.open(self.directory.path / "rubrics.jsonl", self._job("rubrics")) as journal:
            for key, portion in portions(requests):
                if key not in journal.rows:
                    written = reward.rubrics([request.text for request in portion])
                    rows = [
                        [request.prompt_id, rubric.text, rubric.status is ParseStatus.TRUNCATED]
                        for request, rubric in zip(portion, written, strict=True)
                    ]
                    journal.add([(key, {"rubrics": rows})])
                done += len(portion)
                self.watcher.step(done, {})
        unusable = sum(not self.referee.has_rubric(request) for request in requests)
        if unusable:
            self.watcher.note(f"{unusable} of {len(requests)} rubrics do not parse; those requests are not trained on.")

    def _evaluate(self, name: str) -> PolicyEvaluation:
        self.watcher.stage(f"evaluate {name}", 1)
        evaluation = self.evaluator.evaluate(name)
        self.directory.append("metrics.jsonl", {"kind": "evaluation", "name": name, **evaluation.values})
        self.directory.write_json(
            f"evaluations/{name.replace(' ', '-')}.json",
            {"name": name, "values": evaluation.values, "rows": evaluation.rows},
        )
        self.watcher.said(name, told(evaluation.values))
        for alarm in self.alarms():
            if alarm.at == name:
                self.watcher.note(alarm_text(alarm))
        return evaluation

    def alarms(self) -> list[Alarm]:
        """Reward over-optimisation seen so far."""
        return alarms(curve(self.evaluations()), self.recipe.evaluation.alarm_margin)

    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of all evaluations so far."""
        return [row for row in self.directory.read_log("metrics.jsonl") if row["kind"] == "evaluation"]

    # --- rounds of DPO ------------------------------------------------------------------------------------------

    def _job(self, what: str, number: int = 0) -> dict[str, Any]:
        """What decides the rows of a journal; the recipe is checked by the run directory."""
        return {
            "what": what,
            "round": number,
            "requests": self.requests.fingerprint(),
            "policy": self.players.policy.fingerprint("policy"),
        }

    def _progress(self, done: int, _of: int) -> None:
        self.watcher.step(done, {})

    def _round_file(self, number: int, name: str) -> Path:
        return self.directory.path / "rounds" / str(number) / name

    def _sampled(self, number: int, progress: Callable[[int, int], None]) -> list[Any]:
        recipe = self.recipe
        return sample_pairs(
            self.players.policy,
            self.prompts,
            self.requests.train,
            recipe.answers,
            derive_seed(recipe.seed, "round", number),
            self._round_file(number, "samples.jsonl"),
            self._job("samples", number),
            progress,
        )

    def _sample(self, number: int) -> None:
        self.watcher.stage(f"sample {number}", len(self.requests.train))
        self._sampled(number, self._progress)

    def _labelled(self, number: int, progress: Callable[[int, int], None]) -> tuple[list[TrainingPair], dict[str, int]]:
        sampled = self._sampled(number, lambda done, of: None)
        file = self._round_file(number, "labels.jsonl")
        kept, reasons = label_pairs(self.referee, sampled, file, self._job("labels", number), progress)
        return kept, {reason: reasons[reason] for reason in REASONS}

    def _label(self, number: int) -> None:
        self.watcher.stage(f"label {number}", len(self.requests.train))
        _, reasons = self._labelled(number, self._progress)
        self.directory.append("metrics.jsonl", {"kind": "labels", "round": number, **reasons})
        total = sum(reasons.values())
        found = ", ".join(f"{reason} {count}" for reason, count in reasons.items() if count)
        self.watcher.said(f"label {number}", f"{reasons['kept'] / total:.0%} of {total} pairs kept ({found})")

    def _train_dpo(self, number: int, stage: str) -> None:
        settings, recipe = self.recipe.dpo, self.recipe
        kept, _ = self._labelled(number, lambda done, of: None)
        before = self.directory.checkpoint_path()
        if before is None:
            raise AssertionError("The stage start has written a checkpoint.")
        self._send_home()
        folder = self._round_file(number, "trainer")
        self.watcher.stage(f"train {number}", updates(settings, len(kept)))
        model = policy_model(recipe, self.reward_recipe)
        seed = derive_seed(recipe.seed, "dpo", number)
        trained, history = train_dpo(settings, model, before / "policy", kept, seed, folder, self.watcher.step)
        for row in history:
            self.directory.append("metrics.jsonl", {"kind": "dpo", "round": number, **row})

        def save(target: Path) -> None:
            trained.save_pretrained(target / "policy", selected_adapters=["default"], save_embedding_layers=False)
            shutil.copytree(before / "policy_ref", target / "policy_ref")

        self.directory.commit(save, stage=stage, keep=recipe.checkpoint.save_total_limit)
        shutil.rmtree(folder, ignore_errors=True)

    # --- online GRPO --------------------------------------------------------------------------------------------

    def _train_online(self, stage: str) -> None:
        recipe, model = self.recipe, self.players.policy
        requests = {request.prompt_id: request for request in self.requests.train}
        blocks = [PromptBlock(request.prompt_id, request.text, ()) for request in requests.values()]
        phase = PolicyPhase(recipe.policy, model, self.referee, self.prompts, requests)
        schedule = [Slot(i, i, ("policy",)) for i in range(recipe.rounds)]
        keep = recipe.checkpoint.save_total_limit
        frozen = {name: model.fingerprint(name) for name in model.model.peft_config if name != "policy"}

        def before_phase(slot: Slot, steps: int) -> None:
            self.watcher.stage(slot.label, steps)

        def after_step(slot: Slot, step: int, done: list[tuple[Turn, StepMetrics]]) -> bool:
            for turn, metrics in done:
                values = summarise(turn, metrics, phase.measured())
                row = {"kind": "step", "round": slot.cycle + 1, "step": step, **values}
                self.directory.append("metrics.jsonl", row)
                for rollout in rollout_rows(slot, step, turn):
                    self.directory.append("rollouts.jsonl", rollout)
                self.watcher.step(step + 1, values)
            if (step + 1) % recipe.checkpoint.save_steps == 0:
                self.directory.commit(self._save, position=(slot.index, step + 1), keep=keep)
            return False

        def after_phase(slot: Slot) -> None:
            for name, fingerprint in frozen.items():
                if model.fingerprint(name) != fingerprint:
                    raise TrainingError(f"The frozen adapter `{name}` changed in {slot.label}.")
            self._evaluate(f"round {slot.cycle + 1}")
            self.directory.commit(self._save, position=(slot.index + 1, 0), keep=keep)

        hooks = Hooks(before_phase, after_step, after_phase)
        position = Position(*self.directory.state.position)
        alternate(recipe, schedule, {"policy": phase}, blocks, model, self.learner, hooks, position)
        self.directory.commit(stage=stage)

    # --- state --------------------------------------------------------------------------------------------------

    def _save(self, folder: Path) -> None:
        for adapter in ("policy", "policy_ref"):
            self.players.policy.save_adapter(adapter, folder / adapter)
        if self.recipe.method == "grpo":
            self.learner.save_optimizers(folder / "optimizers.safetensors")

    def _finish(self, stage: str) -> None:
        self.players.policy.save_adapter("policy", self.directory.path / "adapters" / "policy")
        found = [
            {"since": alarm.since, "at": alarm.at, "gained": alarm.gained, "lost": alarm.lost}
            for alarm in self.alarms()
        ]
        last = {name: value for name, value in self.evaluations()[-1].items() if name != "kind"}
        summary = {"recipe": self.recipe.name, "method": self.recipe.method, "seed": self.recipe.seed, **last}
        self.directory.write_json("summary.json", {**summary, "alarms": found})
        self.directory.commit(stage=stage)


def curve(evaluations: list[dict[str, Any]]) -> list[Point]:
    """Both judges' win rates over a run; empty if only one was asked."""
    return [
        Point(row["name"], row["trained/win_rate"], row["independent/win_rate"])
        for row in evaluations
        if "independent/win_rate" in row
    ]


def told(values: dict[str, float]) -> str:
    """The line of one evaluation."""
    parts = [f"reward model {values['trained/win_rate']:.3f} (equal length {values['trained/win_rate_lc']:.3f})"]
    if "independent/win_rate" in values:
        parts.append(
            f"independent {values['independent/win_rate']:.3f} "
            f"[{values['independent/win_rate_low']:.3f}, {values['independent/win_rate_high']:.3f}] "
            f"(equal length {values['independent/win_rate_lc']:.3f})"
        )
    if "score" in values:
        parts.append(f"score {values['score']:.3f} [{values['score_low']:.3f}, {values['score_high']:.3f}]")
    return "  ".join([*parts, f"KL {values['kl']:.2f}", f"length {values['length']:.1f}"])


def alarm_text(alarm: Alarm) -> str:
    """An alarm in words."""
    return (
        f"Reward over-optimisation: from {alarm.since} to {alarm.at} the reward model's win rate rose by "
        f"{alarm.gained:.3f}, the independent judge's fell by {alarm.lost:.3f}. Prefer the policy of {alarm.since}, or "
        "train with a larger beta or fewer steps."
    )
