"""One verb at several sizes: one setting varies at a time, the others stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rubric_arm_lite.bench.measure import Against, Say, measure
from rubric_arm_lite.bench.work import BenchSettings, Verb, Work
from rubric_arm_lite.errors import ConfigError

SWEEP: dict[str, tuple[int, ...]] = {
    "prompt_length": (128, 256, 512, 1024, 2048),
    "completion_length": (16, 32, 64, 128, 256),
    "num_generations": (2, 4, 8, 16),
    "width": (128, 256, 512),
}
"""Values of each axis; the other settings stay as they are."""


def check_axes(axes: Sequence[str] | None, sweep: bool) -> tuple[str, ...]:
    """The settings that a sweep varies, all if none is named.

    Raises:
        ConfigError: if one cannot be swept, or there is no sweep.
    """
    if axes and not sweep:
        raise ConfigError(f"--axis {axes[0]}: only a sweep has axes. Add --sweep.")
    chosen = tuple(dict.fromkeys(axis.replace("-", "_") for axis in axes or SWEEP))
    for axis in chosen:
        if axis not in SWEEP:
            names = ", ".join(name.replace("_", "-") for name in SWEEP)
            raise ConfigError(f"--axis {axis}: not a setting that is swept. Use one or more of {names}.")
    return chosen


def measure_sweep(
    verb: Verb, settings: BenchSettings, against: Against, memory: bool, say: Say, axes: Sequence[str]
) -> dict[str, Any]:
    """A verb along each axis, one at a time around ``settings``; the settings themselves are measured once."""
    points = {axis: sorted({*SWEEP[axis], getattr(settings, axis)}) for axis in axes}
    # Every point is checked before the first is measured.
    planned = {(axis, value): replace(settings, **{axis: value}) for axis in axes for value in points[axis]}
    for planned_settings in planned.values():
        Work(planned_settings)
    centre = measure(verb, settings, against, memory, say)
    sweep: dict[str, list[dict[str, Any]]] = {axis: [] for axis in axes}
    for (axis, value), changed in planned.items():
        say(f"{axis} {value}")
        result = centre if changed == settings else measure(verb, changed, against, memory, say)
        sweep[axis].append(result)
    return {**centre, "sweep": sweep}
