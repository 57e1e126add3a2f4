"""The import of unsloth, apart from everything heavy: it wants to come before transformers, which it patches."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import BackendError, first_line


def prepare() -> Any:
    """Import unsloth, before transformers if that is still possible, and return its ``FastLanguageModel``.

    Raises:
        BackendError: if it is not installed, or does not run on this machine.
    """
    # Code that it generates goes where only this user writes, not into the working directory.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rubric-arm-lite" / "unsloth"
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    try:
        with quiet():
            from unsloth import FastLanguageModel
    except (ImportError, RuntimeError) as error:  # the latter from a machine or a model that it does not support
        raise BackendError(
            f"model.backend: unsloth cannot be used ({first_line(error)}). Install it, in the project's "
            "folder, with pip install -e '.[unsloth]', or set model.backend to transformers."
        ) from error
    return FastLanguageModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep its banners off standard output, where programs may read, and its warnings about the order of imports."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
