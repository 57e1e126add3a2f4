"""What can be known of a base from its files, before it is loaded: whether it can be, and the identity of its weights.

The identity is a fingerprint of the weight files, the same whatever precision they are loaded in.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.errors import BackendError, clean, first_line
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.runs import read_object

MAX_CONFIG, MAX_TOKENIZER = 16 * 2**20, 256 * 2**20
"""Bytes of a JSON file of a model or an adapter; those of a vocabulary are larger than all others."""
MAX_LAYERS = 4096
"""More would take minutes and more memory than any machine has before the first weight is read."""
INDEX = "model.safetensors.index.json"
_FILES = (
    *("config.json", "generation_config.json", INDEX, "adapter_config.json"),
    *("special_tokens_map.json", "tokenizer_config.json", "tokenizer.json"),
)
_NARROW = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "chunk_size": 16,
    "mamba_chunk_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
"""Sizes of a model that is built to try an architecture; the vocabulary holds the testbed's."""
HEAD_CAPS = ("final_logit_softcapping", "logits_soft_cap")
HEAD_FACTORS = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Fields of a configuration with which architectures bound or scale their logits."""
_NUMBERS = (*HEAD_CAPS, *HEAD_FACTORS, "max_position_embeddings")
_FIX = "Copy the model again."
_SAMPLE = 64
"""Bytes that are read at the start, in the middle and at the end of each tensor: training changes all of a model."""


def base_name(settings: ModelSettings) -> str:
    """The folder or Hub id that transformers is given."""
    return str(base_folder()) if settings.base == "testbed" else settings.base


def check_base(settings: ModelSettings, download: bool = False) -> Any:
    """Refuse a base whose small files show that it cannot be loaded.

    Args:
        download: get these files of a Hub id; otherwise what is not on this machine is not looked at.

    Returns:
        Its configuration; None if that is not on this machine.

    Raises:
        BackendError: says why it cannot be loaded.
    """
    from transformers import AutoConfig

    name = base_name(settings)
    folder = Path(name)
    if not folder.exists():
        if name.startswith(("/", ".", "~")) or name.count("/") != 1:
            raise BackendError(f"model.base: {name} does not exist. Give a folder, a Hub id (owner/name) or testbed.")
    elif not folder.is_dir():
        raise BackendError(f"model.base: {name} is a file. Give the folder that holds config.json.")
    elif not (folder / "config.json").is_file():
        raise BackendError(f"model.base: {name} has no config.json, so it is not a model folder.")
    found: dict[str, dict[str, Any]] = {}
    for file in _FILES:
        if path := _file(settings, file, download):
            found[file] = read_config(path, _FIX, MAX_TOKENIZER if file == "tokenizer.json" else MAX_CONFIG)
        elif file == "config.json":  # of a Hub id; what cannot be downloaded, transformers says below
            if not download:
                return None
            break
    fields = found.get("config.json", {})
    architectures = fields.get("architectures") or []
    if not isinstance(architectures, list):
        raise BackendError(f"{name}/config.json: architectures is no list. {_FIX}")
    if architectures and not any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in architectures):
        raise BackendError(
            f"model.base: {name} is a {clean(str(architectures[0]))}; a causal language model (…ForCausalLM) is needed."
        )
    for part in (fields, *(value for value in fields.values() if isinstance(value, dict))):
        for field, value in part.items():
            if "layer" in field and isinstance(value, int) and value > MAX_LAYERS:
                raise BackendError(f"{name}/config.json: {field} is more than {MAX_LAYERS}. {_FIX}")
            if field in _NUMBERS and not isinstance(value, int | float | None):
                raise BackendError(f"{name}/config.json: {field} is no number. {_FIX}")
    if fields.get("transformers_weights") is not None:  # transformers would read another index than the one below
        raise BackendError(
            f"{name}/config.json names its weights in transformers_weights. Remove that field, and call the weights "
            f"model.safetensors, or list them in {INDEX}."
        )
    if "adapter_config.json" in found:
        raise BackendError(
            f"model.base: {name} also holds an adapter, which transformers would add to the base. Take "
            "adapter_config.json and the adapter's weights out of the folder."
        )
    if INDEX in found:
        _check_index(f"{name}/{INDEX}", found[INDEX].get("weight_map"))
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise BackendError(f"model.base: {name} has no *.safetensors. Convert its weights; pickle files are not read.")
    try:
        options = {"revision": settings.revision, "local_files_only": not download}
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
        empty_model(config)
        _check_quantization(config, settings)
    except Exception as error:  # a damaged file can raise anything
        raise loading_error(name, error) from error
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if limit is not None and not (isinstance(limit, int | float) and settings.max_context <= limit):
        shipped = " It is the testbed's, which recipes without a model.base have." if settings.base == "testbed" else ""
        raise BackendError(
            f"model.max_context: {settings.max_context} is more than `{name}` can take ({limit}).{shipped} Lower it, "
            "or name another model in model.base."
        )
    return config


def _file(settings: ModelSettings, file: str, download: bool) -> Path | None:
    """A file of a folder or of the Hub's cache; None if it is not there, or cannot be downloaded."""
    from transformers.utils import cached_file

    problems = ("missing_entries", "connection_errors", "gated_repo")
    options: dict[str, Any] = {f"_raise_exceptions_for_{problem}": False for problem in problems}
    options |= {"revision": settings.revision, "local_files_only": not download}
    try:
        path = cached_file(base_name(settings), file, **options)
    except (OSError, ValueError):  # loading says more
        return None
    return None if path is None else Path(path)


def _check_index(index: str, shards: object) -> None:
    """Refuse an index of weights that names anything but safetensors files beside it: others could be pickle files."""
    if not isinstance(shards, dict) or not shards:
        raise BackendError(f"{index}: weight_map names no files. {_FIX}")
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BackendError(
                f"{index} names {clean(repr(shard))}. Only *.safetensors files in the model's own folder are read: "
                "convert the weights, and copy them there."
            )


def empty_model(config: Any) -> Any:
    """A causal language model without memory for its weights; its configuration cannot have kernels downloaded."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=False, **plain)
        model.tie_weights()  # transformers 5.0 leaves a head that shares the embedding's weights with its own
    return model


def tiny_copy(config: Any, attention: str) -> Any:
    """The configuration with few narrow layers, one of each kind at least, for a try of the architecture."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    kinds, count = getattr(text, "layer_types", None) or [], text.num_hidden_layers
    layers = next((n for n in range(2, len(kinds)) if set(kinds[:n]) == set(kinds)), 2)
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == count:
            setattr(text, name, value[:layers])
        elif name.endswith("token_id"):
            setattr(text, name, None)
    for name, value in {**_NARROW, "num_hidden_layers": layers}.items():
        if isinstance(getattr(text, name, None), int):
            with contextlib.suppress(AttributeError):  # a property that follows from other fields
                setattr(text, name, min(value, getattr(text, name)))
    # None: what transformers takes for the architecture, whatever the file says.
    small._attn_implementation, small._experts_implementation = "eager" if attention == "eager" else None, None
    return small


def _check_quantization(config: Any, settings: ModelSettings) -> None:
    """Have transformers say what it lacks for weights that are quantized already."""
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.auto import get_hf_quantizer

    if getattr(config, "quantization_config", None) is not None:
        four_bits = BitsAndBytesConfig(load_in_4bit=True) if settings.quantization == "nf4" else None
        with contextlib.suppress(RuntimeError):  # the kind of GPU that it needs may be in another machine
            get_hf_quantizer(copy.deepcopy(config), four_bits, None, True, {})


def cache_name(model: Any) -> str:
    """The name of the cache among a model's arguments and outputs, which newer versions of transformers changed."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def checkpointing_name() -> str:
    """The name of gradient checkpointing in transformers, newer versions of which changed it."""
    from transformers import PreTrainedModel

    renamed = hasattr(PreTrainedModel, "activation_checkpointing_enable")
    return "activation_checkpointing" if renamed else "gradient_checkpointing"


def loading_error(name: str, error: Exception) -> BackendError:
    """One line for what transformers raised."""
    if isinstance(error, ImportError):
        return BackendError(
            f"`{name}` needs another package to be loaded ({first_line(error)}). Use the model in its own precision, "
            "not one that GPTQ, AWQ or the like quantized; model.quantization: nf4 loads it in 4 bits."
        )
    return BackendError(
        f"`{name}` cannot be loaded ({first_line(error)}). Copy the model again, or use a causal language model that "
        "this transformers version knows."
    )


def read_config(path: Path, fix: str, limit: int = MAX_CONFIG) -> dict[str, Any]:
    """A JSON object from a file of at most ``limit`` bytes; ``fix`` ends the error.

    Raises:
        BackendError: if the file cannot be read, is larger, or is not a JSON object.
    """
    try:
        if path.stat().st_size > limit:
            raise BackendError(f"{path} has more than {limit} bytes. {fix}")
        config = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BackendError(f"{path} cannot be read ({error.strerror}). {fix}") from error
    except (ValueError, RecursionError) as error:
        raise BackendError(f"{path} is not JSON: {first_line(error)}. {fix}") from error
    if not isinstance(config, dict):
        raise BackendError(f"{path} is not a mapping. {fix}")
    return config


def other_base(run: Path, settings: ModelSettings) -> str | None:
    """A sentence if the base has other weights than the one that a run was trained on; None if not, or not known.

    Call this once the base has been loaded, so that its files are on this machine.
    """
    file = run / "versions.json"
    before = read_object(file).get("base weights") if file.is_file() else None
    now = None if before is None else base_fingerprint(settings)
    if now in (None, before):
        return None
    return (
        f"{run} was trained on other weights of the base {settings.base} (fingerprint {before}, now {now}), so its "
        "adapters do not belong to them. Use that base, or train again."
    )


def base_fingerprint(settings: ModelSettings) -> str | None:
    """Hash (16 hex digits) of the names, types, shapes and samples of all tensors in a base's files.

    How the tensors are spread over files does not matter. None if the files are not on this machine.
    """
    whole, index = (_file(settings, file, False) for file in ("model.safetensors", INDEX))
    files = [whole] if whole else []
    if index and not whole:
        files = [index.parent / name for name in sorted(set(read_config(index, _FIX)["weight_map"].values()))]
    tensors: dict[str, bytes] = {}
    for file in files:
        with file.open("rb") as weights:
            start = 8 + int.from_bytes(weights.read(8), "little")
            for name, tensor in json.loads(weights.read(start - 8)).items():
                if name == "__metadata__":
                    continue
                begin, end = tensor["data_offsets"]
                size = min(_SAMPLE, end - begin)
                places = (begin, (begin + end - size) // 2, end - size)
                samples = b"".join(os.pread(weights.fileno(), size, start + place) for place in places)
                tensors[name] = f"{name} {tensor['dtype']} {tensor['shape']} ".encode() + samples
    if not tensors:
        return None
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()[:16]
