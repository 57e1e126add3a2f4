"""Evaluation of a policy against its starting point, on held-out requests.

One answer to each request is sampled from both with the same seeds. The reward model and an independent judge compare
them; win rates are given plain and length-controlled. KL is that of the policy to its start, estimated on the policy's
own answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rubric_arm_lite.evaluation import bootstrap_interval
from rubric_arm_lite.models import AdapterModel, Sampling, TokenBudget
from rubric_arm_lite.models.shared_prefix.batching import make_batch, make_rows, micro_batches
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.recipe import AnswerSettings, derive_seed
from rubric_arm_lite.recipe.policy import PolicyEvaluationSettings
from rubric_arm_lite.training.policy.judges import FixedRubricJudge, IndependentJudge, Request
from rubric_arm_lite.types import Comparison, Example, RolloutGroup

RIDGE = 1e-3
"""Penalty on the length coefficient, which keeps it finite where length alone predicts the winner."""


@dataclass(frozen=True, slots=True)
class Point:
    """One evaluation of a run: win rates over the start by both judges."""

    name: str
    trained: float
    independent: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """Two evaluations between which the trained reward rose and the independent judge's win rate fell."""

    since: str
    at: str
    gained: float
    lost: float


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
    if spread == 0.0:
        # A constant difference cannot be separated from the quality of the answers.
        return rate
    if rate in (0.0, 1.0):
        return rate
    x = np.tanh(difference / spread)

    def loss(theta: np.ndarray) -> float:
        logit = theta[0] + theta[1] * x
        # log(1 + e^z) - y z is the negative log-likelihood of a share y.
        return float((np.logaddexp(0.0, logit) - y * logit).mean() + 0.5 * RIDGE * theta[1] ** 2)

    fit = optimize.minimize(loss, np.array([math.log(rate / (1 - rate)), 0.0]), method="BFGS")
    return float(1.0 / (1.0 + math.exp(-fit.x[0])))


def alarms(curve: Sequence[Point], margin: float) -> list[Alarm]:
    """Evaluations at which the trained reward has gained at least ``margin`` and the independent judge lost as much.

    Each evaluation is compared with the earlier one at which the independent judge was best, so that a slow decline
    counts like a sudden one.
    """
    raised = []
    for i in range(1, len(curve)):
        # Of equally good ones take the one with the lowest trained reward: all that was gained since then was in vain.
        best = max(curve[:i], key=lambda point: (point.independent, -point.trained))
        gained, lost = curve[i].trained - best.trained, best.independent - curve[i].independent
        # Rounding in the twelfth digit must not decide.
        if min(gained, lost) >= margin - 1e-12 and lost > 0 and gained > 0:
            raised.append(Alarm(best.name, curve[i].name, gained, lost))
    return raised


SCORED_AT_ONCE = 8192
"""Tokens per forward pass when answers are scored under the start."""


@dataclass(frozen=True, slots=True)
class PolicyEvaluation:
    """Measured values by name, and one row per request."""

    name: str
    values: dict[str, float]
    rows: list[dict[str, Any]]


class PolicyEvaluator:
    """Compares the adapter ``policy`` with ``policy_ref``, its start."""

    def __init__(
        self,
        model: AdapterModel,
        prompts: PromptBuilder,
        judge: FixedRubricJudge,
        independent: IndependentJudge | None,
        requests: Sequence[Request],
        answers: AnswerSettings,
        settings: PolicyEvaluationSettings,
        seed: int,
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._judge = judge
        self._independent = independent
        self._requests = requests
        self._answers = answers
        self._settings = settings
        self._seed = derive_seed(seed, "policy evaluation")

    def evaluate(self, name: str) -> PolicyEvaluation:
        """Sample an answer to every request from both and compare them."""
        policy, start = self._sample("policy"), self._sample("policy_ref")
        comparisons = [
            request.comparison(mine.samples[0].text, theirs.samples[0].text)
            for request, mine, theirs in zip(self._requests, policy, start, strict=True)
        ]
        lengths = [len(group.samples[0].token_ids) for group in policy]
        before = [len(group.samples[0].token_ids) for group in start]
        trained = self._judge.preferences(comparisons)
        rows: list[dict[str, Any]] = [
            {
                "prompt_id": c.comparison_id,
                "prompt": c.prompt,
                "answer": c.response_a,
                "start": c.response_b,
                "trained": preferred,
            }
            for c, preferred in zip(comparisons, trained, strict=True)
        ]
        values = self._win_rates("trained", trained, lengths, before)
        if self._independent is not None:
            independent = self._independent.preferences(comparisons)
            values |= self._win_rates("independent", independent, lengths, before)
            values |= self._scores(comparisons, rows)
            for row, preferred in zip(rows, independent, strict=True):
                row["independent"] = preferred
        values |= self._drift(policy, lengths, before)
        return PolicyEvaluation(name, values, rows)

    def _sample(self, adapter: str) -> list[RolloutGroup]:
        examples = [
            Example(r.prompt_id, self._prompts.policy_prompt(r.text), derive_seed(self._seed, r.prompt_id))
            for r in self._requests
        ]
        return self._model.sample(
            adapter, examples, Sampling(self._answers.max_completion_length, 1, self._answers.temperature)
        )

    def _win_rates(
        self, judge: str, preferences: Sequence[float], lengths: Sequence[int], before: Sequence[int]
    ) -> dict[str, float]:
        low, high = bootstrap_interval(preferences, self._settings.bootstrap, self._seed)
        return {
            f"{judge}/win_rate": sum(preferences) / len(preferences),
            f"{judge}/win_rate_low": low,
            f"{judge}/win_rate_high": high,
            f"{judge}/win_rate_lc": length_controlled(preferences, lengths, before),
        }

    def _scores(self, comparisons: Sequence[Comparison], rows: list[dict[str, Any]]) -> dict[str, float]:
        """Mean score of single answers by the independent judge, if it gives scores."""
        scores = None if self._independent is None else self._independent.scores(comparisons)
        if scores is None:
            return {}
        for row, score in zip(rows, scores, strict=True):
            row["score"] = score
        low, high = bootstrap_interval(scores, self._settings.bootstrap, self._seed)
        return {"score": sum(scores) / len(scores), "score_low": low, "score_high": high}

    def _drift(self, policy: Sequence[RolloutGroup], lengths: Sequence[int], before: Sequence[int]) -> dict[str, float]:
        """Distance of the policy from its start: KL, lengths, truncated and distinct answers."""
        samples = [group.samples[0] for group in policy]
        tokens = max(1, sum(lengths))
        kl = sum(sum(s.logprobs) for s in samples) - self._logprob_under_start(policy)
        return {
            "kl": kl / len(samples),
            "kl_per_token": kl / tokens,
            "length": sum(lengths) / len(samples),
            "length_start": sum(before) / len(samples),
            "cut": sum(s.finish_reason == "length" for s in samples) / len(samples),
            "distinct": len({s.text for s in samples}) / len(samples),
        }

    @torch.no_grad()
    def _logprob_under_start(self, groups: Sequence[RolloutGroup]) -> float:
        """Sum over all answers of their log-probability under ``policy_ref``, in nats."""
        model = self._model
        rows = make_rows(groups, [[0.0]] * len(groups), "grpo", self._answers.max_completion_length)
        total = 0.0
        with model.using("policy_ref") as peft_model:
            for run in micro_batches(rows, TokenBudget.flat(SCORED_AT_ONCE), model.layout):
                batch = make_batch(run, int(model.tokenizer.pad_token_id), model.device, model.layout)
                scores = model.score(peft_model, batch, self._answers.temperature, model.layout)
                total += float((scores.logprobs * batch.mask_RC).double().sum())
        return total
