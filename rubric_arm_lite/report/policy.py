"""The report of a policy run: one self-contained page, and the same in Markdown.

A run directory goes in, however far the run has come; ``report.html`` and ``report.md`` come out. Both depend on the
logs alone; :mod:`rubric_arm_lite.training.policy.evaluate` measured every value in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rubric_arm_lite.errors import CheckpointError, ConfigError, first_line
from rubric_arm_lite.recipe import PolicyRecipe, load_settings
from rubric_arm_lite.report.read import EvaluationRow, finite_numbers, read_file, read_metrics
from rubric_arm_lite.report.render import render, write_pair
from rubric_arm_lite.report.series import Panel, evaluation_axis
from rubric_arm_lite.report.tables import ABSENT, Column, evaluation_table
from rubric_arm_lite.runs.directory import RECIPE
from rubric_arm_lite.runs.logs import LogRow
from rubric_arm_lite.training.policy.evaluate import alarms
from rubric_arm_lite.training.policy.pairs import REASONS
from rubric_arm_lite.training.policy.run import alarm_text, curve

SHOWN_ANSWERS = 3
_COLUMNS = (
    Column("score", "score", ".3f", "both"),
    Column("independent", "independent/win_rate", ".3f", "both"),
    Column("independent, equal length", "independent/win_rate_lc", ".3f"),
    Column("reward model", "trained/win_rate", ".3f", "both"),
    Column("reward model, equal length", "trained/win_rate_lc", ".3f"),
    Column("KL", "kl", ".2f"),
    Column("tokens", "length", ".1f"),
    Column("truncated", "cut", ".3f"),
    Column("distinct", "distinct", ".3f"),
)
_NOTE = (
    "Win rates are over the starting policy, one sampled answer of each to every held-out request; the start itself "
    "has 0.5. Reward model: the one trained against, both orders under its own rubric. Independent: a judge the policy "
    "was not trained against. Equal length: a logistic regression on the difference in tokens, read off at difference "
    "0. Score: the independent judge's mean score of single answers, with a bootstrap interval. KL: to the start, nats "
    "per answer, on the policy's own answers."
)


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """Everything that the report shows of a policy run."""

    recipe: PolicyRecipe
    evaluations: Sequence[EvaluationRow]
    labels: Sequence[LogRow]
    warnings: Sequence[str]
    answers: Sequence[LogRow]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name


def write_policy_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a policy run's directory and return their paths.

    Raises:
        CheckpointError: if the folder is no policy run, or a file in it is damaged.
    """
    from rubric_arm_lite.report.figures import draw_panel

    record = read_policy_run(Path(run))
    columns = [column for column in _COLUMNS if any(column.text(row.values) != ABSENT for row in record.evaluations)]
    values = {
        "record": record,
        "evaluations": replace(evaluation_table(record.evaluations, columns), notes=(_NOTE,)),
        "yields": [_yield(row) for row in record.labels],
    }
    html = render("policy_report.html.jinja", **values, panels=_panels(record.evaluations), draw=draw_panel)
    return write_pair(Path(run), html, render("policy_report.md.jinja", **values))


def read_policy_run(run: Path) -> PolicyRecord:
    """Read a run directory.

    Raises:
        CheckpointError: if it is no policy run, or its log is damaged.
    """
    if not (run / RECIPE).is_file():
        raise CheckpointError(f"{run} is not a run directory: it has no {RECIPE}. Make one with rubric-arm policy.")
    try:
        recipe = load_settings(PolicyRecipe, str(run / RECIPE))
    except ConfigError as error:
        raise CheckpointError(
            f"{run} is not the run of a policy ({first_line(error)}). For a reward model's run use rubric-arm report."
        ) from error
    try:
        rows = read_metrics(run)
        evaluations = [EvaluationRow(row["name"], finite_numbers(row)) for row in rows["evaluation"]]
        raised = alarms(curve(rows["evaluation"]), recipe.evaluation.alarm_margin)
        answers = []
        if evaluations:
            file = run / "evaluations" / f"{evaluations[-1].name.replace(' ', '-')}.json"
            answers = read_file(file)["rows"][:SHOWN_ANSWERS]
    except (ValueError, TypeError, AttributeError) as error:  # a value of another type than the run wrote
        raise CheckpointError(
            f"{run}: its logs are damaged ({type(error).__name__}: {error}). Continue the run with --resume, or start "
            "anew."
        ) from error
    return PolicyRecord(recipe, evaluations, rows["labels"], [alarm_text(alarm) for alarm in raised], answers)


def _panels(evaluations: Sequence[EvaluationRow]) -> dict[str, Panel]:
    """The curves of a run over its evaluations, by the key that the template uses."""
    labels = ["start" if i == 0 else row.name.rpartition(" ")[2] for i, row in enumerate(evaluations)]
    axis = evaluation_axis(evaluations, labels)
    win_rates = [
        axis.series("independent/win_rate", "independent", "accent"),
        axis.series("trained/win_rate", "reward model", "rubric", dashed=True),
    ]
    bounds = [axis.series(f"score_{end}", end, "muted", dashed=True) for end in ("low", "high")]
    lengths = [axis.series("length", "policy", "ink"), axis.series("length_start", "start", "muted", dashed=True)]
    candidates = {
        "win-rate": axis.panel(win_rates, guide=0.5),
        "score": axis.panel([axis.series("score", "score", "accent"), *bounds], "number"),
        "kl": axis.panel([axis.series("kl", "KL", "ink")], "number"),
        "length": axis.panel(lengths, "number"),
    }
    return {key: panel for key, panel in candidates.items() if panel.series}


def _yield(row: LogRow) -> str:
    """How many pairs of a round of DPO were kept, and why the others were not."""
    total = sum(row[reason] for reason in REASONS)
    dropped = ", ".join(f"{reason} {row[reason]}" for reason in REASONS[1:] if row[reason])
    return f"Round {row['round']}: {row['kept']} of {total} pairs kept{'; ' + dropped if dropped else ''}."
