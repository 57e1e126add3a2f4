"""The queue that answers requests in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from rubric_arm_lite.reward_model.serve.batcher import Batcher


class Model:
    """Answers n by 10 n, and remembers its batches; holds the first one until ``go`` is set."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.go = threading.Event()
        self.called = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, requests: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(requests))
        self.called.set()
        assert self.go.wait(10)
        return [ValueError(f"no {n}") if n < 0 else 10 * n for n in requests]


def busy_batcher(**options: Any) -> tuple[Model, Batcher[int, int], Any]:
    """A batcher that is busy with the request 0, so that later ones wait."""
    model = Model(held=True)
    batcher: Batcher[int, int] = Batcher(model, window=0.0, **options)
    first = batcher.submit(0)
    assert model.called.wait(10)
    return model, batcher, first


def test_waiting_requests_are_answered_together_and_each_gets_its_own_answer() -> None:
    model, batcher, first = busy_batcher(batch=4)
    futures = [batcher.submit(n) for n in range(1, 7)]
    model.go.set()
    assert [f.result(10) for f in futures] == [10, 20, 30, 40, 50, 60]
    assert first.result(10) == 0
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]
    assert batcher.close(10)


def test_the_first_request_waits_a_little_for_others() -> None:
    model = Model()
    batcher: Batcher[int, int] = Batcher(model, batch=2, window=5.0)
    start = time.monotonic()
    futures = [batcher.submit(n) for n in (1, 2)]
    assert [f.result(10) for f in futures] == [10, 20]
    assert model.batches == [[1, 2]]
    assert time.monotonic() - start < 4  # a full batch starts at once
    assert batcher.close(10)


def test_only_equal_settings_share_a_batch_and_none_starves() -> None:
    model, batcher, _ = busy_batcher(settings=lambda n: n % 2)
    futures = [batcher.submit(n) for n in (1, 2, 3, 4)]
    model.go.set()
    assert [f.result(10) for f in futures] == [10, 20, 30, 40]
    assert model.batches == [[0], [1, 3], [2, 4]]
    assert batcher.close(10)


def test_an_error_belongs_to_its_request_and_a_failure_to_the_whole_batch() -> None:
    model, batcher, _ = busy_batcher()
    futures = [batcher.submit(n) for n in (1, -2, 3)]
    model.go.set()
    assert futures[0].result(10) == 10
    with pytest.raises(ValueError, match="no -2"):
        futures[1].result(10)
    assert futures[2].result(10) == 30
    assert batcher.close(10)

    def fails(requests: Sequence[int]) -> list[int | Exception]:
        raise RuntimeError("broken")

    batcher = Batcher(fails)
    for _ in range(2):  # the thread lives on
        with pytest.raises(RuntimeError, match="broken"):
            batcher.submit(1).result(10)
    assert batcher.alive
    assert batcher.close(10)
    assert not batcher.alive


def test_a_full_queue_refuses_and_a_cancelled_request_makes_room() -> None:
    model, batcher, _ = busy_batcher(queue=2)
    one, two = batcher.submit(1), batcher.submit(2)
    with pytest.raises(HTTPException, match="2 requests are waiting already"):
        batcher.submit(3)
    assert one.cancel()
    assert batcher.waiting == 1
    three = batcher.submit(3)
    model.go.set()
    assert (two.result(10), three.result(10)) == (20, 30)
    assert model.batches == [[0], [2, 3]]  # the model never sees a canceled request
    assert batcher.close(10)


def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    model, batcher, first = busy_batcher()
    waiting = batcher.submit(5)
    assert not batcher.close(0.05)  # still busy
    with pytest.raises(HTTPException, match="stopping"):
        batcher.submit(6)
    model.go.set()
    assert batcher.close(10)
    assert (first.result(0), waiting.result(0)) == (0, 50)


def test_retry_after_grows_with_the_time_of_a_batch() -> None:
    model, batcher, _ = busy_batcher(batch=1, queue=3)
    for n in range(3):
        batcher.submit(n)
    for seconds, retry_after in ((0.0, "1"), (2.0, "8"), (1e6, "60")):
        batcher._seconds_per_batch = seconds
        with pytest.raises(HTTPException) as refused:
            batcher.submit(9)
        assert refused.value.headers == {"retry-after": retry_after}
    model.go.set()
    assert batcher.close(10)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.integers(1, 7))
def test_every_request_is_answered_once_or_cancelled(plan: list[tuple[int, bool]], batch: int) -> None:
    model, batcher, _ = busy_batcher(batch=batch, queue=100, settings=lambda n: n % 3)
    futures = [batcher.submit(n) for n, _ in plan]
    for future, (_, leaves) in zip(futures, plan, strict=True):
        if leaves:
            assert future.cancel()
    model.go.set()
    assert batcher.close(10)
    for future, (n, leaves) in zip(futures, plan, strict=True):
        assert future.cancelled() if leaves else future.result(0) == 10 * n
    answered = [n for taken in model.batches[1:] for n in taken]
    assert sorted(answered) == sorted(n for n, leaves in plan if not leaves)
    assert all(len(taken) <= batch and len({n % 3 for n in taken}) == 1 for taken in model.batches)
