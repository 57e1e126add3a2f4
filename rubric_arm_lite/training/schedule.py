"""The order of a run: its stages; which adapter is updated when, on which part of the data (paper, eqs. 9-11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.recipe import GRPOSettings, Order, PolicyRecipe, Recipe, ScheduleSettings
from rubric_arm_lite.types import PromptBlock, Role

STAGES = ("base", "warmup-rubric", "warmup-judge", "warmup", "alternating", "cross-play", "final")
"""The stages of a run in order; the schedule below is the inside of ``alternating``."""

_PHASES: dict[Order, tuple[tuple[Role, ...], ...]] = {
    "judge_first": (("judge",), ("rubric",)),
    "rubric_first": (("rubric",), ("judge",)),
    "judge_only": (("judge",),),
    "rubric_only": (("rubric",),),
    "simultaneous": (("judge", "rubric"),),
}


@dataclass(frozen=True, slots=True)
class ScheduledPhase:
    """One phase of the schedule: the roles whose adapters are updated in it, on the data of its cycle."""

    index: int
    cycle: int
    roles: tuple[Role, ...]
    split: Literal["disjoint", "all"] = "disjoint"

    @property
    def label(self) -> str:
        """Name for logs and figures, such as ``judge 1``; cycles count from 1."""
        return f"{'+'.join(self.roles)} {self.cycle + 1}"


GRPORecipe = Recipe | PolicyRecipe
"""A recipe that the loop and the learner take: it has a seed, the roles it trains, and GRPO settings for each."""


def scheduled_phases(settings: ScheduleSettings) -> list[ScheduledPhase]:
    """All phases in order."""
    phases = [(cycle, roles) for cycle in range(settings.cycles) for roles in _PHASES[settings.order]]
    return [ScheduledPhase(index, cycle, roles, settings.split) for index, (cycle, roles) in enumerate(phases)]


def part_of_data(
    blocks: Sequence[PromptBlock], cycle: int, cycles: int, split: Literal["disjoint", "all"] = "disjoint"
) -> Sequence[PromptBlock]:
    """The cycle's share: equal parts by prompt, without overlap (sizes differ by at most one).

    With the split ``all``, the other prompts follow, in order from there on.

    Raises:
        ValueError: if there are fewer prompts than cycles.
    """
    if len(blocks) < cycles:
        raise ValueError(f"{len(blocks)} prompts cannot be split into {cycles} parts. Use fewer cycles or more data.")
    start, stop = len(blocks) * cycle // cycles, len(blocks) * (cycle + 1) // cycles
    return blocks[start:stop] if split == "disjoint" else [*blocks[start:], *blocks[:start]]


def steps_in_phase(part: Sequence[PromptBlock], settings: GRPOSettings) -> int:
    """Steps of a phase: ``max_steps``, or once through its part of the data."""
    return settings.max_steps or -(-len(part) // settings.prompts_per_step)


def learning_rate_factor(step: int, settings: GRPOSettings) -> float:
    """The share of the learning rate in a step of a phase (from 0): it rises linearly over ``warmup_steps``."""
    return min(1.0, (step + 1) / (settings.warmup_steps + 1))


def batch_of_step(part: Sequence[PromptBlock], step: int, settings: GRPOSettings) -> list[PromptBlock]:
    """The prompts of a step (from 0), each with its ``pairs_per_prompt`` pairs.

    Batches go through the part in order, then start again, each prompt with its next pairs. No prompt occurs twice in
    a batch, so a part smaller than ``prompts_per_step`` gives smaller batches. A prompt
    without pairs gives none.
    """
    size = min(settings.prompts_per_step, len(part))
    batch = []
    for position in range(step * size, (step + 1) * size):
        if position >= len(part) and settings.max_steps is None:
            break
        block = part[position % len(part)]
        start = (position // len(part)) * settings.pairs_per_prompt
        count = settings.pairs_per_prompt if block.pairs else 0
        chosen = [block.pairs[(start + i) % len(block.pairs)] for i in range(count)]
        batch.append(PromptBlock(block.prompt_id, block.prompt, tuple(dict.fromkeys(chosen))))
    return batch
