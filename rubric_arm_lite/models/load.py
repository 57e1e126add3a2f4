"""Loads and checks a base model and its tokenizer, from a folder or the Hub, and adds the adapters.

Generator and judge may also be two full checkpoints: the released 8B models, or merged exports. Each is loaded like a
base (safetensors only, quantized if the recipe says so) and used without adapters. They cannot be trained.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.errors import BackendError, ConfigError, first_line
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.lora import add_adapters, check_adapter, import_peft, read_config
from rubric_arm_lite.models.own_forward import check_own_forward
from rubric_arm_lite.models.sampler import NextWords, Sampling
from rubric_arm_lite.models.shared_prefix.passes import NAME, register
from rubric_arm_lite.recipe import LoraSettings, ModelSettings
from rubric_arm_lite.types import ROLES, Example, Role, RolloutGroup

_HASHED_NUMBERS = 64
"""Numbers of each tensor in a fingerprint: training changes all of a model, and hashing 16 GB takes minutes."""
_UNUSED_TOKEN = re.compile(
    r"<\|?(finetune_right_)?pad(ding)?(_id)?\|?>|\[PAD\]|<\|reserved_special_token_\d+\|>|<unused\d+>"
)
"""Tokens that vocabularies reserve and texts do not contain."""
_PROBE = "Write a note about rivers."


def load_model(settings: ModelSettings, seed: int, roles: Sequence[Role] = ROLES) -> AdapterModel:
    """The base of a recipe with a fresh adapter per role.

    Weights come from safetensors only and no code from the model's repository is run.

    Raises:
        BackendError: if the folder is missing, is not a causal language model, its tokenizer cannot be used, or what
            this package computes differs from the model's own forward pass.
    """
    _check_folder(_name(settings))
    tokenizer = load_tokenizer(settings)
    if settings.backend == "unsloth":
        from rubric_arm_lite.models.unsloth import load_unsloth

        model = load_unsloth(_name(settings), tokenizer, settings, choose_dtype(settings), seed, roles)
        _check_sizes(model.model.get_base_model(), tokenizer, settings)
        return model
    base = _load_base(settings)
    _check_sizes(base, tokenizer, settings)
    loaded = with_adapters(base, tokenizer, settings, seed, roles)
    check_own_forward(loaded, _name(settings))
    return loaded


def _check_sizes(base: Any, tokenizer: Any, settings: ModelSettings) -> None:
    name, vocabulary = _name(settings), base.get_input_embeddings().weight.shape[0]
    limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and settings.max_context > limit:
        shipped = " It is the testbed's, which recipes without a model.base have." if settings.base == "testbed" else ""
        raise BackendError(
            f"model.max_context: {settings.max_context} is more than `{name}` can take ({limit}).{shipped} Lower it, "
            "or name another model in model.base."
        )
    if len(tokenizer) > vocabulary:
        raise BackendError(
            f"`{name}`: the tokenizer has {len(tokenizer)} tokens, the model embeds {vocabulary}. They do not belong "
            "together; use the model's own tokenizer."
        )


def with_adapters(
    base: Any, tokenizer: Any, settings: ModelSettings, seed: int, roles: Sequence[Role] = ROLES
) -> AdapterModel:
    """Fresh adapters on a loaded base.

    PEFT's ``prepare_model_for_kbit_training`` is not used: it would copy everything that is not quantized, the
    embeddings and the head, to float32 (2.5 GB become 5 with a vocabulary of 150,000). Norms compute in float32
    anyway, and gradients pass through frozen weights of lower precision.

    Raises:
        BackendError: if the adapters' settings do not fit the base.
    """
    if settings.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
        base.enable_input_require_grads()
    try:
        return AdapterModel(add_adapters(base, settings, seed, roles), tokenizer, settings)
    except ValueError as error:
        raise BackendError(f"model.lora does not fit `{settings.base}`: {error}") from error


def load_for_trainer(settings: ModelSettings, adapter: Path) -> Any:
    """The base with one saved, trainable adapter under the name that other trainers expect: ``default``."""
    from peft import PeftModel

    check_adapter(adapter, settings.lora)  # without its safetensors PEFT would read a pickle file
    _check_folder(_name(settings))
    base = _load_base(settings.model_copy(update={"shared_prefix": False}))
    try:
        return PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except Exception as error:  # a damaged file can raise anything
        raise BackendError(f"{adapter} cannot be loaded ({first_line(error)}). Save the adapter again.") from error


def _name(settings: ModelSettings) -> str:
    return str(base_folder()) if settings.base == "testbed" else settings.base


def choose_dtype(settings: ModelSettings) -> torch.dtype:
    """The recipe's dtype; ``auto`` is float32 on a CPU, bfloat16 where the card has it, else float16."""
    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _check_folder(name: str) -> None:
    """Refuse a folder that cannot be loaded before anything heavy starts. Other names may be Hub ids."""
    folder = Path(name)
    if not folder.exists():
        if name.startswith(("/", ".", "~")) or name.count("/") != 1:
            raise BackendError(f"model.base: {name} does not exist. Give a folder, a Hub id (owner/name) or testbed.")
        return
    if not folder.is_dir():
        raise BackendError(f"model.base: {name} is a file. Give the folder that holds config.json.")
    if not (folder / "config.json").is_file():
        raise BackendError(f"model.base: {name} has no config.json, so it is not a model folder.")
    config = read_config(folder / "config.json", "Copy the model again.")
    architectures = config.get("architectures") or []
    if not isinstance(architectures, list):
        raise BackendError(f"{folder}/config.json: architectures is no list. Copy the model again.")
    if architectures and not any(str(a).endswith(("ForCausalLM", "LMHeadModel")) for a in architectures):
        raise BackendError(
            f"model.base: {name} is a {architectures[0]}; a causal language model (…ForCausalLM) is needed."
        )
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (folder / file).is_file():
            read_config(folder / file, "Copy the model again.")
    if (folder / "adapter_config.json").exists():
        raise BackendError(
            f"model.base: {name} also holds an adapter, which transformers would add to the base. Take "
            "adapter_config.json and the adapter's weights out of the folder."
        )
    if not any(folder.glob("*.safetensors")):
        raise BackendError(f"model.base: {name} has no *.safetensors. Convert its weights; pickle files are not read.")


def _check_index(settings: ModelSettings) -> None:
    """Refuse an index of weights that names anything but safetensors files beside it: others could be pickle files."""
    from transformers.utils import cached_file

    try:
        index = cached_file(
            _name(settings),
            "model.safetensors.index.json",
            revision=settings.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # loading says more
        return
    if index is None:
        return
    shards = read_config(Path(index), "Copy the model again.").get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BackendError(f"{index}: weight_map names no files. Copy the model again.")
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BackendError(
                f"{index} names {shard!r}. Only *.safetensors files in the model's own folder are read: convert the "
                "weights, and copy them there."
            )


def load_tokenizer(settings: ModelSettings) -> Any:
    """The base's tokenizer.

    Raises:
        BackendError: if it cannot be loaded, loses text, or lacks a chat template or an end token.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    name = _name(settings)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=settings.revision, trust_remote_code=False)
        if not _reads_text(tokenizer) and tokenizer.is_fast:
            # For some model types transformers uses the type's own tokenizer class whatever the folder holds, which
            # silently loses most of every text. The folder's tokenizer.json counts.
            plain = PreTrainedTokenizerFast.from_pretrained(name, revision=settings.revision)
            tokenizer = plain if _reads_text(plain) else tokenizer
    except Exception as error:  # a damaged file can raise anything
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
        vocabulary = tokenizer.get_vocab()
        unused = [token for token in vocabulary if _UNUSED_TOKEN.fullmatch(token)]
        tokenizer.pad_token = min(
            unused, key=lambda token: ("pad" not in token.lower(), vocabulary[token]), default=tokenizer.eos_token
        )
        warnings.warn(
            f"The tokenizer of `{name}` has no pad token, so `{tokenizer.pad_token}` is used. Padding is masked by its "
            "position; nothing else changes.",
            stacklevel=2,
        )
    return tokenizer


def _reads_text(tokenizer: Any) -> bool:
    ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    return bool(tokenizer.decode(ids).split() == _PROBE.split())


def _load_base(settings: ModelSettings) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    import_peft(settings)
    _check_index(settings)
    name = _name(settings)
    options: dict[str, Any] = {"dtype": choose_dtype(settings), "attn_implementation": settings.attention}
    if torch.cuda.is_available():
        options["device_map"] = {"": torch.cuda.current_device()}
    if settings.quantization == "nf4":
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise BackendError(
                "model.quantization: nf4 needs bitsandbytes. Install it, in the project's folder, with pip install -e "
                "'.[gpu]', or set model.quantization to none."
            ) from error
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=options["dtype"],
        )
    options |= {"revision": settings.revision, "trust_remote_code": False, "use_safetensors": True}
    try:
        try:
            base, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error) or settings.attention == "eager":
                raise
            options["attn_implementation"] = "eager"
            base, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
            warnings.warn(
                f"transformers has no sdpa attention for `{name}`, so it runs with eager attention. Slower, otherwise "
                "the same.",
                stacklevel=2,
            )
    except ImportError as error:
        raise BackendError(
            f"`{name}` needs another package to be loaded ({first_line(error)}). Use the model in its own precision, "
            "not one that GPTQ, AWQ or the like quantized; model.quantization: nf4 loads it in 4 bits."
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise BackendError(
            f"`{name}` cannot be loaded ({first_line(error)}). Copy the model again, or use a causal language model "
            "that this transformers version knows."
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would put random numbers in their place
        raise BackendError(
            f"`{name}` lacks {len(missing)} of its weights, for example `{missing[0]}`. Copy the model again."
        )
    for module in base.modules():
        # On some CPUs bitsandbytes rounds its constants for good when a layer is first used outside training.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    if getattr(base.config.get_text_config(), "attn_logit_softcapping", None):
        base.set_attn_implementation("eager")  # sdpa would silently ignore the cap
    no_dropout(base)
    if settings.shared_prefix and sees_everything(base):
        share_prefixes(base)
    return base.eval()


def share_prefixes(base: Any) -> None:
    """Switch a base to the attention that shares prefixes; :func:`load_model` checks that this changes no result."""
    register()
    base.set_attn_implementation(NAME)


def no_dropout(base: Any) -> None:
    """Switch off the base's own dropout, which would make the ratio and the KL term of an update noise.

    Only adapters have dropout, ``model.lora.dropout``. Architectures keep theirs in modules or as plain numbers.
    """
    for module in base.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, torch.nn.Dropout))):
                setattr(module, name, 0.0)


def sees_everything(base: Any) -> bool:
    """Whether each layer's attention is a causal softmax of scaled products over all tokens.

    Shared prefixes support only this: no windows, caps, sinks or layers without attention.
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
        and not any("sinks" in name for name, _ in base.named_parameters())
    )


class TwoModels:
    """A :class:`~rubric_arm_lite.models.sampler.ChatSampler` in which each role is a model of its own."""

    def __init__(self, models: Mapping[str | None, AdapterModel]) -> None:
        self.models = models
        self.tokens_written = 0
        self._fingerprints: dict[AdapterModel, str] = {}

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """See :class:`~rubric_arm_lite.models.sampler.Sampler`; ``adapter`` is a role."""
        model = self.model_of(adapter)
        before = model.tokens_written
        try:
            return model.sample(None, examples, sampling)
        finally:
            self.tokens_written += model.tokens_written - before

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        """See :class:`~rubric_arm_lite.models.sampler.WordReader`; ``adapter`` is a role."""
        return self.model_of(adapter).next_word_logprobs(None, questions)

    def fingerprint(self, adapter: str | None) -> str:
        """Hash (16 hex digits) of the first numbers of all tensors of a role's model."""
        model = self.model_of(adapter)
        if model not in self._fingerprints:
            digest = hashlib.sha256()
            for name, tensor in model.model.get_base_model().state_dict().items():
                if ".lora_" not in name:
                    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                    digest.update(str(tensor.flatten()[:_HASHED_NUMBERS].cpu().tolist()).encode())
            self._fingerprints[model] = digest.hexdigest()[:16]
        return self._fingerprints[model]

    def prompt_tokens(self, prompt: str) -> int:
        """Length of a user turn in tokens, by the tokenizer that needs more of them."""
        return max(model.prompt_tokens(prompt) for model in self.models.values())

    def control_tokens(self) -> list[str]:
        """Control tokens of both tokenizers."""
        return list(dict.fromkeys(token for model in self.models.values() for token in model.control_tokens()))

    def model_of(self, adapter: str | None) -> AdapterModel:
        """The model of a role; its bare base is the checkpoint."""
        if adapter not in self.models:
            raise BackendError(
                f"`{adapter or 'base'}` is not one of the two checkpoints; rubric and judge are. Use one of them."
            )
        return self.models[adapter]


def load_two_models(settings: ModelSettings, seed: int) -> TwoModels:
    """Load ``settings.checkpoints``, one after the other.

    Raises:
        ConfigError: if the settings name none.
        BackendError: if one of them cannot be loaded; the message names it.
    """
    if settings.checkpoints is None:
        raise ConfigError("model.checkpoints is not set. Name a generator and a judge: {rubric: …, judge: …}.")
    models: dict[str | None, AdapterModel] = {}
    for role in ROLES:
        base, revision = settings.checkpoints.of(role)
        changes = {
            "base": base,
            "revision": revision,
            "checkpoints": None,
            "gradient_checkpointing": False,
            "lora": LoraSettings(r=1),  # never used
        }
        try:
            models[role] = load_model(settings.model_copy(update=changes), seed)
        except BackendError as error:
            raise BackendError(f"model.checkpoints.{role}: {error}") from error
    return TwoModels(models)
