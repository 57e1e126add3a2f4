"""The reward model: a rubric generator and a judge, for Python, TRL, files and HTTP.

Enter: prompts and responses without labels. Leave: rubrics, verdicts in both orders with their findings, rankings and
pointwise scores. Everything that asks the judge, in training, evaluation and serving, asks it through this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.reward_model.export import export_run, files_to_push, push_to_hub
    from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
    from rubric_arm_lite.reward_model.judge import Judge, check_compares, longest_prompt, make_judge
    from rubric_arm_lite.reward_model.label import label_responses
    from rubric_arm_lite.reward_model.model import RubricRewardModel
    from rubric_arm_lite.reward_model.pointwise import PointwiseJudge, PointwiseScore, PointwiseVerdict, mean_score
    from rubric_arm_lite.reward_model.trl import rubric_arm_reward
    from rubric_arm_lite.reward_model.verdict import Verdict, majority

__all__ = [
    "Judge",
    "PointwiseJudge",
    "PointwiseScore",
    "PointwiseVerdict",
    "RubricCache",
    "RubricGenerator",
    "RubricRewardModel",
    "Verdict",
    "check_compares",
    "export_run",
    "files_to_push",
    "label_responses",
    "longest_prompt",
    "majority",
    "make_judge",
    "mean_score",
    "push_to_hub",
    "rubric_arm_reward",
]

__getattr__ = lazy_door(
    __name__,
    {
        "export": ["export_run", "files_to_push", "push_to_hub"],
        "generator": ["RubricCache", "RubricGenerator"],
        "judge": ["Judge", "check_compares", "longest_prompt", "make_judge"],
        "label": ["label_responses"],
        "model": ["RubricRewardModel"],
        "pointwise": ["PointwiseJudge", "PointwiseScore", "PointwiseVerdict", "mean_score"],
        "trl": ["rubric_arm_reward"],
        "verdict": ["Verdict", "majority"],
    },
)
