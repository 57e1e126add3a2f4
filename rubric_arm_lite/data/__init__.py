"""Data: source rows in, preference pairs and warm-up rows out.

Enter: files, folders and Hub data sets in their published formats, or the embedded testbed. Leave:
:class:`~rubric_arm_lite.types.PreferencePair`, prompts with the pairs that share them, and warm-up trajectories, with
every row that is skipped counted by reason. A new format is a :class:`~.formats.PairForm`.
"""

from __future__ import annotations

from rubric_arm_lite.data.check import BadRows, Counts
from rubric_arm_lite.data.load import RunData, load_data, read_pairs
from rubric_arm_lite.data.pairs import WarmupRow, load_pairs, prompt_as_json, prompt_of
from rubric_arm_lite.data.rows import Row, RowError
from rubric_arm_lite.data.trajectories import read_trajectories

__all__ = [
    "BadRows",
    "Counts",
    "Row",
    "RowError",
    "RunData",
    "WarmupRow",
    "load_data",
    "load_pairs",
    "prompt_as_json",
    "prompt_of",
    "read_pairs",
    "read_trajectories",
]
