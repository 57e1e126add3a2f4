"""Loads benchmarks by name, from the Hub, a local copy or the user's own file of pairs."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from rubric_arm_lite.data import Row, load_pairs, open_rows
from rubric_arm_lite.data.counts import sorted_reasons
from rubric_arm_lite.data.formats import SkippedRow
from rubric_arm_lite.data.sources import FILE_SUFFIXES
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, BestOf, Part, with_rule
from rubric_arm_lite.evaluation.benchmarks.scoring import Item
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import derive_seed

_FILE_NAME = re.compile(r"(?!results$)[a-z0-9][a-z0-9._-]{0,63}")
"""Names of pair files that can also name a journal; ``results`` is taken by the file of all results."""


@dataclass(frozen=True, slots=True)
class LoadedBenchmark:
    """A benchmark and its items.

    Attributes:
        items: those to judge, in the source's order, with unique ids.
        available: how many items there are without a limit.
        rows: rows read.
        skipped: rows that give no item.
        missing: folders of the benchmark that the source lacks.
        unusable: rows among them that no judge can answer, by reason.
    """

    benchmark: Benchmark
    source: str
    items: tuple[Item, ...]
    available: int
    rows: int
    skipped: int
    unusable: tuple[tuple[str, int], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of everything that the judge and the scoring see."""
        digest = hashlib.sha256()
        for item in self.items:
            # JSON keeps the parts apart
            parts = [item.item_id, prompt_hash(item.prompt), item.responses, item.duels, item.subset]
            digest.update(json.dumps(parts).encode() + b"\n")
        return digest.hexdigest()[:16]


def load_benchmarks(
    names: Sequence[str], paths: Mapping[str, str], best_of: BestOf = "strict", limit: int | None = None
) -> list[LoadedBenchmark]:
    """Load the benchmarks of these names; a name with the suffix of a data file is the user's own file of pairs.

    Args:
        paths: local file or folder by benchmark, in place of the Hub.
        limit: at most this many items of each.

    Raises:
        ConfigError: for an unknown or repeated name.
        DataError: for data that cannot be used.
    """
    catalogue = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    chosen: dict[str, tuple[Benchmark, str | None]] = {}
    paths = dict(paths)
    for given in names:
        name, is_path, path = given.partition("=")
        if not is_path or name not in catalogue:
            name = given
        elif paths.setdefault(name, path) != path:
            raise ConfigError(f"--benchmarks {given}: --benchmark-dir gives {paths[name]}. Name one place.")
        if name in catalogue:
            benchmark, source = with_rule(catalogue[name], best_of), paths.get(name)
        elif name.lower().endswith(FILE_SUFFIXES):
            stem = Path(name).stem.lower()
            if _FILE_NAME.fullmatch(stem) is None:
                raise ConfigError(
                    f"--benchmarks {name}: results cannot be called {stem!r}. Give the file a plain name."
                )
            if stem in catalogue:
                raise ConfigError(
                    f"--benchmarks {name}: {stem} is the name of a benchmark. Use --benchmarks {stem} --benchmark-dir "
                    f"{stem}={name}, or rename your file of pairs."
                )
            benchmark, source = Benchmark(stem, stem), name
        else:
            near = difflib.get_close_matches(name, catalogue, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"--benchmarks {name!r}: no such benchmark. {hint}Use {', '.join(catalogue)}, or a file of pairs "
                "ending in .jsonl."
            )
        if benchmark.name in chosen:
            raise ConfigError(f"--benchmarks: {benchmark.name} is named twice. Name each once.")
        chosen[benchmark.name] = benchmark, source
    for name in paths:
        if name not in chosen:
            raise ConfigError(f"--benchmark-dir {name}=…: {name} is not among --benchmarks {', '.join(names)}. Add it.")
    return [load(benchmark, source, limit) for benchmark, source in chosen.values()]


def load(benchmark: Benchmark, source: str | Path | None = None, limit: int | None = None) -> LoadedBenchmark:
    """Read a benchmark from its Hub id or, if given, a local file or folder.

    Args:
        limit: at most this many items, drawn by their ids alone, so that every subset keeps its share.

    Raises:
        DataError: if there is no source, or for the first row that cannot be used.
    """
    source = source or benchmark.source
    if source is None:
        raise DataError(
            f"{benchmark.title} has no data set of its own on the Hub. Name your copy: "
            f"--benchmark-dir {benchmark.name}=FOLDER."
        )
    reasons = Counter[str]()
    rows = _items_by_row(benchmark, source, reasons)
    items = available = _with_unique_ids(chain(*rows))
    if not items:
        raise DataError(f"{source}: none of {len(rows)} rows has a question for a judge.")
    if limit is not None and limit < len(items):
        drawn = sorted(items, key=lambda item: derive_seed("benchmark sample", item.item_id))[:limit]
        ids = {item.item_id for item in drawn}
        items = [item for item in items if item.item_id in ids]
    skipped = sum(not row for row in rows)
    unusable = sorted_reasons(reasons)
    found = {part for part in benchmark.parts if _files_of(part, Path(source))}
    missing = tuple(part.config for part in benchmark.parts if found and part not in found and part.config)
    return LoadedBenchmark(benchmark, str(source), tuple(items), len(available), len(rows), skipped, unusable, missing)


def _items_by_row(benchmark: Benchmark, source: str | Path, unusable: Counter[str]) -> list[list[Item]]:
    """The items of each row; rows that no judge can answer have none and are counted in ``unusable``."""

    def read(part: Part, row: Row) -> list[Item]:
        try:
            return part.read(row)
        except SkippedRow as skip:
            unusable[str(skip)] += 1
            return []

    parts = benchmark.parts
    if not parts:
        pairs = load_pairs(source)
        return [[Item(p.pair_id, p.prompt, (p.chosen, p.rejected), subset=p.subset)] for p in pairs]
    if Path(source).is_file():
        if len({part.read for part in parts}) > 1:
            folders = ", ".join(str(part.config) for part in parts)
            raise DataError(f"{source} is a file. Give the folder of {benchmark.title} that holds {folders}.")
        return [read(parts[0], row) for row in _rows_of_files([Path(source)], parts[0])]
    files = [_files_of(part, Path(source)) for part in parts]
    if any(files):
        return [
            read(part, row) for part, found in zip(parts, files, strict=True) for row in _rows_of_files(found, part)
        ]
    return [read(part, row) for part in parts for row in open_rows(source, config=part.config, split=part.split)]


def _files_of(part: Part, folder: Path) -> list[Path]:
    """The files of a part as the benchmark's own repository names them, in the folder or below it."""
    if part.files is None or not folder.is_dir():
        return []
    names = re.compile(part.files)
    found = [path for path in sorted(folder.rglob("*")) if names.fullmatch(path.name) and path.is_file()]
    if part.config is not None:
        found = [path for path in found if part.config in path.relative_to(folder).parts]
    whole = [path for path in found if not any(names.fullmatch(path.name).groupdict().values())]  # type: ignore[union-attr]
    return whole or found


def _rows_of_files(files: Sequence[Path], part: Part) -> Iterator[Row]:
    for path in files:
        match = re.fullmatch(part.files or "", path.name)
        named = {name: value for name, value in match.groupdict().items() if value} if match else {}
        yield from (Row(row.where, {**named, **row.columns}) for row in open_rows(path))


def _with_unique_ids(items: Iterable[Item]) -> list[Item]:
    """The items; the second one of a name is called ``name#2``."""
    unique: dict[str, Item] = {}
    for item in items:
        names = chain([item.item_id], (f"{item.item_id}#{number}" for number in count(2)))
        name = next(name for name in names if name not in unique)
        unique[name] = replace(item, item_id=name)
    return list(unique.values())
