"""What a set of pairs or trajectories holds, in numbers: lengths, balance, duplicates, subsets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.data import WarmupRow
from rubric_arm_lite.parsing import parse_judgement, parse_rubric
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.sources.counts import Counts, sorted_reasons
from rubric_arm_lite.types import PreferencePair, Prompt

Measure = Callable[[str], int]
"""The length of a text, in tokens or words."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found. ``lengths`` holds the values at :data:`QUANTILES` for each kind of text, in ``unit``."""

    counts: Counts
    unit: str
    lengths: dict[str, tuple[int, ...]]
    facts: dict[str, float]
    subsets: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """For ``--json``; the quantiles are named by their percentage."""
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        lengths = {kind: dict(zip(names, values, strict=True)) for kind, values in self.lengths.items()}
        return {
            **self.counts.as_json(),
            "unit": self.unit,
            "lengths": lengths,
            **self.facts,
            "subsets": self.subsets,
        }


def survey_pairs(pairs: Sequence[PreferencePair], counts: Counts, unit: str, measure: Measure) -> Survey:
    """Lengths, balance and duplicates of pairs."""
    texts = {
        "prompt": [_text(pair.prompt) for pair in pairs],
        "chosen": [pair.chosen for pair in pairs],
        "rejected": [pair.rejected for pair in pairs],
    }
    lengths = {kind: [measure(text) for text in found] for kind, found in texts.items()}
    prompts = Counter(prompt_hash(pair.prompt) for pair in pairs)
    sides = Counter((prompt_hash(pair.prompt), pair.chosen, pair.rejected) for pair in pairs)
    longer = zip(lengths["chosen"], lengths["rejected"], strict=True)
    facts: dict[str, float] = {
        "prompts": len(prompts),
        "most_pairs_of_a_prompt": max(prompts.values()),
        "conversations": sum(not isinstance(pair.prompt, str) for pair in pairs),
        "equal_to_an_earlier_pair": len(pairs) - len(sides),
        "contradicting_pairs": sum((prompt, rejected, chosen) in sides for prompt, chosen, rejected in sides) // 2,
        "chosen_longer": _share(_ahead(a, b) for a, b in longer),
    }
    if counts.ordered:
        facts["chosen_first"] = counts.chosen_first / counts.ordered
    subsets = Counter(pair.subset or pair.source for pair in pairs)
    return Survey(counts, unit, _quantiles(lengths), facts, dict(sorted_reasons(subsets)))


def survey_trajectories(rows: Sequence[WarmupRow], counts: Counts, unit: str, measure: Measure) -> Survey:
    """Lengths of the texts, what our parsers say to them, and which response the judgements name."""
    texts = {
        "prompt": [_text(row.prompt) for row in rows],
        "rubric": [row.rubric for row in rows],
        "judgement": [row.judgement for row in rows],
    }
    lengths = {kind: [measure(text) for text in found] for kind, found in texts.items()}
    rubrics = [parse_rubric(row.rubric) for row in rows]
    judged = [
        parse_judgement(row.judgement, rubric) for row, rubric in zip(rows, rubrics, strict=True) if rubric.usable
    ]
    winners = [judgement.winner for judgement in judged if judgement.winner is not None]
    facts: dict[str, float] = {
        "prompts": len({prompt_hash(row.prompt) for row in rows}),
        "conversations": sum(not isinstance(row.prompt, str) for row in rows),
        "well_formed_rubrics": _share(float(rubric.usable) for rubric in rubrics),
        "well_formed_judgements": sum(judgement.status.value == "ok" for judgement in judged) / len(rows),
        "criteria": _share(float(len(rubric.criteria)) for rubric in rubrics if rubric.usable),
        "winner_first": _share(float(winner == "A") for winner in winners),
    }
    return Survey(counts, unit, _quantiles(lengths), facts, {})


def _quantiles(lengths: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    """The smallest length that so large a share of the texts does not exceed."""
    return {
        kind: tuple(sorted(found)[max(math.ceil(share * len(found)) - 1, 0)] for share in QUANTILES)
        for kind, found in lengths.items()
    }


def _ahead(one: int, other: int) -> float:
    """1 if the first is larger, a half if they are equal."""
    return 1.0 if one > other else 0.5 if one == other else 0.0


def _share(values: Iterable[float]) -> float:
    """Mean; 0 of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
