"""Loads benchmarks by name, from the Hub, a local copy or the user's own file of pairs."""

from __future__ import annotations

import difflib
import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from rubric_arm_lite.data import Row, load_pairs, open_rows
from rubric_arm_lite.data.benchmarks import Part
from rubric_arm_lite.data.counts import sorted_reasons
from rubric_arm_lite.data.formats import SkippedRow
from rubric_arm_lite.data.sources import FILE_SUFFIXES
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, BestOf, with_rule
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
        unusable: rows among them that no judge can answer, by reason.
        missing: folders of the benchmark that the source lacks.
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
        elif not path:
            raise ConfigError(f"--benchmarks {given}: no place after the `=`. Name your copy, or leave out the `=`.")
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
    unique: dict[str, Item] = {}
    for item in chain(*rows):  # the second one of a name is called name#2
        names = chain([item.item_id], (f"{item.item_id}#{number}" for number in count(2)))
        name = next(name for name in names if name not in unique)
        unique[name] = replace(item, item_id=name)
    items = available = list(unique.values())
    if not items:
        raise DataError(f"{source}: none of {len(rows)} rows has a question for a judge.")
    if limit is not None and limit < len(items):
        ids = set(heapq.nsmallest(limit, unique, key=lambda item_id: derive_seed("benchmark sample", item_id)))
        items = [item for item in items if item.item_id in ids]
    skipped = sum(not row for row in rows)
    found = [part for part in benchmark.parts if part.files_in(source)]
    missing = tuple(part.config for part in benchmark.parts if found and part not in found and part.config)
    reads = (len(rows), skipped, sorted_reasons(reasons), missing)
    return LoadedBenchmark(benchmark, str(source), tuple(items), len(available), *reads)


def _items_by_row(benchmark: Benchmark, source: str | Path, unusable: Counter[str]) -> list[list[Item]]:
    """The items of each row; rows that no judge can answer have none and are counted in ``unusable``."""
    parts = benchmark.parts
    if not parts:
        pairs = load_pairs(source)
        return [[Item(p.pair_id, p.prompt, (p.chosen, p.rejected), subset=p.subset)] for p in pairs]
    files = [part.files_in(source) for part in parts]
    if Path(source).is_file():
        if len(set(benchmark.reads)) > 1:
            folders = ", ".join(str(part.config) for part in parts)
            raise DataError(f"{source} is a file. Give the folder of {benchmark.title} that holds {folders}.")
        parts, files = parts[:1], [[Path(source)]]

    def rows_of(part: Part, paths: Sequence[Path]) -> Iterator[Row]:
        if not any(files):
            yield from open_rows(source, config=part.config, split=part.split)
        for path in paths:
            match = re.fullmatch(part.files or "", path.name)
            named = {name: value for name, value in match.groupdict().items() if value} if match else {}
            yield from (Row(row.where, {**named, **row.columns}) for row in open_rows(path))

    items = []
    for part, paths, read in zip(parts, files, benchmark.reads, strict=False):
        for row in rows_of(part, paths):
            try:
                items.append(read(row))
            except SkippedRow as skip:
                unusable[str(skip)] += 1
                items.append([])
    return items
