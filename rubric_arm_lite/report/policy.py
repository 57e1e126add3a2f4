"""The report of a policy run: one self-contained page, and the same in Markdown.

A run directory goes in, however far the run has come; ``report.html`` and ``report.md`` come out. Both depend on the
logs alone; :mod:`rubric_arm_lite.training.policy.evaluate` measured every value in them.
"""

from __future__ import annotations

from pathlib import Path

from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.recipe import PolicyRecipe, load_settings
from rubric_arm_lite.report.panels import evaluation_axis
from rubric_arm_lite.report.read import EvaluationRow, finite_numbers, read_file, read_metrics, read_state
from rubric_arm_lite.report.render import render, write_pair
from rubric_arm_lite.report.tables import ABSENT, Column, evaluation_table
from rubric_arm_lite.runs import RECIPE
from rubric_arm_lite.training.policy.evaluate import alarms
from rubric_arm_lite.training.policy.pairs import REASONS

SHOWN_ANSWERS = 3
_COLUMNS = (
    Column("score", "score", ".3f", "both"),
    Column("independent", "independent/win_rate", ".3f", "both"),
    Column("independent, equal length", "independent/win_rate_lc", ".3f"),
    Column("reward model", "trained/win_rate", ".3f", "both"),
    Column("reward model, equal length", "trained/win_rate_lc", ".3f"),
    Column("KL", "kl", ".2f"),
    Column("tokens", "length", ".1f"),
    Column("truncated", "truncated", ".3f"),
    Column("distinct", "distinct", ".3f"),
)


def write_policy_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a policy run's directory and return their paths.

    Raises:
        CheckpointError: if the folder is no policy run, or a file in it is damaged.
    """
    from rubric_arm_lite.report.figures import draw_panel

    run = Path(run)
    read_state(run)
    recipe = _policy_recipe(run)
    try:
        rows = read_metrics(run)
        evaluations = [EvaluationRow(str(row["name"]), finite_numbers(row)) for row in rows["evaluation"]]
        warnings = [alarm.text() for alarm in alarms(rows["evaluation"], recipe.evaluation.alarm_margin)]
        answers = []
        file = run / "evaluations" / f"{evaluations[-1].name.replace(' ', '-') if evaluations else ''}.json"
        if file.exists():
            answers = read_file(file)["rows"][:SHOWN_ANSWERS]
        yields = []
        for row in rows["labels"]:
            total = sum(row[reason] for reason in REASONS)
            dropped = ", ".join(f"{reason} {row[reason]}" for reason in REASONS[1:] if row[reason])
            yields.append(f"Round {row['round']}: {row['kept']} of {total} pairs kept{dropped and f'; {dropped}'}.")
    except (ValueError, TypeError, AttributeError) as error:  # a value of another type than the run wrote
        raise CheckpointError(
            f"{run}: its logs are damaged ({type(error).__name__}: {error}). Continue the run with --resume, or start "
            "anew."
        ) from error
    columns = [column for column in _COLUMNS if any(column.text(row.values) != ABSENT for row in evaluations)]
    record = {
        "name": recipe.name,
        "recipe": recipe,
        "evaluations": evaluations,
        "warnings": warnings,
        "answers": answers,
    }
    values = {"record": record, "evaluations": evaluation_table(evaluations, columns), "yields": yields}
    labels = ["start" if i == 0 else row.name.rpartition(" ")[2] for i, row in enumerate(evaluations)]
    html = render("policy_report.html.jinja", **values, axis=evaluation_axis(evaluations, labels), draw=draw_panel)
    return write_pair(run, html, render("policy_report.md.jinja", **values))


def _policy_recipe(run: Path) -> PolicyRecipe:
    if not (run / RECIPE).is_file():
        raise CheckpointError(f"{run} is not a run directory: it has no {RECIPE}. Make one with rubric-arm policy.")
    try:
        return load_settings(PolicyRecipe, str(run / RECIPE))
    except ConfigError as error:
        raise CheckpointError(
            f"{run} is not the run of a policy: {error} The report of a reward model's run: rubric-arm report {run}."
        ) from error
