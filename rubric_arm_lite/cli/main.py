"""The ``rubric-arm`` command: short verbs over the API. Each verb imports the heavy libraries it needs by itself."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from rubric_arm_lite import __version__, reward_model, training
from rubric_arm_lite import report as reports
from rubric_arm_lite.cli import ask, common, lab, train
from rubric_arm_lite.cli.data import data_app
from rubric_arm_lite.cli.evaluate import bench_app, evaluate
from rubric_arm_lite.cli.watch import watch
from rubric_arm_lite.data.pairs import pair_as_row
from rubric_arm_lite.data.testbed import make_world
from rubric_arm_lite.errors import CheckpointError, DataError, RubricArmError
from rubric_arm_lite.recipe import WORLDS, dump_recipe, explain_recipe, load_any_recipe, load_recipe
from rubric_arm_lite.runs import atomic_write, check_target, explained_disk_errors, package_commit

app = typer.Typer(
    name="rubric-arm",
    help="Learn a rubric generator and a judge from preference pairs, on one GPU or a CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
testbed_app = typer.Typer(help="The synthetic preference worlds, and the tiny base of one.", no_args_is_help=True)
_groups = {"testbed": testbed_app, "data": data_app, "bench": bench_app, "policy": train.policy_app}
for _name, _group in {**_groups, "probe": lab.probe_app}.items():
    app.add_typer(_group, name=_name)
for _verb in (train.run, train.demo, watch, ask.rubric, ask.judge, ask.score, evaluate, ask.label, ask.serve, ask.play):
    app.command()(_verb)
app.command()(lab.sweep)
app.command()(lab.compare)
app.command("cross-play")(lab.cross_play)


@app.command()
def report(run: Annotated[Path, Argument(help="A run directory.")]) -> None:
    """Write report.html and report.md of a reward model's run."""
    for path in reports.write_report(run):
        common.say(str(path))


@app.command("show-recipe")
def show_recipe(
    recipe: common.RecipeArgument,
    overrides: common.SetOption = None,
    explain: Annotated[bool, Option("--explain", help="Print each field's line of documentation, too.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Print every field of a recipe (policy/NAME for a policy's): its own, those it extends, and the defaults."""
    loaded = load_any_recipe(recipe, overrides or [])
    text = "\n".join(explain_recipe(loaded)) if explain else dump_recipe(loaded).rstrip("\n")
    common.print_result(loaded.model_dump(mode="json"), as_json, lambda: common.say(text))


@app.command()
def export(
    run: Annotated[Path, Argument(metavar="RUN", help="A run directory.")],
    target: Annotated[Path, Argument(help="A new folder; gets one subfolder per role.")],
    state: common.StateOption = "final",
    merge: Annotated[bool, Option("--merge", help="Write full checkpoints in place of adapters.")] = False,
) -> None:
    """Write both adapters with model cards, or merged into their base."""
    common.quiet_libraries()
    for folder in reward_model.export_run(run, target, state, merge):
        common.say(str(folder))


@app.command()
def push(
    folder: Annotated[Path, Argument(help="A folder that rubric-arm export wrote, or one role's folder in it.")],
    repo: Annotated[str, Argument(help="Repository on the Hub, owner/name.")],
    public: Annotated[bool, Option("--public", help="Make a new repository public (default: private).")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="List the files without uploading them.")] = False,
) -> None:
    """Upload an export to the Hub."""
    if not dry_run:
        common.say(reward_model.push_to_hub(folder, repo, private=not public))
        return
    files = reward_model.files_to_push(folder, repo)
    for file in files:
        common.say(f"{file.stat().st_size:>12,}  {file.relative_to(folder).as_posix()}")
    common.say(f"{len(files)} files would go to {repo}.")


@app.command()
def doctor(
    recipe: Annotated[str | None, Argument(help="A file or a shipped recipe (default: all shipped ones).")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Show this machine's hardware and which recipes can run on it."""
    from rubric_arm_lite.cli import plan as plans

    common.quiet_libraries()
    machine = plans.examine(recipe)
    common.print_result(machine, as_json, lambda: plans.show_machine(machine, common.out))


@app.command()
def plan(
    recipe: common.RecipeArgument,
    overrides: common.SetOption = None,
    gpu_gb: Annotated[float | None, Option(help="Card to plan for, in GiB (default: this machine's).")] = None,
    prompt_length: Annotated[int | None, Option(help="Longest prompt, if shorter than the context.")] = None,
    tokens_per_second: Annotated[float | None, Option(help="Measured generation speed, for hours.")] = None,
    measure: Annotated[bool, Option("--measure", help="Load the base and time a step of every stage here.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Show the memory of every stage of a reward model's recipe, what to change if it does not fit, and its length."""
    from rubric_arm_lite.cli import plan as plans

    common.quiet_libraries()
    loaded = load_recipe(recipe, overrides or [])
    if measure:
        common.import_first(loaded)
    memory = training.plan_for(loaded, gpu_gb, prompt_length)
    measured = None
    if measure:
        from rubric_arm_lite.cli.train import RichProgress

        with RichProgress(common.err) as progress:
            measured = training.measure_run(loaded, progress)
    value = plans.as_json(loaded, memory, tokens_per_second, measured)
    common.print_result(value, as_json, lambda: plans.show(loaded, memory, tokens_per_second, common.out, measured))


@testbed_app.command("build")
def testbed_build(
    folder: Annotated[Path, Argument(help="A new folder for the base model.")],
    steps: Annotated[int | None, Option(min=1, help="Training steps (default: as many as the shipped base).")] = None,
    seed: Annotated[int, Option(help="Seed of the base.")] = 0,
) -> None:
    """Train the tiny base model again (minutes on a CPU); deterministic for a seed."""
    base = common.from_checkout("testbed_base.build", "testbed build")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty. Choose a new folder.")
    settings = base.BuildSettings(seed=seed, **({} if steps is None else {"steps": steps}))
    with common.progress_bar("base", "loss {task.fields[loss]:.3f}") as bar:
        task = bar.add_task("base", total=settings.steps, loss=0.0)
        base.build(folder, settings, lambda step, loss: bar.update(task, completed=step, loss=loss))
    common.say(str(folder))


@testbed_app.command("pairs")
def testbed_pairs(
    target: Annotated[Path, Argument(help="JSONL file to write.")],
    seed: Annotated[int, Option(help="Seed of the world.")] = 0,
    split: Annotated[str, Option(help="train, validation or test.")] = "test",
    prompts: Annotated[int, Option(min=1, help="Number of prompts.")] = 100,
    world: Annotated[str, Option(help="testbed (words of its own) or english.")] = "testbed",
    overwrite: common.OverwriteOption = False,
) -> None:
    """Write preference pairs of a synthetic world as JSONL, in the format of your own data."""
    check_target(None, target, overwrite)
    made = make_world(load_recipe("testbed").data.model_copy(update={"source": world}), seed)
    if made is None:
        raise DataError(f"--world {world}: there is no such world. Use {' or '.join(WORLDS)}.")
    pairs = [replace(p, source=world, subset="") for block in made.blocks(split, prompts) for p in block.pairs]
    atomic_write(target, "".join(json.dumps(pair_as_row(pair)) + "\n" for pair in pairs).encode())
    common.say(f"{len(pairs)} pairs written to {target}")


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, Option("--version", help="Print the version and its git commit, if known.")] = False,
) -> None:
    if version:
        commit = package_commit()
        print(f"{__version__} (commit {commit})" if commit else __version__)
        raise typer.Exit


_AFTER_INTERRUPTION = {
    "run": " What was committed is kept; continue with --resume.",
    "policy": " What was committed is kept; continue with --resume.",
    "evaluate": " Finished items of the benchmarks are kept; continue with --resume.",
    "sweep": " What was committed is kept; the same command continues.",
    "demo": " What was committed is kept; the same command continues.",
    "label": " What was judged is kept; the same command continues.",
    "data synthesize": " The teacher's answers are kept; the same command continues.",
}
"""How to continue, for the verbs that keep unfinished work."""


def main() -> None:
    """Run the command line: a user's mistake prints one error and exits with 2, Ctrl-C exits with 130."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = lambda message, *_, **__: common.warn(str(message))  # one line, without our source
    # Sequence lengths vary from step to step; expandable segments keep a GPU's memory from fragmenting.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    try:
        with explained_disk_errors(None, "call it again"):
            app(standalone_mode=True)
    except (RubricArmError, OSError) as error:
        message = str(error)
        if not isinstance(error, RubricArmError):
            place = f"{error.filename}: " if error.filename else ""
            message = f"{place}{error.strerror or error}. Check the path and its permissions."
        common.err.print("error: ", style="red", end="")
        common.err.print(message)
        raise SystemExit(2) from None
    except SystemExit as stop:
        if stop.code == 130:
            words = [word for word in sys.argv[1:] if not word.startswith("-")]
            verb = " ".join(words[: 2 if words[:1] == ["data"] else 1])
            common.err.print(f"\nInterrupted.{_AFTER_INTERRUPTION.get(verb, '')}")
        raise
