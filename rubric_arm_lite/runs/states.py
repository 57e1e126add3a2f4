"""Reads a run directory at any stage of the run: its recipe, its states, and the adapter folders of a state."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError
from rubric_arm_lite.recipe import PolicyRecipe, Recipe, load_recipe, load_settings, shipped_recipes
from rubric_arm_lite.recipe.templates import read_template
from rubric_arm_lite.runs.directory import CHECKPOINT_NAME, RECIPE, STATE, check_files, checkpoints_of, read_state
from rubric_arm_lite.runs.files import read_object
from rubric_arm_lite.types import ROLES, Role


def recipe_of(source: str | Path) -> Recipe:
    """The recipe of a run directory, of a YAML file, or of a shipped recipe's name.

    Raises:
        CheckpointError: if it is none of these.
        ConfigError: if the recipe is invalid.
    """
    name = str(source)
    if not Path(source).is_dir() and (name.endswith((".yaml", ".yml")) or name in shipped_recipes()):
        return load_recipe(name)
    return recipe_of_run(source)


def recipe_of_run(run: str | Path) -> Recipe:
    """The recipe of a run directory.

    Raises:
        CheckpointError: if the directory is not a run, or the run of a policy, or a file of it that :func:`check_files`
            looks at was changed.
        ConfigError: if the recipe is invalid.
    """
    path = Path(run)
    if (path / STATE).is_file():
        check_files(path, read_state(path / STATE))
    if not (path / RECIPE).is_file():
        raise CheckpointError(
            f"{path} is not a run directory: it has no {RECIPE}. Make one with rubric-arm run; rubric-arm demo makes "
            "runs/demo, the testbed's."
        )
    try:
        return load_settings(Recipe, path / RECIPE, check_names=False)
    except ConfigError:
        with contextlib.suppress(ConfigError):
            policy = load_settings(PolicyRecipe, path / RECIPE, check_names=False)
            raise CheckpointError(
                f"{path} is the run of a policy, which has no reward model of its own. Use its reward model, "
                f"{policy.reward.run}; its report comes from rubric-arm policy report {path}."
            ) from None
        raise


def run_and_state(source: str, default: str) -> tuple[Path, str]:
    """The run directory and the state that ``RUN@STATE`` names, or ``RUN`` for the default state."""
    run, at, state = source.rpartition("@")
    return (Path(run), state) if at and "/" not in state and not Path(source).exists() else (Path(source), default)


def adapter_folder(run: Path, role: str, state: str) -> Path:
    """The folder of a role's adapter in the state ``final``, ``warm-up``, ``latest``, or of a checkpoint by its name.

    Raises:
        BackendError: if the state is none of these.
        CheckpointError: if the run has no such state, or a file of it is not as it was committed.
    """
    folder = _find_folder(run, role, state)
    if (run / STATE).is_file():
        check_files(run, read_state(run / STATE), folder.relative_to(run).as_posix())
    return folder


def swapped_adapter(run: Path, role: Role, source: str) -> Path:
    """The folder of a role's adapter in another run, ``RUN`` for its final one or ``RUN@STATE``, for use in ``run``.

    Raises:
        BackendError: if the state is none.
        CheckpointError: if the other run is none, has no such state, or its adapter does not belong here: it was
            trained on another base or with another prompt or form of judgement.
    """
    other, state = run_and_state(source, "final")
    here, there = recipe_of_run(run), recipe_of_run(other)
    bases = [_base_of(path, recipe) for path, recipe in ((run, here), (other, there))]
    part = 0 if all(weights for weights, _ in bases) else 1
    if bases[0][part] != bases[1][part]:
        (weights, name), (other_weights, other_name) = bases
        raise CheckpointError(
            f"{other} was trained on another base ({other_name}, weights {other_weights or 'unknown'}) than {run} "
            f"({name}, weights {weights or 'unknown'}), so its {role} does not fit. Name a run of the same base."
        )
    forms = [_form_of(recipe, role) for recipe in (here, there)]
    if forms[0][1] != forms[1][1]:
        raise CheckpointError(
            f"{other} has {forms[1][0]}, {run} has {forms[0][0]}: its {role} was trained on other prompts. Name a run "
            "with the same template."
        )
    return adapter_folder(other, role, state)


def _form_of(recipe: Recipe, role: Role) -> tuple[str, str]:
    """The template that a role was trained on: its field with its name, and its kind with its text."""
    kind = "rubric" if role == "rubric" else "pointwise" if recipe.pointwise else "judge"
    name = getattr(recipe.prompts, f"{kind}_template")
    return f"prompts.{kind}_template: {name}", f"{kind} {read_template(kind, name) or name}"


def _base_of(run: Path, recipe: Recipe) -> tuple[str | None, str]:
    """The fingerprint of the base's weights that a run noted down, if it did, and the base's name with its revision."""
    file, model = run / "versions.json", recipe.model
    weights = read_object(file).get("base weights") if file.is_file() else None
    return weights, model.base + (f"@{model.revision}" if model.revision else "")


def _find_folder(run: Path, role: str, state: str) -> Path:
    match state:
        case "final":
            folder = run / "adapters" / role
        case "warm-up" | "latest":
            checkpoint = read_state(run / STATE).checkpoint
            if checkpoint is None:
                raise CheckpointError(
                    f"{run} has no checkpoint yet. Continue it with rubric-arm run {run / RECIPE} --run-dir {run} "
                    "--resume."
                )
            folder = run / "checkpoints" / checkpoint / (f"{role}_ref" if state == "warm-up" else role)
        case _ if CHECKPOINT_NAME.fullmatch(state):
            folder = run / "checkpoints" / state / role
        case _:
            raise BackendError(
                f"state: {state!r} is not one of final, warm-up, latest, or a kept checkpoint such as state-000012."
            )
    if not folder.is_dir():
        raise CheckpointError(
            f"{run} has no {state} adapter `{role}` yet. Finish it with rubric-arm run {run / RECIPE} --run-dir {run} "
            "--resume, or name another state."
        )
    return folder


def states_of(run: Path) -> list[str]:
    """The states of a run whose adapters exist, oldest first: ``warm-up``, checkpoints, ``latest``, ``final``.

    A finished run has no ``latest``, as its newest checkpoint holds the final adapters.
    """
    states = []
    for state in ("warm-up", *(folder.name for folder in checkpoints_of(run)), "latest", "final"):
        with contextlib.suppress(CheckpointError):
            for role in ROLES:
                _find_folder(run, role, state)
            states.append(state)
    if "final" in states and "latest" in states:
        states.remove("latest")
    return states
