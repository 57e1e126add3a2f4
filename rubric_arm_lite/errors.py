"""Errors a user can act on; each also subclasses the standard library's nearest type.

Every message has three parts: what was given, what is allowed, what to do. The command line prints the
message alone and exits with code 2.
"""

from __future__ import annotations

import unicodedata

MAX_MESSAGE = 300
"""Characters of a foreign text in an error."""


class RubricArmError(Exception):
    """Base of every error that is the caller's to mend."""


class ConfigError(RubricArmError, ValueError):
    """A recipe, a ``--set`` value or a combination of fields that cannot run."""


class DataError(RubricArmError, ValueError):
    """A data file or row that cannot be used; names the file and the line."""


class BackendError(RubricArmError, RuntimeError):
    """A model folder, tokenizer or adapter that cannot be loaded or does not fit."""


class PromptTooLongError(BackendError):
    """None of the prompts that were to be sampled fits the context."""


class TrainingError(RubricArmError, RuntimeError):
    """Training did not do what it must, for example an update that changed nothing."""


class CheckpointError(RubricArmError, OSError):
    """A run directory or checkpoint that is missing, half-written or from another recipe."""


def clean(text: str, limit: int = MAX_MESSAGE) -> str:
    """Untrusted text as one line of an error: without control or unassigned characters, at most ``limit`` long."""
    printable = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 16 * limit])
    line = " ".join(printable.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def first_line(error: BaseException) -> str:
    """The first line of a library's error that says something (and what follows its colon), else the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = 2 if lines and lines[0].endswith(":") else 1
    return clean(" ".join(lines[:said])) if lines else type(error).__name__
