"""Group-relative advantages: (r - mean) / (std + 1e-4) within the group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Literal

from rubric_arm_lite.types import Example, Reward

EPSILON = 1e-4


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Advantages of one group, one per sample; None for a masked sample.

    ``informative`` is False if the rewards have no spread, so that the group carries no gradient.
    """

    values: tuple[float | None, ...]
    informative: bool


def group_advantages(rewards: Sequence[Reward], scale: Literal["group", "none"] = "group") -> GroupAdvantages:
    """Center the rewards of one group, and divide by their standard deviation if ``scale`` is ``group``.

    The standard deviation is the sample's (n - 1), as in TRL. Masked rewards get no advantage and do not count in
    the mean. Example: rewards 1, 0, 0, 1 give ±0.5 / (0.57735 + 1e-4) = ±0.86587.
    """
    counted = [r.total for r in rewards if not r.masked]
    if len(counted) < 2:
        return GroupAdvantages(tuple(None if r.masked else 0.0 for r in rewards), False)
    mean = math.fsum(counted) / len(counted)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in counted) / (len(counted) - 1))
    divisor = std + EPSILON if scale == "group" else 1.0
    informative = max(counted) > min(counted)
    values = tuple(None if r.masked else (r.total - mean) / divisor if informative else 0.0 for r in rewards)
    return GroupAdvantages(values, informative)


def by_group(examples: Sequence[Example]) -> list[list[int]]:
    """The indices of neighboring examples of one ``group``; an example without one is alone."""
    neighbors = groupby(range(len(examples)), lambda index: examples[index].group or index)
    return [list(indices) for _, indices in neighbors]


def advantages_by_group(
    examples: Sequence[Example], rewards: Sequence[Sequence[Reward]], scale: Literal["group", "none"] = "group"
) -> list[GroupAdvantages]:
    """The advantages of every example's samples; neighboring examples of one ``group`` are centered together."""
    advantages: list[GroupAdvantages] = []
    for indices in by_group(examples):
        rows = [rewards[index] for index in indices]
        together = group_advantages([reward for row in rows for reward in row], scale)
        values = iter(together.values)
        advantages += [GroupAdvantages(tuple(islice(values, len(row))), together.informative) for row in rows]
    return advantages
