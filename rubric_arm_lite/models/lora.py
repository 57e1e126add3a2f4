"""LoRA adapters: makes them, checks and reads saved PEFT folders, and makes, saves and restores their optimizers."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rubric_arm_lite.errors import BackendError, clean, first_line
from rubric_arm_lite.models.base import read_config
from rubric_arm_lite.recipe import GRPOSettings, LoraSettings, ModelSettings, derive_seed
from rubric_arm_lite.types import Role

_UNSUPPORTED_OPTIONS = (
    *("use_rslora", "alpha_pattern", "use_dora", "alora_invocation_tokens", "use_qalora", "use_bdlora", "lora_bias"),
    *("kasa_config", "monteclora_config", "arrow_config", "layer_replication"),
)
"""PEFT's options that make an adapter compute something else than base + alpha / r · BA."""
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
"""PEFT's ways to initialize an adapter that leave the base as it is; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA do not."""
_NOTICE = "Failed to load CPU gemm_4bit_forward"


def import_peft(settings: ModelSettings) -> None:
    """Import PEFT, and with it bitsandbytes where that is installed, before anything else of ours does.

    On some CPUs bitsandbytes logs at its import that it lacks a kernel for 4-bit weights on a CPU. This notice is
    hidden, during this import only, unless weights are in 4 bits and on a CPU. A torchao that PEFT refuses is hidden
    for good.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")

    def is_relevant(record: logging.LogRecord) -> bool:
        on_cpu_in_4_bits = settings.quantization == "nf4" and not torch.cuda.is_available()
        return on_cpu_in_4_bits or not str(record.msg).startswith(_NOTICE)

    logger.addFilter(is_relevant)
    try:
        importlib.import_module("peft")
    finally:
        logger.removeFilter(is_relevant)
    _hide_old_torchao()


def _hide_old_torchao() -> None:
    """Keep a torchao that PEFT refuses out of this process.

    PEFT looks for quantized weights of torchao in every layer that gets an adapter, and raises if an old version is
    installed, even where no weight is quantized by it. Colab's image has such a version.
    """
    from peft.import_utils import is_torchao_available

    try:
        is_torchao_available()
    except ImportError:
        version = importlib.metadata.version("torchao")
        sys.modules["torchao"] = None  # type: ignore[assignment]  # Python's way to say that there is no such module
        warnings.warn(
            f"torchao {version} is older than PEFT accepts. Nothing here needs it, so this process goes on without it. "
            "To remove this note: pip uninstall torchao, or install a newer one.",
            stacklevel=2,
        )


def lora_options(lora: LoraSettings) -> dict[str, Any]:
    """The recipe's settings by PEFT's names."""
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return {"r": lora.r, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "target_modules": targets}


def layers_without_adapter(model: Any) -> list[str]:
    """Names of linear layers that an adapter on all linear layers must leave out.

    A few return more than a tensor (Llama-4's router), and PEFT refuses the output layers of Mamba, whose kernels read
    the weight itself.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    names = set()
    for name, module in linear.items():
        if type(module).__module__.startswith("transformers.models."):  # only classes of its own model code do so
            with torch.no_grad():
                out = module(module.weight.new_zeros((1, 1, module.in_features)))
            names |= set() if isinstance(out, torch.Tensor) else {name}
    if getattr(model.config, "model_type", "") in ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"):
        names |= {name for name in linear if name.endswith(".out_proj")}
    return sorted(names)


def add_adapters(model: Any, settings: ModelSettings, seed: int, roles: Sequence[Role]) -> Any:
    """A PEFT model with a freshly initialized adapter per role; its values depend only on ``seed`` and the role.

    Args:
        model: a base, or a PEFT model that gets the adapters in addition to its own.

    Raises:
        ValueError: if the base has no such layers, or one of them cannot have an adapter.
    """
    import_peft(settings)
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(**lora_options(settings.lora), task_type="CAUSAL_LM")
    if config.target_modules == "all-linear":
        config.exclude_modules = layers_without_adapter(model) or None
    with torch.random.fork_rng(devices=[]):
        for role in roles:
            torch.manual_seed(derive_seed(seed, "lora", role))
            if isinstance(model, PeftModel):
                model.add_adapter(role, config)
            else:
                model = get_peft_model(model, config, adapter_name=role)
    _check_targets(model, settings.lora)
    return model


def _check_targets(model: Any, lora: LoraSettings) -> None:
    """Refuse a name that no layer has, of which PEFT says nothing if another one fits, and an embedding's weights."""
    base, targeted = model.get_base_model(), model.base_model.targeted_module_names
    names = [] if lora.target_modules == "all-linear" else lora.target_modules
    for name in names:
        if not any(f".{path}".endswith(f".{name}") for path in targeted):
            raise ValueError(f"target_modules: no layer is called {name}. Correct the name, or use all-linear.")
    embedding = base.get_input_embeddings().weight
    for path in targeted:
        layer = base.get_submodule(path)
        if isinstance(layer.get_base_layer(), torch.nn.Embedding):
            raise ValueError(f"target_modules: {path} is an embedding. Name linear layers, or use all-linear.")
        if layer.weight is embedding:
            raise ValueError(
                f"target_modules: {path} shares its weights with the embedding, so its adapter could not be merged. "
                "Leave it out."
            )


def read_adapter(
    adapter: str, folder: Path, lora: LoraSettings, parameters: Sequence[tuple[str, torch.nn.Parameter]]
) -> None:
    """Copy a saved adapter's weights into the adapter of that name, with these ``parameters``.

    Raises:
        BackendError: if the folder is not a LoRA adapter of this base and rank.
    """
    from safetensors.torch import load_file

    check_adapter(folder, lora)
    try:
        state = load_file(folder / "adapter_model.safetensors")
    except Exception as error:  # safetensors raises its own type for a broken header
        raise BackendError(
            f"{folder}/adapter_model.safetensors cannot be read: {first_line(error)}. Save it again."
        ) from error
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise BackendError(
            f"{folder}/adapter_model.safetensors: `{clean(broken[0])}` holds numbers that are not finite, as do "
            f"{len(broken)} of {len(state)} tensors. Use an earlier state of the adapter, or train it again at a lower "
            "learning rate."
        )
    weights = {f"{k.removesuffix('.weight')}.{adapter}.weight": v for k, v in state.items()}
    expected, saved = ({name: p.shape for name, p in named} for named in (parameters, weights.items()))
    different = sorted(k for k in expected.keys() | saved.keys() if expected.get(k) != saved.get(k))
    if different:
        name = different[0]
        there, here = ("×".join(map(str, shapes.get(name, ()))) or "missing" for shapes in (saved, expected))
        raise BackendError(
            f"{folder} does not fit this base: `{clean(name)}` has shape {there} there and "
            f"{here} here ({len(different)} differ). Use the base it was trained on, or the same "
            "model.lora.r and target_modules."
        )
    with torch.no_grad():
        for name, parameter in parameters:
            parameter.copy_(weights[name])


def check_adapter(folder: Path, lora: LoraSettings) -> None:
    """Refuse a folder that is no LoRA adapter in safetensors of the recipe's scale, before PEFT reads it.

    Raises:
        BackendError: says what differs.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise BackendError(f"{folder} has no {name}: it is not a PEFT adapter. Name a folder that has both.")
    config = read_config(folder / "adapter_config.json", "Save the adapter again.")
    said = {name: clean(str(config.get(name)), 80) for name in ("peft_type", "r", "lora_alpha", "init_lora_weights")}
    if config.get("peft_type") != "LORA":
        raise BackendError(f"{folder} holds a {said['peft_type']!r} adapter; only LORA adapters are used.")
    if config.get("r") != lora.r:
        raise BackendError(
            f"{folder} has rank {said['r']}, the recipe says model.lora.r: {lora.r}. Set it to {said['r']} or choose "
            "another adapter."
        )
    if config.get("lora_alpha") != lora.alpha:
        raise BackendError(
            f"{folder} has lora_alpha {said['lora_alpha']}, the recipe says model.lora.alpha: {lora.alpha:g}. Set it "
            f"to {said['lora_alpha']}: another scale would change the trained adapter."
        )
    for name in _UNSUPPORTED_OPTIONS:
        if config.get(name):
            raise BackendError(
                f"{folder} uses {name}, which this project does not support: it would compute something else. Train a "
                "plain LoRA adapter."
            )
    if config.get("init_lora_weights") not in _PLAIN_INITS:
        raise BackendError(
            f"{folder} starts from {said['init_lora_weights']}, which changes the weights of the base as well, so it "
            "does not fit the base itself. Convert it to a plain LoRA adapter: save it again with PEFT's "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )


def make_optimizer(settings: GRPOSettings, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over the parameters of one adapter, as the recipe configures it.

    Raises:
        BackendError: if the recipe asks for 8 bits and bitsandbytes is not installed.
    """
    betas = (settings.adam_beta1, settings.adam_beta2)
    options: dict[str, Any] = {"lr": settings.learning_rate, "betas": betas, "weight_decay": settings.weight_decay}
    if settings.optim == "adamw_torch":
        return torch.optim.AdamW(parameters, **options)
    optimizer: torch.optim.Optimizer = adamw_8bit()(parameters, **options)
    return optimizer


def adamw_8bit() -> Any:
    """The class of bitsandbytes; a BackendError if that is not installed."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it prints a notice about kernels
            from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise BackendError(
            "optim: adamw_8bit needs bitsandbytes. Install it, in the project's folder, with pip install -e '.[gpu]', "
            "or set optim to adamw_torch."
        ) from error
    return AdamW8bit


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
