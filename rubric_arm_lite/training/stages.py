"""The stages of a training run: base → warm-up → alternating GRPO → cross-play → final evaluation.

Input: a :class:`~rubric_arm_lite.training.state.TrainingState`. Output: logs, evaluations and adapters in its run
directory. Each stage is committed when it is done; the alternating stage also commits inside (:mod:`.hooks`).
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from rubric_arm_lite.data.testbed import known_task, oracle
from rubric_arm_lite.errors import CheckpointError, TrainingError
from rubric_arm_lite.evaluation import AdapterPair, Evaluation, make_evaluator
from rubric_arm_lite.evaluation.metrics import evaluation_caveats, unparsed_caveats
from rubric_arm_lite.models import AdapterModel, base_fingerprint, other_base
from rubric_arm_lite.models.lora import adamw_8bit
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.runs import RunDirectory, package_commit, package_versions, read_object
from rubric_arm_lite.runs.files import file_hash
from rubric_arm_lite.training.alarms import Alarms
from rubric_arm_lite.training.hooks import train_logged
from rubric_arm_lite.training.phases import make_phases
from rubric_arm_lite.training.schedule import STAGES, ScheduledPhase, scheduled_phases
from rubric_arm_lite.training.state import TrainingState
from rubric_arm_lite.training.tripwire import Tripwire
from rubric_arm_lite.training.warmup import role_examples, rows_and_passes, update_count, warm_up_role
from rubric_arm_lite.types import ROLES, Role

LOOK = {"vote_pairs": 1, "probes": 0, "showcase": 0}
"""Evaluation settings of a look at one metric."""
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
    for sft in (state.recipe.warmup.rubric, state.recipe.warmup.judge) if state.recipe.warmup.source else ():
        rows_and_passes(sft, state.processes.world)  # refused now, not after the base was evaluated
        if sft.optim == "adamw_8bit":
            adamw_8bit()
    state.restore()
    notes = [counts.line("rows") for counts in state.counts if counts.skipped]
    if state.data.too_long:
        notes.append(
            f"{state.data.too_long} pairs are longer than model.max_context ({state.recipe.model.max_context} tokens) "
            "and were skipped."
        )
    for note in (*notes, *evaluation_caveats({"pairs": len(state.evaluator.pairs)}, None)):
        state.progress.note(note)
    _check_or_describe_data(state)
    for stage in STAGES[: STAGES.index(until) + 1] if until else STAGES:
        if stage not in state.directory.state.stages:
            with nullcontext() if stage == "alternating" else state.timed(stage):  # its phases are timed one by one
                _run_stage(state, stage)
    for role in ROLES if state.directory.writes and "final" in state.directory.state.stages else ():
        if not state.directory.is_intact(folder := f"adapters/{role}"):
            note = "was missing or damaged; it was written again from the last checkpoint."
            state.progress.note(f"{state.directory.path / folder} {note}")
            state.directory.write_folder(folder, partial(state.model.save_adapter, role))
            state.directory.commit()


def _run_stage(state: TrainingState, stage: str) -> None:
    match stage:
        case "warmup-rubric" | "warmup-judge":
            _warm_up(state, "rubric" if stage == "warmup-rubric" else "judge")
            return
        case "base":
            evaluate(state, "base", AdapterPair(None, None))
        case "warmup":
            values = evaluate(state, "warm-up")
            for caveat in unparsed_caveats(values, state.recipe.evaluation.unparsed_value):
                state.progress.note(caveat)
        case "alternating":
            _alternate(state)
        case "cross-play":
            values_of = {name: evaluate(state, f"cross-play: {name}", pair) for name, pair in CROSS_PLAY.items()}
            state.directory.write_json("cross_play.json", values_of)
        case "final":
            values = evaluate(state, "final", votes=state.recipe.evaluation.votes)
            for role in ROLES:
                state.directory.write_folder(f"adapters/{role}", partial(state.model.save_adapter, role))
            summary = {"recipe": state.recipe.name, "seed": state.recipe.seed, **values}
            state.directory.write_json("summary.json", summary)
    state.directory.commit(stage=stage)


# --- warm-up and alternating GRPO -----------------------------------------------------------------------------------


def _warm_up(state: TrainingState, role: Role) -> None:
    settings, rows = state.recipe.warmup, state.warmup_rows
    folder = state.directory.path / "warmup" / role
    if role in state.starting_adapters:
        state.model.load_adapter(role, state.starting_adapters[role])
    if settings.source is not None:
        examples, too_long = role_examples(rows, role, state.model, state.prompts)
        if too_long:
            state.progress.note(f"{too_long} warm-up rows of the {role} are longer than the context and were skipped.")
        if unusable := len(rows) - len(examples) - too_long:
            state.progress.note(f"{unusable} warm-up rows have a rubric that does not parse; the judge skips them.")
        sft = settings.rubric if role == "rubric" else settings.judge
        steps = update_count(sft, len(examples))

        def train(repeat: int) -> None:
            """Go through the warm-up, for the first time or once more."""

            def log(step: int, values: dict[str, float]) -> None:
                state.progress.step(step, values)
                row = {"kind": "warmup", "role": role, "step": repeat * steps + step, **values}
                state.directory.append("metrics.jsonl", row)

            state.progress.stage(f"warm-up {role}", steps)
            seed = derive_seed(state.recipe.seed, "repeat", repeat) if repeat else state.recipe.seed
            where = folder / str(repeat) if repeat else folder
            warm_up_role(state.model, role, examples, sft, seed, where, log, state.processes)

        train(0)
    if role == "judge":
        if settings.until is not None:
            more = settings.until.repeats if settings.source and settings.until.action == "lengthen" else 0
            repeat, problem = 0, _cannot_read(state)
            while problem and repeat < more:
                repeat += 1
                state.progress.note(f"{problem}; its warm-up is repeated ({repeat} of {more}).")
                train(repeat)
                problem = _cannot_read(state)
            if problem:
                raise TrainingError(
                    f"{problem}. A judge phase would not teach it to read. Lengthen warmup.judge, raise its learning "
                    "rate, use a larger base, or relax warmup.until."
                )
        state.model.freeze_references()
    state.directory.commit(state.save, stage=f"warmup-{role}", keep=state.recipe.checkpoint.save_total_limit)
    if state.directory.writes:
        shutil.rmtree(folder, ignore_errors=True)


def _cannot_read(state: TrainingState) -> str | None:
    """What a warmed-up judge lacks of the recipe's ``warmup.until``, in words; None if nothing."""
    bounds, world, recipe = state.recipe.warmup.until, state.data.world, state.recipe
    assert bounds is not None
    if world is None:
        pairs = [pair for block in reversed(state.data.train) for pair in block.pairs]
    else:
        prompts = -(-bounds.pairs // world.settings.pairs_per_prompt)
        pairs = [pair for block in world.blocks("validation", prompts) for pair in block.pairs]
    pairs = pairs[: bounds.pairs]
    rubrics = None if world is None else [world.true_rubric(known_task(world, pair.prompt)) for pair in pairs]
    settings = recipe.evaluation.model_copy(update={"pairs": len(pairs), **LOOK})
    values = make_evaluator(recipe, state.generator, settings, pairs).evaluate("reading", rubrics=rubrics).values
    state.directory.append("metrics.jsonl", {"kind": "reading", **values})
    if values.get("position_bias", 0.0) > bounds.position_bias:
        return (
            f"The warmed-up judge has a position bias of {values['position_bias']:.2f} on {len(pairs)} pairs, above "
            f"warmup.until.position_bias ({bounds.position_bias:g})"
        )
    if rubrics is not None and values["accuracy"] < bounds.accuracy:
        return (
            f"With true rubrics the warmed-up judge is right in {values['accuracy']:.2f} of {len(pairs)} pairs, below "
            f"warmup.until.accuracy ({bounds.accuracy:g})"
        )
    return None


def _alternate(state: TrainingState) -> None:
    """Train both adapters through the rest of the schedule."""

    def place(phase: ScheduledPhase, role: Role) -> dict[str, Any]:
        return {"slot": phase.index, "phase": phase.label, "role": role}

    def after_phase(phase: ScheduledPhase, seconds: float, tokens: int) -> None:
        state.directory.append("timings.jsonl", {"stage": phase.label, "seconds": seconds, "tokens": tokens})
        values = None
        if state.recipe.evaluation.after_phases:
            with state.timed(f"evaluate {phase.label}"):
                values = evaluate(state, phase.label)
        alarms.after_phase(phase, values)

    def ends_early(phase: ScheduledPhase, step: int) -> bool:
        """Whether the recipe's ``until`` ends this phase after this step."""
        until = state.recipe.schedule.until
        if until is None or until.phase not in phase.roles or (step + 1) % until.every:
            return False
        probe = [pair for block in reversed(state.data.train) for pair in block.pairs][: until.pairs]
        settings = state.recipe.evaluation.model_copy(update={"pairs": until.pairs, **LOOK})
        value = make_evaluator(state.recipe, state.generator, settings, probe).evaluate("probe").values[until.metric]
        row = {"slot": phase.index, "phase": phase.label, "step": step, until.metric: value}
        state.directory.append("metrics.jsonl", {"kind": "probe", **row})
        return value >= until.at_least

    phases = make_phases(state.recipe, state.generator, state.judgements)
    schedule = scheduled_phases(state.recipe.schedule)
    tripwire = Tripwire(state)
    alarms = Alarms(state, tripwire.rows)
    blocks = state.data.train
    train_logged(state, state.sampler, phases, schedule, blocks, place, after_phase, ends_early, tripwire, alarms)


# --- evaluation -----------------------------------------------------------------------------------------------------


def evaluate(
    state: TrainingState, name: str, adapters: AdapterPair | None = None, votes: int = 1
) -> Mapping[str, float]:
    """Evaluate adapters on the held-out pairs, log and report it, and return the values.

    An earlier evaluation of the same weights is taken over; with another number of votes, its greedy judgements are.
    """
    state.progress.stage(f"evaluate {name}", 1)
    adapters = adapters or AdapterPair()

    def weights(adapter: str | None) -> str:
        """The adapter's fingerprint; without a warm-up its first state, which adds nothing, is the base."""
        found = state.model.fingerprint(adapter)
        if adapter is None or not state.recipe.warmup.is_empty:
            return found
        return "base" if found == state.model.fingerprint(f"{adapter.removesuffix('_ref')}_ref") else found

    judged = {"adapters": [weights(adapters.rubric), weights(adapters.judge)], "votes": votes}
    files = [read_object(file) for file in sorted((state.directory.path / "evaluations").glob("*.json"))]
    same = [row for row in files if row.get("adapters") == judged["adapters"]]
    same.sort(key=lambda row: row["votes"] != votes)
    evaluation = Evaluation(name, *(same[0][key] for key in ("values", "rows", "showcase"))) if same else None
    if evaluation is None or same[0]["votes"] != votes:
        evaluation = state.evaluator.evaluate(name, adapters, votes, evaluation)
    details = {"rows": evaluation.rows, "showcase": evaluation.showcase, **judged}
    log_evaluation(state.directory, name, evaluation.values, details)
    state.processes.wait()  # all processes see the same files
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


# --- versions and data ----------------------------------------------------------------------------------------------


def versions(model: AdapterModel) -> dict[str, Any]:
    """Versions of the packages and the base, device, CPU threads and, where it is known, git commit of this run."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
    return {
        **package_versions(names),
        "base weights": base_fingerprint(model.settings),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "git": package_commit(),
    }


def _check_or_describe_data(state: TrainingState) -> None:
    """Compare the data with those that the run began with; at its start, write them and the versions down."""
    data, pairs, directory = state.data, state.evaluator.pairs, state.directory
    start = {role: file_hash(folder / "adapter_model.safetensors") for role, folder in state.starting_adapters.items()}
    if directory.state.stages:
        if difference := other_base(directory.path, state.recipe.model):
            state.progress.note(difference)
        if read_object(directory.path / "data.json")["fingerprint"] != data.fingerprint():
            raise CheckpointError(
                f"{state.recipe.data.source} now holds other pairs than when {directory.path} began. Restore the data, "
                "or start anew with --if-exists overwrite."
            )
        if start and read_object(directory.path / "data.json").get("start") != start:
            raise CheckpointError(
                f"{state.recipe.warmup.from_} now holds other adapters than when {directory.path} began. Restore them, "
                "or start anew with --if-exists overwrite."
            )
        return
    described: dict[str, Any] = {
        "train_prompts": len(data.train),
        "train_pairs": sum(len(block.pairs) for block in data.train),
        "test_pairs": len(pairs),
        "skipped_too_long": data.too_long,
        "fingerprint": data.fingerprint(),
    }
    if state.counts:
        described["sources"] = [counts.as_json() for counts in state.counts]
    if start:
        described["start"] = start
    if data.world is not None:
        described |= {"oracle": oracle(data.world, pairs), "likes": data.world.likes}
    directory.write_json("versions.json", versions(state.model))
    directory.write_json("data.json", described)
