"""Direct preference optimisation of the adapter ``policy`` with TRL's DPOTrainer.

Pairs arrive as the token ids that were sampled and go to the trainer as they are. TRL takes the reference from a
copy of the adapter it starts with, under names it hard-codes, so the base is loaded anew with that one adapter, and
the first loss is measured: it must be ln 2, the value where policy and reference are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import DataError, TrainingError
from rubric_arm_lite.models import load_for_trainer, load_tokenizer
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.recipe.policy import DPOSettings
from rubric_arm_lite.training.policy.pairs import TrainingPair
from rubric_arm_lite.training.warmup import last_complete, new_watch, plain_printer, trainer_arguments

FIRST_LOSS_TOLERANCE = 1e-3
FIRST_LOSS_PAIRS = 8
"""Pairs that the first loss is measured on."""


def train_dpo(
    settings: DPOSettings,
    model: ModelSettings,
    adapter: Path,
    pairs: Sequence[TrainingPair],
    seed: int,
    folder: Path,
    log: Callable[[int, dict[str, float]], None],
) -> tuple[Any, list[dict[str, float]]]:
    """Train one saved adapter on pairs; returns the PEFT model and what was logged, also before a resume.

    Args:
        adapter: the policy to start from, which is also the reference.
        folder: where the trainer keeps its own checkpoints; a complete one found there is continued.
        log: called with (step, values) at every logged step.

    Raises:
        DataError: if there are no pairs.
        TrainingError: if the first loss is not ln 2, or a loss is not finite.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    if not pairs:
        raise DataError(
            "No pair is left to train on: the reward model named no answer in both orders. Use more prompts "
            "(data.train_prompts), a higher answers.temperature, or a better reward model."
        )

    class TokenisedDPOTrainer(DPOTrainer):  # type: ignore[misc]
        """Takes token ids as they were sampled, where TRL would write and read texts again, and resumes rightly."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            # Where the reference has a folder in the checkpoint, transformers loads that one only, and training would
            # go on from the first weights with a later optimizer, without a word.
            self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)

    peft_model = load_for_trainer(model, adapter)
    kept = {name: p.detach().clone() for name, p in peft_model.named_parameters() if ".default." in name}
    config = DPOConfig(
        **trainer_arguments(settings, model.gradient_checkpointing, peft_model, folder, seed),
        beta=settings.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, settings.sft_weight],
        max_length=None,
    )
    trainer = TokenisedDPOTrainer(
        model=peft_model,
        args=config,
        train_dataset=Dataset.from_list([_row(pair) for pair in pairs]),
        processing_class=load_tokenizer(model),
        callbacks=[new_watch(folder, log)],
    )
    trainer.remove_callback(plain_printer())
    for name, parameter in peft_model.named_parameters():
        # TRL rounds adapters on a 4-bit base to bfloat16 for good; small steps would be lost in it.
        if ".default." in name:
            parameter.data = kept[name]
    check_first_loss(first_loss(trainer, pairs))
    trainer.train(resume_from_checkpoint=last_complete(folder))
    history = [_logged(row) for row in trainer.state.log_history if "loss" in row]
    if not all(math.isfinite(row["loss"]) for row in history):
        raise TrainingError("A loss of DPO is not finite. Lower dpo.learning_rate, or use model.dtype: float32.")
    return peft_model, history


def first_loss(trainer: Any, pairs: Sequence[TrainingPair]) -> float:
    """DPO's loss, without the SFT part, of a trainer that has not trained yet, in nats."""
    import torch

    batch = trainer.data_collator([_row(pair) for pair in pairs[:FIRST_LOSS_PAIRS]])
    device = trainer.model.device
    kinds, weights = trainer.loss_types, trainer.loss_weights
    trainer.loss_types, trainer.loss_weights = ["sigmoid"], [1.0]
    trainer.model.eval()  # so that TRL counts this look among evaluations, not in the means of training
    try:
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, {name: value.to(device) for name, value in batch.items()}))
    finally:
        trainer.model.train()
        trainer.loss_types, trainer.loss_weights = kinds, weights


def check_first_loss(loss: float) -> None:
    """Refuse a trainer whose reference is not the policy it starts from.

    Raises:
        TrainingError: if the loss is not ln 2.
    """
    if not abs(loss - math.log(2)) <= FIRST_LOSS_TOLERANCE:
        raise TrainingError(
            f"DPO starts at a loss of {loss:.4f} in place of ln 2 = {math.log(2):.4f}: its reference is not the policy "
            "it starts from. This version of TRL handles adapters differently; use one that constraints.txt names."
        )


def _row(pair: TrainingPair) -> dict[str, list[int]]:
    return {
        "prompt_ids": list(pair.prompt_ids),
        "chosen_ids": list(pair.chosen.token_ids),
        "rejected_ids": list(pair.rejected.token_ids),
    }


def _logged(row: dict[str, Any]) -> dict[str, float]:
    names = ("step", "loss", "rewards/margins", "rewards/accuracies")
    return {name: float(row[name]) for name in names if name in row}
