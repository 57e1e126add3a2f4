"""Generator and judge as two full checkpoints behind one sampler: the released 8B models, or merged exports.

Each is loaded like a base (safetensors only, quantized if the recipe says so), the generator first, and used without
adapters. Their tokenizers may differ. They cannot be trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rubric_arm_lite.errors import BackendError, ConfigError
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.models.sampler import NextWords, Sampling
from rubric_arm_lite.recipe import LoraSettings, ModelSettings
from rubric_arm_lite.types import ROLES, Example, Role, RolloutGroup

_HASHED_NUMBERS = 64
"""Numbers of each tensor in a fingerprint: training changes all of a model, and hashing 16 GB takes minutes."""


class TwoModels:
    """A :class:`~rubric_arm_lite.models.sampler.ChatSampler` in which each role is a model of its own."""

    def __init__(self, rubric: AdapterModel, judge: AdapterModel) -> None:
        self.models: dict[str, AdapterModel] = {"rubric": rubric, "judge": judge}
        self.tokens_written = 0
        self._fingerprints: dict[str, str] = {}

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
        base = self.model_of(adapter).model.get_base_model()
        if str(adapter) not in self._fingerprints:
            digest = hashlib.sha256()
            for name, tensor in base.state_dict().items():
                if ".lora_" not in name:
                    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                    digest.update(str(tensor.flatten()[:_HASHED_NUMBERS].cpu().tolist()).encode())
            self._fingerprints[str(adapter)] = digest.hexdigest()[:16]
        return self._fingerprints[str(adapter)]

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
    models: dict[Role, AdapterModel] = {}
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
    return TwoModels(models["rubric"], models["judge"])
