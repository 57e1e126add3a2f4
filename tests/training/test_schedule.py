from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.recipe.fields import GRPOSettings, Order, ScheduleSettings
from rubric_arm_lite.training.schedule import batch_of_step, part_of_data, scheduled_phases, steps_in_phase
from rubric_arm_lite.types import PreferencePair, PromptBlock, Role


def blocks(count: int, pairs: int = 4) -> list[PromptBlock]:
    return [
        PromptBlock(f"x{i}", f"x{i}", tuple(PreferencePair(f"x{i}-{j}", f"x{i}", "good", "bad") for j in range(pairs)))
        for i in range(count)
    ]


def ids(batch: list[PromptBlock]) -> list[str]:
    return [pair.pair_id for block in batch for pair in block.pairs]


@pytest.mark.parametrize(
    ("order", "cycle"),
    [
        ("judge_first", [("judge",), ("rubric",)]),
        ("rubric_first", [("rubric",), ("judge",)]),
        ("judge_only", [("judge",)]),
        ("rubric_only", [("rubric",)]),
        ("simultaneous", [("judge", "rubric")]),
    ],
)
def test_slots_repeat_the_order_in_every_cycle(order: Order, cycle: list[tuple[Role, ...]]) -> None:
    phases = scheduled_phases(ScheduleSettings(order=order, cycles=3))
    assert [phase.roles for phase in phases] == cycle * 3
    assert [phase.index for phase in phases] == list(range(len(phases)))
    assert [phase.cycle for phase in phases] == [c for c in range(3) for _ in cycle]


def test_the_default_is_the_papers_order() -> None:
    labels = [phase.label for phase in scheduled_phases(ScheduleSettings())]
    assert labels == ["judge 1", "rubric 1", "judge 2", "rubric 2", "judge 3", "rubric 3"]
    assert scheduled_phases(ScheduleSettings(order="simultaneous", cycles=1))[0].label == "judge+rubric 1"


@given(st.integers(1, 60), st.integers(1, 12))
def test_parts_are_disjoint_equal_and_cover_the_data(prompts: int, cycles: int) -> None:
    data = blocks(prompts, pairs=1)
    if prompts < cycles:
        with pytest.raises(ValueError, match=f"{prompts} prompts cannot be split into {cycles} parts"):
            part_of_data(data, 0, cycles)
        return
    parts = [part_of_data(data, cycle, cycles) for cycle in range(cycles)]
    assert [block for part in parts for block in part] == data
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_with_all_data_a_cycle_begins_with_its_part_and_goes_on() -> None:
    data = blocks(10, pairs=1)
    parts = [part_of_data(data, cycle, 3, "all") for cycle in range(3)]
    for cycle, part in enumerate(parts):
        own = part_of_data(data, cycle, 3)
        assert list(part[: len(own)]) == list(own)
        assert sorted(block.prompt_id for block in part) == sorted(block.prompt_id for block in data)
    assert {phase.split for phase in scheduled_phases(ScheduleSettings(split="all"))} == {"all"}
    with pytest.raises(ValueError, match="2 prompts cannot be split into 3 parts"):
        part_of_data(data[:2], 0, 3, "all")


@pytest.mark.parametrize(("prompts", "max_steps", "steps"), [(12, None, 3), (13, None, 4), (1, None, 1), (12, 7, 7)])
def test_steps_in_phase(prompts: int, max_steps: int | None, steps: int) -> None:
    assert steps_in_phase(blocks(prompts), GRPOSettings(prompts_per_step=4, max_steps=max_steps)) == steps


def test_a_phase_without_max_steps_goes_once_through_its_part() -> None:
    part = blocks(10)
    settings = GRPOSettings(prompts_per_step=4, pairs_per_prompt=2)
    batches = [batch_of_step(part, step, settings) for step in range(steps_in_phase(part, settings))]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [block.prompt_id for batch in batches for block in batch] == [block.prompt_id for block in part]
    assert ids(batches[0])[:4] == ["x0-0", "x0-1", "x1-0", "x1-1"]


def test_a_longer_phase_goes_on_with_each_prompts_next_pairs() -> None:
    part = blocks(3)
    settings = GRPOSettings(prompts_per_step=2, pairs_per_prompt=2, max_steps=5)
    batches = [ids(batch_of_step(part, step, settings)) for step in range(5)]
    assert batches == [
        ["x0-0", "x0-1", "x1-0", "x1-1"],
        ["x2-0", "x2-1", "x0-2", "x0-3"],
        ["x1-2", "x1-3", "x2-2", "x2-3"],
        ["x0-0", "x0-1", "x1-0", "x1-1"],
        ["x2-0", "x2-1", "x0-2", "x0-3"],
    ]


def test_a_prompt_with_too_few_pairs_gives_each_once() -> None:
    batch = batch_of_step(blocks(1, pairs=2), 0, GRPOSettings(prompts_per_step=1, pairs_per_prompt=3))
    assert ids(batch) == ["x0-0", "x0-1"]


def test_no_prompt_stands_twice_in_a_batch() -> None:
    settings = GRPOSettings(prompts_per_step=8, pairs_per_prompt=1, max_steps=4)
    for step in range(4):
        ids = [block.prompt_id for block in batch_of_step(blocks(3, pairs=2), step, settings)]
        assert len(ids) == len(set(ids)) == 3
