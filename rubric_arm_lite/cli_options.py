"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
