"""Plans a recipe before it runs: the memory of each stage, settings that make it fit a card, and the length of a cycle.

Input is a recipe; the shape of its base comes from the model's configuration, built without weights. Output is a
:class:`Plan` with bytes by stage, and steps and tokens by role. It needs no GPU and no weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import GRPOSettings, Recipe, SFTSettings
from rubric_arm_lite.training.length import Length, length_of
from rubric_arm_lite.training.shapes import Shape, shape_of
from rubric_arm_lite.types import Role

GIB = 2**30
CONTEXT = 0.67 * GIB
"""Bytes of a CUDA context and its libraries, which no tensor can use (H100; a small card has less)."""
PROCESS = 0.57 * GIB
"""Bytes of Python and its libraries on a CPU, TRL and matplotlib among them."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of one weight with double quantization: 4 bits, an 8-bit constant per block of 64, a float32 one per 256 blocks."""
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
SPARE = 0.02
"""Part of a card that is lost to blocks between tensors."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Bytes of a stage by what takes them, on the card that the plan is for and with an automatic micro-batch.

    Attributes:
        slack: bytes of them that a smaller micro-batch would not need.
    """

    name: str
    parts: dict[str, float]
    slack: float = 0.0

    @property
    def used(self) -> float:
        """Bytes that the stage takes."""
        return sum(self.parts.values())

    @property
    def least(self) -> float:
        """Bytes that the stage needs."""
        return self.used - self.slack


class Planner:
    """Plans the stages of one recipe on a base of one shape, for a card of so many bytes (None: none in particular)."""

    def __init__(self, recipe: Recipe, shape: Shape, card: float | None, cuda: bool) -> None:
        model = recipe.model
        self.recipe, self.shape, self.card, self.cuda = recipe, shape, card, cuda
        self.size = 2.0 if model.dtype in ("bfloat16", "float16") or (model.dtype == "auto" and cuda) else 4.0
        linear = NF4_BYTES if model.quantization == "nf4" else self.size
        self.weights = shape.linear_weights * linear + shape.other_weights * self.size
        self.lora = shape.lora_weights(model)
        self.context = CONTEXT if cuda else PROCESS

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order."""
        if self.recipe.model.checkpoints is not None:
            yield self._inference()
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

    def _activations(self, tokens: float, targets: float) -> float:
        """Bytes that so many tokens take in an update, ``targets`` of which have their logits in one chunk."""
        from rubric_arm_lite.models.logprobs import LOGIT_BYTES

        shape, wide = self.shape, self.size / 2
        chunk = float(LOGIT_BYTES["cuda" if self.cuda else "cpu"])
        logits = LOGITS_HELD * min(chunk, 4.0 * targets * shape.vocabulary)
        if not self.recipe.model.gradient_checkpointing:
            per_mlp, per_hidden = SAVED[self.size]
            return tokens * shape.layers * (per_mlp * shape.mlp + per_hidden * shape.hidden) + logits
        layer = tokens * (PER_MLP * shape.mlp + PER_HIDDEN * shape.hidden) * wide
        # Logits are gone before the first layer is computed again.
        return tokens * shape.layers * PER_HIDDEN_CHECKPOINTED * shape.hidden * wide + max(layer, logits)

    def _generation(self, rows: int, prompts: int, cached: int) -> dict[str, float]:
        """Bytes of generation: so many rows sample, prompt tokens are read at once, and tokens are in the cache."""
        return {
            "cache": self.shape.cache * self.size * cached,
            "activations": prompts * 6 * self.shape.mlp * self.size,
            "logits": 6.0 * 4 * rows * self.shape.vocabulary,
        }

    def _warmup(self) -> Stage:
        from rubric_arm_lite.training.warmup import LARGE_VOCABULARY

        warmup = self.recipe.warmup
        settings = max((warmup.judge, warmup.rubric), key=lambda sft: sft.per_device_train_batch_size)
        tokens = settings.per_device_train_batch_size * self.recipe.model.max_context
        chunk = CHUNK if self.shape.vocabulary >= LARGE_VOCABULARY else tokens
        activations = self._activations(tokens, chunk)
        return Stage("warm-up", {**self._fixed(2, (settings,), True), "activations": activations})

    def _inference(self) -> Stage:
        """Two checkpoints of the base's shape, and one judgment in progress."""
        context = self.recipe.model.max_context
        parts = {"weights": 2 * self.weights, "context": self.context}
        return Stage("inference", {**parts, **self._generation(1, context, context)})

    def _rollout(self, role: Role) -> Stage:
        settings, model = self.recipe.grpo(role), self.recipe.model
        prompt, rows = model.max_context - settings.max_completion_length, settings.num_generations
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), False)
        ours = model.backend == "transformers"
        rounded = ours and self.cuda and self.size == 2
        parts["rounded adapters"] = 2.0 * 2 * self.lora if rounded else 0.0
        prompts = 1 if ours and model.shared_prefix else rows
        cached = prompts * prompt + rows * settings.max_completion_length
        return Stage(f"{role} rollout", {**parts, **self._generation(rows, prompt if ours else rows * prompt, cached)})

    def _update(self, role: Role) -> Stage:
        from rubric_arm_lite.models.memory import CPU_AIM, SHARE_CUDA

        settings = self.recipe.grpo(role)
        length, group = settings.max_completion_length, settings.num_generations
        row_tokens = self.recipe.model.max_context
        group_tokens = row_tokens + (group - 1) * length
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), True)
        fixed = sum(parts.values())
        least = self._activations(row_tokens, length)
        whole = self._activations(group_tokens, group * length)
        if settings.micro_batch_tokens != "auto":
            tokens = max(row_tokens, min(settings.micro_batch_tokens, group_tokens))
            used = least = self._activations(tokens, length)
        elif self.cuda:
            room = whole if self.card is None else SHARE_CUDA * (self.card - fixed)
            used = max(least, min(room, settings.prompts_per_step * whole))
        else:
            least, used = whole, max(whole, min(float(CPU_AIM), settings.prompts_per_step * whole))
        return Stage(f"{role} update", {**parts, "activations": used}, used - least)


# --- plans ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe needs.

    Attributes:
        stages: in the order of a run.
        card: bytes of the card that the plan is for, None for none in particular.
        fits: None without a card.
        advice: changes that make it fit, each a ``--set`` value with the bytes it then needs.
        length: steps and tokens of a cycle.
    """

    stages: tuple[Stage, ...]
    card: float | None
    fits: bool | None
    advice: tuple[tuple[str, float], ...]
    length: Length = field(default_factory=Length)

    @property
    def least(self) -> float:
        """Bytes of the stage that needs most."""
        return max(stage.least for stage in self.stages)

    @property
    def peak(self) -> float:
        """Bytes used at the peak."""
        return max(stage.used for stage in self.stages)


def plan_for(recipe: Recipe, gpu_gb: float | None = None, prompt_length: int | None = None) -> Plan:
    """Plan for a card of ``gpu_gb`` GiB, else for this machine: its GPU, or its memory where it has none.

    The testbed's base, float32, is planned for a CPU unless a card is named.

    Raises:
        ConfigError: if the size of the card or prompt is out of range, or the base's shape cannot be found.
    """
    import torch

    if gpu_gb is not None and not 0 < gpu_gb < 10_000:
        raise ConfigError(f"--gpu-gb {gpu_gb:g}: give the size of a card in GiB, such as 24.")
    if prompt_length is not None:
        longest = max(recipe.judge.max_completion_length, recipe.rubric.max_completion_length)
        if not 0 < prompt_length <= recipe.model.max_context - longest:
            raise ConfigError(
                f"--prompt-length {prompt_length}: must be at least 1 and leave room for {longest} tokens in "
                f"model.max_context ({recipe.model.max_context}). Use a shorter one, or --set model.max_context."
            )
        recipe = _with_model(recipe, {"max_context": prompt_length + longest})
    shape = shape_of(recipe.model.base)
    card, cuda = None if gpu_gb is None else gpu_gb * GIB, True
    if card is None and torch.cuda.is_available():
        card = float(torch.cuda.get_device_properties(0).total_memory)
    elif card is None and recipe.model.base == "testbed":
        card, cuda = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), False
    return replace(make_plan(recipe, shape, card, cuda), length=length_of(recipe))


def make_plan(recipe: Recipe, shape: Shape, card: float | None, cuda: bool = True) -> Plan:
    """Plan a recipe's memory for a card of so many bytes (None: for none in particular), without its length.

    Args:
        cuda: whether the base is on a GPU, in half precision unless the recipe says float32; else float32 on a CPU.
    """
    plan = Plan(tuple(Planner(recipe, shape, card, cuda).stages()), card, None, ())
    if card is None:
        return plan
    fits = plan.least <= card * (1 - SPARE)
    return replace(plan, fits=fits, advice=() if fits else tuple(_advice(recipe, shape, card, cuda)))


def _advice(recipe: Recipe, shape: Shape, card: float, cuda: bool) -> list[tuple[str, float]]:
    """Single changes that make the recipe fit; where none does, all of them together if they do."""
    model = recipe.model
    longest = max(recipe.judge.max_completion_length, recipe.rubric.max_completion_length)
    changes: dict[str, dict[str, Any]] = {}
    if model.quantization == "none":
        changes["model.quantization=nf4"] = {"quantization": "nf4"}
    if not model.gradient_checkpointing:
        changes["model.gradient_checkpointing=true"] = {"gradient_checkpointing": True}
    if model.lora.r > 8:
        changes["model.lora.r=8"] = {"lora": model.lora.model_copy(update={"r": 8})}
    contexts = [context for context in (16384, 8192, 6144, 4096, 3072, 2048) if longest < context < model.max_context]
    changes |= {f"model.max_context={context}": {"max_context": context} for context in contexts}

    def needed(fields: dict[str, Any]) -> float:
        return make_plan(_with_model(recipe, fields), shape, None, cuda).least

    room = card * (1 - SPARE)
    fitting = [(text, least) for text, fields in changes.items() if (least := needed(fields)) <= room]
    if not fitting and changes:
        longer = {f"model.max_context={context}" for context in contexts[:-1]}
        together = [text for text in changes if text not in longer]
        least = needed({name: value for text in together for name, value in changes[text].items()})
        fitting = [(" ".join(together), least)] if least <= room else []
    return fitting


def _with_model(recipe: Recipe, fields: dict[str, Any]) -> Recipe:
    """The recipe with some fields of its model section replaced."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=fields)})
