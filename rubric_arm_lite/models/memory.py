"""Measures how many tokens of an update fit into memory, and detects when it runs out."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

CPU_CAP = 16384
"""Tokens of a micro-batch on a CPU, where larger ones are no faster."""
CPU_AIM = 128 * 1024 * 1024
"""Bytes that several groups together may save for backward on a CPU: more is no faster, only held longer."""
CUDA_CAP = 262144
SHARE_CPU, SHARE_CUDA = 0.25, 0.8
"""Fractions of the memory that an update may take: of all memory on a CPU, of the free memory on a GPU."""
BACKWARD = 2.0
"""Memory of backward relative to what forward saved, on a CPU: it also holds gradients."""


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Tokens of one micro-batch.

    Attributes:
        most: tokens that memory allows; a group of rows with one prompt is split only if it alone exceeds this.
        aim: limit for several groups together, at most ``most``.
    """

    most: int
    aim: int

    @classmethod
    def flat(cls, tokens: int) -> TokenBudget:
        """The same limit for both."""
        return cls(tokens, tokens)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


@contextmanager
def saved_bytes(model: torch.nn.Module) -> Iterator[list[int]]:
    """Count, in a list of one number, the bytes that autograd saves for backward beyond the model's own tensors."""
    of_model = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # Storages, not tensors: tensors would hold the graph, which holds this function, forever. They are kept while
    # counting, so that no address is used again.
    seen: dict[int, torch.UntypedStorage] = {}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_model and storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage
            total[0] += storage.nbytes()
        # Detached: an operation that saves its own output would otherwise hold itself, and the whole graph, forever.
        return tensor.detach()

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield total
    finally:
        seen.clear()


def token_budget(
    model: torch.nn.Module, device: torch.device, step: Callable[[int, bool], int], longest: int
) -> TokenBudget:
    """Tokens that one micro-batch may hold.

    On a CPU the bytes that forward saves per token are counted, which is reproducible. On a GPU two updates of
    different size are run, and their peaks give the fixed part and the part per token.

    Args:
        step: runs an update of about this many tokens, with backward if the flag is set, and returns the exact number.
        longest: tokens of the longest row, which no budget can split.
    """
    if device.type != "cuda":
        with saved_bytes(model) as total:
            tokens = step(longest, False)
        if not total[0]:  # nothing trains; the update itself reports it
            return TokenBudget.flat(max(longest, CPU_CAP))
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * SHARE_CPU
        per_token = total[0] / tokens
        most = max(longest, min(CPU_CAP, int(memory / (BACKWARD * per_token))))
        return TokenBudget(most, min(most, int(CPU_AIM / per_token)))

    def peak(target: int) -> tuple[int, int]:
        """Exact tokens of an update of about ``target`` tokens, and its peak of bytes."""
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        tokens = step(target, True)
        torch.cuda.synchronize(device)
        return tokens, torch.cuda.max_memory_allocated(device) - before

    few, low = peak(longest)
    try:
        many, high = peak(2 * longest)
    except torch.OutOfMemoryError:
        many = high = 0
    if not many:  # outside the handler, where the error no longer holds the tensors of its frames
        torch.cuda.empty_cache()
        return TokenBudget.flat(max(longest, few))
    free = free_cuda(device) * SHARE_CUDA
    per_token = (high - low) / (many - few) if many > few and high > low else low / few
    return TokenBudget.flat(max(longest, min(CUDA_CAP, int(few + (free - low) / per_token))))


def free_cuda(device: torch.device) -> int:
    """Bytes that tensors may still take on a GPU: cached blocks count as free, within a cap on this process."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    cap = int(total * torch.cuda.get_per_process_memory_fraction(index))
    return max(0, min(free + torch.cuda.memory_reserved(device) - allocated, cap - allocated))


def peak_bytes(device: torch.device) -> int:
    """The most bytes that tensors took on a GPU so far, or on a CPU the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
