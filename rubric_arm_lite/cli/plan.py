"""Prints a plan, and what this machine can run, as tables or JSON."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from importlib import util
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

from rubric_arm_lite.errors import BackendError, ConfigError
from rubric_arm_lite.models import check_before_loading
from rubric_arm_lite.recipe import Recipe, load_recipe, shipped_recipes
from rubric_arm_lite.report.live import duration
from rubric_arm_lite.runs import package_versions
from rubric_arm_lite.training.plan import GIB, Plan, make_plan
from rubric_arm_lite.training.shapes import shape_of

if TYPE_CHECKING:
    from rubric_arm_lite.training import MeasuredTime

HELD = ("weights", "adapters", "rounded adapters", "optimizer", "gradients")
SHOWN_FROM = 0.005 * GIB
"""Smaller parts would be shown as 0.00."""
_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth")


def as_json(
    recipe: Recipe, plan: Plan, tokens_per_second: float | None, measured: MeasuredTime | None = None
) -> dict[str, Any]:
    """The plan as one object, in bytes and seconds.

    Raises:
        ConfigError: if the speed is not positive and finite.
    """
    values = asdict(plan)
    length = values.pop("length")
    values["advice"] = [{"set": change, "least_bytes": needed} for change, needed in plan.advice]
    cycle, run = hours(plan, recipe.schedule.cycles, tokens_per_second) or (None, None)
    names = {"recipe": recipe.name, "base": recipe.model.base}
    measurement = None if measured is None else {**asdict(measured), "total_seconds": sum(measured.seconds.values())}
    return {**names, **values, **length, "hours_per_cycle": cycle, "hours": run, "measured": measurement}


def hours(plan: Plan, cycles: int, tokens_per_second: float | None) -> tuple[float, float] | None:
    """Most hours that the generation of a cycle, and of a run with its evaluations, takes at this speed.

    None without a speed, or where the tokens of a trained role are unknown. Updates come on top.

    Raises:
        ConfigError: if the speed is not positive and finite.
    """
    if tokens_per_second is None:
        return None
    if not 0 < tokens_per_second < math.inf:
        raise ConfigError(f"--tokens-per-second {tokens_per_second:g}: give a speed above 0, such as 300.")
    if not plan.length.tokens_per_cycle or plan.length.length_unknown:
        return None
    cycle = sum(plan.length.tokens_per_cycle.values()) / tokens_per_second / 3600
    return cycle, cycles * cycle + sum(plan.evaluation_tokens.values()) / tokens_per_second / 3600


def show(
    recipe: Recipe,
    plan: Plan,
    tokens_per_second: float | None,
    console: Console,
    measured: MeasuredTime | None = None,
) -> None:
    """Print the plan: bytes by stage, whether it fits, what to change if not, and the length of a cycle and run.

    Raises:
        ConfigError: if the speed is not positive and finite.
    """
    length, cycles = plan.length, recipe.schedule.cycles
    needed_hours = hours(plan, cycles, tokens_per_second)
    card = "a card of any size" if plan.card_bytes is None else f"{plan.card_bytes / GIB:.1f} GiB"
    weights = "unquantized" if recipe.model.quantization == "none" else recipe.model.quantization
    console.print(f"{recipe.name}: {recipe.model.base}, {weights} on {card}")
    table = Table("GiB", box=None, pad_edge=False)
    for stage in plan.stages:
        table.add_column(stage.stage.replace(" ", "\n"), justify="right", no_wrap=True)
    for part in (*HELD, "cache", "activations", "logits", "context"):
        sizes = [stage.parts.get(part, 0.0) for stage in plan.stages]
        if max(sizes) >= SHOWN_FROM:
            table.add_row(part, *map(_gib, sizes))
    table.add_row("least", *(_gib(stage.least_bytes) for stage in plan.stages), style="bold")
    table.add_row("peak", *(_gib(stage.peak_bytes) for stage in plan.stages), style="bold")
    console.print(table)
    lines = [
        f"Least {_gib(plan.least_bytes)} GiB, with prompts of full length and one row of a group at once; automatic "
        f"micro-batches use {_gib(plan.peak_bytes)} GiB."
    ]
    if plan.fits is not None:
        lines.append("It fits." if plan.fits else f"It does not fit {card}.")
    for change, needed in plan.advice:
        lines.append(f"  --set {change.replace(' ', ' --set ')}: {_gib(needed)} GiB at the least")
    if plan.fits is False and not plan.advice:
        lines.append("  No setting makes it fit: use a smaller base.")
    if length.train_prompts is not None:
        lines.append(f"{length.train_prompts:,} training prompts, once through in {_times(cycles, 'cycle')}.")
    for role, tokens in length.tokens_per_cycle.items():
        lines.append(
            f"A {role} phase of {_times(length.steps_per_phase[role], 'step')} generates at most {tokens:,} tokens."
        )
    if plan.evaluation_tokens:
        parts = ", ".join(f"{name} {count:,}" for name, count in plan.evaluation_tokens.items())
        lines.append(f"Evaluations generate at most {sum(plan.evaluation_tokens.values()):,} tokens: {parts}.")
    if length.length_unknown:
        lines.append(length.length_unknown)
    if needed_hours is not None:
        cycle, total = needed_hours
        lines.append(
            f"At {tokens_per_second:g} tokens/s the generation of a run takes at most {total:.1f} hours: "
            f"{_times(cycles, 'cycle')} of {cycle:.1f}, and its evaluations. Updates come on top."
        )
    if measured is not None:
        parts = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in measured.seconds.items())
        lines.append(
            f"Measured here, by a step of every stage: the run takes about {duration(sum(measured.seconds.values()))} "
            f"({parts}) and {_gib(measured.peak_bytes)} GiB at the peak. Phases take less where groups carry no "
            "gradient, or where a rubric comes again."
        )
    console.print("\n".join(lines))


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


# --- what this machine can run --------------------------------------------------------------------------------------


def examine(recipe: str | None = None) -> dict[str, Any]:
    """Packages, processor, memory, GPU, and a row for one recipe, or for each shipped one and the best of them.

    Raises:
        ConfigError: if there is no such recipe, or it cannot be used.
    """
    import torch

    gpu: dict[str, Any] | None = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        memory = properties.total_memory / GIB
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        gpu = {"name": properties.name, "memory_gb": memory, "bf16": bf16}
    versions = package_versions(_PACKAGES)
    names = [name for name in shipped_recipes() if name != "base"] if recipe is None else [recipe]  # others extend base
    rows = [_recipe_row(name, gpu) for name in names]
    return {
        "rubric-arm-lite": versions.pop("rubric-arm-lite"),
        "python": versions.pop("python"),
        "packages": versions,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        "gpu": gpu,
        "recipes": sorted(rows, key=lambda row: (row["weights"], row["least_gb"] or 0.0)),
        "best": best(rows) if recipe is None else None,
    }


def best(rows: list[dict[str, Any]]) -> str | None:
    """The recipe with the largest base that fits, and of those the one that needs most; the testbed if none does."""
    fitting = [row for row in rows if row["fits"] and row["least_gb"] is not None]  # None: the shipped base
    if not fitting:
        return "testbed" if any(row["fits"] for row in rows) else None
    return str(max(fitting, key=lambda row: (row["weights"], row["least_gb"]))["recipe"])


def _recipe_row(name: str, gpu: dict[str, Any] | None) -> dict[str, Any]:
    """Whether a shipped recipe runs on this machine, and why."""
    recipe = load_recipe(name)
    row: dict[str, Any] = {"recipe": name, "fits": None, "why": "", "least_gb": None, "weights": 0}
    try:
        check_before_loading(recipe.model)
    except BackendError as error:
        return {**row, "fits": False, "why": str(error)}
    if recipe.model.base == "testbed":
        return {**row, "fits": True, "why": "the shipped base, CPU"}
    try:
        shape = shape_of(recipe.model.base)
    except ConfigError as error:
        return {**row, "why": str(error)}
    row["least_gb"] = needed = make_plan(recipe, shape, None).least_bytes / GIB
    if recipe.model.checkpoints is None:  # else there is nothing to train, whatever its size
        row["weights"] = shape.linear_weights + shape.other_weights
    if gpu is None:
        return {**row, "fits": False, "why": f"needs a GPU with {needed:.1f} GiB"}
    if recipe.model.quantization == "nf4" and util.find_spec("bitsandbytes") is None:
        return {**row, "fits": False, "why": "needs bitsandbytes; in the project's folder: pip install -e '.[gpu]'"}
    fits = make_plan(recipe, shape, gpu["memory_gb"] * GIB).fits
    return {**row, "fits": fits, "why": f"needs {needed:.1f} of {gpu['memory_gb']:.1f} GiB"}


def show_machine(machine: dict[str, Any], console: Console) -> None:
    """Print what :func:`examine` returned."""
    gpu_line = "No CUDA GPU: models run on the CPU, in float32."
    if gpu := machine["gpu"]:
        bf16 = "bfloat16" if gpu["bf16"] else "no bfloat16 (float16 is used)"
        gpu_line = f"GPU: {gpu['name']}, {gpu['memory_gb']:.1f} GiB, {bf16}"
    console.print(f"rubric-arm-lite {machine['rubric-arm-lite']}, Python {machine['python']}")
    console.print(f"{machine['cores']} CPU cores, {machine['memory_gb']:.1f} GiB memory\n{gpu_line}")
    packages = Table("package", "version", box=None, pad_edge=False)
    for name, version in machine["packages"].items():
        packages.add_row(name, version or "not installed")
    recipes = Table(Column("recipe", overflow="fold"), "runs here", "why", box=None, pad_edge=False)
    for row in machine["recipes"]:
        recipes.add_row(row["recipe"], {True: "yes", False: "no"}.get(row["fits"], "?"), row["why"])
    console.print(packages, recipes, sep="\n")
    if machine["best"]:
        console.print(f"Best for this machine: rubric-arm run {machine['best']}")
