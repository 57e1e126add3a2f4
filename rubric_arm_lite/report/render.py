"""Writes the report of a run, a reward model's or a policy's: one page for a browser, one Markdown text for a terminal.

A run directory goes in, however far the run has come; ``report.html`` and ``report.md`` come out beside its logs. Both
depend on the logs alone: only the section on timing differs between a run that was killed and resumed and one that was
not. The structure of both is in the templates. In Markdown, texts of models stand in indented blocks, wrapped, so that
nothing in them is taken for markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.recipe import PolicyRecipe, load_settings
from rubric_arm_lite.report import panels, read, tables
from rubric_arm_lite.report.examples import clearest, examples
from rubric_arm_lite.report.headline import SIDES, by_role, cross_play, headline
from rubric_arm_lite.runs import RECIPE, atomic_write

WIDTH = 96
"""Columns of the Markdown text; its tables may need up to 100."""
SHOWN_ANSWERS = 3
"""Answers at the end of a policy's report."""


def write_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into the directory of a reward model's run and return their paths.

    Raises:
        CheckpointError: if the folder is no run directory, or a file in it is damaged.
    """
    return write_pair(Path(run), *render_report(read.read_run(Path(run))))


def write_pair(run: Path, html: str, text: str) -> tuple[Path, Path]:
    """Write both forms of a report into a run directory and return their paths."""
    paths = run / "report.html", run / "report.md"
    for path, content in zip(paths, (html, text), strict=True):
        atomic_write(path, content.encode())
    return paths


def render_report(record: read.RunRecord) -> tuple[str, str]:
    """The HTML page and the Markdown text of a run; the templates take what they show from the record."""
    from rubric_arm_lite.report import figures

    prompts = examples(record.phases)
    values = {
        "record": record,
        "headline": headline(record),
        "cross_play": cross_play(record),
        "marks": {"right": "✓", "wrong": "✗", "none": "–"},
        "tables": tables,
    }
    page = {"by_role": by_role(record), "sides": SIDES, "examples": prompts, "panels": panels, "figures": figures}
    html = render("report.html.jinja", **values, **page)
    return html, render("report.md.jinja", **values, clearest=clearest(prompts))


def benchmarks_text(results: Sequence[Result]) -> str:
    """Results of benchmarks as Markdown: ours above the paper's if it has them, then every number of each."""
    return render("benchmarks.md.jinja", results=results, tables=tables)


def write_policy_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a policy run's directory and return their paths.

    Raises:
        CheckpointError: if the folder is no policy run, or a file in it is damaged.
    """
    from rubric_arm_lite.report.figures import draw_panel
    from rubric_arm_lite.training.policy.dpo import REASONS
    from rubric_arm_lite.training.policy.evaluate import alarms
    from rubric_arm_lite.training.policy.stages import stages_of

    run = Path(run)
    done = read.committed_state(run).stages
    if not (run / RECIPE).is_file():
        raise CheckpointError(f"{run} is not a run directory: it has no {RECIPE}. Make one with rubric-arm policy.")
    try:
        recipe = load_settings(PolicyRecipe, run / RECIPE, check_names=False)
    except ConfigError as error:
        raise CheckpointError(
            f"{run} is not the run of a policy: {error} The report of a reward model's run: rubric-arm report {run}."
        ) from error
    try:
        rows = read.read_metrics(run)
        evaluations = [read.EvaluationRow(str(row["name"]), read.finite_numbers(row)) for row in rows["evaluation"]]
        warnings = [alarm.text() for alarm in alarms(rows["evaluation"], recipe.evaluation.alarm_margin)]
        answers = []
        file = run / "evaluations" / f"{evaluations[-1].name.replace(' ', '-') if evaluations else ''}.json"
        if file.exists():
            answers = read.read_file(file)["rows"][:SHOWN_ANSWERS]
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
    columns = tables.evaluation_columns(evaluations, columns=tables.POLICY_COLUMNS)
    record = {"name": recipe.name, "recipe": recipe, "evaluations": evaluations, "warnings": warnings}
    values = {
        "record": {**record, "answers": answers},
        "evaluations": tables.evaluation_table(evaluations, columns),
        "yields": yields,
        "open_stages": [stage for stage in stages_of(recipe) if stage not in done],
    }
    labels = ["start" if i == 0 else row.name.rpartition(" ")[2] for i, row in enumerate(evaluations)]
    axis = panels.evaluation_axis(evaluations, labels)
    html = render("policy_report.html.jinja", **values, axis=axis, draw=draw_panel)
    return write_pair(run, html, render("policy_report.md.jinja", **values))


def render(template: str, **values: Any) -> str:
    """A template of this package, filled in; texts are escaped in HTML, and shortened to one line by ``cell``."""
    environment = Environment(
        loader=PackageLoader("rubric_arm_lite.report", "templates"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wrap = partial(textwrap.fill, width=WIDTH, break_on_hyphens=False)
    environment.filters.update(wrap=wrap, block=_block, cell=tables.cell_text, table=tables.markdown_table)
    return environment.get_template(template).render(**values).rstrip() + "\n"


def _block(text: str) -> str:
    """Text of a model, indented: it stays text, whatever is in it."""
    lines = [piece for line in text.expandtabs(4).split("\n") for piece in textwrap.wrap(line, WIDTH - 4) or [""]]
    return "\n".join(f"    {line}".rstrip() for line in lines)
