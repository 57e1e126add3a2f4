"""Load a base model and its tokenizer from a folder or the Hub, checked, and put the adapters on it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.errors import BackendError, first_line
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.lora import import_peft, new_adapters
from rubric_arm_lite.models.shared_prefix.attention import kernel_error
from rubric_arm_lite.models.shared_prefix.passes import NAME, register, sharing_error
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.types import ROLES, Role

_PROBE = "Write a note about rivers."
SHARING_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest relative difference of hidden states that rounding explains, with room to spare."""


def load_model(settings: ModelSettings, seed: int, roles: Sequence[Role] = ROLES) -> AdapterModel:
    """The base of a recipe with a fresh adapter per role.

    Weights come from safetensors only and no code from the model's repository is run.

    Raises:
        BackendError: if the folder is missing, is no causal language model, or its tokenizer cannot be used.
    """
    name = _name(settings)
    _check_folder(name)
    tokenizer = _load_tokenizer(name, settings)
    if settings.backend == "unsloth":
        from rubric_arm_lite.models.unsloth import load_unsloth

        model = load_unsloth(name, tokenizer, settings, choose_dtype(settings), seed, roles)
        _check_together(model.model.get_base_model(), tokenizer, name, settings)
        return model
    base = _load_base(name, settings)
    _check_together(base, tokenizer, name, settings)
    return two_adapters(base, tokenizer, settings, seed, roles)


def _check_together(base: Any, tokenizer: Any, name: str, settings: ModelSettings) -> None:
    limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and settings.max_context > limit:
        shipped = " It is the testbed's, which recipes without a model.base have." if settings.base == "testbed" else ""
        raise BackendError(
            f"model.max_context: {settings.max_context} is more than `{name}` can take ({limit}).{shipped} Lower "
            "it, or name another model in model.base."
        )
    if len(tokenizer) > base.get_input_embeddings().weight.shape[0]:
        raise BackendError(
            f"`{name}`: the tokenizer has {len(tokenizer)} tokens, the model embeds "
            f"{base.get_input_embeddings().weight.shape[0]}. They do not belong together; use the model's own."
        )


def two_adapters(
    base: Any, tokenizer: Any, settings: ModelSettings, seed: int, roles: Sequence[Role] = ROLES
) -> AdapterModel:
    """Fresh adapters on a base that is loaded already.

    PEFT's ``prepare_model_for_kbit_training`` is left out on purpose: it would copy all that is not quantised, the
    embeddings and the head, to float32 (2.5 GB become 5 with a vocabulary of 150,000). Norms compute in float32
    anyway, and what is frozen need not be exact to be trained through.

    Raises:
        BackendError: if the adapters' settings do not fit the base.
    """
    if settings.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    try:
        model = new_adapters(base, settings, seed, roles)
    except ValueError as error:
        raise BackendError(f"model.lora does not fit `{settings.base}`: {error}") from error
    return AdapterModel(model, tokenizer, settings)


def load_for_trainer(settings: ModelSettings, adapter: Path) -> Any:
    """The base with one saved adapter, trainable, under the only name that other trainers know: ``default``."""
    from peft import PeftModel

    name = _name(settings)
    _check_folder(name)
    base = _load_base(name, settings.model_copy(update={"shared_prefix": False}))
    return PeftModel.from_pretrained(base, adapter, is_trainable=True)


def load_tokenizer(settings: ModelSettings) -> Any:
    """The base's tokenizer, checked."""
    return _load_tokenizer(_name(settings), settings)


def _name(settings: ModelSettings) -> str:
    return str(base_folder()) if settings.base == "testbed" else settings.base


def choose_dtype(settings: ModelSettings) -> torch.dtype:
    """The recipe's dtype; ``auto`` is float32 on a CPU, bfloat16 where the card has it, else float16."""
    match settings.dtype:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "float16":
            return torch.float16
        case _:
            if not torch.cuda.is_available():
                return torch.float32
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _check_folder(name: str) -> None:
    """Refuse what cannot be loaded before anything heavy starts. A name that is no local path may be a Hub id."""
    folder = Path(name)
    if not folder.exists():
        looks_local = name.startswith(("/", ".", "~")) or name.count("/") != 1
        if looks_local:
            raise BackendError(f"model.base: {name} does not exist. Give a folder, a Hub id (owner/name) or testbed.")
        return
    if not folder.is_dir():
        raise BackendError(f"model.base: {name} is a file. Give the folder that holds config.json.")
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise BackendError(f"model.base: {name} has no config.json, so it is not a model folder.")
    try:
        config = json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
        raise BackendError(f"{config_file} is not JSON: {error}. Copy the model again.") from error
    if not isinstance(config, dict):
        raise BackendError(f"{config_file} is no mapping. Copy the model again.")
    architectures = config.get("architectures") or []
    if architectures and not any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in architectures):
        raise BackendError(
            f"model.base: {name} is a {architectures[0]}; a causal language model (…ForCausalLM) is needed."
        )
    if not any(folder.glob("*.safetensors")):
        raise BackendError(f"model.base: {name} has no *.safetensors. Convert its weights; pickle files are not read.")


def _load_tokenizer(name: str, settings: ModelSettings) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=settings.revision, trust_remote_code=False)
        if not _reads_text(tokenizer) and tokenizer.is_fast:
            # For some model types transformers takes the type's own tokenizer class, whatever the folder holds, and
            # most of every text is then lost without a word. The folder's tokenizer.json is what counts.
            plain = PreTrainedTokenizerFast.from_pretrained(name, revision=settings.revision)
            tokenizer = plain if _reads_text(plain) else tokenizer
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(
            f"The tokenizer of `{name}` cannot be loaded ({first_line(error)}). Copy its tokenizer files "
            "again, or check the name and the connection if it is a Hub id."
        ) from error
    if not tokenizer(_PROBE, add_special_tokens=False)["input_ids"]:
        raise BackendError(f"The tokenizer of `{name}` reads every text as empty. Copy its tokenizer files again.")
    if not tokenizer.chat_template:
        raise BackendError(
            f"The tokenizer of `{name}` has no chat template. Use an instruction-tuned model, or add "
            "chat_template.jinja to its folder."
        )
    if tokenizer.eos_token_id is None:
        raise BackendError(f"The tokenizer of `{name}` has no end token. Set eos_token in tokenizer_config.json.")
    if tokenizer.pad_token_id is None:
        raise BackendError(
            f"The tokenizer of `{name}` has no pad token. Set pad_token in tokenizer_config.json to a token that "
            "text never contains (not the end token: its learning would be masked away)."
        )
    return tokenizer


def _reads_text(tokenizer: Any) -> bool:
    ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    return bool(tokenizer.decode(ids).split() == _PROBE.split())


def _load_base(name: str, settings: ModelSettings) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    import_peft(settings)
    options: dict[str, Any] = {"dtype": choose_dtype(settings), "attn_implementation": settings.attention}
    if torch.cuda.is_available():
        options["device_map"] = {"": torch.cuda.current_device()}
    if settings.quantization == "nf4":
        options["quantization_config"] = _nf4(options["dtype"])
    try:
        base, report = AutoModelForCausalLM.from_pretrained(
            name,
            revision=settings.revision,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BackendError(
            f"`{name}` cannot be loaded ({first_line(error)}). Copy the model again, or use a causal language model "
            "that this transformers version knows."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise BackendError(
            f"`{name}` lacks {len(missing)} of its weights, for example `{missing[0]}`. Copy the model again."
        )
    for module in base.modules():
        # On some CPUs bitsandbytes rounds its constants for good when a layer is first used outside training.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    if getattr(base.config.get_text_config(), "attn_logit_softcapping", None):
        base.set_attn_implementation("eager")  # sdpa would leave the cap out without a word
    if settings.shared_prefix and sees_everything(base):
        share_prefixes(base, name)
    return base.eval()


def share_prefixes(base: Any, name: str) -> None:
    """Switch a base to shared prefixes, after a check that this changes no result on this machine."""
    register()
    base.set_attn_implementation(NAME)
    difference = max(sharing_error(base), kernel_error(base.device, base.dtype))
    if difference > SHARING_TOLERANCE[base.dtype]:
        warnings.warn(
            f"Shared prefixes change the results of `{name}` on this machine (relative difference "
            f"{difference:.2g}), so prompts are computed once for each completion. Slower, otherwise the same.",
            stacklevel=2,
        )
        base.set_attn_implementation("sdpa")


def sees_everything(base: Any) -> bool:
    """Whether each layer's attention is plain: causal over all tokens, a softmax of scaled products and no more.

    Only then do shared prefixes cover it. Windows, caps, sinks, layers without attention, and attention dropout do
    not count as plain.
    """
    config = base.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        config._attn_implementation == "sdpa"
        and bool(getattr(base, "_supports_attention_backend", False))
        and set(kinds) == {"full_attention"}
        and (window is None or hasattr(config, "layer_types"))
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(config, "attention_dropout", 0.0)
        and not any("sinks" in name for name, _ in base.named_parameters())
    )


def _nf4(compute: torch.dtype) -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise BackendError(
            "model.quantization: nf4 needs bitsandbytes. Install it, in the project's folder, with pip install -e "
            "'.[gpu]', or set model.quantization to none."
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
