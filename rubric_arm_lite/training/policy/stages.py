"""The stages of a policy run (paper, sec. 4.3), each committed when it is done.

DPO: requests → start → rubrics → evaluation → per round: sample → label → train → evaluate → final. Iterative DPO
repeats the round. Online GRPO has one stage ``train`` in place of the rounds, which commits inside as well and
evaluates after each of its own rounds. KL and win rates are always those against the policy after ``start``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe import PolicyRecipe, derive_seed
from rubric_arm_lite.runs import Journal, read_object
from rubric_arm_lite.training.policy.dpo import train_dpo
from rubric_arm_lite.training.policy.evaluate import Alarm, Point, alarms
from rubric_arm_lite.training.policy.judges import reward_identity
from rubric_arm_lite.training.policy.online import train_online
from rubric_arm_lite.training.policy.pairs import (
    REASONS,
    SampledPair,
    TrainingPair,
    batches,
    label_pairs,
    sample_pairs,
)
from rubric_arm_lite.training.policy.requests import start_answers
from rubric_arm_lite.training.policy.state import RUBRICS, PolicyState
from rubric_arm_lite.training.stages import log_evaluation, versions
from rubric_arm_lite.training.warmup import updates, warm_up_role
from rubric_arm_lite.types import ParseStatus

Count = Callable[[int, int], None]


def stages_of(recipe: PolicyRecipe) -> list[str]:
    """The stages of a run in order."""
    first = ["requests", "start", "rubrics", "evaluate 0"]
    if recipe.method == "grpo":
        return [*first, "train", "final"]
    count = recipe.dpo.rounds if recipe.method == "iterdpo" else 1
    rounds = [f"{step} {k}" for k in range(1, count + 1) for step in ("sample", "label", "train", "evaluate")]
    return [*first, *rounds, "final"]


def run_stages(state: PolicyState) -> None:
    """Do every stage that is not done yet.

    Raises:
        CheckpointError: if the run began with other requests, start answers, reward model or judge.
    """
    done = state.directory.state.stages
    if done:
        _check_same_data(state)
    for stage in stages_of(state.recipe):
        if stage not in done:
            started = time.perf_counter()
            _run_stage(state, stage)
            state.directory.append("timings.jsonl", {"stage": stage, "seconds": time.perf_counter() - started})


def _run_stage(state: PolicyState, stage: str) -> None:
    match stage.split(" "):
        case ["start"]:
            _start(state, stage)
            return
        case ["train", number]:
            _train_round(state, int(number), stage)
            return
        case ["requests"]:
            _describe_data(state)
        case ["rubrics"]:
            _write_rubrics(state)
        case ["evaluate", "0"]:
            evaluate(state, "start")
        case ["evaluate", number]:
            evaluate(state, f"round {number}")
        case ["sample", number]:
            state.progress.stage(stage, len(state.requests.train))
            _sampled(state, int(number), lambda done, _: state.progress.step(done, {}))
        case ["label", number]:
            _label_round(state, int(number), stage)
        case ["train"]:
            train_online(state, lambda name: evaluate(state, name))
        case ["final"]:
            _finish(state)
    state.directory.commit(stage=stage)


# --- data -----------------------------------------------------------------------------------------------------------


def _description(state: PolicyState) -> dict[str, Any]:
    """The data of a run and the identity of its judges, as the run directory keeps them."""
    requests = state.requests
    description: dict[str, Any] = {
        "train_requests": len(requests.train),
        "test_requests": len(requests.test),
        "skipped_conversations": requests.conversations,
        "skipped_too_long": requests.too_long,
        "fingerprint": requests.fingerprint(),
        "reward_model": reward_identity(state.models, state.recipe),
    }
    if state.judge_adapters:
        description["independent_judge"] = {
            role: _digest((folder / "adapter_model.safetensors").read_bytes())
            for role, folder in state.judge_adapters.items()
        }
    if "start" not in state.directory.state.stages:  # they are not used afterwards
        description["start_answers"] = _digest(json.dumps(_start_answers(state)).encode())
    return description


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _start_answers(state: PolicyState) -> Sequence[tuple[str, str]]:
    return start_answers(state.recipe, state.world, {request.prompt_id for request in state.requests.test})


def _describe_data(state: PolicyState) -> None:
    requests = state.requests
    if requests.conversations:
        state.progress.note(f"{requests.conversations} conversations were skipped: single requests only.")
    if requests.too_long:
        state.progress.note(
            f"{requests.too_long} requests do not fit the context with an answer or a rubric and were skipped."
        )
    state.directory.write_json("versions.json", versions(state.models.policy))
    state.directory.write_json("data.json", _description(state))


def _check_same_data(state: PolicyState) -> None:
    before = read_object(state.directory.path / "data.json")
    changed = [name for name, value in _description(state).items() if before.get(name) != value]
    if changed:
        raise CheckpointError(
            f"{state.directory.path} began with other requests, other answers to start from, or another reward model "
            f"or judge ({', '.join(changed)} changed). Restore what it reads ({', '.join(state.recipe.inputs)}), or "
            "start anew under another name."
        )


# --- start and rubrics ----------------------------------------------------------------------------------------------


def _start(state: PolicyState, stage: str) -> None:
    """The policy that later ones are compared with: a saved adapter, a supervised start, both, or the bare base."""
    settings, model, directory = state.recipe.start, state.models.policy, state.directory
    folder = directory.path / "start"
    if settings.adapter is not None:
        model.load_adapter("policy", Path(settings.adapter))
    rows = _start_answers(state)
    if rows:
        encoded = [(model.encode(state.prompts.policy_prompt(p)), model.encode_completion(a)) for p, a in rows]
        examples = [ids for ids in encoded if len(ids[0]) + len(ids[1]) <= model.settings.max_context]
        if skipped := len(rows) - len(examples):
            state.progress.note(f"{skipped} answers of the start do not fit the context and were skipped.")
        state.progress.stage(stage, updates(settings.sft, len(examples)))
        losses = warm_up_role(model, "policy", examples, settings.sft, state.recipe.seed, folder, state.progress.step)
        for step, loss in losses:
            directory.append("metrics.jsonl", {"kind": "start", "step": step, "loss": loss})
    model.freeze_references(("policy",))
    directory.commit(state.save, stage=stage, keep=state.recipe.checkpoint.save_total_limit)
    shutil.rmtree(folder, ignore_errors=True)


def _write_rubrics(state: PolicyState) -> None:
    """One greedy rubric per request, kept for the whole run, as the generator is frozen."""
    requests, done = state.requests.all, 0
    state.progress.stage("rubrics", len(requests))
    with Journal.open(state.directory.path / RUBRICS, state.job("rubrics")) as journal:
        for key, batch in batches(requests):
            if key not in journal.rows:
                rubrics = state.models.reward.rubrics([request.text for request in batch])
                rows = [
                    [request.prompt_id, rubric.text, rubric.status is ParseStatus.TRUNCATED]
                    for request, rubric in zip(batch, rubrics, strict=True)
                ]
                journal.add([(key, {"rubrics": rows})])
            done += len(batch)
            state.progress.step(done, {})
    if unusable := sum(not state.judge.has_rubric(request.prompt_id) for request in requests):
        state.progress.note(f"{unusable} of {len(requests)} rubrics do not parse; those requests are not trained on.")


# --- rounds of DPO --------------------------------------------------------------------------------------------------


def _sampled(state: PolicyState, number: int, count: Count) -> list[SampledPair]:
    """Two answers of the policy to every training request."""
    file = state.directory.path / "rounds" / str(number) / "samples.jsonl"
    seed, job = derive_seed(state.recipe.seed, "round", number), state.job("samples", number)
    policy, requests = state.models.policy, state.requests.train
    return sample_pairs(policy, state.prompts, requests, state.recipe.answers, seed, file, job, count)


def _labeled(state: PolicyState, number: int, count: Count) -> tuple[list[TrainingPair], dict[str, int]]:
    """The pairs that are kept, and the number of pairs by reason."""
    sampled = _sampled(state, number, lambda *_: None)
    file = state.directory.path / "rounds" / str(number) / "labels.jsonl"
    kept, reasons = label_pairs(state.judge, sampled, file, state.job("labels", number), count)
    return kept, {reason: reasons[reason] for reason in REASONS}


def _label_round(state: PolicyState, number: int, stage: str) -> None:
    state.progress.stage(stage, len(state.requests.train))
    _, reasons = _labeled(state, number, lambda done, _: state.progress.step(done, {}))
    state.directory.append("metrics.jsonl", {"kind": "labels", "round": number, **reasons})
    total = sum(reasons.values())
    counts = ", ".join(f"{reason} {count}" for reason, count in reasons.items() if count)
    state.progress.result(stage, f"{reasons['kept'] / total:.0%} of {total} pairs kept ({counts})")


def _train_round(state: PolicyState, number: int, stage: str) -> None:
    """Train on the pairs that were kept, and commit the policy of this round."""
    settings, directory = state.recipe.dpo, state.directory
    kept, _ = _labeled(state, number, lambda *_: None)
    before = directory.checkpoint_path()
    if before is None:
        raise AssertionError("The stage start has written a checkpoint.")
    state.release_models()
    folder = directory.path / "rounds" / str(number) / "trainer"
    state.progress.stage(stage, updates(settings, len(kept)))
    seed, log = derive_seed(state.recipe.seed, "dpo", number), state.progress.step
    trained, history = train_dpo(settings, state.model_settings, before / "policy", kept, seed, folder, log)
    for row in history:
        directory.append("metrics.jsonl", {"kind": "dpo", "round": number, **row})

    def save(target: Path) -> None:
        trained.save_pretrained(target / "policy", selected_adapters=["default"], save_embedding_layers=False)
        shutil.copytree(before / "policy_ref", target / "policy_ref")

    directory.commit(save, stage=stage, keep=state.recipe.checkpoint.save_total_limit)
    shutil.rmtree(folder, ignore_errors=True)


# --- evaluations ----------------------------------------------------------------------------------------------------


def evaluate(state: PolicyState, name: str) -> None:
    """Compare the policy with its start, log and report it, and note an alarm."""
    state.progress.stage(f"evaluate {name}", 1)
    evaluation = state.evaluator.evaluate(name)
    log_evaluation(state.directory, name, evaluation.values, {"rows": evaluation.rows})
    state.progress.result(name, describe_evaluation(evaluation.values))
    for alarm in _alarms(state):
        if alarm.at == name:
            state.progress.note(alarm_text(alarm))


def _finish(state: PolicyState) -> None:
    """Write the policy and its start as plain PEFT folders, and the summary."""
    for adapter in ("policy", "policy_ref"):
        state.models.policy.save_adapter(adapter, state.directory.path / "adapters" / adapter)
    recipe, last = state.recipe, dict(_evaluations(state)[-1])
    del last["kind"]
    summary = {"recipe": recipe.name, "method": recipe.method, "seed": recipe.seed, **last}
    state.directory.write_json("summary.json", {**summary, "alarms": [asdict(alarm) for alarm in _alarms(state)]})


def _evaluations(state: PolicyState) -> list[dict[str, Any]]:
    return [row for row in state.directory.read_log("metrics.jsonl") if row["kind"] == "evaluation"]


def _alarms(state: PolicyState) -> list[Alarm]:
    return alarms(curve(_evaluations(state)), state.recipe.evaluation.alarm_margin)


def curve(evaluations: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Both judges' win rates over a run; empty without an independent judge."""
    return [
        Point(row["name"], row["trained/win_rate"], row["independent/win_rate"])
        for row in evaluations
        if "independent/win_rate" in row
    ]


def describe_evaluation(values: Mapping[str, float]) -> str:
    """The main values of an evaluation in one line."""
    parts = []
    for judge, label in (("trained", "reward model"), ("independent", "independent")):
        if f"{judge}/win_rate" in values:
            rate, low, high, equal = (values[f"{judge}/win_rate{end}"] for end in ("", "_low", "_high", "_lc"))
            parts.append(f"{label} {rate:.3f} [{low:.3f}, {high:.3f}] (equal length {equal:.3f})")
    if "score" in values:
        parts.append(f"score {values['score']:.3f} [{values['score_low']:.3f}, {values['score_high']:.3f}]")
    return "  ".join([*parts, f"KL {values['kl']:.2f}", f"length {values['length']:.1f}"])


def alarm_text(alarm: Alarm) -> str:
    """An alarm in words."""
    return (
        f"Reward over-optimization: from {alarm.since} to {alarm.at} the reward model's win rate rose by "
        f"{alarm.gained:.3f}, the independent judge's fell by {alarm.lost:.3f}. Prefer the policy of {alarm.since}, or "
        "train with a larger beta or fewer steps."
    )
