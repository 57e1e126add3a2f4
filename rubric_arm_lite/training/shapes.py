"""The sizes of a base model that a memory plan is computed from, of any causal language model in transformers.

The model is built from its configuration on torch's meta device, where tensors have shapes but no memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.errors import ConfigError, first_line
from rubric_arm_lite.models.base import empty_model
from rubric_arm_lite.recipe import ModelSettings


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a base that a plan needs.

    Attributes:
        layers: decoder layers.
        hidden: width of the residual stream.
        mlp: MLP channels that one token goes through; of a mixture of experts, those of its experts.
        vocabulary: tokens that have a logit.
        cache: numbers that one token's keys and values take in a cache, over all layers.
        linears: by module name, inputs + outputs of the linear layers of this name: LoRA weights at rank 1.
        linear_weights: weights of linear layers without the head, which NF4 quantizes.
        other_weights: embeddings, head, norms, biases and experts kept as stacked tensors, which it does not.
    """

    layers: int
    hidden: int
    mlp: int
    vocabulary: int
    cache: int
    linears: Mapping[str, int]
    linear_weights: int
    other_weights: int

    def lora_weights(self, settings: ModelSettings) -> int:
        """Weights of one adapter."""
        targets = settings.lora.target_modules
        names = self.linears if isinstance(targets, str) else set(targets) & set(self.linears)
        return settings.lora.r * sum(self.linears[name] for name in names)


_QWEN3_FIELDS = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "tie_word_embeddings")
QWEN3: dict[str, dict[str, Any]] = {
    f"Qwen/Qwen3-{size}": {
        **dict(zip(_QWEN3_FIELDS, values, strict=True)),
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    }
    for size, values in {
        "0.6B": (28, 1024, 3072, 16, True),
        "1.7B": (28, 2048, 6144, 16, True),
        "4B": (36, 2560, 9728, 32, True),
        "8B": (36, 4096, 12288, 32, False),
        "14B": (40, 5120, 17408, 40, False),
        "32B": (64, 5120, 25600, 64, False),
    }.items()
}
SMOLLM2: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        **dict(zip(_QWEN3_FIELDS, (30, 576, 1536, 9, True), strict=True)),
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    }
}
"""Published configurations of the bases of shipped recipes, so that a plan needs no download."""


@lru_cache(maxsize=32)
def shape_of(base: str) -> Shape:
    """The shape of ``testbed``, a folder, or a Hub id; those in :data:`QWEN3` and :data:`SMOLLM2` need no network.

    Raises:
        ConfigError: if its configuration cannot be read, or transformers builds no causal language model from it.
    """
    from torch import nn
    from transformers import AutoConfig, LlamaConfig, Qwen3Config

    try:
        if base in QWEN3:
            config: Any = Qwen3Config(**QWEN3[base])
        elif base in SMOLLM2:
            config = LlamaConfig(**SMOLLM2[base])
        else:
            name = str(base_folder()) if base == "testbed" else base
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        model = empty_model(config)
        text = config.get_text_config()
        linears: dict[str, int] = {}
        linear_weights = 0
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
                kind = name.rpartition(".")[2]
                linears[kind] = linears.get(kind, 0) + module.in_features + module.out_features
                linear_weights += module.weight.numel()
        mlp = text.intermediate_size
        if experts := getattr(text, "num_experts_per_tok", None):
            mlp = experts * (getattr(text, "moe_intermediate_size", None) or mlp)
        heads = text.num_attention_heads
        head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
        keys = getattr(text, "num_key_value_heads", None) or heads
        return Shape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            mlp=mlp,
            vocabulary=text.vocab_size,
            cache=2 * text.num_hidden_layers * keys * head_size,
            linears=linears,
            linear_weights=linear_weights,
            other_weights=sum(p.numel() for p in model.parameters()) - linear_weights,
        )
    except Exception as error:  # transformers raises nearly any type for a configuration that it cannot use
        raise ConfigError(
            f"model.base: the configuration of `{base}` cannot be read ({first_line(error)}). Give a folder "
            f"with config.json, a Hub id that can be reached, or one of {', '.join([*QWEN3, *SMOLLM2])}."
        ) from error
