"""``rubric-arm serve`` and ``rubric-arm play``: the reward model over HTTP, and a page to try it on."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Annotated

import typer

from rubric_arm_lite import reward_model
from rubric_arm_lite.cli.common import ModelSource, err, say, warn, with_source
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.runs import recipe_of

COLAB_HOSTS = (".colab.dev", ".colab.googleusercontent.com")
"""Names under which Colab shows a port of its machine to the notebook's owner."""
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")]
HostNameOption = Annotated[
    list[str] | None,
    typer.Option("--allow-host", help="A host name that requests may use, for a proxy; .example.org: all below it."),
]
SecondsOption = Annotated[
    float, typer.Option("--timeout", min=0.1, max=86_400, help="Seconds per request, waiting included.")
]


@with_source
def serve(
    source: ModelSource,
    host: Annotated[str, typer.Option(help="Address to listen at; beyond this machine, see --key-env.")] = "127.0.0.1",
    port: PortOption = 8000,
    batch: Annotated[int, typer.Option(min=1, help="Requests per batch, at most.")] = 32,
    wait: Annotated[
        float, typer.Option("--wait-ms", min=0, max=60_000, help="Milliseconds a request waits for others.")
    ] = 5.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused (503).")] = 256,
    seconds: SecondsOption = 300.0,
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the API key that requests must carry.")
    ] = None,
    allow_host: HostNameOption = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Log method, path, status and time of each request; no texts.")
    ] = False,
    _page: bool = False,
) -> None:
    """Serve a run over HTTP: /v1/rubric, /v1/compare, /v1/score, /healthz, /docs."""
    # With the page, every state of a run that is on this machine can be asked.
    from rubric_arm_lite.reward_model.serve import server

    server.check_installed()
    key = None if key_env is None else server.key_from(key_env)
    hosts = (*host_names(allow_host or ()), host.lower())
    with server.bind(host, port) as bound:
        if key is None and not server.is_loopback(bound):
            warn(
                f"Listening at {host} with no API key set: anyone who can reach this port can use the service. See "
                "--key-env."
            )
        model = source.load()
        from rubric_arm_lite.reward_model.serve.app import Service, build_app
        from rubric_arm_lite.reward_model.serve.batcher import BatchedJudge, Batcher, settings_of
        from rubric_arm_lite.reward_model.serve.security import SecuritySettings

        folder = source.run if source.server is None and source.run.is_dir() else None  # has the states to choose from
        judge = BatchedJudge(model, source.state, folder, all_states=_page)
        batcher = Batcher(judge.answer, batch, wait / 1000, queue, settings_of)
        security = SecuritySettings(hosts, key, max_open=queue + 4 * batch, log_requests=log_requests)
        service = Service(source.run.name or str(source.run), judge, batcher, seconds)
        logging.basicConfig(format="%(asctime)s %(message)s")
        logging.getLogger("rubric_arm_lite.reward_model.serve").setLevel(logging.INFO)
        url = server.url_of(bound, host)
        what = f"The page for {service.name} is at" if _page else f"Serving {service.name} ({source.state}) at"
        started = f"{what} {url} (list of paths: {url}docs; Ctrl-C stops)"
        answered = server.run(build_app(service, security, _page), bound, seconds, lambda: say(started, flush=True))
        err.print("Stopped." if answered else "Stopped at once; the requests in progress are lost.")


@with_source
def play(
    source: ModelSource,
    port: PortOption = 8001,
    seconds: SecondsOption = 300.0,
    allow_host: HostNameOption = None,
) -> None:
    """Open a page on this machine: judge a pair, change the rubric, flip through the run's checkpoints."""
    reward_model.check_compares(recipe_of(source.run))  # the page does nothing else
    colab = any(name.startswith("COLAB_") for name in os.environ)
    hosts = [*(allow_host or ()), *(COLAB_HOSTS if colab else ())]
    serve(**vars(source), port=port, seconds=seconds, allow_host=hosts, _page=True)


def host_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of ``--allow-host`` as a request's Host is compared with them: in lower case, without a last dot.

    Raises:
        ConfigError: for what no Host could equal.
    """
    for name in names:
        if re.fullmatch(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", name, re.ASCII | re.IGNORECASE) is None:
            raise ConfigError(
                f"--allow-host {name}: give a name alone, such as box.example.org, or .example.org for all below it."
            )
    return tuple(name.lower().removesuffix(".") for name in names)
