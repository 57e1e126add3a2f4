"""Run directories: the only code that writes results, safe against ``kill -9`` at any moment.

Input: log rows, checkpoints and finished stages.
Output: ``runs/NAME`` with its commit point (:class:`RunDirectory`), a :class:`Journal` from which a killed job resumes,
and readers of a run's logs, recipe, states and adapters. Also exported: :class:`Progress`, what a job reports.
"""

from __future__ import annotations

from rubric_arm_lite.runs.directory import METRICS as METRICS
from rubric_arm_lite.runs.directory import RECIPE as RECIPE
from rubric_arm_lite.runs.directory import STATE as STATE
from rubric_arm_lite.runs.directory import IfExists as IfExists
from rubric_arm_lite.runs.directory import RunDirectory as RunDirectory
from rubric_arm_lite.runs.directory import RunState as RunState
from rubric_arm_lite.runs.directory import check_files as check_files
from rubric_arm_lite.runs.directory import check_logs as check_logs
from rubric_arm_lite.runs.directory import package_commit as package_commit
from rubric_arm_lite.runs.directory import package_versions as package_versions
from rubric_arm_lite.runs.directory import read_state as read_state
from rubric_arm_lite.runs.files import LogRow as LogRow
from rubric_arm_lite.runs.files import atomic_write as atomic_write
from rubric_arm_lite.runs.files import check_target as check_target
from rubric_arm_lite.runs.files import explained_disk_errors as explained_disk_errors
from rubric_arm_lite.runs.files import read_jsonl as read_jsonl
from rubric_arm_lite.runs.files import read_object as read_object
from rubric_arm_lite.runs.files import share as share
from rubric_arm_lite.runs.journal import Journal as Journal
from rubric_arm_lite.runs.journal import Progress as Progress
from rubric_arm_lite.runs.states import adapter_folder as adapter_folder
from rubric_arm_lite.runs.states import recipe_of as recipe_of
from rubric_arm_lite.runs.states import recipe_of_run as recipe_of_run
from rubric_arm_lite.runs.states import run_and_state as run_and_state
from rubric_arm_lite.runs.states import states_of as states_of
from rubric_arm_lite.runs.states import swapped_adapter as swapped_adapter
