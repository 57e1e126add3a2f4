"""An evaluation for a terminal: a sentence first, whole counts, and an explanation of every value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rubric_arm_lite.cli.common import VALUES
from rubric_arm_lite.cli.evaluate import evaluation_text
from rubric_arm_lite.cli.main import app
from tests.report.test_report import values_of
from tests.source_rows import write_jsonl

POINTWISE = {
    "accuracy": 0.75,
    "accuracy_low": 0.5,
    "accuracy_high": 1.0,
    "tie_rate": 0.125,
    "margin": 0.25,
    "unparsed": 0.0,
    "pairs": 1.0,
}


def lines(values: dict[str, float]) -> tuple[str, dict[str, list[str]]]:
    """The first sentence, and the cells of the table by the name of the value."""
    parts = evaluation_text(values, 0.5).split("\n\n")
    return parts[0], {row.split()[0]: row.split(None, 2) for row in parts[-1].splitlines()}


def test_a_sentence_comes_first_and_counts_are_whole() -> None:
    sentence, table = lines({**values_of(0.8541), "pairs": 1234.0})
    assert sentence == (
        "Accuracy 85.4% (95% interval 80.4% to 90.4%) on 1,234 pairs, each judged in both orders; position bias 4.0 "
        "points."
    )
    assert (
        table["pairs"][1] == "1,234"
        and table["tokens_per_pair"][1] == "120.0"
        and table["verdicts_for_a"][1] == "52.0%"
    )


def test_a_pointwise_judge_has_ties_in_place_of_orders() -> None:
    sentence, table = lines(POINTWISE)
    assert sentence.endswith("on 1 pair, each response scored by itself; 12.5% ties.")
    assert table["margin"][1] == "+0.25"


def test_caveats_stand_between_sentence_and_table() -> None:
    parts = evaluation_text({**values_of(0.5), "unparsed": 0.975, "pairs": 12.0}, 0.5).split("\n\n")
    assert [part.split(":")[0].split(",")[0] for part in parts[1:3]] == [
        "97.5% of the judgements name no winner and count ½ each",
        "Only 12 held-out pairs",
    ]
    assert len(parts) == 4 and len(evaluation_text(values_of(0.5), 0.5).split("\n\n")) == 2


def test_every_explanation_fits_its_line() -> None:
    assert all(0 < len(text) <= 80 and "\n" not in text for _, text in VALUES["evaluation"].values())


# --- the verb -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluate_explains_every_value_and_warns(finished_run: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "write about zebras", "chosen": f"calm {i}", "rejected": f"loud {i}"} for i in range(3)]
    source = write_jsonl(tmp_path / "pairs.jsonl", rows)

    def evaluate(*options: str) -> tuple[str, str]:
        result = CliRunner().invoke(app, ["evaluate", str(finished_run), str(source), "--votes", "2", *options])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout, result.stderr

    text, warnings = evaluate()
    assert text.startswith("Accuracy ") and " on 3 pairs, each judged in both orders; position bias " in text
    assert "Only 3 held-out pairs" in text and "zebras" in warnings
    raw, warnings = evaluate("--json")
    values = json.loads(raw)
    assert values["pairs"] == 3.0 and "Only 3 held-out pairs" in warnings
    rows_shown = {row.split()[0]: row.split(None, 2)[2] for row in text.split("\n\n")[-1].splitlines()}
    assert rows_shown.keys() == values.keys() - {"skipped_too_long"} and all(rows_shown.values())


@pytest.mark.slow
def test_a_user_s_own_file_is_shown_without_the_paper(finished_run: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "write about rivers", "chosen": f"calm {i}", "rejected": f"loud {i}"} for i in range(3)]
    source = write_jsonl(tmp_path / "mine.jsonl", rows)
    command = ["evaluate", str(finished_run), "--benchmarks", str(source), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "## mine" in result.stdout and "Compared with the paper" not in result.stdout
