"""The stages of a training run: base → warm-up → alternating GRPO → cross-play → final evaluation.

Enter: a :class:`~rubric_arm_lite.training.state.TrainingState`. Leave: logs, evaluations and adapters in its run
directory. Each stage is committed when it is done; the alternating stage also commits inside (:mod:`.hooks`).
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation import AdapterPair
from rubric_arm_lite.evaluation.caveats import few_pairs_caveats, unparsed_caveats
from rubric_arm_lite.models import AdapterModel
from rubric_arm_lite.runs import RunDirectory, package_versions, read_object
from rubric_arm_lite.training.hooks import AlternatingStage
from rubric_arm_lite.training.schedule import STAGES
from rubric_arm_lite.training.state import TrainingState
from rubric_arm_lite.training.warmup import role_examples, teacher_rows, updates, warm_up_role
from rubric_arm_lite.types import ROLES, Role

CROSS_PLAY = {
    "warm-up judge, warm-up rubrics": AdapterPair("rubric_ref", "judge_ref"),
    "trained judge, warm-up rubrics": AdapterPair("rubric_ref", "judge"),
    "warm-up judge, trained rubrics": AdapterPair("rubric", "judge_ref"),
    "trained judge, trained rubrics": AdapterPair("rubric", "judge"),
}


def run_stages(state: TrainingState, until: str | None = None) -> None:
    """Do every stage that is not done yet, up to and including ``until``.

    Raises:
        CheckpointError: if the data are not those that the run began with, or its checkpoint is damaged.
        TrainingError: if training fails.
    """
    state.restore()
    _note_skipped_data(state)
    if state.directory.state.stages:
        _check_same_data(state)
    else:
        state.directory.write_json("versions.json", versions(state.model))
        _describe_data(state)
    for stage in STAGES[: STAGES.index(until) + 1] if until else STAGES:
        if stage not in state.directory.state.stages:
            start = state.clock()
            _run_stage(state, stage)
            if stage != "alternating":  # whose phases are timed one by one
                state.log_time(stage, start)
    if "final" in state.directory.state.stages:
        _restore_lost_adapters(state)


def _run_stage(state: TrainingState, stage: str) -> None:
    match stage:
        case "warmup-rubric":
            _warm_up(state, "rubric", stage)
            return
        case "warmup-judge":
            _warm_up(state, "judge", stage)
            return
        case "base":
            evaluate(state, "base", AdapterPair(None, None))
        case "warmup":
            values = evaluate(state, "warm-up")
            for caveat in unparsed_caveats(values, state.recipe.evaluation.unparsed_value):
                state.progress.note(caveat)
        case "alternating":
            AlternatingStage(state, lambda name: evaluate(state, name)).train()
        case "cross-play":
            values_of = {name: evaluate(state, f"cross-play: {name}", pair) for name, pair in CROSS_PLAY.items()}
            state.directory.write_json("cross_play.json", values_of)
        case "final":
            values = evaluate(state, "final", votes=state.recipe.evaluation.votes)
            for role in ROLES if state.directory.writes else ():
                state.model.save_adapter(role, state.directory.path / "adapters" / role)
            summary = {"recipe": state.recipe.name, "seed": state.recipe.seed, **values}
            state.directory.write_json("summary.json", summary)
    state.directory.commit(stage=stage)


def evaluate(
    state: TrainingState, name: str, adapters: AdapterPair | None = None, votes: int = 1
) -> Mapping[str, float]:
    """Evaluate adapters on the held-out pairs, log and report it, and return the values."""
    state.progress.stage(f"evaluate {name}", 1)
    evaluation = state.evaluator.evaluate(name, adapters, votes)
    log_evaluation(state.directory, name, evaluation.values, {"rows": evaluation.rows, "showcase": evaluation.showcase})
    state.progress.result(name, describe_evaluation(evaluation.values))
    return evaluation.values


def log_evaluation(directory: RunDirectory, name: str, values: Mapping[str, float], details: dict[str, Any]) -> None:
    """Log the values of an evaluation, and write them with its details to a file of their own."""
    directory.append("metrics.jsonl", {"kind": "evaluation", "name": name, **values})
    slug = re.sub(r"[\W_]", "-", name).strip("-")
    directory.write_json(f"evaluations/{slug}.json", {"name": name, "values": values, **details})


def describe_evaluation(values: Mapping[str, float]) -> str:
    """The main values of an evaluation in one line."""
    parts = [
        f"accuracy {values['accuracy']:.3f} [{values['accuracy_low']:.3f}, {values['accuracy_high']:.3f}]",
        f"ties {values['tie_rate']:.3f}" if "tie_rate" in values else f"position bias {values['position_bias']:.3f}",
        f"format {values['format_sampled']:.2f}",
    ]
    if "principle_recall" in values:
        parts.append(f"principles named {values['principle_recall']:.2f}")
    parts += [f"{name} {value:.3f}" for name, value in values.items() if name.startswith("voting@")]
    return "  ".join(parts)


def versions(model: AdapterModel) -> dict[str, Any]:
    """Versions of the packages, device, CPU threads and, in a checkout, git revision of this run."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
    return {
        **package_versions(names),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "git": _git_revision(),
    }


def _git_revision() -> str | None:
    package = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12"]
    if (package.parent / ".git").exists():
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return done.stdout.strip() or None
    return None


def _note_skipped_data(state: TrainingState) -> None:
    for counts in state.counts:
        if counts.skipped:
            state.progress.note(counts.line("rows"))
    if state.data.too_long:
        state.progress.note(
            f"{state.data.too_long} pairs are longer than model.max_context ({state.recipe.model.max_context} tokens) "
            "and were skipped."
        )
    for caveat in few_pairs_caveats(len(state.evaluator.pairs)):
        state.progress.note(caveat)


def _describe_data(state: TrainingState) -> None:
    data, pairs = state.data, state.evaluator.pairs
    described: dict[str, Any] = {
        "train_prompts": len(data.train),
        "train_pairs": sum(len(block.pairs) for block in data.train),
        "test_pairs": len(pairs),
        "skipped_too_long": data.too_long,
        "fingerprint": data.fingerprint(),
    }
    if state.counts:
        described["sources"] = [counts.as_json() for counts in state.counts]
    if data.world is not None:
        from rubric_arm_lite.data.testbed import oracle

        described |= {"oracle": oracle(data.world, pairs), "likes": data.world.likes}
    state.directory.write_json("data.json", described)


def _check_same_data(state: TrainingState) -> None:
    if read_object(state.directory.path / "data.json")["fingerprint"] != state.data.fingerprint():
        raise CheckpointError(
            f"{state.recipe.data.source} now holds other pairs than when {state.directory.path} began. Restore the "
            "data, or start anew under another name."
        )


def _warm_up(state: TrainingState, role: Role, stage: str) -> None:
    recipe, settings, note = state.recipe, state.recipe.warmup, state.progress.note
    folder = state.directory.path / "warmup" / role
    if settings.source is not None:
        rows = state.warmup_rows
        if settings.source == "testbed":
            words = recipe.prompts.pointwise_words if recipe.reward.judge == "pointwise" else None
            rows = teacher_rows(settings, state.data.world, recipe.seed, words)
        examples, too_long = role_examples(rows, role, state.model, state.prompts)
        if too_long:
            note(f"{too_long} warm-up rows of the {role} are longer than the context and were skipped.")
        if unusable := len(rows) - len(examples) - too_long:
            note(f"{unusable} warm-up rows have a rubric that does not parse; the judge skips them.")
        sft = settings.rubric if role == "rubric" else settings.judge
        state.progress.stage(f"warm-up {role}", updates(sft, len(examples)))
        losses = warm_up_role(
            state.model, role, examples, sft, recipe.seed, folder, state.progress.step, state.processes
        )
        for step, loss in losses:
            state.directory.append("metrics.jsonl", {"kind": "warmup", "role": role, "step": step, "loss": loss})
    if role == "judge":
        state.model.freeze_references()
    state.directory.commit(state.save, stage=stage, keep=recipe.checkpoint.save_total_limit)
    if state.directory.writes:
        shutil.rmtree(folder, ignore_errors=True)


def _restore_lost_adapters(state: TrainingState) -> None:
    """Write the adapters of a finished run again if they were removed."""
    for role in ROLES if state.directory.writes else ():
        folder = state.directory.path / "adapters" / role
        if not (folder / "adapter_model.safetensors").is_file():
            state.progress.note(f"{folder} was missing; it was written again from the last checkpoint.")
            state.model.save_adapter(role, folder)
