"""Cost and quality of judging: seconds, tokens and accuracy of several judges on the same pairs.

Every judge gets all pairs at once, chosen response first; writing the rubrics and judging are timed separately. Judging
the other order gives the accuracy in both orders and the position bias; it is not in the total, since a user judges
once. On request some pairs are also judged one at a time, which gives the seconds per answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from rubric_arm_lite.data import load_data
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.evaluation.benchmarks.paper import SECONDS
from rubric_arm_lite.evaluation.evaluate import AdapterPair
from rubric_arm_lite.evaluation.metrics import mean, order_statistics, verdict_row
from rubric_arm_lite.models import AdapterModel, ChatSampler, Sampling
from rubric_arm_lite.models.journaled import MeteredSampler
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.prompts.builder import DirectPrompts
from rubric_arm_lite.prompts.parsing import parse_direct
from rubric_arm_lite.recipe import Recipe, derive_seed
from rubric_arm_lite.reward_model import (
    RubricCache,
    RubricGenerator,
    RubricRewardModel,
    Verdict,
    longest_sequence,
    majority,
)
from rubric_arm_lite.reward_model.judge import pairwise_judge
from rubric_arm_lite.reward_model.verdict import Orders
from rubric_arm_lite.runs import package_versions
from rubric_arm_lite.types import Comparison, Example, ParseStatus, PreferencePair, Prompt, Rubric

JudgeName = Literal["trained", "base", "direct", "reasoning", "votes"]
JUDGES: tuple[JudgeName, ...] = get_args(JudgeName)
Method = tuple[
    str,
    Callable[[Sequence[Prompt]], list[Rubric]],
    Callable[[Sequence[Comparison], Sequence[Rubric], Orders], list[Verdict]],
]
"""A way to judge: its title; one greedy rubric per prompt (none for a judge without rubrics), equal prompts' written
once; a verdict per comparison under its rubric in one order, empty where the rubric is not usable."""


def check_judges(names: Sequence[str], trained: bool, base: bool = True) -> list[JudgeName]:
    """The named judges in their usual order; without names, all that are available.

    Args:
        trained: whether there are a trained generator and judge.
        base: whether there is a model without adapters; two full checkpoints have none.

    Raises:
        ConfigError: for an unknown judge, or one that is not available.
    """
    for name in names:
        if name not in JUDGES:
            raise ConfigError(f"--judge {name}: not a judge. Use one of {', '.join(JUDGES)}.")
        if name == "trained" and not trained:
            raise ConfigError("--judge trained: a recipe's model is not trained. Give --run, or omit this judge.")
        if name != "trained" and not base:
            raise ConfigError(
                f"--judge {name}: it needs a base without adapters, and two full checkpoints have none. Use "
                "--judge trained."
            )
    available = [name for name in JUDGES if (trained if name == "trained" else base)]
    return [name for name in available if not names or name in names]


def measure(
    model: RubricRewardModel,
    pairs: Sequence[PreferencePair] | None,
    names: Sequence[JudgeName],
    limit: int = 100,
    votes: int = 5,
    thinking_tokens: int = 8192,
    one_by_one: int = 0,
    progress: Callable[[str], None] = lambda title: None,
) -> dict[str, Any]:
    """Measure the judges of these names on the first of the pairs, or of those that the recipe holds out.

    Args:
        limit: most pairs, the first ones.
        votes: judgements per pair of the judge by majority.
        thinking_tokens: most tokens of thoughts and verdict of the judge that thinks; fewer if the context is short.
        one_by_one: number of pairs that are also judged one at a time.

    Raises:
        DataError: if no pair fits the context.
    """
    recipe, e = model.recipe, model.recipe.evaluation
    prompts = DirectPrompts(model.model.control_tokens())
    pairs, skipped = _fitting(model, prompts, pairs, limit)
    meter = MeteredSampler(model.model)
    longest = max(model.model.prompt_tokens(prompts.reasoning_prompt(p.prompt, p.chosen, p.rejected)) for p in pairs)
    room = recipe.model.max_context - longest - 8  # a template with thoughts on may be a few tokens longer
    thinking = max(1, min(thinking_tokens, room))
    text = prompts.direct_prompt(pairs[0].prompt, pairs[0].chosen, pairs[0].rejected)
    adapter = "judge" if names[0] == "trained" else None
    meter.sample(adapter, [Example("warm-up", text, 0)], Sampling(4, 1, 0.0))  # set-up at the first call is not timed
    judges = []
    for name in names:
        if name in ("trained", "base"):
            method = _rubric_method(name, model, meter, len(pairs))
        else:
            method = _direct_method(name, recipe, meter, prompts, votes, thinking)
        progress(method[0])
        judges.append({"name": name, **_measure_one(method, pairs, meter, recipe, one_by_one)})
    copied = ("rubric_max_tokens", "judge_max_tokens", "judge_temperature", "vote_temperature", "unparsed_value")
    return {
        "verb": "inference",
        "judges": judges,
        "paper_seconds_for_100_prompts": dict(SECONDS),
        "settings": {
            "pairs": len(pairs),
            "votes": votes,
            "thinking_tokens": thinking,
            "one_by_one": one_by_one,
            "prompts": len({pair.prompt for pair in pairs}),
            "skipped_too_long": skipped,
            "base": recipe.model.base,
            **{name: getattr(e, name) for name in copied},
        },
        "versions": package_versions(("torch", "transformers", "trl", "peft", "accelerate")),
        "notes": _notes(model.model, names, thinking, thinking_tokens, skipped, e.unparsed_value),
    }


def _fitting(
    model: RubricRewardModel, prompts: DirectPrompts, pairs: Sequence[PreferencePair] | None, count: int
) -> tuple[list[PreferencePair], int]:
    """The first ``count`` pairs that fit the context of every judge, and the number of pairs skipped before them."""
    recipe, sampler, room = model.recipe, model.model, model.recipe.model.max_context
    length = partial(longest_sequence, recipe=recipe, model=sampler, prompts=model.prompts)
    fitting: list[PreferencePair] = []
    skipped = 0
    if pairs is None:
        data = load_data(recipe, length, training=False)
        pairs, skipped = data.test, data.too_long
    for pair in pairs:
        if len(fitting) == count:
            break
        direct = sampler.prompt_tokens(prompts.direct_prompt(pair.prompt, pair.chosen, pair.rejected))
        if max(length(pair), direct + recipe.evaluation.judge_max_tokens) <= room:
            fitting.append(pair)
        else:
            skipped += 1
    if not fitting:
        raise DataError(
            f"None of the pairs fits model.max_context ({room} tokens) with room for a rubric and a judgement. Give "
            "shorter ones, or raise the context."
        )
    return fitting, skipped


def _rubric_method(name: JudgeName, model: RubricRewardModel, meter: MeteredSampler, pairs: int) -> Method:
    """Write a rubric per prompt, then judge by it: the method itself, or the bare base prompted in the same way."""
    e, adapters = model.recipe.evaluation, AdapterPair() if name == "trained" else AdapterPair(None, None)
    seed = derive_seed(model.recipe.seed, "evaluation")  # the verdicts are those of an evaluation
    judge = replace(pairwise_judge(model.recipe, meter, model.prompts), seed=seed, adapter=adapters.judge)
    generator = RubricGenerator(meter, model.prompts, RubricCache(pairs))

    def write(prompts: Sequence[Prompt]) -> list[Rubric]:
        greedy = Sampling(e.rubric_max_tokens, 1, 0.0)
        return generator.with_new_cache().write(prompts, greedy, seed, adapter=adapters.rubric)

    return f"{name} rubric + judge", write, judge.judge


def _direct_method(
    name: JudgeName, recipe: Recipe, meter: MeteredSampler, prompts: DirectPrompts, votes: int, thinking: int
) -> Method:
    """Judge without a rubric; of several judgements the majority counts."""
    e, seed = recipe.evaluation, derive_seed(recipe.seed, "direct")
    title, prompt, sampling = {
        "direct": ("direct", prompts.direct_prompt, Sampling(e.judge_max_tokens, 1, e.judge_temperature)),
        "reasoning": (
            "long reasoning",
            prompts.reasoning_prompt,
            Sampling(thinking, 1, e.judge_temperature, thinking=True),
        ),
        "votes": (
            f"direct, {votes} votes",
            prompts.direct_prompt,
            Sampling(e.judge_max_tokens, votes, e.vote_temperature),
        ),
    }[name]

    def judge(comparisons: Sequence[Comparison], rubrics: Sequence[Rubric], order: Orders) -> list[Verdict]:
        examples, verdicts = [], []
        for comparison in comparisons:
            c = comparison if order == "original" else comparison.swapped()
            text = prompt(c.prompt, c.response_a, c.response_b)
            examples.append(Example(c.comparison_id, text, derive_seed(seed, text)))
        for group in meter.sample(None, examples, sampling):
            judgements = [parse_direct(sample.text, sample.finish_reason) for sample in group.samples]
            voted = replace(judgements[0], winner=majority([judgement.winner for judgement in judgements]))
            verdicts.append(Verdict(Rubric("", (), ParseStatus.OK), **{order: (voted,)}))
        return verdicts

    return title, lambda prompts: [], judge


def _measure_one(
    method: Method, pairs: Sequence[PreferencePair], meter: MeteredSampler, recipe: Recipe, one_by_one: int
) -> dict[str, Any]:
    """The measured values of one method; the chosen response of a pair is A."""
    title, write, judge = method
    comparisons = [pair.present("A").comparison for pair in pairs]

    def answer(comparison: Comparison) -> list[Verdict]:
        """From a request with two responses to its verdict, without other requests."""
        return judge([comparison], write([comparison.prompt]), "original")

    rubrics, writing = meter.timed(lambda: write([pair.prompt for pair in pairs]))
    original, judging = meter.timed(lambda: judge(comparisons, rubrics, "original"))
    swapped, other_order = meter.timed(lambda: judge(comparisons, rubrics, "swapped"))
    verdicts = [Verdict(a.rubric, a.original, b.swapped) for a, b in zip(original, swapped, strict=True)]
    unparsed = recipe.evaluation.unparsed_value
    rows = [verdict_row(p, v, unparsed, recipe.seed) for p, v in zip(pairs, verdicts, strict=True)]
    judgements = [judgement for verdict in verdicts for judgement in (*verdict.original, *verdict.swapped)]
    # A rubric's tokens count for every pair that uses it: alone, each would have to pay for its own.
    written = [judging.written[p.pair_id] + (writing.written[prompt_hash(p.prompt)] if rubrics else 0) for p in pairs]
    seconds = writing.seconds + judging.seconds
    tokens = writing.completion_tokens + judging.completion_tokens
    usable = {pair.prompt: rubric.usable for pair, rubric in zip(pairs, rubrics, strict=False)}
    alone = [meter.timed(partial(answer, comparison))[1].seconds for comparison in comparisons[:one_by_one]]
    latencies = {f"p{percent}": float(np.percentile(alone, percent)) for percent in (50, 95) if alone}
    stages = {
        name: {
            "seconds": account.seconds,
            "requests": account.requests,
            "prompt_tokens": account.prompt_tokens,
            "tokens": account.completion_tokens,
        }
        for name, account in (("rubric", writing), ("judge", judging), ("other_order", other_order))
    }
    return {
        "title": title,
        **order_statistics(rows, recipe.evaluation.bootstrap, recipe.seed),
        "truncated": mean([judgement.status is ParseStatus.TRUNCATED for judgement in judgements]),
        "rubric_usable": mean(list(usable.values())) if rubrics else None,
        "seconds": seconds,
        "seconds_per_pair": seconds / len(pairs),
        "tokens": tokens,
        "tokens_per_pair": tokens / len(pairs),
        **{f"tokens_p{percent}": float(np.percentile(written, percent)) for percent in (50, 95)},
        **stages,
        "rubric": stages["rubric"] if rubrics else None,
        "one_by_one": {"pairs": float(len(alone)), **latencies} if one_by_one else None,
    }


def _notes(
    sampler: ChatSampler, names: Sequence[JudgeName], thinking: int, requested: int, skipped: int, unparsed: float
) -> list[str]:
    notes = [
        "Seconds and tokens are those of one order, all pairs at once, rubrics included; tokens are those written. An "
        f"unparsed verdict counts {unparsed:g}. Direct judges and long reasoning are given no rubric."
    ]
    if "reasoning" in names:
        has_switch = sampler.has_thinking_switch if isinstance(sampler, AdapterModel) else None
        switch = {
            True: "switched on in the chat template",
            False: "asked for in words only (this chat template has no switch for it)",
            None: "asked of the server (enable_thinking)",
        }[has_switch]
        notes.append(f"Long reasoning: thinking is {switch}, at most {thinking} tokens.")
        if thinking < requested:
            notes.append(f"The context leaves no room for the {requested} tokens of thought asked for.")
    if skipped:
        notes.append(f"{skipped} pairs are longer than the context and were skipped.")
    return notes
