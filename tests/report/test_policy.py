"""The report of a policy run: its tables and pictures, hostile texts, and errors that name what is missing where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe.load import dump_recipe, load_settings
from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.report.render import write_policy_report
from rubric_arm_lite.runs.directory import RunState
from rubric_arm_lite.training.policy.dpo import REASONS
from tests.report.test_report import HOSTILE, Reader


def evaluation(name: str, rate: float) -> dict[str, Any]:
    rates = {
        f"{judge}/win_rate{end}": rate + more
        for judge in ("trained", "independent")
        for end, more in (("", 0.0), ("_low", -0.1), ("_high", 0.1))
    }
    return {"kind": "evaluation", "name": name, **rates, "kl": 0.1, "length": 3.0, "length_start": 2.0}


def logged(folder: Path, lost: str = "", line: int = 0) -> Path:
    """The logs of a run of DPO; of ``line`` (0: the last evaluation's own file) the field ``lost`` is gone."""
    labels = {"kind": "labels", "round": 1, **dict.fromkeys(REASONS, 2)}
    answers: list[dict[str, Any]] = [{"prompt": "p", "answer": "a", "start": "b"}]
    files: list[dict[str, Any]] = [{"rows": answers}, evaluation("start", 0.5), labels, evaluation("round 1", 0.6)]
    for fields in (files[line], *(answers if line == 0 else ())):
        fields.pop(lost, None)
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "round-1.json").write_text(json.dumps(files[0]))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in files[1:]))
    recipe = load_settings(PolicyRecipe, "testbed", ["reward.run=somewhere"])
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    return folder


def test_a_whole_log_is_shown(tmp_path: Path) -> None:
    page, text = (path.read_text("utf-8") for path in write_policy_report(logged(tmp_path)))
    assert "Round 1: 2 of" in text and "<pre>a</pre>" in page
    assert "0.600 [0.500, 0.700]" in text and "0.600 [0.500, 0.700]" in page
    assert " score " not in text.split("\n")[2], "a quantity that was never measured has no column"
    for words in (page, " ".join(text.split())):
        assert "the start itself has 0.5" in " ".join(words.split())
    assert 'aria-label="Win rate over the start. independent: 50.0% → 60.0%; reward model: 50.0% → 60.0%"' in page
    assert page.count("<svg") == page.count("<figcaption") == 3 and "prefers-color-scheme: dark" in page
    Reader(page)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = logged(tmp_path)
    (run / "metrics.jsonl").write_text("")
    page, text = (path.read_text("utf-8") for path in write_policy_report(run))
    assert "<svg" not in page and "| after |" in text and "Pairs" not in page


def test_a_run_in_the_middle_says_what_is_open(tmp_path: Path) -> None:
    run = logged(tmp_path)
    done = ("requests", "start", "rubrics", "evaluate 0", "sample 1")
    for stages, open_stages in ((done, "label 1, train 1, evaluate 1, final"), ((*done, "label 1"), "train 1")):
        (run / "state.json").write_text(RunState("x", stages, None).dumps())
        page, text = (path.read_text("utf-8") for path in write_policy_report(run))
        for shown in (Reader(page).text, " ".join(text.split())):
            assert f"Not done yet: {open_stages}" in shown and "repeat its command with --resume" in shown
    (run / "state.json").write_text(RunState("x", (*done, "label 1", "train 1", "evaluate 1", "final"), None).dumps())
    assert all("Not done yet" not in path.read_text("utf-8") for path in write_policy_report(run))


def test_an_alarm_is_shown_first(tmp_path: Path) -> None:
    run = logged(tmp_path)
    rows = [evaluation("start", 0.5), evaluation("round 1", 0.6) | {"independent/win_rate": 0.4}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, text = (path.read_text("utf-8") for path in write_policy_report(run))
    assert "<strong>Alarm.</strong>" in page and 'role="alert"' in page
    assert text.split("\n")[2].startswith("**")


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    run = logged(tmp_path)
    answers = [{"prompt": HOSTILE, "answer": HOSTILE, "start": HOSTILE}]
    (run / "evaluations" / "round-1.json").write_text(json.dumps({"rows": answers}))
    page, text = (path.read_text("utf-8") for path in write_policy_report(run))
    assert "script" not in Reader(page).tags and "<script>alert(1)</script> ]]>" in Reader(page).text
    for shown in (page, text):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\ud800-\udfff]", shown)


@pytest.mark.parametrize(
    ("lost", "line"),
    [
        ("kind", 1),
        ("name", 3),
        ("trained/win_rate", 1),
        ("independent/win_rate_high", 3),
        ("round", 2),
        ("kept", 2),
        ("rows", 0),
        ("answer", 0),
    ],
)
def test_a_field_that_is_gone_is_named_with_its_place(tmp_path: Path, lost: str, line: int) -> None:
    run = logged(tmp_path, lost, line)
    place = f"metrics.jsonl, line {line}" if line else "evaluations/round-1.json"
    with pytest.raises(CheckpointError, match=f"{place}: no `{lost}` here.*Restore it"):
        write_policy_report(run)
