"""The laboratory: ``rubric-arm sweep``, ``compare``, ``cross-play`` and ``probe variance``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from typer import Argument, Option

from rubric_arm_lite import data, evaluation, training
from rubric_arm_lite import report as reports
from rubric_arm_lite.cli import common
from rubric_arm_lite.recipe import load_sweep
from rubric_arm_lite.report.live import duration
from rubric_arm_lite.runs import Progress, check_target, explained_disk_errors, recipe_of_run, run_and_state, states_of


def sweep(
    source: Annotated[
        str, Argument(metavar="SWEEP", help="A sweep's YAML file, a shipped sweep (order), or a recipe.")
    ],
    grid: Annotated[
        list[str] | None, Option(metavar="FIELD=V,V", help="Values of a field to compare; repeatable.")
    ] = None,
    overrides: common.SetOption = None,
    seeds: Annotated[str | None, Option(help="Number of seeds, or seeds with commas: 3,4,5.")] = None,
    jobs: Annotated[int | None, Option(min=1, help="Runs at a time (default: by GPUs, or cores).")] = None,
    out: Annotated[Path | None, Option(help="A new folder, or that of this sweep (default: runs/NAME).")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Run every arm of a comparison with several seeds from shared warm-ups; a killed sweep continues."""
    settings = load_sweep(source, grid or (), overrides or (), seeds)
    common.quiet_libraries()
    with SweepBar(common.err if as_json else common.out) as bar:
        result = training.sweep(settings, out, jobs=jobs, progress=bar)
    with explained_disk_errors(result.folder):
        for run in result.runs:
            if not (run.path / "report.html").exists():
                reports.write_report(run.path)
    rows = [{"arm": run.arm, "seed": run.seed, "run": str(run.path), **run.summary} for run in result.runs]
    common.print_result({"sweep": str(result.folder), "runs": rows}, as_json, lambda: compare([result.folder]))


def compare(
    runs: Annotated[list[Path], Argument(metavar="RUN…", help="Run directories, or folders of sweeps.")],
    baseline: Annotated[str | None, Option(help="The arm that others are tested against (default: the first).")] = None,
    out: Annotated[Path | None, Option(help="Folder to write to (default: the sweep, or comparison).")] = None,
    overwrite: common.OverwriteOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Compare arms over seeds: spread, paired tests, learning curves, cost, and what differs in the recipes."""
    is_sweep = len(runs) == 1 and (runs[0] / training.SWEEP).is_file()
    folder = out or (runs[0] if is_sweep else Path("comparison"))
    for name in reports.COMPARISON_FILES:  # a sweep's own comparison follows its runs
        check_target(None, folder / name, overwrite or folder == runs[0])
    with explained_disk_errors(folder):
        comparison, files = reports.write_comparison(runs, folder, baseline)
    for note in comparison.notes if as_json else ():
        common.warn(note)
    markdown = next(file for file in files if file.suffix == ".md")
    common.print_result(comparison.as_json(), as_json, lambda: common.say(markdown.read_text("utf-8")))
    common.err.print(f"Written: {', '.join(map(str, files))}")


class SweepBar(Progress):
    """Shows the runs of a sweep and the time left: a bar in a terminal, a line per finished run elsewhere, too."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._left = ""
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bar = bars.Progress(*columns, console=console, transient=True, disable=not common.is_live(console))
        self._runs = 0

    def __enter__(self) -> SweepBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def stage(self, name: str, steps: int) -> None:
        """Start the bar."""
        self._runs = steps
        self._bar.start()
        self._bar.add_task(name, total=1.0, text="")

    def step(self, done: int, values: dict[str, float]) -> None:
        """Move the bar."""
        self._left = f", about {duration(values['left'])} left" if values.get("left", 0.0) > 0 else ""
        text = f"{done} of {self._runs} runs{self._left}"
        self._bar.update(self._bar.task_ids[0], completed=values["done"], text=text)

    def result(self, name: str, text: str) -> None:
        """Print one line."""
        self._console.print(f"{name}: {text}{self._left}")

    def note(self, text: str) -> None:
        """Print one line that is marked as a note."""
        self._console.print(f"note: {text}", style="yellow")


def cross_play(
    runs: Annotated[list[str], Argument(metavar="RUN…", help="Run directories, or RUN@STATE for one state of a run.")],
    pairs: Annotated[Path | None, Option(help="Pairs to judge (default: those that the first run holds out).")] = None,
    limit: Annotated[int | None, Option(min=1, help="At most this many pairs.")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Accuracy of each rubric generator of some runs with each judge: warm-up, kept checkpoints, final adapters."""
    given = None if pairs is None else data.load_pairs(pairs)
    common.import_first(recipe_of_run(run_and_state(runs[0], "")[0]))
    common.quiet_libraries()
    with common.progress_bar("cross-play", MofNCompleteColumn()) as bar:
        task = bar.add_task("cross-play", total=None)
        played = evaluation.cross_play(
            runs, given, limit, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for note in played.notes if as_json else ():
        common.warn(note)
    common.print_result(asdict(played), as_json, lambda: common.say(cross_play_text(played)))


def cross_play_text(played: evaluation.CrossPlay) -> str:
    """The matrix of accuracies in percent, and what it says about adapters that were trained together."""
    header = ("rubrics \\ judge", *played.judges)
    partners = set(played.partners)
    rows = [
        (name, *(f"{100 * cell['accuracy']:.1f}{'*' * ((i, j) in partners)}" for j, cell in enumerate(row)))
        for i, (name, row) in enumerate(zip(played.generators, played.cells, strict=True))
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in (header, *rows)
    ]
    text = [
        f"Accuracy in percent on {played.pairs} pairs, both orders; * marks adapters of one state of a run.",
        "\n".join(lines),
    ]
    if played.co_adaptation is not None:
        mean, low, high = (f"{100 * value:+.1f}" for value in played.co_adaptation)
        text.append(
            f"Co-adaptation: with its own partner an adapter is {mean} points (95% interval {low} to {high}) above "
            "what the means of its row and column add up to."
        )
    return "\n\n".join([*text, *played.notes])


# --- probe ----------------------------------------------------------------------------------------------------------

probe_app = typer.Typer(help="Measure what the method's theory assumes on a trained model.", no_args_is_help=True)


@probe_app.callback()
def _probe() -> None:
    """Keep ``variance`` a verb of its own, as other probes may follow."""


@probe_app.command()
def variance(
    run: Annotated[Path, Argument(metavar="RUN", help="A run directory.")],
    state: Annotated[list[str] | None, Option(help="A state of the run, repeatable (default: all).")] = None,
    pairs: Annotated[int, Option(min=1, help="Held-out pairs, of different prompts.")] = 16,
    rubrics: Annotated[int, Option(min=2, help="Rubrics sampled for each prompt.")] = 16,
    as_json: common.JsonOption = False,
) -> None:
    """Gradient variances of both roles (Theorem 5.5) in the states of a run, and whether assumption 5.3 holds."""
    common.import_first(recipe_of_run(run))
    common.quiet_libraries()
    probes = []
    with common.progress_bar("probe", TextColumn("{task.description}"), MofNCompleteColumn()) as bar:

        def show(done: int, total: int) -> None:
            bar.update(bar.task_ids[-1], completed=done, total=total)

        for name in state or states_of(run):
            bar.add_task(name, total=None)
            probes.append(training.probe_variance(run, name, pairs, rubrics, show))
    rows = [finite({**asdict(probe), "intervals": dict(probe.intervals)}) for probe in probes]
    common.print_result(rows, as_json, lambda: common.say(variance_text(probes)))


def finite(value: Any) -> Any:
    """JSON values in which an infinite number is null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_VARIANCE_ROWS = {
    "p": "p, right verdicts",
    "judge_variance": "E[Var(g_A | r)]",
    "generator_variance": "Var(g_B) = I + II",
    "reward_noise": "  I, reward noise",
    "inconsistency": "  II, across rubrics",
    "difference": "Var(g_B) - E[Var(g_A | r)]",
    "c1": "C1",
    "norm_ratio": "5.3 left: |u_r| / |u_j|",
    "norm_bound": "5.3 right",
}


def variance_text(probes: Sequence[training.VarianceProbe]) -> str:
    """A column per state: each quantity with its interval, and the shares of pairs for which the statements hold."""
    header = ["", *(probe.state for probe in probes)]
    table = [header]
    for name, title in _VARIANCE_ROWS.items():
        cells = []
        for probe in probes:
            low, high = probe.intervals.get(name, (math.nan, math.nan))
            interval = "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
            cells.append(f"{probe.values[name]:.3g}{interval}")
        table.append([title, *cells])
    table.append(["5.3 holds, pairs", *(f"{probe.assumption:.0%}" for probe in probes)])
    table.append(["Var(g_B) larger, pairs", *(f"{probe.inequality:.0%}" for probe in probes)])
    table.append(["rubrics without verdict", *(f"{probe.unread:.0%}" for probe in probes)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    first = probes[0]
    note = (
        f"Means over {first.pairs} pairs with {first.rubrics} rubrics each, and 95% intervals over pairs. The verdict "
        "is enumerated after the judge's greedy analysis; estimators are without baseline, as in the paper's section 5."
    )
    return "\n".join([*lines, "", note])
