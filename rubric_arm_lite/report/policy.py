"""The report of a policy run: one small self-contained page, and the same in Markdown.

A run directory goes in, however far the run has come; ``report.html`` and ``report.md`` come out. Everything shown
was measured by :mod:`rubric_arm_lite.training.policy.evaluate`; both depend on the logs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rubric_arm_lite.errors import CheckpointError, ConfigError, first_line
from rubric_arm_lite.recipe import PolicyRecipe, load_settings
from rubric_arm_lite.report.figures import draw_panel
from rubric_arm_lite.report.panels import Band, Colour, Line, Panel, Unit
from rubric_arm_lite.runs import atomic_write, read_jsonl, read_object
from rubric_arm_lite.runs.directory import RECIPE
from rubric_arm_lite.training.policy.evaluate import alarms
from rubric_arm_lite.training.policy.pairs import REASONS
from rubric_arm_lite.training.policy.run import alarm_text, curve

HTML, TEXT = "report.html", "report.md"
SHOWN_ANSWERS = 3
COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("score", "score", 3),
    ("independent/win_rate", "independent", 3),
    ("independent/win_rate_lc", "independent, equal length", 3),
    ("trained/win_rate", "reward model", 3),
    ("trained/win_rate_lc", "reward model, equal length", 3),
    ("kl", "KL", 2),
    ("length", "tokens", 1),
    ("cut", "cut", 3),
    ("distinct", "distinct", 3),
)
"""Columns of the table: the measured name, its heading, and digits."""
READING = (
    "Win rates are over the starting policy, one sampled answer of each to every held-out request: 50% is where it "
    "began. Reward model: the one trained against, both orders under its own rubric. Independent: a judge the policy "
    "was not trained against. Equal length: a logistic regression on the difference in tokens, read off at difference "
    "0. Score: the independent judge's mean score of single answers, with a bootstrap interval. KL: to the start, nats "
    "per answer, on the policy's own answers."
)


@dataclass(frozen=True, slots=True)
class Record:
    """What a policy run's folder says."""

    recipe: PolicyRecipe
    evaluations: Sequence[dict[str, Any]]
    labels: Sequence[dict[str, Any]]
    warnings: list[str]
    shown: list[dict[str, Any]]


def read_record(run: Path) -> Record:
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
        rows = list(read_jsonl(run / "metrics.jsonl"))
        evaluations = [row for row in rows if row["kind"] == "evaluation"]
        labels = [row for row in rows if row["kind"] == "labels"]
        found = alarms(curve(evaluations), recipe.evaluation.alarm_margin)
        shown: list[dict[str, Any]] = []
        if evaluations:
            file = run / "evaluations" / f"{evaluations[-1]['name'].replace(' ', '-')}.json"
            shown = read_object(file)["rows"][:SHOWN_ANSWERS]
    except (ValueError, TypeError, AttributeError) as error:  # what is there, but is not what it should be
        raise CheckpointError(
            f"{run}: its logs are damaged ({type(error).__name__}: {error}). Continue the run with --resume, or start "
            "anew."
        ) from error
    return Record(recipe, evaluations, labels, [alarm_text(alarm) for alarm in found], shown)


def write_policy_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a policy run's directory and return their paths.

    Raises:
        CheckpointError: if the folder is no policy run, or a file in it is damaged.
    """
    folder = Path(run)
    record = read_record(folder)
    html, text = folder / HTML, folder / TEXT
    atomic_write(html, _page(record).encode())
    atomic_write(text, _markdown(record).encode())
    return html, text


def _page(record: Record) -> str:
    environment = Environment(
        loader=PackageLoader("rubric_arm_lite.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = [(panel.title, panel.caption, Markup(draw_panel(panel))) for panel in _panels(record.evaluations)]
    return environment.get_template("policy_report.html.jinja").render(
        record=record, table=_table(record.evaluations), panels=drawn, yields=_yields(record.labels), reading=READING
    )


def _panels(evaluations: Sequence[dict[str, Any]]) -> list[Panel]:
    if not evaluations:
        return []
    bands = tuple(
        Band("start" if i == 0 else row["name"].rpartition(" ")[2], i - 0.5, i + 0.5)
        for i, row in enumerate(evaluations)
    )

    def line(name: str, metric: str, colour: Colour, dashed: bool = False) -> Line | None:
        points = tuple((float(i), float(row[metric])) for i, row in enumerate(evaluations) if metric in row)
        return Line(name, colour, (points,), dashed) if points else None

    def panel(key: str, title: str, caption: str, unit: Unit, *lines: Line | None, guide: float | None = None) -> Panel:
        return Panel(key, title, caption, unit, tuple(x for x in lines if x is not None), bands, guide)

    found = [
        panel(
            "win-rate",
            "Win rate over the start",
            "Green: independent judge; orange, dashed: the reward model trained against. Apart, they warn of "
            "over-optimisation.",
            "share",
            line("independent", "independent/win_rate", "accent"),
            line("reward model", "trained/win_rate", "rubric", dashed=True),
            guide=0.5,
        ),
        panel(
            "score",
            "Score",
            "The independent judge's mean score, with its 95% interval.",
            "number",
            line("score", "score", "accent"),
            line("low", "score_low", "muted", dashed=True),
            line("high", "score_high", "muted", dashed=True),
        ),
        panel("kl", "KL to the start", "Nats per answer.", "number", line("KL", "kl", "ink")),
        panel(
            "length",
            "Length",
            "Tokens per answer; dashed: the start's.",
            "number",
            line("policy", "length", "ink"),
            line("start", "length_start", "muted", dashed=True),
        ),
    ]
    return [each for each in found if each.lines]


def _table(evaluations: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows; a quantity that was never measured has no column."""
    columns = [column for column in COLUMNS if any(column[0] in row for row in evaluations)]
    return ["after", *(heading for _, heading, _ in columns)], [
        [str(row["name"]), *(_cell(row, name, digits) for name, _, digits in columns)] for row in evaluations
    ]


def _cell(row: dict[str, Any], name: str, digits: int) -> str:
    if name not in row:
        return ""
    text = f"{row[name]:.{digits}f}"
    if f"{name}_low" in row:
        text += f" [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"
    return text


def _yields(labels: Sequence[dict[str, Any]]) -> list[str]:
    """Per round of DPO, how many pairs were kept, and why the others were not."""
    lines = []
    for row in labels:
        total = sum(row[reason] for reason in REASONS)
        others = ", ".join(f"{reason} {row[reason]}" for reason in REASONS[1:] if row[reason])
        lines.append(f"Round {row['round']}: {row['kept']} of {total} pairs kept" + (f"; {others}." if others else "."))
    return lines


def _markdown(record: Record) -> str:
    headings, rows = _table(record.evaluations)
    lines = [f"# {record.recipe.name} ({record.recipe.method})", ""]
    lines += [f"**{warning}**\n" for warning in record.warnings]
    lines += ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", READING, ""]
    lines += [f"- {line}" for line in _yields(record.labels)]
    return "\n".join(lines).rstrip() + "\n"
