"""Samplers around another sampler that record: a journal of answers for jobs that resume, and an account of tokens.

Behind a journal every answer is on disk before the next step uses it. An answer's key is everything that determines it
(prompt, seed, sampling), so a killed job is simply run again from its beginning: stored answers come from the journal,
and only those that were in flight are requested once more.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rubric_arm_lite.models.sampler import ChatSampler, Sampler, SamplerWrapper, Sampling, Usage
from rubric_arm_lite.models.server import ServerSampler
from rubric_arm_lite.runs import Journal
from rubric_arm_lite.types import Example, RolloutGroup, Sample

T = TypeVar("T")


def answered(
    sampler: Sampler, adapter: str | None, examples: Sequence[Example], sampling: Sampling, piece: int | None = None
) -> Iterator[tuple[int, RolloutGroup, Usage]]:
    """Index of each example, its group and the tokens it took, as the answers arrive.

    Answers of a server arrive one by one, in any order; those of other samplers in pieces of ``piece`` examples, or all
    at once.
    """
    if isinstance(sampler, ServerSampler):
        yield from sampler.answered(adapter, examples, sampling)
        return
    size = piece or max(1, len(examples))
    for start in range(0, len(examples), size):
        for place, group in enumerate(sampler.sample(adapter, examples[start : start + size], sampling), start):
            yield place, group, Usage(len(group.prompt_ids), sum(len(s.token_ids) for s in group.samples))


@dataclass(slots=True)
class Account:
    """Cost of some work.

    Attributes:
        seconds: wall-clock time.
        requests: prompts that were answered.
        written: completion tokens by example id.
    """

    seconds: float = 0.0
    requests: int = 0
    prompt_tokens: int = 0
    written: Counter[str] = field(default_factory=Counter)

    @property
    def completion_tokens(self) -> int:
        """Completion tokens of all examples."""
        return self.written.total()


class MeteredSampler(SamplerWrapper):
    """Another sampler, with an account of what it samples during :meth:`timed`."""

    def __init__(self, sampler: Sampler) -> None:
        super().__init__(sampler)
        self._account = Account()

    def timed(self, work: Callable[[], T]) -> tuple[T, Account]:
        """Do some work and return its result and its cost."""
        self._account = account = Account()
        started = time.perf_counter()
        result = work()
        account.seconds = time.perf_counter() - started
        return result, account

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.models.sampler.Sampler`."""
        groups: dict[int, RolloutGroup] = {}
        for place, group, usage in answered(self._sampler, adapter, examples, sampling):
            groups[place] = group
            self._account.requests += 1
            self._account.prompt_tokens += usage.prompt_tokens
            self._account.written[group.example.example_id] += usage.completion_tokens
            self.tokens_written += usage.completion_tokens
        return [groups[place] for place in range(len(examples))]


class JournaledSampler(SamplerWrapper):
    """Answers from the journal, else from ``sampler``. One completion per example; ids and log-probs are not kept.

    Args:
        piece: examples that a sampler on this machine writes at once, and a kill can lose. A server's answers are
            stored one by one, as they arrive.

    Attributes:
        used: tokens of each answer that this job used, whether it was sampled now or by an earlier process.
        sampled: how many of them were sampled now.
    """

    def __init__(self, sampler: ChatSampler, journal: Journal, piece: int = 32) -> None:
        super().__init__(sampler)
        self.control_tokens = sampler.control_tokens
        self.used: dict[str, Usage] = {}
        self.sampled = 0
        self._journal = journal
        self._piece = piece

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.models.sampler.Sampler`."""
        if sampling.num_generations != 1:
            raise ValueError("A journal keeps one completion per example; give each an example of its own.")
        identities = [[adapter, example.prompt, example.seed, sampling.describe()] for example in examples]
        keys = [hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32] for parts in identities]
        missing = {key: e for key, e in zip(keys, examples, strict=True) if key not in self._journal.rows}
        missing_keys = list(missing)
        for place, group, usage in answered(self._sampler, adapter, list(missing.values()), sampling, self._piece):
            row = {
                "text": group.samples[0].text,
                "finish_reason": group.samples[0].finish_reason,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
            }
            self._journal.add([(missing_keys[place], row)])
            self.sampled += 1
            self.tokens_written += usage.completion_tokens
        groups = []
        for key, example in zip(keys, examples, strict=True):
            stored = self._journal.rows[key]
            self.used[key] = Usage(stored["prompt_tokens"], stored["completion_tokens"])
            groups.append(RolloutGroup(example, (), (Sample(stored["text"], (), (), stored["finish_reason"]),)))
        return groups
