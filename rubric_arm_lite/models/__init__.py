"""Models: one frozen base with adapters, sampling, log-probabilities and shared prefixes.

Enter: user turns and token rows. Leave: sampled completions with their log-probabilities, and scores with gradient for
the active adapter. peft, bitsandbytes, unsloth and vLLM are imported only here, and only when they are used. A new
backend implements :class:`~.sampler.Sampler` and is chosen in :mod:`.load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.models.adapter_model import AdapterModel
    from rubric_arm_lite.models.load import load_for_trainer, load_model, load_tokenizer
    from rubric_arm_lite.models.memory import TokenBudget, release
    from rubric_arm_lite.models.parallel import ALONE, Processes
    from rubric_arm_lite.models.sampler import ChatSampler, NextWords, Sampler, Sampling, WordReader
    from rubric_arm_lite.models.server import ServerSampler, ServerSettings
    from rubric_arm_lite.models.server_answers import RefusedRequest

__all__ = [
    "ALONE",
    "AdapterModel",
    "ChatSampler",
    "NextWords",
    "Processes",
    "RefusedRequest",
    "Sampler",
    "Sampling",
    "ServerSampler",
    "ServerSettings",
    "TokenBudget",
    "WordReader",
    "load_for_trainer",
    "load_model",
    "load_tokenizer",
    "release",
]

__getattr__ = lazy_door(
    __name__,
    {
        "adapter_model": ["AdapterModel"],
        "load": ["load_for_trainer", "load_model", "load_tokenizer"],
        "memory": ["TokenBudget", "release"],
        "parallel": ["ALONE", "Processes"],
        "sampler": ["ChatSampler", "NextWords", "Sampler", "Sampling", "WordReader"],
        "server": ["ServerSampler", "ServerSettings"],
        "server_answers": ["RefusedRequest"],
    },
)
