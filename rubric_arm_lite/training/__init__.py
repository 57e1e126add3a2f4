"""Training: alternating GRPO over two adapters, from warm-up to the final adapters.

:mod:`.alternating` is the method on one page; :mod:`.phases` says what each role is asked and earns, :mod:`.rewards`
holds the rewards, :mod:`.losses` the clipped loss, :mod:`.learner` the update of one adapter. :mod:`.run` has
``train``, which takes a recipe through all stages; :mod:`.policy` trains a third adapter against the reward model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.training.phases import JudgePhase, Phase, RubricPhase, ScoredSample
    from rubric_arm_lite.training.plan import make_plan, plan_for
    from rubric_arm_lite.training.pointwise_phases import PointwiseJudgePhase, PointwiseRubricPhase
    from rubric_arm_lite.training.policy.run import train_policy
    from rubric_arm_lite.training.run import RunResult, train
    from rubric_arm_lite.training.schedule import STAGES
    from rubric_arm_lite.training.synthesize import SynthesisSettings, Synthesizer

__all__ = [
    "STAGES",
    "JudgePhase",
    "Phase",
    "PointwiseJudgePhase",
    "PointwiseRubricPhase",
    "RubricPhase",
    "RunResult",
    "ScoredSample",
    "SynthesisSettings",
    "Synthesizer",
    "make_plan",
    "plan_for",
    "train",
    "train_policy",
]

__getattr__ = lazy_door(
    __name__,
    {
        "phases": ["JudgePhase", "Phase", "RubricPhase", "ScoredSample"],
        "plan": ["make_plan", "plan_for"],
        "pointwise_phases": ["PointwiseJudgePhase", "PointwiseRubricPhase"],
        "policy.run": ["train_policy"],
        "run": ["RunResult", "train"],
        "schedule": ["STAGES"],
        "synthesize": ["SynthesisSettings", "Synthesizer"],
    },
)
