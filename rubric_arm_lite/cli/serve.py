"""``rubric-arm serve`` and ``rubric-arm play``: the model over HTTP, and a page to try it on."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubric_arm_lite.cli.common import (
    ConcurrencyOption,
    JudgeModelOption,
    KeyEnvOption,
    ModelArgument,
    RubricModelOption,
    ServerOption,
    StateOption,
    err,
    load_run,
    server_of,
)

if TYPE_CHECKING:
    from rubric_arm_lite.models import ServerSettings
    from rubric_arm_lite.reward_model import RubricRewardModel
    from rubric_arm_lite.reward_model.serve.app import Service
    from rubric_arm_lite.reward_model.serve.security import GateSettings

COLAB_HOSTS = (".colab.dev", ".colab.googleusercontent.com")
"""Names under which Colab shows a port of its machine to the notebook's owner."""
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")]
HostNameOption = Annotated[
    list[str] | None,
    typer.Option("--allow-host", help="A name that it may be called by, for a proxy; .example.org: all below it."),
]
SecondsOption = Annotated[
    float, typer.Option("--timeout", min=0.1, max=86_400, help="Seconds for a request, waiting included.")
]
_HOST = re.compile(r"\.?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", re.ASCII)


def serve(
    run: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen at; beyond this machine, see --key-env.")] = "127.0.0.1",
    port: PortOption = 8000,
    state: StateOption = "final",
    batch: Annotated[int, typer.Option(min=1, help="Requests asked at once, at most.")] = 32,
    wait: Annotated[
        float, typer.Option("--wait-ms", min=0, max=60_000, help="Milliseconds a request waits for others.")
    ] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are sent away (503).")] = 256,
    seconds: SecondsOption = 300.0,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that requests must carry.")
    ] = None,
    allow_host: HostNameOption = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="A line per request: method, path, status, time; no texts.")
    ] = False,
    server: ServerOption = None,
    rubric_model: RubricModelOption = None,
    judge_model: JudgeModelOption = None,
    server_key_env: KeyEnvOption = None,
    concurrency: ConcurrencyOption = None,
) -> None:
    """Serve a run over HTTP: /v1/rubric, /v1/compare, /v1/score, /healthz, /docs."""
    from rubric_arm_lite.reward_model.serve.server import bind, check_installed, is_loopback, key_from

    check_installed()
    key = None if key_env is None else key_from(key_env)
    allowed = host_names(allow_host or ())
    asked = server_of(server, state, rubric_model, judge_model, server_key_env, concurrency)
    from rubric_arm_lite.reward_model.serve.security import GateSettings

    with bind(host, port) as bound:
        if key is None and not is_loopback(bound):
            err.print(f"[yellow]Listening at {host} without a key: whoever reaches it may ask. See --key-env.[/yellow]")
        model = load_run(run, state, asked)
        service = _service(model, run, state, asked, batch, wait / 1000, queue, seconds)
        gate = GateSettings((*allowed, host.lower()), key, max_open=queue + 4 * batch, log_requests=log_requests)
        _serve_until_stopped(service, gate, bound, host, page=False)


def play(
    run: ModelArgument,
    port: PortOption = 8001,
    state: StateOption = "final",
    seconds: SecondsOption = 300.0,
    allow_host: HostNameOption = None,
    server: ServerOption = None,
    rubric_model: RubricModelOption = None,
    judge_model: JudgeModelOption = None,
    server_key_env: KeyEnvOption = None,
) -> None:
    """Open a page on this machine: judge a pair, change the rubric, flip through the run's checkpoints."""
    from rubric_arm_lite.reward_model.serve.server import bind, check_installed

    check_installed()
    allowed = host_names(allow_host or ())
    asked = server_of(server, state, rubric_model, judge_model, server_key_env)
    from rubric_arm_lite.reward_model import check_compares
    from rubric_arm_lite.reward_model.serve.security import GateSettings
    from rubric_arm_lite.runs import recipe_of
    from rubric_arm_lite.runs.states import states_of

    check_compares(recipe_of(run))  # all that the page does
    host = "127.0.0.1"
    with bind(host, port) as bound:
        model = load_run(run, state, asked)
        service = _service(model, run, state, asked, seconds=seconds)
        if asked is None and run.is_dir():
            service = replace(service, states=lambda: list(dict.fromkeys((*states_of(run), state))))
        colab = any(name.startswith("COLAB_") for name in os.environ)
        names = (*allowed, *(COLAB_HOSTS if colab else ()))
        _serve_until_stopped(service, GateSettings(names), bound, host, page=True)


def host_names(given: Sequence[str]) -> tuple[str, ...]:
    """Names of ``--allow-host`` as a request's Host is compared with them: in lower case, without a last dot.

    Raises:
        ConfigError: for what no Host could equal.
    """
    from rubric_arm_lite.errors import ConfigError

    names = tuple(name.lower().removesuffix(".") for name in given)
    for name, asked in zip(names, given, strict=True):
        if _HOST.fullmatch(name) is None:
            raise ConfigError(
                f"--allow-host {asked}: give a name alone, such as box.example.org, or .example.org for all below it."
            )
    return names


def _service(
    model: RubricRewardModel,
    run: Path,
    state: str,
    server: ServerSettings | None,
    batch: int = 32,
    window: float = 0.005,
    queue: int = 256,
    seconds: float = 300.0,
) -> Service:
    """A service that has one state; its desk can load others of a run that is on this machine."""
    from rubric_arm_lite.reward_model.serve.app import Service
    from rubric_arm_lite.reward_model.serve.batcher import ModelDesk, Worker

    desk = ModelDesk(model, run if server is None and run.is_dir() else None, state)
    worker = Worker(desk.answer, batch, window, queue, lambda question: question.state)
    return Service(run.name or str(run), model.recipe, worker, lambda: [state], state, seconds)


def _serve_until_stopped(service: Service, gate: GateSettings, bound: socket.socket, host: str, page: bool) -> None:
    from rubric_arm_lite.reward_model.serve import server
    from rubric_arm_lite.reward_model.serve.app import build_app

    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("rubric_arm_lite.reward_model.serve").setLevel(logging.INFO)
    url = server.url_of(bound, host)
    what = f"The page for {service.name} is at {url}" if page else f"Serving {service.name} ({service.state}) at {url}"
    in_order = server.run(
        build_app(service, gate, page),
        bound,
        service.seconds,
        lambda: print(f"{what} (list of paths: {url}docs; Ctrl-C stops)", flush=True),
    )
    err.print("Stopped." if in_order else "Stopped at once; what was being asked is lost.")
