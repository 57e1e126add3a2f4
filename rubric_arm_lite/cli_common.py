"""What the modules of the command line share: where they print, and how loud libraries may be."""

from __future__ import annotations

import contextlib
import io
import json
import os
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


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
    # bitsandbytes, where it is installed, prints a kernel notice at import.
    with contextlib.redirect_stderr(io.StringIO()):
        import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
