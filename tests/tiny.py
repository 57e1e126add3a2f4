"""Tiny model folders with random weights, one per architecture, and what tests need around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.testbed_base.tokenizer import build_tokenizer
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe.fields import ModelSettings, Recipe
from rubric_arm_lite.training.advantages import GroupAdvantages, group_advantages
from rubric_arm_lite.types import Example, Reward, RolloutGroup

ARCHITECTURES = ("qwen3", "qwen2", "llama", "gemma", "gemma2")
CONTEXT = 128
VOCABULARY = 320
"""Larger than the tokenizer's, as in many real models; the weights do not depend on the world's words."""
PROMPTS = (
    "gardens",
    "Write a note about rivers for children. Include the word amber.",
    "Write a letter about trains for pilots. Avoid the word silk. maple quartz raven",
    "stone table window",
)
"""Prompts of different length, in words the testbed's tokenizer knows."""


def make_folder(kind: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a randomly initialized model of an architecture and the testbed's tokenizer; returns ``folder``.

    ``changes`` are fields of its config.
    """
    import transformers as tf

    tokenizer = build_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.35,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        **changes,
    }
    torch.manual_seed(seed)
    match kind:
        case "qwen3":
            model = tf.Qwen3ForCausalLM(tf.Qwen3Config(**shape, head_dim=8, tie_word_embeddings=True))
        case "qwen2":
            model = tf.Qwen2ForCausalLM(tf.Qwen2Config(**shape, tie_word_embeddings=False))
        case "llama":
            model = tf.LlamaForCausalLM(tf.LlamaConfig(**shape))
        case "gemma":
            model = tf.GemmaForCausalLM(tf.GemmaConfig(**shape, head_dim=8))
        case "gemma2":
            # The window is shorter than the prompts and the caps bite, so that leaving either out would show. Tied
            # embeddings under these caps would repeat one token for ever.
            model = tf.Gemma2ForCausalLM(
                tf.Gemma2Config(
                    **shape,
                    head_dim=8,
                    query_pre_attn_scalar=8,
                    sliding_window=6,
                    attn_logit_softcapping=2.0,
                    final_logit_softcapping=4.0,
                    tie_word_embeddings=False,
                )
            )
        case _:
            raise ValueError(kind)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings(folder: Path, **changes: Any) -> ModelSettings:
    """Model settings for a tiny folder."""
    fields = {"base": str(folder), "dtype": "float32", "max_context": CONTEXT, "lora": {"r": 4, "alpha": 8}}
    return ModelSettings.model_validate({**fields, **changes})


def recipe(folder: Path, model: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """A recipe around a tiny folder; ``changes`` are top-level sections."""
    roles = {"num_generations": 4, "max_completion_length": 12, "prompts_per_step": 2}
    fields: dict[str, Any] = {"model": settings(folder, **(model or {})).model_dump()}
    for role in ("judge", "rubric"):
        fields[role] = {**roles, **changes.pop(role, {})}
    return Recipe.model_validate({**fields, **changes})


def load(folder: Path, stirred: bool = True, seed: int = 0, **changes: Any) -> AdapterModel:
    """The two-adapter model of a tiny folder, with frozen references; ``stirred`` adapters all differ from the base."""
    model = load_model(settings(folder, **changes), seed)
    model.freeze_references()
    if stirred:
        for i, adapter in enumerate(("rubric", "judge", "rubric_ref", "judge_ref")):
            stir(model, adapter, seed=i)
    return model


def stir(model: AdapterModel, adapter: str, seed: int, scale: float = 0.15) -> None:
    """Add noise to an adapter's weights (a fresh LoRA adapter does nothing, as its B is zero)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.parameters(adapter):
            parameter.add_((torch.randn(parameter.shape, generator=generator) * scale).to(parameter.device))
    model.weights_changed(adapter)


def weights(model: AdapterModel, adapter: str) -> dict[str, torch.Tensor]:
    """A copy of an adapter's weights."""
    return {name: p.detach().clone() for name, p in model.parameters(adapter)}


def everything(model: AdapterModel) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {name: t.detach().clone() for name, t in model.model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not bit-identical."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def examples(prompts: tuple[str, ...] = PROMPTS, seed: int = 7) -> list[Example]:
    """One example per prompt, each with a seed of its own."""
    return [Example(f"e{i}", prompt, seed + 1000 * i) for i, prompt in enumerate(prompts)]


def rollouts(
    model: AdapterModel, adapter: str | None = "judge", tokens: int = 12, n: int = 4, temperature: float = 1.0
) -> list[RolloutGroup]:
    """Sampled groups for :data:`PROMPTS`."""
    return model.sample(adapter, examples(), Sampling(tokens, n, temperature))


def spread(groups: list[RolloutGroup]) -> list[GroupAdvantages]:
    """Advantages of rewards 0, 1, 2, 0, 1, 2, … within each group."""
    return [group_advantages([Reward(float(i % 3)) for i in range(len(group.samples))]) for group in groups]


class Folders:
    """Tiny model folders, made when first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, kind: str = "qwen3") -> Path:
        folder = self._root / kind
        return folder if (folder / "config.json").is_file() else make_folder(kind, folder)
