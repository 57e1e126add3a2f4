"""A policy whose reward model is on a server: the same policy as with the reward model on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rubric_arm_lite.cli.main import app
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe.load import load_settings, recipe_hash
from rubric_arm_lite.recipe.policy import PolicyRecipe
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.types import Example
from tests.fake_server import FakeServer, Reply, Request, as_json, completions, serve
from tests.training.test_policy_run import bytes_of, command, execute, recipe_for


class Adapters:
    """Answers as a server that was started with a run's adapters; ``fails`` says when it is out of order."""

    def __init__(self, run: Path) -> None:
        threads = torch.get_num_threads()
        self._model = RubricRewardModel.from_run(run).model
        torch.set_num_threads(threads)
        self._lock = threading.Lock()
        self.fails = False

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            if request.path == "/tokenize":
                return as_json({"count": self._model.prompt_tokens(request.prompt)})
            if self.fails:
                return Reply(501)
            sampling = Sampling(request.body["max_tokens"], 1, request.body["temperature"])
            groups = self._model.sample(request.body["model"], [Example("", request.prompt, 0)], sampling)
        sample = groups[0].samples[0]
        return as_json(completions(sample.text, reason=sample.finish_reason))


@pytest.fixture(scope="module")
def adapters(finished_run: Path) -> Adapters:
    return Adapters(finished_run)


@pytest.fixture
def server(adapters: Adapters, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    adapters.fails = False
    with serve(adapters) as started:
        yield started


@pytest.mark.slow
def test_online_grpo_equals_that_with_the_reward_model_here(
    server: FakeServer, adapters: Adapters, finished_run: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    # A base of its own, as beside a server: equal settings would make it the reward model's, with other adapters on it.
    own = ("model={base: testbed, dtype: float32, max_context: 511}", "data.train_prompts=12", "evaluation.prompts=3")
    execute(recipe_for(finished_run, "grpo", *own), here)
    there, served = tmp_path / "there", f"reward.server={server.url}"
    adapters.fails = True
    with pytest.raises(BackendError, match="501"):
        execute(recipe_for(finished_run, "grpo", *own, served), there)
    adapters.fails = False
    with serve(adapters) as moved:
        execute(recipe_for(finished_run, "grpo", *own, f"reward.server={moved.url}", "reward.concurrency=3"), there)
    assert moved.most_at_once == 3
    assert bytes_of(there) == bytes_of(here)
    assert {request.body["model"] for request in moved.requests if "messages" in request.body} == {"rubric", "judge"}
    described = json.loads((there / "data.json").read_text())
    assert described["reward_model"] == {"rubric": "served as rubric", "judge": "served as judge"}
    for changes in ((), (served, "reward.judge_model=other")):
        with pytest.raises(CheckpointError, match="reward_model changed"):  # other weights than those of the beginning
            execute(recipe_for(finished_run, "grpo", *own, *changes), there)


def test_by_its_command_without_the_adapters_at_hand(server: FakeServer, finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "reward"
    run.mkdir()
    (run / "recipe.yaml").write_bytes((finished_run / "recipe.yaml").read_bytes())
    call = [*command("dpo", run, tmp_path / "policy"), "--server", server.url]
    for value in ("dpo.max_steps=1", "data.train_prompts=8", "evaluation.prompts=2"):
        call += ["--set", value]
    done = CliRunner().invoke(app, call, catch_exceptions=False)
    assert done.exit_code == 0 and json.loads(done.stdout)["method"] == "dpo"
    assert server.requests


def test_where_the_server_is_does_not_make_another_recipe(finished_run: Path) -> None:
    plain, moved = (
        recipe_hash(recipe_for(finished_run, "grpo", f"reward.server=http://{host}:1", f"reward.concurrency={n}"))
        for host, n in (("a", 3), ("b", 4))
    )
    assert plain == moved == recipe_hash(recipe_for(finished_run, "grpo", "reward.key_env=HOUSE_KEY"))
    assert plain != recipe_hash(recipe_for(finished_run, "grpo", "reward.state=latest"))


def test_the_hash_does_not_depend_on_what_stands_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_settings(PolicyRecipe, "testbed", ["method=grpo"])
    assert recipe.reward.run == str(tmp_path / "runs" / "demo")
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    assert recipe_hash(load_settings(PolicyRecipe, "testbed", ["method=grpo"])) == recipe_hash(recipe)


def test_settings_of_a_server_that_cannot_be_used(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a server's address"):
        execute(recipe_for(finished_run, "grpo", "reward.server=ftp://x"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"reward.state: latest is for adapters that are loaded in this process"):
        recipe_for(finished_run, "grpo", "reward.server=http://x", "reward.state=latest")
