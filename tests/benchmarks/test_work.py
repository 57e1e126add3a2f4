"""The benchmark's texts and counts: exact lengths, rubrics that parse and differ, theory by hand, tables, pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.against_trl.figure import draw
from benchmarks.against_trl.show import markdown
from benchmarks.against_trl.sweep import SWEEP
from benchmarks.against_trl.token_counts import count_tokens
from benchmarks.against_trl.work import BenchSettings, Work
from rubric_arm_lite.prompts.parsing import parse_rubric


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt_length": 128},
        {"prompt_length": 2048},
        {"completion_length": 256},
        {"prompt_length": 48, "completion_length": 5, "vocabulary": 512},
        {"prompt_length": 51, "completion_length": 4, "num_generations": 16},
    ],
)
def test_every_prompt_has_exactly_its_length(changes: dict[str, int]) -> None:
    work = Work(BenchSettings(**changes))
    s = work.settings
    blocks = work.blocks(2)
    assert len({block.prompt for block in blocks}) == len(blocks) == 2 * s.prompts
    for block in blocks:
        assert work.count(work.prompts.rubric_prompt(block.prompt)) == s.prompt_length // 4
        rubrics = [work.rubric(block.prompt_id, draw) for draw in range(s.num_generations)]
        assert len({rubric.text for rubric in rubrics}) == s.num_generations
        for rubric in rubrics:
            assert parse_rubric(rubric.text) == rubric
            assert work.count(work.judge_prompt(block, rubric)) == s.prompt_length


def test_the_same_settings_give_the_same_work_and_another_seed_another() -> None:
    one, same, other = (Work(BenchSettings(seed=seed)) for seed in (0, 0, 1))
    assert one.block(3) == same.block(3) != other.block(3)
    assert one.judge_examples() == same.judge_examples()
    assert one.seeded_rewards("judge", 1) == same.seeded_rewards("judge", 1) != one.seeded_rewards("rubric", 1)
    assert all(len(set(group)) == 8 for group in one.seeded_rewards("judge", 0))
    assert len(one.random_ids(0)) == 64 and not set(one.random_ids(0)) & set(one.control_ids)


def test_theory_by_hand() -> None:
    s = BenchSettings(prompt_length=512, completion_length=64, num_generations=8)
    for verb in ("rollout", "update"):
        found = count_tokens(verb, s)  # type: ignore[arg-type]
        assert (found.separate, found.shared, found.ratio) == (8 * 576, 512 + 512, 4.5)
    step = count_tokens("step", s)
    # rubric written; judge 4 passes; generator 4 passes (prompt 128); 8 judgements under rubrics of 64
    assert step.separate == 192 + 4 * 8 * 576 + 4 * 8 * 192 + 8 * 576
    assert step.shared == 192 + 4 * 1024 + 4 * (128 + 512) + (448 + 8 * 128)


def _side(seconds: float) -> dict[str, Any]:
    return {
        "seconds": {"min": seconds * 0.9, "median": seconds, "max": seconds * 1.2},
        "tokens_per_second": 1 / seconds,
        "peak_memory_bytes": 3 * 2**20,
        "memory": {"before_bytes": 5 * 2**20},
    }


def _result(settings: BenchSettings, theirs: bool = True) -> dict[str, Any]:
    count = count_tokens("update", settings)
    return {
        "verb": "update",
        "ratio": 2 * count.ratio if theirs else None,
        "ratio_pairs": {"min": 1.0, "max": 9.0} if theirs else None,
        "steady": True,
        "ours": _side(count.shared / 1000),
        "theirs": _side(count.separate / 500) if theirs else None,
        "agreement": None,
        "tokens": count.to_dict(),
        "switch_microseconds": 12.0,
        "settings": {**settings.to_dict(), "threads": 1, "dtype": "float32", "device": "CPU"},
        "versions": {"torch": "2"},
        "notes": ["A note."],
    }


def fake_sweep(theirs: bool = True, axes: tuple[str, ...] = tuple(SWEEP)) -> dict[str, Any]:
    s = BenchSettings()
    points = {axis: [_result(replace(s, **{axis: value}), theirs) for value in SWEEP[axis]] for axis in axes}
    return {**_result(s, theirs), "sweep": points}


def test_the_picture_has_a_panel_per_axis_and_both_sides() -> None:
    text = draw(fake_sweep(), "svg").decode()
    ElementTree.fromstring(text)
    for label in ("prompt length P (tokens)", "completion length C (tokens)", "group size G", "model width", "seconds"):
        assert label in text
    assert "TRL GRPOTrainer" in text and "rubric-arm-lite" in text and "9.0×" in text
    assert draw(fake_sweep(), "svg").decode() == text
    assert draw(fake_sweep(), "png").startswith(b"\x89PNG")
    alone = draw(fake_sweep(theirs=False, axes=("width",)), "svg").decode()
    assert "TRL GRPOTrainer" not in alone and "group size" not in alone


def test_markdown_has_both_tables_and_the_notes() -> None:
    text = markdown(fake_sweep())
    assert "| seconds, median | 1.024 | 9.216 | 9.00 |" in text
    assert "| peak memory | 3 MiB | 3 MiB | 1.00 |" in text
    assert text.count("| prompt_length |") == len(SWEEP["prompt_length"])
    assert "A note." in text and "torch 2" in text
