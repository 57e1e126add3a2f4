"""The update of ONE adapter from scored rollouts: group-relative, clipped, with KL to its warm-up copy.

One optimizer per adapter lives as long as the run, so its moments survive the other adapter's phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rubric_arm_lite.advantages import GroupAdvantages
from rubric_arm_lite.backends.transformers import TwoAdapterModel
from rubric_arm_lite.batching import Row, RowBatch, make_batch, make_rows, micro_batches
from rubric_arm_lite.config import GRPOSettings, Recipe
from rubric_arm_lite.errors import CheckpointError, TrainingError
from rubric_arm_lite.losses import grpo_loss
from rubric_arm_lite.types import ROLES, Role, RolloutGroup, StepMetrics


class Learner:
    """Updates the adapters of a :class:`TwoAdapterModel`."""

    def __init__(self, model: TwoAdapterModel, recipe: Recipe) -> None:
        self.model = model
        self.recipe = recipe
        self.layout = model.layout
        self.optimizers: dict[Role, torch.optim.AdamW] = {role: self._optimizer(role) for role in ROLES}

    def _optimizer(self, role: Role) -> torch.optim.AdamW:
        settings = self.recipe.grpo(role)
        parameters = [p for _, p in self.model.parameters(role)]
        if not parameters:
            raise TrainingError(f"The adapter `{role}` has no parameters. Check model.lora.target_modules.")
        return torch.optim.AdamW(
            parameters,
            lr=settings.learning_rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.weight_decay,
        )

    def save_optimizers(self, file: Path) -> None:
        """Write the moments and step counts of both optimizers as safetensors."""
        state = {}
        for role, optimizer in self.optimizers.items():
            for name, parameter in self.model.parameters(role):
                for key, value in optimizer.state.get(parameter, {}).items():
                    state[f"{role}|{name}|{key}"] = value.detach().cpu().contiguous().clone()
        save_file(state, file)

    def load_optimizers(self, file: Path) -> None:
        """Take up the optimizers where :meth:`save_optimizers` left them.

        Raises:
            CheckpointError: if the file cannot be read.
        """
        try:
            state = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. Start anew with --if-exists overwrite.") from error
        for role, optimizer in self.optimizers.items():
            for name, parameter in self.model.parameters(role):
                start = f"{role}|{name}|"
                found = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
                if found:
                    # AdamW keeps its step count on the CPU, the moments beside the parameter.
                    optimizer.state[parameter] = {
                        k: v.clone() if k == "step" else v.to(parameter.device, copy=True) for k, v in found.items()
                    }

    def update(self, role: Role, groups: Sequence[RolloutGroup], advantages: Sequence[GroupAdvantages]) -> StepMetrics:
        """``num_iterations`` gradient steps on the same rollouts; returns what was measured.

        Raises:
            TrainingError: if nothing is trainable, the loss is not finite, or a step left the adapter unchanged.
        """
        settings = self.recipe.grpo(role)
        rows = self._rows(settings, groups, advantages)
        if not rows:
            return StepMetrics({"updates": 0.0})
        batches = self._batches(rows, settings)
        references = self._reference_logprobs(role, batches, settings)
        totals: dict[str, float] = {}
        for _ in range(settings.num_iterations):
            for name, value in self._step(role, batches, references, settings).items():
                totals[name] = totals.get(name, 0.0) + value / settings.num_iterations
        return StepMetrics({**totals, "updates": float(settings.num_iterations)})

    def _rows(
        self, settings: GRPOSettings, groups: Sequence[RolloutGroup], advantages: Sequence[GroupAdvantages]
    ) -> list[Row]:
        """Rows that carry gradient; those left out still count in the weights of the others."""
        values = [a.values for a in advantages]
        rows = make_rows(
            groups, values, settings.loss_type, settings.max_completion_length, settings.mask_truncated_completions
        )
        if settings.skip_uninformative:
            rows = [row for row in rows if row.advantage != 0.0]
        return [row for row in rows if row.weight > 0.0]

    def _batches(self, rows: Sequence[Row], settings: GRPOSettings) -> list[RowBatch]:
        pad = int(self.model.tokenizer.pad_token_id)
        runs = micro_batches(rows, settings.micro_batch_tokens, self.layout)
        return [make_batch(run, pad, self.model.device, self.layout) for run in runs]

    @torch.no_grad()
    def _reference_logprobs(
        self, role: Role, batches: Sequence[RowBatch], settings: GRPOSettings
    ) -> list[Tensor] | None:
        if settings.beta == 0:
            return None
        with self.model.using(f"{role}_ref") as model:
            return [self.model.score(model, batch, settings.temperature, self.layout).logprobs for batch in batches]

    def _step(
        self, role: Role, batches: Sequence[RowBatch], references: list[Tensor] | None, settings: GRPOSettings
    ) -> dict[str, float]:
        optimizer = self.optimizers[role]
        totals = torch.zeros(4, dtype=torch.float64)
        ratio_error = 0.0
        with self.model.using(role, train=True) as model:
            parameters = [p for _, p in self.model.parameters(role)]
            if not any(p.requires_grad for p in parameters):
                raise TrainingError(f"No parameter of the adapter `{role}` is trainable.")
            optimizer.zero_grad(set_to_none=True)
            for i, batch in enumerate(batches):
                parts = grpo_loss(
                    self.model.score(model, batch, settings.temperature, self.layout),
                    batch.old_logprobs_RC,
                    None if references is None else references[i],
                    batch.advantages_R,
                    batch.mask_RC,
                    batch.weights_RC,
                    settings.epsilon,
                    settings.epsilon_high,
                    settings.beta,
                    settings.entropy_coef,
                )
                torch.autograd.backward(parts.loss)
                sums = (parts.loss.detach(), parts.kl_sum, parts.clipped_sum, parts.entropy_sum)
                totals += torch.stack([s.double().cpu() for s in sums])
                ratio_error = max(ratio_error, float(parts.ratio_error))
            norm = self._apply(role, parameters, optimizer, settings)
        tokens = sum(int(batch.mask_RC.sum()) for batch in batches)
        loss, kl, clipped, entropy = totals.tolist()
        return {
            "loss": loss,
            "kl": kl / tokens,
            "clip_ratio": clipped / tokens,
            "entropy": entropy / tokens,
            "grad_norm": norm,
            "log_ratio/max": ratio_error,
        }

    def _apply(self, role: Role, parameters: list[Any], optimizer: torch.optim.AdamW, settings: GRPOSettings) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm))
        if norm != norm or norm == float("inf"):
            raise TrainingError(
                f"The gradient of the adapter `{role}` is not finite. Lower {role}.learning_rate, or use "
                "model.dtype: float32."
            )
        largest = max(parameters, key=lambda p: 0.0 if p.grad is None else float(p.grad.abs().max()))
        before = largest.detach().clone()
        optimizer.step()
        if norm > 0 and torch.equal(before, largest.detach()):
            raise TrainingError(
                f"An update left the adapter `{role}` unchanged although its gradient has norm {norm:.3g}. "
                f"{role}.learning_rate ({settings.learning_rate:g}) is too small for its dtype ({before.dtype})."
            )
        return norm
