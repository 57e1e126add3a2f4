"""Sweeps as recipes: arms, grids, seeds, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import SweepSettings, load_recipe, load_sweep, shipped_recipes, shipped_sweeps


def test_a_grid_makes_an_arm_per_combination() -> None:
    settings = load_sweep(
        "testbed", ["schedule.order=judge_first,rubric_first", "judge.beta=0,1e-05"], ["judge.max_steps=4"], "2"
    )
    arms = settings.all_arms()
    assert [arm.label for arm in arms] == [
        "order=judge_first, beta=0", "order=judge_first, beta=1e-05",
        "order=rubric_first, beta=0", "order=rubric_first, beta=1e-05",
    ]  # fmt: skip
    assert arms[1].folder == "order=judge_first-beta=1e-05"
    recipe = settings.recipe_of(arms[3], 7)
    assert (recipe.seed, recipe.schedule.order, recipe.judge.beta, recipe.judge.max_steps) == (
        7,
        "rubric_first",
        1e-5,
        4,
    )
    assert settings.all_seeds() == [0, 1]
    assert [arm.label for arm in load_sweep("testbed", ["schedule.order=judge_only,rubric_only"]).all_arms()] == [
        "judge_only",
        "rubric_only",
    ]
    both = load_sweep("testbed", ["judge.beta=0,0.1", "rubric.beta=0"]).all_arms()
    assert [arm.label for arm in both] == ["judge.beta=0, rubric.beta=0", "judge.beta=0.1, rubric.beta=0"]


def test_a_file_has_named_arms_and_starts_from_a_recipe_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("extends: testbed\nseed: 5\n")
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "recipe: mine.yaml\nseeds: [3, 9]\nset: {judge.max_steps: 2}\narms:\n  plain: {}\n"
        "  until: {schedule.until: {metric: accuracy}}\ngrid: {judge.beta: [0.0, 0.1]}\n"
    )
    settings = load_sweep(file)
    assert [arm.label for arm in settings.all_arms()] == [
        "plain, beta=0.0", "plain, beta=0.1", "until, beta=0.0", "until, beta=0.1",
    ]  # fmt: skip
    recipe = settings.recipe_of(settings.all_arms()[3], 9)
    assert recipe.schedule.until is not None and recipe.schedule.until.metric == "accuracy"
    assert (recipe.judge.beta, recipe.judge.max_steps, recipe.name) == (0.1, 2, "until-beta-0.1")
    assert settings.all_seeds() == [3, 9]
    assert load_sweep(file, seeds="2").all_seeds() == [5, 6], "counted from the recipe's"
    assert load_sweep(file, seeds="4,").all_seeds() == [4]
    assert load_sweep(file, ["judge.beta=0.5"]).grid == {"judge.beta": (0.5,)}, "replaces the file's values"
    assert load_sweep(file, sets=["judge.max_steps=9"]).sets == {"judge.max_steps": 9}
    monkeypatch.chdir(tmp_path)
    (alone,) = load_sweep("mine.yaml").all_arms()
    assert (alone.label, alone.sets) == ("recipe", ()), "a recipe without options is one arm"


def test_every_shipped_sweep_makes_valid_recipes_that_differ() -> None:
    sweeps = shipped_sweeps()
    assert set(sweeps) == {"order", "format", "cache", "orders", "kl", "group", "split", "until"}
    assert not set(sweeps) & set(shipped_recipes()), "one name, one meaning"
    for name, file in sweeps.items():
        settings = load_sweep(name)
        assert settings.name == name and settings.description and f"rubric-arm sweep {name}" in file.read_text()
        recipes = [settings.recipe_of(arm, 1) for arm in settings.all_arms()]
        assert len(recipes) > 1
        assert len({recipe.model_copy(update={"name": "same"}).model_dump_json() for recipe in recipes}) == len(recipes)
        warmups = {recipe.warmup.model_dump_json() for recipe in recipes}
        assert len(warmups) == 1, "they share a warm-up"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": ["schedule.order"]}, r"--grid schedule\.order: write field=value,value"),
        ({"sets": ["judge.beta"]}, r"--set judge\.beta: write field=value"),
        ({"grid": ["seed=1,2"]}, "seed is set by the sweep itself. Use seeds"),
        ({"sets": ["name=mine"]}, "name is set by the sweep itself"),
        ({"grid": ["schedule.until={metric: accuracy}"]}, r"schedule\.until has a section of fields .* under arms"),
        ({"grid": ["judge.beta="]}, r"grid\.judge\.beta has no values"),
        ({"seeds": "many"}, "--seeds many: give a number of seeds"),
        ({"seeds": "0"}, r"`seeds` is 0\. Allowed: a whole number, at least 1"),
        ({"grid": ["schedule.order=a/b,a b"]}, r"'a/b' would share a folder|'a b' and 'a/b' would share a folder"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep("testbed", **options).all_arms()  # type: ignore[arg-type]


def test_errors_name_the_arm_or_the_line(tmp_path: Path) -> None:
    settings = load_sweep("testbed", ["judge.bta=1,2"])
    with pytest.raises(ConfigError, match=r"The arm 'bta=1': --set judge\.bta=1: .* Did you mean `judge\.beta`"):
        settings.recipe_of(settings.all_arms()[0], 0)
    file = tmp_path / "sweep.yaml"
    file.write_text("grid: {judge.beta: [0]}\nsets: {judge.beta: 1}\n")
    with pytest.raises(ConfigError, match=r"sweep\.yaml, line 2: `sets` is not a field"):
        load_sweep(file)
    file.write_text("grid: {judge.beta: [0]}\narms: {a: {judge.beta: 1}}\n")
    with pytest.raises(ConfigError, match=r"judge\.beta is in arms and in grid"):
        load_sweep(file)
    with pytest.raises(ConfigError, match="There is no recipe 'nowhere'"):
        load_sweep("nowhere")
    assert load_recipe("testbed").cache.enabled and SweepSettings().seeds == 3
