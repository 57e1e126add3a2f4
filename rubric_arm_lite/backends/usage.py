"""What answers took, in tokens, whichever sampler wrote them; and a sampler that keeps the account."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rubric_arm_lite.backends.base import Sampler, Sampling, Usage
from rubric_arm_lite.backends.server import ServerSampler
from rubric_arm_lite.types import Example, RolloutGroup

T = TypeVar("T")


def answered(
    sampler: Sampler, adapter: str | None, examples: Sequence[Example], sampling: Sampling, piece: int | None = None
) -> Iterator[tuple[int, RolloutGroup, Usage]]:
    """Groups with the place of their example and what they took.

    A server's come one by one, in the order of its answers; other samplers' in pieces of ``piece`` examples, or all
    at once.
    """
    if isinstance(sampler, ServerSampler):
        yield from sampler.answered(adapter, examples, sampling)
        return
    for start in range(0, len(examples), piece or max(1, len(examples))):
        groups = sampler.sample(adapter, examples[start : start + (piece or len(examples))], sampling)
        for place, group in enumerate(groups, start):
            yield place, group, Usage(len(group.prompt_ids), sum(len(s.token_ids) for s in group.samples))


@dataclass(slots=True)
class Account:
    """What some work took.

    Attributes:
        seconds: wall-clock time.
        requests: prompts that were answered.
        written: tokens written, by example id.
    """

    seconds: float = 0.0
    requests: int = 0
    prompt_tokens: int = 0
    written: Counter[str] = field(default_factory=Counter)

    @property
    def completion_tokens(self) -> int:
        """Tokens written in all."""
        return self.written.total()


class MeteredSampler:
    """Another sampler, with an account of what it is asked during :meth:`timed`."""

    def __init__(self, sampler: Sampler) -> None:
        self.tokens_written = 0
        self._sampler = sampler
        self._account = Account()

    def timed(self, work: Callable[[], T]) -> tuple[T, Account]:
        """Do some work and return what it gave and took."""
        self._account = account = Account()
        started = time.perf_counter()
        result = work()
        account.seconds = time.perf_counter() - started
        return result, account

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.backends.base.Sampler`."""
        found: dict[int, RolloutGroup] = {}
        for place, group, usage in answered(self._sampler, adapter, examples, sampling):
            found[place] = group
            self._account.requests += 1
            self._account.prompt_tokens += usage.prompt_tokens
            self._account.written[group.example.example_id] += usage.completion_tokens
            self.tokens_written += usage.completion_tokens
        return [found[place] for place in range(len(examples))]

    def fingerprint(self, adapter: str | None) -> str:
        """The sampler's."""
        return self._sampler.fingerprint(adapter)

    def prompt_tokens(self, prompt: str) -> int:
        """The sampler's."""
        return self._sampler.prompt_tokens(prompt)
