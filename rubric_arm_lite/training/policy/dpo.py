"""Direct preference optimization of the adapter ``policy`` with TRL's DPOTrainer.

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
from rubric_arm_lite.recipe import DPOSettings, ModelSettings
from rubric_arm_lite.training.policy.pairs import TrainingPair
from rubric_arm_lite.training.warmup import run_trainer, trainer_arguments, weights_kept

FIRST_LOSS_TOLERANCE = 1e-3
FIRST_LOSS_PAIRS = 8
"""Pairs that the first loss is measured on."""
LOGGED = ("step", "loss", "rewards/margins", "rewards/accuracies")


def train_dpo(
    settings: DPOSettings,
    model: ModelSettings,
    adapter: Path,
    pairs: Sequence[TrainingPair],
    seed: int,
    folder: Path,
    log: Callable[[int, dict[str, float]], None],
) -> tuple[Any, list[dict[str, float]]]:
    """Train one saved adapter on pairs; returns the PEFT model and all logged rows, also those before a resume.

    Args:
        adapter: the policy to start from, which is also the reference.
        folder: for the trainer's own checkpoints; training continues from a complete one there.
        log: called with (step, values) at every logged step.

    Raises:
        DataError: if there are no pairs.
        TrainingError: if the first loss is not ln 2, or a loss is not finite.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    if not pairs:
        raise DataError(
            "No pair is left to train on: the reward model preferred no answer in both orders. Use more prompts "
            "(data.train_prompts), a higher answers.temperature, or a better reward model."
        )

    class TokenizedDPOTrainer(DPOTrainer):  # type: ignore[misc]
        """Takes token ids as they were sampled, where TRL would decode and encode them, and resumes correctly."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            # If the reference has a folder in the checkpoint, transformers loads only that one, and training would
            # silently continue from the first weights with a later optimizer.
            self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)

    rows = [
        {
            "prompt_ids": list(pair.prompt_ids),
            "chosen_ids": list(pair.chosen.token_ids),
            "rejected_ids": list(pair.rejected.token_ids),
        }
        for pair in pairs
    ]
    peft_model = load_for_trainer(model, adapter)
    config = DPOConfig(
        **trainer_arguments(settings, model.gradient_checkpointing, peft_model, folder, seed),
        beta=settings.beta,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, settings.sft_weight],
        max_length=None,
    )
    with weights_kept(lambda: ((name, p) for name, p in peft_model.named_parameters() if ".default." in name)):
        trainer = TokenizedDPOTrainer(
            model=peft_model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(model),
        )
    loss = first_loss(trainer, rows)
    if not abs(loss - math.log(2)) <= FIRST_LOSS_TOLERANCE:
        raise TrainingError(
            f"DPO starts at a loss of {loss:.4f} in place of ln 2 = {math.log(2):.4f}: its reference is not the policy "
            "it starts from. This version of TRL handles adapters differently; use one that constraints.txt names."
        )
    history = run_trainer(trainer, folder, seed, log)
    if not all(math.isfinite(row["loss"]) for row in history):
        raise TrainingError("A loss of DPO is not finite. Lower dpo.learning_rate, or use model.dtype: float32.")
    return peft_model, [{name: float(row[name]) for name in LOGGED if name in row} for row in history]


def first_loss(trainer: Any, rows: Sequence[dict[str, list[int]]]) -> float:
    """DPO's loss before training, without the SFT part, in nats."""
    import torch

    batch = trainer.data_collator(rows[:FIRST_LOSS_PAIRS])
    device = trainer.model.device
    types, weights = trainer.loss_types, trainer.loss_weights
    trainer.loss_types, trainer.loss_weights = ["sigmoid"], [1.0]
    trainer.model.eval()  # so that TRL counts this loss as an evaluation's, not in the means of training
    try:
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, {name: value.to(device) for name, value in batch.items()}))
    finally:
        trainer.model.train()
        trainer.loss_types, trainer.loss_weights = types, weights
