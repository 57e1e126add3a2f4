"""The reward model: a rubric generator and a judge, for Python, TRL, files and HTTP.

Input: prompts and responses without labels.
Output: rubrics, verdicts in both orders with their findings, rankings and pointwise scores. Everything that asks the
judge, in training, evaluation and serving, asks it through this room.
Exported: :class:`RubricRewardModel` and its parts (:class:`RubricGenerator`, :class:`Judge`, :class:`PointwiseJudge`),
labeling, export, and TRL's reward function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.reward_model.export import export_run as export_run
    from rubric_arm_lite.reward_model.export import files_to_push as files_to_push
    from rubric_arm_lite.reward_model.export import push_to_hub as push_to_hub
    from rubric_arm_lite.reward_model.generator import RubricCache as RubricCache
    from rubric_arm_lite.reward_model.generator import RubricGenerator as RubricGenerator
    from rubric_arm_lite.reward_model.judge import Judge as Judge
    from rubric_arm_lite.reward_model.judge import JudgementCache as JudgementCache
    from rubric_arm_lite.reward_model.judge import PointwiseJudge as PointwiseJudge
    from rubric_arm_lite.reward_model.judge import check_compares as check_compares
    from rubric_arm_lite.reward_model.judge import longest_sequence as longest_sequence
    from rubric_arm_lite.reward_model.judge import make_judge as make_judge
    from rubric_arm_lite.reward_model.label import label_responses as label_responses
    from rubric_arm_lite.reward_model.model import RubricRewardModel as RubricRewardModel
    from rubric_arm_lite.reward_model.model import judging_settings as judging_settings
    from rubric_arm_lite.reward_model.trl import rubric_arm_reward as rubric_arm_reward
    from rubric_arm_lite.reward_model.verdict import PointwiseScore as PointwiseScore
    from rubric_arm_lite.reward_model.verdict import PointwiseVerdict as PointwiseVerdict
    from rubric_arm_lite.reward_model.verdict import Verdict as Verdict
    from rubric_arm_lite.reward_model.verdict import is_skipped as is_skipped
    from rubric_arm_lite.reward_model.verdict import majority as majority
    from rubric_arm_lite.reward_model.verdict import mean_score as mean_score

__getattr__, __dir__, __all__ = lazy_door(
    __name__,
    {
        "export": ["export_run", "files_to_push", "push_to_hub"],
        "generator": ["RubricCache", "RubricGenerator"],
        "judge": ["Judge", "JudgementCache", "PointwiseJudge", "check_compares", "longest_sequence", "make_judge"],
        "label": ["label_responses"],
        "model": ["RubricRewardModel", "judging_settings"],
        "trl": ["rubric_arm_reward"],
        "verdict": ["PointwiseScore", "PointwiseVerdict", "Verdict", "is_skipped", "majority", "mean_score"],
    },
)
