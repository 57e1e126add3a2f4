"""What judging costs and what it is worth: seconds, tokens and accuracy of several judges on the same pairs.

Every judge gets all pairs at once, chosen response first; that is timed, the rubrics and the verdicts apart. The other
order is asked afterwards, for the accuracy in both orders and the position bias, and is not in the total: who uses a
judge asks once. On request some pairs are also judged one at a time, for the seconds that one answer takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np

from rubric_arm_lite.data import load_data
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.evaluation.evaluate import AdapterPair
from rubric_arm_lite.evaluation.metrics import order_statistics, verdict_row
from rubric_arm_lite.models import AdapterModel, ChatSampler, Sampler, Sampling
from rubric_arm_lite.models.journaled import Account, MeteredSampler
from rubric_arm_lite.prompts import PromptBuilder, prompt_hash
from rubric_arm_lite.prompts.builder import DirectPrompts
from rubric_arm_lite.prompts.parsing import parse_direct
from rubric_arm_lite.recipe import Recipe, derive_seed
from rubric_arm_lite.reward_model import (
    RubricCache,
    RubricGenerator,
    RubricRewardModel,
    Verdict,
    longest_prompt,
    majority,
)
from rubric_arm_lite.reward_model.judge import pairwise_judge
from rubric_arm_lite.reward_model.verdict import Orders
from rubric_arm_lite.runs import package_versions
from rubric_arm_lite.types import Example, ParseStatus, PreferencePair, Prompt, Rubric

AskPrompt = Callable[[Prompt, str, str], str]
"""Writes the user turn for a request and two responses."""


class Method(Protocol):
    """A way to judge pairs whose cost is measured."""

    title: str

    def prepare(self, pairs: Sequence[PreferencePair]) -> list[Rubric]:
        """Write what is needed before a response is read; returns the rubrics, one per prompt."""
        ...

    def judge(self, pairs: Sequence[PreferencePair], orders: Orders) -> list[Verdict]:
        """One verdict per prepared pair, whose chosen response is A; empty where nothing could be judged."""
        ...


class RubricMethod:
    """Write a rubric per prompt, then judge by it: the method itself, or the bare base prompted in the same way."""

    def __init__(
        self, title: str, sampler: Sampler, prompts: PromptBuilder, recipe: Recipe, adapters: AdapterPair
    ) -> None:
        self.title = title
        # Greedy and sampled verdicts are those of an evaluation.
        seed = derive_seed(recipe.seed, "evaluation")
        self._judge = replace(pairwise_judge(recipe, sampler, prompts), seed=seed, adapter=adapters.judge)
        self._sampling = Sampling(recipe.evaluation.rubric_max_tokens, 1, 0.0)
        self._adapter = adapters.rubric
        self._rubrics: dict[str, Rubric] = {}

    def prepare(self, pairs: Sequence[PreferencePair]) -> list[Rubric]:
        """Write the greedy rubrics, each prompt's once."""
        generator = RubricGenerator(self._judge.sampler, self._judge.prompts, RubricCache(max(1, len(pairs))))
        prompts = [pair.prompt for pair in pairs]
        rubrics = generator.write(prompts, self._sampling, self._judge.seed, adapter=self._adapter)
        self._rubrics = dict(zip(map(prompt_hash, prompts), rubrics, strict=True))
        return list(self._rubrics.values())

    def judge(self, pairs: Sequence[PreferencePair], orders: Orders) -> list[Verdict]:
        """Judge by the prompt's rubric; without a usable one the verdict is empty."""
        rubrics = [self._rubrics[prompt_hash(pair.prompt)] for pair in pairs]
        return self._judge.judge([pair.present("A").comparison for pair in pairs], rubrics, orders)


class DirectMethod:
    """Judge without a rubric; of several generations the majority counts."""

    def __init__(self, title: str, sampler: Sampler, prompt: AskPrompt, sampling: Sampling, seed: int) -> None:
        self.title = title
        self._sampler = sampler
        self._prompt = prompt
        self._sampling = sampling
        self._seed = derive_seed(seed, "direct")

    def prepare(self, pairs: Sequence[PreferencePair]) -> list[Rubric]:
        """Nothing is written beforehand."""
        return []

    def judge(self, pairs: Sequence[PreferencePair], orders: Orders) -> list[Verdict]:
        """Ask about every pair, in one order."""
        examples = []
        for pair in pairs:
            c = pair.present("A" if orders == "original" else "B").comparison
            text = self._prompt(c.prompt, c.response_a, c.response_b)
            examples.append(Example(c.comparison_id, text, derive_seed(self._seed, text)))
        verdicts = []
        for group in self._sampler.sample(None, examples, self._sampling):
            judgements = [parse_direct(s.text, s.finish_reason) for s in group.samples]
            voted = (replace(judgements[0], winner=majority([j.winner for j in judgements])),)
            verdicts.append(Verdict(_NO_RUBRIC, **{"original" if orders == "original" else "swapped": voted}))
        return verdicts


_NO_RUBRIC = Rubric("", (), ParseStatus.OK)
JudgeName = Literal["trained", "base", "direct", "reasoning", "votes"]
JUDGES: tuple[JudgeName, ...] = get_args(JudgeName)
PAPER_SECONDS: tuple[tuple[str, str], ...] = (
    ("JudgeLRM-7B", "25.71"),
    ("Rubric-ARM (8B)", "33.50"),
    ("Rubric-RM (8B, SFT only)", "105.12"),
    ("RM-R1-7B", "170.76 to 260.37"),
    ("RRM-7B", "203.40"),
    ("RM-R1-14B", "322.79 to 382.02"),
)
"""Seconds for 100 prompts of RewardBench 2 on vLLM, as the paper gives them: their hardware, their data."""
_WARM_UP = Sampling(4, 1, 0.0)


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """What is measured.

    Attributes:
        pairs: at most so many, the first ones.
        votes: samples of the judge by majority.
        thinking_tokens: most tokens of thoughts and verdict of the judge that thinks, less where the context is short.
        one_by_one: pairs that are also judged one at a time.
    """

    pairs: int = 100
    votes: int = 5
    thinking_tokens: int = 8192
    one_by_one: int = 0


def check_judges(names: Sequence[str], trained: bool, base: bool = True) -> list[JudgeName]:
    """The judges asked for, in their usual order; without names, all there are.

    Args:
        trained: whether there are a trained generator and judge.
        base: whether there is a model without adapters; two full checkpoints have none.

    Raises:
        ConfigError: for a name that is none, or a judge that is not there.
    """
    unknown = [name for name in names if name not in JUDGES]
    if unknown:
        raise ConfigError(f"--judge {unknown[0]}: not a judge. Use one of {', '.join(JUDGES)}.")
    there = [name for name in JUDGES if (trained if name == "trained" else base)]
    absent = [name for name in names if name not in there]
    if absent == ["trained"]:
        raise ConfigError("--judge trained: a recipe's model is not trained. Give --run, or leave this judge out.")
    if absent:
        raise ConfigError(
            f"--judge {absent[0]}: it is asked of a base without adapters, and two full checkpoints have none. Use "
            "--judge trained."
        )
    return [name for name in there if not names or name in names]


def measure(
    model: RubricRewardModel,
    pairs: Sequence[PreferencePair] | None,
    names: Sequence[JudgeName],
    settings: InferenceSettings,
    progress: Callable[[str], None] = lambda title: None,
) -> dict[str, Any]:
    """Measure the judges of these names on the first pairs given, or on those that the recipe holds out.

    Raises:
        DataError: if no pair fits the context.
    """
    recipe = model.recipe
    prompts = DirectPrompts(model.model.control_tokens())
    chosen, left_out = _fitting(model, prompts, pairs, settings.pairs)
    meter = MeteredSampler(model.model)
    thinking = _thinking_tokens(model.model, prompts, chosen, recipe, settings)
    first = chosen[0]
    text = prompts.direct_prompt(first.prompt, first.chosen, first.rejected)
    adapter = "judge" if names[0] == "trained" else None
    meter.sample(adapter, [Example("warm-up", text, 0)], _WARM_UP)  # what is set up at the first call is not timed
    measured = []
    for name in names:
        method = _method(name, model, meter, prompts, settings, thinking)
        progress(method.title)
        measured.append({"name": name, **_measure_one(method, chosen, meter, recipe, settings)})
    return {
        "verb": "inference",
        "judges": measured,
        "paper_seconds_for_100_prompts": dict(PAPER_SECONDS),
        "settings": {
            **asdict(settings),
            "pairs": len(chosen),
            "prompts": len({pair.prompt for pair in chosen}),
            "left_out_too_long": left_out,
            "thinking_tokens": thinking,
            "base": recipe.model.base,
            "rubric_max_tokens": recipe.evaluation.rubric_max_tokens,
            "judge_max_tokens": recipe.evaluation.judge_max_tokens,
            "judge_temperature": recipe.evaluation.judge_temperature,
            "vote_temperature": recipe.evaluation.vote_temperature,
            "unparsed_value": recipe.evaluation.unparsed_value,
        },
        "versions": package_versions(("torch", "transformers", "trl", "peft", "accelerate")),
        "notes": _notes(model.model, names, thinking, settings, left_out, recipe.evaluation.unparsed_value),
    }


def _fitting(
    model: RubricRewardModel, prompts: DirectPrompts, pairs: Sequence[PreferencePair] | None, count: int
) -> tuple[list[PreferencePair], int]:
    """The first pairs that every judge can be asked about, and how many before them cannot."""
    recipe, sampler = model.recipe, model.model
    left_out = 0
    if pairs is None:
        data = load_data(recipe, lambda pair: longest_prompt(pair, recipe, sampler, model.prompts), training=False)
        pairs, left_out = data.test, data.too_long
    room = recipe.model.max_context
    fitting: list[PreferencePair] = []
    for pair in pairs:
        if len(fitting) == count:
            break
        direct = prompts.direct_prompt(pair.prompt, pair.chosen, pair.rejected)
        longest = max(
            longest_prompt(pair, recipe, sampler, model.prompts),
            sampler.prompt_tokens(direct) + recipe.evaluation.judge_max_tokens,
        )
        if longest <= room:
            fitting.append(pair)
        else:
            left_out += 1
    if not fitting:
        raise DataError(
            f"None of the pairs fits model.max_context ({room} tokens) with room for a rubric and a judgement. Give "
            "shorter ones, or raise the context."
        )
    return fitting, left_out


def _thinking_tokens(
    sampler: ChatSampler,
    prompts: DirectPrompts,
    pairs: Sequence[PreferencePair],
    recipe: Recipe,
    settings: InferenceSettings,
) -> int:
    """Tokens that the judge that thinks may write, as far as the context has room behind its longest prompt."""
    longest = max(sampler.prompt_tokens(prompts.reasoning_prompt(p.prompt, p.chosen, p.rejected)) for p in pairs)
    room = recipe.model.max_context - longest - 8  # a template with thoughts on may be a few tokens longer
    return max(1, min(settings.thinking_tokens, room))


def _method(
    name: JudgeName,
    model: RubricRewardModel,
    meter: MeteredSampler,
    prompts: DirectPrompts,
    settings: InferenceSettings,
    thinking: int,
) -> Method:
    evaluation, seed = model.recipe.evaluation, model.recipe.seed
    once = Sampling(evaluation.judge_max_tokens, 1, evaluation.judge_temperature)
    match name:
        case "trained":
            return RubricMethod("trained rubric + judge", meter, model.prompts, model.recipe, AdapterPair())
        case "base":
            return RubricMethod("base rubric + judge", meter, model.prompts, model.recipe, AdapterPair(None, None))
        case "direct":
            return DirectMethod("direct", meter, prompts.direct_prompt, once, seed)
        case "reasoning":
            long = Sampling(thinking, 1, evaluation.judge_temperature, thinking=True)
            return DirectMethod("long reasoning", meter, prompts.reasoning_prompt, long, seed)
        case "votes":
            votes = Sampling(evaluation.judge_max_tokens, settings.votes, evaluation.vote_temperature)
            return DirectMethod(f"direct, {settings.votes} votes", meter, prompts.direct_prompt, votes, seed)


def _measure_one(
    method: Method, pairs: Sequence[PreferencePair], meter: MeteredSampler, recipe: Recipe, settings: InferenceSettings
) -> dict[str, Any]:
    evaluation = recipe.evaluation
    rubrics, before = meter.timed(lambda: method.prepare(pairs))
    original, straight = meter.timed(lambda: method.judge(pairs, "original"))
    swapped, turned = meter.timed(lambda: method.judge(pairs, "swapped"))
    verdicts = [Verdict(a.rubric, a.original, b.swapped) for a, b in zip(original, swapped, strict=True)]
    rows = [
        verdict_row(pair, verdict, evaluation.unparsed_value, recipe.seed)
        for pair, verdict in zip(pairs, verdicts, strict=True)
    ]
    judgements = [judgement for verdict in verdicts for judgement in (*verdict.original, *verdict.swapped)]
    truncated = sum(judgement.status is ParseStatus.TRUNCATED for judgement in judgements)
    per_pair = [straight.written[pair.pair_id] for pair in pairs]
    if rubrics:
        # A rubric's tokens count for every pair that uses it: alone, each would have to pay for its own.
        per_pair = [n + before.written[prompt_hash(pair.prompt)] for n, pair in zip(per_pair, pairs, strict=True)]
    seconds = before.seconds + straight.seconds
    tokens = before.completion_tokens + straight.completion_tokens
    return {
        "title": method.title,
        **order_statistics(rows, evaluation.bootstrap, recipe.seed),
        "truncated": truncated / len(judgements) if judgements else 0.0,
        "rubric_usable": sum(r.usable for r in rubrics) / len(rubrics) if rubrics else None,
        "seconds": seconds,
        "seconds_per_pair": seconds / len(pairs),
        "tokens": tokens,
        "tokens_per_pair": tokens / len(pairs),
        "tokens_p50": float(np.percentile(per_pair, 50)),
        "tokens_p95": float(np.percentile(per_pair, 95)),
        "rubric": _stage(before) if rubrics else None,
        "judge": _stage(straight),
        "other_order": _stage(turned),
        "one_by_one": _one_by_one(method, pairs[: settings.one_by_one], meter) if settings.one_by_one else None,
    }


def _one_by_one(method: Method, pairs: Sequence[PreferencePair], meter: MeteredSampler) -> dict[str, float]:
    """Seconds from a request with two responses to its verdict, nothing else being asked meanwhile."""

    def answer(pair: PreferencePair) -> None:
        method.prepare([pair])
        method.judge([pair], "original")

    seconds = [meter.timed(lambda pair=pair: answer(pair))[1].seconds for pair in pairs]  # type: ignore[misc]
    return {
        "pairs": float(len(pairs)),
        "p50": float(np.percentile(seconds, 50)),
        "p95": float(np.percentile(seconds, 95)),
    }


def _stage(account: Account) -> dict[str, float]:
    return {
        "seconds": account.seconds,
        "requests": account.requests,
        "prompt_tokens": account.prompt_tokens,
        "tokens": account.completion_tokens,
    }


def _notes(
    sampler: ChatSampler,
    names: Sequence[JudgeName],
    thinking: int,
    settings: InferenceSettings,
    left_out: int,
    unparsed_value: float,
) -> list[str]:
    notes = [
        "Seconds and tokens are those of one order, all pairs at once, rubrics included; tokens are those written. An "
        f"unparsed verdict counts {unparsed_value:g}. Direct judges and long reasoning are given no rubric."
    ]
    if "reasoning" in names:
        thinks = sampler.thinks() if isinstance(sampler, AdapterModel) else None
        switch = {
            True: "switched on in the chat template",
            False: "asked for in words only (this chat template has no switch for it)",
            None: "asked of the server (enable_thinking)",
        }[thinks]
        notes.append(f"Long reasoning: thinking is {switch}, at most {thinking} tokens.")
        if thinking < settings.thinking_tokens:
            notes.append(f"The context leaves no room for the {settings.thinking_tokens} tokens of thought asked for.")
    if left_out:
        notes.append(f"{left_out} pairs are longer than the context and were left out.")
    return notes
