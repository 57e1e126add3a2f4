"""Bytes that each stage of a recipe takes on a card, by what takes them.

Weights, adapters, optimizers and caches are counted; what a token takes on its way through an update is a formula whose
constants were fitted to measurements (benchmarks/gpu), since it depends on what kernels keep.

Where the recipe says ``micro_batch_tokens: auto``, an update takes what is free, up to a share: a stage has what it
needs at the least (one row of a group at once) and what it will use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rubric_arm_lite.config import GRPOSettings, Recipe, SFTSettings
from rubric_arm_lite.plan_shape import Shape
from rubric_arm_lite.types import Role

GIB = 2**30
CONTEXT = 0.67 * GIB
"""Bytes of a CUDA context and its libraries, which no tensor can use (H100; a small card has less)."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of one weight with double quantisation: 4 bits, an 8-bit constant per block of 64, a float32 one per 256 blocks."""
MOMENTS = {"adamw_torch": 8.0, "adamw_8bit": 2 + 8 / 256}
"""Bytes that an optimizer keeps of one weight: two float32 numbers, or 8 bits each and a constant per 256."""
PER_MLP, PER_HIDDEN, PER_HIDDEN_CHECKPOINTED = 8.0, 38.0, 2.0
"""Bytes of a token in the layer that is in backward, per MLP channel and per hidden channel in half precision; and of a
token in each checkpointed layer. Fitted to updates of Qwen3-8B and 14B."""
SAVED = {4.0: (16.0, 38.0), 2.0: (10.0, 45.0)}
"""Bytes that autograd keeps of a token and a layer without checkpointing, per MLP and per hidden channel, by the bytes
of a number. Half precision saves little: adapters stay in float32, and every layer's input is kept in both."""
CHUNK = 256
"""Tokens whose logits the warm-up has at once where the vocabulary is large."""
LOGITS_HELD = 6
"""Float32 copies of a chunk of logits held at once in backward."""
PROCESS = 0.57 * GIB
"""What Python and its libraries take on a CPU, TRL and matplotlib among them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Bytes of a stage by what takes them.

    Attributes:
        least: what it cannot do with less of.
        used: what it takes on the card that the plan is for, with an automatic micro-batch.
    """

    name: str
    parts: dict[str, float]
    least: float
    used: float


class Planner:
    """Plans the stages of one recipe on a base of one shape, for a card of so many bytes (None: none in particular)."""

    def __init__(self, recipe: Recipe, shape: Shape, card: float | None, cuda: bool) -> None:
        from rubric_arm_lite.losses import LOGIT_BYTES  # these import torch, which only a plan itself needs
        from rubric_arm_lite.memory import CPU_AIM, SHARE_CUDA
        from rubric_arm_lite.warmup import LARGE_VOCABULARY

        self.share, self.large_vocabulary = SHARE_CUDA, LARGE_VOCABULARY
        self.recipe, self.shape, self.card, self.cuda = recipe, shape, card, cuda
        self.chunk, self.together = float(LOGIT_BYTES["cuda" if cuda else "cpu"]), float(CPU_AIM)
        model = recipe.model
        self.size = 2.0 if model.dtype in ("bfloat16", "float16") or (model.dtype == "auto" and cuda) else 4.0
        linear = NF4_BYTES if model.quantization == "nf4" else self.size
        self.weights = shape.linear_weights * linear + shape.other_weights * self.size
        self.lora = shape.lora_weights(model)
        self.context = CONTEXT if cuda else PROCESS

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order."""
        if self.recipe.model.checkpoints is not None:
            yield self._asking()
            return
        if self.recipe.warmup.source is not None:
            yield self._warmup()
        roles: dict[str, tuple[Role, ...]] = {"judge_only": ("judge",), "rubric_only": ("rubric",)}
        for role in roles.get(self.recipe.schedule.order, ("judge", "rubric")):
            yield self._rollout(role)
            yield self._update(role)

    def _fixed(
        self, adapters: int, optimizers: Sequence[GRPOSettings | SFTSettings], gradients: bool
    ) -> dict[str, float]:
        return {
            "weights": self.weights,
            "adapters": 4.0 * self.lora * adapters,
            "optimizer": self.lora * sum(MOMENTS[settings.optim] for settings in optimizers),
            "gradients": 4.0 * self.lora if gradients else 0.0,
            "context": self.context,
        }

    def _activations(self, tokens: float, targets: int) -> float:
        """Bytes that so many tokens take in an update, ``targets`` of which have their logits in one chunk."""
        shape, wide = self.shape, self.size / 2
        logits = LOGITS_HELD * min(self.chunk, 4.0 * targets * shape.vocabulary)
        if not self.recipe.model.gradient_checkpointing:
            per_mlp, per_hidden = SAVED[self.size]
            return tokens * shape.layers * (per_mlp * shape.mlp + per_hidden * shape.hidden) + logits
        layer = tokens * (PER_MLP * shape.mlp + PER_HIDDEN * shape.hidden) * wide
        # Logits are gone before the first layer is computed again.
        return tokens * shape.layers * PER_HIDDEN_CHECKPOINTED * shape.hidden * wide + max(layer, logits)

    def _warmup(self) -> Stage:
        settings = max(
            (self.recipe.warmup.judge, self.recipe.warmup.rubric), key=lambda s: s.per_device_train_batch_size
        )
        tokens = settings.per_device_train_batch_size * self.recipe.model.max_context
        parts = self._fixed(2, (settings,), True)
        chunk = CHUNK if self.shape.vocabulary >= self.large_vocabulary else tokens
        parts["activations"] = self._activations(tokens, chunk)
        total = sum(parts.values())
        return Stage("warm-up", parts, total, total)

    def _asking(self) -> Stage:
        """Two checkpoints of the base's shape, and one judgement under way."""
        tokens = self.recipe.model.max_context
        parts = {
            "weights": 2 * self.weights,
            "cache": tokens * self.shape.cache_bytes(self.size),
            "activations": tokens * 6 * self.shape.mlp * self.size,
            "logits": 6.0 * 4 * self.shape.vocabulary,
            "context": self.context,
        }
        total = sum(parts.values())
        return Stage("asking", parts, total, total)

    def _prompt(self, settings: GRPOSettings) -> int:
        return self.recipe.model.max_context - settings.max_completion_length

    def _rollout(self, role: Role) -> Stage:
        settings = self.recipe.grpo(role)
        prompt, rows = self._prompt(settings), settings.num_generations
        cache = self.shape.cache_bytes(self.size)
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), False)
        ours = self.recipe.model.backend == "transformers"
        prompts = 1 if ours and self.recipe.model.shared_prefix else rows
        parts["rounded adapters"] = 2.0 * 2 * self.lora if ours and self.cuda and self.size == 2 else 0.0
        parts["cache"] = (prompts * prompt + rows * settings.max_completion_length) * cache
        parts["activations"] = (1 if ours else rows) * prompt * 6 * self.shape.mlp * self.size
        parts["logits"] = 6.0 * 4 * rows * self.shape.vocabulary
        total = sum(parts.values())
        return Stage(f"{role} rollout", parts, total, total)

    def _update(self, role: Role) -> Stage:
        settings = self.recipe.grpo(role)
        prompt, length = self._prompt(settings), settings.max_completion_length
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), True)
        fixed = sum(parts.values())
        row = self._activations(prompt + length, length)
        whole = prompt + settings.num_generations * length
        group = self._activations(whole, settings.num_generations * length)
        if settings.micro_batch_tokens != "auto":
            tokens = max(prompt + length, min(settings.micro_batch_tokens, whole))
            used = row = self._activations(tokens, length)
        else:
            everything = settings.prompts_per_step * group
            if not self.cuda:
                row, used = group, max(group, min(self.together, everything))
            else:
                room = group if self.card is None else self.share * (self.card - fixed)
                used = max(row, min(room, everything))
        parts["activations"] = used
        return Stage(f"{role} update", parts, fixed + row, fixed + used)
