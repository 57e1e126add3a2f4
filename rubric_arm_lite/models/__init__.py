"""Models: one frozen base with adapters, sampling, log-probabilities and shared prefixes.

Input: user turns and token rows.
Output: sampled completions with their log-probabilities, and scores with gradient for the active adapter. peft,
bitsandbytes, unsloth and vLLM are imported only here, and only when they are used. A new backend implements
:class:`Sampler` and is chosen in :mod:`.load`. Exported: loading, samplers, and what training needs of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rubric_arm_lite import lazy_door

if TYPE_CHECKING:
    from rubric_arm_lite.models.adapter_model import AdapterModel as AdapterModel
    from rubric_arm_lite.models.base import base_fingerprint as base_fingerprint
    from rubric_arm_lite.models.base import other_base as other_base
    from rubric_arm_lite.models.load import check_before_loading as check_before_loading
    from rubric_arm_lite.models.load import load_for_trainer as load_for_trainer
    from rubric_arm_lite.models.load import load_model as load_model
    from rubric_arm_lite.models.load import load_tokenizer as load_tokenizer
    from rubric_arm_lite.models.memory import TokenBudget as TokenBudget
    from rubric_arm_lite.models.parallel import ALONE as ALONE
    from rubric_arm_lite.models.parallel import Processes as Processes
    from rubric_arm_lite.models.sampler import ChatSampler as ChatSampler
    from rubric_arm_lite.models.sampler import NextWords as NextWords
    from rubric_arm_lite.models.sampler import Sampler as Sampler
    from rubric_arm_lite.models.sampler import Sampling as Sampling
    from rubric_arm_lite.models.sampler import WordReader as WordReader
    from rubric_arm_lite.models.server import ServerSampler as ServerSampler
    from rubric_arm_lite.models.server import ServerSettings as ServerSettings
    from rubric_arm_lite.models.server_answers import RefusedRequest as RefusedRequest

__getattr__, __dir__, __all__ = lazy_door(
    __name__,
    {
        "adapter_model": ["AdapterModel"],
        "base": ["base_fingerprint", "other_base"],
        "load": ["check_before_loading", "load_for_trainer", "load_model", "load_tokenizer"],
        "memory": ["TokenBudget"],
        "parallel": ["ALONE", "Processes"],
        "sampler": ["ChatSampler", "NextWords", "Sampler", "Sampling", "WordReader"],
        "server": ["ServerSampler", "ServerSettings"],
        "server_answers": ["RefusedRequest"],
    },
)
