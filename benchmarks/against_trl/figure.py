"""Draws a sweep: seconds of both sides over prompt length, completion length, group size and width.

Points are medians with whiskers from the fastest to the slowest run, on logarithmic axes. A thin line is the number of
tokens that go through the network, scaled to pass through the side's first point: where the measured line is steeper,
something other than the number of tokens grows.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

AXES = {
    "prompt_length": "prompt length P (tokens)",
    "completion_length": "completion length C (tokens)",
    "num_generations": "group size G",
    "width": "model width",
}
_SIDES = {"ours": ("rubric-arm-lite", "#0b6e99", "shared"), "theirs": ("TRL GRPOTrainer", "#c2571a", "separate")}
_INK, _MUTED, _GRID = "#222222", "#666666", "#e2e2e2"
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "rubric-arm-lite",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}


def draw(result: Mapping[str, Any], kind: str) -> bytes:
    """The figure of a sweep as ``svg`` or ``png`` bytes."""
    sweep: Mapping[str, Sequence[Mapping[str, Any]]] = result["sweep"]
    columns = min(2, len(sweep))
    lines = -(-len(sweep) // columns)
    with matplotlib.rc_context(_STYLE):
        # Title and legend need the width of two panels even for a single one.
        height = 3.1 * lines + 1.0 if columns == 2 else 4.4
        figure = Figure(figsize=(9.0, height), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(lines, columns, squeeze=False)
        panels = list(grid.flat)
        for axes, (axis, results) in zip(panels, sweep.items(), strict=False):
            _panel(axes, axis, results)
        for axes in panels[len(sweep) :]:
            axes.set_visible(False)
        figure.suptitle(_title(result), fontsize=10, color=_INK)
        figure.legend(handles=_legend(result), loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=160, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def _title(result: Mapping[str, Any]) -> str:
    s = result["settings"]
    return (
        f"One {result['verb']}: P = {s['prompt_length']}, C = {s['completion_length']}, G = {s['num_generations']}, "
        f"width {s['width']} unless varied\n{s['layers']} layers, {s['prompts']} prompts, {s['dtype']}, "
        f"{s['device']}, {s['threads']} thread(s); median, whiskers from the fastest to the slowest of {s['runs']} runs"
    )


def _panel(axes: Axes, axis: str, results: Sequence[Mapping[str, Any]]) -> None:
    values = [one["settings"][axis] for one in results]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for side, (_, color, form) in _SIDES.items():
        if any(one[side] is None for one in results):
            continue
        seconds = [one[side]["seconds"] for one in results]
        medians = [s["median"] for s in seconds]
        low = [s["median"] - s["min"] for s in seconds]
        high = [s["max"] - s["median"] for s in seconds]
        counts = [one["tokens"][form] for one in results]
        if axis != "width":  # tokens do not depend on it
            axes.plot(values, [medians[0] * n / counts[0] for n in counts], color=color, lw=0.8, ls=(0, (4, 2)))
        axes.errorbar(values, medians, yerr=[low, high], color=color, marker="o", ms=4, lw=1.6, capsize=2.5)
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel("seconds")
    axes.set_xticks(values, [str(v) for v in values])
    axes.xaxis.set_minor_locator(NullLocator())
    # Labels at 1, 2 and 5 keep an axis of less than a decade readable.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.12)
    axes.grid(color=_GRID, lw=0.7)
    axes.set_axisbelow(True)
    if results[0]["ratio"] is not None:
        _ratios(axes, values, results)


def _ratios(axes: Axes, values: Sequence[int], results: Sequence[Mapping[str, Any]]) -> None:
    """Write the measured ratio above the upper line's points."""
    for value, one in zip(values, results, strict=True):
        top = max(one["ours"]["seconds"]["max"], one["theirs"]["seconds"]["max"])
        axes.annotate(
            f"{one['ratio']:.1f}×",
            (value, top),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=_INK,
        )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.1)


def _legend(result: Mapping[str, Any]) -> list[Line2D]:
    handles = []
    for side, (name, color, form) in _SIDES.items():
        if result[side] is not None:
            handles.append(Line2D([], [], color=color, marker="o", ms=4, lw=1.6, label=name))
            handles.append(
                Line2D([], [], color=color, lw=0.8, ls=(0, (4, 2)), label=f"tokens computed, {form} (scaled)")
            )
    return handles
