"""Where the rows of public benchmarks are (``benchmarks.yaml``): for decontamination, and for evaluation on them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from ruamel.yaml import YAML


@dataclass(frozen=True, slots=True)
class Part:
    """One config and split of a benchmark's source; ``files`` matches the names of its files in its own repository."""

    config: str | None = None
    split: str | None = None
    files: str | None = None

    def files_in(self, folder: str | Path) -> list[Path]:
        """The files of this part as the benchmark's own repository names them, in the folder or below it."""
        folder = Path(folder)
        if self.files is None or not folder.is_dir():
            return []
        named = {path: re.fullmatch(self.files, path.name) for path in sorted(folder.rglob("*")) if path.is_file()}
        found = {path: match for path, match in named.items() if match is not None}
        if self.config is not None:
            found = {path: match for path, match in found.items() if self.config in path.relative_to(folder).parts}
        return [path for path, match in found.items() if not any(match.groups())] or list(found)


@dataclass(frozen=True, slots=True)
class PublicBenchmark:
    """One entry of the catalogue.

    Attributes:
        source: Hub id; None if the user must name a local copy.
        parts: what is read of the source; empty for a user's own file of pairs.
        rows: rows of the whole benchmark; None if unknown.
        rule: the scoring rule in words, printed beside the numbers.
        unparsed: what a verdict that names neither response counts for, in words.
        skips: which rows give no item.
        lacks: what cannot be computed from a pairwise judge.
        sections: weights of subsets by section.
    """

    name: str
    title: str
    source: str | None = None
    parts: tuple[Part, ...] = ()
    rows: int | None = None
    rule: str = "share of pairs whose better response is named, mean of both orders"
    unparsed: str = "{pair:g}"
    skips: str = ""
    lacks: str = ""
    sections: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def _catalogue() -> Iterator[PublicBenchmark]:
    text = resources.files("rubric_arm_lite.data").joinpath("benchmarks.yaml").read_text("utf-8")
    for name, entry in YAML(typ="safe").load(text).items():
        yield PublicBenchmark(name, parts=tuple(Part(**part) for part in entry.pop("parts")), **entry)


CATALOGUE = {benchmark.name: benchmark for benchmark in _catalogue()}
"""The public benchmarks, by name."""
