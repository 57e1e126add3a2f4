"""Loads and checks a base model and its tokenizer, from a folder or the Hub, and adds the adapters.

Generator and judge may also be two full checkpoints: the released 8B models, or merged exports. Each is loaded like a
base (safetensors only, quantized if the recipe says so) and used without adapters. They cannot be trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast

from rubric_arm_lite.errors import BackendError, ConfigError, first_line
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.base import base_name, check_base, checkpointing_name, empty_model, loading_error, tiny_copy
from rubric_arm_lite.models.chat import ChatTokenizer
from rubric_arm_lite.models.lora import add_adapters, check_adapter, import_peft
from rubric_arm_lite.models.own_forward import check_own_forward
from rubric_arm_lite.models.sampler import NextWords, Sampling
from rubric_arm_lite.models.shared_prefix.passes import ATTENTION_NAME, register
from rubric_arm_lite.recipe import LoraSettings, ModelSettings
from rubric_arm_lite.types import ROLES, Example, Role, RolloutGroup

_HASHED_NUMBERS = 64
"""Numbers of each tensor in a fingerprint: training changes all of a model, and hashing 16 GB takes minutes."""
_UNUSED_TOKEN = re.compile(
    r"<\|?(finetune_right_)?pad(ding)?(_id)?\|?>|\[PAD\]|<\|reserved_special_token_\d+\|>|<unused\d+>"
)
"""Tokens that vocabularies reserve and texts do not contain."""
_TINY = 10_000_000
"""Most weights of the random model on which an architecture is tried."""
_PROBE = "Write a note about rivers."


def load_model(settings: ModelSettings, seed: int, roles: Sequence[Role] = ROLES) -> AdapterModel:
    """The base of a recipe with a fresh adapter per role.

    Weights come from safetensors only and no code from the model's repository is run.

    Raises:
        BackendError: if the folder is missing, is not a causal language model, its tokenizer cannot be used, or what
            this package computes differs from the model's own forward pass.
    """
    check_base(settings, download=True)
    tokenizer, name = load_tokenizer(settings), base_name(settings)
    if settings.backend == "unsloth":
        from rubric_arm_lite.models.unsloth import load_unsloth

        model: AdapterModel = load_unsloth(name, tokenizer, settings, choose_dtype(settings), seed, roles)
    else:
        model = with_adapters(_load_base(settings), tokenizer, settings, seed, roles)
        check_own_forward(model, name)
    _check_vocabulary(model.model.get_base_model(), tokenizer, name)
    return model


def _check_vocabulary(base: Any, tokenizer: Any, name: str) -> None:
    vocabulary = base.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise BackendError(
            f"`{name}`: the tokenizer has {len(tokenizer)} tokens, the model embeds {vocabulary}. They do not belong "
            "together; use the model's own tokenizer."
        )


def check_before_loading(settings: ModelSettings) -> None:
    """Find what would fail when the base, or both checkpoints, are loaded, without reading any weights.

    Files that are on this machine are checked, and the tokenizer of a folder. Then what this package computes for a
    tiny random model of the architecture is compared with that model's own forward pass. Architectures that cannot be
    built so small are not compared.

    Raises:
        BackendError: says why the base cannot be used.
    """
    if settings.checkpoints is not None:
        for role in ROLES:
            with _naming(role):
                check_before_loading(_checkpoint(settings, role))
        return
    config, name = check_base(settings), base_name(settings)
    import_peft(settings)  # here, so that what it has to say is heard
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        if Path(name).is_dir():
            tokenizer = load_tokenizer(settings)
            ChatTokenizer(tokenizer, settings)
            _check_vocabulary(empty_model(config), tokenizer, name)
        if config is not None and settings.backend == "transformers":
            _try_architecture(config, settings)


def _try_architecture(config: Any, settings: ModelSettings) -> None:
    """Check a tiny random model of an architecture as a loaded model is checked, with the testbed's tokenizer."""
    torch.manual_seed(0)
    testbed = ModelSettings(max_context=128, attention=settings.attention, shared_prefix=settings.shared_prefix)
    try:
        small = tiny_copy(config, settings.attention)
        if sum(parameter.numel() for parameter in empty_model(small).parameters()) > _TINY:
            return
        base = AutoModelForCausalLM.from_config(small, trust_remote_code=False, dtype=torch.float32)
        base(input_ids=torch.tensor([[5, 6, 7]]))
        model = with_adapters(_prepared(base, testbed), load_tokenizer(testbed), testbed, 0)
    except Exception:  # nothing is known of an architecture that cannot be built so small
        return
    check_own_forward(model, base_name(settings))


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
        getattr(base, f"{checkpointing_name()}_enable")({"use_reentrant": False})
        base.enable_input_require_grads()
    try:
        return AdapterModel(add_adapters(base, settings, seed, roles), tokenizer, settings)
    except ValueError as error:
        raise BackendError(f"model.lora does not fit `{settings.base}`: {error}") from error


def load_for_trainer(settings: ModelSettings, adapter: Path) -> Any:
    """The base with one saved, trainable adapter under the name that other trainers expect: ``default``."""
    from peft import PeftModel

    check_adapter(adapter, settings.lora)  # without its safetensors PEFT would read a pickle file
    check_base(settings, download=True)
    base = _load_base(settings.model_copy(update={"shared_prefix": False}))
    try:
        return PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except Exception as error:  # a damaged file can raise anything
        raise BackendError(f"{adapter} cannot be loaded ({first_line(error)}). Save the adapter again.") from error


def choose_dtype(settings: ModelSettings) -> torch.dtype:
    """The recipe's dtype; ``auto`` is float32 on a CPU, bfloat16 where the card has it, else float16."""
    if settings.dtype != "auto":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_tokenizer(settings: ModelSettings) -> Any:
    """The base's tokenizer.

    Raises:
        BackendError: if it cannot be loaded, loses text, or lacks a chat template or an end token.
    """
    name = base_name(settings)
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
    import_peft(settings)
    name = base_name(settings)
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
    options["ignore_mismatched_sizes"] = True  # they are refused below, by name
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
    except Exception as error:  # a damaged file can raise anything
        raise loading_error(name, error) from error
    if report["mismatched_keys"]:
        key, there, here = sorted(report["mismatched_keys"])[0]
        sizes = ["×".join(map(str, shape)) for shape in (there, here)]
        raise BackendError(
            f"`{name}`: {key} has the shape {sizes[0]} in its weights and {sizes[1]} by config.json. They do not "
            "belong together; copy the model again."
        )
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would put random numbers in their place
        raise BackendError(
            f"`{name}` lacks {len(missing)} of its weights, for example `{missing[0]}`. Copy the model again."
        )
    for module in base.modules():
        # On some CPUs bitsandbytes rounds its constants for good when a layer is first used outside training.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    return _prepared(base, settings)


def _prepared(base: Any, settings: ModelSettings) -> Any:
    """A base with the attention that the settings ask for, and without dropout of its own."""
    if getattr(base.config.get_text_config(), "attn_logit_softcapping", None):
        base.set_attn_implementation("eager")  # sdpa would silently ignore the cap
    # The base's own dropout would make the ratio and the KL term of an update noise; only adapters have dropout,
    # `model.lora.dropout`. Architectures keep theirs in modules or as plain numbers.
    for module in base.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(module, torch.nn.Dropout))):
                setattr(module, name, 0.0)
    if settings.shared_prefix and has_full_causal_attention(base):
        share_prefixes(base)
    return base.eval()


def share_prefixes(base: Any) -> None:
    """Switch a base to the attention that shares prefixes; :func:`load_model` checks that this changes no result."""
    register()
    base.set_attn_implementation(ATTENTION_NAME)


def has_full_causal_attention(base: Any) -> bool:
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
    models: dict[str | None, AdapterModel] = {}
    for role in ROLES:
        with _naming(role):
            models[role] = load_model(_checkpoint(settings, role), seed)
    return TwoModels(models)


def _checkpoint(settings: ModelSettings, role: Role) -> ModelSettings:
    """The settings of one role's checkpoint, which is used without adapters."""
    if settings.checkpoints is None:
        raise ConfigError("model.checkpoints is not set. Name a generator and a judge: {rubric: …, judge: …}.")
    base, revision = settings.checkpoints.of(role)
    changes = {"base": base, "revision": revision, "checkpoints": None, "gradient_checkpointing": False}
    return settings.model_copy(update={**changes, "lora": LoraSettings(r=1)})


@contextlib.contextmanager
def _naming(role: Role) -> Iterator[None]:
    """Name the role's setting in an error."""
    try:
        yield
    except BackendError as error:
        raise BackendError(f"model.checkpoints.{role}: {error}") from error
