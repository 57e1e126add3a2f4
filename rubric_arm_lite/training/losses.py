"""The GRPO objective and the log-probabilities it needs, exact and independent of any trainer.

Per token: ``-min(ρ A, clip(ρ, 1-ε_low, 1+ε_high) A) + β · k3 - c · H`` with ρ = exp(logp - old_logp) and
k3 = exp(ref - logp) - (ref - logp) - 1 (paper, sec. 4.2 and table 9; k3 as in GRPO). The batch's loss is the sum
over tokens of weight × token loss; the weights make it ``grpo``, ``dapo`` or ``dr_grpo``. The entropy H is weighted as
its mean over the batch's tokens for each of them, as in TRL.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rubric_arm_lite.models.logprobs import TokenScores


@dataclass(frozen=True, slots=True)
class LossParts:
    """The loss of one micro-batch, and statistics of its completion tokens without gradient: sums and a maximum."""

    loss: Tensor
    kl_sum: Tensor
    clipped_sum: Tensor
    entropy_sum: Tensor
    max_log_ratio: Tensor


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The k3 estimator of KL(policy ‖ reference) per token, never negative."""
    gap = ref_logprobs - logprobs
    return torch.exp(gap) - gap - 1


def grpo_loss(
    scores: TokenScores,
    old_logprobs_RC: Tensor,
    ref_logprobs_RC: Tensor | None,
    advantages_R: Tensor,
    mask_RC: Tensor,
    weights_RC: Tensor,
    entropy_factors_R: Tensor,
    epsilon: float,
    epsilon_high: float,
    beta: float,
    entropy_coef: float,
) -> LossParts:
    """The clipped surrogate with KL and entropy terms, summed with ``weights_RC``.

    Raises:
        ValueError: if ``beta`` is positive and no reference log-probs are given.
    """
    if beta > 0 and ref_logprobs_RC is None:
        raise ValueError("beta is positive, so reference log-probs are needed.")
    mask = mask_RC.bool()
    logp = scores.logprobs
    advantages = advantages_R[:, None]
    # Padding is set to a ratio of 1 before exp, so that no inf × 0 can arise there.
    log_ratio = torch.where(mask, logp - old_logprobs_RC, torch.zeros_like(logp))
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    per_token = -torch.minimum(ratio * advantages, clipped * advantages)
    kl = torch.zeros_like(logp)
    if ref_logprobs_RC is not None:
        kl = k3(logp, torch.where(mask, ref_logprobs_RC, logp.detach()))
    if beta > 0:
        per_token = per_token + beta * kl
    if entropy_coef:
        per_token = per_token - entropy_coef * entropy_factors_R[:, None] * scores.entropies
    low = (ratio < 1 - epsilon) & (advantages < 0)
    high = (ratio > 1 + epsilon_high) & (advantages > 0)
    loss = (torch.where(mask, per_token, torch.zeros_like(per_token)) * weights_RC).sum()
    with torch.no_grad():
        return LossParts(
            loss=loss,
            kl_sum=(kl * mask).sum(),
            clipped_sum=((low | high) & mask).sum(),
            entropy_sum=(scores.entropies * mask).sum(),
            max_log_ratio=log_ratio.abs().max(),
        )
