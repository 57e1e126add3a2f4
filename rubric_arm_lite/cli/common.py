"""What the modules of the command line share: where they print, what they load, and how loud libraries may be."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rubric_arm_lite.models import ServerSettings
    from rubric_arm_lite.recipe import Recipe
    from rubric_arm_lite.reward_model import RubricRewardModel

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def is_live(console: Console) -> bool:
    """Whether a bar can be redrawn in place. A notebook's kernel sets FORCE_COLOR, which alone makes no terminal."""
    return console.is_terminal and console.file.isatty()


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def quiet_libraries() -> None:
    """Keep progress bars and advice of the libraries off the screen; errors still come through."""
    import logging
    import warnings

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


def server_of(
    url: str | None,
    state: str,
    rubric_model: str | None,
    judge_model: str | None,
    key_env: str | None,
    concurrency: int | None = None,
) -> ServerSettings | None:
    """The server that the options name, if they name one."""
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.models import ServerSettings

    given = {
        "rubric_model": rubric_model,
        "judge_model": judge_model,
        "api_key_env": key_env,
        "concurrency": concurrency,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if url is None:
        if chosen:
            raise ConfigError(
                "--rubric-model, --judge-model, --server-key-env and --concurrency belong to a server. Give --server."
            )
        return None
    if state != "final":
        raise ConfigError(
            f"--state {state} is for adapters on this machine. A server has what it was started with: choose it by "
            "--rubric-model and --judge-model."
        )
    return ServerSettings(url, **chosen)


def load_run(run: Path, state: str, server: ServerSettings | None) -> RubricRewardModel:
    """The reward model of a run or of a recipe's checkpoints, on this machine or behind the server."""
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.reward_model import RubricRewardModel
    from rubric_arm_lite.runs import recipe_of

    recipe = recipe_of(run)
    if server is not None:
        return RubricRewardModel.from_server(server, recipe)
    if not run.is_dir() and recipe.model.checkpoints is not None:
        if state != "final":
            raise ConfigError(f"--state {state} is for the adapters of a run; full checkpoints have one state.")
        quiet_libraries()
        return RubricRewardModel.from_recipe(recipe)
    import_first(recipe)
    quiet_libraries()
    return RubricRewardModel.from_run(run, state)


def import_first(recipe: Recipe) -> None:
    """What patches other libraries, before those are imported."""
    if recipe.model.backend == "unsloth":
        from rubric_arm_lite.models.unsloth import prepare

        prepare()


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Refuse an output that cannot be written, or would cost a file that is there, and make the folder for it.

    To be called before anything is loaded: what is refused afterwards would have cost the work.

    Raises:
        DataError: if it is a folder, the input, or there already.
    """
    from rubric_arm_lite.errors import DataError

    if target.is_dir():
        raise DataError(f"{target} is a folder. Name the file to write.")
    if target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{target} is also the input. Choose another file to write.")
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists. Name another file, or give --overwrite.")
    target.parent.mkdir(parents=True, exist_ok=True)


def warn_unknown_words(model: RubricRewardModel, *texts: str) -> None:
    """A word-level tokenizer cannot see words it does not know; say which."""
    words = model.unknown_words(*texts)
    if words:
        unknown = escape(", ".join(words[:12]))
        err.print(f"[yellow]This base does not know: {unknown}. It reads them as blanks.[/yellow]")


JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run directory; or a recipe with model.checkpoints, such as released-8b."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]
StateOption = Annotated[str, typer.Option(help="Which adapters: final, warm-up or latest.")]
ServerOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Ask this OpenAI-compatible server; nothing is loaded here.")
]
RubricModelOption = Annotated[str | None, typer.Option(help="The server's name of the generator (default: rubric).")]
JudgeModelOption = Annotated[str | None, typer.Option(help="The server's name of the judge (default: judge).")]
KeyEnvOption = Annotated[
    str | None, typer.Option(help="Environment variable with the server's key (default: OPENAI_API_KEY).")
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", min=1, help="Requests to the server at a time (default: 32).")
]
