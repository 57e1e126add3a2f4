"""Training: alternating GRPO over two adapters, from warm-up to the final adapters.

Input: a recipe and its data.
Output: adapters and log rows. :mod:`.alternating` is the method on one page; :mod:`.phases` says what each role is
asked and earns, :mod:`.rewards` holds the rewards, :mod:`.losses` the loss, :mod:`.learner` the update of one adapter.
Exported: :func:`train`, which takes a recipe through all stages, :func:`train_policy`, which trains a third adapter
against the reward model, phases for plug-ins, synthesis of warm-up texts, plans of memory and time, and the rows of a
log that still count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.training.measure import MeasuredTime as MeasuredTime
    from rubric_arm_lite.training.measure import measure_run as measure_run
    from rubric_arm_lite.training.phases import JudgePhase as JudgePhase
    from rubric_arm_lite.training.phases import Phase as Phase
    from rubric_arm_lite.training.phases import RubricPhase as RubricPhase
    from rubric_arm_lite.training.phases import ScoredSample as ScoredSample
    from rubric_arm_lite.training.plan import make_plan as make_plan
    from rubric_arm_lite.training.plan import plan_for as plan_for
    from rubric_arm_lite.training.run import RunResult as RunResult
    from rubric_arm_lite.training.run import train as train
    from rubric_arm_lite.training.run import train_policy as train_policy
    from rubric_arm_lite.training.schedule import STAGES as STAGES
    from rubric_arm_lite.training.sweeps import SWEEP as SWEEP
    from rubric_arm_lite.training.sweeps import SweepResult as SweepResult
    from rubric_arm_lite.training.sweeps import sweep as sweep
    from rubric_arm_lite.training.synthesize import SynthesisSettings as SynthesisSettings
    from rubric_arm_lite.training.synthesize import Synthesizer as Synthesizer
    from rubric_arm_lite.training.tripwire import rows_in_effect as rows_in_effect
    from rubric_arm_lite.training.variance import VarianceProbe as VarianceProbe
    from rubric_arm_lite.training.variance import probe_variance as probe_variance

__getattr__, __dir__, __all__ = lazy_door(
    __name__,
    {
        "measure": ["MeasuredTime", "measure_run"],
        "phases": ["JudgePhase", "Phase", "RubricPhase", "ScoredSample"],
        "plan": ["make_plan", "plan_for"],
        "run": ["RunResult", "train", "train_policy"],
        "schedule": ["STAGES"],
        "synthesize": ["SynthesisSettings", "Synthesizer"],
        "sweeps": ["SWEEP", "SweepResult", "sweep"],
        "tripwire": ["rows_in_effect"],
        "variance": ["VarianceProbe", "probe_variance"],
    },
)
