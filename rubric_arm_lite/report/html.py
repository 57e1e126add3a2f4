"""Write a run's report: one self-contained page for a reader, one text for a terminal.

A run directory goes in, however far the run has come; ``report.html`` and ``report.md`` come out beside its logs.
The page depends on what was measured and on nothing else: only its section ``timing`` differs between a run that was
killed and resumed and one that was not. Reading is in :mod:`.report_data`, the pictures are chosen in
:mod:`.report_panels` and drawn in :mod:`.report_figures`, the words are in :mod:`.report_story`, the prompts side by
side in :mod:`.report_showcase`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.report.panels import Line, Panel, groups
from rubric_arm_lite.report.read import EvaluationRow, RunRecord, read_run
from rubric_arm_lite.report.story import (
    MARKS,
    SIDES,
    accuracy_text,
    by_role,
    changes,
    columns,
    cross_play,
    headline,
    interval_text,
    numbers_table,
    paper_table,
    percent,
    showcases,
)
from rubric_arm_lite.report.text import report_text
from rubric_arm_lite.runs import atomic_write

HTML, TEXT = "report.html", "report.md"


def write_report(run: str | Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a run directory and return their paths.

    Raises:
        CheckpointError: if the folder is no run directory, or a file in it is damaged.
    """
    folder = Path(run)
    record = read_run(folder)
    html, text = folder / HTML, folder / TEXT
    atomic_write(html, page(record).encode())
    atomic_write(text, report_text(record).encode())
    return html, text


def page(record: RunRecord) -> str:
    """The HTML page of a run."""
    environment = Environment(
        loader=PackageLoader("rubric_arm_lite.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    phases = [row for row in record.phases if "accuracy" in row.values]
    every = [*phases, *record.cross_play.values()]
    return environment.get_template("report.html.jinja").render(
        record=record,
        pointwise=record.pointwise,
        headline=headline(record),
        changes=changes(record),
        accuracy=_accuracy(record, phases),
        by_role=by_role(record),
        cross_play=cross_play(record),
        sides=SIDES,
        accuracy_text=accuracy_text,
        interval_text=interval_text,
        groups=[_DrawnGroup(g.title, g.text, tuple(_drawn(p) for p in g.panels)) for g in groups(record)],
        showcases=showcases(record.phases),
        marks=MARKS,
        percent=percent,
        columns=columns(every),
        phases=phases,
        reading=_Reading.of(record.recipe),
        benchmarks=[(result, numbers_table(result, 5)) for result in record.benchmarks],
        beside_paper=paper_table(record.benchmarks),
        total_seconds=sum(time.seconds for time in record.times),
        total_tokens=sum(time.tokens for time in record.times),
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of a picture's legend."""

    name: str
    colour: str
    dashed: bool
    ends: str


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A panel with its picture."""

    title: str
    caption: str
    legend: tuple[_Entry, ...]
    svg: Markup


@dataclass(frozen=True, slots=True)
class _DrawnGroup:
    title: str
    text: str
    panels: tuple[_Drawn, ...]


@dataclass(frozen=True, slots=True)
class _Accuracy:
    """The main picture in two shapes: for a screen and for a phone."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True, slots=True)
class _Reading:
    """The settings that say what a number means."""

    unparsed_value: float | None
    bootstrap: int | None
    format_weight: float | None
    judge_temperature: float | None
    vote_temperature: float | None

    @classmethod
    def of(cls, recipe: Recipe | None) -> _Reading:
        if recipe is None:
            return cls(None, None, None, None, None)
        evaluation = recipe.evaluation
        return cls(
            evaluation.unparsed_value,
            evaluation.bootstrap,
            recipe.reward.format_weight,
            evaluation.judge_temperature,
            evaluation.vote_temperature,
        )


def _drawn(panel: Panel) -> _Drawn:
    from rubric_arm_lite.report.figures import draw_panel

    def entry(line: Line) -> _Entry:
        return _Entry(line.name, line.colour, line.dashed, panel.ends(line))

    # The drawing escapes every text in it.
    return _Drawn(panel.title, panel.caption, tuple(map(entry, panel.lines)), Markup(draw_panel(panel)))


def _accuracy(record: RunRecord, phases: list[EvaluationRow]) -> _Accuracy | None:
    if not phases:
        return None
    from rubric_arm_lite.report.figures import draw_accuracy

    told = ", ".join(f"{row.name} {percent(row.values['accuracy'])}" for row in phases)
    label = f"Held-out accuracy over the schedule: {told}"
    wide, narrow = (draw_accuracy(phases, record.oracle, label, wide) for wide in (True, False))
    return _Accuracy(Markup(wide), Markup(narrow))
