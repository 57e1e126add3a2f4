"""docs/metrics.md names every kind of row and every name in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rubric_arm_lite.cli.common import VALUES
from rubric_arm_lite.report.tables import POLICY_COLUMNS
from rubric_arm_lite.runs import read_jsonl
from rubric_arm_lite.training.policy.dpo import LOGGED, REASONS

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented(page: str) -> set[str]:
    """What stands between single backticks in a table or sentence."""
    return set(re.findall(r"`([^`\n]+)`", page))


def undocumented(names: set[str]) -> set[str]:
    return {re.sub(r"@\d+$", "@k", name) for name in names} - documented(PAGE.read_text("utf-8"))


def test_every_name_that_a_run_writes_is_documented(finished_run: Path) -> None:
    rows = list(read_jsonl(finished_run / "metrics.jsonl"))
    assert undocumented({str(row["kind"]) for row in rows} | {name for row in rows for name in row}) == set()
    assert undocumented({"evaluation", "no/such", "voting@7"}) == {"no/such"}


def test_values_of_other_runs_are_documented() -> None:
    evaluations = set(VALUES["evaluation"]) - {"voting"}
    policies = {column.key for column in POLICY_COLUMNS if not column.key.endswith("_lc")}
    assert undocumented(evaluations | policies | {*LOGGED, *REASONS}) == set()


def test_every_field_of_timings_is_documented(finished_run: Path) -> None:
    rows = [json.loads(line) for line in (finished_run / "timings.jsonl").read_text().splitlines()]
    assert undocumented({name for row in rows for name in row}) == set()
