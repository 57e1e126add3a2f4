"""What a run was made with: the versions of packages, the machine, and the git revision."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite import __version__
from rubric_arm_lite.backends.transformers import TwoAdapterModel


def versions(model: TwoAdapterModel) -> dict[str, Any]:
    """What this run was made with: packages, machine, and the git revision where there is one."""
    names = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes")
    found: dict[str, Any] = {"rubric-arm-lite": __version__, "python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["device"] = torch.cuda.get_device_name() if model.device.type == "cuda" else platform.processor() or "cpu"
    found["threads"] = torch.get_num_threads()
    found["git"] = _git_revision()
    return found


def _git_revision() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
