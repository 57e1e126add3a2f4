"""The report of a run whose judge checks one response at a time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rubric_arm_lite.report.examples import examples
from rubric_arm_lite.report.headline import contrast
from rubric_arm_lite.report.read import read_run
from tests.report.test_report import PAIRS, Made, report, section, showcase_of, values_of

ORDERS = ("accuracy_original", "accuracy_swapped", "accuracy_mixed", "position_bias", "consistency", "verdicts_for_a")


class PointwiseMade(Made):
    """Writes a synthetic run directory with what :mod:`rubric_arm_lite.evaluation.pointwise` measures."""

    def evaluate(self, name: str, accuracy: float, **more: float) -> None:
        values = {key: value for key, value in values_of(accuracy, **more).items() if key not in ORDERS}
        values |= {"tie_rate": 0.0123, "margin": accuracy - 0.4, "accuracy_words": 0.59, "tie_rate_words": 0.37}
        right = round(accuracy * PAIRS)
        rows = [{"pair_id": f"p{i}", "accuracy": float(i < right), "margin": 0.2} for i in range(PAIRS)]
        details = {"name": name, "values": values, "rows": rows, "showcase": showcase_of(name, self.text)}
        self.log("metrics.jsonl", kind="evaluation", name=name, **values)
        folder = self.path / "evaluations"
        folder.mkdir(exist_ok=True)
        (folder / f"{re.sub('[^a-z0-9]', '-', name)}.json").write_text(json.dumps(details))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = PointwiseMade(
        tmp_path_factory.mktemp("pointwise") / "r", "reward.judge=pointwise", "reward.judge_orders=one"
    )
    return made.start().warm_up().alternate().finish().path


def test_it_says_what_a_pointwise_judge_does_and_nothing_of_orders(run: Path) -> None:
    page, text = report(run)
    for words in (text, section(page, "accuracy")):
        assert "no position bias" in " ".join(words.split())
    assert "each response scored by itself" in " ".join(text.split())
    assert "Original" not in text and "swapped order" not in page and "preferred second" not in page
    evaluations = section(page, "evaluations")
    for title in ("ties", "margin", "by words", "ties by words"):
        assert title in evaluations and title in text
    assert "None by construction" in section(page, "reading") and "Two orders" not in page
    assert "Margin" in section(page, "training") and "Consistency and position bias" not in page
    assert "mean of sampled scores" in page and "preferred response scores higher: ✓ right" in text


def test_gains_are_paired_over_the_same_pairs(run: Path) -> None:
    record = read_run(run)
    gain = contrast([(1, record.evaluations["final"]), (-1, record.evaluations["warm-up"])])
    assert gain.value == pytest.approx(0.3) and gain.clear
    assert record.pointwise
    (shown,) = examples(record.phases)
    assert {(v.original, v.swapped) for v in shown.verdicts} == {("right", "right")}
