"""The optimizer of one adapter, and its state as tensors on the CPU for checkpoints."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.recipe import GRPOSettings


def make_optimizer(settings: GRPOSettings, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over the parameters of one adapter, as the recipe configures it.

    Raises:
        BackendError: if the recipe asks for 8 bits and bitsandbytes is not installed.
    """
    betas = (settings.adam_beta1, settings.adam_beta2)
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": betas, "weight_decay": settings.weight_decay}
    if settings.optim == "adamw_torch":
        return torch.optim.AdamW(parameters, **options)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it prints a notice about kernels
            from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise BackendError(
            "optim: adamw_8bit needs bitsandbytes. Install it, in the project's folder, with pip install -e '.[gpu]', "
            "or set optim to adamw_torch."
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **options)
    return optimizer


def state_of(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
    """The optimizer's state of a parameter, copied to the CPU; empty before its first step."""
    state = optimizer.state.get(parameter, {})
    return {name: torch.as_tensor(value).detach().cpu().contiguous().clone() for name, value in state.items()}


def put_state(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, state: Mapping[str, Tensor]) -> None:
    """Restore what :func:`state_of` returned."""
    placed: dict[str, Tensor | int] = {}
    for name, value in state.items():
        if name != "step":
            placed[name] = value.to(parameter.device, copy=True)
        else:  # torch keeps its step count as a tensor on the CPU, bitsandbytes as a number
            placed[name] = value.clone() if isinstance(optimizer, torch.optim.AdamW) else int(value)
    optimizer.state[parameter] = placed
