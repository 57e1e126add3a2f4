"""A queue and one thread that answers it in batches: the only thread that touches the model.

Questions come from any thread and wait in order. The thread takes as many as a batch holds, or those that came within
a few milliseconds of the first, asks for all answers at once, and hands each to whoever waits for it. A question whose
future is cancelled while it waits leaves the queue.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

LONGEST_ADVICE = 60
"""Seconds: what :meth:`Worker.wait_estimate` says at most."""


class QueueFullError(Exception):
    """No room for another question."""


class ClosedError(Exception):
    """The worker takes no more questions."""


class Worker(Generic[Q, A]):
    """Answers questions in batches, in a thread of its own.

    Args:
        answer: the answers to some questions, in order; an exception in place of an answer goes to its asker.
        batch: questions asked at once, at most.
        window: seconds that the first question of a batch waits for others.
        queue: questions that may wait.
        alike: only questions with equal values of this share a batch.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A | Exception]],
        batch: int = 32,
        window: float = 0.005,
        queue: int = 256,
        alike: Callable[[Q], Hashable] = lambda question: None,
    ) -> None:
        self._answer = answer
        self._batch = batch
        self._window = window
        self._queue = queue
        self._alike = alike
        self._waiting: dict[Future[A], Q] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._seconds_per_batch = 0.0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, question: Q) -> Future[A]:
        """Put a question into the queue; cancel the future to take it out again.

        Raises:
            QueueFullError: if as many wait as may.
            ClosedError: after :meth:`close`.
        """
        future: Future[A] = Future()
        with self._changed:
            if self._closing:
                raise ClosedError
            if len(self._waiting) >= self._queue:
                raise QueueFullError
            self._waiting[future] = question
            self._changed.notify_all()
        future.add_done_callback(self._forget)
        return future

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether questions are still answered."""
        return self._thread.is_alive() and not self._closing

    def wait_estimate(self) -> int:
        """Seconds, at least 1, until the questions that wait now will have been answered, by the batches so far."""
        batches = math.ceil(self.waiting / self._batch) + 1
        return min(LONGEST_ADVICE, max(1, math.ceil(batches * self._seconds_per_batch)))

    def close(self, timeout: float | None = None) -> bool:
        """Answer what waits, take nothing more, and end the thread; returns whether it ended within ``timeout`` (s)."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _forget(self, future: Future[A]) -> None:
        with self._changed:
            self._waiting.pop(future, None)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            if not taken:
                continue
            start = time.monotonic()
            answers: Sequence[A | Exception]
            try:
                answers = self._answer(list(taken.values()))
            except Exception as error:  # the asker decides what it means; the thread must live on
                answers = [error] * len(taken)
            for future, answer in zip(taken, answers, strict=True):
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            spent = time.monotonic() - start
            self._seconds_per_batch += (spent - self._seconds_per_batch) / 4 if self._seconds_per_batch else spent

    def _take(self) -> dict[Future[A], Q] | None:
        """The next batch, perhaps empty if all of it was cancelled; None when there will be no other."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            enough = lambda: len(self._waiting) >= self._batch or self._closing  # noqa: E731
            self._changed.wait_for(enough, self._window)
            kinds = {future: self._alike(question) for future, question in self._waiting.items()}
            first = next(iter(kinds.values()), None)
            alike = [future for future, kind in kinds.items() if kind == first][: self._batch]
            taken = {future: self._waiting[future] for future in alike}
            for future in taken:
                del self._waiting[future]
        return {future: question for future, question in taken.items() if future.set_running_or_notify_cancel()}
