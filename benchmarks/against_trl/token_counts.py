"""Tokens that go through the network on either side: prompts repeated per completion, or shared by a group."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.against_trl.work import BenchSettings, Verb

PASSES = 3
"""Passes of an update: the reference forward, the policy forward, and backward (the base's weights are frozen)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens per group (``step``: per prompt, over all passes) without and with a shared prompt, and their ratio."""

    separate: int
    shared: int
    ratio: float

    def to_dict(self) -> dict[str, float]:
        """The counts by name."""
        return asdict(self)


def count_tokens(verb: Verb, settings: BenchSettings) -> Tokens:
    """Count the tokens of one group: G·(P + C) separate and P + G·C shared. A ``step`` is the sum of its parts.

    Example: P = 512, C = 64, G = 8 gives 4608 and 1024, a ratio of 4.5.
    """
    p, c, n = settings.prompt_length, settings.completion_length, settings.num_generations
    q, r = settings.rubric_prompt_length, settings.rubric_length
    separate, shared = n * (p + c), p + n * c
    if verb == "step":
        # Write a rubric; roll out and update the judge; roll out and update the generator; ask the judge about every
        # rubric, where all but the rubric at the end is common to the group.
        passes = 1 + PASSES
        separate = (q + c) + passes * n * (p + c) + passes * n * (q + c) + n * (p + c)
        shared = (q + c) + passes * (p + n * c) + passes * (q + n * c) + (p - r) + n * (r + c)
    return Tokens(separate, shared, separate / shared)
