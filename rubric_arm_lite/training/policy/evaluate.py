"""Evaluation of a policy against its starting point, on held-out requests.

One answer to each request is sampled from both with the same seeds. The reward model and an independent judge compare
them; win rates are plain and length-controlled. KL is that of the policy to its start, estimated on its answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rubric_arm_lite.evaluation import bootstrap_interval
from rubric_arm_lite.models import AdapterModel, Sampling, TokenBudget
from rubric_arm_lite.models.shared_prefix.batching import make_batch, make_rows, micro_batches
from rubric_arm_lite.recipe import AnswerSettings, derive_seed
from rubric_arm_lite.training.policy.state import PolicyState
from rubric_arm_lite.types import RolloutGroup

RIDGE = 1e-3
"""Penalty on the length coefficient, which keeps it finite where length alone predicts the winner."""
SCORED_AT_ONCE = 8192
"""Tokens per forward pass when answers are scored under the start."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Two evaluations between which the trained reward rose and the independent judge's win rate fell."""

    since: str
    at: str
    gained: float
    lost: float

    def text(self) -> str:
        """The alarm in words."""
        return (
            f"Reward over-optimization: from {self.since} to {self.at} the reward model's win rate rose by "
            f"{self.gained:.3f}, the independent judge's fell by {self.lost:.3f}. Prefer the policy of {self.since}, "
            "or train with a larger beta or fewer steps."
        )


def length_controlled(preferences: Sequence[float], policy: Sequence[int], start: Sequence[int]) -> float:
    """Win rate at equal length: a logistic regression on the length difference, evaluated at difference 0.

    The model is p = σ(a + b · tanh(d / s)), d the difference of lengths in tokens and s its standard deviation, fitted
    by maximum likelihood with a small penalty on b; the result is σ(a). This is the length term of AlpacaEval 2's
    length-controlled win rate (arXiv 2404.04475) without its term for how hard a prompt is. Where all answers are as
    long as the start's, or all comparisons have the same outcome, it is the plain win rate.

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
    if spread == 0.0 or rate in (0.0, 1.0):  # a constant difference cannot be separated from quality
        return rate
    x = np.tanh(difference / spread)

    def loss(theta: np.ndarray) -> float:
        logit = theta[0] + theta[1] * x
        # log(1 + e^z) - y z is the negative log-likelihood of a share y.
        return float((np.logaddexp(0.0, logit) - y * logit).mean() + 0.5 * RIDGE * theta[1] ** 2)

    fit = optimize.minimize(loss, np.array([math.log(rate / (1 - rate)), 0.0]), method="BFGS")
    return float(1.0 / (1.0 + math.exp(-fit.x[0])))


def alarms(evaluations: Sequence[Mapping[str, Any]], margin: float) -> list[Alarm]:
    """Evaluations at which the trained reward has gained at least ``margin`` and the independent judge lost as much.

    Each evaluation is compared with the earlier one at which the independent judge was best, so that a slow decline
    counts like a sudden one.

    Args:
        evaluations: rows of the log; those without an independent judge are skipped.
    """
    win_rates = [
        (row["name"], row["trained/win_rate"], row["independent/win_rate"])
        for row in evaluations
        if "independent/win_rate" in row
    ]
    raised = []
    for i, (name, trained, independent) in enumerate(win_rates[1:], start=1):
        # Of equally good ones take the one with the lowest trained reward: nothing gained since then was real.
        since, least, best = max(win_rates[:i], key=lambda earlier: (earlier[2], -earlier[1]))
        gained, lost = trained - least, best - independent
        # The tolerance keeps rounding from deciding.
        if min(gained, lost) >= margin - 1e-12 and lost > 0 and gained > 0:
            raised.append(Alarm(since, name, gained, lost))
    return raised


def compare_with_start(state: PolicyState) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Sample an answer to every held-out request from ``policy`` and ``policy_ref``, its start, and compare them.

    Returns:
        Measured values by name, and one row per request.
    """
    model, settings, seed = (
        state.models.policy,
        state.recipe.answers,
        derive_seed(state.recipe.seed, "policy evaluation"),
    )
    sampling = Sampling(settings.max_completion_length, 1, settings.temperature)
    examples = [request.example(state.prompts, seed) for request in state.requests.test]
    groups, start_groups = (model.sample(adapter, examples, sampling) for adapter in ("policy", "policy_ref"))
    samples, start = ([group.samples[0] for group in side] for side in (groups, start_groups))
    lengths, start_lengths = ([len(sample.token_ids) for sample in side] for side in (samples, start))
    comparisons = [
        request.comparison(answer.text, before.text)
        for request, answer, before in zip(state.requests.test, samples, start, strict=True)
    ]
    columns = {"trained": [verdict.preference for verdict in state.judge.verdicts(comparisons)]}
    if state.independent_judge is not None:
        columns["independent"], scores = state.independent_judge(comparisons)
        if scores is not None:
            columns["score"] = scores
    values: dict[str, float] = {}
    for name, column in columns.items():
        key = name if name == "score" else f"{name}/win_rate"
        low, high = bootstrap_interval(column, state.recipe.evaluation.bootstrap, seed)
        values |= {key: sum(column) / len(column), f"{key}_low": low, f"{key}_high": high}
        if name != "score":
            values[f"{key}_lc"] = length_controlled(column, lengths, start_lengths)
    kl = sum(sum(sample.logprobs) for sample in samples) - _logprob_under_start(model, groups, settings)
    values |= {
        "kl": kl / len(samples),
        "kl_per_token": kl / max(1, sum(lengths)),
        "length": sum(lengths) / len(samples),
        "length_start": sum(start_lengths) / len(samples),
        "truncated": sum(sample.finish_reason == "length" for sample in samples) / len(samples),
        "distinct": len({sample.text for sample in samples}) / len(samples),
    }
    rows = [
        {"prompt_id": c.comparison_id, "prompt": c.prompt, "answer": c.response_a, "start": c.response_b}
        | {name: column[i] for name, column in columns.items()}
        for i, c in enumerate(comparisons)
    ]
    return values, rows


@torch.no_grad()
def _logprob_under_start(model: AdapterModel, groups: Sequence[RolloutGroup], settings: AnswerSettings) -> float:
    """Sum over all answers of their log-probability under ``policy_ref``, in nats."""
    total = 0.0
    rows = make_rows(groups, [[0.0]] * len(groups), "grpo", settings.max_completion_length)
    with model.using("policy_ref") as peft_model:
        for micro_batch in micro_batches(rows, TokenBudget.flat(SCORED_AT_ONCE), model.layout):
            batch = make_batch(micro_batch, int(model.tokenizer.pad_token_id), model.device, model.layout)
            scores = model.score(peft_model, batch, settings.temperature, model.layout)
            total += float((scores.logprobs * batch.mask_RC).double().sum())
    return total
