"""The paper's numbers for comparison (``paper.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

from ruamel.yaml import YAML


class Column(NamedTuple):
    """One column of the table, and our number for it."""

    title: str
    benchmark: str
    number: str


_TABLE = YAML(typ="safe").load(resources.files(__package__).joinpath("paper.yaml").read_text("utf-8"))
SOURCE: str = _TABLE["source"]
COLUMNS = tuple(Column(*column) for column in _TABLE["columns"])
ROWS: Mapping[str, tuple[float, ...]] = {name: tuple(row) for name, row in _TABLE["rows"].items()}
"""One value per column of :data:`COLUMNS`, and the printed average."""
WRITING: Mapping[str, float] = _TABLE["writing"]
"""WritingPreferenceBench."""
SECONDS: Mapping[str, str] = _TABLE["seconds"]
"""Seconds for 100 prompts of RewardBench 2."""
