"""The queue that answers questions in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.reward_model.serve.batcher import ClosedError, QueueFullError, Worker


class Desk:
    """Answers n by 10 n, and remembers its batches; holds the first one until it is let go."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.go = threading.Event()
        self.asked = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, questions: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(questions))
        self.asked.set()
        assert self.go.wait(10)
        return [ValueError(f"no {n}") if n < 0 else 10 * n for n in questions]


def held_worker(**settings: Any) -> tuple[Desk, Worker[int, int], Any]:
    """A worker that is busy with the question 0, so that what comes now waits."""
    desk = Desk(held=True)
    worker: Worker[int, int] = Worker(desk, window=0.0, **settings)
    first = worker.submit(0)
    assert desk.asked.wait(10)
    return desk, worker, first


def test_what_waits_is_asked_together_and_each_gets_its_own() -> None:
    desk, worker, first = held_worker(batch=4)
    futures = [worker.submit(n) for n in range(1, 7)]
    desk.go.set()
    assert [f.result(10) for f in futures] == [10, 20, 30, 40, 50, 60]
    assert first.result(10) == 0
    assert desk.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert worker.close(10)


def test_the_first_waits_a_little_for_others() -> None:
    desk = Desk()
    worker: Worker[int, int] = Worker(desk, batch=2, window=5.0)
    start = time.monotonic()
    futures = [worker.submit(n) for n in (1, 2)]
    assert [f.result(10) for f in futures] == [10, 20]
    assert desk.batches == [[1, 2]]
    assert time.monotonic() - start < 4  # a full batch waits for nobody
    assert worker.close(10)


def test_only_alike_questions_share_a_batch_and_none_starves() -> None:
    desk, worker, _ = held_worker(alike=lambda n: n % 2)
    futures = [worker.submit(n) for n in (1, 2, 3, 4)]
    desk.go.set()
    assert [f.result(10) for f in futures] == [10, 20, 30, 40]
    assert desk.batches == [[0], [1, 3], [2, 4]]
    assert worker.close(10)


def test_an_error_belongs_to_its_question_and_a_failing_desk_to_all_of_the_batch() -> None:
    desk, worker, _ = held_worker()
    futures = [worker.submit(n) for n in (1, -2, 3)]
    desk.go.set()
    assert futures[0].result(10) == 10
    with pytest.raises(ValueError, match="no -2"):
        futures[1].result(10)
    assert futures[2].result(10) == 30
    assert worker.close(10)

    def fails(questions: Sequence[int]) -> list[int | Exception]:
        raise RuntimeError("broken")

    worker = Worker(fails)
    for _ in range(2):  # the thread lives on
        with pytest.raises(RuntimeError, match="broken"):
            worker.submit(1).result(10)
    assert worker.alive
    assert worker.close(10)
    assert not worker.alive


def test_a_full_queue_takes_nothing_and_a_cancelled_question_makes_room() -> None:
    desk, worker, _ = held_worker(queue=2)
    one, two = worker.submit(1), worker.submit(2)
    with pytest.raises(QueueFullError):
        worker.submit(3)
    assert one.cancel()
    assert worker.waiting == 1
    three = worker.submit(3)
    desk.go.set()
    assert (two.result(10), three.result(10)) == (20, 30)
    assert desk.batches == [[0], [2, 3]]  # what was cancelled is never asked
    assert worker.close(10)


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    desk, worker, first = held_worker()
    waiting = worker.submit(5)
    assert not worker.close(0.05)  # still busy
    with pytest.raises(ClosedError):
        worker.submit(6)
    desk.go.set()
    assert worker.close(10)
    assert (first.result(0), waiting.result(0)) == (0, 50)


def test_the_estimate_grows_with_the_queue() -> None:
    desk, worker, _ = held_worker(batch=1)
    assert worker.wait_estimate() == 1
    worker._seconds_per_batch = 2.0
    futures = [worker.submit(n) for n in range(3)]
    assert worker.wait_estimate() == 8
    worker._seconds_per_batch = 1e6
    assert worker.wait_estimate() == 60
    desk.go.set()
    wait(futures, 10)
    assert worker.close(10)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.integers(1, 7))
def test_every_question_is_answered_once_or_cancelled(plan: list[tuple[int, bool]], batch: int) -> None:
    desk, worker, _ = held_worker(batch=batch, queue=100, alike=lambda n: n % 3)
    futures = [worker.submit(n) for n, _ in plan]
    for future, (_, leaves) in zip(futures, plan, strict=True):
        if leaves:
            assert future.cancel()
    desk.go.set()
    assert worker.close(10)
    for future, (n, leaves) in zip(futures, plan, strict=True):
        assert future.cancelled() if leaves else future.result(0) == 10 * n
    asked = [n for taken in desk.batches[1:] for n in taken]
    assert sorted(asked) == sorted(n for n, leaves in plan if not leaves)
    assert all(len(taken) <= batch and len({n % 3 for n in taken}) == 1 for taken in desk.batches)
