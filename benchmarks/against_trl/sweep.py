"""Measures one verb along several axes: prompt length, completion length, group size and model width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.against_trl.measure import Against, Progress, measure
from benchmarks.against_trl.work import BenchSettings, Verb, Work
from rubric_arm_lite.errors import ConfigError

SWEEP: dict[str, tuple[int, ...]] = {
    "prompt_length": (128, 256, 512, 1024, 2048),
    "completion_length": (16, 32, 64, 128, 256),
    "num_generations": (2, 4, 8, 16),
    "width": (128, 256, 512),
}
"""Values of each axis; the other settings stay as they are."""


def check_axes(axes: Sequence[str] | None, sweep: bool) -> tuple[str, ...]:
    """The settings that a sweep varies; all if ``axes`` is empty.

    Raises:
        ConfigError: if a sweep does not vary one of them, or there is no sweep.
    """
    if axes and not sweep:
        raise ConfigError(f"--axis {axes[0]}: only a sweep has axes. Add --sweep.")
    chosen = tuple(dict.fromkeys(axis.replace("-", "_") for axis in axes or SWEEP))
    for axis in chosen:
        if axis not in SWEEP:
            names = ", ".join(name.replace("_", "-") for name in SWEEP)
            raise ConfigError(f"--axis {axis}: a sweep does not vary this setting. Use one or more of {names}.")
    return chosen


def measure_sweep(
    verb: Verb, settings: BenchSettings, against: Against, memory: bool, progress: Progress, axes: Sequence[str]
) -> dict[str, Any]:
    """Measure a verb along each axis, one at a time around ``settings``; these are measured once."""
    points = {axis: sorted({*SWEEP[axis], getattr(settings, axis)}) for axis in axes}
    # Check every point before measuring the first.
    planned = {(axis, value): replace(settings, **{axis: value}) for axis in axes for value in points[axis]}
    for planned_settings in planned.values():
        Work(planned_settings)
    center = measure(verb, settings, against, memory, progress)
    sweep: dict[str, list[dict[str, Any]]] = {axis: [] for axis in axes}
    for (axis, value), changed in planned.items():
        progress(f"{axis} {value}")
        result = center if changed == settings else measure(verb, changed, against, memory, progress)
        sweep[axis].append(result)
    return {**center, "sweep": sweep}
