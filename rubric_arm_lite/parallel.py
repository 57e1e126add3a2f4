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

from rubric_arm_lite.errors import ConfigError

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
