"""The update of ONE adapter from scored rollouts: group-relative, clipped, with KL to its warm-up copy.

Each adapter has one optimizer for the whole run, so its moments survive the other adapter's phases.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from functools import partial
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
from rubric_arm_lite.recipe import GRPOSettings, derive_seed
from rubric_arm_lite.training.advantages import GroupAdvantages
from rubric_arm_lite.training.losses import grpo_loss
from rubric_arm_lite.training.schedule import GRPORecipe
from rubric_arm_lite.types import Role, RolloutGroup, StepMetrics

FLOAT16_LOSS_SCALE = 2.0**16
"""Factor on the loss with a float16 base, whose gradients would underflow in the backward pass; halved on overflow."""


def entropy_weight(rows: Sequence[Row], settings: GRPOSettings) -> float:
    """The weight of the entropy bonus in one update: ``entropy_coef``, less the nearer the rows are to their target.

    The rows' entropy is estimated by their own log-probabilities, the same in every process and after every resume.
    """
    if settings.entropy_target is None:
        return settings.entropy_coef
    entropy = -sum(sum(row.logprobs) for row in rows) / sum(len(row.logprobs) for row in rows)
    return settings.entropy_coef * max(0.0, 1.0 - entropy / settings.entropy_target)


class Learner:
    """Updates the adapters of a :class:`AdapterModel`."""

    def __init__(self, model: AdapterModel, recipe: GRPORecipe, processes: Processes = ALONE) -> None:
        self.model = model
        self.processes = processes
        self.recipe = recipe
        self.layout = model.layout
        self.rates: dict[Role, float] = {}
        """Factors on the learning rates of roles whose phase went back to an earlier checkpoint (:mod:`.tripwire`)."""
        self.budgets: dict[Role, TokenBudget] = {}
        self.loss_scale = FLOAT16_LOSS_SCALE if model.model.dtype == torch.float16 else 1.0
        self.optimizers: dict[Role, torch.optim.Optimizer] = {}
        for role in recipe.roles:
            if not (parameters := self._parameters(role)):
                raise TrainingError(f"The adapter `{role}` has no parameters. Check model.lora.target_modules.")
            self.optimizers[role] = make_optimizer(recipe.grpo(role), parameters)

    def _parameters(self, role: Role) -> list[torch.nn.Parameter]:
        return [parameter for _, parameter in self.model.parameters(role)]

    def save_optimizers(self, file: Path) -> None:
        """Write the moments and step counts of all optimizers, the token budgets and the loss scale, as safetensors."""
        state = {f"{role}|budget": torch.tensor([budget.most, budget.aim]) for role, budget in self.budgets.items()}
        state["loss_scale"] = torch.tensor(self.loss_scale)
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
        self.loss_scale = float(state.get("loss_scale", self.loss_scale))
        for role, optimizer in self.optimizers.items():
            optimizer.state.clear()
            if (budget := state.get(f"{role}|budget")) is not None:
                if budget.shape != (2,):
                    raise CheckpointError(
                        f"{file}: a token budget of shape {tuple(budget.shape)} instead of (2,), so another version "
                        "wrote it. Resume with that version, or start anew with --if-exists overwrite."
                    )
                self.budgets[role] = TokenBudget(*budget.tolist())
            for name, parameter in self.model.parameters(role):
                start = f"{role}|{name}|"
                moments = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
                if moments:
                    put_state(optimizer, parameter, moments)

    def update(
        self,
        role: Role,
        groups: Sequence[RolloutGroup],
        advantages: Sequence[GroupAdvantages],
        seed: int = 0,
        rate: float = 1.0,
    ) -> StepMetrics:
        """Take ``num_iterations`` gradient steps on the same rollouts; returns their mean metrics.

        Args:
            seed: of the adapter's dropout.
            rate: factor on the learning rate, beside :attr:`rates`.

        Raises:
            TrainingError: if nothing is trainable, the loss is not finite, or a step left the adapter unchanged.
        """
        settings = self.recipe.grpo(role)
        rows = self._rows(role, groups, advantages)
        if not rows:
            return StepMetrics({"updates": 0.0})
        for options in self.optimizers[role].param_groups:
            options["lr"] = settings.learning_rate * rate * self.rates.get(role, 1.0)
        entropy_coef = entropy_weight(rows, settings)
        if self.processes.world > 1:  # whole groups, with about as many tokens as each other process has
            by_prompt = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.prompt_ids)]
            own = self.processes.own_indices([count_tokens(group, self.layout) for group in by_prompt])
            rows = [row for i in own for row in by_prompt[i]]
        values: dict[str, float] = {}
        batches: list[tuple[RowBatch, Tensor | None]] = []
        done, micro_batch_total = 0, 0
        while done < settings.num_iterations:
            sums = None
            try:
                batches = batches or self._batches(role, rows)
                torch.manual_seed(derive_seed(seed, "dropout", done, self.processes.rank))
                sums = self._accumulate(role, batches, entropy_coef)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if sums is None:  # outside the handler, where the error no longer keeps the tensors of its frames alive
                batches = []
                self._halve_budget(role, rows)
                continue
            sums = self._combine(role, sums)
            if not self._unscale(role):
                continue
            loss, kl, clipped, entropy, tokens, micro_batch_total, max_log_ratio = sums.tolist()
            means = {"loss": loss, "kl": kl / tokens, "clip_ratio": clipped / tokens, "entropy": entropy / tokens}
            for name, value in {**means, "log_ratio/max": max_log_ratio, "grad_norm": self._step(role)}.items():
                values[name] = values.get(name, 0.0) + value / settings.num_iterations
            done += 1
        return StepMetrics({**values, "updates": float(settings.num_iterations), "micro_batches": micro_batch_total})

    def _combine(self, role: Role, sums: Tensor) -> Tensor:
        """Add up the gradients and the sums of :meth:`_accumulate` over all processes."""
        if self.processes.world == 1:
            return sums
        parameters = self._parameters(role)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        self.processes.sum_in_place(flat)
        for parameter, summed in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            parameter.grad = summed.view_as(parameter).clone()
        gathered = torch.stack(self.processes.gather(sums))
        return torch.cat([gathered[:, :-1].sum(0), gathered[:, -1:].max(0).values])

    def _batches(self, role: Role, rows: Sequence[Row]) -> list[tuple[RowBatch, Tensor | None]]:
        """Micro-batches, each with its reference log-probabilities (None if beta is 0).

        Their size is the recipe's ``micro_batch_tokens``, or what fitted into memory at the first update.
        """
        settings, model = self.recipe.grpo(role), self.model
        if not rows:
            return []
        if role not in self.budgets:
            tokens = settings.micro_batch_tokens
            if tokens == "auto":
                longest = max(len(row.prompt_ids) + len(row.token_ids) for row in rows)
                self.budgets[role] = token_budget(model.model, model.device, partial(self._probe, role, rows), longest)
            else:
                self.budgets[role] = TokenBudget.flat(tokens)
        batches = [self._batch(run) for run in micro_batches(rows, self.budgets[role], self.layout)]
        if settings.beta == 0:
            return [(batch, None) for batch in batches]
        with torch.no_grad(), model.using(f"{role}_ref") as active:
            return [(b, model.score(active, b, settings.temperature, self.layout).logprobs) for b in batches]

    def _batch(self, rows: Sequence[Row]) -> RowBatch:
        return make_batch(rows, int(self.model.tokenizer.pad_token_id), self.model.device, self.layout)

    def _probe(self, role: Role, rows: Sequence[Row], tokens: int, backward: bool) -> int:
        """Score about ``tokens`` tokens as an update does, with its backward pass if asked; returns their number."""
        run = next(iter(micro_batches(rows, TokenBudget.flat(tokens), self.layout)))
        batch = self._batch(run)
        with self.model.using(role, train=True) as model:
            # Only the log-probs: entropies would keep their recomputed activations alive (a few copies of the logits),
            # which an update does not.
            logprobs = self.model.score(model, batch, self.recipe.grpo(role).temperature, self.layout).logprobs
            if backward:
                torch.autograd.backward((logprobs * batch.weights_RC).sum())
        self.optimizers[role].zero_grad(set_to_none=True)
        return count_tokens(run, self.layout)

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

    def _rows(self, role: Role, groups: Sequence[RolloutGroup], advantages: Sequence[GroupAdvantages]) -> list[Row]:
        """Rows that have a gradient; skipped ones still count in the weights of the others."""
        settings = self.recipe.grpo(role)
        values = [a.values for a in advantages]
        rows = make_rows(
            groups, values, settings.loss_type, settings.max_completion_length, settings.mask_truncated_completions
        )
        if settings.skip_uninformative or (settings.beta == 0 and settings.entropy_coef == 0):
            rows = [row for row in rows if row.advantage != 0.0]
        return [row for row in rows if row.weight > 0.0]

    def _accumulate(self, role: Role, batches: Sequence[tuple[RowBatch, Tensor | None]], entropy_coef: float) -> Tensor:
        """Run forward and backward over every micro-batch: leaves the gradient in place and returns sums.

        In this order: loss, KL, clipped tokens, entropy, tokens, micro-batches (sums), largest log-ratio (a maximum).
        """
        settings = self.recipe.grpo(role)
        sums = torch.zeros(4, dtype=torch.float64)
        max_log_ratio = 0.0
        with self.model.using(role, train=True) as model:
            if not any(p.requires_grad for p in self._parameters(role)):
                raise TrainingError(f"No parameter of the adapter `{role}` is trainable.")
            self.optimizers[role].zero_grad(set_to_none=True)
            for batch, reference_RC in batches:
                parts = grpo_loss(
                    self.model.score(model, batch, settings.temperature, self.layout),
                    batch.old_logprobs_RC,
                    reference_RC,
                    batch.advantages_R,
                    batch.mask_RC,
                    batch.weights_RC,
                    batch.entropy_factors_R,
                    settings.epsilon,
                    settings.epsilon_high,
                    settings.beta,
                    entropy_coef,
                )
                torch.autograd.backward(parts.loss * self.loss_scale)
                addends = (parts.loss.detach(), parts.kl_sum, parts.clipped_sum, parts.entropy_sum)
                sums += torch.stack([addend.double().cpu() for addend in addends])
                max_log_ratio = max(max_log_ratio, float(parts.max_log_ratio))
        tokens = sum(int(batch.mask_RC.sum()) for batch, _ in batches)
        counts = torch.tensor([tokens, len(batches), max_log_ratio], dtype=torch.float64)
        return torch.cat([sums, counts])

    def _unscale(self, role: Role) -> bool:
        """Divide the gradient by :attr:`loss_scale`; if it has overflowed, halve the scale and return False."""
        if self.loss_scale == 1.0:
            return True
        gradients = [p.grad for p in self._parameters(role) if p.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self.loss_scale /= 2
            return False
        for gradient in gradients:
            gradient /= self.loss_scale
        return True

    def _step(self, role: Role) -> float:
        """Clip the gradient and step; returns its norm before clipping."""
        settings, parameters = self.recipe.grpo(role), self._parameters(role)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm))
        if norm != norm or norm == float("inf"):
            raise TrainingError(
                f"The gradient of the adapter `{role}` is not finite. Lower {role}.learning_rate, or use "
                "model.dtype: float32."
            )
        largest = max(parameters, key=lambda p: 0.0 if p.grad is None else float(p.grad.abs().max()))
        before = largest.detach().clone()
        self.optimizers[role].step()
        self.model.weights_changed(role)
        if norm > 0 and torch.equal(before, largest.detach()):
            raise TrainingError(
                f"An update left the adapter `{role}` unchanged although its gradient has norm {norm:.3g}. "
                f"{role}.learning_rate ({settings.learning_rate:g}) is too small for its dtype ({before.dtype})."
            )
        return norm
