"""Processes that begin with the libraries loaded: for tests that kill one, interrupt one, or need two at a time.

Importing torch, transformers, peft and TRL takes most of a short command's time. Here one process per test session
does it and is then copied by ``fork``, before anything else happened in it; what a copy does after that is what
``python -m rubric_arm_lite`` does. :func:`tests.short_run.finished_run` is made by the command itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LIBRARIES = [
    "rubric_arm_lite.cli.main",
    "rubric_arm_lite.training.stages",
    "peft",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.generation",
    "trl.trainer.sft_trainer",
]

LIMIT = 240
"""Seconds after which a process that has not come to a place is given up."""


def begin(
    work: Callable[..., object], *given: Any, log: Path, environment: dict[str, str] | None = None
) -> BaseProcess:
    """Start a function of a test module; what it prints goes to the end of ``log``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    log.touch()
    process = context.Process(target=_work, args=(work, given, log, environment or {}))
    process.start()
    return process


def command(*arguments: str | Path) -> None:
    """Work for :func:`begin`: ``rubric-arm`` with these arguments."""
    from rubric_arm_lite.cli.main import main

    # A test suite that a script runs in the background inherits "ignore Ctrl-C"; a person's terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rubric-arm", *map(str, arguments)]
    main()


def wait_for(reached: Callable[[], bool], process: BaseProcess, log: Path) -> None:
    """Until a process has come that far."""
    ends = time.monotonic() + LIMIT
    while process.is_alive() and time.monotonic() < ends and not reached():
        time.sleep(0.01)
    assert process.is_alive() and reached(), f"it was over, or stuck, before it came that far: {log.read_text()}"


def kill_when(reached: Callable[[], bool], process: BaseProcess, log: Path, delay: float = 0.0) -> None:
    """``kill -9`` as soon as a process has come that far, or ``delay`` seconds later."""
    wait_for(reached, process, log)
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was over before it could be killed"


def _work(work: Callable[..., object], given: tuple[Any, ...], log: Path, environment: dict[str, str]) -> None:
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    work(*given)
