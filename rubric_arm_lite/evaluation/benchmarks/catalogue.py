"""The public benchmarks: one description each, which reading, scoring, averaging and reporting share.

Sizes are those of the data sets' cards and files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from rubric_arm_lite.data import Row
from rubric_arm_lite.evaluation.benchmarks import readers, scoring
from rubric_arm_lite.evaluation.benchmarks.scoring import Average, Item, Outcome, Values
from rubric_arm_lite.recipe import EvaluationSettings

BestOf = Literal["strict", "round-robin"]
Outcomes = Sequence[Outcome]
Score = Callable[[Item, Outcomes, EvaluationSettings], Values]

STRICT = "chosen beats every rejected"
PAIR_RULE = "share of pairs whose better response is named, mean of both orders"


@dataclass(frozen=True, slots=True)
class Part:
    """One config and split of a benchmark's source, and the function that reads its rows.

    Attributes:
        files: names of the part's files in its own repository; a named group is a column that their rows lack. Files
            with such a group are parts of what a file without it holds.
    """

    read: Callable[[Row], list[Item]]
    config: str | None = None
    split: str | None = None
    files: str | None = None


def score_pair(item: Item, outcomes: Outcomes, settings: EvaluationSettings) -> Values:
    """The share of an item's duels that name the better response."""
    return {"": scoring.share_won(outcomes, settings.unparsed_value)}


def score_strict(item: Item, outcomes: Outcomes, settings: EvaluationSettings) -> Values:
    """Best of n: whether the best response wins every duel."""
    return {"": scoring.beats_all(outcomes, settings.unparsed_best_of)}


def score_round_robin(item: Item, outcomes: Outcomes, settings: EvaluationSettings) -> Values:
    """Best of n by all pairs of responses, and the strict value of the duels with the best one, which come first."""
    won = scoring.round_robin(len(item.responses), item.duels, outcomes, settings.unparsed_value)
    return {"": won, STRICT: scoring.beats_all(outcomes[: len(item.responses) - 1], settings.unparsed_best_of)}


def score_rmb(item: Item, outcomes: Outcomes, settings: EvaluationSettings) -> Values:
    """RMB holds pairs and best of n."""
    return (score_strict if item.subset.startswith("best of n") else score_pair)(item, outcomes, settings)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        source: Hub id; None if the user must name a local copy.
        parts: what is read of the source; empty for a user's own file of pairs.
        rows: rows of the whole benchmark; None if unknown.
        rule: the scoring rule in words, printed beside the numbers.
        score: values of one item from the outcomes of one order.
        averages: what is averaged, the headline first.
        score_both: value of one item from its outcomes in both orders; None for the mean of the two.
        unparsed: what a verdict that names neither response counts for, in words;
            ``{pair:g}`` and ``{best_of:g}`` stand for the recipe's values.
        skips: which rows give no item.
        lacks: what cannot be computed from a pairwise judge.
    """

    name: str
    title: str
    source: str | None = None
    parts: tuple[Part, ...] = ()
    rows: int | None = None
    rule: str = PAIR_RULE
    score: Score = score_pair
    averages: Callable[[Sequence[Item]], list[Average]] = scoring.overall
    score_both: Callable[[Outcome, Outcome], float] | None = None
    unparsed: str = "{pair:g}"
    skips: str = ""
    lacks: str = ""

    def score_orders(self, item: Item, original: Outcomes, swapped: Outcomes, settings: EvaluationSettings) -> Values:
        """Values of an item from both orders: the benchmark's own rule, or the mean of the two."""
        if self.score_both is not None:
            return {"": self.score_both(original[0], swapped[0])}
        return mean_values([self.score(item, outcomes, settings) for outcomes in (original, swapped)])


def mean_values(values: Sequence[Values]) -> Values:
    """The mean of an item's values, by rule."""
    return {rule: math.fsum(each[rule] for each in values) / len(values) for rule in values[0]}


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        name="rewardbench",
        title="RewardBench",
        source="allenai/reward-bench",
        parts=(Part(readers.rewardbench, split="filtered"),),
        rows=2985,
        rule=f"{PAIR_RULE}; sections weighted by their prompts (math-prm as 984)",
        averages=scoring.sections,
    ),
    Benchmark(
        name="rewardbench2",
        title="RewardBench 2",
        source="allenai/reward-bench-2",
        parts=(Part(readers.rewardbench2, split="test"),),
        rows=1865,
        rule=f"{STRICT}, mean of both orders",
        score=score_strict,
        averages=scoring.by_group,
        unparsed="{best_of:g}",
        skips="rows of the subset Ties",
        lacks="the subset Ties and so the average of six subsets: its rule needs a score per response",
    ),
    Benchmark(
        name="rm-bench",
        title="RM-Bench",
        source="THU-KEG/RM-Bench",
        parts=(Part(readers.rm_bench, files=r"(?:(?P<domain>[a-z]+(?:-[a-z]+)?)_filtered|total_dataset)\.json"),),
        rows=1327,
        rule="3×3 styles: hard above the diagonal, normal on it, easy below; mean of both orders",
        score=lambda item, outcomes, settings: scoring.style_values(outcomes, settings.unparsed_value),
        averages=partial(
            scoring.by_group, rules=("", "hard", "normal", "easy"), key=lambda s: s.partition("-")[0], parts=4
        ),
    ),
    Benchmark(
        name="judgebench",
        title="JudgeBench",
        source="ScalerLab/JudgeBench",
        parts=tuple(
            Part(readers.judgebench, split=split, files=rf".*response_model={split}.*\.jsonl")
            for split in ("gpt", "claude")
        ),
        rows=620,
        rule="+1 for right and −1 for wrong in each order, correct if the sum is positive",
        score=lambda item, outcomes, settings: {"": scoring.share_won(outcomes, 0.0)},
        averages=lambda items: [
            *scoring.by_group(items, key=lambda subset: subset.partition(",")[0]),
            *scoring.by_group(items),
        ],
        score_both=scoring.sum_of_orders,
        unparsed="no vote",
    ),
    Benchmark(
        name="rmb",
        title="RMB",
        parts=(
            Part(readers.rmb_pairs, config="Pairwise_set", files=r".*\.json"),
            Part(readers.rmb_best_of, config="BoN_set", files=r".*\.json"),
        ),
        rule=f"pairs: {PAIR_RULE}; best of n: the best beats every loser, mean of both orders; means over items",
        score=score_rmb,
        averages=partial(scoring.by_group, parts=4),
        unparsed="{pair:g} in a pair, {best_of:g} in best of n",
    ),
    Benchmark(
        name="ppe-ifeval",
        title="PPE-IFEval",
        source="lmarena-ai/PPE-IFEval-Best-of-K",
        parts=(Part(readers.ppe_best_of_k, split="train"),),
        rows=512,
        rule=f"{PAIR_RULE}; pairs: `sampled_conflict_pairs`, or {readers.PPE_PAIRS} drawn from the question's id",
        skips="questions whose responses are all right or all wrong",
    ),
    Benchmark(
        name="helpsteer3",
        title="HelpSteer3, validation",
        source="nvidia/HelpSteer3",
        parts=(Part(readers.helpsteer3, config="preference", split="validation"),),
        rows=2017,
        skips="rows without a preference",
    ),
    Benchmark(
        name="writing",
        title="WritingPreferenceBench",
        source="m-a-p/Writing-Preference-Bench",
        parts=(Part(readers.writing),),
        rows=1800,
    ),
)


def with_rule(benchmark: Benchmark, best_of: BestOf) -> Benchmark:
    """The benchmark under a rule for best of four; only RewardBench 2 has a choice."""
    if benchmark.name != "rewardbench2" or best_of == "strict":
        return benchmark

    def read_all_pairs(row: Row) -> list[Item]:
        items = readers.rewardbench2(row)
        return [replace(i, duels=tuple(itertools.combinations(range(len(i.responses)), 2))) for i in items]

    return replace(
        benchmark,
        parts=(replace(benchmark.parts[0], read=read_all_pairs),),
        rule="round robin: 1 / (responses with as many wins) if the chosen one has most, mean of both orders",
        score=score_round_robin,
        averages=partial(scoring.by_group, rules=("", STRICT)),
        unparsed="{pair:g} in a pair, {best_of:g} in best of n",
    )
