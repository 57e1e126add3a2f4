"""``rubric-arm policy``: train a policy against a finished reward model. Thin; heavy imports happen inside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rubric_arm_lite.cli.common import JsonOption, err, out, print_json, quiet_libraries

policy_app = typer.Typer(help="Train a policy against a finished reward model.", no_args_is_help=True)

RecipeArgument = Annotated[str, typer.Argument(help="A policy recipe, or the name of a shipped one (testbed).")]
RewardOption = Annotated[str | None, typer.Option("--reward", metavar="RUN", help="The reward model's run directory.")]
ServerOption = Annotated[
    str | None, typer.Option(metavar="URL", help="An OpenAI-compatible server that has the reward model's adapters.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a field: --set dpo.beta=0.05.")]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Where results go (default: runs/NAME-METHOD).")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Same as --if-exists resume.")]
ExistsOption = Annotated[str, typer.Option("--if-exists", help="raise, resume or overwrite an existing run.")]


@policy_app.command()
def dpo(
    recipe: RecipeArgument,
    reward: RewardOption = None,
    server: ServerOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    if_exists: ExistsOption = "raise",
    as_json: JsonOption = False,
) -> None:
    """One round of DPO on pairs sampled from the policy and labelled in both orders."""
    _execute("dpo", recipe, reward, server, overrides, run_dir, "resume" if resume else if_exists, as_json)


@policy_app.command()
def iterdpo(
    recipe: RecipeArgument,
    reward: RewardOption = None,
    server: ServerOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    if_exists: ExistsOption = "raise",
    as_json: JsonOption = False,
) -> None:
    """Rounds of sampling, labelling and DPO, each from the policy of the round before."""
    _execute("iterdpo", recipe, reward, server, overrides, run_dir, "resume" if resume else if_exists, as_json)


@policy_app.command()
def grpo(
    recipe: RecipeArgument,
    reward: RewardOption = None,
    server: ServerOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    resume: ResumeOption = False,
    if_exists: ExistsOption = "raise",
    as_json: JsonOption = False,
) -> None:
    """Online GRPO: answers that beat the policy's own greedy one pay."""
    _execute("grpo", recipe, reward, server, overrides, run_dir, "resume" if resume else if_exists, as_json)


@policy_app.command()
def report(run: Annotated[Path, typer.Argument(help="A policy run's directory.")]) -> None:
    """Write report.html and report.md of a policy run."""
    from rubric_arm_lite.report import write_policy_report

    for path in write_policy_report(run):
        print(path)


def _execute(
    method: str,
    name: str,
    reward: str | None,
    server: str | None,
    overrides: list[str] | None,
    run_dir: Path | None,
    if_exists: str,
    as_json: bool,
) -> None:
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.recipe import PolicyRecipe, dump_recipe, load_settings, recipe_hash
    from rubric_arm_lite.runs import RunDirectory, explained_disk_errors

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("A policy is trained by one process. Start rubric-arm policy without a launcher.")
    match if_exists:
        case "raise" | "resume" | "overwrite":
            pass
        case _:
            raise ConfigError(f"--if-exists {if_exists}: use raise, resume or overwrite.")
    named = {"run": reward, "server": server}
    given = [f"reward.{field}={json.dumps(value)}" for field, value in named.items() if value is not None]
    recipe = load_settings(PolicyRecipe, name, [*(overrides or []), *given, f"method={method}"])
    target = run_dir or Path("runs") / f"{recipe.name}-{method}"
    for read in recipe.inputs:
        if Path(read).resolve().is_relative_to(target.resolve()):
            raise ConfigError(f"{target} holds {read}, which this run reads. Choose another --run-dir for its results.")
    with explained_disk_errors(target):
        directory = RunDirectory.open(target, dump_recipe(recipe), recipe_hash(recipe), if_exists)
        # The heavy imports come after everything that can be refused without them.
        quiet_libraries()
        from rubric_arm_lite.cli.progress import RichWatcher
        from rubric_arm_lite.report import write_policy_report
        from rubric_arm_lite.training import PolicyRun

        watcher = RichWatcher(err if as_json else out)
        try:
            PolicyRun(recipe, directory, watcher).execute()
        finally:
            watcher.close()
            directory.close()
        html, text = write_policy_report(target)
    if as_json:
        summary = json.loads((target / "summary.json").read_text("utf-8"))
        print_json({"run": str(target), "report": str(html), **summary})
    else:
        out.print(text.read_text("utf-8"), markup=False, highlight=False)
        out.print(f"[bold]Report:[/bold] {escape(str(html))}", highlight=False)
