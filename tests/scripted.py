"""A backend without a model: a function writes the completions. For tests of everything above the backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.types import Example, FinishReason, RolloutGroup, Sample

Written = str | tuple[str, FinishReason]
"""A completion's text, with or without the reason it ended (``stop`` if not given)."""
Script = Callable[[str | None, Example, int], Written]
"""Writes the completion of (adapter, example, index within its group)."""

END_TOKEN = 256


@dataclass(frozen=True, slots=True)
class Call:
    """One call of :meth:`ScriptedSampler.sample`, as it was made."""

    adapter: str | None
    examples: tuple[Example, ...]
    sampling: Sampling


class ScriptedSampler:
    """A :class:`~rubric_arm_lite.models.sampler.Sampler` that answers by a script and remembers what it was asked.

    Tokens are the UTF-8 bytes of the text, then :data:`END_TOKEN` unless the script says the text was cut; every
    log-probability is 0. ``fingerprints`` may be set per adapter, to play an adapter that changed.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.tokens_written = 0
        self.fingerprints: dict[str | None, str] = {}

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """One group per example, ``sampling.num_generations`` completions each; the call is recorded."""
        self.calls.append(Call(adapter, tuple(examples), sampling))
        groups = []
        for example in examples:
            samples = tuple(self._write(adapter, example, i) for i in range(sampling.num_generations))
            groups.append(RolloutGroup(example, _tokens(example.prompt), samples))
        return groups

    def fingerprint(self, adapter: str | None) -> str:
        """What ``fingerprints`` says, else a name made from the adapter's."""
        return self.fingerprints.get(adapter, f"scripted-{adapter}")

    def prompt_tokens(self, prompt: str) -> int:
        """Bytes of the prompt."""
        return len(_tokens(prompt))

    def prompts(self, adapter: str | None) -> list[str]:
        """All prompts that an adapter was given so far, in order."""
        return [example.prompt for call in self.calls if call.adapter == adapter for example in call.examples]

    def _write(self, adapter: str | None, example: Example, index: int) -> Sample:
        written = self.script(adapter, example, index)
        text, reason = written if isinstance(written, tuple) else (written, "stop")
        ids = _tokens(text) + ((END_TOKEN,) if reason == "stop" else ())
        self.tokens_written += len(ids)
        return Sample(text, ids, (0.0,) * len(ids), reason)


def _tokens(text: str) -> tuple[int, ...]:
    return tuple(text.encode("utf-8", "surrogatepass"))
