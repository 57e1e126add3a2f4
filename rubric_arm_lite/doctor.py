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
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.recipe_file import load_recipe, shipped_recipes

_PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "unsloth")
_NF4_SHARE = 0.3
"""Bytes of an NF4 base in bfloat16 bytes: 4 bits of 16, its constants, and embeddings left as they are."""


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
    memory = gpu["memory_gb"] if gpu else _memory_gb()
    return {
        "rubric-arm-lite": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpu": gpu,
        "recipes": [_fit(path, gpu is not None, memory) for path in shipped_recipes() if path.stem != "base"],
    }


def show(found: dict[str, Any], console: Console) -> None:
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


def _fit(path: Path, cuda: bool, memory_gb: float) -> dict[str, Any]:
    recipe = load_recipe(str(path))
    fits, why = _judge_fit(recipe, cuda, memory_gb)
    return {"recipe": path.stem, "fits": fits, "why": why}


def _judge_fit(recipe: Recipe, cuda: bool, memory_gb: float) -> tuple[bool | None, str]:
    if recipe.model.base == "testbed":
        return True, "the shipped base, CPU"
    if recipe.model.quantization == "nf4" and util.find_spec("bitsandbytes") is None:
        return False, "needs bitsandbytes: pip install 'rubric-arm-lite[gpu]'"
    folder = Path(recipe.model.base)
    if not folder.is_dir():
        return None, "a Hub id: its size is known once it is downloaded" + ("" if cuda else "; slow without a GPU")
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**30
    needed = size * (_NF4_SHARE if recipe.model.quantization == "nf4" else 1.0)
    enough = needed < 0.8 * memory_gb
    return enough, f"weights need {needed:.1f} of {memory_gb:.1f} GiB, before activations and caches"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
