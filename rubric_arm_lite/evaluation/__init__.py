"""Evaluation: accuracy in both orders, position bias, format and public benchmarks.

Enter: a generator and a judge, and labeled pairs. Leave: values with intervals, one row per pair, caveats where a
number says less than it seems to. A new public benchmark is an entry in :mod:`.benchmarks.catalogue`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.evaluation.benchmarks.results import Result
    from rubric_arm_lite.evaluation.evaluate import AdapterPair, Evaluation, Evaluator, make_evaluator
    from rubric_arm_lite.evaluation.metrics import bootstrap_interval
    from rubric_arm_lite.evaluation.run import evaluate_run

__all__ = [
    "AdapterPair",
    "Evaluation",
    "Evaluator",
    "Result",
    "bootstrap_interval",
    "evaluate_run",
    "make_evaluator",
]

__getattr__ = lazy_door(
    __name__,
    {
        "benchmarks.results": ["Result"],
        "evaluate": ["AdapterPair", "Evaluation", "Evaluator", "make_evaluator"],
        "metrics": ["bootstrap_interval"],
        "run": ["evaluate_run"],
    },
)
