"""Show a run in the terminal: a live bar on a terminal, one line per event elsewhere, and its report at the end."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from rubric_arm_lite import report, training
from rubric_arm_lite.cli.common import err, is_live, out, print_json, quiet_libraries
from rubric_arm_lite.recipe import PolicyRecipe
from rubric_arm_lite.runs import Progress, explained_disk_errors

_SHOWN = ("loss", "reward", "reward/accuracy", "reward/format", "groups/informative", "kl", "tokens/s")


class RichProgress(Progress):
    """Shows a bar per stage and a line per result; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._stage = ""
        self._values: dict[str, float] = {}
        self._task: bars.TaskID | None = None
        columns = ("{task.description:<16}", bars.BarColumn(bar_width=24), bars.MofNCompleteColumn())
        more = (bars.TimeRemainingColumn(), "{task.fields[values]}")
        self._bar = bars.Progress(*columns, *more, console=console, transient=True, disable=not is_live(console))

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._end_stage()
        self._bar.stop()

    def stage(self, name: str, steps: int) -> None:
        """Print the last values of the stage before, and start a bar."""
        self._end_stage()
        self._stage = name
        self._bar.start()
        self._task = self._bar.add_task(name, total=steps, values="")

    def step(self, done: int, values: dict[str, float]) -> None:
        """Move the bar."""
        self._values = values
        if self._task is not None:
            self._bar.update(self._task, completed=done, values=_line(values))

    def result(self, name: str, text: str) -> None:
        """Print one line."""
        self._print(f"[bold]{name:<16}[/bold] {escape(text)}")

    def note(self, text: str) -> None:
        """Print one line that is marked as a note."""
        self._print(f"[yellow]note[/yellow] {escape(text)}")

    def _end_stage(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if self._values:
            self._print(f"{self._stage:<16} {_line(self._values)}")
        self._values = {}

    def _print(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._started:5.0f}s[/dim] {text}", highlight=False)


def _line(values: dict[str, float]) -> str:
    formats = {"tokens/s": ",.0f"}
    return "  ".join(f"{name} {values[name]:{formats.get(name, '.3f')}}" for name in _SHOWN if name in values)


def run_and_show(train: Callable[[Progress], training.RunResult], as_json: bool) -> None:
    """Train, then write the run's report and print it or, as JSON, its summary; the main process alone does this."""
    quiet_libraries()
    with RichProgress(err if as_json else out) as progress:
        result = train(progress)
    if not result.main_process:
        return
    policy = isinstance(result.recipe, PolicyRecipe)
    with explained_disk_errors(result.run_dir):
        html, markdown = (report.write_policy_report if policy else report.write_report)(result.run_dir)
    if as_json:
        print_json({"run": str(result.run_dir), "report": str(html), **result.summary})
    else:
        out.print(markdown.read_text("utf-8"), markup=False, highlight=False)
        out.print(f"[bold]Report:[/bold] {escape(str(html))}", highlight=False)
