"""What a run's logs keep of a step: its values for ``metrics.jsonl``, its texts for ``rollouts.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rubric_arm_lite.alternating import Turn
from rubric_arm_lite.schedule import Slot
from rubric_arm_lite.types import StepMetrics


def rollout_rows(slot: Slot, step: int, turn: Turn) -> Iterator[dict[str, Any]]:
    """What a step sampled and what it earned, one row per group for the log."""
    for group, rewards, advantages in zip(turn.groups, turn.rewards, turn.advantages, strict=True):
        samples = [
            {
                "text": sample.text,
                "finish_reason": sample.finish_reason,
                "reward": reward.total,
                **dict(reward.parts),
                "advantage": advantage,
            }
            for sample, reward, advantage in zip(group.samples, rewards, advantages.values, strict=True)
        ]
        yield {
            "phase": slot.label,
            "step": step,
            "role": turn.role,
            "example_id": group.example.example_id,
            "prompt": group.example.prompt,
            "samples": samples,
        }


def summarise(turn: Turn, metrics: StepMetrics, measured: dict[str, float]) -> dict[str, float]:
    """One step's values for the log."""
    rewards = [reward for group in turn.rewards for reward in group]
    samples = [sample for group in turn.groups for sample in group.samples]
    values = {"reward": _mean([r.total for r in rewards])}
    for name in dict.fromkeys(name for r in rewards for name, _ in r.parts):
        values[f"reward/{name}"] = _mean([dict(r.parts).get(name, 0.0) for r in rewards])
    values["reward/masked"] = _mean([float(r.masked) for r in rewards])
    values["groups"] = float(len(turn.groups))
    values["groups/informative"] = _mean([float(a.informative) for a in turn.advantages])
    values["completion_length"] = _mean([float(len(s.token_ids)) for s in samples])
    values["completions/truncated"] = _mean([float(s.finish_reason == "length") for s in samples])
    return {**values, **measured, **metrics.values}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
