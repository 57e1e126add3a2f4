"""A queue of requests, and one thread that answers it in batches: the only thread that touches the model.

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
from typing import Generic, TypeVar

from starlette.exceptions import HTTPException

R = TypeVar("R")
A = TypeVar("A")

MAX_RETRY_AFTER = 60
"""Seconds: upper limit of the retry-after header."""


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
        self._batch = batch
        self._window = window
        self._queue = queue
        self._settings = settings
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
                headers = {"retry-after": str(min(MAX_RETRY_AFTER, max(1, seconds)))}
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
