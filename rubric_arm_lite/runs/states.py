"""What a run's folder gives to those who use its adapters: the recipe, the states, the adapters of a state.

A run directory goes in, however far the run has come; a recipe, names of states or folders of adapters come out.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError
from rubric_arm_lite.recipe import PolicyRecipe, Recipe, load_recipe, load_settings
from rubric_arm_lite.recipe.load import shipped_names
from rubric_arm_lite.runs.directory import RECIPE, STATE, RunState
from rubric_arm_lite.types import ROLES

_CHECKPOINT_NAME = re.compile(r"state-[0-9]{6}")


def recipe_of(source: str | Path) -> Recipe:
    """The recipe that a run was made with, or that a file or a shipped recipe's name means.

    Raises:
        CheckpointError: if it is neither.
        ConfigError: if the recipe cannot be used.
    """
    named = str(source)
    if not Path(source).is_dir() and (named.endswith((".yaml", ".yml")) or named in shipped_names()):
        return load_recipe(named)
    return recipe_of_run(source)


def recipe_of_run(run: str | Path) -> Recipe:
    """The recipe that a run was made with.

    Raises:
        CheckpointError: if the directory is no run, or that of a policy.
        ConfigError: if the recipe cannot be used.
    """
    path = Path(run)
    if not (path / RECIPE).is_file():
        raise CheckpointError(f"{path} is not a run directory: it has no {RECIPE}. Make one with rubric-arm run.")
    try:
        return load_recipe(str(path / RECIPE))
    except ConfigError:
        with contextlib.suppress(ConfigError):
            policy = load_settings(PolicyRecipe, str(path / RECIPE))
            raise CheckpointError(
                f"{path} is the run of a policy, which writes no rubrics and judges nothing. Its reward model is "
                f"{policy.reward.run}: name that."
            ) from None
        raise


def adapter_folder(run: Path, role: str, state: str) -> Path:
    """Where the adapter of a role stands in a run, in the state ``final``, ``warm-up``, ``latest``, or that of a kept
    checkpoint by its name.

    Raises:
        BackendError: if the state is none of these.
        CheckpointError: if the run has no such state.
    """
    match state:
        case "final":
            folder = run / "adapters" / role
        case "warm-up" | "latest":
            name = f"{role}_ref" if state == "warm-up" else role
            folder = _checkpoint(run) / name
        case _ if _CHECKPOINT_NAME.fullmatch(state):
            folder = run / "checkpoints" / state / role
        case _:
            raise BackendError(
                f"state: {state!r} is not one of final, warm-up, latest, or a kept checkpoint such as state-000012."
            )
    if not folder.is_dir():
        raise CheckpointError(
            f"{run} has no {state} adapter `{role}` yet. Finish it with rubric-arm run --resume, or name another state."
        )
    return folder


def states_of(run: Path) -> list[str]:
    """The states of a run whose adapters are there, the oldest first: ``warm-up``, checkpoints, ``latest``, ``final``.

    ``latest`` is left out where it is the newest checkpoint of a finished run, whose adapters are the final ones.
    """
    kept = sorted(p.name for p in (run / "checkpoints").glob("state-*") if _CHECKPOINT_NAME.fullmatch(p.name))
    found = []
    for state in ("warm-up", *kept, "latest", "final"):
        with contextlib.suppress(CheckpointError):
            for role in ROLES:
                adapter_folder(run, role, state)
            found.append(state)
    if "final" in found and "latest" in found:
        found.remove("latest")
    return found


def _checkpoint(run: Path) -> Path:
    try:
        state = RunState.loads((run / STATE).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{run / STATE} cannot be read: {error}. Run it again.") from error
    if state.checkpoint is None:
        raise CheckpointError(f"{run} has no checkpoint yet. Continue it with rubric-arm run --resume.")
    return run / "checkpoints" / state.checkpoint
