"""``rubric-arm run``, ``demo`` and ``policy``: train, show the run in the terminal, and print its report at the end.

A terminal shows a live bar; elsewhere there is one line per event, and at least one a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from typer import Argument, Option

from rubric_arm_lite import report as reports
from rubric_arm_lite import training
from rubric_arm_lite.cli import common
from rubric_arm_lite.recipe import PolicyRecipe
from rubric_arm_lite.report.live import duration
from rubric_arm_lite.runs import Progress, explained_disk_errors

policy_app = typer.Typer(help="Train a policy against a finished reward model.", no_args_is_help=True)

METHODS = {
    "dpo": "One round of DPO on pairs sampled from the policy and labeled in both orders.",
    "iterdpo": "Rounds of sampling, labeling and DPO, each from the policy of the round before.",
    "grpo": "Online GRPO: answers that beat the policy's own greedy answer are rewarded.",
}
_SHOWN = ("loss", "reward", "reward/accuracy", "reward/format", "groups/informative", "kl", "tokens/s")


def run(
    recipe: common.RecipeArgument,
    overrides: common.SetOption = None,
    run_dir: Annotated[Path | None, Option(help="Where results go (default: runs/NAME).")] = None,
    stage: Annotated[str | None, Option(help=f"Stop after this stage: {', '.join(training.STAGES)}.")] = None,
    resume: common.ResumeOption = False,
    if_exists: common.ExistsOption = None,
    as_json: common.JsonOption = False,
) -> None:
    """Run a recipe: warm-up, alternating GRPO, evaluation, report."""
    exists = common.exists_policy(resume, if_exists)
    run_and_show(
        lambda progress: training.train(
            recipe, run_dir, overrides=overrides or (), if_exists=exists, until=stage, progress=progress
        ),
        as_json,
    )


def demo(
    overrides: common.SetOption = None,
    run_dir: Annotated[Path, Option(help="Where results go.")] = Path("runs/demo"),
    if_exists: common.ContinueOption = "resume",
    as_json: common.JsonOption = False,
) -> None:
    """The whole method on the embedded world, on a CPU, in minutes; a finished demo is shown again."""
    run("testbed", overrides, run_dir, if_exists=if_exists, as_json=as_json)
    if not as_json:
        common.out.print(
            f"Ask it, in the words of its world: rubric-arm play {run_dir}, or rubric-arm judge {run_dir} --prompt … "
            "--a … --b …; rubric-arm testbed pairs FILE writes prompts and answers."
        )


def _add_policy_verb(method: str, text: str) -> None:
    def verb(
        recipe: Annotated[str, Argument(help="A policy recipe, or the name of a shipped one (testbed).")],
        reward: Annotated[str | None, Option(metavar="RUN", help="The reward model's run directory.")] = None,
        server: Annotated[
            str | None, Option(metavar="URL", help="An OpenAI-compatible server that has the reward model's adapters.")
        ] = None,
        overrides: common.SetOption = None,
        run_dir: Annotated[Path | None, Option(help="Where results go (default: runs/NAME-METHOD).")] = None,
        resume: common.ResumeOption = False,
        if_exists: common.ExistsOption = None,
        as_json: common.JsonOption = False,
    ) -> None:
        exists, sets = common.exists_policy(resume, if_exists), [*(overrides or ()), f"method={method}"]
        run_and_show(
            lambda progress: training.train_policy(
                recipe, run_dir, reward=reward, server=server, overrides=sets, if_exists=exists, progress=progress
            ),
            as_json,
        )

    policy_app.command(method, help=text)(verb)


for _method, _text in METHODS.items():
    _add_policy_verb(_method, _text)


@policy_app.command("report")
def policy_report(run: Annotated[Path, Argument(help="A policy run's directory.")]) -> None:
    """Write report.html and report.md of a policy run."""
    for path in reports.write_policy_report(run):
        common.say(str(path))


def run_and_show(train: Callable[[Progress], training.RunResult], as_json: bool) -> None:
    """Train, then write the run's report and print it or, as JSON, its summary; the main process alone does this."""
    common.quiet_libraries()
    with RichProgress(common.err if as_json else common.out) as progress:
        result = train(progress)
    if not result.main_process:
        return
    policy = isinstance(result.recipe, PolicyRecipe)
    with explained_disk_errors(result.run_dir):
        html, markdown = (reports.write_policy_report if policy else reports.write_report)(result.run_dir)
    if as_json:
        common.print_json({"run": str(result.run_dir), "report": str(html), **result.summary})
    else:
        common.say(markdown.read_text("utf-8"))
        common.out.print("Report: ", style="bold", end="")
        common.out.print(str(html))


class RichProgress(Progress):
    """Shows a bar per stage and a line per result; a context manager.

    Args:
        every: seconds between two lines that say where the stage stands, where no bar can be shown.
    """

    def __init__(self, console: Console, every: float = 60.0) -> None:
        self._console, self._every = console, every
        self._started = self._printed = time.monotonic()
        self._ended = threading.Event()
        self._stage = ""
        self._steps = self._done = 0
        self._first: tuple[float, int] | None = None  # time and steps done at the first step of the stage
        self._last = 0.0  # time of the last step
        self._values: dict[str, float] = {}
        self._task: bars.TaskID | None = None
        columns = ("{task.description:<16}", bars.BarColumn(bar_width=24), bars.MofNCompleteColumn())
        more = (bars.TimeRemainingColumn(), "{task.fields[values]}")
        self._bar = bars.Progress(*columns, *more, console=console, transient=True, disable=not common.is_live(console))

    def __enter__(self) -> RichProgress:
        if not common.is_live(self._console):
            threading.Thread(target=self._print_now_and_then, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._end_stage()
        self._bar.stop()

    def stage(self, name: str, steps: int) -> None:
        """Print the last values of the stage before, and start a bar."""
        self._end_stage()
        self._stage, self._steps, self._done, self._first = name, steps, 0, None
        self._bar.start()
        self._task = self._bar.add_task(name, total=steps, values="")

    def step(self, done: int, values: dict[str, float]) -> None:
        """Move the bar."""
        self._values, self._done = values, done
        self._last = time.monotonic()
        self._first = self._first or (self._last, done)
        if self._task is not None:
            self._bar.update(self._task, completed=done, values=self._line())

    def result(self, name: str, text: str) -> None:
        """Print one line."""
        self._print(f"[bold]{name:<16}[/bold] {escape(text)}")

    def note(self, text: str) -> None:
        """Print one line that is marked as a note."""
        self._print(f"[yellow]note[/yellow] {escape(text)}")

    def _print_now_and_then(self) -> None:
        """Print where the stage stands whenever nothing else was printed for a while, until the end."""
        while not self._ended.wait(max(0.01, self._printed + self._every - time.monotonic())):
            if time.monotonic() - self._printed >= self._every and self._stage:
                self._print(f"{self._stage:<16} step {self._done}/{self._steps}  {self._line()}{self._left()}")

    def _left(self) -> str:
        """About how long the stage still takes; empty before its second step."""
        if self._first is None or self._done <= self._first[1]:
            return ""
        pace = (self._last - self._first[0]) / (self._done - self._first[1])
        seconds = pace * (self._steps - self._done) - (time.monotonic() - self._last)
        return f"  about {duration(max(0.0, seconds))} left"

    def _end_stage(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if self._values:
            self._print(f"{self._stage:<16} {self._line()}")
        self._values = {}

    def _line(self) -> str:
        formats = {"tokens/s": ",.0f"}
        shown = [name for name in _SHOWN if name in self._values]
        return "  ".join(f"{name} {self._values[name]:{formats.get(name, '.3f')}}" for name in shown)

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        time_passed = f"[dim]{time.monotonic() - self._started:5.0f}s[/dim]"
        self._console.print(f"{time_passed} {text}", markup=True, highlight=False)
