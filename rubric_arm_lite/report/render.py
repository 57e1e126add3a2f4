"""Writes a run's report: one self-contained page for a browser, one Markdown text for a terminal.

A run directory goes in, however far the run has come; ``report.html`` and ``report.md`` come out beside its logs. Both
depend on the logs alone: only the section on timing differs between a run that was killed and resumed and one that was
not. The structure of both is in the templates. In Markdown, texts of models stand in indented blocks, wrapped, so that
nothing in them is taken for markup.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.report import panels, tables
from rubric_arm_lite.report.examples import clearest, examples
from rubric_arm_lite.report.headline import SIDES, by_role, cross_play, headline
from rubric_arm_lite.report.read import RunRecord, read_run
from rubric_arm_lite.runs import atomic_write

WIDTH = 96
"""Columns of the Markdown text; its tables may need up to 100."""


def write_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into the directory of a reward model's run and return their paths.

    Raises:
        CheckpointError: if the folder is no run directory, or a file in it is damaged.
    """
    return write_pair(Path(run), *render_report(read_run(Path(run))))


def write_pair(run: Path, html: str, text: str) -> tuple[Path, Path]:
    """Write both forms of a report into a run directory and return their paths."""
    paths = run / "report.html", run / "report.md"
    for path, content in zip(paths, (html, text), strict=True):
        atomic_write(path, content.encode())
    return paths


def render_report(record: RunRecord) -> tuple[str, str]:
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


def _table(table: tables.Table) -> str:
    return tables.markdown_table(replace(table, rows=tuple(tuple(map(_cell, row)) for row in table.rows)))


def _cell(text: str) -> str:
    """Text for a table or a sentence: one line, no column marks, no longer than a name should be."""
    return textwrap.shorten(text.replace("|", "/").replace("`", "'"), 44, placeholder="…")


def _block(text: str) -> str:
    """Text of a model, indented: it stays text, whatever is in it."""
    lines = [piece for line in text.expandtabs(4).split("\n") for piece in textwrap.wrap(line, WIDTH - 4) or [""]]
    return "\n".join(f"    {line}".rstrip() for line in lines)
