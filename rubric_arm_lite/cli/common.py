"""Options, output and model loading that the verbs of the command line share."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_type_hints

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from typer import Argument, Option

from rubric_arm_lite import models, reward_model
from rubric_arm_lite.errors import ConfigError, clean
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.report import safe_json, safe_text
from rubric_arm_lite.runs import IfExists, recipe_of


class SafeConsole(Console):
    """A console to which no text can send control sequences: texts of models and of data are hostile.

    Texts are shown as they are: brackets are no markup, and words between colons are no emoji.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Every text that is printed, also in a table, comes through here."""
        return super().render_str(safe_text(text), **options)


out = SafeConsole()
err = SafeConsole(stderr=True)

RecipeArgument = Annotated[str, Argument(help="A recipe file, or the name of a shipped one (testbed).")]
SetOption = Annotated[list[str] | None, Option("--set", help="Override a field: --set judge.max_steps=5.")]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object on standard output, nothing else.")]
OverwriteOption = Annotated[bool, Option("--overwrite", help="Replace an existing file.")]
ControlTokenOption = Annotated[
    list[str] | None, Option(help="A control token of the server's model, beside those of common families; repeatable.")
]
ResumeOption = Annotated[bool, Option("--resume", help="Same as --if-exists resume.")]
ExistsOption = Annotated[IfExists | None, Option(help="What to do with earlier results (default: raise).")]
ContinueOption = Annotated[IfExists, Option("--if-exists", help="What to do with earlier results.")]
StateOption = Annotated[
    str, Option(help="Adapters: final, warm-up, latest, or a kept checkpoint such as state-000012.")
]
RubricFromOption = Annotated[
    str | None, Option(metavar="RUN[@STATE]", help="Take the rubric generator from this run (same base).")
]
JudgeFromOption = Annotated[str | None, Option(metavar="RUN[@STATE]", help="Take the judge from this run (same base).")]


def exists_policy(resume: bool, if_exists: IfExists | None) -> IfExists:
    """What ``--resume`` and ``--if-exists`` say together.

    Raises:
        ConfigError: if they differ.
    """
    if resume and if_exists not in (None, "resume"):
        raise ConfigError(f"--resume and --if-exists {if_exists} differ. Give one of them.")
    return "resume" if resume else if_exists or "raise"


VALUES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("values.json").read_text("utf-8"))
"""How each value of an ``evaluation`` or a ``survey`` is printed, a key of ``_FORMS``, and what it means; titles and
formats of the columns of ``bench inference``."""
_FORMS = {"share": ".1%", "points": ".1%", "count": ",.0f", "number": ",.1f", "margin": "+.2f"}
"""A share in percent, a difference of shares, a whole number, a mean, or a difference of scores with its sign."""


@dataclass(frozen=True)
class LocalSource:
    """A reward model on this machine: a run's adapters, or the full checkpoints that a recipe names."""

    run: Annotated[Path, Argument(metavar="RUN", help="A run directory; or a recipe with checkpoints (released-8b).")]
    state: StateOption = "final"
    rubric_from: RubricFromOption = None
    judge_from: JudgeFromOption = None

    @property
    def swapped(self) -> bool:
        """Whether a role's adapter comes from another run."""
        return self.rubric_from is not None or self.judge_from is not None

    def load(self) -> reward_model.RubricRewardModel:
        """Load the reward model.

        Raises:
            CheckpointError: if ``run`` is neither a run directory nor a recipe, or has no such state, or an adapter of
                another run does not fit.
            ConfigError: if the recipe cannot be used, is not trained, or names full checkpoints, which have no states.
        """
        recipe = recipe_of(self.run)
        if self.run.is_dir():
            import_first(recipe)
            quiet_libraries()
            return reward_model.RubricRewardModel.from_run(
                self.run, self.state, rubric_from=self.rubric_from, judge_from=self.judge_from
            )
        if recipe.model.checkpoints is None:
            raise ConfigError(
                f"{self.run} is a recipe, and nothing is trained by it yet. Train it with rubric-arm run {self.run}, "
                f"then name the run directory, runs/{recipe.name}."
            )
        if self.state != "final":
            raise ConfigError(f"--state {self.state} is for the adapters of a run; full checkpoints have one state.")
        if self.swapped:
            raise ConfigError(
                f"{self.run} names full checkpoints, which take no adapters. Give --rubric-from and --judge-from with "
                "a run directory."
            )
        quiet_libraries()
        return reward_model.RubricRewardModel.from_recipe(recipe)


@dataclass(frozen=True)
class ServerOptions:
    """An OpenAI-compatible server in place of a model on this machine."""

    server: Annotated[
        str | None, Option(metavar="URL", help="An OpenAI-compatible server; no model is loaded here.")
    ] = None
    rubric_model: Annotated[str | None, Option(help="Its name of the generator (default: rubric).")] = None
    judge_model: Annotated[str | None, Option(help="Its name of the judge (default: judge).")] = None
    server_key_env: Annotated[str | None, Option(help="Variable that holds its key (default: OPENAI_API_KEY).")] = None
    concurrency: Annotated[int | None, Option(min=1, help="Requests to it at a time (default: 32).")] = None
    control_token: ControlTokenOption = None

    def settings(self, state: str = "final", base_model: str | None = None) -> models.ServerSettings | None:
        """How to reach the server; None without one.

        Raises:
            ConfigError: if there are options of a server and no server, or a server and a ``state`` of adapters.
        """
        names = {"rubric_model": self.rubric_model, "judge_model": self.judge_model, "base_model": base_model}
        values = {"api_key_env": self.server_key_env, "concurrency": self.concurrency}
        options: dict[str, Any] = {**names, **values, "control_tokens": self.control_token}
        options = {name: value for name, value in options.items() if value is not None}
        if self.server is None:
            if options:
                raise ConfigError(
                    "Names of models on a server, --server-key-env, --concurrency and --control-token belong to a "
                    "server. Give --server."
                )
            return None
        if state != "final":
            raise ConfigError(
                f"--state {state} is for adapters on this machine. A server has what it was started with: choose it by "
                "--rubric-model and --judge-model."
            )
        return models.ServerSettings(self.server, **options)


@dataclass(frozen=True)
class ModelSource(ServerOptions, LocalSource):
    """A reward model on this machine or behind an OpenAI-compatible server."""

    def __post_init__(self) -> None:
        """Refuse options that do not go together, before anything is read or loaded."""
        if self.settings(self.state) is not None and self.swapped:
            raise ConfigError(
                "--rubric-from and --judge-from are for adapters on this machine. Choose a server's models by "
                "--rubric-model and --judge-model."
            )

    def load(self) -> reward_model.RubricRewardModel:
        """Load the reward model, or connect to the server, which loads nothing here."""
        settings = self.settings(self.state)
        if settings is None:
            return super().load()
        return reward_model.RubricRewardModel.from_server(settings, recipe_of(self.run))


def with_source(verb: Callable[..., None]) -> Callable[..., None]:
    """Show Typer the fields of a verb's first parameter, a dataclass, as arguments and options of the verb.

    Fields without a default become arguments before the verb's own; the others become options after them. So
    ``def rubric(source: ModelSource, prompt: …)`` has RUN, PROMPT, --state, --server and so on. A parameter of the verb
    that begins with an underscore is for other verbs that call it, and not shown.
    """
    source, *own = _parameters(verb)
    fields = _parameters(source.annotation)
    required = [field for field in fields if field.default is field.empty]
    options = [parameter for parameter in own if not parameter.name.startswith("_")]
    shown = [*required, *options, *(field for field in fields if field not in required)]

    @functools.wraps(verb)
    def call(**values: Any) -> None:
        model = source.annotation(**{field.name: values.pop(field.name) for field in fields})
        verb(model, **values)

    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return call


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function or dataclass as keywords, with their annotations evaluated."""
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]


def is_live(console: Console) -> bool:
    """Whether a bar can be redrawn in place. A notebook's kernel sets FORCE_COLOR, which alone makes no terminal.

    A cell that runs a command with ``!`` gives it a terminal that cannot move its cursor; our notebooks say so (TERM).
    """
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def print_json(value: Any) -> None:
    """Print one JSON value on standard output."""
    print(safe_json(json.dumps(value, ensure_ascii=False, indent=1)))


def say(text: str = "", end: str = "\n", flush: bool = False) -> None:
    """Print a text on standard output as it is, but for control characters."""
    print(safe_text(text), end=end, flush=flush)


def print_result(value: Any, as_json: bool, show: Callable[[], object]) -> None:
    """Print ``value`` as JSON for programs, or call ``show``, which prints it for people."""
    if as_json:
        print_json(value)
    else:
        show()


def warn(message: str) -> None:
    """Print a warning on standard error."""
    err.print(message, style="yellow")


def explained(kind: str, name: str, value: float) -> tuple[str, str]:
    """A value of an ``evaluation`` or a ``survey`` as text, and what it means."""
    form, meaning = VALUES[kind][name]
    return f"{value:{_FORMS[form]}}".replace("%", " points" if form == "points" else "%"), meaning


def progress_bar(name: str, *columns: str | ProgressColumn) -> Progress:
    """A bar on standard error that disappears when it is closed; a text among the columns is a format of the task."""
    parts = (TextColumn(name), BarColumn(), *columns, TimeRemainingColumn())
    return Progress(*parts, console=err, transient=True, disable=not is_live(err))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *rows)]


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice off the screen; errors still come through."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if "transformers" in sys.modules:  # otherwise it reads the variables above when it is imported
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()


def import_first(recipe: Recipe) -> None:
    """Import what patches other libraries before those are imported."""
    if recipe.model.backend == "unsloth":
        from rubric_arm_lite.models.unsloth import prepare

        prepare()


def warn_unknown_words(model: reward_model.RubricRewardModel, *texts: str) -> None:
    """Name the words that a word-level tokenizer does not know and therefore cannot read."""
    words = model.unknown_words(*texts)
    if words:
        warn(f"This base does not know: {clean(', '.join(words[:12]))}. It reads them as blanks.")


def from_checkout(module: str, verb: str) -> ModuleType:
    """A module of ``benchmarks/``, which is part of the repository and not of the installed package.

    Raises:
        ConfigError: if this is not a checkout.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks" / "against_trl").is_dir():
        raise ConfigError(
            f"rubric-arm {verb} is not part of the installed package. Clone the repository, run `pip install -e .` in "
            "it, and call it again."
        )
    sys.path.insert(0, str(checkout))
    return importlib.import_module(f"benchmarks.{module}")
