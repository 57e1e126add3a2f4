"""Data: source rows in, preference pairs and warm-up rows out.

Files, folders and Hub data sets in their published formats enter, or the embedded testbed.
:class:`~rubric_arm_lite.types.PreferencePair`, prompts with the pairs that share them, and warm-up trajectories leave;
every skipped row is counted by reason. A new format is a :class:`~.formats.Format`, or a plug-in named in the recipe.
"""

from __future__ import annotations

from rubric_arm_lite.data.blocks import blocks_from_pairs, shuffle_blocks, split_blocks
from rubric_arm_lite.data.counts import BadRows, Counts
from rubric_arm_lite.data.load import RunData, load_data, read_blocks
from rubric_arm_lite.data.pairs import WarmupRow, load_pairs, prompt_as_json, prompt_of
from rubric_arm_lite.data.reader import read_pairs
from rubric_arm_lite.data.rows import Row, RowError
from rubric_arm_lite.data.sources import open_rows
from rubric_arm_lite.data.trajectories import read_trajectories

__all__ = [
    "BadRows",
    "Counts",
    "Row",
    "RowError",
    "RunData",
    "WarmupRow",
    "blocks_from_pairs",
    "load_data",
    "load_pairs",
    "open_rows",
    "prompt_as_json",
    "prompt_of",
    "read_blocks",
    "read_pairs",
    "read_trajectories",
    "shuffle_blocks",
    "split_blocks",
]
