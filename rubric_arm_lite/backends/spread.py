"""A sampler over several processes: each samples its part of the examples, and all get all groups."""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.backends.base import NextWords, Sampler, Sampling, WordReader
from rubric_arm_lite.errors import BackendError, PromptTooLongError
from rubric_arm_lite.parallel import Processes
from rubric_arm_lite.types import Example, RolloutGroup, Sample


class SpreadSampler:
    """Gives every process a contiguous part of the examples, so that prompts with a common prefix stay together.

    The draws of an example depend on its own seed, so that how they are spread changes nothing but rounding.
    """

    def __init__(self, sampler: Sampler, processes: Processes) -> None:
        self._sampler = sampler
        self._processes = processes
        self.tokens_written = 0

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.backends.base.Sampler`.

        Raises:
            BackendError: in all processes if it was raised in one of them.
        """
        mine = [examples[i] for i in self._processes.share([len(example.prompt) for example in examples])]
        groups: list[RolloutGroup] = []
        problem, too_long = "", False
        try:
            groups = self._sampler.sample(adapter, mine, sampling) if mine else []
        except PromptTooLongError as error:
            # In a part of the examples none may fit, although some do in all: those are written as empty.
            problem, too_long = str(error), True
            cut = (Sample("", (), (), "length"),) * sampling.num_generations
            groups = [RolloutGroup(example, (), cut) for example in mine]
        except BackendError as error:
            problem = str(error)
        gathered = self._processes.gather((groups, problem, too_long))
        hard = next((said for _, said, long in gathered if said and not long), "")
        if hard:
            raise BackendError(hard)
        found = [group for part, _, _ in gathered for group in part]
        written = [long for part, _, long in gathered if part]
        if written and all(written):
            raise PromptTooLongError(next(said for _, said, _ in gathered if said))
        self.tokens_written += sum(len(sample.token_ids) for group in found for sample in group.samples)
        return found

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        """See :class:`~rubric_arm_lite.backends.base.WordReader`.

        Raises:
            BackendError: in all processes if it was raised in one of them, or if the sampler has no probabilities.
        """
        if not isinstance(self._sampler, WordReader):
            raise BackendError("This backend does not give the probabilities of words.")
        mine = [questions[i] for i in self._processes.share([len(q.prompt) + len(q.written) for q in questions])]
        read: list[tuple[float, ...]] = []
        problem = ""
        try:
            read = self._sampler.next_word_logprobs(adapter, mine) if mine else []
        except BackendError as error:
            problem = str(error)
        gathered = self._processes.gather((read, problem))
        if any(said for _, said in gathered):
            raise BackendError(next(said for _, said in gathered if said))
        return [answer for part, _ in gathered for answer in part]

    def fingerprint(self, adapter: str | None) -> str:
        """The sampler's, which is the same in all processes."""
        return self._sampler.fingerprint(adapter)

    def prompt_tokens(self, prompt: str) -> int:
        """The sampler's."""
        return self._sampler.prompt_tokens(prompt)
