"""A plan for people and for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from rubric_arm_lite.config import Recipe
from rubric_arm_lite.plan import GIB, Plan

PARTS = (
    "weights",
    "adapters",
    "rounded adapters",
    "optimizer",
    "gradients",
    "cache",
    "activations",
    "logits",
    "context",
)

SHOWN_FROM = 0.005 * GIB
"""A part below this would be shown as nothing."""


def as_json(recipe: Recipe, plan: Plan, tokens_per_second: float | None) -> dict[str, Any]:
    """The plan as one object, in bytes."""
    return {
        "recipe": recipe.name,
        "base": recipe.model.base,
        "card_bytes": plan.card,
        "fits": plan.fits,
        "least_bytes": plan.least,
        "peak_bytes": plan.peak,
        "stages": [
            {"stage": stage.name, "least_bytes": stage.least, "peak_bytes": stage.used, "parts": stage.parts}
            for stage in plan.stages
        ],
        "advice": [{"set": change, "least_bytes": needed} for change, needed in plan.advice],
        "tokens_per_cycle": plan.tokens,
        "hours_per_cycle": hours(plan, tokens_per_second),
    }


def hours(plan: Plan, tokens_per_second: float | None) -> float | None:
    """Hours that a cycle's writing takes at most, at so many tokens per second; updates come on top."""
    if tokens_per_second is None or not plan.tokens:
        return None
    return sum(plan.tokens.values()) / tokens_per_second / 3600


def show(recipe: Recipe, plan: Plan, tokens_per_second: float | None, console: Console) -> None:
    """Print the plan."""
    where = "a card of any size" if plan.card is None else f"{plan.card / GIB:.1f} GiB"
    console.print(f"{recipe.name}: {recipe.model.base}, {recipe.model.quantization} on {where}", highlight=False)
    table = Table("GiB", box=None, pad_edge=False)
    for stage in plan.stages:
        table.add_column(stage.name.replace(" ", "\n"), justify="right", no_wrap=True)
    for part in PARTS:
        sizes = [stage.parts.get(part, 0.0) for stage in plan.stages]
        if max(sizes) >= SHOWN_FROM:
            table.add_row(part, *map(_gib, sizes))
    table.add_row("least", *(_gib(stage.least) for stage in plan.stages), style="bold")
    table.add_row("peak", *(_gib(stage.used) for stage in plan.stages), style="bold")
    console.print(table)
    console.print(
        f"Least {_gib(plan.least)} GiB, with prompts of full length and one row of a group at once; automatic "
        f"micro-batches will use {_gib(plan.peak)} GiB.",
        highlight=False,
    )
    if plan.fits is not None:
        console.print("It fits." if plan.fits else f"It does not fit {where}.", highlight=False)
    for change, needed in plan.advice:
        console.print(f"  --set {change.replace(' ', ' --set ')}: {_gib(needed)} GiB at the least", highlight=False)
    if plan.fits is False and not plan.advice:
        console.print("  No single setting makes it fit: use a smaller base.", highlight=False)
    for role, tokens in plan.tokens.items():
        console.print(f"A {role} phase writes at most {tokens:,} tokens.", highlight=False)
    needed_hours = hours(plan, tokens_per_second)
    if needed_hours is not None:
        console.print(
            f"At {tokens_per_second:g} tokens/s a cycle's writing takes at most {needed_hours:.1f} hours; updates come "
            "on top.",
            highlight=False,
        )


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"
