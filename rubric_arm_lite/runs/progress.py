"""Progress of a long job: what training reports while it works, for a terminal, a notebook or a log."""

from __future__ import annotations


class Progress:
    """Receives the events of a run, in order, and shows nothing; a subclass shows those that it overrides."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of ``steps`` steps begins, and the one before has ended."""

    def step(self, done: int, values: dict[str, float]) -> None:
        """``done`` steps of the stage are finished; ``values`` are the last one's metrics, empty if it has none."""

    def result(self, name: str, text: str) -> None:
        """An evaluation, or another result that ``name`` names, in one line."""

    def note(self, text: str) -> None:
        """Something the user should know: skipped data, a caveat, an alarm."""
