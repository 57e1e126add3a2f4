"""Draw the report's pictures: panels in, inline SVG out.

matplotlib draws with stand-in colours; each is then replaced by the CSS variable it stands for, so that one picture
serves the light and the dark page. Text stays text, in the page's own font. The same input gives the same bytes: ids
are salted and prefixed with the picture's key, and no date is written. No display and no pyplot are needed.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib
import matplotlib.style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rubric_arm_lite.report.panels import Band, Line, Panel, evaluation_bands
from rubric_arm_lite.report.read import EvaluationRow

# Stand-ins: colours that nothing else uses.
_HEX = {
    "ink": "#010203",
    "muted": "#010204",
    "grid": "#010205",
    "accent": "#010206",
    "judge": "#010207",
    "rubric": "#010208",
    "tint-judge": "#010209",
    "tint-rubric": "#01020a",
    "tint-none": "#01020b",
    "paper": "#01020c",
    "band": "#01020d",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rubric-arm-lite",
    "text.parse_math": False,
    "text.color": _HEX["ink"],
    "axes.edgecolor": _HEX["grid"],
    "axes.labelcolor": _HEX["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _HEX["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": _HEX["muted"],
    "ytick.color": _HEX["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
_DASH = (0, (4, 2.2))
_ORDER_STYLES = {"accuracy_original": (0, (4, 2)), "accuracy_flipped": (0, (1, 1.6))}
_ORACLE_WORDS = {
    "true": ("ceiling: true rubrics", "ceiling"),
    "generic": ("best generic rubric", "generic"),
    "random": ("random principles", "random"),
    "hard_rule": ("hard rule alone", "hard rule"),
}
"""What the level lines are called, with room and without."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """Size of a picture, in CSS pixels at its natural scale, its text and its margins."""

    width: float
    height: float
    font: float
    left: float
    right: float
    top: float = 10
    bottom: float = 24


_PANEL = _Frame(330, 190, 11, 40, 8)
_WIDE = _Frame(1000, 400, 13, 48, 172, 14, 30)
_NARROW = _Frame(380, 360, 11.5, 40, 82, 12, 26)


def draw_panel(panel: Panel) -> str:
    """A small picture as SVG."""
    with matplotlib.style.context(["default", _STYLE]):
        figure, axes = _canvas(_PANEL)
        _bands(axes, panel.bands, _PANEL)
        for line in panel.lines:
            _draw_line(axes, line)
        if panel.guide is not None:
            axes.axhline(panel.guide, color=_HEX["muted"], linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xlim(panel.bands[0].start, panel.bands[-1].stop)
        if panel.unit == "share":
            axes.set_ylim(-0.03, 1.03)
            axes.set_yticks([0, 0.5, 1])
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        else:
            values = [value for line in panel.lines for value in line.values]
            low, high = min(0.0, *values), max(0.0, *values)
            margin = 0.06 * (high - low) or (0.01 if panel.unit == "rate" else 1.0)
            axes.set_ylim(low - (margin if low < 0 else 0), high + margin)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            if panel.unit == "rate":
                axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        return _svg(figure, f"p-{panel.key}", panel.described)


def draw_accuracy(evaluations: Sequence[EvaluationRow], oracle: Mapping[str, float], label: str, wide: bool) -> str:
    """Accuracy over the evaluations, with its interval, both orders, and what an oracle reaches."""
    frame = _WIDE if wide else _NARROW
    xs = list(range(len(evaluations)))
    accuracy = [e.values["accuracy"] for e in evaluations]
    low = [e.values.get("accuracy_low", e.values["accuracy"]) for e in evaluations]
    high = [e.values.get("accuracy_high", e.values["accuracy"]) for e in evaluations]
    with matplotlib.style.context(["default", _STYLE]):
        figure, axes = _canvas(frame)
        bands = evaluation_bands(evaluations, whole=wide)
        _bands(axes, bands, frame)
        seen = [
            *low,
            *high,
            *oracle.values(),
            *(e.values[n] for e in evaluations for n in _ORDER_STYLES if n in e.values),
        ]
        bottom = max(0.0, min(0.5, *seen) - 0.04)
        axes.set_ylim(bottom, 1.03)
        axes.set_xlim(bands[0].start, bands[-1].stop)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        _oracle_lines(axes, oracle, frame, bottom)
        for name, style in _ORDER_STYLES.items():
            found = [(i, e.values[name]) for i, e in enumerate(evaluations) if name in e.values]
            axes.plot([x for x, _ in found], [y for _, y in found], color=_HEX["muted"], linewidth=1.1, linestyle=style)
        axes.fill_between(xs, low, high, color=_HEX["band"], linewidth=0)
        axes.vlines(xs, low, high, color=_HEX["accent"], linewidth=1.2)
        axes.plot(xs, accuracy, color=_HEX["accent"], linewidth=2.4)
        axes.plot(
            xs, accuracy, "o", color=_HEX["accent"], markeredgecolor=_HEX["paper"], markersize=7, markeredgewidth=1.4
        )
        _value_labels(axes, evaluations, frame, bottom)
        return _svg(figure, "p-accuracy-wide" if wide else "p-accuracy-narrow", label)


def _value_labels(axes: Any, evaluations: Sequence[EvaluationRow], frame: _Frame, bottom: float) -> None:
    """Numbers at the first point, the one after the warm-up, and the last."""
    ends = {0, len(evaluations) - 1} | {i for i, e in enumerate(evaluations) if e.name == "warm-up"}
    for x in sorted(ends):
        value = evaluations[x].values["accuracy"]
        # Below the point where the top of the picture, and the ceiling in it, is near.
        above = 1.03 - value > 0.17 * (1.03 - bottom)
        axes.annotate(
            f"{100 * value:.1f}",
            (x, value),
            (0, 9 if above else -9),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=frame.font + 1,
            fontweight="bold",
            color=_HEX["ink"],
        )


def _oracle_lines(axes: Any, oracle: Mapping[str, float], frame: _Frame, bottom: float) -> None:
    wide = frame is _WIDE
    known = sorted(
        (oracle[name], words[0 if wide else 1], name) for name, words in _ORACLE_WORDS.items() if name in oracle
    )
    step = (frame.font + 3.5) / (frame.height - frame.top - frame.bottom) * (1.03 - bottom)
    heights: list[float] = []
    for value, *_ in known:
        heights.append(max(value, heights[-1] + step) if heights else value)
    # From the top down, so that nothing is pushed out of the picture.
    for i in reversed(range(len(heights))):
        limit = 1.03 - step / 2 if i == len(heights) - 1 else heights[i + 1] - step
        heights[i] = min(heights[i], limit)
    right = axes.get_xlim()[1]
    for (value, words, name), height in zip(known, heights, strict=True):
        colour = _HEX["ink" if name == "true" else "muted"]
        axes.axhline(value, color=colour, linewidth=1.3 if name == "true" else 0.9)
        axes.annotate(
            f"{words} {100 * value:.0f}",
            (right, height),
            (6, 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            fontsize=frame.font - (0 if wide else 1),
            color=colour,
        )


def _draw_line(axes: Any, line: Line) -> None:
    for stretch in line.stretches:
        xs, ys = [x for x, _ in stretch], [y for _, y in stretch]
        style = _DASH if line.dashed else "solid"
        axes.plot(xs, ys, color=_HEX[line.colour], linewidth=1.8, linestyle=style, clip_on=False, zorder=3)
        if len(stretch) <= 12:
            axes.plot(xs, ys, "o", color=_HEX[line.colour], markersize=3.4, markeredgewidth=0, clip_on=False, zorder=3)


def _bands(axes: Any, bands: Sequence[Band], frame: _Frame) -> None:
    # Neighbours of one tint in one piece: two would show a seam.
    for tint, run in itertools.groupby(bands, key=lambda band: band.tint):
        pieces = list(run)
        axes.axvspan(pieces[0].start, pieces[-1].stop, facecolor=_HEX[tint], edgecolor="none", linewidth=0, zorder=0)
    # Labels as many as fit: every one, every second, …
    room = (frame.width - frame.left - frame.right) / (0.62 * frame.font)
    every = max(1, -(-sum(max(len(band.label), 2) + 1 for band in bands) // int(room)))
    shown = [band for i, band in enumerate(bands) if i % every == 0]
    axes.set_xticks([(band.start + band.stop) / 2 for band in shown], [band.label for band in shown])


def _canvas(frame: _Frame) -> tuple[Any, Any]:
    # One SVG unit is a point, and 72 points make an inch: sizes above are units of the viewBox.
    figure = Figure(figsize=(frame.width / 72, frame.height / 72), dpi=72)
    FigureCanvasSVG(figure)
    w, h = frame.width, frame.height
    box = (frame.left / w, frame.bottom / h, (w - frame.left - frame.right) / w, (h - frame.top - frame.bottom) / h)
    axes = figure.add_axes(box)
    axes.tick_params(labelsize=frame.font, pad=5)
    return figure, axes


def _percent(value: float, _position: int) -> str:
    return f"{100 * value:.3g}%"


def _svg(figure: Any, key: str, label: str) -> str:
    """The figure as an ``<svg>`` element for an HTML page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    # matplotlib's own style sheet has a rule for `*`, which would apply to the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    text = f'{head} role="img" aria-label={quoteattr(label)}>{rest}'
    used = set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", text))
    text = re.sub(r'\sid="([^"]*)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{key}-", text)
    names = {colour: name for name, colour in _HEX.items()}
    text = re.sub(r"(fill|stroke): (#0102\w\w)", lambda m: f"{m[1]}: var(--{names[m[2]]})", text)
    # The page's font in place of a list of matplotlib's.
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", text)
    text = re.sub(r"font: ((?:\w+ )*[\d.]+px) [^;\"]+", r"font: \1 var(--sans)", text)
    return re.sub(r"\s*\n\s*", "\n", text)
