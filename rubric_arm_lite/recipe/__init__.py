"""Recipes: the settings of a run, read from YAML into checked, frozen objects.

Input: a file or the name of a shipped recipe, and ``--set a.b=value`` overrides.
Output: a :class:`Recipe` (reward model) or a :class:`PolicyRecipe` (policy); :mod:`.fields` and :mod:`.policy` explain
every field. :class:`SweepSettings` makes the recipes of a comparison. Also exported: the sections that other rooms
take, plug-ins by name, and seeds derived from names.
"""

from __future__ import annotations

from rubric_arm_lite.recipe.fields import WORLDS as WORLDS
from rubric_arm_lite.recipe.fields import AlarmSettings as AlarmSettings
from rubric_arm_lite.recipe.fields import CheckpointPair as CheckpointPair
from rubric_arm_lite.recipe.fields import ColumnSettings as ColumnSettings
from rubric_arm_lite.recipe.fields import DataSettings as DataSettings
from rubric_arm_lite.recipe.fields import EnglishSettings as EnglishSettings
from rubric_arm_lite.recipe.fields import EvaluationSettings as EvaluationSettings
from rubric_arm_lite.recipe.fields import GRPOSettings as GRPOSettings
from rubric_arm_lite.recipe.fields import LoraSettings as LoraSettings
from rubric_arm_lite.recipe.fields import ModelSettings as ModelSettings
from rubric_arm_lite.recipe.fields import Order as Order
from rubric_arm_lite.recipe.fields import PointwiseWords as PointwiseWords
from rubric_arm_lite.recipe.fields import PreferenceSettings as PreferenceSettings
from rubric_arm_lite.recipe.fields import PromptSettings as PromptSettings
from rubric_arm_lite.recipe.fields import Recipe as Recipe
from rubric_arm_lite.recipe.fields import RewardSettings as RewardSettings
from rubric_arm_lite.recipe.fields import ScheduleSettings as ScheduleSettings
from rubric_arm_lite.recipe.fields import SFTSettings as SFTSettings
from rubric_arm_lite.recipe.fields import SourceSettings as SourceSettings
from rubric_arm_lite.recipe.fields import TeacherSettings as TeacherSettings
from rubric_arm_lite.recipe.fields import TripwireSettings as TripwireSettings
from rubric_arm_lite.recipe.fields import WarmupSettings as WarmupSettings
from rubric_arm_lite.recipe.fields import WorldSettings as WorldSettings
from rubric_arm_lite.recipe.fields import as_tuple as as_tuple
from rubric_arm_lite.recipe.fields import label_text as label_text
from rubric_arm_lite.recipe.load import dump_recipe as dump_recipe
from rubric_arm_lite.recipe.load import explain_recipe as explain_recipe
from rubric_arm_lite.recipe.load import flat_fields as flat_fields
from rubric_arm_lite.recipe.load import load_any_recipe as load_any_recipe
from rubric_arm_lite.recipe.load import load_recipe as load_recipe
from rubric_arm_lite.recipe.load import load_settings as load_settings
from rubric_arm_lite.recipe.load import read_columns as read_columns
from rubric_arm_lite.recipe.load import recipe_hash as recipe_hash
from rubric_arm_lite.recipe.load import shipped_recipes as shipped_recipes
from rubric_arm_lite.recipe.load import wrong_names as wrong_names
from rubric_arm_lite.recipe.plugins import is_plugin as is_plugin
from rubric_arm_lite.recipe.plugins import load_plugin as load_plugin
from rubric_arm_lite.recipe.policy import AnswerSettings as AnswerSettings
from rubric_arm_lite.recipe.policy import DPOSettings as DPOSettings
from rubric_arm_lite.recipe.policy import PolicyDataSettings as PolicyDataSettings
from rubric_arm_lite.recipe.policy import PolicyEvaluationSettings as PolicyEvaluationSettings
from rubric_arm_lite.recipe.policy import PolicyRecipe as PolicyRecipe
from rubric_arm_lite.recipe.seeds import derive_seed as derive_seed
from rubric_arm_lite.recipe.sweep import WARMUPS as WARMUPS
from rubric_arm_lite.recipe.sweep import Arm as Arm
from rubric_arm_lite.recipe.sweep import SweepSettings as SweepSettings
from rubric_arm_lite.recipe.sweep import load_sweep as load_sweep
from rubric_arm_lite.recipe.sweep import shipped_sweeps as shipped_sweeps
