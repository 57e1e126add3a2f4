"""The report of a policy's run: whatever somebody took out of its logs is named with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.recipe.load import dump_recipe, load_settings
from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.report.policy import write_policy_report
from rubric_arm_lite.training.policy.pairs import REASONS


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
    page, text = write_policy_report(logged(tmp_path))
    assert "Round 1: 2 of" in text.read_text("utf-8") and "<pre>a</pre>" in page.read_text("utf-8")


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
