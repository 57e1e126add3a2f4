"""A service over a scripted model, running on a free port, for tests over HTTP."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from rubric_arm_lite.models.sampler import NextWords, Sampling
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.reward_model.serve.app import build_app
from rubric_arm_lite.reward_model.serve.batcher import BatchedJudge, Batcher, settings_of
from rubric_arm_lite.reward_model.serve.schema import Body, WrittenRubric
from rubric_arm_lite.reward_model.serve.security import SecuritySettings
from rubric_arm_lite.reward_model.serve.server import bind, url_of
from rubric_arm_lite.types import Example, RolloutGroup, Rubric
from tests.judgements import write_judgement
from tests.players import recipe, sampler
from tests.scripted import ScriptedSampler, Written

PAIR = {"prompt": "request 1", "response_a": "good one", "response_b": "poor one"}
RULE = "1. The response is number {} [Hard Rule]"


class Model(ScriptedSampler):
    """A scripted model that takes its time and counts its batches; the pointwise judge likes what begins with good."""

    def __init__(self, script: Any, delay: float = 0.0) -> None:
        super().__init__(script)
        self.delay = delay
        self.failure: Exception | None = None

    def control_tokens(self) -> list[str]:
        return []

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        time.sleep(self.delay)
        if self.failure is not None and any("poison" in example.prompt for example in examples):
            raise self.failure
        return super().sample(adapter, examples, sampling)

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        return [(-0.1, -2.5) if "\ngood" in question.prompt else (-2.5, -0.1) for question in questions]


def number_in(text: str) -> str:
    number = re.search(r"\d+", text)
    return number[0] if number else "0"


def writes(request: str, example: Example, index: int) -> Written:
    """A rubric that names the number of the request it was written for."""
    return RULE.format(number_in(request)) if "broken" not in request else "no rubric"


def judges(a: str, b: str, rubric: Rubric, index: int) -> Written:
    """A good response wins; the findings repeat the responses, so that a wrong pairing shows."""
    findings = (
        {"A": f"{a} is met", "B": f"{b} is missed"} if "good" in a else {"A": f"{a} is missed", "B": f"{b} is met"}
    )
    return write_judgement(rubric, findings, "A" if "good" in a else "B")


def model(delay: float = 0.0, **changes: Any) -> RubricRewardModel:
    scripted = Model(sampler(judges, writes).script, delay)
    fields = {"evaluation": {"rubric_max_tokens": 100, "judge_max_tokens": 500}, "model": {"max_context": 6000}}
    return RubricRewardModel(scripted, recipe(**{**fields, **changes}))


@dataclass
class Served:
    """A running service and its model."""

    url: str
    model: RubricRewardModel
    batcher: Batcher[Body, WrittenRubric]
    client: httpx.Client = field(repr=False)

    @property
    def scripted(self) -> Model:
        assert isinstance(self.model.model, Model)
        return self.model.model

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)


@contextmanager
def serving(
    delay: float = 0.0,
    seconds: float = 20.0,
    page: bool = False,
    states: tuple[str, ...] = ("final",),
    on_state: Callable[[str], None] = lambda state: None,
    **settings: Any,
) -> Iterator[Served]:
    """A service on a free port for the time of the ``with``; ``settings`` are of the security or the batcher.

    ``on_state`` is called with the state of every batch: a scripted model has no adapters to load.
    """
    batching = {name: settings.pop(name) for name in ("batch", "window", "queue") if name in settings}
    reward_model = settings.pop("model", None) or model(delay)

    class ScriptedJudge(BatchedJudge):
        def states(self) -> list[str]:
            return list(states)

        def load(self, state: str) -> None:
            on_state(state)

    judge = ScriptedJudge(reward_model, "final")
    batcher = Batcher(judge.answer, settings=settings_of, **batching)
    with listening(build_app("test run", judge, batcher, SecuritySettings(**settings), seconds, page)) as client:
        yield Served(str(client.base_url), reward_model, batcher, client)


@contextmanager
def listening(app: ASGIApp) -> Iterator[httpx.Client]:
    """A client of an application that listens on a free port."""
    bound = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        with httpx.Client(base_url=url_of(bound, "127.0.0.1"), timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
