"""What a recipe needs: memory of each stage on a card, the field to change where it does not fit.

Enter: a recipe and the shape of its base. Leave: a table of bytes and the length of a cycle. Nothing is loaded and no
GPU is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rubric_arm_lite.config import Recipe
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.plan_length import Length, length_of
from rubric_arm_lite.plan_memory import GIB, Planner, Stage
from rubric_arm_lite.plan_shape import Shape, shape_of

SPARE = 0.02
"""Part of a card that is lost to blocks between tensors."""


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
        """Bytes that will be used at the peak."""
        return max(stage.used for stage in self.stages)


def plan_for(recipe: Recipe, gpu_gb: float | None = None, prompt_length: int | None = None) -> Plan:
    """Plan for a card of ``gpu_gb`` GiB, else for this machine: its GPU, or its memory where it has none.

    The testbed's base, float32, is planned for a CPU unless a card is named.

    Raises:
        ConfigError: if the card or the prompt is no size, or the base's shape cannot be found.
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
        model = recipe.model.model_copy(update={"max_context": prompt_length + longest})
        recipe = recipe.model_copy(update={"model": model})
    shape = shape_of(recipe.model.base)
    card, cuda = None if gpu_gb is None else gpu_gb * GIB, True
    if card is None and torch.cuda.is_available():
        card = float(torch.cuda.get_device_properties(0).total_memory)
    elif card is None and recipe.model.base == "testbed":
        card, cuda = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), False
    return replace(make_plan(recipe, shape, card, cuda), length=length_of(recipe))


def make_plan(recipe: Recipe, shape: Shape, card: float | None, cuda: bool = True) -> Plan:
    """Plan a recipe's memory for a card of so many bytes (None: for none in particular); its length is left open.

    Args:
        cuda: whether the base is on a GPU, in half precision unless the recipe says float32; else float32 on a CPU.
    """
    stages = tuple(Planner(recipe, shape, card, cuda).stages())
    plan = Plan(stages, card, None, ())
    if card is None:
        return plan
    fits = plan.least <= card * (1 - SPARE)
    advice = () if fits else tuple(_advice(recipe, shape, card, cuda))
    return replace(plan, fits=fits, advice=advice)


def _advice(recipe: Recipe, shape: Shape, card: float, cuda: bool) -> Iterator[tuple[str, float]]:
    """Single changes that make the recipe fit; where none does, all of them together if they do."""
    model = recipe.model
    changes: list[tuple[str, Any]] = []
    if model.quantization == "none":
        changes.append(("quantization=nf4", {"quantization": "nf4"}))
    if not model.gradient_checkpointing:
        changes.append(("gradient_checkpointing=true", {"gradient_checkpointing": True}))
    if model.lora.r > 8:
        changes.append(("lora.r=8", {"lora": model.lora.model_copy(update={"r": 8})}))
    longest = max(recipe.judge.max_completion_length, recipe.rubric.max_completion_length)
    for context in (16384, 8192, 6144, 4096, 3072, 2048):
        if longest < context < model.max_context:
            changes.append((f"max_context={context}", {"max_context": context}))

    def needed(fields: dict[str, Any]) -> float:
        changed = recipe.model_copy(update={"model": model.model_copy(update=fields)})
        return max(stage.least for stage in Planner(changed, shape, card, cuda).stages())

    fitting = [(f"model.{text}", least) for text, fields in changes if (least := needed(fields)) <= card * (1 - SPARE)]
    if fitting or not changes:
        yield from fitting
        return
    together = {text.split("=")[0]: (text, fields) for text, fields in changes}  # of the contexts the shortest
    least = needed({name: value for _, fields in together.values() for name, value in fields.items()})
    if least <= card * (1 - SPARE):
        yield " ".join(f"model.{text}" for text, _ in together.values()), least
