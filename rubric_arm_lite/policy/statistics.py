"""Win rates of a policy over its start, with length taken out, and the alarm for reward over-optimisation.

Pure functions of numbers. A preference is 1 where the policy's answer is better, 0 where the start's is, ½ between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RIDGE = 1e-3
"""Penalty on the length coefficient, so that it stays finite where length alone would tell the winner."""


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation on the curve of a run: win rates over the start by both judges."""

    name: str
    trained: float
    independent: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """Between two evaluations the trained reward rose while the independent judge fell."""

    since: str
    at: str
    gained: float
    lost: float


def length_controlled(preferences: Sequence[float], policy: Sequence[int], start: Sequence[int]) -> float:
    """Win rate at equal length: a logistic regression on the length difference, read off at difference 0.

    The model is p = σ(a + b · tanh(d / s)), d the difference of lengths in tokens and s its standard deviation, fitted
    by maximum likelihood with a small penalty on b; the result is σ(a). This is the length term of AlpacaEval 2's
    length-controlled win rate (arXiv 2404.04475) without its term for how hard a prompt is. Where all answers are as
    long as the start's, or all comparisons end the same way, it is the plain win rate.

    Raises:
        ValueError: if the sequences are empty or of different length.
    """
    if not preferences or not len(preferences) == len(policy) == len(start):
        raise ValueError(f"Got {len(preferences)} preferences for {len(policy)} and {len(start)} lengths.")
    import numpy as np
    from scipy import optimize

    y = np.asarray(preferences, dtype=np.float64)
    rate = float(y.mean())
    difference = np.asarray(policy, dtype=np.float64) - np.asarray(start, dtype=np.float64)
    spread = float(difference.std())
    if spread == 0.0:
        # A difference that never varies cannot be told from the answers' quality.
        return rate
    if rate in (0.0, 1.0):
        return rate
    x = np.tanh(difference / spread)

    def loss(theta: np.ndarray) -> float:
        logit = theta[0] + theta[1] * x
        # log(1 + e^z) - y z is the negative log-likelihood of a share y.
        return float((np.logaddexp(0.0, logit) - y * logit).mean() + 0.5 * RIDGE * theta[1] ** 2)

    found = optimize.minimize(loss, np.array([math.log(rate / (1 - rate)), 0.0]), method="BFGS")
    return float(1.0 / (1.0 + math.exp(-found.x[0])))


def alarms(curve: Sequence[Point], margin: float) -> list[Alarm]:
    """Where the trained reward has gained at least ``margin`` while the independent judge lost at least as much.

    Each evaluation is compared with the one before it at which the independent judge was best, so that a slow decline
    counts as much as a sudden one.
    """
    found = []
    for i in range(1, len(curve)):
        # Of equally good ones the one that the trained judge liked least: what it gained since then was for nothing.
        best = max(curve[:i], key=lambda point: (point.independent, -point.trained))
        gained, lost = curve[i].trained - best.trained, best.independent - curve[i].independent
        # Rounding in the twelfth digit must not decide.
        if min(gained, lost) >= margin - 1e-12 and lost > 0 and gained > 0:
            found.append(Alarm(best.name, curve[i].name, gained, lost))
    return found
