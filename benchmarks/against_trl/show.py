"""Shows a result: tables for the terminal, the same as Markdown, and files in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.against_trl.work import VERBS
from rubric_arm_lite.cli.common import markdown_table
from rubric_arm_lite.runs import atomic_write

Result = Mapping[str, Any]

_COLUMNS = ("", "ours", "TRL", "TRL / ours")
_SWEEP_COLUMNS = ("axis", "value", "ours s", "TRL s", "ratio", "pairs", "theory", "ours peak", "TRL peak", "steady")


def results_of(result: Result) -> list[Result]:
    """The verbs that a result holds."""
    return [result[verb] for verb in VERBS if verb in result] or [result]


def show(result: Result, console: Console) -> None:
    """Print a result as tables with its notes."""
    for one in results_of(result):
        table = Table(*_COLUMNS, title=_title(one), title_justify="left", box=None, pad_edge=False)
        for cells in _rows(one):
            table.add_row(*cells)
        console.print(table)
        for note in one["notes"]:
            console.print(note, markup=False, highlight=False)
        console.print()
    if "sweep" in result:
        table = Table(*_SWEEP_COLUMNS, title="Sweep, one setting at a time", title_justify="left", box=None)
        for row in _sweep_rows(result["sweep"]):
            table.add_row(*row)
        console.print(table)


def markdown(result: Result) -> str:
    """The same tables as Markdown."""
    lines: list[str] = []
    for one in results_of(result):
        lines += [f"## {_title(one)}", "", *markdown_table(_COLUMNS, _rows(one)), ""]
        lines += [f"{note}\n" for note in one["notes"]]
    if "sweep" in result:
        lines += ["## Sweep, one setting at a time", ""]
        lines += [*markdown_table(_SWEEP_COLUMNS, _sweep_rows(result["sweep"])), ""]
        lines += ["Theory is the ratio of tokens that go through the network, without the cost of attention.", ""]
    settings = ", ".join(f"{k} {v}" for k, v in result["settings"].items() if not isinstance(v, dict) and v is not None)
    lines += [f"Settings: {settings}.", ""]
    lines += [f"Versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items() if v)}.", ""]
    return "\n".join(lines)


def files_of(folder: Path, name: str, sweep: bool) -> dict[str, Path]:
    """The files that :func:`write` writes, by suffix: JSON, Markdown and, for a sweep, its picture twice."""
    return {suffix: folder / f"{name}.{suffix}" for suffix in ("json", "md", *(("svg", "png") if sweep else ()))}


def write(result: Result, files: Mapping[str, Path]) -> None:
    """Write a result into the files of :func:`files_of`."""
    for suffix, file in files.items():
        match suffix:
            case "json":
                content = json.dumps(result, indent=1).encode() + b"\n"
            case "md":
                content = markdown(result).encode()
            case _:
                from benchmarks.against_trl.figure import draw

                content = draw(result, suffix)
        atomic_write(file, content)


def _title(result: Result) -> str:
    s = result["settings"]
    return (
        f"{result['verb']}: P = {s['prompt_length']}, C = {s['completion_length']}, G = {s['num_generations']}, "
        f"{s['prompts']} prompts, {s['layers']} layers of width {s['width']}, {s['dtype']}, {_threads(s)}"
    )


def _threads(settings: Mapping[str, Any]) -> str:
    return f"{settings['threads']} thread{'' if settings['threads'] == 1 else 's'}"


def _rows(result: Result) -> list[tuple[str, str, str, str]]:
    ours, theirs = result["ours"], result["theirs"]

    def pair(label: str, value: Any, other: str = "") -> tuple[str, str, str, str]:
        return (label, value(ours), value(theirs) if theirs else "–", other)

    ratio, span = "–", ""
    if theirs:
        pairs = result["ratio_pairs"]
        ratio, span = f"{result['ratio']:.2f}", f"{pairs['min']:.2f} to {pairs['max']:.2f}"
    rows = [
        pair("seconds, median", lambda side: f"{side['seconds']['median']:.3f}", ratio),
        pair("fastest to slowest", lambda side: f"{side['seconds']['min']:.3f} to {side['seconds']['max']:.3f}", span),
        pair("tokens/s", lambda side: f"{side['tokens_per_second']:.0f}"),
    ]
    if ours["peak_memory_bytes"] is not None:
        other = f"{theirs['peak_memory_bytes'] / max(1, ours['peak_memory_bytes']):.2f}" if theirs else ""
        rows.append(pair("peak memory", lambda side: _mebibytes(side["peak_memory_bytes"]), other))
        rows.append(pair("held before the work", lambda side: _mebibytes(side["memory"]["before_bytes"])))
    t = result["tokens"]
    rows.append(("tokens computed", f"{t['shared']} shared", f"{t['separate']} separate", f"{t['ratio']:.2f}"))
    if result["agreement"]:
        a = result["agreement"]
        rows.append(
            ("first loss", f"{a['loss_ours']:.3e}", f"{a['loss_theirs']:.3e}", f"differ by {a['loss_difference']:.0e}")
        )
        norms = (f"{a['gradient_norm_ours']:.4f}", f"{a['gradient_norm_theirs']:.4f}")
        rows.append(("its gradient norm", *norms, f"differ by {a['gradient_difference']:.0e}"))
    rows.append(("adapter switch", f"{result['switch_microseconds']:.0f} µs", "–", ""))
    return rows


def _sweep_rows(sweep: Mapping[str, Sequence[Result]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for axis, results in sweep.items():
        for one in results:
            ours, theirs, pairs = one["ours"], one["theirs"], one["ratio_pairs"]
            rows.append(
                (
                    axis,
                    str(one["settings"][axis]),
                    f"{ours['seconds']['median']:.3f}",
                    f"{theirs['seconds']['median']:.3f}" if theirs else "–",
                    f"{one['ratio']:.2f}" if theirs else "–",
                    f"{pairs['min']:.2f} to {pairs['max']:.2f}" if pairs else "–",
                    f"{one['tokens']['ratio']:.2f}",
                    _mebibytes(ours["peak_memory_bytes"]),
                    _mebibytes(theirs["peak_memory_bytes"]) if theirs else "–",
                    "yes" if one["steady"] else "no",
                )
            )
    return rows


def _mebibytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.0f} MiB"
