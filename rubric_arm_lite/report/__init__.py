"""Reports: one self-contained HTML page and one Markdown text per run, from its logs alone.

Input: a run directory.
Output: ``report.html`` and ``report.md``; texts of models and data are always escaped. ``templates/`` has structure and
static texts of both. Exported: writers of both kinds of report, the comparison of runs, the table of benchmarks alone,
and :func:`live_view`, which shows a run that is being written in a terminal or a notebook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.report.comparison import COMPARISON_FILES as COMPARISON_FILES
    from rubric_arm_lite.report.comparison import Comparison as Comparison
    from rubric_arm_lite.report.comparison import compare as compare
    from rubric_arm_lite.report.comparison import write_comparison as write_comparison
    from rubric_arm_lite.report.live import live_view as live_view
    from rubric_arm_lite.report.read import safe_json as safe_json
    from rubric_arm_lite.report.read import safe_text as safe_text
    from rubric_arm_lite.report.render import benchmarks_text as benchmarks_text
    from rubric_arm_lite.report.render import write_policy_report as write_policy_report
    from rubric_arm_lite.report.render import write_report as write_report

__getattr__, __dir__, __all__ = lazy_door(
    __name__,
    {
        "comparison": ["COMPARISON_FILES", "Comparison", "compare", "write_comparison"],
        "live": ["live_view"],
        "read": ["safe_json", "safe_text"],
        "render": ["benchmarks_text", "write_policy_report", "write_report"],
    },
)
