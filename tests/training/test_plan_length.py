"""How long a recipe trains, against hand counts and against the loop that trains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rubric_arm_lite.cli.main import app
from rubric_arm_lite.cli.plan import hours
from rubric_arm_lite.data.load import read_blocks
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe.fields import Recipe
from rubric_arm_lite.recipe.load import load_recipe
from rubric_arm_lite.training.plan import Length, Plan, evaluation_tokens, length_of
from rubric_arm_lite.training.schedule import part_of_data, scheduled_phases, steps_in_phase
from tests.source_rows import write_jsonl


def pairs(path: Path, prompts: int, first: int = 0) -> Path:
    """Two pairs of every prompt."""
    rows = [
        {"prompt": f"Request {i}", "chosen": f"good {j}", "rejected": f"bad {j}"}
        for i in range(first, first + prompts)
        for j in range(2)
    ]
    return write_jsonl(path, rows)


def recipe(source: Path | str, *sets: str) -> Recipe:
    """A recipe whose phases go once through the data."""
    return load_recipe("qwen3-8b-12gb", [f"data.source={source}", *sets])


def trained_steps(chosen: Recipe) -> dict[str, int]:
    """The longest phase of each role, as the loop of a run counts it."""
    train = read_blocks(chosen.data, chosen.seed)[0]
    found: dict[str, int] = {}
    for slot in scheduled_phases(chosen.schedule):
        part = part_of_data(train, slot.cycle, chosen.schedule.cycles)
        for role in slot.roles:
            found[role] = max(found.get(role, 0), steps_in_phase(part, chosen.grpo(role)))
    return found


@pytest.mark.parametrize(("pointwise", "judge"), [(False, 6 * (3 * 4 * 12 + 36)), (True, 6 * (2 * 3 * 4 * 12 + 36))])
def test_tokens_are_counted(pointwise: bool, judge: int) -> None:
    """Judge: 3 × 2 prompts × (3 pairs × 4 × 12 + 3 draws × 12). Rubric: 6 × 4 × (12 + 2 pairs × 2 orders × 20)."""
    role = {"num_generations": 4, "max_completion_length": 12, "prompts_per_step": 2, "max_steps": 3}
    reward: dict[str, Any] = {"judge": "pointwise"} if pointwise else {"judge_orders": "both"}
    fields = {
        "judge": {**role, "pairs_per_prompt": 3},
        "rubric": {**role, "pairs_per_prompt": 2},
        "reward": {**reward, "judge_max_tokens": 20},
    }
    found = length_of(Recipe.model_validate(fields))
    tokens = {"judge": judge, "rubric": 6 * 4 * (12 + 80)}
    assert found == Length(None, {"judge": 3, "rubric": 3}, tokens, test_pairs=800)


@pytest.mark.parametrize(
    ("reward", "per_prompt", "drawn"),
    [
        ({}, 1, 3),
        ({"rubric_attempts": 1}, 1, 1),
        ({"rubric_attempts": 5}, 1, 5),
        ({"rubric_attempts": 5, "rubric_temperature": 0.0}, 1, 1),  # greedy: another draw would be the same
        ({"rubric_attempts": 5}, 2, 10),
        ({}, 8, 9),  # three pairs of a prompt are judged under three rubrics at most
    ],
)
def test_the_rubrics_of_a_judge_step_count_with_every_attempt(
    reward: dict[str, Any], per_prompt: int, drawn: int
) -> None:
    judge = {"num_generations": 4, "max_completion_length": 12, "prompts_per_step": 2, "max_steps": 1}
    fields = {
        "judge": {**judge, "pairs_per_prompt": 3},
        "rubric": {"max_completion_length": 7, "max_steps": 1},
        "reward": reward,
        "cache": {"rubrics_per_prompt": per_prompt},
    }
    assert length_of(Recipe.model_validate(fields)).tokens_per_cycle["judge"] == 2 * (3 * 4 * 12 + drawn * 7)


@pytest.mark.parametrize("prompts", [47, 400])
@pytest.mark.parametrize(
    "sets",
    [(), ("data.test_fraction=0.4",), ("data.train_prompts=33", "schedule.cycles=2"), ("schedule.order=simultaneous",)],
)
def test_steps_of_a_file_are_those_of_a_run(tmp_path: Path, prompts: int, sets: tuple[str, ...]) -> None:
    chosen = recipe(pairs(tmp_path / "pairs.jsonl", prompts), *sets)
    found = length_of(chosen)
    assert found.steps_per_phase == trained_steps(chosen) and not found.length_unknown
    assert found.train_prompts == len(read_blocks(chosen.data, chosen.seed)[0]) < prompts
    part = math.ceil(found.train_prompts / chosen.schedule.cycles)  # the last step is smaller
    assert found.tokens_per_cycle["judge"] == part * (8 * 1024 + 3 * 512)


def test_prompts_of_an_evaluation_file_are_left_out(tmp_path: Path) -> None:
    source = pairs(tmp_path / "pairs.jsonl", 40)
    held_out = pairs(tmp_path / "test.jsonl", 10, first=35)
    assert length_of(recipe(source, f"data.evaluation={held_out}")).train_prompts == 35
    assert length_of(recipe(source, "data.evaluation=owner/elsewhere")).train_prompts == 40, "the Hub is not asked"


def test_only_roles_that_are_trained_count(tmp_path: Path) -> None:
    source = pairs(tmp_path / "pairs.jsonl", 40)
    assert list(length_of(recipe(source, "schedule.order=judge_only")).tokens_per_cycle) == ["judge"]
    told = length_of(recipe("none.jsonl", "schedule.order=judge_only", "judge.max_steps=4"))
    assert told.steps_per_phase == {"judge": 4} and not told.length_unknown


def test_the_english_world_needs_no_file() -> None:
    found = length_of(recipe("english", "warmup.source=english"))
    assert (found.train_prompts, found.test_pairs, found.length_unknown) == (TRAIN_PROMPTS, 200 * 4, None)
    pairs = [f"data.{world}.pairs_per_prompt={number}" for world, number in (("english", 3), ("world", 5))]
    assert length_of(recipe("english", "warmup.source=english", "data.test_prompts=7", *pairs)).test_pairs == 21
    assert length_of(recipe("english", "warmup.source=english", "data.train_prompts=96")).train_prompts == 96


def test_the_testbed_needs_no_file() -> None:
    sets = ["judge.max_steps=null", "data.train_prompts=null"]
    assert length_of(load_recipe("testbed", sets)).steps_per_phase == {
        "judge": 10,
        "rubric": 16,
    }  # 480 prompts / (3 × 16)


def test_a_bound_by_the_recipe_needs_no_data() -> None:
    found = length_of(recipe("owner/somewhere", "data.train_prompts=480"))
    assert found.steps_per_phase == {"judge": 10, "rubric": 7} and not found.length_unknown


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        ((), ("judge.max_steps and rubric.max_steps are null", "--set judge.max_steps=N --set rubric.max_steps=N")),
        (("judge.max_steps=2",), ("rubric.max_steps is null", "Add --set rubric.max_steps=N, or --set data.source=")),
    ],
)
def test_what_cannot_be_told_says_why(sets: tuple[str, ...], parts: tuple[str, ...]) -> None:
    found = length_of(recipe("none.jsonl", *sets))
    assert all(part in found.length_unknown for part in (*parts, "none.jsonl is no file on this machine"))
    assert "rubric" not in found.tokens_per_cycle
    assert hours(Plan(None, None, 0.0, 0.0, (), (), found), 3, 300) is None, (
        "half of the tokens would be a wrong figure"
    )


def test_a_file_that_cannot_be_read_does_not_stop_the_plan(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "p", "chosen": "a"}])
    found = length_of(recipe(source))
    assert "column `rejected` is missing" in found.length_unknown and "data.source=FILE" not in found.length_unknown


def test_every_evaluation_is_counted() -> None:
    """One: 10 rubrics × 7, (20 greedy judgements + 8 sampled ones + 6 under another rubric) × 5.

    The final one writes 4 rubrics and samples each of the 8 three times; two of the four pairs of the cross-play were
    judged before.
    """
    fields = {
        "evaluation": {
            "pairs": 10,
            "vote_pairs": 4,
            "probes": 3,
            "votes": 3,
            "rubric_max_tokens": 7,
            "judge_max_tokens": 5,
        },
        "schedule": {"cycles": 2, "until": {"phase": "judge", "every": 2, "pairs": 6}},
        "judge": {"max_steps": 5},
        "rubric": {"max_steps": 4},
    }
    one, chosen = 10 * 7 + 34 * 5, Recipe.model_validate(fields)
    found = {"base": one, "warm-up": one, "after phases": 4 * one, "probes": 2 * 2 * (6 * 7 + 14 * 5)}
    found |= {"cross-play": 2 * one, "final": 4 * 7 + 24 * 5}
    assert evaluation_tokens(chosen, length_of(chosen)) == found
    fields["evaluation"] |= {"after_phases": False}
    fields["warmup"] = {"until": {"pairs": 8}}
    del fields["schedule"]["until"]
    chosen = Recipe.model_validate(fields)
    assert evaluation_tokens(chosen, length_of(chosen))["reading"] == 8 * 7 + 18 * 5
    del fields["warmup"]
    chosen = Recipe.model_validate(fields)
    assert evaluation_tokens(chosen, length_of(chosen)).keys() == {"base", "warm-up", "cross-play", "final"}


@pytest.mark.parametrize(
    ("fields", "evaluations"),
    [
        (
            {},
            {"base": 1, "warm-up": 1, "after phases": 2, "cross-play": 1},
        ),  # after the judge's phase one more corner is known
        ({"schedule": {"cycles": 2}}, {"base": 1, "warm-up": 1, "after phases": 4, "cross-play": 2}),
        ({"schedule": {"order": "judge_only"}}, {"base": 1, "warm-up": 1, "after phases": 1}),
        ({"schedule": {"order": "simultaneous"}}, {"base": 1, "warm-up": 1, "after phases": 1, "cross-play": 2}),
        ({"evaluation": {"after_phases": False}}, {"base": 1, "warm-up": 1, "cross-play": 3}),
        ({"warmup": {"source": None}}, {"base": 1, "after phases": 2, "cross-play": 1}),
    ],
)
def test_weights_that_were_evaluated_before_do_not_count_again(
    fields: dict[str, Any], evaluations: dict[str, int]
) -> None:
    evaluation = {"pairs": 10, "vote_pairs": 4, "probes": 0, "votes": 1, "rubric_max_tokens": 7, "judge_max_tokens": 5}
    fields = {**fields, "evaluation": {**evaluation, **fields.get("evaluation", {})}}
    chosen = Recipe.model_validate({**fields, "schedule": {"cycles": 1, **fields.get("schedule", {})}})
    one = 10 * 7 + 28 * 5
    assert evaluation_tokens(chosen, length_of(chosen)) == {name: n * one for name, n in evaluations.items()}


def test_no_more_pairs_and_prompts_count_than_there_are(tmp_path: Path) -> None:
    """Four held-out pairs in place of 200, and steps of the 4 prompts of a cycle's part in place of 16."""
    sets = ["data.test_prompts=1", "data.train_prompts=12", "judge.max_steps=3", "rubric.max_steps=null"]
    found = length_of(testbed := load_recipe("testbed", sets))
    assert found.test_pairs == 4 and found.steps_per_phase == {"judge": 3, "rubric": 1}
    full = length_of(load_recipe("testbed", ["judge.max_steps=3", "rubric.max_steps=1"])).tokens_per_cycle
    assert found.tokens_per_cycle == {"judge": full["judge"] * 4 / 16, "rubric": full["rubric"] * 4 / 8}
    one = 4 * 40 + 2 * (4 + 4 + 4) * 64
    assert evaluation_tokens(testbed, found)["base"] == one
    file = recipe(pairs(tmp_path / "pairs.jsonl", 40), "data.test_prompts=3", "judge.max_steps=2", "rubric.max_steps=2")
    assert length_of(file).test_pairs == sum(len(block.pairs) for block in read_blocks(file.data, file.seed)[1])


@pytest.mark.slow
def test_a_run_writes_what_was_counted(finished_run: Path) -> None:
    """The log of a short run: no evaluation writes more than was counted, or less than a third of it."""
    chosen = load_recipe(finished_run / "recipe.yaml")
    rows = [json.loads(line) for line in (finished_run / "timings.jsonl").read_text().splitlines()]
    names = {
        "warmup": "warm-up",
        **{f"evaluate {phase.label}": "after phases" for phase in scheduled_phases(chosen.schedule)},
    }
    written: dict[str, int] = {}
    for row in rows:
        name = names.get(row["stage"], row["stage"])
        written[name] = written.get(name, 0) + row["tokens"]
    counted = evaluation_tokens(chosen, length_of(chosen))
    assert counted.keys() < written.keys() and written["warmup-rubric"] == written["warmup-judge"] == 0
    for name, most in counted.items():
        assert most / 3 < written[name] <= most, name


def test_hours() -> None:
    plan = Plan(None, None, 0.0, 0.0, (), (), Length(None, {"judge": 1}, {"judge": 7_200_000}))
    assert hours(plan, 3, 1000) == (2.0, 6.0) and hours(plan, 3, None) is None
    for speed in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="above 0"):
            hours(plan, 3, speed)


def test_the_verb_says_it(tmp_path: Path) -> None:
    def shown(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["plan", "qwen3-8b-12gb", "--gpu-gb", "12", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    missing = ("--tokens-per-second", "300", "--set", "data.source=none.jsonl")
    assert "hours are unknown" in shown(*missing)
    assert json.loads(shown(*missing, "--json"))["length_unknown"].startswith("Tokens and hours are unknown")
    counted = ("--tokens-per-second", "300", "--set", f"data.source={pairs(tmp_path / 'pairs.jsonl', 90)}")
    text = shown(*counted)
    assert "training prompts, once through in 3 cycles" in text and "A judge phase of 2 steps generates" in text
    assert "Evaluations generate at most" in text and "3 cycles of" in text
    found = json.loads(shown(*counted, "--json"))
    evaluations = sum(found["evaluation_tokens"].values())
    assert found["hours"] == pytest.approx(3 * found["hours_per_cycle"] + evaluations / 300 / 3600)
    assert found["steps_per_phase"] == {"judge": 2, "rubric": 2} and found["length_unknown"] is None
    assert found["hours_per_cycle"] == pytest.approx(sum(found["tokens_per_cycle"].values()) / 300 / 3600)
