"""Models of published sizes with random weights, quantized while they are built, so that nothing is downloaded.

The shapes are those of :mod:`rubric_arm_lite.training.shapes`. Only one matrix at a time exists in bfloat16.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from benchmarks.against_trl.ours import MOVE, STIR
from benchmarks.against_trl.work import Work, nudge
from rubric_arm_lite.models import AdapterModel
from rubric_arm_lite.models.load import share_prefixes, with_adapters
from rubric_arm_lite.models.own_forward import check_own_forward
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.training.shapes import QWEN3
from rubric_arm_lite.types import ROLES

SHAPES = {name.rpartition("-")[2].lower(): dict(fields) for name, fields in QWEN3.items()}
SHAPES["tiny"] = {
    **SHAPES["8b"],
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def random_base(size: str, context: int, nf4: bool = True, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A frozen base of random weights on the GPU."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        **SHAPES[size],
        max_position_embeddings=max(context, 40960),
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
        dtype=dtype,
    )
    config._attn_implementation = "sdpa"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    with torch.device("meta"):
        base = Qwen3ForCausalLM(config)
    for name, module in list(base.named_modules()):
        for key, parameter in list(module.named_parameters(recurse=False)):
            if nf4 and isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                continue
            create = torch.ones if parameter.dim() == 1 else torch.randn
            weight = create(parameter.shape, dtype=dtype, device=device)
            if parameter.dim() > 1:
                weight *= 0.02
            module.register_parameter(key, torch.nn.Parameter(weight, requires_grad=False))
    if nf4:
        _quantize(base, dtype, device)
    base.tie_weights()
    rotary = base.model.rotary_emb
    base.model.rotary_emb = type(rotary)(config=config).to(device)
    share_prefixes(base)
    return base.eval()


def _quantize(base: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Replace all linear layers but the head by 4-bit ones: one per shape is drawn and quantized, others are copies.

    Memory and speed do not depend on the values of weights, and drawing each would take longer than many checks.
    """
    import bitsandbytes as bnb
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    drawn: dict[tuple[int, int], bnb.nn.Params4bit] = {}
    for name, module in list(base.named_modules()):
        if not isinstance(module, torch.nn.Linear) or "lm_head" in name:
            continue
        shape = (module.out_features, module.in_features)
        if shape not in drawn:
            weight = torch.randn(shape, dtype=dtype, device=device) * 0.02
            drawn[shape] = bnb.nn.Params4bit(
                weight, requires_grad=False, compress_statistics=True, quant_type="nf4"
            ).to(device)
        with torch.device("meta"):
            layer = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
            )
        layer.weight = copy.deepcopy(drawn[shape])
        layer.support_avx512bf16_for_cpu = False  # as in the loader: on a CPU the base would be rounded
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, layer)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    # Attributes that `from_pretrained` sets and trainers read.
    base.config.quantization_config = config
    base.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    base.is_loaded_in_4bit = base.is_quantized = True


def write_folder(size: str, work: Work, folder: Path) -> None:
    """Write a base of random weights and the benchmark's tokenizer to a folder that any backend can load."""
    base = random_base(size, work.settings.prompt_length + work.settings.completion_length, nf4=False)
    base.config.eos_token_id = work.tokenizer.eos_token_id
    base.config.pad_token_id = work.tokenizer.pad_token_id
    base.save_pretrained(folder)
    work.tokenizer.save_pretrained(folder)


def build(size: str, work: Work, nf4: bool = True, rank: int = 16, **settings: Any) -> AdapterModel:
    """A base with both adapters and their frozen references, all different; it never ends a text."""
    s = work.settings
    model_settings = ModelSettings.model_validate(
        {
            "base": f"qwen3-{size}",
            "dtype": "bfloat16",
            "quantization": "nf4" if nf4 else "none",
            "max_context": s.prompt_length + s.completion_length,
            "gradient_checkpointing": True,
            "lora": {"r": rank, "alpha": 2 * rank},
            **settings,
        }
    )
    base = random_base(size, model_settings.max_context, nf4)
    model = with_adapters(base, work.tokenizer, model_settings, 0)
    check_own_forward(model, model_settings.base)
    for role in ROLES:
        nudge(model.parameters(role), STIR, 0.002)
    model.freeze_references()
    for role in ROLES:
        nudge(model.parameters(role), MOVE, 0.002)
    model.end_ids = frozenset()
    return model
