"""Surveys of pairs and trajectories: lengths, balance, duplicates, and how many texts our parsers accept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.data.counts import Counts, sorted_reasons
from rubric_arm_lite.data.trajectories import WarmupRow
from rubric_arm_lite.prompts import parse_judgement, parse_pointwise, parse_rubric, prompt_hash, wording
from rubric_arm_lite.prompts.pointwise import OUR_WORDS
from rubric_arm_lite.recipe import PointwiseWords
from rubric_arm_lite.types import ParseStatus, PreferencePair, Prompt

Measure = Callable[[str], int]
"""The length of a text, in tokens or words."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Survey:
    """The survey of a source.

    Attributes:
        lengths: for each kind of text the lengths at :data:`QUANTILES`, in ``unit``: the smallest length that this
            share of the texts does not exceed.
        subsets: pairs of each subset.
    """

    counts: Counts
    unit: str
    lengths: dict[str, tuple[int, ...]]
    facts: dict[str, float]
    subsets: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For ``--json``; the quantiles are named by their percentage."""
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        lengths = {kind: dict(zip(names, values, strict=True)) for kind, values in self.lengths.items()}
        return {**self.counts.as_json(), "unit": self.unit, "lengths": lengths, **self.facts, "subsets": self.subsets}


def survey_pairs(pairs: Sequence[PreferencePair], counts: Counts, unit: str, measure: Measure) -> Survey:
    """Lengths, balance and duplicates of pairs."""
    chosen, rejected = [measure(pair.chosen) for pair in pairs], [measure(pair.rejected) for pair in pairs]
    lengths = {"prompt": [measure(_text(pair.prompt)) for pair in pairs], "chosen": chosen, "rejected": rejected}
    prompts = Counter(prompt_hash(pair.prompt) for pair in pairs)
    labeled = Counter((prompt_hash(pair.prompt), pair.chosen, pair.rejected) for pair in pairs)
    facts: dict[str, float] = {
        "prompts": len(prompts),
        "prompts_equal_but_for_case_blanks_or_punctuation": len(prompts) - len({wording(p.prompt) for p in pairs}),
        "most_pairs_of_a_prompt": max(prompts.values()),
        "conversations": sum(not isinstance(pair.prompt, str) for pair in pairs),
        "equal_to_an_earlier_pair": len(pairs) - len(labeled),
        "contradicting_pairs": sum((prompt, b, a) in labeled for prompt, a, b in labeled) // 2,
        "chosen_longer": _mean((a > b) + 0.5 * (a == b) for a, b in zip(chosen, rejected, strict=True)),
    }
    if counts.ordered:
        facts["chosen_first"] = counts.chosen_first / counts.ordered
    subsets = Counter(pair.subset or pair.source for pair in pairs)
    return Survey(counts, unit, _quantiles(lengths), facts, dict(sorted_reasons(subsets)))


def survey_trajectories(
    rows: Sequence[WarmupRow], counts: Counts, unit: str, measure: Measure, words: PointwiseWords = OUR_WORDS
) -> Survey:
    """Lengths of the texts, how many our parsers accept, and what the judgements say; ``words`` for pointwise ones."""
    lengths = {
        "prompt": [measure(_text(row.prompt)) for row in rows],
        "rubric": [measure(row.rubric) for row in rows],
        "judgement": [measure(row.judgement) for row in rows],
    }
    rubrics = [parse_rubric(row.rubric) for row in rows]
    usable = [(row, rubric) for row, rubric in zip(rows, rubrics, strict=True) if rubric.usable]
    pairwise = [parse_judgement(row.judgement, rubric) for row, rubric in usable if row.response_b is not None]
    pointwise = [parse_pointwise(r.judgement, rubric, words=words) for r, rubric in usable if r.response_b is None]
    statuses = [*(judgement.status for judgement in pairwise), *(judgement.status for judgement in pointwise)]
    facts: dict[str, float] = {
        "prompts": len({prompt_hash(row.prompt) for row in rows}),
        "conversations": sum(not isinstance(row.prompt, str) for row in rows),
        "well_formed_rubrics": len(usable) / len(rows),
        "well_formed_judgements": statuses.count(ParseStatus.OK) / len(rows),
        "criteria": _mean(len(rubric.criteria) for _, rubric in usable),
    }
    if any(row.response_b is None for row in rows):
        facts["criteria_met"] = _mean(answer.met for judgement in pointwise for answer in judgement.answers)
    else:
        facts["winner_first"] = _mean(judgement.winner == "A" for judgement in pairwise if judgement.winner is not None)
    return Survey(counts, unit, _quantiles(lengths), facts, {})


def _quantiles(lengths: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    from numpy import quantile

    return {kind: tuple(quantile(lengths[kind], QUANTILES, method="inverted_cdf").tolist()) for kind in lengths}


def _mean(values: Iterable[float]) -> float:
    """The mean; 0 without values."""
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
