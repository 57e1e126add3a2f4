"""The report for a terminal: headline, tables and one prompt, in at most 100 columns of plain Markdown.

A :class:`~rubric_arm_lite.report.read.RunRecord` goes in, text comes out. Texts of models stand in indented blocks,
wrapped, so that nothing in them is taken for Markdown. Timings come last, under a heading of their own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rubric_arm_lite.evaluation import Result
from rubric_arm_lite.report.read import RunRecord
from rubric_arm_lite.report.story import (
    MARKS,
    SIDES,
    Showcase,
    Table,
    Version,
    accuracy_text,
    columns,
    cross_play,
    headline,
    interval_text,
    numbers_table,
    paper_table,
    showcases,
)

WIDTH = 96


def report_text(record: RunRecord) -> str:
    """The whole text."""
    story = headline(record)
    parts = [f"# {record.name}", _wrapped(story.lead)]
    parts += [_wrapped(f"**Careful.** {caveat}") for caveat in story.caveats]
    parts += [*map(_wrapped, story.details), *_open(record)]
    parts += [*_evaluations(record), *_cross_play(record), *_one_prompt(record), *_benchmarks(record), *_timing(record)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads as it stands; all but the first column are right-aligned."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def show(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([show(header), show(rule), *map(show, rows)])


def _open(record: RunRecord) -> list[str]:
    if not record.open_parts:
        return []
    return [
        _wrapped(f"**Not finished.** Not done yet: {', '.join(record.open_parts)}. Continue the run with --resume.")
    ]


def _evaluations(record: RunRecord) -> list[str]:
    phases = [row for row in record.phases if "accuracy" in row.values]
    if not phases:
        return []
    shown = [column for column in columns(phases) if column.brief]
    rows = [[_cell(row.name), *(column.of(row) for column in shown)] for row in phases]
    orders = (
        "Original and flipped: the preferred response stands first and second. Agree: both orders name the same "
        "response."
    )
    single = (
        "The judge sees one response at a time, so there is no position bias. Ties: pairs with equal scores, which "
        "count ½. Margin: the preferred response's score above the other's, from −2 to 2. By words: with the words "
        "true and false alone in place of their probabilities."
    )
    note = f"In percent. {single if record.pointwise else orders} Sampled: well-formed judgements among sampled ones."
    if any(column.title == "named" for column in shown):
        note += " Named: share of the true principles that the rubric names."
    return ["## Evaluations", table(["after", *(column.title for column in shown)], rows), _wrapped(note)]


def _cross_play(record: RunRecord) -> list[str]:
    found = cross_play(record)
    if found is None:
        return []
    rows = [
        [f"{side} judge", *(f"{accuracy_text(cell)} ({interval_text(cell)})" for cell in cells)]
        for side, cells in zip(SIDES, found.cells, strict=True)
    ]
    header = ["accuracy (95% interval)", *(f"{side} rubrics" for side in SIDES)]
    return ["## Cross-play", table(header, rows), *map(_wrapped, found.sentences)]


def _one_prompt(record: RunRecord) -> list[str]:
    chosen = _most_telling(showcases(record.phases))
    if chosen is None:
        return []
    parts = ["## One prompt", _block(chosen.prompt)]
    ends = [chosen.versions[0]] if len(chosen.versions) == 1 else [chosen.versions[0], chosen.versions[-1]]
    for version in ends:
        parts += [f"Rubric after {_cell(', '.join(version.phases))}:", _block(version.rubric or "(empty)")]
        parts.append(_wrapped(_verdict(version, record.pointwise)))
    return parts


def _most_telling(found: Sequence[Showcase]) -> Showcase | None:
    """The first prompt whose verdicts got better from the first version to the last, or just the first."""
    able = [showcase for showcase in found if showcase.versions]

    def right(version: Version) -> int:
        return (version.verdicts.original, version.verdicts.flipped).count("right")

    better = [showcase for showcase in able if right(showcase.versions[-1]) > right(showcase.versions[0])]
    return next(iter(better or able), None)


def _verdict(version: Version, pointwise: bool) -> str:
    if version.status != "ok":
        return f"The rubric is {_cell(version.status) or 'missing'}; nothing was judged."
    first, second = version.verdicts.original, version.verdicts.flipped
    said = {"right": "right", "wrong": "wrong", "none": "no verdict"}
    if pointwise:
        text = f"The preferred response scores higher: {MARKS[first]} {said[first]}"
    else:
        text = (
            f"Verdict with the preferred response first {MARKS[first]} {said[first]}, second {MARKS[second]} "
            f"{said[second]}"
        )
    return text + ("." if version.recall is None else f"; principles named {100 * version.recall:.0f}%.")


def benchmarks_text(results: Sequence[Result]) -> str:
    """The results of benchmarks by themselves: beside the paper's if it has them, then every number of each."""
    parts = ["# Benchmarks", "Accuracies in percent."]
    beside = paper_table(results)
    if beside is not None:
        parts += ["## Beside the paper", *_shown(beside)]
    for result in results:
        parts += [f"## {_cell(result.title)}", f"From {_cell(result.source)}.", *_shown(numbers_table(result))]
    return "\n\n".join(parts) + "\n"


def _shown(found: Table) -> list[str]:
    rows = [[_cell(cell) for cell in row] for row in found.rows]
    return [table(found.header, rows), *(_wrapped(sentence) for sentence in found.sentences)]


def _benchmarks(record: RunRecord) -> list[str]:
    if not record.benchmarks:
        return []
    rows = [
        [_cell(result.title), _cell(cells[0]), *cells[1:3], cells[6]]
        for result in record.benchmarks
        for cells in numbers_table(result, 5).rows
    ]
    header = ["benchmark", "number", "accuracy", "95%", "bias"]
    told = "In percent. Bias: largest minus smallest accuracy of the three orders. The rules and every number:"
    return ["## Benchmarks", table(header, rows), _wrapped(f"{told} benchmarks/results.md.")]


def _timing(record: RunRecord) -> list[str]:
    if not record.times:
        return ["## Timing", "Nothing has been timed yet."]
    total = sum(time.seconds for time in record.times)
    tokens = sum(time.tokens for time in record.times)
    rows = [[_cell(t.stage), f"{t.seconds:.1f}", f"{t.tokens:,.0f}", f"{t.rate:,.0f}"] for t in record.times]
    rows.append(["total", f"{total:.1f}", f"{tokens:,.0f}", f"{tokens / total if total else 0:,.0f}"])
    return ["## Timing", table(["stage", "seconds", "tokens", "tokens/s"], rows)]


def _cell(text: str) -> str:
    """Text for a table or a sentence: one line, no column marks, no longer than a name should be."""
    return textwrap.shorten(text.replace("|", "/").replace("`", "'"), 44, placeholder="…")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)


def _block(text: str) -> str:
    """Model text, indented: whatever is in it stays text."""
    lines = [piece for line in text.expandtabs(4).split("\n") for piece in (textwrap.wrap(line, WIDTH - 4) or [""])]
    return "\n".join(f"    {line}".rstrip() for line in lines)
