"""What a person sees of a run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import time

import pytest
from rich.console import Console

from rubric_arm_lite.cli.train import RichProgress

CLEAR_LINE = "\x1b[2K"


def watch(console: Console) -> None:
    """A stage of two steps, with a result."""
    with RichProgress(console) as progress:
        progress.stage("judge 1", 2)
        progress.step(1, {"loss": 0.5})
        progress.step(2, {"loss": 0.25})
        progress.result("final", "[well] done")


def test_colors_that_are_forced_make_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    written = io.StringIO()
    console = Console(file=written, soft_wrap=True)
    assert console.is_terminal, "as in the kernel of a notebook"
    watch(console)
    assert CLEAR_LINE not in written.getvalue()
    assert "\x1b[" in written.getvalue(), "colors were asked for"
    assert "loss 0.250" in written.getvalue() and "[well] done" in written.getvalue()


def test_a_terminal_shows_a_bar() -> None:
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        watch(Console(file=terminal, force_terminal=True, width=120))
    shown = ""
    with contextlib.suppress(OSError):  # the end of what a closed terminal wrote
        while part := os.read(reader, 1 << 16).decode():
            shown += part
    os.close(reader)
    assert CLEAR_LINE in shown
    assert "[well] done" in shown


def test_without_a_terminal_a_line_says_now_and_then_where_the_stage_stands() -> None:
    written = io.StringIO()
    with RichProgress(Console(file=written, width=200), every=0.2) as progress:
        progress.stage("judge 1", 40)
        progress.step(10, {"loss": 0.5})
        progress.step(12, {"loss": 0.25, "reward": 1.5})
        time.sleep(0.7)
        assert "judge 1          step 12/40  loss 0.250  reward 1.500  about 0 s left" in written.getvalue()
        lines = written.getvalue().count("step 12/40")
        assert 1 <= lines <= 3, "one per interval"
    time.sleep(0.3)
    assert written.getvalue().count("step 12/40") <= 3, "nothing after the end"


def test_time_left_is_counted_from_the_first_step_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("rubric_arm_lite.cli.train.time.monotonic", lambda: now[0])
    progress = RichProgress(Console(file=io.StringIO()))
    progress.stage("warm-up judge", 100)
    now[0] += 500  # loading, and the steps of before a resume
    progress.step(40, {"loss": 1.0})
    assert progress._left() == ""
    now[0] += 60
    progress.step(50, {"loss": 1.0})
    assert progress._left() == "  about 5 min left"
