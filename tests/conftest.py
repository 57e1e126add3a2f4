"""Every test runs offline and the same way each time."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

settings.register_profile("suite", max_examples=100, deadline=None, derandomize=True, database=None)
settings.load_profile("suite")

from tests.short_run import finished_run  # noqa: E402, F401  (a fixture)
from tests.tiny import tiny_folder  # noqa: E402, F401  (a fixture)
