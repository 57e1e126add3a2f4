"""The testbed: a synthetic preference world on which the whole pipeline trains on a CPU, and learns.

Input: a seed and the settings of a world.
Output: prompts, responses and preferences (:class:`World`), imperfect warm-up texts (:mod:`.trajectories`), and the
accuracy of a perfect judge (:func:`oracle`). The tiny base in ``assets/`` was trained by ``benchmarks/testbed_base`` of
the repository.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rubric_arm_lite.data.testbed.world import PRINCIPLES as PRINCIPLES
from rubric_arm_lite.data.testbed.world import World as World
from rubric_arm_lite.data.testbed.world import oracle as oracle
from rubric_arm_lite.data.testbed.world import parse_task as parse_task

TRAIN_PROMPTS = 480
"""Training prompts if a recipe does not set their number."""


def base_folder() -> Path:
    """Folder of the shipped base: a Qwen3-architecture model and its tokenizer."""
    return Path(str(resources.files("rubric_arm_lite.data.testbed").joinpath("assets", "base")))
