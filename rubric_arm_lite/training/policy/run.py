"""A policy run from recipe to figures, in stages that can be resumed (paper, sec. 4.3).

DPO: requests → start → rubrics → evaluation → per round: sample → label → train → evaluate → final. Iterative DPO
repeats the round. Online GRPO has one stage ``train`` in place of the rounds, which commits inside as well and
evaluates after each of its own rounds. KL and win rates are always those against the policy after ``start``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe import PolicyRecipe, derive_seed
from rubric_arm_lite.runs import Journal, RunDirectory
from rubric_arm_lite.training.policy.dpo import train_dpo
from rubric_arm_lite.training.policy.evaluate import Alarm, Point, alarms
from rubric_arm_lite.training.policy.judges import reward_identity
from rubric_arm_lite.training.policy.online import train_online
from rubric_arm_lite.training.policy.pairs import (
    REASONS,
    Progress,
    SampledPair,
    TrainingPair,
    batches,
    label_pairs,
    sample_pairs,
)
from rubric_arm_lite.training.policy.requests import start_answers
from rubric_arm_lite.training.policy.state import RUBRICS, PolicyState, PolicyWatcher
from rubric_arm_lite.training.run import versions
from rubric_arm_lite.training.warmup import updates, warm_up_role
from rubric_arm_lite.types import ParseStatus


def sample_round(state: PolicyState, number: int) -> None:
    """Two answers of the policy to every training request."""
    state.watcher.stage(f"sample {number}", len(state.requests.train))
    _sampled(state, number, lambda done, of: state.watcher.step(done, {}))


def label_round(state: PolicyState, number: int) -> None:
    """Ask the reward model about every pair, and say how many are kept and why the others are not."""
    state.watcher.stage(f"label {number}", len(state.requests.train))
    _, reasons = _labelled(state, number, lambda done, of: state.watcher.step(done, {}))
    state.directory.append("metrics.jsonl", {"kind": "labels", "round": number, **reasons})
    total = sum(reasons.values())
    found = ", ".join(f"{reason} {count}" for reason, count in reasons.items() if count)
    state.watcher.said(f"label {number}", f"{reasons['kept'] / total:.0%} of {total} pairs kept ({found})")


def train_round(state: PolicyState, number: int, stage: str) -> None:
    """Train on the pairs that were kept, and commit the policy of this round."""
    settings, directory = state.recipe.dpo, state.directory
    kept, _ = _labelled(state, number, lambda done, of: None)
    before = directory.checkpoint_path()
    if before is None:
        raise AssertionError("The stage start has written a checkpoint.")
    state.let_go()
    folder = state.round_file(number, "trainer")
    state.watcher.stage(f"train {number}", updates(settings, len(kept)))
    seed = derive_seed(state.recipe.seed, "dpo", number)
    trained, history = train_dpo(
        settings, state.model_settings, before / "policy", kept, seed, folder, state.watcher.step
    )
    for row in history:
        directory.append("metrics.jsonl", {"kind": "dpo", "round": number, **row})

    def save(target: Path) -> None:
        trained.save_pretrained(target / "policy", selected_adapters=["default"], save_embedding_layers=False)
        shutil.copytree(before / "policy_ref", target / "policy_ref")

    directory.commit(save, stage=stage, keep=state.recipe.checkpoint.save_total_limit)
    shutil.rmtree(folder, ignore_errors=True)


def _sampled(state: PolicyState, number: int, progress: Progress) -> list[SampledPair]:
    return sample_pairs(
        state.players.policy,
        state.prompts,
        state.requests.train,
        state.recipe.answers,
        derive_seed(state.recipe.seed, "round", number),
        state.round_file(number, "samples.jsonl"),
        state.job("samples", number),
        progress,
    )


def _labelled(state: PolicyState, number: int, progress: Progress) -> tuple[list[TrainingPair], dict[str, int]]:
    sampled = _sampled(state, number, lambda done, of: None)
    file = state.round_file(number, "labels.jsonl")
    kept, reasons = label_pairs(state.referee, sampled, file, state.job("labels", number), progress)
    return kept, {reason: reasons[reason] for reason in REASONS}


def stages_of(recipe: PolicyRecipe) -> list[str]:
    """The stages of a run in order."""
    first = ["requests", "start", "rubrics", "evaluate 0"]
    if recipe.method == "grpo":
        return [*first, "train", "final"]
    count = recipe.dpo.rounds if recipe.method == "iterdpo" else 1
    inside = [f"{step} {k}" for k in range(1, count + 1) for step in ("sample", "label", "train", "evaluate")]
    return [*first, *inside, "final"]


class PolicyRun:
    """A policy run in progress."""

    def __init__(self, recipe: PolicyRecipe, directory: RunDirectory, watcher: PolicyWatcher) -> None:
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        self.recipe = recipe
        self.directory = directory
        self.watcher = watcher
        self.state = PolicyState(recipe, directory, watcher)

    def execute(self) -> None:
        """Do every stage that is not done yet."""
        if self.directory.state.stages:
            self._check_same_data()
        for stage in stages_of(self.recipe):
            if stage in self.directory.state.stages:
                continue
            started = time.perf_counter()
            self._stage(stage)
            self.directory.append("timings.jsonl", {"stage": stage, "seconds": time.perf_counter() - started})

    def _stage(self, stage: str) -> None:
        match stage.split(" "):
            case ["start"]:
                self._start(stage)
                return
            case ["train", number]:
                train_round(self.state, int(number), stage)
                return
            case ["requests"]:
                self._describe_data()
            case ["rubrics"]:
                self._write_rubrics()
            case ["evaluate", "0"]:
                self._evaluate("start")
            case ["evaluate", number]:
                self._evaluate(f"round {number}")
            case ["sample", number]:
                sample_round(self.state, int(number))
            case ["label", number]:
                label_round(self.state, int(number))
            case ["train"]:
                train_online(self.state, self._evaluate)
            case ["final"]:
                self._finish()
        self.directory.commit(stage=stage)

    def _describe(self) -> dict[str, Any]:
        requests = self.state.requests
        found: dict[str, Any] = {
            "train_requests": len(requests.train),
            "test_requests": len(requests.test),
            "left_out_conversations": requests.conversations,
            "left_out_too_long": requests.too_long,
            "fingerprint": requests.fingerprint(),
            "reward_model": reward_identity(self.state.players, self.recipe),
        }
        if self.state.judge_adapters:
            found["independent_judge"] = {
                role: hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]
                for role, folder in self.state.judge_adapters.items()
            }
        if "start" not in self.directory.state.stages:  # afterwards nobody asks for them any more
            found["start_answers"] = hashlib.sha256(json.dumps(self._start_answers()).encode()).hexdigest()[:16]
        return found

    def _start_answers(self) -> Sequence[tuple[str, str]]:
        held_out = {request.prompt_id for request in self.state.requests.test}
        return start_answers(self.recipe, self.state.world, held_out)

    def _describe_data(self) -> None:
        requests = self.state.requests
        if requests.conversations:
            self.watcher.note(f"{requests.conversations} conversations are left out: single requests only.")
        if requests.too_long:
            self.watcher.note(
                f"{requests.too_long} requests do not fit the context with an answer or a rubric; left out."
            )
        self.directory.write_json("versions.json", versions(self.state.players.policy))
        self.directory.write_json("data.json", self._describe())

    def _check_same_data(self) -> None:
        """Requests, answers of the start, reward model and judge must be those that the run began with."""
        now = self._describe()
        file = self.directory.path / "data.json"
        try:
            before = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. Start anew under another name.") from error
        changed = [name for name in now if not isinstance(before, dict) or before.get(name) != now[name]]
        if changed:
            raise CheckpointError(
                f"{self.directory.path} began with other requests, other answers to start from, or another reward "
                f"model or judge ({', '.join(changed)} changed). Restore what it reads "
                f"({', '.join(self.recipe.inputs)}), or start anew under another name."
            )

    # --- stages -------------------------------------------------------------------------------------------------

    def _start(self, stage: str) -> None:
        """The policy that everything is compared with: a saved adapter, a supervised start, both, or the bare base."""
        state, settings = self.state, self.recipe.start
        model, folder = state.players.policy, self.directory.path / "start"
        if settings.adapter is not None:
            model.load_adapter("policy", Path(settings.adapter))
        rows = self._start_answers()
        if rows:
            encoded = [(model.encode(state.prompts.policy_prompt(p)), model.encode_completion(a)) for p, a in rows]
            examples = [ids for ids in encoded if len(ids[0]) + len(ids[1]) <= model.settings.max_context]
            if len(examples) < len(rows):
                self.watcher.note(f"{len(rows) - len(examples)} answers of the start do not fit the context; left out.")
            self.watcher.stage("start", updates(settings.sft, len(examples)))
            losses = warm_up_role(model, "policy", examples, settings.sft, self.recipe.seed, folder, self.watcher.step)
            for step, loss in losses:
                self.directory.append("metrics.jsonl", {"kind": "start", "step": step, "loss": loss})
        model.freeze_references(("policy",))
        self.directory.commit(state.save, stage=stage, keep=self.recipe.checkpoint.save_total_limit)
        shutil.rmtree(folder, ignore_errors=True)

    def _write_rubrics(self) -> None:
        """One greedy rubric per request, kept for the whole run: the generator is frozen."""
        state, done = self.state, 0
        requests = [*state.requests.train, *state.requests.test]
        self.watcher.stage("rubrics", len(requests))
        with Journal.open(self.directory.path / RUBRICS, state.job("rubrics")) as journal:
            for key, portion in batches(requests):
                if key not in journal.rows:
                    written = state.players.reward.rubrics([request.text for request in portion])
                    rows = [
                        [request.prompt_id, rubric.text, rubric.status is ParseStatus.TRUNCATED]
                        for request, rubric in zip(portion, written, strict=True)
                    ]
                    journal.add([(key, {"rubrics": rows})])
                done += len(portion)
                self.watcher.step(done, {})
        unusable = sum(not state.referee.has_rubric(request.prompt_id) for request in requests)
        if unusable:
            self.watcher.note(f"{unusable} of {len(requests)} rubrics do not parse; those requests are not trained on.")

    def _evaluate(self, name: str) -> None:
        self.watcher.stage(f"evaluate {name}", 1)
        evaluation = self.state.evaluator.evaluate(name)
        self.directory.append("metrics.jsonl", {"kind": "evaluation", "name": name, **evaluation.values})
        self.directory.write_json(
            f"evaluations/{name.replace(' ', '-')}.json",
            {"name": name, "values": evaluation.values, "rows": evaluation.rows},
        )
        self.watcher.said(name, told(evaluation.values))
        for alarm in self._alarms():
            if alarm.at == name:
                self.watcher.note(alarm_text(alarm))

    def _finish(self) -> None:
        """The policy, and the start it is compared with, as plain PEFT folders; and the last figures."""
        for adapter in ("policy", "policy_ref"):
            self.state.players.policy.save_adapter(adapter, self.directory.path / "adapters" / adapter)
        found = [
            {"since": alarm.since, "at": alarm.at, "gained": alarm.gained, "lost": alarm.lost}
            for alarm in self._alarms()
        ]
        last = {name: value for name, value in self._evaluations()[-1].items() if name != "kind"}
        summary = {"recipe": self.recipe.name, "method": self.recipe.method, "seed": self.recipe.seed, **last}
        self.directory.write_json("summary.json", {**summary, "alarms": found})

    def _evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self.directory.read_log("metrics.jsonl") if row["kind"] == "evaluation"]

    def _alarms(self) -> list[Alarm]:
        return alarms(curve(self._evaluations()), self.recipe.evaluation.alarm_margin)


def curve(evaluations: Sequence[dict[str, Any]]) -> list[Point]:
    """Both judges' win rates over a run; empty if only one was asked."""
    return [
        Point(row["name"], row["trained/win_rate"], row["independent/win_rate"])
        for row in evaluations
        if "independent/win_rate" in row
    ]


def told(values: dict[str, float]) -> str:
    """The line of one evaluation."""
    parts = []
    for judge, word in (("trained", "reward model"), ("independent", "independent")):
        if f"{judge}/win_rate" in values:
            rate, low, high, equal = (values[f"{judge}/win_rate{end}"] for end in ("", "_low", "_high", "_lc"))
            parts.append(f"{word} {rate:.3f} [{low:.3f}, {high:.3f}] (equal length {equal:.3f})")
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
