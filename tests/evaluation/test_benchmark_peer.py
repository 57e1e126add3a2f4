"""Our scores against RewardBench's own package, and against plain second implementations of every rule.

The package (``pip install --no-deps rewardbench``, with what its ``rewardbench.utils`` imports) is not among our
requirements; where it is missing, its tests are skipped.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_arm_lite.evaluation.benchmarks.catalogue import BENCHMARKS
from rubric_arm_lite.evaluation.benchmarks.load import load_benchmarks
from rubric_arm_lite.evaluation.benchmarks.results import numbers_of
from rubric_arm_lite.evaluation.benchmarks.run import evaluate_benchmarks
from rubric_arm_lite.evaluation.benchmarks.scoring import (
    SECTIONS,
    Answer,
    Item,
    Outcome,
    best_of_scores,
)
from rubric_arm_lite.recipe.fields import EvaluationSettings
from tests import benchmark_rows as made
from tests.evaluation.test_benchmark_run import by_text, reward_model

NAMED = {benchmark.name: benchmark for benchmark in BENCHMARKS}
SETTINGS = EvaluationSettings(bootstrap=2)
outcomes = st.sampled_from((True, False, None))
scores = st.integers(0, 6).map(float)


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip(
        "rewardbench.utils", reason="RewardBench's package is not installed", exc_type=ImportError
    )


# --- RewardBench's package ------------------------------------------------------------------------------------------


def test_sections_of_our_saved_verdicts_by_the_package(tmp_path: Path, peer: Any) -> None:
    """The package's sections and weights, over what our journal says, give our numbers in either order."""
    constants = pytest.importorskip("rewardbench.constants")
    assert {name: list(weights) for name, weights in SECTIONS.items()} == constants.SUBSET_MAPPING
    weights = {subset: weight for section in SECTIONS.values() for subset, weight in section.items()}
    assert weights == constants.EXAMPLE_COUNTS
    path = made.as_jsonl(tmp_path / "rb.jsonl", made.rewardbench([*weights] * 5))
    (result,) = evaluate_benchmarks(
        reward_model(by_text), load_benchmarks(["rewardbench"], {"rewardbench": str(path)}), tmp_path / "o", 1
    )
    rows = [json.loads(line) for line in (tmp_path / "o/rewardbench.jsonl").read_text("utf-8").splitlines()[1:]]
    for order in ("original", "swapped"):
        counted: dict[str, list[float]] = {}
        for row in rows:
            (named,) = row["duels"][0][order]
            # as run_generative.py counts: 1 for the winner's text, 0 for the loser's, else 0.5
            counted.setdefault(row["subset"], []).append(1 if named == 0 else 0 if named == 1 else 0.5)
        metrics = {subset: sum(values) / len(values) for subset, values in counted.items()}
        sections = peer.calculate_scores_per_section(constants.EXAMPLE_COUNTS, constants.SUBSET_MAPPING, metrics)
        for name, value in sections.items():
            number = result.number(name)
            assert number is not None and getattr(number, order) == pytest.approx(value)


@given(st.lists(scores, min_size=4, max_size=4))
def test_best_of_four_scores_by_the_package(peer: Any, four: list[float]) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": list("abcd"), "scores": four, "id": ["x"] * 4})
    assert peer.reroll_and_score_dataset(rows, [4])["results"] == [best_of_scores(four)]


# --- second implementations -----------------------------------------------------------------------------------------


def answers(items: list[Item], outcomes: list[Outcome]) -> list[tuple[Item, Answer]]:
    """Two outcomes per duel, original then swapped, taken from ``outcomes`` in turn."""
    stream = iter(outcomes)
    judged = []
    for item in items:
        both = [[((next(stream)),) for _ in item.duels] for _ in range(2)]
        judged.append((item, Answer(tuple(both[0]), tuple(both[1]))))
    return judged


def worth(outcome: Outcome, unparsed: float) -> float:
    if outcome is None:
        return unparsed
    return 1.0 if outcome else 0.0


@settings(max_examples=12)
@given(st.lists(outcomes, min_size=2 * 46, max_size=2 * 46))
def test_rewardbench_by_a_plain_loop(said: list[Outcome]) -> None:
    weights = {subset: weight for section in SECTIONS.values() for subset, weight in section.items()}
    items = [Item(f"{subset}/{i}", "p", ("g", "b"), subset=subset) for subset in weights for i in range(2)]
    found = {n.name: n for n in numbers_of(NAMED["rewardbench"], answers(items, said), SETTINGS, 1, 3)}
    total = 0.0
    for section, subsets in SECTIONS.items():
        top = bottom = 0.0
        for subset, weight in subsets.items():
            places = [i for i, item in enumerate(items) if item.subset == subset]
            mean = sum(worth(said[2 * i], 0.5) + worth(said[2 * i + 1], 0.5) for i in places) / (2 * len(places))
            top, bottom = top + weight * mean, bottom + weight
        assert math.isclose(found[section].value, top / bottom, abs_tol=1e-12)
        total += top / bottom
    assert math.isclose(found["average of sections"].value, total / 4, abs_tol=1e-12)


@settings(max_examples=40)
@given(st.lists(outcomes, min_size=18 * 6, max_size=18 * 6))
def test_rm_bench_by_a_matrix(said: list[Outcome]) -> None:
    """With numpy's triangles over the mean matrix of a domain, as the benchmark's own code does it."""
    import numpy as np

    duels = tuple((i, 3 + j) for i in range(3) for j in range(3))
    names = ("chat", "code", "math", "safety-refuse", "safety-response", "safety-response")
    items = [Item(f"{i}", "p", tuple("abcdef"), duels, name) for i, name in enumerate(names)]
    found = {n.name: n.value for n in numbers_of(NAMED["rm-bench"], answers(items, said), SETTINGS, 1, 3)}
    grids = np.array([worth(outcome, 0.5) for outcome in said]).reshape(6, 2, 3, 3).mean(axis=1)
    domains = {
        domain: grids[[i for i, name in enumerate(names) if name.startswith(domain)]].mean(axis=0)
        for domain in ("chat", "code", "math", "safety")
    }
    levels = {
        name: [
            {"hard": np.triu(g, 1).sum() / 3, "normal": np.diag(g).mean(), "easy": np.tril(g, -1).sum() / 3}[name]
            for g in domains.values()
        ]
        for name in ("hard", "normal", "easy")
    }
    for name, values in levels.items():
        assert math.isclose(found[name], float(np.mean(values)), abs_tol=1e-12)
    assert math.isclose(found["overall"], float(np.mean(list(levels.values()))), abs_tol=1e-12)
    assert math.isclose(found["safety"], float(np.mean([v[3] for v in levels.values()])), abs_tol=1e-12)


@settings(max_examples=60)
@given(st.lists(outcomes, min_size=12, max_size=12))
def test_judgebench_as_its_own_code_counts(said: list[Outcome]) -> None:
    items = [Item(f"{i}", "p", ("g", "b"), subset="gpt, math") for i in range(6)]
    judged = answers(items, said)
    found = {n.name: n.value for n in numbers_of(NAMED["judgebench"], judged, SETTINGS, 1, 3)}
    right = 0
    for i in range(6):
        counter = 0
        for decision in said[2 * i : 2 * i + 2]:
            if decision is True:
                counter += 1
            elif decision is False:
                counter -= 1
        right += counter > 0
    assert math.isclose(found["gpt"], right / 6)


@settings(max_examples=60)
@given(st.lists(outcomes, min_size=12, max_size=12), st.sampled_from((0.0, 0.25, 0.5)))
def test_rewardbench_2_strict_by_a_plain_loop(said: list[Outcome], unparsed: float) -> None:
    items = [Item(f"{i}", "p", tuple("abcd"), ((0, 1), (0, 2), (0, 3)), "Focus") for i in range(2)]
    judged = answers(items, said)
    chosen = EvaluationSettings(bootstrap=2, unparsed_best_of=unparsed)
    (number,) = numbers_of(NAMED["rewardbench2"], judged, chosen, 1, 3)
    total = 0.0
    for start in range(0, 12, 3):
        three = said[start : start + 3]
        if three.count(True) == 3:
            total += 1
        elif False not in three:
            total += unparsed
    assert math.isclose(number.value, total / 4)
