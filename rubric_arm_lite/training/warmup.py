"""Stage I: supervised warm-up of both adapters with TRL's SFTTrainer, loss on the completion only (paper, 4.1).

Rows become token ids by the rendering that training and inference use, so all three agree token for token. A warm-up
that was interrupted continues from the trainer's last complete checkpoint. What SFT and DPO share is here as well.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rubric_arm_lite.data import Counts, RunData, WarmupRow, read_trajectories
from rubric_arm_lite.data.testbed import make_teacher
from rubric_arm_lite.errors import CheckpointError, ConfigError, DataError, TrainingError
from rubric_arm_lite.models import ALONE, AdapterModel, Processes, other_base
from rubric_arm_lite.models.base import checkpointing_name
from rubric_arm_lite.models.logprobs import score_tokens
from rubric_arm_lite.models.lora import check_adapter, read_adapter
from rubric_arm_lite.models.shared_prefix.passes import decoder_of
from rubric_arm_lite.prompts import PromptBuilder, parse_rubric, wording
from rubric_arm_lite.recipe import WORLDS, Recipe, SFTSettings, derive_seed
from rubric_arm_lite.runs import STATE, adapter_folder, run_and_state
from rubric_arm_lite.types import ROLES, Role

LARGE_VOCABULARY = 32768
"""From this size on the loss is computed in chunks of tokens: all logits of a row would be the peak memory."""
COMPLETE = "COMPLETE"
"""Marker file of a trainer's checkpoint that was written to its end."""


def role_examples(
    rows: Sequence[WarmupRow], role: Role, model: AdapterModel, prompts: PromptBuilder
) -> tuple[list[tuple[list[int], list[int]]], int]:
    """(prompt ids, completion ids) of one role, and the number of rows that are longer than the context.

    The judge's prompt shows the row's rubric as its teacher meant it; a row whose rubric does not parse is for the
    generator only. Control tokens are broken up in a completion as in a prompt: it ends at its end token alone.

    Raises:
        DataError: if no row is left.
    """
    examples = []
    too_long = 0
    for row in rows:
        if role == "rubric":
            prompt, text = prompts.rubric_prompt(row.prompt), row.rubric
        else:
            rubric = parse_rubric(row.judged_rubric or row.rubric)
            if not rubric.usable:
                continue
            prompt, text = row.judge_prompt(prompts, rubric), row.judgement
        ids = (model.encode(prompt), model.encode_completion(prompts.without_control_tokens(text)))
        if len(ids[0]) + len(ids[1]) > model.settings.max_context:
            too_long += 1
        else:
            examples.append(ids)
    if not examples:
        raise DataError(
            f"No warm-up example is left for the {role} ({len(rows)} rows, {too_long} longer than model.max_context). "
            "Raise model.max_context, or check that the rubrics parse."
        )
    return examples, too_long


def starting_adapters(recipe: Recipe) -> dict[Role, Path]:
    """The folders of the adapters that a warm-up starts from (``warmup.from``), checked; none without it.

    Call this once the base has been loaded, so that its files are on this machine.

    Raises:
        BackendError: if a folder is no LoRA adapter of the recipe's rank and scale, or the run has no such state.
        CheckpointError: if the run was trained on other weights of its base, or a file of it was changed.
    """
    if recipe.warmup.from_ is None:
        return {}
    run, state = run_and_state(recipe.warmup.from_, "warm-up")
    if (run / STATE).is_file():
        if difference := other_base(run, recipe.model):
            raise CheckpointError(f"warmup.from: {difference}")
        folders = {role: adapter_folder(run, role, state) for role in ROLES}
    elif run.is_dir() and state == "warm-up":
        folders = {role: run / role for role in ROLES}
    else:
        raise CheckpointError(f"warmup.from: {run} is no run directory. Name one, or a folder with rubric and judge.")
    for folder in folders.values():
        check_adapter(folder, recipe.model.lora)
    return folders


def read_warmup_rows(recipe: Recipe, data: RunData) -> tuple[list[WarmupRow], tuple[Counts, ...]]:
    """The rows of a recipe's warm-up, and what a source that is no synthetic world skipped; none without a warm-up.

    Raises:
        DataError: for a source or row that cannot be used.
    """
    settings = recipe.warmup
    if settings.source is None:
        return [], ()
    if settings.source not in WORLDS:
        held_out = {wording(pair.prompt) for pair in data.test}
        rows, counts = read_trajectories(settings, recipe.seed, data.decontaminator, held_out, recipe.pointwise)
        return rows, (counts,)
    assert data.world is not None, "Recipes refuse the warm-up of a world with other data."
    teacher = make_teacher(data.world, recipe)
    return teacher.trajectories(data.world.blocks("train", settings.prompts), recipe.seed), ()


def warm_up_role(
    model: AdapterModel,
    role: Role,
    examples: Sequence[tuple[list[int], list[int]]],
    settings: SFTSettings,
    seed: int,
    folder: Path,
    log: Callable[[int, dict[str, float]], None],
    processes: Processes = ALONE,
) -> list[tuple[int, float]]:
    """Fine-tune one adapter; returns (step, loss in nats per token) of all logged steps, also those before a resume.

    Args:
        folder: for the trainer's own checkpoints; training continues from a complete one there.
        log: called with (step, values) at every logged step; at first with those of before a resume.
        processes: those that share every batch.

    Raises:
        TrainingError: if the adapter did not change.
    """
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer
    from trl import SFTConfig, SFTTrainer
    from trl.trainer import utils as trl_utils

    rows = [
        {"input_ids": p + c, "labels": [-100] * len(p) + c, "attention_mask": [1] * len(p + c)} for p, c in examples
    ]
    if processes.first:
        last_complete(folder)  # removes incomplete checkpoints before the other processes look
    processes.wait()
    base = model.model.get_base_model()
    fields = base.config.get_text_config()
    chunked = fields.vocab_size >= LARGE_VOCABULARY
    # With router logits TRL adds a loss of the router's own.
    on_completions = chunked and model.model.device.type == "cpu" and not getattr(fields, "output_router_logits", False)
    seed = derive_seed(seed, "warmup", role)
    config = SFTConfig(
        **trainer_arguments(settings, model.settings.gradient_checkpointing, model.model, folder, seed, processes),
        max_length=None,
        packing=False,
        # From TRL 1.16 on, `nll` is computed in chunks as well and the other name is deprecated.
        loss_type="chunked_nll" if chunked and not hasattr(trl_utils, "add_fused_lm_head") else "nll",
        dataset_kwargs={"skip_prepare_dataset": True},
    )

    class WarmupTrainer(SFTTrainer):  # type: ignore[misc]
        """Resumes without PEFT, whose version 0.19 fails at it in two processes beside transformers 5.0."""

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            read_adapter(role, Path(resume_from_checkpoint, role), lora, parameters)

    if on_completions:  # TRL's own step wants outputs for metrics that nobody reads here
        WarmupTrainer.compute_loss = Trainer.compute_loss
    lora, parameters = model.settings.lora, model.parameters(role)
    before = model.fingerprint(role)
    with model.using(role, train=True) as peft_model:
        with weights_kept(lambda: model.parameters(role)):
            trainer = WarmupTrainer(
                model=peft_model,
                args=on_one_card(config),
                train_dataset=Dataset.from_list(rows),
                processing_class=model.tokenizer,
                data_collator=DataCollatorForSeq2Seq(model.tokenizer, label_pad_token_id=-100),
            )
        try:
            if on_completions:
                base.forward = completion_loss(model)
            history = run_trainer(trainer, folder, seed, log, processes)
        finally:
            vars(base).pop("forward", None)  # where TRL leaves its chunked loss
    if model.fingerprint(role) == before:
        raise TrainingError(f"The warm-up left the adapter `{role}` unchanged. Check the learning_rate of its warm-up.")
    return [(int(row["step"]), float(row["loss"])) for row in history]


def completion_loss(model: AdapterModel) -> Callable[..., Any]:
    """A forward of the base that gives its loss in nats per token, with the head on labelled tokens only.

    Where Triton is missing, TRL's chunked loss puts the head on prompts as well: a third of a step of SmolLM2's judge.
    """
    from transformers.modeling_outputs import CausalLMOutput

    base = model.model.get_base_model()
    decoder, vocabulary = decoder_of(base), base.config.get_text_config().vocab_size

    def forward(input_ids: Any, attention_mask: Any, labels: Any, num_items_in_batch: Any = None, **_: Any) -> Any:
        hidden = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        targets = labels[:, 1:]
        kept = targets != -100
        logps, _entropies = score_tokens(hidden[:, :-1][kept], targets[kept], model.head, 1.0, vocabulary)
        return CausalLMOutput(loss=-logps.sum() / (kept.sum() if num_items_in_batch is None else num_items_in_batch))

    return forward


@contextmanager
def weights_kept(parameters: Callable[[], Iterable[tuple[str, Any]]]) -> Iterator[None]:
    """Give an adapter its weights back after a trainer was made.

    TRL rounds adapters on a 4-bit base to bfloat16 and leaves them so; small updates would be lost.
    """
    before = {name: parameter.detach().clone() for name, parameter in parameters()}
    yield
    for name, parameter in parameters():
        if name in before:
            parameter.data = before[name]


def run_trainer(
    trainer: Any,
    folder: Path,
    seed: int,
    log: Callable[[int, dict[str, float]], None],
    processes: Processes = ALONE,
    names: Sequence[str] = ("loss",),
) -> list[dict[str, Any]]:
    """Run a trainer from its last complete checkpoint to the end; returns all logged rows that have a loss.

    Args:
        log: called with (step, values) for each of these rows, in order, also for those of before the checkpoint.
        names: the trainer's metrics that ``log`` gets.
    """
    import torch
    from transformers import PrinterCallback, TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        """Seeds the dropout of each step, reports losses and marks checkpoints as complete."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            torch.manual_seed(derive_seed(seed, "dropout", state.global_step, processes.rank))

        logged = 0

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            rows = [row for row in state.log_history if "loss" in row]
            for row in rows[self.logged :]:
                log(int(row["step"]), {name: float(row[name]) for name in names if name in row})
            self.logged = len(rows)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.on_log(args, state, control)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if processes.first:
                (folder / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    trainer.add_callback(Callback())
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_complete(folder))
    return [row for row in trainer.state.log_history if "loss" in row]


def last_complete(folder: Path) -> str | None:
    """The newest checkpoint with its marker; those without one are removed."""
    complete: dict[int, str] = {}
    for path in folder.glob("checkpoint-*"):
        step = path.name.removeprefix("checkpoint-")
        if (path / COMPLETE).is_file() and step.isdigit():
            complete[int(step)] = str(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    return complete[max(complete)] if complete else None


def on_one_card(config: Any) -> Any:
    """A trainer's arguments with one card for this process: it would spread a batch over all that it sees."""
    config._n_gpu = min(config.n_gpu, 1)
    return config


def trainer_arguments(
    settings: SFTSettings,
    gradient_checkpointing: bool,
    model: Any,
    folder: Path,
    seed: int,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """The arguments that TRL's SFTConfig and DPOConfig have in common."""
    import torch

    rows, passes = rows_and_passes(settings, processes.world)
    cuda = model.device.type == "cuda"
    return {
        **settings.model_dump(include=SFTSettings.model_fields.keys() - {"warmup_ratio"}),  # named as TRL does
        "output_dir": str(folder),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": passes,
        "warmup_steps": settings.warmup_ratio,
        "seed": seed % 2**31,
        "save_strategy": "steps",
        "save_total_limit": 2,
        # Aligned with the checkpoints, so that the mean loss between two logs does not depend on where a run resumed.
        "logging_steps": math.gcd(10, settings.save_steps),
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        checkpointing_name(): gradient_checkpointing,
        f"{checkpointing_name()}_kwargs": {"use_reentrant": False} if gradient_checkpointing else None,
        "use_cpu": not cuda,
        "bf16": cuda and model.dtype == torch.bfloat16,
        "fp16": cuda and model.dtype == torch.float16,
        "dataloader_pin_memory": cuda,
    }


def rows_and_passes(settings: SFTSettings, world: int) -> tuple[int, int]:
    """Rows per pass and passes per update of each of ``world`` processes: an update has as many rows as with one.

    Raises:
        ConfigError: if they cannot be divided.
    """
    rows, passes = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    if passes % world == 0:
        return rows, passes // world
    if rows % world == 0:
        return rows // world, passes
    raise ConfigError(
        f"per_device_train_batch_size {rows} × gradient_accumulation_steps {passes} of the warm-up cannot be shared by "
        f"{world} processes. Make one of them a multiple of {world}."
    )


def update_count(settings: SFTSettings, examples: int) -> int:
    """The number of updates of a warm-up on so many examples."""
    if settings.max_steps > 0:
        return settings.max_steps
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
    return max(1, math.ceil(math.ceil(examples / batch) * settings.num_train_epochs))  # each pass ends with an update
