"""Run directories: the only code that writes results, safe against ``kill -9`` at any moment.

Input: log rows, checkpoints and finished stages. Output: ``runs/NAME`` with its commit point, journals that let a
killed job resume, and readers of a run's recipe, states and adapters.
"""

from __future__ import annotations

from rubric_arm_lite.runs.directory import IfExists, RunDirectory, package_versions
from rubric_arm_lite.runs.files import atomic_write, explained_disk_errors
from rubric_arm_lite.runs.journal import Journal
from rubric_arm_lite.runs.logs import read_jsonl, read_object
from rubric_arm_lite.runs.progress import NoProgress, Progress
from rubric_arm_lite.runs.states import adapter_folder, recipe_of, recipe_of_run

__all__ = [
    "IfExists",
    "Journal",
    "NoProgress",
    "Progress",
    "RunDirectory",
    "adapter_folder",
    "atomic_write",
    "explained_disk_errors",
    "package_versions",
    "read_jsonl",
    "read_object",
    "recipe_of",
    "recipe_of_run",
]
