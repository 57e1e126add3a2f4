"""Compare the adapters and summaries of two versions of the same runs.

    python benchmarks/same_bytes.py OLD NEW

OLD and NEW are two run directories, or two folders of run directories that are compared by their relative paths.
Prints a line per adapter file with its path, the start of its SHA-256 and ``same``, ``DIFFERENT`` or ``missing``, then
the first numbers of ``summary.json`` that differ. Keys that only one summary has, such as renamed ones, are counted and
do not fail. Exits with 1 if a file differs or is missing, a number differs, or nothing could be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIFFERENCES_SHOWN = 5


def runs_of(folder: Path) -> dict[str, Path]:
    """Run directories by relative path: the folder itself, or those inside it."""
    if (folder / "adapters").is_dir():
        return {".": folder}
    runs = {path.parent for path in folder.rglob("adapters") if path.is_dir()}
    return {run.relative_to(folder).as_posix(): run for run in sorted(runs)}


def adapter_digests(run: Path) -> dict[str, str]:
    """SHA-256 of every adapter file of a run, by relative path."""
    files = sorted((run / "adapters").rglob("*.safetensors"))
    return {file.relative_to(run).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def numbers_of(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value with its dotted path; times are left out, as they differ between runs."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if "second" not in key:
                yield from numbers_of(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers_of(inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def compare_adapters(name: str, old: Path, new: Path) -> bool:
    """Print a line per adapter file; whether all are the same."""
    before, after = adapter_digests(old), adapter_digests(new)
    for file in sorted(before.keys() | after.keys()):
        digest = before.get(file) or after[file]
        missing = [side for side, files in (("OLD", before), ("NEW", after)) if file not in files]
        verdict = f"missing in {missing[0]}" if missing else "same" if before[file] == after[file] else "DIFFERENT"
        print(f"{name}/{file}  {digest[:12]}  {verdict}")
    return before == after


def compare_summaries(name: str, old: Path, new: Path) -> bool:
    """Print the first numbers that differ; whether those that both summaries have are equal."""
    files = [run / "summary.json" for run in (old, new)]
    if not all(file.is_file() for file in files):
        missing = [side for side, file in zip(("OLD", "NEW"), files, strict=True) if not file.is_file()]
        print(f"{name}/summary.json  missing in {' and '.join(missing)}, not compared")
        return True
    before, after = (dict(numbers_of(json.loads(file.read_text("utf-8")))) for file in files)
    different = [key for key in before if key in after and before[key] != after[key] and before[key] == before[key]]
    only = len(before.keys() ^ after.keys())
    equal = len(before.keys() & after.keys()) - len(different)
    print(f"{name}/summary.json  {equal} numbers same, {len(different)} DIFFERENT, {only} under other keys")
    for key in different[:DIFFERENCES_SHOWN]:
        print(f"    {key}: {before[key]:.17g} → {after[key]:.17g}")
    return not different


def main(arguments: list[str] | None = None) -> int:
    """Compare every run that both folders have; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    old, new = runs_of(options.old), runs_of(options.new)
    same = [
        compare(name, old[name], new[name])
        for name in old
        if name in new
        for compare in (compare_adapters, compare_summaries)
    ]
    for name in sorted(old.keys() ^ new.keys()):
        print(f"{name}  missing in {'NEW' if name in old else 'OLD'}, not compared")
    if not same:
        print(f"{options.old} and {options.new} have no run in common.")
    return int(not same or not all(same))


if __name__ == "__main__":
    sys.exit(main())
