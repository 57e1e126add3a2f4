"""The benchmarks, as data: where each comes from, how its rows read, how an item is scored and what is averaged.

Sizes are those of the data sets' cards and files; a number is called whole only if all of its items were judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rubric_arm_lite.data import Row
from rubric_arm_lite.evaluation.benchmarks import readers, scoring
from rubric_arm_lite.evaluation.benchmarks import scoring as averaging
from rubric_arm_lite.evaluation.benchmarks.scoring import Item, Measure, Outcome, Reading, Scored, Values
from rubric_arm_lite.recipe import EvaluationSettings

BestOf = Literal["strict", "round-robin"]

STRICT = "chosen beats every rejected"
ROUND_ROBIN = "round robin"
PAIR_RULE = "share of pairs whose better response is named, mean of both orders"


@dataclass(frozen=True, slots=True)
class Part:
    """What is read of a benchmark: a config and split of its source, and how its rows read."""

    read: Callable[[Row], list[Item]]
    config: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        source: Hub id; None if a local copy must be named.
        rows: rows of the whole benchmark; None if that is not known, or it is the user's own file.
        rule: how an item is scored, in words, printed beside the numbers.
        score: values of one item from the outcomes of one order; the settings say what a missing verdict counts for.
        measures: what is averaged; the first is the benchmark's headline.
        both: values of one item from both orders; None for the mean of the two.
        missing: what a verdict that names neither response is to the rule.
        skips: what rows without an item are.
        lacks: what cannot be computed from a pairwise judge.
    """

    name: str
    title: str
    source: str | None
    parts: tuple[Part, ...]
    rows: int | None
    rule: str
    score: Callable[[Item, Sequence[Outcome], EvaluationSettings], Values]
    measures: Callable[[Scored], list[Measure]]
    both: Callable[[Reading], Values] | None = None
    missing: Literal["pair", "best of n", "both", "no vote"] = "pair"
    skips: str = ""
    lacks: str = ""

    def unparsed(self, settings: EvaluationSettings) -> str:
        """What a verdict that names neither response counts for, for the reader."""
        pair, best_of = f"{settings.unparsed_value:g}", f"{settings.unparsed_best_of:g}"
        match self.missing:
            case "pair":
                return pair
            case "best of n":
                return best_of
            case "both":
                return f"{pair} in a pair, {best_of} in best of n"
            case "no vote":
                return "no vote"


# --- values of one item ---------------------------------------------------------------------------------------------


def _pair(item: Item, outcomes: Sequence[Outcome], settings: EvaluationSettings) -> Values:
    return {"": scoring.share_won(outcomes, settings.unparsed_value)}


def _counted(item: Item, outcomes: Sequence[Outcome], settings: EvaluationSettings) -> Values:
    return {"": scoring.share_won(outcomes, 0.0)}


def _strict(item: Item, outcomes: Sequence[Outcome], settings: EvaluationSettings) -> Values:
    of_best = [outcome for (first, _), outcome in zip(item.duels, outcomes, strict=True) if first == 0]
    return {"": scoring.beats_all(of_best, settings.unparsed_best_of)}


def _tournament(item: Item, outcomes: Sequence[Outcome], settings: EvaluationSettings) -> Values:
    won = scoring.round_robin(len(item.responses), item.duels, outcomes, settings.unparsed_value)
    return {"": won, STRICT: _strict(item, outcomes, settings)[""]}


def _styles(item: Item, outcomes: Sequence[Outcome], settings: EvaluationSettings) -> Values:
    return scoring.style_values(outcomes, settings.unparsed_value)


def _pair_or_best(item: Item, outcomes: Sequence[Outcome], settings: EvaluationSettings) -> Values:
    best = item.item_id.startswith("best-of-n/")
    return (_strict if best else _pair)(item, outcomes, settings)


def _sum_of_orders(reading: Reading) -> Values:
    return {"": scoring.both_orders(reading)}


# --- the list -------------------------------------------------------------------------------------------------------

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="rewardbench",
        title="RewardBench",
        source="allenai/reward-bench",
        parts=(Part(readers.rewardbench, split="filtered"),),
        rows=2985,
        rule=f"{PAIR_RULE}; sections weighted by their prompts (math-prm as 984)",
        score=_pair,
        measures=averaging.sections,
    ),
    Benchmark(
        name="rewardbench2",
        title="RewardBench 2",
        source="allenai/reward-bench-2",
        parts=(Part(readers.rewardbench2, split="test"),),
        rows=1865,
        rule=f"{STRICT}, mean of both orders",
        score=_strict,
        measures=averaging.by_subset,
        missing="best of n",
        skips="rows of the subset Ties",
        lacks="the subset Ties and so the average of six subsets: its rule needs a score per response",
    ),
    Benchmark(
        name="rm-bench",
        title="RM-Bench",
        source="THU-KEG/RM-Bench",
        parts=(Part(readers.rm_bench),),
        rows=1327,
        rule="3×3 styles: hard above the diagonal, normal on it, easy below; mean of both orders",
        score=_styles,
        measures=averaging.styles,
    ),
    Benchmark(
        name="judgebench",
        title="JudgeBench",
        source="ScalerLab/JudgeBench",
        parts=(Part(readers.judgebench, split="gpt"), Part(readers.judgebench, split="claude")),
        rows=620,
        rule="+1 for right and −1 for wrong in each order, correct if the sum is positive",
        score=_counted,
        measures=averaging.splits,
        both=_sum_of_orders,
        missing="no vote",
    ),
    Benchmark(
        name="rmb",
        title="RMB",
        source=None,
        parts=(Part(readers.rmb_pairs, config="Pairwise_set"), Part(readers.rmb_best_of, config="BoN_set")),
        rows=None,
        rule=f"pairs: {PAIR_RULE}; best of n: the best beats every loser, mean of both orders; means over items",
        score=_pair_or_best,
        measures=averaging.goals,
        missing="both",
    ),
    Benchmark(
        name="ppe-ifeval",
        title="PPE-IFEval",
        source="lmarena-ai/PPE-IFEval-Best-of-K",
        parts=(Part(readers.ppe_best_of_k, split="train"),),
        rows=512,
        rule=f"{PAIR_RULE}; pairs: `sampled_conflict_pairs`, or {readers.PPE_PAIRS} drawn from the question's id",
        score=_pair,
        measures=averaging.plain,
        skips="questions whose responses are all right or all wrong",
    ),
    Benchmark(
        name="helpsteer3",
        title="HelpSteer3, validation",
        source="nvidia/HelpSteer3",
        parts=(Part(readers.helpsteer3, config="preference", split="validation"),),
        rows=2017,
        rule=PAIR_RULE,
        score=_pair,
        measures=averaging.plain,
        skips="rows without a preference",
    ),
    Benchmark(
        name="writing",
        title="WritingPreferenceBench",
        source="m-a-p/Writing-Preference-Bench",
        parts=(Part(readers.writing),),
        rows=1800,
        rule=PAIR_RULE,
        score=_pair,
        measures=averaging.plain,
    ),
)


def with_rule(benchmark: Benchmark, best_of: BestOf) -> Benchmark:
    """The benchmark under a rule for best of four; only RewardBench 2 leaves a choice."""
    if benchmark.name != "rewardbench2" or best_of == "strict":
        return benchmark

    def every_pair(row: Row) -> list[Item]:
        return [readers.tournament(item) for item in readers.rewardbench2(row)]

    rule = f"{ROUND_ROBIN}: 1 / (responses with as many wins) if the chosen one has most, mean of both orders"
    return replace(
        benchmark, parts=(replace(benchmark.parts[0], read=every_pair),), rule=rule, score=_tournament, missing="both"
    )


def pair_file(name: str) -> Benchmark:
    """A file of pairs of the user's own: prompt, chosen, rejected."""
    return Benchmark(name, name, None, (), None, PAIR_RULE, _pair, averaging.plain)
