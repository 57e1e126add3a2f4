"""Runs the GPU checks on a CPU, with a small vocabulary and stand-ins for everything that only a GPU has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import models
import torch

VOCABULARY = 3000
CARD = 16 * 2**30


def begin(checks: Any) -> None:
    """Replace the functions that need a GPU, in torch and in the module of the checks."""
    for shape in models.SHAPES.values():
        shape["vocab_size"] = VOCABULARY
    card: Any = torch.cuda
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "set_per_process_memory_fraction"):
        setattr(card, name, lambda *arguments: None)
    for name in ("max_memory_allocated", "max_memory_reserved", "memory_reserved"):
        setattr(card, name, lambda: 0)
    card.mem_get_info = lambda: (CARD, CARD)
    card.get_device_name = lambda: "none: a rehearsal"
    checks.context_bytes = lambda: 0
    checks._bandwidth = lambda: 1.0
    checks._profile = _no_profile


def _no_profile(call: Callable[[], object]) -> list[dict[str, Any]]:
    call()
    return []
