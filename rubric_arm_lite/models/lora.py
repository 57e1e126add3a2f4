"""LoRA adapters of a base: made fresh, written as plain PEFT folders, and read from them once they are checked."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.recipe import LoraSettings, ModelSettings, derive_seed
from rubric_arm_lite.types import ROLES, Role

_NOTICE = "Failed to load CPU gemm_4bit_forward"


def import_peft(settings: ModelSettings) -> None:
    """Import PEFT, and with it bitsandbytes where that is installed, before anything else of ours does.

    On some CPUs bitsandbytes logs at its import that a kernel for 4-bit weights on a CPU is not there. That one notice
    is kept off, during this import alone, for those whose weights are not in 4 bits or not on a CPU.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")

    def concerns(record: logging.LogRecord) -> bool:
        on_cpu_in_4_bits = settings.quantization == "nf4" and not torch.cuda.is_available()
        return on_cpu_in_4_bits or not str(record.msg).startswith(_NOTICE)

    logger.addFilter(concerns)
    try:
        importlib.import_module("peft")
    finally:
        logger.removeFilter(concerns)


def new_adapters(model: Any, settings: ModelSettings, seed: int, roles: Sequence[Role] = ROLES) -> Any:
    """Put a freshly initialised adapter per role on a base; each one's draw depends on ``seed`` and its role alone."""
    from peft import get_peft_model

    config = lora_config(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora", roles[0]))
        peft_model: Any = get_peft_model(model, config, adapter_name=roles[0])
        for role in roles[1:]:
            torch.manual_seed(derive_seed(seed, "lora", role))
            peft_model.add_adapter(role, config)
    return peft_model


def lora_config(settings: ModelSettings) -> Any:
    """PEFT's configuration of either adapter."""
    from peft import LoraConfig

    lora = settings.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )


def write_adapter(model: Any, adapter: str, folder: Path) -> None:
    """Write an adapter of a PEFT model as a plain PEFT folder (safetensors)."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors")
    model.peft_config[adapter].save_pretrained(str(folder))


def read_adapter(
    model: Any, adapter: str, folder: Path, lora: LoraSettings, parameters: Sequence[tuple[str, torch.nn.Parameter]]
) -> None:
    """Copy a saved adapter's weights into the adapter of that name, whose names and parameters are given.

    Raises:
        BackendError: if the folder is not a LoRA adapter of this base and rank.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    _check(folder, lora)
    try:
        state = load_file(folder / "adapter_model.safetensors")
    except Exception as error:  # safetensors raises its own type for a broken header
        raise BackendError(f"{folder}/adapter_model.safetensors cannot be read: {error}. Save it again.") from error
    own = {name: p.shape for name, p in parameters}
    given = {k.replace(".weight", f".{adapter}.weight"): v.shape for k, v in state.items()}
    wrong = sorted(k for k in own.keys() | given.keys() if own.get(k) != given.get(k))
    if wrong:
        name = wrong[0]
        raise BackendError(
            f"{folder} does not fit this base: `{name}` has shape {_shape(given.get(name))} there and "
            f"{_shape(own.get(name))} here ({len(wrong)} differ). Use the base it was trained on, or the same "
            "model.lora.r and target_modules."
        )
    set_peft_model_state_dict(model, state, adapter_name=adapter)


def _check(folder: Path, lora: LoraSettings) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise BackendError(f"{folder} has no {name}: it is not a PEFT adapter. Name a folder that has both.")
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    except ValueError as error:
        raise BackendError(f"{folder}/adapter_config.json is not JSON: {error}. Save the adapter again.") from error
    if not isinstance(config, dict):
        raise BackendError(f"{folder}/adapter_config.json is no mapping. Save the adapter again.")
    if config.get("peft_type") != "LORA":
        raise BackendError(f"{folder} holds a {config.get('peft_type')!r} adapter; only LORA adapters are used.")
    rank = lora.r
    if config.get("r") != rank:
        raise BackendError(
            f"{folder} has rank {config.get('r')}, the recipe says model.lora.r: {rank}. Set it to "
            f"{config.get('r')} or choose another adapter."
        )
    alpha = config.get("lora_alpha")
    if alpha != lora.alpha:
        raise BackendError(
            f"{folder} has lora_alpha {alpha}, the recipe says model.lora.alpha: {lora.alpha:g}. "
            f"Set it to {alpha}: with another scale the adapter would not be what was trained."
        )
    for name in ("use_rslora", "alpha_pattern"):
        if config.get(name):
            raise BackendError(
                f"{folder} uses {name}, which this project does not: its scale would be another. Train it with a "
                "plain lora_alpha."
            )


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape))
