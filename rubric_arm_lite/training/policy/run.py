"""``train_policy``: a policy recipe and a finished reward model in, a trained policy out. Its stages: :mod:`.stages`.

Nothing heavy is imported until the recipe, the arguments and the run directory are known to be usable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import PolicyRecipe, dump_recipe, recipe_hash
from rubric_arm_lite.runs import IfExists, Progress, RunDirectory, explained_disk_errors
from rubric_arm_lite.training.run import RunResult, read_recipe


def train_policy(
    recipe: PolicyRecipe | str | Path,
    run_dir: str | Path | None = None,
    *,
    reward: str | Path | None = None,
    server: str | None = None,
    overrides: Sequence[str] = (),
    if_exists: IfExists = "raise",
    progress: Progress | None = None,
) -> RunResult:
    """Train a policy against a finished reward model, by DPO, iterative DPO or online GRPO (the recipe's ``method``).

    Args:
        recipe: a policy recipe, its file, or the name of a shipped one such as ``testbed``.
        run_dir: where results go; ``runs/NAME-METHOD`` by default.
        reward: run directory of the reward model, in place of the recipe's ``reward.run``.
        server: address of a server that has the reward model's adapters, in place of ``reward.server``.
        overrides: fields to change in a file or shipped recipe, such as ``dpo.beta=0.05``.
        if_exists: ``raise``, ``resume`` or ``overwrite`` an existing run.
        progress: receives the events of the run.

    Raises:
        ConfigError: if the recipe or an argument cannot be used.
        CheckpointError: if a run directory is missing, damaged, in use, or belongs to another recipe.
        DataError: if there are no requests, or no pair to train on.
        TrainingError: if training fails, such as by a loss that is not finite.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("A policy is trained by one process. Start rubric-arm policy without a launcher.")
    fields = {"run": reward, "server": server}
    sets = [f"reward.{name}={json.dumps(str(value))}" for name, value in fields.items() if value is not None]
    settings = read_recipe(PolicyRecipe, recipe, [*overrides, *sets])
    path = Path("runs") / f"{settings.name}-{settings.method}" if run_dir is None else Path(run_dir)
    for source in settings.inputs:
        if Path(source).resolve().is_relative_to(path.resolve()):
            raise ConfigError(f"{path} holds {source}, which this run reads. Choose another --run-dir for its results.")
    with (
        explained_disk_errors(path),
        closing(RunDirectory.open(path, dump_recipe(settings), recipe_hash(settings), if_exists)) as directory,
    ):
        from rubric_arm_lite.training.policy.stages import run_stages
        from rubric_arm_lite.training.policy.state import PolicyState

        run_stages(PolicyState(settings, directory, progress or Progress()))
        return RunResult.of(directory, settings)
