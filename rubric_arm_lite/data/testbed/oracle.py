"""The accuracy of a perfect judge in a world: the ceiling, and the floors, that a report shows beside its results."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from rubric_arm_lite.data.testbed.world import (
    Task,
    World,
    criterion_met,
    criterion_weight,
    make_rubric,
    parse_task,
    principle_criterion,
)
from rubric_arm_lite.types import PreferencePair, Rubric


def oracle_accuracy(pairs: Sequence[PreferencePair], rubric_of: Callable[[Task], Rubric]) -> float:
    """Accuracy of a judge without errors under the rubrics that ``rubric_of`` returns; a tie counts ½.

    Raises:
        ValueError: if a prompt is not of the testbed's world, or there are no pairs.
    """
    if not pairs:
        raise ValueError("The oracle needs at least one pair.")
    total = 0.0
    for pair in pairs:
        task = parse_task(str(pair.prompt))
        if task is None:
            raise ValueError(f"Not a prompt of the testbed's world: {pair.prompt!r}")
        rubric = rubric_of(task)
        gap = points(rubric, pair.chosen) - points(rubric, pair.rejected)
        total += 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
    return total / len(pairs)


def points(rubric: Rubric, response: str) -> int:
    """Weighted count of the criteria that a response meets."""
    return sum(criterion_weight(c) * criterion_met(c, response) for c in rubric.criteria)


def oracle(world: World, pairs: Sequence[PreferencePair]) -> dict[str, float]:
    """Accuracy under the true rubric, the hard rule alone, the best generic pair of principles, and a random pair."""
    names = world.attributes

    def fixed(first: str, second: str) -> Callable[[Task], Rubric]:
        return lambda task: make_rubric([task.hard_rule(), principle_criterion(first), principle_criterion(second)])

    def drawn(task: Task) -> Rubric:
        first, second = random.Random(f"oracle:{world.seed}:{task.prompt}").sample(names, 2)
        return fixed(first, second)(task)

    generic = max(
        oracle_accuracy(pairs, fixed(first, second)) for i, first in enumerate(names) for second in names[i + 1 :]
    )
    return {
        "true": oracle_accuracy(pairs, world.true_rubric),
        "hard_rule": oracle_accuracy(pairs, lambda task: make_rubric([task.hard_rule()])),
        "generic": generic,
        "random": oracle_accuracy(pairs, drawn),
    }
