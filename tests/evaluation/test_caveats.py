"""Numbers that mean little say so: most judgements unparsed, few pairs; and alarms stand beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubric_arm_lite.evaluation.metrics import evaluation_caveats, unparsed_caveats
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
        alarm = f"After {role} 1, <b>something</b> \x1b[31m is wrong (alarms.{role}: 1). Try again."
        row = {"slot": slot, "phase": f"{role} 1", "step": 1, "value": 2.0, "threshold": 1.0, "text": alarm}
        made.log("metrics.jsonl", kind="alarm", alarm=role, **row)
        made.position = (slot + 1, 0)
        made.evaluate(f"{role} 1", 0.5, unparsed=0.975, pairs=12)
        made.commit()
    page, text = shown(made)
    for words in (page, text):
        assert "97.5% of the judgements name no winner" in words
        assert "After judge 1, <b>something</b> \ufffd[31m is wrong (alarms.judge: 1). Try again." in words
        assert "After rubric 1, <b>something</b>" in words
        assert "Only 12 held-out pairs: this accuracy is imprecise" in words
    assert text.index("Careful") < text.index("## Evaluations") and page.index("Careful") < page.index("Cross-play")


@pytest.mark.slow
def test_a_run_tells_it_on_the_way(tmp_path: Path) -> None:
    """Words that the testbed's base does not know, and no warm-up: no rubric can be read, so nothing is learned."""
    rows = [{"prompt": f"Boil {i} eggs, please", "chosen": f"Gladly! {i}", "rejected": f"No: {i}"} for i in range(40)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
    sets = (f"data.source={pairs}", "warmup.source=null", "schedule.cycles=1", "judge.max_steps=2")
    notes = execute(load_recipe("testbed", [*SHORT, *sets]), tmp_path / "run", "alternating").notes
    few, unparsed, judge, unusable, rubric = notes
    assert few.startswith("Only ") and "this accuracy is imprecise" in few
    assert unparsed.startswith("100.0% of the judgements name no winner") and "None of the rubrics" in unparsed
    assert judge.startswith("In step 2 of judge 1, 100% of the rubrics cannot be used (alarms.unusable: 0.5).")
    assert unusable.startswith("In step 2 of rubric 1, 100% of the rubrics cannot be used")
    assert rubric.startswith("In step 2 of rubric 1, 0% of the rubric's groups carry a gradient, as all samples of a")


def test_a_gain_of_form_is_called_one(tmp_path: Path) -> None:
    made = Made(tmp_path / "run").start()
    made.evaluate("warm-up", 0.5, unparsed=0.875)
    made.alternate().finish()
    for words in shown(made):
        assert "After the warm-up 87.5% of the judgements name no winner and count ½ each: part of the change" in words
        assert "Careful" not in words
