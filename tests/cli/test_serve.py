"""``rubric-arm serve`` and ``play`` on a run: the same answers as ``judge``, every state by name."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp
from typer.testing import CliRunner

from rubric_arm_lite.cli import ask
from rubric_arm_lite.cli import main as cli
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError, RubricArmError
from rubric_arm_lite.reward_model.serve import server
from rubric_arm_lite.runs.directory import RunState
from tests.serving import listening
from tests.warm import begin, command, wait_for

PROMPT = "Write a note about gardens for pilots. Include the word zinc."
BODY = {
    "prompt": PROMPT,
    "response_a": "zinc stone table hug lull dare",
    "response_b": "stone table window pencil basket ladder",
    "rubric": "1. The response includes the word zinc [Hard Rule]\n2. The response is warm [Principle]",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with adapters that were never trained, other ones in each state."""
    import torch

    from rubric_arm_lite.models.load import load_model
    from rubric_arm_lite.recipe.load import dump_recipe, load_recipe, recipe_hash

    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe("testbed")
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    torch.set_num_threads(1)
    model = load_model(recipe.model, recipe.seed)
    kept = folder / "checkpoints" / "state-000004"
    for state, size in (("warm-up", 0.0), ("state-000004", 0.05), ("final", 0.3)):
        for role in ("rubric", "judge"):
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for name, parameter in model.parameters(role):
                    if "lora_B" in name:
                        parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
            places = {"warm-up": kept / f"{role}_ref", "state-000004": kept / role}
            model.save_adapter(role, places.get(state, folder / "adapters" / role))
    (folder / "state.json").write_text(RunState(recipe_hash(recipe), ("warmup",), "state-000004").dumps())
    return folder


@contextmanager
def started(log: Path, *arguments: str | Path) -> Iterator[str]:
    """Run a serving verb as a process; it must end by SIGTERM with exit code 0."""
    served = begin(command, *arguments, "--port", "0", log=log)
    try:
        wait_for(lambda: "; Ctrl-C stops)" in log.read_text(), served, log)
        url = re.search(r"http://\S+/", log.read_text())
        assert url is not None, log.read_text()
        yield url[0]
        served.terminate()
        served.join(30)
        output = log.read_text()
        assert served.exitcode == 0, output
        assert "Stopped." in output
        assert "Traceback" not in output
    finally:
        served.kill()
        served.join()


def judge_output(run: Path, state: str, votes: int, tmp_path: Path) -> dict[str, object]:
    """The row that ``rubric-arm judge`` writes for the pair."""
    source, target = tmp_path / "in.jsonl", tmp_path / f"{state}-{votes}.jsonl"
    source.write_text(json.dumps(BODY))
    call = ["judge", str(run), str(source), str(target), "--votes", str(votes), "--state", state]
    done = CliRunner().invoke(cli.app, call, catch_exceptions=False)
    assert done.exit_code == 0
    return dict(json.loads(target.read_text()))


def as_judge_row(answer: dict[str, Any]) -> dict[str, object]:
    """An answer over HTTP under the column names of ``judge``."""
    names = ("winner", "confidence", "consistent")
    texts = {"judgement": answer["original"][0]["text"], "judgement_swapped": answer["swapped"][0]["text"]}
    return {**{name: answer[name] for name in names}, "rubric": answer["rubric"]["text"], **texts}


def test_play_has_every_state(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[ASGIApp] = []

    def run_server(app: ASGIApp, bound: socket.socket, *_: object) -> bool:
        assert bound.getsockname()[0] == "127.0.0.1"
        apps.append(app)
        return True

    monkeypatch.setattr(server, "run", run_server)
    assert CliRunner().invoke(cli.app, ["play", str(run), "--port", "0"], catch_exceptions=False).exit_code == 0
    texts = set()
    with listening(apps[0]) as client:
        about = client.get("v1/about").json()
        assert about["states"] == ["warm-up", "state-000004", "final"]
        assert (about["state"], about["examples"]) == ("final", True)
        for state in ("warm-up", "final", "state-000004", "final"):
            answer = client.post("v1/compare", json={**BODY, "state": state}).json()
            assert answer["state"] == state
            texts.add((state, answer["original"][0]["text"], answer["swapped"][0]["text"]))
        assert len(texts) == 3  # the same again for the same state
        assert len({text[1:] for text in texts}) == 3  # and another for another
        example = client.get("v1/example").json()
        assert example["prompt"].startswith("Write a")
        assert client.post("v1/compare", json=example).status_code == 200
        unknown = client.post("v1/rubric", json={"prompt": "Write a poem about quarks"}).json()["unknown_words"]
        assert "quarks" in unknown
        page = client.get("/").text
        assert re.findall(r"(?:src|href)=\"([^\"]+)\"", page) == ["data:,", "page.css", "page.js", "docs"]
        for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
            assert client.get(name).headers["content-type"].startswith(kind)
        long = client.post("v1/compare", json={**BODY, "response_a": "stone " * 300})
        assert (long.status_code, "model.max_context (256)" in long.json()["error"]) == (422, True)


def test_serve_answers_as_judge_does(run: Path, tmp_path: Path) -> None:
    with (
        started(tmp_path / "log", "serve", run, "--state", "warm-up") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        assert client.get("v1/about").json()["states"] == ["warm-up"]
        assert client.get("/").status_code == 404  # the page is play's
        assert client.post("v1/compare", json={**BODY, "state": "final"}).status_code == 422
        for votes in (1, 3):
            answer = client.post("v1/compare", json={**BODY, "votes": votes}).json()
            assert as_judge_row(answer).items() <= judge_output(run, "warm-up", votes, tmp_path).items()


@pytest.mark.parametrize(
    ("arguments", "error", "needle"),
    [
        (["serve", "RUN", "--key-env", "NO_SUCH_VARIABLE"], ConfigError, "NO_SUCH_VARIABLE"),
        (["serve", "RUN", "--host", "no such host"], ConfigError, "--host no such host"),
        (["serve", "nowhere", "--port", "0"], CheckpointError, "not a run directory"),
        (["play", "RUN", "--port", "0", "--state", "latest", "--server", "http://x"], ConfigError, "--state latest"),
        (["play", "RUN", "--port", "0", "--state", "state-000099"], CheckpointError, "has no state-000099 adapter"),
        (["play", "RUN", "--port", "0", "--state", "../../x"], BackendError, "is not one of"),
    ],
)
def test_unservable_runs_and_options_are_one_error(
    run: Path, arguments: list[str], error: type[RubricArmError], needle: str
) -> None:
    line = [str(run) if argument == "RUN" else argument for argument in arguments]
    with pytest.raises(error, match=re.escape(needle)):
        CliRunner().invoke(cli.app, line, catch_exceptions=False)


def test_play_refuses_a_pointwise_judge(tmp_path: Path) -> None:
    from rubric_arm_lite.recipe.load import dump_recipe, load_recipe

    (tmp_path / "recipe.yaml").write_text(dump_recipe(load_recipe("arrow-testbed")))
    with pytest.raises(ConfigError, match=r"reward\.judge: pointwise"):
        CliRunner().invoke(cli.app, ["play", str(tmp_path), "--port", "0"], catch_exceptions=False)


@pytest.mark.parametrize("option", [("--timeout", "inf"), ("--timeout", "nan"), ("--wait-ms", "inf")])
def test_infinite_times_are_refused(option: tuple[str, str]) -> None:
    done = CliRunner().invoke(cli.app, ["serve", "nowhere", "--port", "0", *option], catch_exceptions=False)
    assert done.exit_code == 2 and option[0] in done.output


def test_host_names() -> None:
    names = ["My-Box.Example.org", ".Example.org.", "box"]
    assert ask.host_names(names) == ("my-box.example.org", ".example.org", "box")
    for bad in ("", ".", "http://box", "box:8000", "a b", "*.example.org", "bücher.de"):
        with pytest.raises(ConfigError, match=re.escape(f"--allow-host {bad}: ")):
            ask.host_names([bad])
