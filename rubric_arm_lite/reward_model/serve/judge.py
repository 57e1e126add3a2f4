"""Answers batches of requests with one reward model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import assert_never, cast

from rubric_arm_lite.errors import BackendError, CheckpointError
from rubric_arm_lite.models import RefusedRequest
from rubric_arm_lite.reward_model.model import RubricRewardModel, TooLong
from rubric_arm_lite.reward_model.serve.schema import (
    REQUEST,
    Body,
    CompareBody,
    Result,
    RubricBody,
    ScoreBody,
    WrittenRubric,
    answer_of,
    is_skipped,
)
from rubric_arm_lite.runs import adapter_folder, states_of
from rubric_arm_lite.types import ROLES


def settings_of(request: Body) -> Hashable:
    """Requests with equal settings can be answered by one call of the reward model."""
    settings = request.model_dump(include={"state", "votes", "orders", "justify"})
    return type(request), *settings.values()


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
        self.model = model
        self.state = state
        self._run = run
        self._all_states = all_states
        self._loaded = self._folders(state)

    def states(self) -> list[str]:
        """States that a request may name; a run that goes on has more of them later."""
        if self._run is None or not self._all_states:
            return [self.state]
        return list(dict.fromkeys((*states_of(self._run), self.state)))

    def answer(self, requests: Sequence[Body]) -> list[WrittenRubric | Exception]:
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
        pairs = zip(requests, results, strict=True)
        answers = [answer_of(result, state, self.model.unknown_words(*_texts(request))) for request, result in pairs]
        return [
            # A skipped request is asked again, alone, for its error; its rubric comes from the cache.
            self.answer([request])[0] if is_skipped(answer) and not alone else answer
            for request, answer in zip(requests, answers, strict=True)
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

    def _ask(self, requests: Sequence[Body], too_long: TooLong) -> Sequence[Result]:
        names = [REQUEST] * len(requests)
        match requests[0]:
            case RubricBody():
                return self.model.rubrics([r.prompt for r in requests], names, too_long)
            case CompareBody(votes=votes, orders=orders):
                compared = cast("Sequence[CompareBody]", requests)
                pairs = [(r.prompt, r.response_a, r.response_b, r.rubric) for r in compared]
                return self.model.compare_many(pairs, votes, names, orders, too_long)
            case ScoreBody(justify=justify):
                scored = cast("Sequence[ScoreBody]", requests)
                responses = [(r.prompt, r.response, r.rubric) for r in scored]
                return self.model.score_many(responses, justify, names, too_long)
            case never:
                assert_never(never)


def _texts(request: Body) -> list[str]:
    prompt = [request.prompt] if isinstance(request.prompt, str) else [turn.content for turn in request.prompt]
    return prompt + [value for name, value in request if name.startswith("response")]
