"""Every test runs offline and the same way each time; ``RUBRIC_ARM_TESTS=gpu pytest -m gpu`` runs those for a GPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tiny import Folders

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Two test processes share two cores with the processes that they start: threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

if "gpu" not in os.environ.get("RUBRIC_ARM_TESTS", ""):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the suite promises what holds on a CPU, on every machine
    # Nothing is compiled here, but bitsandbytes prepares for it at every import, which takes seconds.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"

settings.register_profile("suite", max_examples=100, deadline=None, derandomize=True, database=None)
settings.load_profile("suite")

from tests.short_run import finished_run  # noqa: E402, F401  (a fixture)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Call it with an architecture for the folder of its tiny model; tests must not write into it."""
    import torch  # only tests with models pay for it

    from tests.tiny import Folders

    torch.set_num_threads(1)
    return Folders(tmp_path_factory.mktemp("tiny"))
