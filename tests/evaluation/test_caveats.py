"""Numbers that mean little say so: most judgements unparsed, few pairs, phases in which nothing could be learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubric_arm_lite.evaluation.metrics import (
    evaluation_caveats,
    no_gradient_caveats,
    unparsed_caveats,
)
from rubric_arm_lite.recipe.load import load_recipe
from rubric_arm_lite.report.headline import headline
from rubric_arm_lite.report.read import read_run
from tests.report.test_report import Made, Reader, report
from tests.short_run import SHORT
from tests.source_rows import write_jsonl
from tests.training.test_run import execute

# --- sentences ------------------------------------------------------------------------------------------------------


def test_most_judgements_without_a_verdict() -> None:
    assert unparsed_caveats({"unparsed": 0.499}, 0.5) == []
    (text,) = unparsed_caveats({"unparsed": 0.5}, 0.5)
    assert text.startswith("50.0% of the judgements name no winner and count ½ each, so this accuracy says nothing")
    assert "Give the judge a warm-up (warmup.source), or try another prompts.judge_template." in text
    assert "count 0 each" in unparsed_caveats({"unparsed": 1.0}, 0.0)[0]
    assert "count evaluation.unparsed_value each" in unparsed_caveats({"unparsed": 1.0}, None)[0]


def test_the_generator_is_to_blame_where_its_rubrics_cannot_be_read() -> None:
    (text,) = unparsed_caveats({"unparsed": 1.0, "rubric_usable": 0.125}, 0.5)
    assert "Only 12.5% of the rubrics" in text and "prompts.rubric_template" in text


def test_a_pointwise_judge_has_pairs_without_scores() -> None:
    (text,) = unparsed_caveats({"unparsed": 0.75, "tie_rate": 0.0}, 0.5)
    assert text.startswith("75.0% of the pairs have no scores") and "prompts.pointwise_template" in text


@pytest.mark.parametrize(
    ("pairs", "expected"), [(0, None), (1, "Only 1 held-out pair:"), (19, "by 5 points"), (20, None)]
)
def test_few_pairs(pairs: int, expected: str | None) -> None:
    caveats = evaluation_caveats({"pairs": float(pairs), "unparsed": 0.0}, 0.5)
    assert caveats == [] if expected is None else expected in caveats[0]
    assert evaluation_caveats({"pairs": pairs}, None) == caveats


def test_values_of_an_older_run_raise_no_caveats() -> None:
    assert evaluation_caveats({"accuracy": 0.5}, 0.5) == []


# --- phases ---------------------------------------------------------------------------------------------------------


def step(informative: float, groups: float = 4.0, updates: float = 0.0) -> dict[str, float]:
    return {"groups/informative": informative, "groups": groups, "updates": updates}


def test_a_phase_has_no_gradient_only_if_none_of_its_steps_has() -> None:
    steps = [
        ("judge 1", "judge", step(0.0)),
        ("judge 1", "judge", step(0.25)),
        ("rubric 1", "rubric", step(0.0)),
        ("rubric 1", "rubric", step(0.0)),
        ("judge 2", "judge", step(0.0, groups=0.0)),
        ("rubric 2", "rubric", step(0.0, updates=1.0)),
        ("judge 3", "judge", {}),
    ]
    rubric, without_groups, updated = no_gradient_caveats(steps)
    assert rubric.startswith("No group of rubric 1 carried a gradient: the adapter did not move. All samples of each")
    assert without_groups.startswith("No group of judge 2 carried a gradient: the adapter did not move. There was no")
    assert updated.startswith("No group of rubric 2 carried a gradient: only its KL term could move the adapter. All")


def test_phases_that_are_alike_share_a_text() -> None:
    steps = [(f"judge {i}", "judge", step(0.0)) for i in (1, 2, 3)]
    steps += [("rubric 1", "rubric", step(0.0, updates=1.0)), ("judge 4", "judge", step(0.0, groups=0.0))]
    judge, rubric, without_groups = no_gradient_caveats(steps)
    assert judge.startswith("No group of judge 1, judge 2 and judge 3 carried a gradient: the adapter did not move. ")
    assert "judge.num_generations" in judge and "judge.temperature" in judge
    assert "No group of rubric 1 carried a gradient: only its KL term could move the adapter." in rubric
    assert "no rubric could be read" in without_groups and "num_generations" not in without_groups
    both = no_gradient_caveats([("judge+rubric 1", "rubric", step(0.0))])
    assert both[0].startswith("No group of the rubric in judge+rubric 1 carried")


# --- reports --------------------------------------------------------------------------------------------------------


def shown(made: Made) -> tuple[str, str]:
    """The words of page and text."""
    html, text = report(made.path)
    return Reader(html).text, " ".join(text.split())


def test_a_sound_run_has_no_caveats(tmp_path: Path) -> None:
    made = Made(tmp_path / "run").start().warm_up().alternate().finish()
    assert headline(read_run(made.path)).caveats == ()
    assert all("Careful" not in words for words in shown(made))


def test_a_run_that_learned_nothing_says_so_at_its_head(tmp_path: Path) -> None:
    made = Made(tmp_path / "run", "schedule.cycles=1").start()
    made.evaluate("warm-up", 0.5, unparsed=1.0)
    for slot, role in enumerate(("judge", "rubric")):
        values = {"groups/informative": 0.0 if role == "judge" else 0.5, "updates": 0.0, "groups": 4.0}
        for number in range(2):
            row = {"kind": "step", "slot": slot, "phase": f"{role} 1", "role": role, "step": number, **values}
            made.log("metrics.jsonl", **row)
        made.position = (slot + 1, 0)
        made.evaluate(f"{role} 1", 0.5, unparsed=0.975, pairs=12)
        made.commit()
    page, text = shown(made)
    for words in (page, text):
        assert "97.5% of the judgements name no winner" in words
        assert "No group of judge 1 carried a gradient: the adapter did not move." in words
        assert "Only 12 held-out pairs: this accuracy is imprecise" in words
        assert "No group of rubric 1" not in words
    assert text.index("Careful") < text.index("## Evaluations") and page.index("Careful") < page.index("Cross-play")


def test_a_phase_that_is_not_done_is_not_judged(tmp_path: Path) -> None:
    made = Made(tmp_path / "run").start().warm_up()
    values = {"groups/informative": 0.0, "updates": 0.0, "groups": 4.0}
    made.log("metrics.jsonl", kind="step", slot=0, phase="judge 1", role="judge", step=0, **values)
    assert headline(read_run(made.path)).caveats == ()


@pytest.mark.slow
def test_a_run_tells_it_on_the_way(tmp_path: Path) -> None:
    """Words that the testbed's base does not know, and no warm-up: no rubric can be read, so nothing is learned."""
    rows = [{"prompt": f"Boil {i} eggs, please", "chosen": f"Gladly! {i}", "rejected": f"No: {i}"} for i in range(40)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
    sets = (f"data.source={pairs}", "warmup.source=null", "schedule.cycles=1", "judge.max_steps=2")
    notes = execute(load_recipe("testbed", [*SHORT, *sets]), tmp_path / "run", "alternating").notes
    few, unparsed, judge, rubric = notes
    assert few.startswith("Only ") and "this accuracy is imprecise" in few
    assert unparsed.startswith("100.0% of the judgements name no winner") and "None of the rubrics" in unparsed
    assert judge.startswith("No group of judge 1 carried a gradient: the adapter did not move. There was no group")
    assert rubric.startswith("No group of rubric 1 carried a gradient: the adapter did not move. All samples of each")


def test_a_gain_of_form_is_called_one(tmp_path: Path) -> None:
    made = Made(tmp_path / "run").start()
    made.evaluate("warm-up", 0.5, unparsed=0.875)
    made.alternate().finish()
    for words in shown(made):
        assert "After the warm-up 87.5% of the judgements name no winner and count ½ each: part of the change" in words
        assert "Careful" not in words
