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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.models import Sampling, other_base
from rubric_arm_lite.recipe import PolicyRecipe, derive_seed
from rubric_arm_lite.reward_model import judging_settings
from rubric_arm_lite.runs import LogRow, read_jsonl, read_object, recipe_of_run
from rubric_arm_lite.training.hooks import train_logged
from rubric_arm_lite.training.phases import fractions
from rubric_arm_lite.training.policy.dpo import labeled_pairs, sampled_pairs, train_dpo
from rubric_arm_lite.training.policy.evaluate import Alarm, alarms, compare_with_start
from rubric_arm_lite.training.policy.state import PolicyState
from rubric_arm_lite.training.rewards import policy_reward
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.training.stages import log_evaluation, versions
from rubric_arm_lite.training.warmup import update_count, warm_up_role
from rubric_arm_lite.types import ROLES, Example, PromptBlock, Reward, Role, RolloutGroup

Save = Callable[[Path], None]
"""Writes a checkpoint into an empty folder."""


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
    directory, keep = state.directory, state.recipe.checkpoint.save_total_limit
    _check_or_describe_data(state)
    for stage in stages_of(state.recipe):
        if stage not in directory.state.stages:
            started = time.perf_counter()
            trainer = directory.path / f"trainer-{stage.replace(' ', '-')}"
            directory.commit(_run_stage(state, stage, trainer), stage=stage, keep=keep)
            shutil.rmtree(trainer, ignore_errors=True)
            directory.append("timings.jsonl", {"stage": stage, "seconds": time.perf_counter() - started})
    if not directory.is_intact("adapters"):
        note = "was missing or damaged; it was written again from the last checkpoint."
        state.progress.note(f"{directory.path / 'adapters'} {note}")
        _finish(state)
        directory.commit()


def _run_stage(state: PolicyState, stage: str, trainer: Path) -> Save | None:
    """Do one stage, whose trainer may use a folder; what writes a new checkpoint, if the policy has changed."""
    step, _, number = stage.partition(" ")
    match step:
        case "start":
            return _start(state, trainer)
        case "rubrics":
            requests = state.requests.all
            state.progress.stage(stage, len(requests))
            if unusable := sum(not state.judge.has_rubric(request.prompt_id) for request in requests):
                state.progress.note(
                    f"{unusable} of {len(requests)} rubrics do not parse; those requests are not trained on."
                )
        case "evaluate":
            evaluate(state, "start" if number == "0" else f"round {number}")
        case "sample":
            state.progress.stage(stage, len(state.requests.train))
            sampled_pairs(state, int(number))
        case "label":
            state.progress.stage(stage, len(state.requests.train))
            _, reasons = labeled_pairs(state, int(number))
            state.directory.append("metrics.jsonl", {"kind": "labels", "round": int(number), **reasons})
            total, counts = sum(reasons.values()), ", ".join(f"{reason} {n}" for reason, n in reasons.items() if n)
            state.progress.result(stage, f"{reasons['kept'] / total:.0%} of {total} pairs kept ({counts})")
        case "train" if number:
            return _train_round(state, int(number), trainer)
        case "train":
            train_online(state)
        case "final":
            _finish(state)
    return None


# --- data and start -------------------------------------------------------------------------------------------------


def _check_or_describe_data(state: PolicyState) -> None:
    """Compare data and judges with those that the run began with; at its start, write them and the versions down."""
    directory, requests, note, server = state.directory, state.requests, state.progress.note, state.server
    reward: dict[Role, str]
    bases = [other_base(directory.path, state.model_settings)] if directory.state.stages else []
    if server is None:
        bases.append(other_base(Path(state.recipe.reward.run), state.reward_recipe.model))
        reward = {role: state.models.reward.model.fingerprint(role) for role in ROLES}
    else:  # its address may change
        reward = {"rubric": f"served as {server.rubric_model}", "judge": f"served as {server.judge_model}"}
    description: dict[str, Any] = {
        "train_requests": len(requests.train),
        "test_requests": len(requests.test),
        "skipped_conversations": requests.conversations,
        "skipped_too_long": requests.too_long,
        "fingerprint": requests.fingerprint(),
        "reward_model": reward,
        "reward_settings": _digest(json.dumps(judging_settings(state.reward_recipe)).encode()),
    }
    if requests.sources:
        description["sources"] = [counts.as_json() for counts in requests.sources]
    if state.judge_adapters:
        judge = recipe_of_run(str(state.recipe.evaluation.judge))
        description["independent_settings"] = _digest(json.dumps(judging_settings(judge)).encode())
        description["independent_judge"] = {
            role: _digest((folder / "adapter_model.safetensors").read_bytes())
            for role, folder in state.judge_adapters.items()
        }
    if "start" not in directory.state.stages:  # they are not used afterwards
        description["start_answers"] = _digest(json.dumps(state.start_answers).encode())
    for difference in filter(None, bases):
        note(difference)
    if directory.state.stages:
        before = read_object(directory.path / "data.json")
        changed = [name for name, value in description.items() if before.get(name) != value]
        if changed:
            raise CheckpointError(
                f"{directory.path} began with other requests, other answers to start from, or another reward model or "
                f"judge ({', '.join(changed)} changed). Restore what it reads ({', '.join(state.recipe.inputs)}), or "
                "start anew with --if-exists overwrite."
            )
        return
    for counts in requests.sources:
        if counts.skipped:
            note(counts.line("prompts"))
    if requests.conversations:
        note(f"{requests.conversations} conversations were skipped: single requests only.")
    if requests.too_long:
        note(f"{requests.too_long} requests do not fit the context with an answer or a rubric and were skipped.")
    directory.write_json("versions.json", versions(state.models.policy))
    directory.write_json("data.json", description)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _start(state: PolicyState, trainer: Path) -> Save:
    """The policy that later ones are compared with: a saved adapter, a supervised start, both, or the bare base."""
    settings, model, progress = state.recipe.start, state.models.policy, state.progress
    if settings.adapter is not None:
        model.load_adapter("policy", Path(settings.adapter))
    if answers := state.start_answers:
        safe = state.prompts.without_control_tokens
        encoded = [(model.encode(safe(p)), model.encode_completion(safe(a))) for p, a in answers]
        examples = [ids for ids in encoded if len(ids[0]) + len(ids[1]) <= model.settings.max_context]
        if skipped := len(answers) - len(examples):
            progress.note(f"{skipped} answers of the start do not fit the context and were skipped.")
        progress.stage("start", update_count(settings.sft, len(examples)))
        log = _step_log(state, kind="start")
        warm_up_role(model, "policy", examples, settings.sft, state.recipe.seed, trainer, log)
    model.freeze_references(("policy",))
    return state.save


def _step_log(state: PolicyState, **fields: Any) -> Callable[[int, dict[str, float]], None]:
    """Shows and logs the steps of a trainer, each in a row that begins with ``fields``."""

    def log(step: int, values: dict[str, float]) -> None:
        state.progress.step(step, values)
        state.directory.append("metrics.jsonl", {**fields, "step": step, **values})

    return log


# --- rounds of DPO --------------------------------------------------------------------------------------------------


def _train_round(state: PolicyState, number: int, trainer: Path) -> Save:
    """Train on the pairs that were kept; the result is the policy of this round."""
    settings = state.recipe.dpo
    kept, _ = labeled_pairs(state, number)
    before = state.directory.checkpoint_path()
    assert before is not None, "the stage start has written one"
    state.release_models()
    state.progress.stage(f"train {number}", update_count(settings, len(kept)))
    seed, log = derive_seed(state.recipe.seed, "dpo", number), _step_log(state, kind="dpo", round=number)
    trained, _ = train_dpo(settings, state.model_settings, before / "policy", kept, seed, trainer, log)

    def save(target: Path) -> None:
        trained.save_pretrained(target / "policy", selected_adapters=["default"], save_embedding_layers=False)
        shutil.copytree(before / "policy_ref", target / "policy_ref")

    return save


# --- online GRPO -----------------------------------------------------------------------------------------------------


class PolicyPhase:
    """Reward model frozen: an answer earns the share of orders in which it beats the policy's greedy one (eq. 16)."""

    role: Role = "policy"

    def __init__(self, state: PolicyState) -> None:
        self._state = state
        self._requests = {request.prompt_id: request for request in state.requests.train}
        self._counts: Counter[str] = Counter()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per request with a usable rubric."""
        judge, prompts = self._state.judge, self._state.prompts
        requests = [self._requests[block.prompt_id] for block in batch if judge.has_rubric(block.prompt_id)]
        self._counts = Counter({"rubrics/usable": len(requests), "rubrics/unusable": len(batch) - len(requests)})
        return [request.example(prompts, seed) for request in requests]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Compare every answer with the current policy's greedy one."""
        greedy = Sampling(self._state.recipe.policy.max_completion_length, 1, 0.0)
        examples = [group.example for group in groups]
        baselines = self._state.models.policy.sample(self.role, examples, greedy) if groups else []
        comparisons = [
            self._requests[group.example.example_id].comparison(sample.text, baseline.samples[0].text)
            for group, baseline in zip(groups, baselines, strict=True)
            for sample in group.samples
        ]
        verdicts = self._state.judge.verdicts(comparisons)
        self._counts.update(f"orders/{v.orders_won('A')}" if v.winners else "orders/unjudged" for v in verdicts)
        rewards = iter([policy_reward(verdict.winners) for verdict in verdicts])
        return [[next(rewards) for _ in group.samples] for group in groups]

    def metrics(self) -> dict[str, float]:
        """Fractions of usable rubrics, and of answers by the number of orders they won."""
        return {
            **fractions(self._counts, "rubrics", ("usable", "unusable")),
            **fractions(self._counts, "orders", ("0", "1", "2", "unjudged")),
        }


def train_online(state: PolicyState) -> None:
    """Train through all rounds from the committed position on, with an evaluation after each."""
    blocks = [PromptBlock(request.prompt_id, request.text, ()) for request in state.requests.train]
    train_logged(
        state,
        state.models.policy,
        {"policy": PolicyPhase(state)},
        [ScheduledPhase(i, i, ("policy",)) for i in range(state.recipe.rounds)],
        blocks,
        place=lambda scheduled, _: {"round": scheduled.cycle + 1},
        after_phase=lambda scheduled, *_: evaluate(state, f"round {scheduled.cycle + 1}"),
    )


# --- evaluations ----------------------------------------------------------------------------------------------------


def evaluate(state: PolicyState, name: str) -> None:
    """Compare the policy with its start, log and report it, and note an alarm."""
    state.progress.stage(f"evaluate {name}", 1)
    values, rows = compare_with_start(state)
    log_evaluation(state.directory, name, values, {"rows": rows})
    state.progress.result(name, describe_evaluation(values))
    for alarm in _evaluations(state)[1]:
        if alarm.at == name:
            state.progress.note(alarm.text())


def _finish(state: PolicyState) -> None:
    """Write the policy and its start as plain PEFT folders, and the summary."""
    for adapter in ("policy", "policy_ref"):
        state.directory.write_folder(f"adapters/{adapter}", partial(state.models.policy.save_adapter, adapter))
    recipe, (evaluations, raised) = state.recipe, _evaluations(state)
    summary = {"recipe": recipe.name, "method": recipe.method, "seed": recipe.seed, **evaluations[-1]}
    del summary["kind"]
    state.directory.write_json("summary.json", {**summary, "alarms": [asdict(alarm) for alarm in raised]})


def _evaluations(state: PolicyState) -> tuple[list[LogRow], list[Alarm]]:
    """All evaluations so far, and their alarms."""
    rows = [row for row in read_jsonl(state.directory.path / "metrics.jsonl") if row["kind"] == "evaluation"]
    return rows, alarms(rows, state.recipe.evaluation.alarm_margin)


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
