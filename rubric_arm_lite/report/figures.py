"""Draws the report's pictures: panels in, inline SVG out.

matplotlib draws with placeholder colors; each is then replaced by the CSS variable of its name, so that one picture
serves the light and the dark page. Text stays text, in the page's own font. The same input gives the same bytes: ids
are salted and prefixed with the picture's key, and no date is written. Neither a display nor pyplot is needed.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from xml.sax.saxutils import quoteattr

import matplotlib
import matplotlib.style
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rubric_arm_lite.report.panels import Band, Color, Panel, Tint, evaluation_axis
from rubric_arm_lite.report.read import EvaluationRow

_NAMES = (*get_args(Color), *get_args(Tint), "grid", "paper", "band")
_HEX = {name: f"#0102{i:02x}" for i, name in enumerate(_NAMES, start=3)}
"""Placeholder colors that nothing else uses; ``report.mplstyle`` uses them too."""
_STYLE = ["default", str(Path(__file__).parent / "templates" / "report.mplstyle")]
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.3g}%")
_ORDER_STYLES = {"accuracy_original": (0, (4, 2)), "accuracy_swapped": (0, (1, 1.6))}
_ORACLE_NAMES = {
    "true": ("ceiling: true rubrics", "ceiling"),
    "generic": ("best generic rubric", "generic"),
    "random": ("random principles", "random"),
    "hard_rule": ("hard rule alone", "hard rule"),
}
"""Labels of the level lines, for the wide and the narrow picture."""
_TOP = 1.03
"""Upper end of the accuracy axis."""


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

    def axes(self, bands: Sequence[Band]) -> tuple[Any, Any]:
        """A figure and its axes with the bands as background and labels."""
        # One SVG unit is a point, and 72 points make an inch: sizes are units of the viewBox.
        figure, w, h = Figure(figsize=(self.width / 72, self.height / 72), dpi=72), self.width, self.height
        FigureCanvasSVG(figure)
        inner = (w - self.left - self.right, h - self.top - self.bottom)
        axes = figure.add_axes((self.left / w, self.bottom / h, inner[0] / w, inner[1] / h))
        axes.tick_params(labelsize=self.font, pad=5)
        axes.set_xlim(bands[0].start, bands[-1].stop)
        # Neighbors of one tint are one piece: two would show a seam.
        for tint, run in itertools.groupby(bands, key=lambda band: band.tint):
            pieces = list(run)
            span = (pieces[0].start, pieces[-1].stop)
            axes.axvspan(*span, facecolor=_HEX[tint], edgecolor="none", linewidth=0, zorder=0)
        # As many labels as fit: every one, every second, …
        room = int(inner[0] / (0.62 * self.font))
        every = max(1, -(-sum(max(len(band.label), 2) + 1 for band in bands) // room))
        axes.set_xticks([(band.start + band.stop) / 2 for band in bands[::every]], [b.label for b in bands[::every]])
        return figure, axes


_PANEL = _Frame(330, 190, 11, 40, 8)
_WIDE = _Frame(1000, 400, 13, 48, 172, 14, 30)
_NARROW = _Frame(380, 360, 11.5, 40, 82, 12, 26)


def draw_panel(key: str, title: str, panel: Panel) -> Markup:
    """A small picture as SVG, with its values in words for readers who do not see it."""
    with matplotlib.style.context(_STYLE):
        figure, axes = _PANEL.axes(panel.bands)
        for series in panel.series:
            if len(series.spread) > 1:
                band = {"color": _HEX[series.color], "alpha": 0.15, "linewidth": 0, "zorder": 2}
                axes.fill_between(*zip(*series.spread, strict=True), **band)
            for segment in series.segments:
                color, points = _HEX[series.color], tuple(zip(*segment, strict=True))
                style = (0, (4, 2.2)) if series.dashed else "solid"
                axes.plot(*points, color=color, linewidth=1.8, linestyle=style, clip_on=False, zorder=3)
                if len(segment) <= 12:
                    axes.plot(*points, "o", color=color, markersize=3.4, markeredgewidth=0, clip_on=False, zorder=3)
        if panel.guide is not None:
            axes.axhline(panel.guide, color=_HEX["muted"], linewidth=1, linestyle=(0, (1, 2)))
        if panel.unit == "share":
            axes.set_ylim(-0.03, 1.03)
            axes.set_yticks([0, 0.5, 1])
        else:
            values = [value for series in panel.series for value in series.values]
            low, high = min(0.0, *values), max(0.0, *values)
            margin = 0.06 * (high - low) or (0.01 if panel.unit == "rate" else 1.0)
            axes.set_ylim(low - (margin if low < 0 else 0), high + margin)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        if panel.unit != "number":
            axes.yaxis.set_major_formatter(_PERCENT)
        ends = "; ".join(f"{series.name}: {panel.ends(series)}" for series in panel.series)
        return _svg(figure, f"p-{key}", f"{title}. {ends}")


def draw_accuracy(evaluations: Sequence[EvaluationRow], oracle: Mapping[str, float], wide: bool) -> Markup:
    """Accuracy over the evaluations, with its interval, both orders, and what an oracle reaches."""
    frame, xs = _WIDE if wide else _NARROW, range(len(evaluations))
    keys, accent = ("accuracy", "accuracy_low", "accuracy_high"), _HEX["accent"]
    accuracy, low, high = ([row.values.get(key, row.values["accuracy"]) for row in evaluations] for key in keys)
    orders = {key: [row.values[key] for row in evaluations if key in row.values] for key in _ORDER_STYLES}
    bottom = max(0.0, min(0.5, *low, *high, *oracle.values(), *itertools.chain(*orders.values())) - 0.04)
    with matplotlib.style.context(_STYLE):
        labels = [row.name[:12] for row in evaluations] if wide else None
        figure, axes = frame.axes(evaluation_axis(evaluations, labels).bands)
        axes.set_ylim(bottom, _TOP)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(_PERCENT)
        _draw_oracle(axes, oracle, frame, bottom)
        for key, style in _ORDER_STYLES.items():
            places = [x for x in xs if key in evaluations[x].values]
            axes.plot(places, orders[key], color=_HEX["muted"], linewidth=1.1, linestyle=style)
        axes.fill_between(xs, low, high, color=_HEX["band"], linewidth=0)
        axes.vlines(xs, low, high, color=accent, linewidth=1.2)
        axes.plot(xs, accuracy, color=accent, linewidth=2.4)
        axes.plot(xs, accuracy, "o", color=accent, markersize=7, markeredgecolor=_HEX["paper"], markeredgewidth=1.4)
        # Numbers at the first point, after the warm-up, and at the last point.
        for x in sorted({0, len(evaluations) - 1} | {i for i in xs if evaluations[i].name == "warm-up"}):
            # Below the point where the top of the picture, and the ceiling in it, is near.
            above = _TOP - accuracy[x] > 0.17 * (_TOP - bottom)
            font = {"fontsize": frame.font + 1, "fontweight": "bold", "color": _HEX["ink"], "ha": "center"}
            offset, text = (0, 9 if above else -9), f"{100 * accuracy[x]:.1f}"
            align = "bottom" if above else "top"
            axes.annotate(text, (x, accuracy[x]), offset, textcoords="offset points", va=align, **font)
        values = ", ".join(f"{row.name} {row.values['accuracy']:.1%}" for row in evaluations)
        key = "p-accuracy-wide" if wide else "p-accuracy-narrow"
        return _svg(figure, key, f"Held-out accuracy over the schedule: {values}")


def _draw_oracle(axes: Any, oracle: Mapping[str, float], frame: _Frame, bottom: float) -> None:
    """Level lines, with labels on the right that do not overlap."""
    narrow = frame is not _WIDE
    levels = sorted((oracle[name], labels[narrow], name) for name, labels in _ORACLE_NAMES.items() if name in oracle)
    step = (frame.font + 3.5) / (frame.height - frame.top - frame.bottom) * (_TOP - bottom)
    heights: list[float] = []
    for value, *_ in levels:
        heights.append(max(value, heights[-1] + step) if heights else value)
    # From the top down, so that no label is pushed out of the picture.
    for i in reversed(range(len(heights))):
        limit = _TOP - step / 2 if i == len(heights) - 1 else heights[i + 1] - step
        heights[i] = min(heights[i], limit)
    for (value, label, name), height in zip(levels, heights, strict=True):
        color = _HEX["ink" if name == "true" else "muted"]
        axes.axhline(value, color=color, linewidth=1.3 if name == "true" else 0.9)
        font = {"fontsize": frame.font - narrow, "color": color, "va": "center", "annotation_clip": False}
        place = (axes.get_xlim()[1], height)
        axes.annotate(f"{label} {100 * value:.0f}", place, (6, 0), textcoords="offset points", **font)


def _svg(figure: Any, key: str, label: str) -> Markup:
    """The figure as an ``<svg>`` element for an HTML page; matplotlib escapes every text in it."""
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
    names = {color: name for name, color in _HEX.items()}
    text = re.sub(r"(fill|stroke): (#0102\w\w)", lambda m: f"{m[1]}: var(--{names[m[2]]})", text)
    # The page's font in place of a list of matplotlib's.
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", text)
    text = re.sub(r"font: ((?:\w+ )*[\d.]+px) [^;\"]+", r"font: \1 var(--sans)", text)
    return Markup(re.sub(r"\s*\n\s*", "\n", text))
