"""A queue of requests, and one thread that answers them in batches: the only thread that touches the model.

Requests come from any thread and wait in order. The thread takes the oldest and those with equal settings, as many as a
batch holds, asks the model for all answers at once, and sets each request's future. A request whose future is canceled
while it waits leaves the queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Generic, TypeVar

from starlette.exceptions import HTTPException

from rubric_arm_lite.errors import BackendError, CheckpointError
from rubric_arm_lite.models import RefusedRequest
from rubric_arm_lite.reward_model.model import RubricRewardModel, TooLong
from rubric_arm_lite.reward_model.serve import schema
from rubric_arm_lite.reward_model.verdict import is_skipped
from rubric_arm_lite.runs import adapter_folder
from rubric_arm_lite.runs.states import states_of
from rubric_arm_lite.types import ROLES

R = TypeVar("R")
A = TypeVar("A")


class Batcher(Generic[R, A]):
    """Answers requests in batches, in a thread of its own.

    Args:
        answer: the answers to some requests, in order; an exception in place of an answer goes to that request.
        batch: requests per batch, at most.
        window: seconds that the first request of a batch waits for others.
        queue: requests that may wait.
        settings: only requests with equal values share a batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[R]], Sequence[A | Exception]],
        batch: int = 32,
        window: float = 0.005,
        queue: int = 256,
        settings: Callable[[R], Hashable] = lambda request: None,
    ) -> None:
        self._answer = answer
        self._batch, self._window, self._queue, self._settings = batch, window, queue, settings
        self._waiting: dict[Future[A], R] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_per_batch = 0.0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, request: R) -> Future[A]:
        """Put a request into the queue; cancel the future to take it out again.

        Raises:
            HTTPException: 503 if ``queue`` requests wait already, or after :meth:`close`.
        """
        future: Future[A] = Future()
        with self._changed:
            if self._closing:
                raise HTTPException(503, "The service is stopping. Use another one, or try again later.")
            if (waiting := len(self._waiting)) >= self._queue:
                seconds = math.ceil((math.ceil(waiting / self._batch) + 1) * self._seconds_per_batch)
                headers = {"retry-after": str(min(60, max(1, seconds)))}
                raise HTTPException(503, f"{waiting} requests are waiting already. Try again later.", headers)
            self._waiting[future] = request
            self._changed.notify_all()
        future.add_done_callback(self._remove)
        return future

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether requests are still answered."""
        return self._thread.is_alive() and not self._closing

    def close(self, timeout: float | None = None) -> bool:
        """Answer what waits, take nothing more, and end the thread; returns whether it ended within ``timeout`` (s)."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _remove(self, future: Future[A]) -> None:
        with self._changed:
            self._waiting.pop(future, None)

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if not batch:
                continue
            start = time.monotonic()
            answers: Sequence[A | Exception]
            try:
                answers = self._answer(list(batch.values()))
            except Exception as error:  # the thread must outlive any error; whoever waits gets it
                answers = [error] * len(batch)
            for future, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            seconds = time.monotonic() - start
            self._seconds_per_batch += (seconds - self._seconds_per_batch) / (4 if self._seconds_per_batch else 1)

    def _next_batch(self) -> dict[Future[A], R] | None:
        """The next batch, empty if all of it was canceled; None if there will be no other."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            self._changed.wait_for(lambda: len(self._waiting) >= self._batch or self._closing, self._window)
            settings = {future: self._settings(request) for future, request in self._waiting.items()}
            oldest = next(iter(settings.values()), None)
            equal = [future for future, value in settings.items() if value == oldest][: self._batch]
            batch = {future: self._waiting.pop(future) for future in equal}
        return {future: request for future, request in batch.items() if future.set_running_or_notify_cancel()}


def settings_of(request: schema.Body) -> Hashable:
    """Requests with equal settings can be answered by one call of the reward model."""
    return type(request), *request.model_dump(include={"state", "votes", "orders", "justify"}).values()


class BatchedJudge:
    """Answers requests with equal settings by one call of the reward model.

    Only one thread may use it, apart from :meth:`states`.

    Attributes:
        model: the reward model.
        state: the state that is loaded first, for requests that name none.

    Args:
        run: the run from which states are loaded; None if only ``state`` is at hand. ``latest`` follows a run that
            goes on.
        all_states: whether requests may name every state of the run.
    """

    def __init__(self, model: RubricRewardModel, state: str, run: Path | None = None, all_states: bool = False) -> None:
        self.model, self.state = model, state
        self._run, self._all_states = run, all_states
        self._loaded = self._folders(state)

    def states(self) -> list[str]:
        """States that a request may name; a run that goes on has more of them later."""
        if self._run is None or not self._all_states:
            return [self.state]
        return list(dict.fromkeys((*states_of(self._run), self.state)))

    def answer(self, requests: Sequence[schema.Body]) -> list[schema.WrittenRubric | Exception]:
        """One answer or error per request, in order."""
        alone = len(requests) == 1
        state = requests[0].state or self.state
        try:
            self.load(state)
            results = self._ask(requests, "raise" if alone else "skip")
        except Exception as error:
            refused = isinstance(error, RefusedRequest)
            if alone or (isinstance(error, BackendError | CheckpointError) and not refused):
                return [error] * len(requests)
            # One of the requests is at fault, and only that one must fail.
            return [self.answer([request])[0] for request in requests]
        return [
            # A skipped request is asked again, alone, for its error; its rubric comes from the cache.
            self.answer([request])[0]
            if is_skipped(result) and not alone
            else schema.answer_of(result, state, self.model.unknown_words(*_texts(request)))
            for request, result in zip(requests, results, strict=True)
        ]

    def _folders(self, state: str) -> tuple[Path, ...]:
        return () if self._run is None else tuple(adapter_folder(self._run, role, state) for role in ROLES)

    def load(self, state: str) -> None:
        """Load the adapters of a state, if others are loaded; ``latest`` may be another folder than before."""
        folders = self._folders(state)
        if folders == self._loaded:
            return
        from rubric_arm_lite.models import AdapterModel

        if not isinstance(self.model.model, AdapterModel):
            raise BackendError("This backend cannot change its adapters. Start it with the state that you want.")
        self._loaded = ()  # unknown until both are loaded
        for role, folder in zip(ROLES, folders, strict=True):
            self.model.model.load_adapter(role, folder)
        self._loaded = folders

    def _ask(self, requests: Sequence[Any], too_long: TooLong) -> Sequence[schema.Result]:
        first, names = requests[0], [schema.REQUEST] * len(requests)
        if isinstance(first, schema.RubricBody):
            return self.model.rubrics([r.prompt for r in requests], names, too_long)
        if isinstance(first, schema.CompareBody):
            pairs = [(r.prompt, r.response_a, r.response_b, r.rubric) for r in requests]
            return self.model.compare_many(pairs, first.votes, names, first.orders, too_long)
        responses = [(r.prompt, r.response, r.rubric) for r in requests]
        return self.model.score_many(responses, first.justify, names, too_long)


def _texts(request: schema.Body) -> list[str]:
    prompt = [request.prompt] if isinstance(request.prompt, str) else [turn.content for turn in request.prompt]
    return prompt + [value for name, value in request if name.startswith("response")]
