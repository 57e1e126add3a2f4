"""The testbed: a synthetic preference world on which the whole pipeline trains on a CPU, and learns.

:mod:`world` generates prompts, responses and preferences; :mod:`trajectories` writes imperfect warm-up texts;
:mod:`oracle` computes the accuracy of a perfect judge. The tiny base in ``assets/`` was trained by
``benchmarks/testbed_base`` of the repository.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rubric_arm_lite.data.testbed.oracle import oracle
from rubric_arm_lite.data.testbed.world import PRINCIPLES, World, parse_task

__all__ = ["PRINCIPLES", "TRAIN_PROMPTS", "World", "base_folder", "oracle", "parse_task"]

TRAIN_PROMPTS = 480
"""Training prompts if a recipe does not set their number."""


def base_folder() -> Path:
    """Folder of the shipped base: a Qwen3-architecture model and its tokenizer."""
    return Path(str(resources.files("rubric_arm_lite.data.testbed").joinpath("assets", "base")))
