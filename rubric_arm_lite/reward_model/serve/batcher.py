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
from pathlib import Path
from typing import Generic, TypeVar, assert_never

from rubric_arm_lite.errors import BackendError, RubricArmError
from rubric_arm_lite.models.server import RefusedRequest
from rubric_arm_lite.reward_model.model import RubricRewardModel, TooLong
from rubric_arm_lite.reward_model.pointwise import PointwiseScore
from rubric_arm_lite.reward_model.serve.schema import (
    PLACE,
    CompareQuestion,
    Found,
    Question,
    Reply,
    RubricQuestion,
    ScoreQuestion,
)
from rubric_arm_lite.reward_model.verdict import Verdict
from rubric_arm_lite.runs import adapter_folder
from rubric_arm_lite.types import ROLES, ParseStatus, Rubric

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


class ModelDesk:
    """Answers batches of questions; belongs to one thread.

    Args:
        run: the run whose adapters are loaded by the state that a question names; None if there is only one state.
        state: the state that is loaded.
    """

    def __init__(self, model: RubricRewardModel, run: Path | None, state: str) -> None:
        self._model = model
        self._run = run
        self._loaded = () if run is None else _folders(run, state)

    def answer(self, questions: Sequence[Question]) -> list[Reply | Exception]:
        """One reply or error per question; all of them name the same state."""
        try:
            self._use(questions[0].state)
        except RubricArmError as error:
            return [error] * len(questions)
        groups: dict[Hashable, list[int]] = {}
        for i, question in enumerate(questions):
            groups.setdefault(_settings(question), []).append(i)
        replies: dict[int, Reply | Exception] = {}
        for places in groups.values():
            replies |= zip(places, self._ask([questions[i] for i in places]), strict=True)
        return [replies[i] for i in range(len(questions))]

    def _use(self, state: str) -> None:
        """Load the adapters of a state, if others are loaded; ``latest`` may be another folder than before."""
        if self._run is None:
            return
        folders = _folders(self._run, state)
        if folders == self._loaded:
            return
        from rubric_arm_lite.models import AdapterModel

        if not isinstance(self._model.model, AdapterModel):
            raise BackendError("This backend cannot change its adapters. Start it with the state that you want.")
        self._loaded = ()  # what is loaded is unknown until both are
        for role, folder in zip(ROLES, folders, strict=True):
            self._model.model.load_adapter(role, folder)
        self._loaded = folders

    def _ask(self, questions: Sequence[Question]) -> list[Reply | Exception]:
        try:
            found = self._found(questions, "leave")
        except Exception as error:
            ours = isinstance(error, BackendError) and not isinstance(error, RefusedRequest)
            if len(questions) == 1 or ours:
                return [error] * len(questions)
            # One of them is at fault; the others must not pay for it.
            return [reply for question in questions for reply in self._ask([question])]
        return [
            self._alone(question) if _left_out(answer) else self._reply(question, answer)
            for question, answer in zip(questions, found, strict=True)
        ]

    def _alone(self, question: Question) -> Reply | Exception:
        """Ask again for the sentence that says why a question was left out; its rubric comes from the cache."""
        try:
            return self._reply(question, self._found([question], "raise")[0])
        except Exception as error:
            return error

    def _reply(self, question: Question, found: Found) -> Reply:
        return Reply(found, self._model.unknown_words(*_texts(question)))

    def _found(self, questions: Sequence[Question], too_long: TooLong) -> Sequence[Found]:
        """Answers to questions of one kind with the same settings."""
        names = [PLACE] * len(questions)
        match questions[0]:
            case RubricQuestion():
                return self._model.rubrics([q.prompt for q in _only(RubricQuestion, questions)], names, too_long)
            case CompareQuestion(votes=votes, orders=orders):
                pairs = _only(CompareQuestion, questions)
                cases = [(q.prompt, q.response_a, q.response_b, q.rubric) for q in pairs]
                return self._model.compare_many(cases, votes, names, orders, too_long)
            case ScoreQuestion(justify=justify):
                single = [(q.prompt, q.response, q.rubric) for q in _only(ScoreQuestion, questions)]
                return self._model.score_many(single, justify, names, too_long)
            case never:
                assert_never(never)


T = TypeVar("T")


def _only(kind: type[T], questions: Sequence[Question]) -> list[T]:
    return [question for question in questions if isinstance(question, kind)]


def _settings(question: Question) -> Hashable:
    """Questions with equal settings can be asked together."""
    match question:
        case RubricQuestion():
            return "rubric"
        case CompareQuestion(votes=votes, orders=orders):
            return ("compare", votes, orders)
        case ScoreQuestion(justify=justify):
            return ("score", justify)
        case never:
            assert_never(never)


def _left_out(found: Found) -> bool:
    """Whether an answer may be one that was never asked for, since its texts do not fit."""
    match found:
        case Rubric():
            return found.status is ParseStatus.TRUNCATED and not found.text
        case Verdict():
            return not found.winners
        case PointwiseScore():
            return found.value is None and not found.text
        case never:
            assert_never(never)


def _texts(question: Question) -> list[str]:
    prompt = question.prompt
    texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    match question:
        case CompareQuestion(response_a=a, response_b=b):
            return [*texts, a, b]
        case ScoreQuestion(response=response):
            return [*texts, response]
        case _:
            return texts


def _folders(run: Path, state: str) -> tuple[Path, ...]:
    return tuple(adapter_folder(run, role, state) for role in ROLES)
