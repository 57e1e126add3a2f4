"""Recipes: the settings of a run, read from YAML into checked, frozen objects.

Input: a file or the name of a shipped recipe, and ``--set a.b=value`` overrides. Output: a :class:`Recipe` (reward
model) or a :class:`PolicyRecipe` (policy). :mod:`.fields` and :mod:`.policy` explain every field; :func:`derive_seed`
derives seeds from names.
"""

from __future__ import annotations

from rubric_arm_lite.recipe.fields import (
    BUILT_IN_TEMPLATES,
    DataSettings,
    EvaluationSettings,
    GRPOSettings,
    LoraSettings,
    ModelSettings,
    PointwiseWords,
    Recipe,
    RewardSettings,
    ScheduleSettings,
    SFTSettings,
    WarmupSettings,
)
from rubric_arm_lite.recipe.load import dump_recipe, load_recipe, load_settings, recipe_hash, shipped_recipes
from rubric_arm_lite.recipe.plugins import load_plugin
from rubric_arm_lite.recipe.policy import AnswerSettings, PolicyRecipe
from rubric_arm_lite.recipe.seeds import derive_seed

__all__ = [
    "BUILT_IN_TEMPLATES",
    "AnswerSettings",
    "DataSettings",
    "EvaluationSettings",
    "GRPOSettings",
    "LoraSettings",
    "ModelSettings",
    "PointwiseWords",
    "PolicyRecipe",
    "Recipe",
    "RewardSettings",
    "SFTSettings",
    "ScheduleSettings",
    "WarmupSettings",
    "derive_seed",
    "dump_recipe",
    "load_plugin",
    "load_recipe",
    "load_settings",
    "recipe_hash",
    "shipped_recipes",
]
