"""An adapter merged into its base: a full checkpoint that any program loads without PEFT."""

from __future__ import annotations

from pathlib import Path

from rubric_arm_lite.backends.loader import load_for_trainer, load_tokenizer
from rubric_arm_lite.config import ModelSettings


def write_merged(settings: ModelSettings, adapter: Path, folder: Path) -> None:
    """Merge a saved adapter into the base as it is before any quantisation, and write it as safetensors.

    A base that was trained on in 4 bits is merged in its own precision: what quantisation rounded away comes back, so
    the merged model is not the trained one to the last bit.

    Raises:
        BackendError: if the base cannot be loaded or the adapter is none of its own.
    """
    whole = settings.model_copy(update={"quantization": "none"})
    model = load_for_trainer(whole, adapter).merge_and_unload(safe_merge=True)
    model.save_pretrained(folder, safe_serialization=True)
    load_tokenizer(whole).save_pretrained(folder)
