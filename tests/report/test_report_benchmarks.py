"""Benchmark results as tables: ours beside the paper's, and no average over what happens to be there."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import TypeAdapter

from rubric_arm_lite.evaluation.benchmarks.paper import COLUMNS, ROWS
from rubric_arm_lite.evaluation.benchmarks.results import Number, Result
from rubric_arm_lite.report.read import RunRecord
from rubric_arm_lite.report.render import benchmarks_text, render_report
from rubric_arm_lite.report.tables import Table, numbers_table, paper_table

RATES = {
    "items": 10.0,
    "duels": 10.0,
    "rows_skipped": 2.0,
    "too_long": 0.0,
    "without_rubric": 0.0,
    "consistency": 0.75,
    "unparsed": 0.125,
    "undecided": 0.0,
    "rubrics": 5.0,
    "rubrics_reused": 15.0,
}


def number(name: str, value: float, note: str = "") -> Number:
    return Number(name, value, value - 0.1, value + 0.1, value + 0.05, value - 0.05, value, value - 0.02, 10, note)


def result(name: str, *numbers: Number, gaps: tuple[str, ...] = (), **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "name": name, "title": name.title(), "source": f"owner/{name}", "rule": "share of pairs", "unparsed": "0.5",
        "votes": 5, "temperature": 1.0, "numbers": numbers, "gaps": gaps, "rates": RATES,
        "timing": {"seconds": 9.0, "seconds_per_pair": 0.9, "tokens_per_pair": 123.4}, "skips": "ties",
    }  # fmt: skip
    return Result(**{**fields, **changes})


def all_ten() -> list[Result]:
    by_name: dict[str, list[Number]] = {}
    for i, column in enumerate(COLUMNS):
        by_name.setdefault(column.benchmark, []).append(number(column.number, 0.5 + i / 100))
    return [result(name, *numbers) for name, numbers in by_name.items()]


def shown_table(results: list[Result]) -> Table:
    """The paper's table, of results that have a column in it."""
    table = paper_table(results)
    assert table is not None
    return table


def record(results: list[Result]) -> RunRecord:
    return RunRecord(benchmarks=tuple(results))


def test_the_papers_averages_are_those_of_its_columns() -> None:
    for name, (*values, average) in ROWS.items():
        assert len(values) == len(COLUMNS) == 10
        # each column is rounded to 0.1, and so is the average
        assert abs(sum(values) / 10 - average) <= 0.1, name


def test_the_average_of_ten_whole_columns() -> None:
    table = shown_table(all_ten())
    single, voted = table.rows[:2]
    assert voted[0] == "ours, voting@5" and voted[1:3] == ("50.0", "51.0") and voted[-1] == "54.5"
    assert single[0] == "ours" and single[1] == "48.0" and single[-1] == "52.5"
    assert not any("no average" in note for note in table.notes)
    assert len({len(row) for row in (table.header, *table.rows)}) == 1


def test_without_a_column_there_is_no_average_and_it_says_which() -> None:
    results = [r for r in all_ten() if r.name != "infobench"]
    table = shown_table(results)
    assert table.rows[0][-1] == "–" and table.rows[0][5] == "–"
    assert "Not evaluated: InfoB." in table.notes
    assert any("no average" in note for note in table.notes)


def test_of_one_s_own_files_the_paper_says_nothing() -> None:
    """Nor of a benchmark that its table has no column for."""
    for results in ([], [result("mine", number("accuracy", 0.5))], [result("writing", number("accuracy", 0.5))]):
        assert paper_table(results) is None
    text, html = benchmarks_text([result("mine", number("accuracy", 0.5))]), render_report(record([result("mine")]))[0]
    assert "Compared with the paper" not in text + html and "## Mine" in text and 'id="benchmarks"' in html
    assert paper_table([result("followbench", number("accuracy", 0.5))]) is not None, "a file under its name has one"


@pytest.mark.parametrize("by_note", [True, False])
def test_a_part_of_a_benchmark_is_marked_and_not_averaged(by_note: bool) -> None:
    results = all_ten()
    at = next(i for i, r in enumerate(results) if r.name == "helpsteer3")
    changed = number("accuracy", 0.6, "without x" if by_note else "")
    results[at] = result("helpsteer3", changed, gaps=() if by_note else ("a sample of 10 of 99 items",))
    table = shown_table(results)
    assert table.rows[1][10:] == ("60.0*", "–")
    why = "without x" if by_note else "a sample of 10 of 99 items"
    assert f"Only in part, with an asterisk: HelpSteer3 ({why})." in table.notes


def test_every_number_says_how_it_was_made() -> None:
    bench = result("judgebench", number("gpt", 0.5), gaps=("80 of the benchmark's 620 rows read",), lacks="a score")
    table = numbers_table(bench)
    assert table.rows == (("gpt", "50.0", "40.0–60.0", "55.0", "45.0", "50.0", "10.0", "48.0", "10"),)
    notes = " ".join(table.notes)
    for part in (
        "Share of pairs; majority of 5 judgements per order at temperature 1.",
        "An unparsed verdict counts: 0.5.",
        "75.0% of 10 pairs",
        "12.5% of the judgements have no verdict",
        "5 rubrics, reused 15 times",
        "123.4 tokens and 0.9 s a pair",
        "Not the whole benchmark: 80 of the benchmark's 620 rows read.",
        "2 rows skipped: ties.",
        "Not computed: a score.",
    ):
        assert part in notes, part
    assert "Rubric-ARM 63.2" in numbers_table(result("writing", number("accuracy", 0.5))).notes[-1]
    assert numbers_table(result("helpsteer3", number("accuracy", 0.5))).notes[-1] == (
        "Paper: accuracy 69.8, 71.1 with voting@5."
    )


def test_text_and_page_show_them() -> None:
    results = all_ten()
    text = benchmarks_text(results)
    assert "| ours, voting@5" in text and "## Rewardbench" in text and "From owner/rewardbench." in text
    shown = record(results)
    html, markdown = render_report(shown)
    assert "## Benchmarks" in markdown and "benchmarks/results.md" in markdown
    assert 'id="benchmarks"' in html and 'href="#benchmarks"' in html and "ours, voting@5" in html
    html, markdown = render_report(record([]))
    assert 'id="benchmarks"' not in html and "## Benchmarks" not in markdown


def test_names_from_data_stay_text() -> None:
    hostile = result("helpsteer3", number("<script>|\u202e`x`\x1b[1m\n# a", 0.5))
    html, text = render_report(record([hostile]))[0], benchmarks_text([hostile])
    assert "<script>|" not in html and "&lt;script&gt;" in html
    for shown in (html, text):
        assert "\u202e" not in shown and "\x1b" not in shown
    assert "\n# a" not in text and "<script>/" in text


def test_results_survive_json() -> None:
    for each in all_ten():
        assert TypeAdapter(Result).validate_json(json.dumps(asdict(each)), strict=True) == each
