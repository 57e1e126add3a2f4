"""Evaluation: accuracy in both orders, position bias, format and public benchmarks.

Input: a generator and a judge, and labeled pairs.
Output: values with intervals, one row per pair, and caveats where a number says less than it seems to. A new public
benchmark is an entry in ``data/benchmarks.yaml``. Exported: :func:`evaluate_run` for a run directory the parts
it is made of, and :func:`cross_play`, every generator of some runs with every judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.evaluation.benchmarks.results import Result as Result
    from rubric_arm_lite.evaluation.combinations import CrossPlay as CrossPlay
    from rubric_arm_lite.evaluation.combinations import cross_play as cross_play
    from rubric_arm_lite.evaluation.evaluate import AdapterPair as AdapterPair
    from rubric_arm_lite.evaluation.evaluate import Evaluation as Evaluation
    from rubric_arm_lite.evaluation.evaluate import Evaluator as Evaluator
    from rubric_arm_lite.evaluation.evaluate import evaluate_run as evaluate_run
    from rubric_arm_lite.evaluation.evaluate import make_evaluator as make_evaluator
    from rubric_arm_lite.evaluation.metrics import bootstrap_interval as bootstrap_interval

__getattr__, __dir__, __all__ = lazy_door(
    __name__,
    {
        "benchmarks.results": ["Result"],
        "combinations": ["CrossPlay", "cross_play"],
        "evaluate": ["AdapterPair", "Evaluation", "Evaluator", "evaluate_run", "make_evaluator"],
        "metrics": ["bootstrap_interval"],
    },
)
