"""Measure a policy against the one it started from, on held-out requests, the same way every time.

One answer to each request is sampled from both, with the same seeds. The reward model that the policy is trained
against and an independent judge say which is better; win rates come plain and with length taken out. KL is that of
the policy to its start, estimated on its own answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rubric_arm_lite.backends.base import Sampling
from rubric_arm_lite.backends.transformers import TwoAdapterModel
from rubric_arm_lite.batching import make_batch, make_rows, micro_batches
from rubric_arm_lite.evaluate import bootstrap_interval
from rubric_arm_lite.memory import TokenBudget
from rubric_arm_lite.policy.referee import IndependentJudge, Match, Referee, Request
from rubric_arm_lite.policy.statistics import length_controlled
from rubric_arm_lite.policy_config import AnswerSettings, PolicyEvaluationSettings
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Example, RolloutGroup

SCORED_AT_ONCE = 8192
"""Tokens that go through the network at once when answers are scored under the start."""


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
        model: TwoAdapterModel,
        prompts: PromptBuilder,
        referee: Referee,
        independent: IndependentJudge | None,
        requests: Sequence[Request],
        answers: AnswerSettings,
        settings: PolicyEvaluationSettings,
        seed: int,
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._referee = referee
        self._independent = independent
        self._requests = requests
        self._answers = answers
        self._settings = settings
        self._seed = derive_seed(seed, "policy evaluation")

    def evaluate(self, name: str) -> PolicyEvaluation:
        """Answer every request with both and compare."""
        policy, start = self._sample("policy"), self._sample("policy_ref")
        matches = [
            Match(request, mine.samples[0].text, theirs.samples[0].text)
            for request, mine, theirs in zip(self._requests, policy, start, strict=True)
        ]
        lengths = [len(group.samples[0].token_ids) for group in policy]
        before = [len(group.samples[0].token_ids) for group in start]
        trained = self._referee.preferences(matches)
        rows: list[dict[str, Any]] = [
            {
                "prompt_id": match.request.prompt_id,
                "prompt": match.request.text,
                "answer": match.answer,
                "start": match.other,
                "trained": preferred,
            }
            for match, preferred in zip(matches, trained, strict=True)
        ]
        values = self._win_rates("trained", trained, lengths, before)
        if self._independent is not None:
            independent = self._independent.preferences(matches)
            values |= self._win_rates("independent", independent, lengths, before)
            values |= self._scores(matches, rows)
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

    def _scores(self, matches: Sequence[Match], rows: list[dict[str, Any]]) -> dict[str, float]:
        """The mean of what the independent judge gives single answers, if it can."""
        scores = None if self._independent is None else self._independent.scores(matches)
        if scores is None:
            return {}
        for row, score in zip(rows, scores, strict=True):
            row["score"] = score
        low, high = bootstrap_interval(scores, self._settings.bootstrap, self._seed)
        return {"score": sum(scores) / len(scores), "score_low": low, "score_high": high}

    def _drift(self, policy: Sequence[RolloutGroup], lengths: Sequence[int], before: Sequence[int]) -> dict[str, float]:
        """How far the policy is from its start: KL, lengths, and how many different answers it gives."""
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
