"""The interface of a backend that samples completions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rubric_arm_lite.types import Example, RolloutGroup


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn; temperature 0 is greedy.

    ``thinking`` switches a reasoning model's thoughts on in its chat template. Adapters are trained and used without
    them; only the comparison with reasoning judges sets it.
    """

    max_tokens: int
    num_generations: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    thinking: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.num_generations < 1:
            raise ValueError(f"max_tokens and num_generations must be at least 1, got {self}.")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature must not be negative and top_p lies in (0, 1], got {self}.")

    def describe(self) -> str:
        """Text that identifies the decoding settings, for cache keys."""
        thinking = "-thinking" if self.thinking else ""
        return f"t{self.temperature:g}-p{self.top_p:g}-n{self.max_tokens}{thinking}"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one example."""

    prompt_tokens: int
    completion_tokens: int


class Sampler(Protocol):
    """Draws completions with one adapter active; ``None`` is the base without adapters."""

    tokens_written: int
    """Tokens sampled since the sampler was made, for throughput."""

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """One group per example, in order. The draws of an example depend on its seed alone."""
        ...

    def fingerprint(self, adapter: str | None) -> str:
        """Hash of the adapter's weights, part of the rubric cache's key."""
        ...

    def prompt_tokens(self, prompt: str) -> int:
        """Length of a user turn in tokens, with the chat template around it."""
        ...


class ChatSampler(Sampler, Protocol):
    """A sampler that knows its tokenizer's control tokens, so that prompts can break them up."""

    def control_tokens(self) -> Sequence[str | re.Pattern[str]]:
        """Strings, or patterns of them, that untrusted text must not bring into a prompt."""
        ...


class SamplerWrapper:
    """Base of samplers around another one, to which they leave all but sampling."""

    def __init__(self, sampler: Sampler) -> None:
        self.tokens_written = 0
        self._sampler = sampler

    def fingerprint(self, adapter: str | None) -> str:
        """See :class:`Sampler`."""
        return self._sampler.fingerprint(adapter)

    def prompt_tokens(self, prompt: str) -> int:
        """See :class:`Sampler`."""
        return self._sampler.prompt_tokens(prompt)


@dataclass(frozen=True, slots=True)
class NextWords:
    """A position in an answer, and possible continuations.

    Attributes:
        prompt: the user turn.
        written: the answer up to that position.
        options: the continuations, each with the blank it begins with.
    """

    prompt: str
    written: str
    options: tuple[str, ...]


@runtime_checkable
class WordReader(Protocol):
    """A sampler that also computes the probabilities of given words."""

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        """Log-probabilities, in nats at temperature 1, of each question's options."""
        ...
