"""Show what judges cost and are worth: a table for the terminal, the same as Markdown, and both files in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rubric_arm_lite.bench.show import markdown_table
from rubric_arm_lite.run_dir import atomic_write

Result = Mapping[str, Any]

_WORTH = ("judge", "accuracy", "95 %", "bias", "unparsed", "tokens", "seconds")
_COST = ("judge", "seconds", "rubrics: s, tokens", "verdicts: s, tokens", "tokens p50, p95", "alone: s p50, p95")
_PAPER_COLUMNS = ("the paper's judges", "seconds for 100 prompts")
_PAPER_NOTE = (
    "The paper's seconds are its own: 100 prompts of RewardBench 2 on vLLM, other hardware and other data. They show "
    "how those judges compare with each other, not with what was measured here."
)


def show(result: Result, console: Console) -> None:
    """Print the table of judges, its notes, and the paper's figures."""
    for title, columns, rows in _tables(result):
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
        console.print()
    for note in (*result["notes"], _PAPER_NOTE):
        console.print(note, markup=False, highlight=False)


def markdown(result: Result) -> str:
    """The same as Markdown."""
    lines: list[str] = []
    for title, columns, rows in _tables(result):
        lines += [f"## {title}", "", *markdown_table(columns, rows), ""]
    lines += [f"{note}\n" for note in (*result["notes"], _PAPER_NOTE)]
    lines += [f"Settings: {', '.join(f'{k} {v}' for k, v in result['settings'].items())}.", ""]
    lines += [f"Versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items() if v)}.", ""]
    return "\n".join(lines)


def write(result: Result, folder: Path) -> list[Path]:
    """Write ``bench-inference.json`` and ``.md``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"json": json.dumps(result, indent=1).encode() + b"\n", "md": markdown(result).encode()}
    paths = []
    for suffix, content in files.items():
        paths.append(folder / f"bench-inference.{suffix}")
        atomic_write(paths[-1], content)
    return paths


def _tables(result: Result) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of each table."""
    s = result["settings"]
    pairs = f"{s['pairs']} pairs of {s['prompts']} prompts"
    return [
        (f"{s['base']}, {pairs}; tokens and seconds per pair", _WORTH, [_worth(j) for j in result["judges"]]),
        (f"What {pairs} took, one order", _COST, [_cost(j) for j in result["judges"]]),
        ("For comparison, from the paper", _PAPER_COLUMNS, list(result["paper_seconds_for_100_prompts"].items())),
    ]


def _worth(judge: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        judge["title"],
        f"{judge['accuracy']:.3f}",
        f"{judge['accuracy_low']:.3f} to {judge['accuracy_high']:.3f}",
        f"{judge['position_bias']:.3f}",
        f"{judge['unparsed']:.1%}",
        f"{judge['tokens_per_pair']:.1f}",
        f"{judge['seconds_per_pair']:.3f}",
    )


def _cost(judge: Mapping[str, Any]) -> tuple[str, ...]:
    alone = judge["one_by_one"]
    return (
        judge["title"],
        f"{judge['seconds']:.2f}",
        _stage(judge["rubric"]),
        _stage(judge["judge"]),
        f"{judge['tokens_p50']:.0f}, {judge['tokens_p95']:.0f}",
        f"{alone['p50']:.3f}, {alone['p95']:.3f}" if alone else "–",
    )


def _stage(stage: Mapping[str, float] | None) -> str:
    return f"{stage['seconds']:.2f}, {stage['tokens']:.0f}" if stage else "–"
