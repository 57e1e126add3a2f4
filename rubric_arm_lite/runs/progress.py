"""Progress of a long job: what training reports while it works, for a terminal, a notebook or a log."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the events of a run, in order."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of ``steps`` steps begins, and the one before has ended."""

    def step(self, done: int, values: dict[str, float]) -> None:
        """``done`` steps of the stage are finished; ``values`` are the last one's metrics, empty if it has none."""

    def result(self, name: str, text: str) -> None:
        """An evaluation, or another result that ``name`` names, in one line."""

    def note(self, text: str) -> None:
        """Something the user should know: skipped data, a caveat, an alarm."""


class NoProgress:
    """A :class:`Progress` that shows nothing."""

    def stage(self, name: str, steps: int) -> None:
        """Ignored."""

    def step(self, done: int, values: dict[str, float]) -> None:
        """Ignored."""

    def result(self, name: str, text: str) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""
