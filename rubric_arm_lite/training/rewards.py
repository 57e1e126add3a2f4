"""Rewards of all roles: pure functions, and in training the only code that reads the label.

Judge: R_j = R_acc + format_weight · R_fmt (paper, sec. 4.2). Generator: 1 if the frozen judge under this rubric names
the preferred response (eq. 8), averaged over pairs and orders. The paper states no weight of the format term; ours is
a recipe field with default 1. With a pointwise judge (RUBRIC-ARROW, arXiv 2605.29156) right is +1 and wrong −1;
:func:`pointwise_judge_rewards` and :func:`pointwise_rubric_rewards` state what that paper leaves open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rubric_arm_lite.evaluation.metrics import follows_findings, format_reward
from rubric_arm_lite.recipe import RewardSettings
from rubric_arm_lite.reward_model import PointwiseVerdict, Verdict
from rubric_arm_lite.reward_model.verdict import TIE
from rubric_arm_lite.types import Judgement, LabeledComparison, Reward, Rubric, Side


def judge_reward(
    judgement: Judgement,
    rubric: Rubric,
    labeled: LabeledComparison,
    settings: RewardSettings,
    agreement: float = 0.0,
) -> Reward:
    """Reward of one judgement in the judge phase; with ``faithful`` a verdict against its findings has no format.

    Args:
        agreement: the share of the other order's judgements that name the same response; 0 if there is no other order.
    """
    accuracy = float(judgement.winner == labeled.preferred)
    form = format_reward(judgement, rubric, settings.format_mode)
    if settings.faithful and follows_findings(judgement, rubric) is False:
        form = 0.0
    total = accuracy + settings.format_weight * form
    if settings.consistency_weight == 0:
        return Reward(total, (("accuracy", accuracy), ("format", form)))
    parts = (("accuracy", accuracy), ("format", form), ("consistency", agreement))
    return Reward(total + settings.consistency_weight * agreement, parts)


def policy_reward(winners: Sequence[Side | None]) -> Reward:
    """Reward of a policy's answer: the share of judgements that name it over the policy's own greedy one (eq. 16).

    Args:
        winners: of each judgement, with the answer as "A": one or k votes per order. A judgement without a winner is
            not won; without any judgement the answer earns 0, so that an answer too long for the judge does not pay.
    """
    if not winners:
        return Reward(0.0, (("wins", 0.0), ("judged", 0.0)))
    wins = sum(side == "A" for side in winners) / len(winners)
    return Reward(wins, (("wins", wins), ("judged", sum(side is not None for side in winners) / len(winners))))


def is_judged(rubric: Rubric, settings: RewardSettings) -> bool:
    """Whether a sampled rubric is shown to the frozen judge; else it earns what a malformed rubric earns."""
    return rubric.usable and not (settings.repeated_criteria == "zero" and rubric.repeats)


def rubric_reward(
    rubric: Rubric, verdicts: Sequence[tuple[LabeledComparison, Verdict]], settings: RewardSettings
) -> Reward:
    """Reward of one rubric: the share of the frozen judge's judgements that are right (eq. 8).

    A rubric that :func:`is_judged` denies earns 0 and must come with no verdicts. With ``unparsed: mask`` a rubric is
    left out of its group if any judgement names no winner, since the fault is then the judge's.
    """
    if not is_judged(rubric, settings):
        if verdicts:
            raise ValueError("A rubric that is not judged cannot have verdicts.")
        return Reward(0.0, (("accuracy", 0.0), ("parsed", float(rubric.usable))))
    outcomes = [(winner, labeled.preferred) for labeled, verdict in verdicts for winner in verdict.winners]
    if not outcomes:
        raise ValueError("A usable rubric needs at least one verdict.")
    accuracy = sum(winner == preferred for winner, preferred in outcomes) / len(outcomes)
    masked = settings.unparsed == "mask" and any(winner is None for winner, _ in outcomes)
    return Reward(accuracy, (("accuracy", accuracy), ("parsed", 1.0)), masked)


# --- pointwise (RUBRIC-ARROW) ---------------------------------------------------------------------------------------


def pointwise_judge_rewards(
    scores_a: Sequence[float | None], scores_b: Sequence[float | None], labeled: LabeledComparison
) -> tuple[list[Reward], list[Reward]]:
    """Rewards of the judge's samples on both responses of a pair, by their scores (None: broken format).

    A sample on the preferred response earns +1 if its score is above the mean score of the other response's samples,
    a sample on the other one if its score is below the preferred one's mean; else −1, as for a broken format. The mean
    is over readable samples. If the other side has none, a readable sample earns 0, so that the format still pays.
    """
    readable_a, readable_b = ([score for score in scores if score is not None] for scores in (scores_a, scores_b))
    mean_a, mean_b = (math.fsum(scores) / len(scores) if scores else None for scores in (readable_a, readable_b))
    return (
        [_pointwise_judge_reward(score, mean_b, labeled.preferred == "A") for score in scores_a],
        [_pointwise_judge_reward(score, mean_a, labeled.preferred == "B") for score in scores_b],
    )


def _pointwise_judge_reward(score: float | None, other: float | None, preferred: bool) -> Reward:
    if score is None:
        return Reward(-1.0, (("accuracy", 0.0), ("format", 0.0)))
    if other is None:
        return Reward(0.0, (("accuracy", 0.5), ("format", 1.0)))
    right = (score - other if preferred else other - score) > TIE
    return Reward(1.0 if right else -1.0, (("accuracy", float(right)), ("format", 1.0)))


def pointwise_rubric_rewards(
    rubrics: Sequence[Rubric],
    verdicts: Sequence[Sequence[tuple[LabeledComparison, PointwiseVerdict]]],
    settings: RewardSettings,
) -> list[Reward]:
    """Rewards of one group of rubrics, given the frozen judge's verdicts on every comparison.

    A comparison counts +1 if the preferred response scores above the other one, and −1 for a tie, a lower score or a
    missing one; the reward is the mean over the comparisons. With ``unparsed: mask`` a missing score leaves the rubric
    out of its group instead. A rubric that is not judged earns −1 and must come with no verdicts. If the rubrics that
    are right on every comparison have ``short_from`` criteria or more on average, those of them with the fewest
    criteria earn ``short_bonus`` more.
    """
    rewards = []
    for rubric, judged in zip(rubrics, verdicts, strict=True):
        if is_judged(rubric, settings) != bool(judged):
            raise ValueError("A rubric needs at least one scored comparison if it is judged, else none.")
        if not judged:
            rewards.append(Reward(-1.0, (("accuracy", 0.0), ("short", 0.0), ("parsed", float(rubric.usable)))))
            continue
        accuracy = sum(verdict.winner == labeled.preferred for labeled, verdict in judged) / len(judged)
        masked = settings.unparsed == "mask" and any(verdict.margin is None for _, verdict in judged)
        parts = (("accuracy", accuracy), ("short", 0.0), ("parsed", 1.0))
        rewards.append(Reward(2 * accuracy - 1, parts, masked))
    right = [reward.total == 1.0 and not reward.masked for reward in rewards]
    lengths = [len(rubric.criteria) for rubric, is_right in zip(rubrics, right, strict=True) if is_right]
    if not lengths or sum(lengths) < settings.short_from * len(lengths):
        return rewards
    for i, (rubric, is_right) in enumerate(zip(rubrics, right, strict=True)):
        if is_right and len(rubric.criteria) == min(lengths):
            with_bonus = {**dict(rewards[i].parts), "short": settings.short_bonus}
            rewards[i] = Reward(rewards[i].total + settings.short_bonus, tuple(with_bonus.items()))
    return rewards
