"""Several processes on one run, as ``torchrun`` starts them: each does its share, all know everything.

Every process runs the same program on the same data with the same seeds. Two things are shared out: sampling (each
process writes completions for its part of the prompts, and all get all of them) and updates (each computes the gradient
of its part of the rows, and all step with the sum). Weights therefore stay equal without being sent around, and
whatever is logged is the same everywhere; the first process writes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from rubric_arm_lite.errors import BackendError, ConfigError, PromptTooLongError
from rubric_arm_lite.models.sampler import NextWords, Sampler, Sampling, WordReader
from rubric_arm_lite.types import Example, RolloutGroup, Sample

T = TypeVar("T")
PATIENCE = timedelta(hours=4)
"""How long a process waits for the others: the first may be writing a report, or sampling long texts."""


class Processes:
    """The processes of a run, seen from one of them."""

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.world = world
        self._group = group  # over the CPU, for Python objects and small sums

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on once all processes have come here."""
        if self.world > 1:
            torch.distributed.barrier(group=self._group)

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value, group=self._group)
        return found

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over processes, to the last bit the same in all of them."""
        if self.world > 1:
            group = self._group if tensor.device.type == "cpu" else None
            torch.distributed.all_reduce(tensor, group=group)

    def share(self, weights: Sequence[int], rank: int | None = None) -> range:
        """Indices of one process's part of a sequence: contiguous, and about equal in weight."""
        rank = self.rank if rank is None else rank
        total, passed = sum(weights), 0
        owners = []
        for weight in weights:
            middle = passed + weight / 2
            owners.append(min(self.world - 1, int(self.world * middle / total)) if total else 0)
            passed += weight
        mine = [i for i, owner in enumerate(owners) if owner == rank]
        return range(mine[0], mine[-1] + 1) if mine else range(0)

    def close(self) -> None:
        """Say goodbye to the others."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


ALONE = Processes()


def join() -> Processes:
    """The processes that ``torchrun`` or ``accelerate launch`` started, connected; :data:`ALONE` without a launcher.

    Raises:
        ConfigError: if the launcher's variables make no sense, or there are more processes than GPUs.
    """
    world, rank, local = _number("WORLD_SIZE", 1), _number("RANK", 0), _number("LOCAL_RANK", 0)
    if world <= 1:
        return ALONE
    if not 0 <= rank < world:
        raise ConfigError(f"RANK={rank} with WORLD_SIZE={world}: start the processes with torchrun --nproc_per_node N.")
    cuda = torch.cuda.is_available()
    if cuda:
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"Process {local} of this machine has no GPU: there are {torch.cuda.device_count()}. Use torchrun "
                f"--nproc_per_node {torch.cuda.device_count()}."
            )
        torch.cuda.set_device(local)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if cuda else None
    return Processes(rank, world, group)


def _number(name: str, otherwise: int) -> int:
    given = os.environ.get(name)
    if given is None:
        return otherwise
    try:
        return int(given)
    except ValueError:
        raise ConfigError(
            f"{name}={given!r} is no number. Start the processes with torchrun --nproc_per_node N."
        ) from None


class SpreadSampler:
    """Gives every process a contiguous part of the examples, so that prompts with a common prefix stay together.

    The draws of an example depend on its own seed, so that how they are spread changes nothing but rounding.
    """

    def __init__(self, sampler: Sampler, processes: Processes) -> None:
        self._sampler = sampler
        self._processes = processes
        self.tokens_written = 0

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.models.sampler.Sampler`.

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
        """See :class:`~rubric_arm_lite.models.sampler.WordReader`.

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
