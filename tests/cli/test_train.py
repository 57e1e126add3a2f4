"""What a person sees of a run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import os
import pty

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
        terminal.flush()
        shown = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert CLEAR_LINE in shown
    assert "[well] done" in shown
