"""Direct preference optimization of the adapter ``policy``: pairs of its own responses, and TRL's DPOTrainer on them.

Two responses to each request are sampled and labeled by the reward model (paper, sec. 4.3). A pair is kept only if that
prefers the same response in both orders; the others are counted by reason. Both jobs have a journal, so that a killed
one resumes. Pairs go to the trainer as the token ids that were sampled. TRL takes the reference from a copy of the
adapter it starts with, under names it hard-codes, so the base is loaded anew with that one adapter, and the first loss
is measured: it must be ln 2, the value where policy and reference are the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import DataError, TrainingError
from rubric_arm_lite.models import Sampling, load_for_trainer, load_tokenizer
from rubric_arm_lite.recipe import DPOSettings, ModelSettings, derive_seed
from rubric_arm_lite.reward_model import Verdict
from rubric_arm_lite.training.policy.state import BATCH, PolicyState, Request
from rubric_arm_lite.training.warmup import on_one_card, run_trainer, trainer_arguments, weights_kept
from rubric_arm_lite.types import Sample

FIRST_LOSS_TOLERANCE = 1e-3
FIRST_LOSS_PAIRS = 8
"""Pairs that the first loss is measured on."""
LOGGED = ("loss", "rewards/margins", "rewards/accuracies")
REASONS = (
    "kept",
    "orders disagree",
    "no verdict",
    "same answer twice",
    "truncated",
    "rubric does not parse",
    "too long for the judge",
)


@dataclass(frozen=True, slots=True)
class SampledPair:
    """Two answers to one request."""

    request: Request
    prompt_ids: tuple[int, ...]
    answers: tuple[Sample, Sample]


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A pair for DPO, as the token ids that were sampled."""

    prompt_ids: tuple[int, ...]
    chosen: Sample
    rejected: Sample


def sampled_pairs(state: PolicyState, number: int) -> list[SampledPair]:
    """Two answers of the policy to every training request in a round, without their log-probabilities."""
    policy, settings = state.models.policy, state.recipe.answers
    seed = derive_seed(state.recipe.seed, "round", number)
    fields = ("text", "token_ids", "finish_reason")

    def sample(batch: Sequence[Request]) -> list[dict[str, Any]]:
        sampling = Sampling(settings.max_completion_length, 2, settings.temperature)
        groups = policy.sample("policy", [request.example(state.prompts, seed) for request in batch], sampling)
        return [
            {"prompt_ids": g.prompt_ids, "answers": [{name: getattr(s, name) for name in fields} for s in g.samples]}
            for g in groups
        ]

    with state.round_journal(number, "samples.jsonl") as journal:
        rows = journal.map(sample, state.requests.train, BATCH, state.show)
    pairs = []
    for request, row in zip(state.requests.train, rows, strict=True):
        first, second = (Sample(a["text"], tuple(a["token_ids"]), (), a["finish_reason"]) for a in row["answers"])
        pairs.append(SampledPair(request, tuple(row["prompt_ids"]), (first, second)))
    return pairs


def labeled_pairs(state: PolicyState, number: int) -> tuple[list[TrainingPair], dict[str, int]]:
    """The kept pairs of a round, the better answer as chosen, and the number of pairs by outcome."""

    def skip_reason(pair: SampledPair) -> str | None:
        first, second = pair.answers
        if not state.judge.has_rubric(pair.request.prompt_id):
            return "rubric does not parse"
        if "length" in (first.finish_reason, second.finish_reason):
            return "truncated"  # as a chosen answer it would teach not to end
        return "same answer twice" if first.text == second.text else None

    def label(batch: Sequence[SampledPair]) -> list[tuple[str, int | None]]:
        skipped = [skip_reason(pair) for pair in batch]
        judged = [pair for pair, reason in zip(batch, skipped, strict=True) if reason is None]
        comparisons = [pair.request.comparison(*(answer.text for answer in pair.answers)) for pair in judged]
        verdicts = iter(state.judge.verdicts(comparisons))
        return [_outcome(next(verdicts)) if reason is None else (reason, None) for reason in skipped]

    pairs = sampled_pairs(state, number)
    with state.round_journal(number, "labels.jsonl") as journal:
        labels = journal.map(label, pairs, BATCH, state.show)
    kept = [
        TrainingPair(pair.prompt_ids, pair.answers[better], pair.answers[1 - better])
        for pair, (_, better) in zip(pairs, labels, strict=True)
        if better is not None
    ]
    counts = Counter(reason for reason, _ in labels)
    return kept, {reason: counts[reason] for reason in REASONS}


def _outcome(verdict: Verdict) -> tuple[str, int | None]:
    """The outcome of a judged pair and, where it is kept, the index of the better answer."""
    if verdict.agreed is not None:
        return "kept", "AB".index(verdict.agreed)
    if not verdict.winners:
        return "too long for the judge", None
    return ("no verdict" if None in verdict.winners else "orders disagree"), None


# --- training --------------------------------------------------------------------------------------------------------


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
            args=on_one_card(config),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(model),
        )
    loss = first_loss(trainer, rows)
    if not abs(loss - math.log(2)) <= FIRST_LOSS_TOLERANCE:
        raise TrainingError(
            f"DPO starts at a loss of {loss:.4f} in place of ln 2 = {math.log(2):.4f}: its reference is not the policy "
            "it starts from. This version of TRL handles adapters differently; use one that constraints.txt names."
        )

    def log_finite(step: int, values: dict[str, float]) -> None:
        if not math.isfinite(values["loss"]):
            raise TrainingError("A loss of DPO is not finite. Lower dpo.learning_rate, or use model.dtype: float32.")
        log(step, values)

    history = run_trainer(trainer, folder, seed, log_finite, names=LOGGED)
    return peft_model, [{name: float(row[name]) for name in ("step", *LOGGED) if name in row} for row in history]


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
