"""The variance probe: its estimators against a closed form, its gradients against finite differences."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import cast

import pytest
import torch

from rubric_arm_lite import RubricRewardModel
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.models import AdapterModel, NextWords
from rubric_arm_lite.training import probe_variance
from rubric_arm_lite.training.variance import _verdict, mean_terms, terms_of
from tests.cli.test_cli import call, refused

SIGMOID = torch.sigmoid
THETA, PHI = 0.4, (1.2, -0.7)


def two_arms() -> tuple[list[float], list[float], list[float]]:
    """A softmax policy over two rubrics with logits (θ, 0), and a judge with logit φ_r: q, p and u_r by autograd."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([theta, torch.zeros((), dtype=torch.float64)])
    logq = logits.log_softmax(0)
    scores = [float(torch.autograd.grad(logq[r], theta, retain_graph=True)[0]) for r in (0, 1)]
    return logq.exp().tolist(), [float(SIGMOID(torch.tensor(phi, dtype=torch.float64))) for phi in PHI], scores


def closed_form() -> tuple[float, float]:
    """Var(ĝ_B) and E[Var(ĝ_A | r)] of the two-armed policy, written out."""
    q = 1 / (1 + math.exp(-THETA))
    p1, p0 = (1 / (1 + math.exp(-phi)) for phi in PHI)
    generator = q * p1 * (1 - q) ** 2 + (1 - q) * p0 * q**2 - (q * (1 - q) * (p1 - p0)) ** 2
    judge = q * p1 * (1 - p1) ** 3 + (1 - q) * p0 * (1 - p0) ** 3  # u_j = d log σ(φ) / dφ = 1 - p
    return generator, judge


def test_enumerated_rubrics_give_the_closed_form() -> None:
    q, p, u = two_arms()
    mean = sum(w * p_k * u_k for w, p_k, u_k in zip(q, p, u, strict=True))
    terms = terms_of(p, [x * x for x in u], [(1 - p_k) ** 2 for p_k in p], mean**2, weights=q)
    generator, judge = closed_form()
    assert terms.generator_variance == pytest.approx(generator, rel=1e-12)
    assert terms.judge_variance == pytest.approx(judge, rel=1e-12)
    assert terms.values["difference"] == pytest.approx(generator - judge, rel=1e-9)
    c1 = terms.inconsistency / terms.second_moment
    bound = math.sqrt((1 - terms.p) / (1 - terms.p + c1 * terms.p))
    assert terms.values["norm_bound"] == pytest.approx(bound) and 0 < bound < 1


def test_sampled_rubrics_and_the_gradients_themselves_agree_within_one_percent() -> None:
    q, p, u = two_arms()
    generator, judge = closed_form()
    rng = random.Random(0)
    prompts = []
    for _ in range(30_000):  # few rubrics each: the variance must be unbiased, not only consistent
        drawn = [int(rng.random() >= q[0]) for _ in range(4)]
        mean = sum(p[r] * u[r] for r in drawn) / 4
        prompts.append(
            terms_of([p[r] for r in drawn], [u[r] ** 2 for r in drawn], [(1 - p[r]) ** 2 for r in drawn], mean**2)
        )
    means = mean_terms(prompts)
    assert means.generator_variance == pytest.approx(generator, rel=0.01)
    assert means.judge_variance == pytest.approx(judge, rel=0.01)
    estimates = torch.tensor(
        [u[r] * (rng.random() < p[r]) for r in (int(rng.random() >= q[0]) for _ in range(200_000))], dtype=torch.float64
    )
    assert float(estimates.var()) == pytest.approx(generator, rel=0.01), "REINFORCE itself"


def test_rubrics_without_a_verdict_earn_nothing_and_do_not_count_for_the_judge() -> None:
    terms = terms_of([0.5, 0.0], [2.0, 4.0], [3.0, None], (0.5 * 0.5) ** 2 * 2.0)
    assert terms.p == 0.25 and terms.judge_norm == 3.0 and terms.judge_variance == 0.25 * 3.0
    assert terms.reward_noise == 0.25 * 2.0 / 2 and terms.rubric_norm == 3.0
    assert terms.inconsistency == pytest.approx(2 * (0.25 * 2.0 / 2 - 0.125))


def test_the_verdict_is_enumerated_and_its_gradient_is_that_of_its_logarithm(finished_run: Path) -> None:
    model = cast(AdapterModel, RubricRewardModel.from_run(finished_run).model)
    prompt = "Write a letter about rivers for doctors. Include the word silk."
    words = NextWords(prompt, "Winner: Response", (" A", " B"))
    logprobs = torch.tensor(model.next_word_logprobs("judge", [words])[0], dtype=torch.float64)
    p, norm = _verdict(model, words, 0)
    assert p == pytest.approx(float(logprobs.softmax(0)[0]), abs=1e-6)
    assert p + _verdict(model, words, 1)[0] == pytest.approx(1.0, abs=1e-6)
    assert not any(parameter.requires_grad for parameter in model.model.parameters()), "left as it was"
    from rubric_arm_lite.models.logprobs import option_rows
    from rubric_arm_lite.training.variance import _gradient

    rows = option_rows(model, model.encode(prompt), words, model.settings.max_context)
    gradient, _ = _gradient(model, "judge", rows, 1.0, lambda logprobs: logprobs.log_softmax(0)[0])
    assert float(gradient.square().sum()) == pytest.approx(norm)
    step, offset = 1e-2 / norm, 0
    with torch.no_grad():
        for _, parameter in model.parameters("judge"):
            piece = gradient[offset : offset + parameter.numel()].view_as(parameter)
            parameter += (step * piece).to(parameter.dtype)
            offset += parameter.numel()
    model.weights_changed("judge")
    after, _ = _verdict(model, words, 0)
    assert math.log(after / p) == pytest.approx(step * norm, rel=0.1), "a step along the gradient gains its length"


def test_a_run_is_measured_in_every_state(finished_run: Path) -> None:
    probe = probe_variance(finished_run, "warm-up", pairs=3, rubrics=4)
    assert probe == probe_variance(finished_run, "warm-up", pairs=3, rubrics=4), "deterministic"
    values = probe.values
    assert values["generator_variance"] == values["reward_noise"] + values["inconsistency"]
    assert 0 <= values["p"] <= 1 and values["rubric_norm"] > 0 and values["judge_norm"] > 0
    low, high = probe.intervals["difference"]
    assert low <= values["difference"] <= high
    done = call("probe", "variance", finished_run, "--pairs", "2", "--rubrics", "3", "--json")
    rows = json.loads(done.stdout)
    assert rows[0]["state"] == "warm-up" and rows[-1]["state"] == "final" and rows[0]["rubrics"] == 3
    text = call("probe", "variance", finished_run, "--state", "final", "--pairs", "2", "--rubrics", "3").stdout
    assert "5.3 holds, pairs" in text and "Var(g_B) = I + II" in text
    with pytest.raises(DataError, match="at least 1 pair and 2 rubrics"):
        probe_variance(finished_run, rubrics=1)
    assert "is not one of final" in refused("probe", "variance", finished_run, "--state", "middle")
