"""What this machine has, and which shipped recipes can run on it."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rubric_arm_lite import __version__
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.plan import make_plan
from rubric_arm_lite.plan_memory import GIB
from rubric_arm_lite.plan_shape import shape_of
from rubric_arm_lite.recipe_file import load_recipe, shipped_recipes

_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth")
_NO_RUN = ("base",)
"""Shipped files that other recipes start from."""


def examine() -> dict[str, Any]:
    """Packages, processor, memory, GPU, and one row per shipped recipe."""
    import torch

    gpu: dict[str, Any] | None = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu = {
            "name": properties.name,
            "memory_gb": properties.total_memory / 2**30,
            "bf16": torch.cuda.is_bf16_supported(),
        }
    found: dict[str, Any] = {
        "rubric-arm-lite": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpu": gpu,
        "recipes": sorted(
            (_fit(path, gpu) for path in shipped_recipes() if path.stem not in _NO_RUN),
            key=lambda row: (row["weights"], row["least_gb"] or 0.0),
        ),
    }
    return {**found, "best": best(found["recipes"])}


def best(rows: list[dict[str, Any]]) -> str | None:
    """The recipe with the largest base that fits, and of those the one that needs most; the testbed if none does."""
    fitting = [row for row in rows if row["fits"] and row["least_gb"] is not None]  # None: the shipped base
    if not fitting:
        return "testbed" if any(row["fits"] for row in rows) else None
    name: str = max(fitting, key=lambda row: (row["weights"], row["least_gb"] or 0.0))["recipe"]
    return name


def show_machine(found: dict[str, Any], console: Console) -> None:
    """Print what :func:`examine` found."""
    console.print(f"rubric-arm-lite {found['rubric-arm-lite']}, Python {found['python']}", highlight=False)
    console.print(f"{found['cores']} CPU cores, {found['memory_gb']:.1f} GiB memory", highlight=False)
    gpu = found["gpu"]
    if gpu:
        bf16 = "bfloat16" if gpu["bf16"] else "no bfloat16 (float16 is used)"
        console.print(f"GPU: {gpu['name']}, {gpu['memory_gb']:.1f} GiB, {bf16}", highlight=False)
    else:
        console.print("No CUDA GPU: models run on the CPU, in float32.", highlight=False)
    packages = Table("package", "version", box=None, pad_edge=False)
    for name, version in found["packages"].items():
        packages.add_row(name, version or "not installed")
    console.print(packages)
    recipes = Table("recipe", "runs here", "why", box=None, pad_edge=False)
    for row in found["recipes"]:
        recipes.add_row(row["recipe"], "yes" if row["fits"] else "no" if row["fits"] is False else "?", row["why"])
    console.print(recipes)
    if found["best"]:
        console.print(f"Best for this machine: rubric-arm run {found['best']}", highlight=False)


def _fit(path: Path, gpu: dict[str, Any] | None) -> dict[str, Any]:
    recipe = load_recipe(str(path))
    row: dict[str, Any] = {"recipe": path.stem, "fits": None, "why": "", "least_gb": None, "weights": 0}
    if recipe.model.base == "testbed":
        return {**row, "fits": True, "why": "the shipped base, CPU"}
    try:
        shape = shape_of(recipe.model.base)
    except ConfigError as error:
        return {**row, "why": str(error)}
    needed = make_plan(recipe, shape, None).least / GIB
    trains = recipe.model.checkpoints is None  # else there is nothing to run, whatever its size
    row = {**row, "least_gb": needed, "weights": shape.linear_weights + shape.other_weights if trains else 0}
    if gpu is None:
        return {**row, "fits": False, "why": f"needs a GPU with {needed:.1f} GiB"}
    if recipe.model.quantization == "nf4" and util.find_spec("bitsandbytes") is None:
        return {**row, "fits": False, "why": "needs bitsandbytes; in the project's folder: pip install -e '.[gpu]'"}
    fits = bool(make_plan(recipe, shape, gpu["memory_gb"] * GIB).fits)
    return {**row, "fits": fits, "why": f"needs {needed:.1f} of {gpu['memory_gb']:.1f} GiB"}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
