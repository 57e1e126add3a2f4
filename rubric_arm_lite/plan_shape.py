"""The shape of a base, a dense decoder: how many weights of which kind it has, and what a token takes in its cache.

A base's name or folder goes in; nothing but its configuration is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.config import ModelSettings
from rubric_arm_lite.errors import ConfigError, first_line
from rubric_arm_lite.testbed import base_folder


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of one layer's matrices."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.mlp),
            "up_proj": (self.hidden, self.mlp),
            "down_proj": (self.mlp, self.hidden),
        }

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' matrices, what NF4 quantises."""
        return self.layers * sum(a * b for a, b in self.linears().values())

    @property
    def other_weights(self) -> int:
        """Embedding and head, which stay as they are, and norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden

    def lora_weights(self, settings: ModelSettings) -> int:
        """Weights of one adapter."""
        chosen = settings.lora.target_modules
        shapes = self.linears()
        names = list(shapes) if isinstance(chosen, str) else [name for name in shapes if name in chosen]
        return self.layers * settings.lora.r * sum(sum(shapes[name]) for name in names)

    def cache_bytes(self, size: float) -> float:
        """Bytes that one token's keys and values take in a cache."""
        return 2 * self.layers * self.key_heads * self.head_size * size


QWEN3 = {
    "0.6B": Shape(28, 1024, 3072, 16, 8, 128, 151936, True),
    "1.7B": Shape(28, 2048, 6144, 16, 8, 128, 151936, True),
    "4B": Shape(36, 2560, 9728, 32, 8, 128, 151936, True),
    "8B": Shape(36, 4096, 12288, 32, 8, 128, 151936, False),
    "14B": Shape(40, 5120, 17408, 40, 8, 128, 151936, False),
    "32B": Shape(64, 5120, 25600, 64, 8, 128, 151936, False),
}
KNOWN = {f"Qwen/Qwen3-{size}": shape for size, shape in QWEN3.items()}
"""Bases of shipped recipes, so that a plan needs no download (from their published configurations)."""


def shape_of(base: str) -> Shape:
    """The shape of a base: of the shipped one, a folder, a known Hub id, or one that transformers can look up.

    Raises:
        ConfigError: if it cannot be found, or is no dense decoder.
    """
    if base in KNOWN:
        return KNOWN[base]
    folder = base_folder() if base == "testbed" else Path(base)
    if (folder / "config.json").is_file():
        try:
            fields = json.loads((folder / "config.json").read_text("utf-8"))
        except ValueError as error:
            raise ConfigError(f"{folder}/config.json is not JSON: {error}. Copy the model again.") from error
    else:
        fields = _looked_up(base)
    return _shape(base, fields)


def _looked_up(base: str) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(base, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.base: the configuration of `{base}` cannot be read ({first_line(error)}). Give a folder "
            f"with config.json, a Hub id that can be reached, or one of {', '.join(KNOWN)}."
        ) from error
    return found


def _shape(base: str, fields: Any) -> Shape:
    if isinstance(fields, dict) and isinstance(fields.get("text_config"), dict):
        fields = fields["text_config"]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    missing = [name for name in names if not isinstance(fields, dict) or not isinstance(fields.get(name), int)]
    if missing:
        raise ConfigError(
            f"model.base: the configuration of `{base}` has no {missing[0]}, so it cannot be planned for."
        )
    experts = next(
        (name for name in ("num_experts", "num_local_experts", "n_routed_experts") if fields.get(name)), None
    )
    if experts:
        raise ConfigError(f"model.base: `{base}` has {experts}; a plan is made for dense models only.")
    heads = fields["num_attention_heads"]
    return Shape(
        fields["num_hidden_layers"],
        fields["hidden_size"],
        fields["intermediate_size"],
        heads,
        fields.get("num_key_value_heads") or heads,
        fields.get("head_dim") or fields["hidden_size"] // heads,
        fields["vocab_size"],
        bool(fields.get("tie_word_embeddings", False)),
    )
