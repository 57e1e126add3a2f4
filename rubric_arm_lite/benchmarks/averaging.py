"""What is averaged: from the values of all items to the numbers that a benchmark is known by.

One function per way of averaging. Where a benchmark weighs its parts, the weights are fixed and each part is a stratum
of its own, so that neither a sample nor an interval depends on how many items a part happens to have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rubric_arm_lite.benchmarks.items import Item, Measure, Stratum, Values

Scored = Sequence[tuple[Item, Values]]


def plain(scored: Scored) -> list[Measure]:
    """The mean over all items, and over each subset if there are several."""
    found = [_mean_measure("accuracy", scored)]
    by_subset = _by(scored, lambda item: item.subset)
    return found + ([_mean_measure(name, part) for name, part in by_subset.items() if name] if len(by_subset) > 1 else [])


SECTIONS: Mapping[str, Mapping[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
        "xstest-should-respond": 250, "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164,
        "hep-rust": 164,
    },
}  # fmt: skip
"""RewardBench's sections: the weight of each subset, which is its number of prompts. Of math-prm there are 447; it
counts as 984, so that mathematics weighs as much as code."""


def sections(scored: Scored) -> list[Measure]:
    """RewardBench: a section is the mean of its subsets, weighted; the whole is the plain mean of four sections."""
    by_subset = _by(scored, lambda item: item.subset)
    found: list[Measure] = []
    for name, weights in SECTIONS.items():
        strata = tuple(Stratum(w, _values(by_subset[subset])) for subset, w in weights.items() if subset in by_subset)
        absent = [subset for subset in weights if subset not in by_subset]
        if strata:
            found.append(Measure(name, strata, f"without {', '.join(absent)}" if absent else ""))
    subsets = [_mean_measure(name, part) for name, part in by_subset.items()]
    return [*_mean_of_means("average of sections", found, len(SECTIONS)), *found, *subsets]


def by_subset(scored: Scored) -> list[Measure]:
    """RewardBench 2: one number per subset; their average needs Ties, so there is none."""
    found = []
    for name, part in _by(scored, lambda item: item.subset).items():
        found.append(_mean_measure(name, part))
        found += [_mean_measure(f"{name}, {rule}", part, rule) for rule in part[0][1] if rule]
    return found


def styles(scored: Scored) -> list[Measure]:
    """RM-Bench: domains, their plain mean (safety's two parts are one domain), and the three difficulties likewise."""
    domains = _by(scored, lambda item: item.subset.partition("-")[0])
    means = {
        kind: [_mean_measure(name if kind == "all" else f"{name}, {kind}", part, kind) for name, part in domains.items()]
        for kind in ("all", "hard", "normal", "easy")
    }
    found = [*_mean_of_means("overall", means["all"], 4), *means["all"]]
    for kind in ("hard", "normal", "easy"):
        found += [*_mean_of_means(kind, means[kind], 4), *means[kind]]
    return found


def splits(scored: Scored) -> list[Measure]:
    """JudgeBench: one number per model whose responses are judged, and its categories."""
    found = []
    for name, part in _by(scored, lambda item: item.subset.partition("/")[0]).items():
        found.append(_mean_measure(name, part))
        categories = _by(part, lambda item: item.subset.partition("/")[2])
        found += [_mean_measure(f"{name}, {category}", some) for category, some in categories.items()]
    return found


def goals(scored: Scored) -> list[Measure]:
    """RMB: pairwise and best of n for each goal, and the plain mean of the four."""
    found = [_mean_measure(name, part) for name, part in _by(scored, lambda item: item.subset).items()]
    return [*_mean_of_means("overall", found, 4), *found]


def _by(scored: Scored, key: Callable[[Item], str]) -> dict[str, list[tuple[Item, Values]]]:
    groups: dict[str, list[tuple[Item, Values]]] = {}
    for item, values in scored:
        groups.setdefault(key(item), []).append((item, values))
    return dict(sorted(groups.items()))


def _values(scored: Scored, rule: str = "") -> tuple[float, ...]:
    return tuple(values[rule] for _, values in scored)


def _mean_measure(name: str, scored: Scored, rule: str = "") -> Measure:
    return Measure(name, (Stratum(1.0, _values(scored, rule)),))


def _mean_of_means(name: str, parts: Sequence[Measure], wanted: int) -> list[Measure]:
    """The plain mean of measures, if all that belong to it are there."""
    if len(parts) != wanted:
        return []
    strata = []
    for part in parts:
        total = sum(stratum.weight for stratum in part.strata)
        strata += [replace(stratum, weight=stratum.weight / total) for stratum in part.strata]
    return [Measure(name, tuple(strata), "; ".join(f"{part.name} {part.note}" for part in parts if part.note))]
