"""The update of ONE adapter from scored rollouts: group-relative, clipped, with KL to its warm-up copy.

Each adapter has one optimizer for the whole run, so its moments survive the other adapter's phases.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rubric_arm_lite.errors import CheckpointError, TrainingError
from rubric_arm_lite.models import ALONE, AdapterModel, Processes, TokenBudget
from rubric_arm_lite.models.lora import make_optimizer, put_state, state_of
from rubric_arm_lite.models.memory import is_out_of_memory, token_budget
from rubric_arm_lite.models.shared_prefix.batching import (
    Row,
    RowBatch,
    count_tokens,
    make_batch,
    make_rows,
    micro_batches,
)
from rubric_arm_lite.recipe import GRPOSettings
from rubric_arm_lite.training.advantages import GroupAdvantages
from rubric_arm_lite.training.losses import grpo_loss
from rubric_arm_lite.training.schedule import GRPORecipe
from rubric_arm_lite.types import Role, RolloutGroup, StepMetrics

HALF_SCALE = 2.0**16
"""Factor on the loss with a float16 base, whose gradients would underflow in the backward pass; halved on overflow."""


class Learner:
    """Updates the adapters of a :class:`AdapterModel`."""

    def __init__(self, model: AdapterModel, recipe: GRPORecipe, processes: Processes = ALONE) -> None:
        self.model = model
        self.processes = processes
        self.recipe = recipe
        self.layout = model.layout
        self.budgets: dict[Role, TokenBudget] = {}
        self.loss_scale = HALF_SCALE if model.model.dtype == torch.float16 else 1.0
        self.optimizers: dict[Role, torch.optim.Optimizer] = {role: self._optimizer(role) for role in recipe.roles}

    def _optimizer(self, role: Role) -> torch.optim.Optimizer:
        parameters = [p for _, p in self.model.parameters(role)]
        if not parameters:
            raise TrainingError(f"The adapter `{role}` has no parameters. Check model.lora.target_modules.")
        return make_optimizer(self.recipe.grpo(role), parameters)

    def save_optimizers(self, file: Path) -> None:
        """Write the moments and step counts of both optimizers, and the token budgets, as safetensors."""
        state = {f"{role}|budget": torch.tensor([budget.most, budget.aim]) for role, budget in self.budgets.items()}
        for role, optimizer in self.optimizers.items():
            for name, parameter in self.model.parameters(role):
                state.update({f"{role}|{name}|{key}": v for key, v in state_of(optimizer, parameter).items()})
        save_file(state, file)

    def load_optimizers(self, file: Path) -> None:
        """Restore what :meth:`save_optimizers` wrote.

        Raises:
            CheckpointError: if the file cannot be read, or another version wrote it.
        """
        try:
            state = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}. Start anew with --if-exists overwrite.") from error
        for role, optimizer in self.optimizers.items():
            if f"{role}|budget" in state:
                self.budgets[role] = _read_budget(state[f"{role}|budget"], file)
            for name, parameter in self.model.parameters(role):
                start = f"{role}|{name}|"
                moments = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
                if moments:
                    put_state(optimizer, parameter, moments)

    def update(self, role: Role, groups: Sequence[RolloutGroup], advantages: Sequence[GroupAdvantages]) -> StepMetrics:
        """Take ``num_iterations`` gradient steps on the same rollouts; returns their mean metrics.

        Raises:
            TrainingError: if nothing is trainable, the loss is not finite, or a step left the adapter unchanged.
        """
        settings = self.recipe.grpo(role)
        all_rows = self._rows(settings, groups, advantages)
        if not all_rows:
            return StepMetrics({"updates": 0.0})
        rows = self._share(all_rows)
        totals: dict[str, float] = {}
        batches: list[RowBatch] = []
        references: list[Tensor] | None = None
        done, micro_batch_total = 0, 0
        while done < settings.num_iterations:
            sums = None
            try:
                if not batches and rows:
                    batches = self._batches(role, rows, settings)
                    references = self._reference_logprobs(role, batches, settings)
                sums = self._accumulate(role, batches, references, settings)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if sums is None:  # outside the handler, where the error no longer keeps the tensors of its frames alive
                batches, references = [], None
                self._halve_budget(role, rows)
                continue
            sums = self._combine(role, sums)
            if not self._unscale(role):
                continue
            micro_batch_total = int(sums[5])
            means = {**_means(sums), "grad_norm": self._apply(role, settings)}
            for name, value in means.items():
                totals[name] = totals.get(name, 0.0) + value / settings.num_iterations
            done += 1
        counts = {"updates": float(settings.num_iterations), "micro_batches": float(micro_batch_total)}
        return StepMetrics({**totals, **counts})

    def _share(self, rows: list[Row]) -> list[Row]:
        """This process's rows: whole groups, with about as many tokens as each other process has."""
        if self.processes.world == 1:
            return rows
        groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.prompt_ids)]
        indices = self.processes.own_indices([count_tokens(group, self.layout) for group in groups])
        return [row for i in indices for row in groups[i]]

    def _combine(self, role: Role, sums: Tensor) -> Tensor:
        """Add up the gradients and the sums of :meth:`_accumulate` over all processes."""
        if self.processes.world == 1:
            return sums
        parameters = [p for _, p in self.model.parameters(role)]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        self.processes.sum_in_place(flat)
        for parameter, summed in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = summed.view_as(parameter).clone()
        gathered = torch.stack(self.processes.gather(sums))
        return torch.cat([gathered[:, :-1].sum(0), gathered[:, -1:].max(0).values])

    def _budget(self, role: Role, rows: Sequence[Row], settings: GRPOSettings) -> TokenBudget:
        """Tokens per micro-batch: the recipe's, or measured at the role's first update."""
        if role not in self.budgets:
            tokens = settings.micro_batch_tokens
            if tokens == "auto":
                longest = max(len(row.prompt_ids) + len(row.token_ids) for row in rows)
                probe = self._probe(role, rows, settings)
                self.budgets[role] = token_budget(self.model.model, self.model.device, probe, longest)
            else:
                self.budgets[role] = TokenBudget.flat(tokens)
        return self.budgets[role]

    def _probe(self, role: Role, rows: Sequence[Row], settings: GRPOSettings) -> Callable[[int, bool], int]:
        def step(tokens: int, backward: bool) -> int:
            run = next(iter(micro_batches(rows, TokenBudget.flat(tokens), self.layout)))
            batch = make_batch(run, int(self.model.tokenizer.pad_token_id), self.model.device, self.layout)
            # Dropout must not consume the random numbers of the update.
            with torch.random.fork_rng(), self.model.using(role, train=True) as model:
                # Only the log-probs: entropies would keep their recomputed activations alive (a few copies of the
                # logits), which an update does not.
                logprobs = self.model.score(model, batch, settings.temperature, self.layout).logprobs
                if backward:
                    torch.autograd.backward((logprobs * batch.weights_RC).sum())
            self.optimizers[role].zero_grad(set_to_none=True)
            return count_tokens(run, self.layout)

        return step

    def _halve_budget(self, role: Role, rows: Sequence[Row]) -> None:
        """Halve the tokens per micro-batch.

        Raises:
            TrainingError: if a micro-batch is a single row already.
        """
        self.optimizers[role].zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        longest = max(len(row.prompt_ids) + len(row.token_ids) for row in rows)
        # Halving a budget far above the largest micro-batch would change nothing, so start from that batch.
        present = self.budgets.get(role, TokenBudget.flat(2 * longest))
        runs = micro_batches(rows, present, self.layout)
        budget = min(present.most, max(count_tokens(run, self.layout) for run in runs))
        if budget <= longest:
            raise TrainingError(
                f"Memory ran out in an update of `{role}` with a single row of {longest} tokens. Set "
                "model.gradient_checkpointing: true, lower model.max_context or "
                f"{role}.max_completion_length, or use a smaller base or model.quantization: nf4."
            )
        limit = max(longest, budget // 2)
        self.budgets[role] = TokenBudget(limit, min(limit, present.aim))
        warnings.warn(
            f"Memory ran out in an update of `{role}`; it is repeated with {self.budgets[role].most} tokens at once "
            f"instead of {budget}. The result is the same.",
            stacklevel=2,
        )

    def _rows(
        self, settings: GRPOSettings, groups: Sequence[RolloutGroup], advantages: Sequence[GroupAdvantages]
    ) -> list[Row]:
        """Rows that have a gradient; skipped ones still count in the weights of the others."""
        values = [a.values for a in advantages]
        rows = make_rows(
            groups, values, settings.loss_type, settings.max_completion_length, settings.mask_truncated_completions
        )
        if settings.skip_uninformative:
            rows = [row for row in rows if row.advantage != 0.0]
        return [row for row in rows if row.weight > 0.0]

    def _batches(self, role: Role, rows: Sequence[Row], settings: GRPOSettings) -> list[RowBatch]:
        pad = int(self.model.tokenizer.pad_token_id)
        runs = micro_batches(rows, self._budget(role, rows, settings), self.layout)
        return [make_batch(run, pad, self.model.device, self.layout) for run in runs]

    @torch.no_grad()
    def _reference_logprobs(
        self, role: Role, batches: Sequence[RowBatch], settings: GRPOSettings
    ) -> list[Tensor] | None:
        if settings.beta == 0:
            return None
        with self.model.using(f"{role}_ref") as model:
            return [self.model.score(model, batch, settings.temperature, self.layout).logprobs for batch in batches]

    def _accumulate(
        self, role: Role, batches: Sequence[RowBatch], references: list[Tensor] | None, settings: GRPOSettings
    ) -> Tensor:
        """Run forward and backward over every micro-batch: leaves the gradient in place and returns sums.

        In this order: loss, KL, clipped tokens, entropy, tokens, micro-batches (sums), largest log-ratio (a maximum).
        """
        sums = torch.zeros(4, dtype=torch.float64)
        ratio_error = 0.0
        with self.model.using(role, train=True) as model:
            if not any(p.requires_grad for _, p in self.model.parameters(role)):
                raise TrainingError(f"No parameter of the adapter `{role}` is trainable.")
            self.optimizers[role].zero_grad(set_to_none=True)
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
                torch.autograd.backward(parts.loss * self.loss_scale)
                addends = (parts.loss.detach(), parts.kl_sum, parts.clipped_sum, parts.entropy_sum)
                sums += torch.stack([addend.double().cpu() for addend in addends])
                ratio_error = max(ratio_error, float(parts.ratio_error))
        tokens = sum(int(batch.mask_RC.sum()) for batch in batches)
        counts = torch.tensor([tokens, len(batches), ratio_error], dtype=torch.float64)
        return torch.cat([sums, counts])

    def _unscale(self, role: Role) -> bool:
        """Divide the gradient by :attr:`loss_scale`; if it has overflowed, halve the scale and return False."""
        if self.loss_scale == 1.0:
            return True
        gradients = [p.grad for _, p in self.model.parameters(role) if p.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self.loss_scale /= 2
            return False
        for gradient in gradients:
            gradient /= self.loss_scale
        return True

    def _apply(self, role: Role, settings: GRPOSettings) -> float:
        """Clip the gradient and step; returns its norm before clipping."""
        parameters = [p for _, p in self.model.parameters(role)]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm))
        if norm != norm or norm == float("inf"):
            raise TrainingError(
                f"The gradient of the adapter `{role}` is not finite. Lower {role}.learning_rate, or use "
                "model.dtype: float32."
            )
        largest = max(parameters, key=lambda p: 0.0 if p.grad is None else float(p.grad.abs().max()))
        before = largest.detach().clone()
        self.optimizers[role].step()
        self.model.changed(role)
        if norm > 0 and torch.equal(before, largest.detach()):
            raise TrainingError(
                f"An update left the adapter `{role}` unchanged although its gradient has norm {norm:.3g}. "
                f"{role}.learning_rate ({settings.learning_rate:g}) is too small for its dtype ({before.dtype})."
            )
        return norm


def _means(sums: Tensor) -> dict[str, float]:
    """The metrics of an update, per token, from the sums of :meth:`Learner._accumulate`."""
    loss, kl, clipped, entropy, tokens, _, ratio_error = sums.tolist()
    return {
        "loss": loss,
        "kl": kl / tokens,
        "clip_ratio": clipped / tokens,
        "entropy": entropy / tokens,
        "log_ratio/max": ratio_error,
    }


def _read_budget(saved: Tensor, file: Path) -> TokenBudget:
    if saved.shape != (2,):
        raise CheckpointError(
            f"{file}: a token budget of shape {tuple(saved.shape)} instead of (2,), so another version wrote it. "
            "Resume with that version, or start anew with --if-exists overwrite."
        )
    most, aim = saved.tolist()
    return TokenBudget(most, aim)
