"""What a service is asked, and the desk that answers a batch of it with the model.

Questions of one kind and with the same settings are asked together. What cannot be answered is an error of that
question alone: a text too long for the context, or one that a server refuses, never fails its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, assert_never

from rubric_arm_lite.backends.server_http import RefusedRequest
from rubric_arm_lite.comparing import TooLong
from rubric_arm_lite.errors import BackendError, RubricArmError
from rubric_arm_lite.pointwise import PointwiseScore
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.run_states import adapter_folder
from rubric_arm_lite.types import ROLES, ParseStatus, Prompt, Rubric
from rubric_arm_lite.verdicts import Orders, Verdict

PLACE = "the request"
"""What an error calls a question."""


@dataclass(frozen=True, slots=True)
class RubricQuestion:
    """Which rubric the generator writes for a prompt."""

    state: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class CompareQuestion:
    """Which of two responses is better."""

    state: str
    prompt: Prompt
    response_a: str
    response_b: str
    rubric: Rubric | None
    votes: int
    orders: Orders


@dataclass(frozen=True, slots=True)
class ScoreQuestion:
    """How far a response meets its rubric."""

    state: str
    prompt: Prompt
    response: str
    rubric: Rubric | None
    justify: bool | None


Question = RubricQuestion | CompareQuestion | ScoreQuestion
Found = Rubric | Verdict | PointwiseScore


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says, and words of the request that its tokenizer does not know."""

    found: Found
    unknown_words: tuple[str, ...]


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
        from rubric_arm_lite.backends.transformers import (
            TwoAdapterModel,
        )  # torch, which a server's client has no use for

        if not isinstance(self._model.model, TwoAdapterModel):
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
            return not found.named
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
