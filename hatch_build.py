"""Stores the git commit of the checkout in the wheel and the sdist, for ``rubric-arm --version``."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class StoreCommit(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the file that ``rubric_arm_lite.runs.package_commit`` reads; an sdist's wheel takes it from the sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file, where there is a commit; an editable installation asks git when it is called."""
        self.folder = TemporaryDirectory()
        if version == "editable" or not (Path(self.root) / ".git").exists():
            return
        command = ["git", "-C", self.root, "describe", "--always", "--dirty", "--abbrev=12"]
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            file = Path(self.folder.name) / "COMMIT"
            file.write_text(done.stdout, "utf-8")
            build_data["force_include"][str(file)] = "rubric_arm_lite/COMMIT"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        self.folder.cleanup()
