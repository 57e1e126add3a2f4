"""Several benchmarks in a row: choose, read, judge, score, and keep the results in one folder.

The folder holds ``NAME.jsonl`` per benchmark (the journal: one line per item with rubric, judgements and verdicts)
and ``results.json``. It belongs to one pair of adapters and one way to ask them; others are refused.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.rows import FILE_SUFFIXES
from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, BestOf, pair_file, with_rule
from rubric_arm_lite.evaluation.benchmarks.engine import BATCH_DUELS, Loaded, judge_items, load, load_pair_file
from rubric_arm_lite.evaluation.benchmarks.results import Result, judge_temperature, result_of
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.runs import IfExists, Journal, atomic_write

RESULTS = "results.json"
BENCHMARKS_FOLDER = "benchmarks"
"""Where results go in a run directory."""
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A benchmark, where it is read from, and what was read."""

    benchmark: Benchmark
    source: str
    loaded: Loaded


def choose(
    names: Sequence[str], places: Mapping[str, str], best_of: BestOf = "strict", limit: int | None = None
) -> list[Chosen]:
    """Read the benchmarks of these names; a name that ends like a file is a file of pairs.

    Args:
        places: local file or folder by benchmark, in place of the Hub.
        limit: at most this many items of each.

    Raises:
        ConfigError: for a name that is none, or comes twice.
        DataError: for data that cannot be used.
    """
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    found: dict[str, tuple[Benchmark, str]] = {}
    for name in names:
        if name in known:
            benchmark, source = with_rule(known[name], best_of), places.get(name, known[name].source or "")
        elif name.lower().endswith(FILE_SUFFIXES):
            benchmark, source = pair_file(_name_of_file(name, known)), name
        else:
            raise ConfigError(f"--benchmarks {name!r}: {_nearest(name, known)}")
        if benchmark.name in found:
            raise ConfigError(f"--benchmarks: {benchmark.name} is named twice. Name each once.")
        found[benchmark.name] = (benchmark, source)
    for name in places:
        if name not in found:
            raise ConfigError(f"--benchmark-dir {name}=…: {name} is not among --benchmarks {', '.join(names)}. Add it.")
    return [
        Chosen(
            benchmark,
            source,
            load(benchmark, source or None, limit) if benchmark.parts else load_pair_file(Path(source), limit),
        )
        for benchmark, source in found.values()
    ]


def _name_of_file(path: str, known: Mapping[str, Benchmark]) -> str:
    name = Path(path).stem.lower()
    if _FILE_NAME.fullmatch(name) is None or name == Path(RESULTS).stem:
        raise ConfigError(f"--benchmarks {path}: results cannot be called {name!r}. Give the file a plain name.")
    if name in known:
        raise ConfigError(
            f"--benchmarks {path}: {name} is the name of a benchmark. Name that, with --benchmark-dir {name}={path}, "
            "or call a file of pairs otherwise."
        )
    return name


def _nearest(name: str, known: Mapping[str, Benchmark]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"no such benchmark. {hint}There are {', '.join(known)}, or a file of pairs ending in .jsonl."


def check_folder(out: Path, chosen: Sequence[Chosen], if_exists: IfExists) -> None:
    """Refuse, before any model is loaded, to write where results are.

    Raises:
        CheckpointError: with ``raise``, if one of the benchmarks has been begun in the folder.
    """
    for one in chosen:
        path = _journal_path(out, one)
        if if_exists == "raise" and path.exists():
            raise CheckpointError(
                f"{path} exists. Use --resume to continue it, --if-exists overwrite to start anew, or another --out."
            )


def evaluate_benchmarks(
    model: RubricRewardModel,
    chosen: Sequence[Chosen],
    out: Path,
    votes: int,
    if_exists: IfExists = "raise",
    watch: Callable[[str, int, int], None] | None = None,
    batch_duels: int = BATCH_DUELS,
) -> list[Result]:
    """Judge and score the benchmarks in turn; results are on disk after each.

    Args:
        watch: called with the benchmark's title, its items done and all its items.

    Returns:
        All results in the folder: those of earlier benchmarks under the same settings, then these.

    Raises:
        CheckpointError: if the folder holds results of other adapters or settings.
    """
    asked = how_asked(model, votes)
    results = {} if if_exists == "overwrite" else _earlier(out, asked)
    seed = derive_seed(model.recipe.seed, "benchmarks")
    for one in chosen:
        name = one.benchmark.name
        job = {"benchmark": name, "items": one.loaded.digest, "count": len(one.loaded.items), **asked}
        with Journal.open(_journal_path(out, one), job, if_exists) as journal:
            judge_items(
                model,
                one.loaded.items,
                journal,
                votes,
                None if watch is None else _named(watch, one.benchmark.title),
                batch_duels,
            )
            rows = journal.rows
        results[name] = result_of(one.benchmark, one.source, one.loaded, rows, model.recipe.evaluation, votes, seed)
        values = {"asked": asked, "benchmarks": {key: result.as_json() for key, result in results.items()}}
        atomic_write(out / RESULTS, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
    return list(results.values())


def how_asked(model: RubricRewardModel, votes: int) -> dict[str, Any]:
    """All that decides an answer besides the question."""
    settings, templates = model.recipe.evaluation, model.prompts.templates
    return {
        "rubric_adapter": model.model.fingerprint("rubric"),
        "judge_adapter": model.model.fingerprint("judge"),
        "templates": hashlib.sha256(json.dumps([templates.rubric, templates.judge]).encode()).hexdigest()[:16],
        "rubric_max_tokens": settings.rubric_max_tokens,
        "judge_max_tokens": settings.judge_max_tokens,
        "judge_temperature": judge_temperature(settings, votes),
        "votes": votes,
        "max_context": model.recipe.model.max_context,
        "seed": model.recipe.seed,
    }


def read_results(folder: Path) -> tuple[dict[str, Any], list[Result]]:
    """How the models were asked, and the results of a folder; nothing of either if there are none.

    Raises:
        CheckpointError: if the file is damaged.
    """
    file = folder / RESULTS
    if not file.exists():
        return {}, []
    try:
        value = json.loads(file.read_text("utf-8"))
        return dict(value["asked"]), [Result.from_json(found) for found in value["benchmarks"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}). Move it away; with --resume it is written again "
            "from what was judged."
        ) from error


def _earlier(out: Path, asked: Mapping[str, Any]) -> dict[str, Result]:
    before, results = read_results(out)
    differs = [name for name in asked if results and before.get(name) != asked[name]]
    if differs:
        told = ", ".join(f"{name}: {before.get(name)!r} there, {asked[name]!r} now" for name in differs[:3])
        raise CheckpointError(
            f"{out} holds results of other adapters or settings ({told}). Name another --out, or start anew with "
            "--if-exists overwrite."
        )
    return {result.name: result for result in results}


def _journal_path(out: Path, one: Chosen) -> Path:
    return out / f"{one.benchmark.name}.jsonl"


def _named(watch: Callable[[str, int, int], None], title: str) -> Callable[[int, int], None]:
    return lambda done, items: watch(title, done, items)
