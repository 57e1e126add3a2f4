"""The testbed: synthetic preference worlds with a known truth, on which the whole pipeline is seen to learn.

Input: a seed and the settings of a world.
Output: prompts, responses and preferences (:class:`PreferenceWorld`), imperfect warm-up texts (:func:`make_teacher`),
and the accuracy of a perfect judge (:func:`oracle`). :class:`World` has words of its own and a tiny base in
``assets/``, which ``benchmarks/testbed_base`` of the repository trained; it trains on a CPU in minutes.
:class:`EnglishWorld` is real English, for language models.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.testbed.english.trajectories import ShortTeacher
from rubric_arm_lite.data.testbed.english.world import EnglishWorld as EnglishWorld
from rubric_arm_lite.data.testbed.preference import PreferenceWorld as PreferenceWorld
from rubric_arm_lite.data.testbed.preference import known_task as known_task
from rubric_arm_lite.data.testbed.preference import oracle as oracle
from rubric_arm_lite.data.testbed.trajectories import Teacher
from rubric_arm_lite.data.testbed.world import PRINCIPLES as PRINCIPLES
from rubric_arm_lite.data.testbed.world import World as World
from rubric_arm_lite.data.testbed.world import parse_task as parse_task
from rubric_arm_lite.recipe import DataSettings, Recipe

AnyWorld = PreferenceWorld[Any]

TRAIN_PROMPTS = 480
"""Training prompts if a recipe does not set their number."""


def make_world(settings: DataSettings, seed: int, label_noise: bool = True) -> AnyWorld | None:
    """The world that a recipe's data come from; None if they come from a file or the Hub.

    Args:
        label_noise: False for held-out pairs, whose labels are all right.
    """
    clean = {} if label_noise else {"label_noise": 0.0}
    match settings.source:
        case "testbed":
            return World(seed, settings.world.model_copy(update=clean))
        case "english":
            return EnglishWorld(seed, settings.english.model_copy(update=clean))
        case _:
            return None


def make_teacher(world: AnyWorld, recipe: Recipe) -> Teacher[Any]:
    """The writer of a recipe's warm-up texts, in the form that its judge is asked for."""
    words = recipe.prompts.pointwise_words if recipe.pointwise else None
    kind = ShortTeacher if words is None and recipe.prompts.judge_template == "judge_short" else Teacher
    return kind(world, recipe.warmup.teacher, words)


def base_folder() -> Path:
    """Folder of the shipped base: a Qwen3-architecture model and its tokenizer."""
    return Path(str(resources.files("rubric_arm_lite.data.testbed").joinpath("assets", "base")))
