"""Show a run to a person: a live bar on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rubric_arm_lite.cli.common import is_live
from rubric_arm_lite.evaluation import Evaluation

_SHOWN = ("loss", "reward", "reward/accuracy", "reward/format", "groups/informative", "kl", "tokens/s")


class RichWatcher:
    """A progress bar per stage and a line per evaluation; without a terminal only the lines."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._started = time.monotonic()
        self._last: dict[str, float] = {}
        self._stage = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        if is_live(console) and not quiet:
            self._progress = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
                console=console,
                transient=True,
            )
            self._progress.start()

    def stage(self, name: str, steps: int) -> None:
        """Start the bar of a stage, and say what the one before ended with."""
        self._finish_stage()
        self._stage, self._last = name, {}
        if self._progress is not None:
            self._task = self._progress.add_task(name, total=steps, values="")

    def step(self, done: int, values: dict[str, float]) -> None:
        """Move the bar."""
        self._last = values
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, values=_line(values))

    def evaluated(self, evaluation: Evaluation) -> None:
        """One line with what was measured."""
        v = evaluation.values
        parts = [
            f"accuracy {v['accuracy']:.3f} [{v['accuracy_low']:.3f}, {v['accuracy_high']:.3f}]",
            f"ties {v['tie_rate']:.3f}" if "tie_rate" in v else f"position bias {v['position_bias']:.3f}",
            f"format {v['format_sampled']:.2f}",
        ]
        if "principle_recall" in v:
            parts.append(f"principles named {v['principle_recall']:.2f}")
        parts += [f"{name} {v[name]:.3f}" for name in v if name.startswith("voting@")]
        self._say(f"[bold]{evaluation.name:<16}[/bold] " + "  ".join(parts))

    def said(self, name: str, text: str) -> None:
        """One line of results that are words already."""
        self._say(f"[bold]{name:<16}[/bold] {escape(text)}")

    def note(self, text: str) -> None:
        """A line a reader should not miss."""
        self._say(f"[yellow]note[/yellow] {escape(text)}")

    def close(self) -> None:
        """Take the bar away."""
        self._finish_stage()
        if self._progress is not None:
            self._progress.stop()

    def _finish_stage(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._last:
            self._say(f"{self._stage:<16} {_line(self._last)}")
        self._last = {}

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(f"[dim]{time.monotonic() - self._started:5.0f}s[/dim] {text}", highlight=False)


def _line(values: dict[str, float]) -> str:
    parts = []
    for name in _SHOWN:
        if name in values:
            shown = f"{values[name]:,.0f}" if name == "tokens/s" else f"{values[name]:.3f}"
            parts.append(f"{name} {shown}")
    return "  ".join(parts)
