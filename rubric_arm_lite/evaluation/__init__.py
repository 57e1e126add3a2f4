"""Evaluation: accuracy in both orders, position bias, format and public benchmarks.

Enter: a generator and a judge, and labeled pairs. Leave: values with intervals, one row per pair, caveats where a
number says less than it seems to. A new public benchmark is an entry in :mod:`.benchmarks.catalogue`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.evaluation.benchmarks.results import Result
    from rubric_arm_lite.evaluation.evaluate import AdapterPair, Evaluation, PairEvaluator
    from rubric_arm_lite.evaluation.metrics import bootstrap_interval, is_correct
    from rubric_arm_lite.evaluation.run import evaluate_run, make_evaluator

__all__ = [
    "AdapterPair",
    "Evaluation",
    "PairEvaluator",
    "Result",
    "bootstrap_interval",
    "evaluate_run",
    "is_correct",
    "make_evaluator",
]

__getattr__ = lazy_door(
    __name__,
    {
        "benchmarks.results": ["Result"],
        "evaluate": ["Evaluation", "PairEvaluator", "AdapterPair"],
        "metrics": ["bootstrap_interval", "is_correct"],
        "run": ["evaluate_run", "make_evaluator"],
    },
)
