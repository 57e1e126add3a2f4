"""Evaluation of a policy against its starting point, on held-out requests.

One answer to each request is sampled from both with the same seeds. The reward model and an independent judge compare
them; win rates are plain and length-controlled. KL is that of the policy to its start, estimated on its answers.
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
from rubric_arm_lite.recipe import AnswerSettings, PolicyEvaluationSettings, derive_seed
from rubric_arm_lite.training.policy.judges import FixedRubricJudge, IndependentJudge, Request
from rubric_arm_lite.types import Example, RolloutGroup

RIDGE = 1e-3
"""Penalty on the length coefficient, which keeps it finite where length alone predicts the winner."""
SCORED_AT_ONCE = 8192
"""Tokens per forward pass when answers are scored under the start."""


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
    if spread == 0.0 or rate in (0.0, 1.0):  # a constant difference cannot be separated from quality
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
    for i, point in enumerate(curve[1:], start=1):
        # Of equally good ones take the one with the lowest trained reward: nothing gained since then was real.
        best = max(curve[:i], key=lambda earlier: (earlier.independent, -earlier.trained))
        gained, lost = point.trained - best.trained, best.independent - point.independent
        # The tolerance keeps rounding from deciding.
        if min(gained, lost) >= margin - 1e-12 and lost > 0 and gained > 0:
            raised.append(Alarm(best.name, point.name, gained, lost))
    return raised


@dataclass(frozen=True, slots=True)
class PolicyEvaluation:
    """Measured values by name, and one row per request."""

    name: str
    values: dict[str, float]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class PolicyEvaluator:
    """Compares the adapter ``policy`` with ``policy_ref``, its start."""

    model: AdapterModel
    prompts: PromptBuilder
    judge: FixedRubricJudge
    independent: IndependentJudge | None
    requests: Sequence[Request]
    answers: AnswerSettings
    settings: PolicyEvaluationSettings
    seed: int

    def evaluate(self, name: str) -> PolicyEvaluation:
        """Sample an answer to every request from both adapters and compare them."""
        policy, start = self._sample("policy"), self._sample("policy_ref")
        comparisons = [
            request.comparison(answer.samples[0].text, before.samples[0].text)
            for request, answer, before in zip(self.requests, policy, start, strict=True)
        ]
        lengths, start_lengths = ([len(g.samples[0].token_ids) for g in groups] for groups in (policy, start))
        rows: list[dict[str, Any]] = [
            {"prompt_id": c.comparison_id, "prompt": c.prompt, "answer": c.response_a, "start": c.response_b}
            for c in comparisons
        ]
        values: dict[str, float] = {}

        def win_rates(judge: str, preferences: Sequence[float]) -> None:
            self._add_mean(f"{judge}/win_rate", preferences, values)
            values[f"{judge}/win_rate_lc"] = length_controlled(preferences, lengths, start_lengths)

        def column(key: str, entries: Sequence[float]) -> None:
            for row, entry in zip(rows, entries, strict=True):
                row[key] = entry

        trained = self.judge.preferences(comparisons)
        win_rates("trained", trained)
        column("trained", trained)
        if self.independent is not None:
            independent = self.independent.preferences(comparisons)
            win_rates("independent", independent)
            scores = self.independent.scores(comparisons)
            if scores is not None:
                self._add_mean("score", scores, values)
                column("score", scores)
            column("independent", independent)
        samples = [group.samples[0] for group in policy]
        kl = sum(sum(s.logprobs) for s in samples) - self._logprob_under_start(policy)
        values |= {
            "kl": kl / len(samples),
            "kl_per_token": kl / max(1, sum(lengths)),
            "length": sum(lengths) / len(samples),
            "length_start": sum(start_lengths) / len(samples),
            "cut": sum(s.finish_reason == "length" for s in samples) / len(samples),
            "distinct": len({s.text for s in samples}) / len(samples),
        }
        return PolicyEvaluation(name, values, rows)

    def _sample(self, adapter: str) -> list[RolloutGroup]:
        seed = derive_seed(self.seed, "policy evaluation")
        examples = [
            Example(r.prompt_id, self.prompts.policy_prompt(r.text), derive_seed(seed, r.prompt_id))
            for r in self.requests
        ]
        sampling = Sampling(self.answers.max_completion_length, 1, self.answers.temperature)
        return self.model.sample(adapter, examples, sampling)

    def _add_mean(self, name: str, entries: Sequence[float], values: dict[str, float]) -> None:
        """Add the mean of some entries and its interval to the values."""
        low, high = bootstrap_interval(entries, self.settings.bootstrap, derive_seed(self.seed, "policy evaluation"))
        values |= {name: sum(entries) / len(entries), f"{name}_low": low, f"{name}_high": high}

    @torch.no_grad()
    def _logprob_under_start(self, groups: Sequence[RolloutGroup]) -> float:
        """Sum over all answers of their log-probability under ``policy_ref``, in nats."""
        model, total = self.model, 0.0
        rows = make_rows(groups, [[0.0]] * len(groups), "grpo", self.answers.max_completion_length)
        with model.using("policy_ref") as peft_model:
            for micro_batch in micro_batches(rows, TokenBudget.flat(SCORED_AT_ONCE), model.layout):
                batch = make_batch(micro_batch, int(model.tokenizer.pad_token_id), model.device, model.layout)
                scores = model.score(peft_model, batch, self.answers.temperature, model.layout)
                total += float((scores.logprobs * batch.mask_RC).double().sum())
        return total
