"""Several processes on one run, as ``torchrun`` starts them.

Every process runs the same program on the same data with the same seeds. Two things are divided: sampling (each process
writes completions for its part of the prompts, and all receive all of them) and updates (each computes the gradient of
its part of the rows, and all step with the sum). Weights therefore stay equal without being sent, and all processes
compute the same logs; the first one writes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from rubric_arm_lite.errors import BackendError, ConfigError, PromptTooLongError
from rubric_arm_lite.models.sampler import NextWords, Sampler, SamplerWrapper, Sampling, WordReader
from rubric_arm_lite.types import Example, RolloutGroup, Sample

T = TypeVar("T")
LAUNCHER_VARIABLES = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
"""What ``torchrun`` tells a process, and what holds without it."""
TIMEOUT = timedelta(hours=4)
"""How long a process waits for the others, which may be writing a report or sampling long texts."""


class Processes:
    """The processes of a run, seen from one of them."""

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.world = world
        self._group = group  # over the CPU, for Python objects and small sums

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Block until all processes have arrived here."""
        if self.world > 1:
            torch.distributed.barrier(group=self._group)

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value, group=self._group)
        return values

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over processes, bit-identical in all of them."""
        if self.world > 1:
            group = self._group if tensor.device.type == "cpu" else None
            torch.distributed.all_reduce(tensor, group=group)

    def own_indices(self, weights: Sequence[int]) -> range:
        """Indices of this process's part of a sequence: contiguous, and about equal in weight."""
        total, passed = sum(weights), 0
        owners = []
        for weight in weights:
            middle = passed + weight / 2
            owners.append(min(self.world - 1, int(self.world * middle / total)) if total else 0)
            passed += weight
        mine = [i for i, owner in enumerate(owners) if owner == self.rank]
        return range(mine[0], mine[-1] + 1) if mine else range(0)

    def close(self) -> None:
        """Leave the process group."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


ALONE = Processes()


def connect_processes() -> Processes:
    """Connect the processes that ``torchrun`` or ``accelerate launch`` started; :data:`ALONE` without a launcher.

    Raises:
        ConfigError: if the launcher's variables are invalid, or there are more processes than GPUs.
    """
    variables = {name: os.environ.get(name, default) for name, default in LAUNCHER_VARIABLES.items()}
    for name, value in variables.items():
        if not value.isdecimal():
            raise ConfigError(
                f"{name}={value!r} is not a number. Start the processes with torchrun --nproc_per_node N."
            )
    world, rank, local = map(int, variables.values())
    if world <= 1:
        return ALONE
    if rank >= world:
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
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT) if cuda else None
    return Processes(rank, world, group)


class ParallelSampler(SamplerWrapper):
    """Gives every process a contiguous part of the examples, so that prompts with a common prefix stay together.

    The draws of an example depend on its own seed, so the division changes nothing but rounding.
    """

    def __init__(self, sampler: Sampler, processes: Processes) -> None:
        super().__init__(sampler)
        self._processes = processes

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.models.sampler.Sampler`.

        Raises:
            BackendError: in all processes if one of them raised it.
        """
        # Where only one part has no prompt that fits, its samples are empty, as within a part.
        empty = (Sample("", (), (), "length"),) * sampling.num_generations
        groups = self._divide(
            [len(example.prompt) for example in examples],
            lambda indices: self._sampler.sample(adapter, [examples[i] for i in indices], sampling),
            lambda i: RolloutGroup(examples[i], (), empty),
        )
        self.tokens_written += sum(len(sample.token_ids) for group in groups for sample in group.samples)
        return groups

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        """See :class:`~rubric_arm_lite.models.sampler.WordReader`.

        Raises:
            BackendError: in all processes if one of them raised it, or if the sampler has no probabilities.
        """
        reader = self._sampler
        if not isinstance(reader, WordReader):
            raise BackendError("This backend does not give the probabilities of words.")
        return self._divide(
            [len(question.prompt) + len(question.written) for question in questions],
            lambda indices: reader.next_word_logprobs(adapter, [questions[i] for i in indices]),
        )

    def _divide(
        self, weights: Sequence[int], work: Callable[[range], list[T]], too_long: Callable[[int], T] | None = None
    ) -> list[T]:
        """Results of all processes, each of which works on its own indices; an error of one is raised in all.

        With ``too_long``, which makes the result of one index, a part whose prompts are all too long is no error
        unless no part has a prompt that fits.
        """
        indices = self._processes.own_indices(weights)
        results: list[T] = []
        problem, long = "", False
        try:
            results = work(indices) if indices else []
        except BackendError as error:
            problem = str(error)
            if too_long and isinstance(error, PromptTooLongError):
                results, long = [too_long(i) for i in indices], True
        parts = self._processes.gather((results, problem, long))
        for _, message, long in parts:
            if message and not long:
                raise BackendError(message)
        if any(part for part, _, _ in parts) and all(long for part, _, long in parts if part):
            raise PromptTooLongError(next(message for _, message, _ in parts if message))
        return [result for part, _, _ in parts for result in part]
