"""Sweeps: a recipe, the fields in which the arms of a comparison differ, and seeds.

Input: a YAML file, the name of a shipped sweep (``recipes/sweeps/``), or a recipe with the options of the command line.
Output: :class:`SweepSettings` and its :class:`Arm` objects; each with a seed makes the recipe of one run.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe.entries import SECTION, Entry, read_file, read_override
from rubric_arm_lite.recipe.fields import Positive, Recipe, Settings
from rubric_arm_lite.recipe.load import SWEEPS, load_recipe, recipes_folder, shipped_recipes, validated

_NOT_IN_ARMS = {"seed": "seeds", "name": "the names of arms", "warmup.from": "a recipe with warmup.source: null"}
"""Fields that a sweep sets itself, and what to use in their place."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a sweep: its label, its folder in that of the sweep, and its ``--set`` arguments."""

    label: str
    folder: str
    sets: tuple[str, ...]


class SweepSettings(Settings):
    """A comparison of recipes over seeds: every arm, or every arm with every point of the grid."""

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the sweep and of its default directory, runs/NAME."""
    description: str = ""
    """What the sweep asks."""
    recipe: str = "testbed"
    """The recipe that all arms start from: a shipped one, or a YAML file beside this one."""
    sets: dict[str, Any] = Field(default={}, alias="set")
    """Fields that all arms change, such as `judge.max_steps: 10`."""
    arms: dict[str, dict[str, Any]] = Field(default={})
    """Names of arms, each with the fields that it changes; `{}` is the recipe as it is."""
    grid: dict[str, tuple[Any, ...]] = Field(default={})
    """Fields with the values to try: one arm per combination."""
    seeds: Positive | tuple[Annotated[int, Field(ge=0)], ...] = 3
    """Number of seeds, counted from the recipe's, or a list of them."""

    @model_validator(mode="after")
    def _check(self) -> SweepSettings:
        both = [field for fields in self.arms.values() for field in fields if field in self.grid]
        if both:
            raise ValueError(f"{both[0]} is in arms and in grid. Leave it out of one of them.")
        for field in itertools.chain(self.sets, self.grid, *self.arms.values()):
            if field in _NOT_IN_ARMS:
                raise ValueError(f"{field} is set by the sweep itself. Use {_NOT_IN_ARMS[field]}.")
            if any(isinstance(value, dict) for value in self.grid.get(field, ())):
                raise ValueError(f"{field} has a section of fields among its values. Write that arm under arms.")
        empty = [field for field, values in self.grid.items() if not values]
        if empty or self.seeds == ():
            raise ValueError(f"{f'grid.{empty[0]}' if empty else 'seeds'} has no values. Give at least one.")
        return self

    def all_arms(self) -> list[Arm]:
        """The arms in order: those of ``arms``, each with every combination of the grid.

        Raises:
            ConfigError: if two arms would have the same folder.
        """
        named = self.arms or {"": {}}
        arms: list[Arm] = []
        for (name, fields), point in itertools.product(named.items(), itertools.product(*self.grid.values())):
            parts = [name] if name else []
            for field, value in zip(self.grid, point, strict=True):
                text = value if isinstance(value, str) else json.dumps(value)
                last = field.rpartition(".")[2]
                short = last if [other.rpartition(".")[2] for other in self.grid].count(last) == 1 else field
                parts.append(text if text == value and len(self.grid) == 1 else f"{short}={text}")
            label = ", ".join(parts) or "recipe"
            changes = {**self.sets, **fields, **dict(zip(self.grid, point, strict=True))}
            sets = tuple(f"{field}={json.dumps(value)}" for field, value in changes.items())
            folder = re.sub(r"[^A-Za-z0-9._=-]+", "-", label).strip("-.")[:80] or "arm"
            if (same := next((arm for arm in arms if arm.folder == folder), None)) or folder == WARMUPS:
                other = same.label if same else WARMUPS
                raise ConfigError(f"The arms {label!r} and {other!r} would share a folder. Name them under arms.")
            arms.append(Arm(label, folder, sets))
        return arms

    def all_seeds(self) -> list[int]:
        """The seeds in order."""
        if not isinstance(self.seeds, int):
            return list(dict.fromkeys(self.seeds))
        first = load_recipe(self.recipe, [f"{field}={json.dumps(value)}" for field, value in self.sets.items()]).seed
        return list(range(first, first + self.seeds))

    def recipe_of(self, arm: Arm, seed: int) -> Recipe:
        """The recipe of an arm with a seed, before its warm-up is shared.

        Raises:
            ConfigError: if the arm's fields cannot be used; the message names the arm.
        """
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", arm.folder).strip("-._")[:64] or "arm"
        try:
            return load_recipe(self.recipe, [*arm.sets, f"seed={seed}", f"name={json.dumps(name)}"])
        except ConfigError as error:
            raise ConfigError(f"The arm {arm.label!r}: {error}") from error


WARMUPS = "warm-ups"
"""Folder of the shared warm-ups in that of a sweep."""


def shipped_sweeps() -> dict[str, Path]:
    """The shipped sweeps by name."""
    return {path.stem: path for path in sorted((recipes_folder() / SWEEPS).glob("*.yaml"))}


def load_sweep(
    source: str | Path, grid: Sequence[str] = (), sets: Sequence[str] = (), seeds: str | None = None
) -> SweepSettings:
    """The sweep of a file or of a shipped name, or of a recipe.

    Args:
        source: a YAML file with `arms` or `grid`, the name of a shipped sweep, or a recipe.
        grid: more fields with their values, as ``field=value,value``; a field of the file's grid is replaced.
        sets: fields that all arms change, as ``field=value``.
        seeds: a number of seeds (``5``), or seeds with commas (``3,4``; ``3,`` is one).

    Raises:
        ConfigError: says what cannot be used.
    """
    name = str(source)
    file = shipped_sweeps().get(name) or Path(name)
    entries = read_file(file) if file.suffix in (".yaml", ".yml") and file.is_file() else {}
    if {("arms",), ("grid",)} & entries.keys():
        recipe = entries.get(("recipe",))
        if recipe is not None and recipe.value not in shipped_recipes() and (file.parent / str(recipe.value)).is_file():
            entries[("recipe",)] = Entry(str(file.parent / recipe.value), recipe.where, recipe.folder)
    else:
        own = load_recipe(name).name
        entries = {(): Entry(SECTION, name, Path())}
        entries |= {("recipe",): Entry(name, name, Path()), ("name",): Entry(f"{own[:58]}-sweep", name, Path())}
    for option, section, arguments in (("--grid", "grid", grid), ("--set", "set", sets)):
        for text in arguments:
            field, equals, value = text.partition("=")
            field = field.strip()
            if not equals or not field:
                values = "field=value,value, such as judge.beta=0,0.01" if section == "grid" else "field=value"
                raise ConfigError(f"{option} {text}: write {values}.")
            place, keys = (section, field), tuple(key.strip() for key in field.split("."))
            read = read_override(f"{field}=[{value}]" if section == "grid" else text, Path())
            entries = {key: entry for key, entry in entries.items() if key[:2] != place}
            entries.setdefault((section,), Entry(SECTION, f"{option} {text}", Path()))
            for at, entry in read.items():
                if at[: len(keys)] == keys:
                    entries[(*place, *at[len(keys) :])] = Entry(entry.value, f"{option} {text}", entry.folder)
    if seeds is not None:
        numbers = [part.strip() for part in seeds.split(",") if part.strip()]
        if not numbers or not all(part.isdecimal() for part in numbers):
            raise ConfigError(f"--seeds {seeds}: give a number of seeds (5), or seeds with commas (3,4,5).")
        chosen = tuple(map(int, numbers)) if "," in seeds else int(numbers[0])
        entries[("seeds",)] = Entry(chosen, f"--seeds {seeds}", Path())
    return validated(SweepSettings, entries)
