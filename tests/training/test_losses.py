"""Losses: against numbers worked by hand, and against TRL's GRPOTrainer on the same rollouts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rubric_arm_lite.models import logprobs
from rubric_arm_lite.models.logprobs import TokenScores, score_tokens
from rubric_arm_lite.models.shared_prefix.batching import Layout
from rubric_arm_lite.training.advantages import group_advantages
from rubric_arm_lite.training.learner import Learner
from rubric_arm_lite.training.losses import LossParts, grpo_loss, k3
from rubric_arm_lite.types import Reward, RolloutGroup
from tests import tiny

# --- by hand ------------------------------------------------------------------------------------------------------

RATIOS = torch.tensor([[1.5, 0.5, 1.1], [1.5, 0.5, 9.0]])
ADVANTAGES = torch.tensor([1.0, -2.0])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
OLD = torch.tensor([[-1.0, -2.0, -3.0], [-1.5, -0.5, 7.0]])


def by_hand(**changes: Any) -> tuple[LossParts, Tensor]:
    """The loss of the table above and its gradient with respect to the log-probs."""
    logprobs = (OLD + RATIOS.log()).requires_grad_()
    fields: dict[str, Any] = {
        "old_logprobs_RC": OLD,
        "ref_logprobs_RC": None,
        "advantages_R": ADVANTAGES,
        "mask_RC": MASK,
        "weights_RC": MASK.float(),
        "entropy_factors_R": torch.ones(2),
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "entropy_coef": 0.0,
    }
    entropies = torch.tensor([[0.3, 0.2, 0.1], [0.4, 0.5, 9.0]])
    parts = grpo_loss(TokenScores(logprobs, entropies), **{**fields, **changes})
    parts.loss.backward()
    return parts, logprobs.grad


def test_clipping_on_both_sides() -> None:
    """A = 1: 1.5 is held at 1.28, 0.5 counts in full. A = -2: 0.5 is held at 0.8, 1.5 counts in full."""
    parts, gradient = by_hand()
    assert parts.loss.item() == pytest.approx(-(1.28 + 0.5 + 1.1) + 2 * (1.5 + 0.8), rel=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.5, -1.1], [3.0, 0.0, 0.0]]))
    assert parts.clipped_sum.item() == 2
    assert parts.max_log_ratio.item() == pytest.approx(math.log(2))


def test_weights_scale_tokens() -> None:
    weights = torch.tensor([[0.5, 0.25, 1.0], [2.0, 0.0, 0.0]])
    parts, gradient = by_hand(weights_RC=weights)
    assert parts.loss.item() == pytest.approx(-(0.5 * 1.28 + 0.25 * 0.5 + 1.1) + 2 * 2 * 1.5, rel=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -0.125, -1.1], [6.0, 0.0, 0.0]]))


def test_k3_kl() -> None:
    """Reference at twice, half and the same probability: k3 = 2 - ln 2 - 1, 1/2 + ln 2 - 1 and 0."""
    logprobs = OLD + RATIOS.log()
    gaps = torch.tensor([[math.log(2), -math.log(2), 0.0], [0.0, math.log(2), 50.0]])
    each = [1 - math.log(2), math.log(2) - 0.5, 0.0, 0.0, 1 - math.log(2)]
    torch.testing.assert_close(k3(logprobs, logprobs + gaps)[MASK.bool()], torch.tensor(each), atol=1e-6, rtol=0)
    plain, gradient = by_hand()
    with_kl, kl_gradient = by_hand(ref_logprobs_RC=logprobs + gaps, beta=0.1)
    assert with_kl.kl_sum.item() == pytest.approx(sum(each), rel=1e-5)
    assert with_kl.loss.item() - plain.loss.item() == pytest.approx(0.1 * sum(each), rel=1e-4)
    # d k3 / d logp = 1 - exp(gap), and nothing on padding, however wild its values.
    slope = 0.1 * torch.tensor([[-1.0, 0.5, 0.0], [0.0, -1.0, 0.0]])
    torch.testing.assert_close(kl_gradient - gradient, slope, atol=1e-6, rtol=0)


def test_kl_is_reported_without_beta() -> None:
    """References given for the log alone leave the loss as it is."""
    plain, _ = by_hand()
    watched, _ = by_hand(ref_logprobs_RC=OLD)
    assert watched.loss.item() == plain.loss.item()
    assert watched.kl_sum.item() > 0


def test_entropy_term() -> None:
    plain, _ = by_hand()
    parts, _ = by_hand(entropy_coef=0.5)
    assert parts.entropy_sum.item() == pytest.approx(1.5)
    assert parts.loss.item() == pytest.approx(plain.loss.item() - 0.5 * 1.5, rel=1e-6)
    factors, _ = by_hand(entropy_coef=0.5, entropy_factors_R=torch.tensor([2.0, 0.5]))
    assert factors.loss.item() == pytest.approx(plain.loss.item() - 0.5 * (2 * 0.6 + 0.5 * 0.9), rel=1e-6)


def test_padding_cannot_spoil_the_loss() -> None:
    old = OLD.clone()
    old[1, 2] = -1e4
    parts, gradient = by_hand(old_logprobs_RC=old)
    clean, clean_gradient = by_hand()
    assert parts.loss.item() == clean.loss.item()
    torch.testing.assert_close(gradient, clean_gradient)


def test_beta_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="reference log-probs"):
        by_hand(beta=0.1)


# --- log-probs in chunks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_scores_equal_unchunked(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, 40, (53,))
    start = torch.randn(53, 8)

    def run() -> list[Tensor]:
        hidden = start.clone().requires_grad_()
        torch.manual_seed(1)
        head = torch.nn.Linear(8, 40)
        logp, entropy = score_tokens(hidden, targets, head, temperature, vocabulary=40)
        (logp.sin().sum() + entropy.square().sum()).backward()
        return [logp, entropy, hidden.grad, head.weight.grad, head.bias.grad]

    whole = run()
    expected = torch.log_softmax(torch.nn.functional.linear(start, *_linear()) / temperature, -1)
    torch.testing.assert_close(whole[0], expected.gather(-1, targets[:, None]).squeeze(-1))
    torch.testing.assert_close(whole[1], -(expected.exp() * expected).sum(-1))
    monkeypatch.setattr(logprobs, "LOGIT_BYTES", {"cpu": 1, "cuda": 1})  # the smallest chunk, 16 tokens
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def _linear() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    head = torch.nn.Linear(8, 40)
    return head.weight, head.bias


# --- the oracle ---------------------------------------------------------------------------------------------------

TOLERANCE = 1e-5
REWARDS = [[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 1.0]]
"""One group has no spread, as happens."""
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "grpo": {"loss_type": "grpo", "beta": 0.0},
    "grpo, entropy": {"loss_type": "grpo", "beta": 0.0, "entropy_coef": 0.05},
    "grpo, kl, entropy, cut": {"beta": 0.1, "entropy_coef": 0.05, "mask_truncated_completions": True},
    "grpo, kl": {"loss_type": "grpo", "beta": 0.1},
    "grpo, hot, cut": {"loss_type": "grpo", "beta": 0.1, "temperature": 1.3, "mask_truncated_completions": True},
    "dapo": {"loss_type": "dapo", "beta": 0.0},
    "dapo, kl, entropy": {"loss_type": "dapo", "beta": 0.1, "entropy_coef": 0.05},
    "dapo, cold, cut": {"loss_type": "dapo", "beta": 0.1, "temperature": 0.8, "mask_truncated_completions": True},
    "dr_grpo": {"loss_type": "dr_grpo", "beta": 0.0, "scale_rewards": "none"},
    "dr_grpo, kl": {"loss_type": "dr_grpo", "beta": 0.1, "scale_rewards": "none", "epsilon": 0.1, "epsilon_high": 0.5},
    "dr_grpo, entropy": {"loss_type": "dr_grpo", "beta": 0.1, "entropy_coef": 0.05},
    "dr_grpo, cut": {"loss_type": "dr_grpo", "beta": 0.1, "mask_truncated_completions": True},
}


def our_side(folder: Path, case: dict[str, Any], **more: Any) -> tuple[Learner, list[RolloutGroup]]:
    """A learner and rollouts of mixed length, some ended and some cut; ``more`` are fields of the model."""
    fields = {"max_grad_norm": 1e9, "learning_rate": 1e-3, **case}
    recipe = tiny.recipe(folder, more, judge={"num_generations": 4, "max_completion_length": 16, **fields})
    model = tiny.load(folder, **more)
    model.end_ids = frozenset(range(4, 40))  # a random model hardly ever says its end token
    groups = tiny.rollouts(model, "judge", tokens=16, temperature=recipe.judge.temperature)
    model.end_ids = frozenset({model.tokenizer.eos_token_id})
    return Learner(model, recipe), [_ended(group, model.tokenizer.eos_token_id) for group in groups]


def _ended(group: RolloutGroup, eos: int) -> RolloutGroup:
    """The group with the true end token where a sample stopped: TRL recognizes no other."""
    samples = [
        replace(s, token_ids=(*s.token_ids[:-1], eos)) if s.finish_reason == "stop" else s for s in group.samples
    ]
    return replace(group, samples=tuple(samples))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("layout", "checkpointing"),
    # There is no expanded layout under gradient checkpointing, which allows no cache.
    [("packed", False), ("packed", True), ("expanded", False), ("separate", False), ("separate", True)],
)
def test_loss_and_gradients_equal_trl(
    name: str, layout: Layout, checkpointing: bool, tiny_folder: tiny.Folders, tmp_path: Path
) -> None:
    """Second inner iteration: old log-probs from before a change of the policy, so that both clips bite."""
    from tests.trl_oracle import Oracle

    learner, groups = our_side(tiny_folder(), CASES[name], gradient_checkpointing=checkpointing)
    learner.layout = layout
    model, settings = learner.model, learner.recipe.judge
    lengths = {len(s.token_ids) for g in groups for s in g.samples}
    reasons = {s.finish_reason for g in groups for s in g.samples}
    assert len(lengths) > 3 and reasons == {"stop", "length"}, "the rollouts must be mixed to prove anything"

    theirs = Oracle(model, settings.model_copy(update={"num_iterations": 2}), groups, REWARDS, "judge", tmp_path)
    inputs = theirs.inputs()
    assert "old_per_token_logps" in inputs
    groups = _with_logprobs(groups, inputs["old_per_token_logps"])
    tiny.stir(model, "judge", seed=5, scale=0.05)
    theirs.copy(model, "judge")
    loss, gradients = theirs.loss(inputs)

    advantages = [group_advantages([Reward(r) for r in row], settings.scale_rewards) for row in REWARDS]
    flat = [value for group in advantages for value in group.values]
    torch.testing.assert_close(torch.tensor(flat), inputs["advantages"], atol=TOLERANCE, rtol=0)
    metrics = learner.update("judge", groups, advantages).values
    assert metrics["clip_ratio"] > 0
    assert metrics["loss"] == pytest.approx(loss, abs=TOLERANCE)
    ours = {n.replace(".judge.", ".default."): p.grad for n, p in model.parameters("judge")}
    assert ours.keys() == gradients.keys()
    largest = max(g.abs().max().item() for g in gradients.values())
    assert largest > 1e-2
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(ours[parameter], gradient, atol=TOLERANCE * max(1.0, largest), rtol=0)
    theirs_logged = theirs.trainer._metrics["train"]
    if settings.beta and not settings.mask_truncated_completions:
        assert metrics["kl"] == pytest.approx(theirs_logged["kl"][-1], abs=TOLERANCE)
    if not settings.mask_truncated_completions and (settings.beta or settings.entropy_coef):  # all rows are scored
        assert metrics["entropy"] == pytest.approx(theirs_logged["entropy"][-1], abs=TOLERANCE)
        assert metrics["clip_ratio"] == pytest.approx(theirs_logged["clip_ratio/region_mean"][-1], abs=TOLERANCE)


def _with_logprobs(groups: list[RolloutGroup], old: Tensor) -> list[RolloutGroup]:
    """The groups with TRL's old log-probs; where we kept the sampled token they must be the sampled ones."""
    rows = iter(old)
    found = []
    for group in groups:
        samples = []
        for sample in group.samples:
            theirs = next(rows)[: len(sample.token_ids)].tolist()
            kept = len(sample.token_ids) - (sample.finish_reason == "stop")
            if any(theirs):
                assert sample.logprobs[:kept] == pytest.approx(theirs[:kept], abs=TOLERANCE)
            samples.append(replace(sample, logprobs=tuple(theirs)))
        found.append(replace(group, samples=tuple(samples)))
    return found


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_trained_adapter_equals_trl(loss_type: str, tiny_folder: tiny.Folders, tmp_path: Path) -> None:
    """Two inner iterations, gradient clipping and AdamW included: the trained weights agree.

    The old log-probs are as sampled, to within rounding (checked by ``_with_logprobs``). That rounding is taken out,
    because AdamW divides small gradients by their own size and so magnifies it a hundredfold.
    """
    from tests.trl_oracle import Oracle

    case = {"loss_type": loss_type, "beta": 0.05, "num_iterations": 2, "max_grad_norm": 0.5, "weight_decay": 0.01}
    learner, _ = our_side(tiny_folder(), case)
    groups = tiny.rollouts(learner.model, "judge", tokens=16)
    before = tiny.weights(learner.model, "judge")
    oracle = Oracle(learner.model, learner.recipe.judge, groups, REWARDS, "judge", tmp_path)
    groups = _with_logprobs(groups, oracle.inputs()["old_per_token_logps"])
    theirs = oracle.train()
    learner.update("judge", groups, [group_advantages([Reward(r) for r in row]) for row in REWARDS])
    for name, parameter in learner.model.parameters("judge"):
        moved = (parameter - before[name]).abs().max().item()
        difference = (parameter - theirs[name.replace(".judge.", ".default.")]).abs().max().item()
        assert moved > 1e-3
        assert difference < 1e-3 * moved, name
