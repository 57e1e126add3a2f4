"""Rewards of all roles: pure functions, and the only code that reads which response is preferred.

Judge: R_j = R_acc + format_weight · R_fmt (paper, sec. 4.2). Generator: 1 if the frozen judge, given this rubric,
names the preferred response (eq. 8), averaged over the pairs and orders it was asked for. The paper gives the
format term no size; ours is a recipe field with default 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.config import RewardSettings
from rubric_arm_lite.parsing import check_format
from rubric_arm_lite.types import Comparison, Judgement, ParseStatus, Reward, Rubric, Side


def is_correct(judgement: Judgement, comparison: Comparison) -> bool:
    """Whether the verdict names the preferred response; no verdict is not correct."""
    return judgement.winner is not None and judgement.winner == comparison.preferred


def accuracy_value(judgement: Judgement, comparison: Comparison, unparsed_value: float) -> float:
    """What a verdict counts for in an accuracy: 1, 0, or ``unparsed_value`` without a verdict."""
    return unparsed_value if judgement.winner is None else float(is_correct(judgement, comparison))


def format_reward(judgement: Judgement, rubric: Rubric, mode: str) -> float:
    """R_fmt: 1 only if strictly well-formed (``strict``), or the share of parts present (``graded``).

    A judgement cut by length has no valid form in either mode.
    """
    if judgement.status is ParseStatus.TRUNCATED:
        return 0.0
    check = check_format(judgement, rubric)
    return float(check.strict) if mode == "strict" else check.share


def judge_reward(judgement: Judgement, rubric: Rubric, comparison: Comparison, settings: RewardSettings) -> Reward:
    """Reward of one judgement in the judge phase."""
    accuracy = float(is_correct(judgement, comparison))
    form = format_reward(judgement, rubric, settings.format_mode)
    return Reward(accuracy + settings.format_weight * form, (("accuracy", accuracy), ("format", form)))


def policy_reward(named: Sequence[Side | None]) -> Reward:
    """Reward of a policy's answer: the share of judgements that name it over the policy's own greedy one (eq. 16).

    Args:
        named: what each judgement named, "A" being the answer: one per order, or k votes per order. A judgement
            without a verdict is not won. Where nothing could be judged the answer earns 0, so that an answer too long
            for the judge does not pay.
    """
    if not named:
        return Reward(0.0, (("wins", 0.0), ("judged", 0.0)))
    wins = sum(side == "A" for side in named) / len(named)
    return Reward(wins, (("wins", wins), ("judged", sum(side is not None for side in named) / len(named))))


def rubric_reward(rubric: Rubric, verdicts: Sequence[tuple[Comparison, Judgement]], settings: RewardSettings) -> Reward:
    """Reward of one rubric: the share of the frozen judge's verdicts that are right.

    A rubric that did not parse earns 0 and must come with no verdicts. With ``unparsed: mask`` a rubric is left
    out of its group if any of its verdicts is missing, since the fault is then the judge's.
    """
    if not rubric.usable:
        if verdicts:
            raise ValueError("A rubric that did not parse cannot have verdicts.")
        return Reward(0.0, (("accuracy", 0.0), ("parsed", 0.0)))
    if not verdicts:
        raise ValueError("A usable rubric needs at least one verdict.")
    missing = any(judgement.winner is None for _, judgement in verdicts)
    accuracy = sum(is_correct(judgement, comparison) for comparison, judgement in verdicts) / len(verdicts)
    masked = missing and settings.unparsed == "mask"
    return Reward(accuracy, (("accuracy", accuracy), ("parsed", 1.0)), masked)
