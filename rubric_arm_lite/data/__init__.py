"""Data: source rows become preference pairs and warm-up rows.

Input: files, folders and Hub data sets in their published formats, or a synthetic world (:mod:`.testbed`).
Output: :class:`~rubric_arm_lite.types.PreferencePair`, prompts with their pairs, and warm-up trajectories; every
skipped row is counted by reason. A new format is a :class:`~.formats.Format`, or a plug-in named in the recipe.
Exported: readers of every kind of file, :func:`load_data` for a recipe, and how prompts are grouped and split.
"""

from __future__ import annotations

from rubric_arm_lite.data.counts import BadRows as BadRows
from rubric_arm_lite.data.counts import Counts as Counts
from rubric_arm_lite.data.load import RunData as RunData
from rubric_arm_lite.data.load import blocks_from_pairs as blocks_from_pairs
from rubric_arm_lite.data.load import load_data as load_data
from rubric_arm_lite.data.load import read_blocks as read_blocks
from rubric_arm_lite.data.load import shuffle_blocks as shuffle_blocks
from rubric_arm_lite.data.load import split_blocks as split_blocks
from rubric_arm_lite.data.pairs import load_pairs as load_pairs
from rubric_arm_lite.data.pairs import prompt_as_json as prompt_as_json
from rubric_arm_lite.data.pairs import prompt_of as prompt_of
from rubric_arm_lite.data.pairs import read_pairs as read_pairs
from rubric_arm_lite.data.rows import Row as Row
from rubric_arm_lite.data.rows import RowError as RowError
from rubric_arm_lite.data.sources import open_rows as open_rows
from rubric_arm_lite.data.trajectories import WarmupRow as WarmupRow
from rubric_arm_lite.data.trajectories import read_trajectories as read_trajectories
