"""The command line: thin verbs over the package. Heavy imports happen inside the verb that needs them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from rubric_arm_lite import __version__
from rubric_arm_lite.cli import ask as cli_judge
from rubric_arm_lite.cli import ask as cli_label
from rubric_arm_lite.cli import serve as cli_serve
from rubric_arm_lite.cli.bench import bench_app
from rubric_arm_lite.cli.common import (
    JsonOption,
    StateOption,
    err,
    is_live,
    out,
    print_json,
    quiet_libraries,
)
from rubric_arm_lite.cli.data import data_app
from rubric_arm_lite.cli.evaluate import evaluate
from rubric_arm_lite.cli.policy import policy_app
from rubric_arm_lite.errors import RubricArmError
from rubric_arm_lite.training import STAGES

if TYPE_CHECKING:
    from rubric_arm_lite.runs import IfExists

app = typer.Typer(
    name="rubric-arm",
    help="Learn a rubric generator and a judge from preference pairs, on one GPU or a CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
testbed_app = typer.Typer(help="The embedded preference world and its tiny base.", no_args_is_help=True)
app.add_typer(testbed_app, name="testbed")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(policy_app, name="policy")

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (testbed).")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a field: --set judge.max_steps=5.")]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Where results go (default: runs/NAME).")]
ExistsOption = Annotated[str, typer.Option("--if-exists", help="raise, resume or overwrite an existing run.")]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.")]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    stage: Annotated[str | None, typer.Option(help=f"Stop after this stage: {', '.join(STAGES)}.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Same as --if-exists resume.")] = False,
    if_exists: ExistsOption = "raise",
    as_json: JsonOption = False,
) -> None:
    """Run a recipe: warm-up, alternating GRPO, evaluation, report."""
    _train(recipe, overrides, run_dir, stage, "resume" if resume else if_exists, as_json)


@app.command()
def demo(
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    if_exists: ExistsOption = "resume",
    as_json: JsonOption = False,
) -> None:
    """The whole method on the embedded world, on a CPU, in minutes; a finished demo is shown again."""
    folder = run_dir or Path("runs") / "demo"
    _train("testbed", overrides, folder, None, if_exists, as_json)
    if not as_json:
        out.print(
            f"Ask it, in the words of its world: rubric-arm play {folder}, or rubric-arm judge {folder} --prompt … "
            "--a … --b …; rubric-arm testbed pairs FILE writes prompts and answers.",
            markup=False,
            highlight=False,
        )


app.command()(cli_judge.rubric)
app.command()(cli_judge.judge)
app.command()(cli_judge.score)
app.command()(evaluate)


app.command()(cli_label.label)
app.command()(cli_serve.serve)
app.command()(cli_serve.play)


@app.command()
def report(run: RunArgument) -> None:
    """Write report.html and report.md of a run."""
    from rubric_arm_lite.report import write_report

    for path in write_report(run):
        print(path)


@app.command("show-recipe")
def show_recipe(recipe: RecipeArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Print a recipe in full: what it says, what it extends, and every default."""
    from rubric_arm_lite.recipe import dump_recipe, load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if as_json:
        print_json(loaded.model_dump(mode="json"))
    else:
        print(dump_recipe(loaded), end="")


@app.command()
def export(
    run: RunArgument,
    target: Annotated[Path, typer.Argument(help="A new folder; gets one subfolder per role.")],
    merge: Annotated[bool, typer.Option("--merge", help="Full checkpoints in place of adapters.")] = False,
    state: StateOption = "final",
) -> None:
    """Write both adapters with model cards, or merged into their base."""
    quiet_libraries()
    from rubric_arm_lite.reward_model.export import export as write

    for folder in write(run, target, state, merge):
        out.print(str(folder), highlight=False)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="What rubric-arm export wrote, or one role's folder in it.")],
    repo: Annotated[str, typer.Argument(help="The Hub's repository, owner/name.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is private otherwise.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent.")] = False,
) -> None:
    """Upload an export to the Hub."""
    from rubric_arm_lite.reward_model.export import check_repo, files_of
    from rubric_arm_lite.reward_model.export import push as send

    if dry_run:
        check_repo(repo)
        files = files_of(folder)
        for file in files:
            out.print(f"{file.stat().st_size:>12,}  {escape(file.relative_to(folder).as_posix())}", highlight=False)
        out.print(f"{len(files)} files would go to {repo}.", highlight=False)
    else:
        out.print(send(folder, repo, private=not public), highlight=False)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """What this machine has, and which shipped recipes can run on it."""
    from rubric_arm_lite.cli.plan import examine, show_machine

    found = examine()
    if as_json:
        print_json(found)
    else:
        show_machine(found, out)


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    gpu_gb: Annotated[float | None, typer.Option(help="Card to plan for, in GiB (default: this machine's).")] = None,
    prompt_length: Annotated[int | None, typer.Option(help="Longest prompt, if shorter than the context.")] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="A measured speed of writing, for hours.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Memory of every stage, whether it fits and what to change if not; loads no model."""
    from rubric_arm_lite.cli import plan as plan_table
    from rubric_arm_lite.recipe import load_recipe
    from rubric_arm_lite.training import plan_for

    loaded = load_recipe(recipe, overrides or [])
    made = plan_for(loaded, gpu_gb, prompt_length)
    if as_json:
        print_json(plan_table.as_json(loaded, made, tokens_per_second))
    else:
        plan_table.show(loaded, made, tokens_per_second, out)


@testbed_app.command("build")
def testbed_build(
    folder: Annotated[Path, typer.Argument(help="Where the base goes.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps (default: as many as the shipped base).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the base.")] = 0,
) -> None:
    """Train the tiny base anew (minutes on a CPU); deterministic for a seed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from rubric_arm_lite.data.testbed.build import BuildSettings, build
    from rubric_arm_lite.errors import CheckpointError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty. Choose a new folder.")
    settings = BuildSettings(seed=seed) if steps is None else BuildSettings(seed=seed, steps=steps)
    columns = (TextColumn("base"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not is_live(err)) as bar:
        task = bar.add_task("base", total=settings.steps, loss=0.0)
        build(folder, settings, lambda step, loss: bar.update(task, completed=step, loss=loss))
    print(folder)


@testbed_app.command("pairs")
def testbed_pairs(
    target: Annotated[Path, typer.Argument(help="JSONL to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    prompts: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 100,
) -> None:
    """Write preference pairs of a world as JSONL, the form in which your own data is read."""
    from rubric_arm_lite.data.testbed.world import World
    from rubric_arm_lite.errors import DataError
    from rubric_arm_lite.recipe import load_recipe
    from rubric_arm_lite.runs import atomic_write

    world = World(seed, load_recipe("testbed").data.world)
    try:
        blocks = world.blocks(split, prompts)
    except ValueError as error:
        raise DataError(str(error)) from error
    rows = [
        {
            "id": pair.pair_id,
            "prompt": pair.prompt,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "source": "testbed",
        }
        for block in blocks
        for pair in block.pairs
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, "".join(json.dumps(row) + "\n" for row in rows).encode())
    print(f"{len(rows)} pairs written to {target}")


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


_AFTER_INTERRUPTION = {
    "run": " What was committed is kept; continue with --resume.",
    "evaluate": " Benchmarks that were begun are kept; continue with --resume.",
    "demo": " What was committed is kept; the same command continues.",
    "label": " What was judged is kept; the same command continues.",
    "data synthesize": " What was written is kept; the same command continues.",
}
"""What a reader should know of verbs that keep unfinished work."""


def _verb() -> str:
    """The verb of this process's command line, with that of a group behind it."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    group = bool(words) and words[0] in ("data", "policy", "testbed")
    return " ".join(words[: 2 if group else 1])


def main() -> None:
    """Entry point: one clear line for every error a user can mend, exit code 2; 130 for Ctrl-C."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Sequences of every length come and go; in segments that grow, their memory on a GPU does not fall to pieces.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    try:
        app(standalone_mode=True)
    except RubricArmError as error:
        err.print("[red]error:[/red] ", end="")
        err.print(str(error), markup=False, highlight=False)
        raise SystemExit(2) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        err.print("[red]error:[/red] ", end="")
        err.print(
            f"{place}{error.strerror or error}. Check the path and its permissions.", markup=False, highlight=False
        )
        raise SystemExit(2) from None
    except SystemExit as stop:
        if stop.code == 130:
            err.print(f"\nInterrupted.{_AFTER_INTERRUPTION.get(_verb(), '')}")
        raise


# --- helpers ----------------------------------------------------------------------------------------------------


def _train(
    recipe: str, overrides: list[str] | None, run_dir: Path | None, until: str | None, if_exists: str, as_json: bool
) -> None:
    from rubric_arm_lite.cli.progress import RichProgress, show_result
    from rubric_arm_lite.training import train

    quiet_libraries()
    exists: IfExists = if_exists  # type: ignore[assignment]  # train checks it
    with RichProgress(err if as_json else out) as progress:
        result = train(recipe, run_dir, overrides=overrides or (), if_exists=exists, until=until, progress=progress)
    show_result(result, as_json)
