"""Writes a run's report: one self-contained page for a browser, one Markdown text for a terminal.

A run directory goes in, however far the run has come; ``report.html`` and ``report.md`` come out beside its logs. Both
depend on the logs alone: only the section on timing differs between a run that was killed and resumed and one that was
not. The structure of both is in the templates. In Markdown, texts of models stand in indented blocks, wrapped, so that
nothing in them is taken for markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.report.benchmarks import numbers_table, paper_table, summary_table
from rubric_arm_lite.report.examples import clearest, examples
from rubric_arm_lite.report.gains import SIDES, by_role, cross_play
from rubric_arm_lite.report.headline import headline
from rubric_arm_lite.report.panels import panels
from rubric_arm_lite.report.read import RunRecord, read_run
from rubric_arm_lite.report.tables import Table, evaluation_columns, evaluation_table, markdown_table, timing_table
from rubric_arm_lite.runs import atomic_write

WIDTH = 96
"""Columns of the Markdown text; its tables may need up to 100."""


def write_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into the directory of a reward model's run and return their paths.

    Raises:
        CheckpointError: if the folder is no run directory, or a file in it is damaged.
    """
    record = read_run(Path(run))
    return write_pair(Path(run), page(record), markdown(record))


def write_pair(run: Path, html: str, text: str) -> tuple[Path, Path]:
    """Write both forms of a report into a run directory and return their paths."""
    paths = run / "report.html", run / "report.md"
    for path, content in zip(paths, (html, text), strict=True):
        atomic_write(path, content.encode())
    return paths


def page(record: RunRecord) -> str:
    """The HTML page of a run."""
    from rubric_arm_lite.report.figures import draw_accuracy, draw_panel

    phases, cross_evaluations = record.phases, list(record.cross_play.values())
    columns = evaluation_columns([*phases, *cross_evaluations])
    return render(
        "report.html.jinja",
        **_shared(record),
        accuracy=[draw_accuracy(phases, record.oracle, wide) for wide in (True, False)] if phases else [],
        by_role=by_role(record),
        sides=SIDES,
        examples=examples(record.phases),
        panels=panels(record),
        draw=draw_panel,
        evaluations=evaluation_table(phases, columns),
        cross_evaluations=evaluation_table(cross_evaluations, columns),
        benchmarks=[(result, numbers_table(result, 5)) for result in record.benchmarks],
        paper=paper_table(record.benchmarks),
        data=[(name.replace("_", " "), f"{value:g}") for name, value in record.data.items()],
    )


def markdown(record: RunRecord) -> str:
    """The Markdown text of a run."""
    return render(
        "report.md.jinja",
        **_shared(record),
        example=clearest(examples(record.phases)),
        outcomes={"right": "right", "wrong": "wrong", "none": "no verdict"},
        evaluations=evaluation_table(record.phases, evaluation_columns(record.phases, brief=True)),
        benchmarks=summary_table(record.benchmarks),
    )


def benchmarks_text(results: Sequence[Result]) -> str:
    """Results of benchmarks as Markdown: ours above the paper's if it has them, then every number of each."""
    tables = [(result, numbers_table(result)) for result in results]
    return render("benchmarks.md.jinja", paper=paper_table(results), tables=tables)


def _shared(record: RunRecord) -> Mapping[str, Any]:
    """The values that both templates need."""
    return {
        "record": record,
        "open_parts": [name for name, done in record.parts.items() if not done],
        "headline": headline(record),
        "cross_play": cross_play(record),
        "marks": {"right": "✓", "wrong": "✗", "none": "–"},
        "timing": timing_table(record.times),
    }


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
    environment.filters.update(wrap=wrap, block=_block, cell=_cell, table=_table)
    return environment.get_template(template).render(**values).rstrip() + "\n"


def _table(table: Table) -> str:
    return markdown_table(Table(table.header, tuple(tuple(map(_cell, row)) for row in table.rows)))


def _cell(text: str) -> str:
    """Text for a table or a sentence: one line, no column marks, no longer than a name should be."""
    return textwrap.shorten(text.replace("|", "/").replace("`", "'"), 44, placeholder="…")


def _block(text: str) -> str:
    """Text of a model, indented: it stays text, whatever is in it."""
    lines = [piece for line in text.expandtabs(4).split("\n") for piece in textwrap.wrap(line, WIDTH - 4) or [""]]
    return "\n".join(f"    {line}".rstrip() for line in lines)
