"""Reports: one self-contained HTML page and one Markdown text per run, from its logs alone.

Enter: a run directory. Leave: ``report.html`` and ``report.md``; texts of models and data are always escaped. Structure
and static texts of both are in ``templates/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.report.policy import write_policy_report
    from rubric_arm_lite.report.read import safe_text
    from rubric_arm_lite.report.render import benchmarks_text, write_report

__all__ = ["benchmarks_text", "safe_text", "write_policy_report", "write_report"]

__getattr__ = lazy_door(
    __name__,
    {
        "policy": ["write_policy_report"],
        "read": ["safe_text"],
        "render": ["benchmarks_text", "write_report"],
    },
)
