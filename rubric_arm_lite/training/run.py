"""``train`` and ``train_policy``: a recipe in, a finished run out. Stages: :mod:`.stages`, :mod:`.policy.stages`.

Nothing heavy is imported until the recipe, the arguments and the run directory are known to be usable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import PolicyRecipe, Recipe, dump_recipe, load_settings, recipe_hash, wrong_names
from rubric_arm_lite.runs import IfExists, Progress, RunDirectory, explained_disk_errors, read_object, run_and_state
from rubric_arm_lite.training.schedule import STAGES
from rubric_arm_lite.training.trackers import tracked

AnyRecipe = TypeVar("AnyRecipe", Recipe, PolicyRecipe)


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run as :func:`train` or :func:`train_policy` leaves it.

    Attributes:
        stages: the finished stages, in order.
        summary: recipe, seed and the values of the last evaluation by name; empty before the last stage.
        adapters: folders of the trained adapters by name, each loadable by PEFT; empty before the last stage.
        main_process: False in all processes of a distributed run but the one that writes.
    """

    run_dir: Path
    recipe: Recipe | PolicyRecipe
    stages: tuple[str, ...]
    summary: dict[str, Any]
    adapters: dict[str, Path]
    main_process: bool = True

    @classmethod
    def of(cls, directory: RunDirectory, recipe: Recipe | PolicyRecipe) -> RunResult:
        """Read the result of a run from its directory."""
        summary = directory.path / "summary.json"
        weights = (directory.path / "adapters").glob("*/adapter_model.safetensors")
        return cls(
            run_dir=directory.path,
            recipe=recipe,
            stages=directory.state.stages,
            summary=dict(read_object(summary)) if summary.exists() else {},
            adapters={file.parent.name: file.parent for file in sorted(weights)},
            main_process=directory.writes,
        )


def train(
    recipe: Recipe | str | Path,
    run_dir: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    if_exists: IfExists = "raise",
    until: str | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Train a rubric generator and a judge: base, warm-up, alternating GRPO, cross-play and final evaluation.

    A run that was killed continues with ``if_exists="resume"`` and ends as if it had not been. Under ``torchrun`` all
    processes share the work.

    Args:
        recipe: a recipe, a recipe file, or the name of a shipped recipe such as ``testbed``.
        run_dir: where results go; ``runs/NAME`` by default.
        overrides: fields to change in a file or shipped recipe, such as ``judge.max_steps=5``.
        if_exists: ``raise``, ``resume`` or ``overwrite`` an existing run.
        until: the last stage to do, one of :data:`~rubric_arm_lite.training.schedule.STAGES`; all by default.
        progress: receives the events of the run.

    Raises:
        ConfigError: if the recipe or an argument cannot be used.
        CheckpointError: if the run directory exists and may not, is damaged or in use, or belongs to another recipe.
        DataError: if the data cannot be read, or no pair fits the context.
        TrainingError: if training fails, such as by a gradient that is not finite.
    """
    settings = read_recipe(Recipe, recipe, overrides)
    if settings.model.checkpoints is not None:
        raise ConfigError(
            "model.checkpoints: full checkpoints can be used and evaluated, but not trained. Use rubric-arm evaluate, "
            "judge or rubric with this recipe, or a recipe without model.checkpoints."
        )
    if until is not None and until not in STAGES:
        raise ConfigError(f"--stage {until}: not a stage. Use one of {', '.join(STAGES)}.")
    path = Path("runs") / settings.name if run_dir is None else Path(run_dir)
    if settings.warmup.from_ is not None:
        start, _ = run_and_state(settings.warmup.from_, "warm-up")
        if start.resolve().is_relative_to(path.resolve()):
            raise ConfigError(f"{path} holds {start}, whose adapters this run starts from. Choose another --run-dir.")
    with explained_disk_errors(path), ExitStack() as stack:
        processes = None
        if os.environ.get("WORLD_SIZE", "1") != "1":
            from rubric_arm_lite.models.parallel import connect_processes

            processes = stack.enter_context(closing(connect_processes()))
        if processes is None or processes.first:
            directory = RunDirectory.open(path, dump_recipe(settings), recipe_hash(settings), if_exists)
            stack.enter_context(closing(directory))
        if settings.model.backend == "unsloth":
            from rubric_arm_lite.models.unsloth import prepare

            prepare()  # it patches other libraries, so it is imported before them
        from rubric_arm_lite.models import ALONE
        from rubric_arm_lite.training.stages import run_stages
        from rubric_arm_lite.training.state import TrainingState

        if processes is not None:
            processes.wait()
            if not processes.first:
                progress = None
                directory = RunDirectory.follow(path, recipe_hash(settings))
                stack.enter_context(closing(directory))
        stack.enter_context(tracked(directory, settings))
        run_stages(TrainingState(settings, directory, progress or Progress(), processes or ALONE), until)
        return RunResult.of(directory, settings)


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

        with tracked(directory, settings):
            run_stages(PolicyState(settings, directory, progress or Progress()))
        return RunResult.of(directory, settings)


def read_recipe(kind: type[AnyRecipe], recipe: AnyRecipe | str | Path, overrides: Sequence[str]) -> AnyRecipe:
    """The recipe that a caller means by an object, a file or a shipped name.

    Raises:
        ConfigError: if it cannot be used, or there are overrides for an object.
    """
    if isinstance(recipe, str | Path):
        return load_settings(kind, recipe, overrides)
    if overrides:
        raise ConfigError(
            f"{overrides[0]}: a loaded recipe takes no overrides. Give them to load_recipe, or pass the recipe's file."
        )
    for _, problem in wrong_names(recipe):
        raise ConfigError(problem)
    return recipe
