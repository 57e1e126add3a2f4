"""The identity of a base: a fingerprint of its weight files, the same whatever precision they are loaded in."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from rubric_arm_lite.data.testbed import base_folder
from rubric_arm_lite.models.lora import read_config
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.runs import read_object

_SAMPLE = 64
"""Bytes that are read at the start, in the middle and at the end of each tensor: training changes all of a model."""


def other_base(run: Path, settings: ModelSettings) -> str | None:
    """A sentence if the base has other weights than the one that a run was trained on; None if not, or not known.

    Call this once the base has been loaded, so that its files are on this machine.
    """
    file = run / "versions.json"
    before = read_object(file).get("base weights") if file.is_file() else None
    now = None if before is None else base_fingerprint(settings)
    if now in (None, before):
        return None
    return (
        f"{run} was trained on other weights of the base {settings.base} (fingerprint {before}, now {now}), so its "
        "adapters do not belong to them. Use that base, or train again."
    )


def base_fingerprint(settings: ModelSettings) -> str | None:
    """Hash (16 hex digits) of the names, types, shapes and samples of all tensors in a base's files.

    How the tensors are spread over files does not matter. None if the files are not on this machine.
    """
    tensors: dict[str, bytes] = {}
    for file in _weight_files(settings):
        with file.open("rb") as weights:
            start = 8 + int.from_bytes(weights.read(8), "little")
            for name, tensor in json.loads(weights.read(start - 8)).items():
                if name == "__metadata__":
                    continue
                begin, end = tensor["data_offsets"]
                size = min(_SAMPLE, end - begin)
                places = (begin, (begin + end - size) // 2, end - size)
                samples = b"".join(os.pread(weights.fileno(), size, start + place) for place in places)
                tensors[name] = f"{name} {tensor['dtype']} {tensor['shape']} ".encode() + samples
    if not tensors:
        return None
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()[:16]


def _weight_files(settings: ModelSettings) -> list[Path]:
    """The safetensors files that transformers loads; none if they are not on this machine."""
    from huggingface_hub import snapshot_download

    folder = base_folder() if settings.base == "testbed" else Path(settings.base)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(settings.base, revision=settings.revision, local_files_only=True))
        except (OSError, ValueError):  # also the Hub's own errors
            return []
    index = folder / "model.safetensors.index.json"
    if not (folder / "model.safetensors").is_file() and index.is_file():
        names = read_config(index, "Copy the model again.")["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    return [file for file in [folder / "model.safetensors"] if file.is_file()]
