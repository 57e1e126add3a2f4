"""Measures the gradient variances of Theorem 5.5 on a trained model (paper, section 5 and appendix B).

A run and a state go in; a :class:`VarianceProbe` comes out. For a held-out pair, ``p(r)`` is the probability that the
judge names the preferred response under the rubric ``r``, ``u_r`` the gradient of log π(r) for the generator's adapter,
and ``u_j`` that of log p(r) for the judge's. The estimators are REINFORCE's, without a baseline, as in the paper:

- judge update, rubric fixed: Var(ĝ_A | r) = p (1 − p) ‖u_j‖², and its mean over rubrics (proposition 5.1);
- generator update, judge fixed: Var(ĝ_B) = E[p (1 − p) ‖u_r‖²] (I, reward noise) + Var(p u_r) (II, inconsistency across
  rubrics) (5.2);
- assumption 5.3: ‖u_r‖ / ‖u_j‖ > √((1 − p) / (1 − p + C₁ p)) with C₁ = Var(p u_r) / E[p² ‖u_r‖²]; the theorem concludes
  Var(ĝ_B) > E[Var(ĝ_A | r)].

The verdict is enumerated, not sampled: ``p`` is the probability of the right one of the two words that may follow
``Winner: Response``, after the judge's greedy analysis under that rubric. A rubric that does not parse, or whose
judgement has no such line, has p = 0 and no judge gradient. Expectations over rubrics are means over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluation.evaluate import evaluator_of
from rubric_arm_lite.models import NextWords, Sampling
from rubric_arm_lite.prompts import parse_rubric, prompt_hash
from rubric_arm_lite.prompts.parsing import WINNER_PREFIX
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import RubricRewardModel, check_compares
from rubric_arm_lite.training.phases import drawn_side
from rubric_arm_lite.types import Example, PreferencePair, Role

if TYPE_CHECKING:
    from torch import Tensor

    from rubric_arm_lite.models import AdapterModel
    from rubric_arm_lite.models.shared_prefix.batching import Row

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Terms:
    """The quantities of the theorem for one pair, or their means over pairs; norms are squared.

    Attributes:
        p: probability of a right verdict, mean over rubrics.
        judge_variance: E[Var(ĝ_A | r)].
        reward_noise: term I of Var(ĝ_B).
        inconsistency: term II of Var(ĝ_B).
        second_moment: E[p² ‖u_r‖²], the denominator of C₁.
        rubric_norm: E‖u_r‖².
        judge_norm: E‖u_j‖², over the rubrics that have a verdict.
    """

    p: float
    judge_variance: float
    reward_noise: float
    inconsistency: float
    second_moment: float
    rubric_norm: float
    judge_norm: float

    @property
    def generator_variance(self) -> float:
        """Var(ĝ_B) = I + II."""
        return self.reward_noise + self.inconsistency

    @property
    def values(self) -> dict[str, float]:
        """All quantities by name, also those derived from them: C₁, both sides of 5.3, and Var(ĝ_B) − E[Var(ĝ_A | r)].

        The ratio of norms is infinite for a judge so sure that its gradient vanishes.
        """
        c1 = self.inconsistency / self.second_moment if self.second_moment > 0 else 0.0
        ratio = (self.rubric_norm / self.judge_norm) ** 0.5 if self.judge_norm > 0 else float("inf")
        rest = 1 - self.p
        bound = (rest / (rest + c1 * self.p)) ** 0.5 if rest > 0 else 0.0
        own = {name: getattr(self, name) for name in self.__slots__}
        derived = {"generator_variance": self.generator_variance, "c1": c1, "norm_ratio": ratio, "norm_bound": bound}
        return {**own, **derived, "difference": self.generator_variance - self.judge_variance}


def terms_of(
    p: Sequence[float],
    rubric_norms: Sequence[float],
    judge_norms: Sequence[float | None],
    mean_norm: float,
    weights: Sequence[float] | None = None,
) -> Terms:
    """The terms of one pair from its rubrics.

    Args:
        p: probability of a right verdict under each rubric.
        rubric_norms: ‖u_r‖² of each.
        judge_norms: ‖u_j‖² of each; None without a verdict.
        mean_norm: ‖E[p u_r]‖², of the mean that the same weights give.
        weights: probabilities of the rubrics if all there are were enumerated; by default they are samples, from which
            the variance is estimated without bias.
    """
    count = len(p)
    w = list(weights) if weights is not None else [1 / count] * count
    unbiased = count / (count - 1) if weights is None else 1.0
    judged = [(w_k, p_k, norm) for w_k, p_k, norm in zip(w, p, judge_norms, strict=True) if norm is not None]
    mass = sum(w_k for w_k, _, _ in judged) or 1.0
    second = sum(w_k * p_k**2 * norm for w_k, p_k, norm in zip(w, p, rubric_norms, strict=True))
    return Terms(
        p=sum(w_k * p_k for w_k, p_k in zip(w, p, strict=True)),
        judge_variance=sum(w_k * p_k * (1 - p_k) * norm for w_k, p_k, norm in judged) / mass,
        reward_noise=sum(w_k * p_k * (1 - p_k) * norm for w_k, p_k, norm in zip(w, p, rubric_norms, strict=True)),
        inconsistency=unbiased * (second - mean_norm),
        second_moment=second,
        rubric_norm=sum(w_k * norm for w_k, norm in zip(w, rubric_norms, strict=True)),
        judge_norm=sum(w_k * norm for w_k, _, norm in judged) / mass,
    )


def mean_terms(terms: Sequence[Terms]) -> Terms:
    """The means over pairs."""
    return Terms(*(sum(getattr(t, name) for t in terms) / len(terms) for name in Terms.__slots__))


@dataclass(frozen=True, slots=True)
class VarianceProbe:
    """The theorem's quantities in one state of a run.

    Attributes:
        values: means over pairs by name, and what follows from the means (C₁, both sides of assumption 5.3, the
            ``difference`` Var(ĝ_B) − E[Var(ĝ_A | r)]).
        intervals: their 95 % intervals by a bootstrap over pairs.
        assumption: share of the pairs for which assumption 5.3 holds.
        inequality: share of the pairs for which the theorem's inequality holds.
        unread: share of the rubrics without a verdict.
    """

    state: str
    pairs: int
    rubrics: int
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    assumption: float
    inequality: float
    unread: float


def probe_variance(
    run: str | Path,
    state: str = "final",
    pairs: int = 16,
    rubrics: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> VarianceProbe:
    """Measure a state of a run on held-out pairs of different prompts.

    Args:
        pairs: most pairs; each is of another prompt.
        rubrics: rubrics sampled for each prompt, at the temperature of training.
        progress: called with the pairs done and in all.

    Raises:
        CheckpointError: if there is no such run or state.
        ConfigError: if the judge is pointwise.
        DataError: if no judgement has a verdict, or there are fewer than two rubrics.
    """
    if rubrics < 2 or pairs < 1:
        raise DataError(f"{pairs} pairs with {rubrics} rubrics have no variance. Use at least 1 pair and 2 rubrics.")
    reward_model = RubricRewardModel.from_run(run, state)
    check_compares(reward_model.recipe)
    by_prompt = {prompt_hash(pair.prompt): pair for pair in reversed(evaluator_of(reward_model, None)[0].pairs)}
    chosen = list(reversed(by_prompt.values()))[:pairs]
    found: list[Terms] = []
    unread = 0
    for number, pair in enumerate(chosen, start=1):
        p, rubric_norms, judge_norms, mean_norm = _measure(reward_model, pair, rubrics)
        unread += judge_norms.count(None)
        if judge_norms.count(None) < rubrics:
            found.append(terms_of(p, rubric_norms, judge_norms, mean_norm))
        progress(number, len(chosen))
    if not found:
        raise DataError(
            f"No judgement of {run} ({state}) has a verdict, so nothing can be measured. Use a later state."
        )
    each = [terms.values for terms in found]
    return VarianceProbe(
        state=state,
        pairs=len(found),
        rubrics=rubrics,
        values=mean_terms(found).values,
        intervals=_intervals(found, reward_model.recipe.seed),
        assumption=sum(v["norm_ratio"] > v["norm_bound"] for v in each) / len(each),
        inequality=sum(v["difference"] > 0 for v in each) / len(each),
        unread=unread / (len(chosen) * rubrics),
    )


def _measure(
    reward_model: RubricRewardModel, pair: PreferencePair, count: int
) -> tuple[list[float], list[float], list[float | None], float]:
    """For rubrics sampled for a pair's prompt: p, ‖u_r‖² and ‖u_j‖² of each, and ‖mean of p u_r‖²."""
    from rubric_arm_lite.models.shared_prefix.batching import Row

    recipe, prompts = reward_model.recipe, reward_model.prompts
    model = cast("AdapterModel", reward_model.model)
    seed, side = derive_seed(recipe.seed, "variance", pair.pair_id), drawn_side(recipe.seed, pair.pair_id)
    comparison = pair.present(side).comparison
    sampling = Sampling(recipe.rubric.max_completion_length, count, recipe.rubric.temperature)
    example = Example(pair.pair_id, prompts.rubric_prompt(pair.prompt), seed)
    (group,) = model.sample("rubric", [example], sampling)
    written = [parse_rubric(sample.text, sample.finish_reason) for sample in group.samples]
    asked = {
        rubric.text: Example(
            pair.pair_id, prompts.judge_prompt(pair.prompt, rubric, comparison.response_a, comparison.response_b), seed
        )
        for rubric in written
        if rubric.usable
    }
    greedy = Sampling(recipe.reward.judge_max_tokens, 1, 0.0)
    judged = dict(zip(asked, model.sample("judge", list(asked.values()), greedy), strict=True)) if asked else {}
    verdicts: dict[str, tuple[float, float]] = {}
    for text, judgement in judged.items():
        analysis, line, _ = judgement.samples[0].text.rpartition(WINNER_PREFIX)
        if line:
            words = NextWords(judgement.example.prompt, analysis + line, (" A", " B"))
            verdicts[text] = _verdict(model, words, "AB".index(side))
    measured = [verdicts.get(rubric.text) if rubric.usable else None for rubric in written]
    p = [0.0 if verdict is None else verdict[0] for verdict in measured]
    judge_norms = [None if verdict is None else verdict[1] for verdict in measured]
    rubric_norms: list[float] = []
    mean: Any = 0.0
    for p_k, sample in zip(p, group.samples, strict=True):
        row = Row(group.prompt_ids, sample.token_ids, sample.logprobs, 0.0, 1.0)
        gradient = _gradient(model, "rubric", [row], recipe.rubric.temperature, lambda logprobs: logprobs.sum())[0]
        rubric_norms.append(float(gradient.square().sum()))
        mean = mean + p_k / count * gradient
    return p, rubric_norms, judge_norms, float((mean * mean).sum())


def _verdict(model: AdapterModel, words: NextWords, right: int) -> tuple[float, float]:
    """The probability of the right one of two words, and the squared norm of its logarithm's gradient."""
    from rubric_arm_lite.models.logprobs import option_rows

    rows = option_rows(model, model.encode(words.prompt), words, model.settings.max_context)
    gradient, logprob = _gradient(model, "judge", rows, 1.0, lambda logprobs: logprobs.log_softmax(0)[right])
    return min(1.0, float(logprob.exp())), float(gradient.square().sum())


def _gradient(
    model: AdapterModel, role: Role, rows: list[Row], temperature: float, of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The gradient, for a role's adapter, of a function of the rows' log-probabilities, and the function's value."""
    import torch

    from rubric_arm_lite.models.shared_prefix.batching import make_batch

    batch = make_batch(rows, int(model.tokenizer.pad_token_id), model.device, model.layout)
    parameters = [parameter for _, parameter in model.parameters(role)]
    with model.using(role, train=True) as active:
        active.eval()  # without dropout: the gradient of the policy that was sampled
        logprobs = model.score(active, batch, temperature, model.layout).logprobs
        value = of((logprobs.double() * batch.mask_RC).sum(-1))
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return torch.cat([gradient.flatten().double() for gradient in flat]), value.detach()


def _intervals(terms: Sequence[Terms], seed: int) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap 95 % intervals of all values, over pairs; none for a single pair."""
    import numpy as np

    if len(terms) < 2:
        return {}
    numbers = np.array([[getattr(t, name) for name in Terms.__slots__] for t in terms])
    draws = np.random.default_rng(seed).integers(len(terms), size=(_RESAMPLES, len(terms)))
    resampled = [Terms(*map(float, numbers[draw].mean(axis=0))).values for draw in draws]
    ends = {name: np.quantile([values[name] for values in resampled], (0.025, 0.975)) for name in resampled[0]}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}
