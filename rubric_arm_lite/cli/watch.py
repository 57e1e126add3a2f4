"""``rubric-arm watch``: a run that another process writes, live in the terminal."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from rich.live import Live
from typer import Argument, Option

from rubric_arm_lite import report as reports
from rubric_arm_lite.cli import common
from rubric_arm_lite.report.live import is_finished


def watch(
    run: Annotated[Path, Argument(help="A run directory, of a reward model or a policy.")],
    once: Annotated[bool, Option("--once", help="Print the present state and exit, as without a terminal.")] = False,
    every: Annotated[float, Option(min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Follow a run: stage, time left, curves, alarms, and the newest texts. It only reads; Ctrl-C ends the view."""
    console = common.SafeConsole()
    console.soft_wrap = False
    view = reports.live_view(run)
    if not once and common.is_live(console):
        with suppress(KeyboardInterrupt), Live(view, console=console, screen=True, auto_refresh=False) as live:
            while not is_finished(run):
                time.sleep(every)
                view = reports.live_view(run)
                live.update(view, refresh=True)
    console.print(view)
