"""Evaluates several benchmarks and keeps their results in one folder.

The folder holds ``NAME.jsonl`` per benchmark (the journal: one line per item with rubric, judgements and verdicts)
and ``results.json``. It belongs to one pair of adapters under one set of settings; results of others are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation.benchmarks.judging import BATCH_DUELS, judge_items
from rubric_arm_lite.evaluation.benchmarks.load import LoadedBenchmark
from rubric_arm_lite.evaluation.benchmarks.results import Result, judge_temperature, result_of
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.runs import IfExists, Journal, atomic_write

RESULTS = "results.json"
BENCHMARKS_FOLDER = "benchmarks"
"""Where results go in a run directory."""


def check_folder(out: Path, benchmarks: Sequence[LoadedBenchmark], if_exists: IfExists) -> None:
    """Refuse, before any model is loaded, to write where results are.

    Raises:
        CheckpointError: with ``raise``, if one of the benchmarks has been begun in the folder.
    """
    for loaded in benchmarks:
        path = _journal_path(out, loaded)
        if if_exists == "raise" and path.exists():
            raise CheckpointError(
                f"{path} exists. Use --resume to continue it, --if-exists overwrite to start anew, or another --out."
            )


def evaluate_benchmarks(
    model: RubricRewardModel,
    benchmarks: Sequence[LoadedBenchmark],
    out: Path,
    votes: int,
    if_exists: IfExists = "raise",
    progress: Callable[[str, int, int], None] | None = None,
    batch_duels: int = BATCH_DUELS,
) -> list[Result]:
    """Judge and score the benchmarks in turn; results are on disk after each.

    Args:
        progress: called with the benchmark's title, its items done and all its items.

    Returns:
        All results in the folder: those of earlier benchmarks under the same settings, then these.

    Raises:
        CheckpointError: if the folder holds results of other adapters or settings.
    """
    settings = judging_settings(model, votes)
    results = {} if if_exists == "overwrite" else _earlier_results(out, settings)
    seed = derive_seed(model.recipe.seed, "benchmarks")
    for loaded in benchmarks:
        name, title = loaded.benchmark.name, loaded.benchmark.title
        job = {"benchmark": name, "items": loaded.digest, "count": len(loaded.items), **settings}
        with Journal.open(_journal_path(out, loaded), job, if_exists) as journal:
            of_this = None if progress is None else partial(progress, title)
            judge_items(model, loaded.items, journal, votes, of_this, batch_duels)
        results[name] = result_of(loaded, journal.rows, model.recipe.evaluation, votes, seed)
        values = {"asked": settings, "benchmarks": {key: result.as_json() for key, result in results.items()}}
        atomic_write(out / RESULTS, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
    return list(results.values())


def judging_settings(model: RubricRewardModel, votes: int) -> dict[str, Any]:
    """Everything besides the question that decides a verdict."""
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
    """The judging settings and results of a folder; both empty if it has none.

    Raises:
        CheckpointError: if the file is damaged.
    """
    file = folder / RESULTS
    if not file.exists():
        return {}, []
    try:
        value = json.loads(file.read_text("utf-8"))
        return dict(value["asked"]), [Result.from_json(result) for result in value["benchmarks"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}). Move it away; --resume writes it again from the "
            "journals."
        ) from error


def _earlier_results(out: Path, settings: Mapping[str, Any]) -> dict[str, Result]:
    before, results = read_results(out)
    changed = [name for name in settings if results and before.get(name) != settings[name]]
    if changed:
        changes = ", ".join(f"{name}: {before.get(name)!r} there, {settings[name]!r} now" for name in changed[:3])
        raise CheckpointError(
            f"{out} holds results of other adapters or settings ({changes}). Name another --out, or start anew with "
            "--if-exists overwrite."
        )
    return {result.name: result for result in results}


def _journal_path(out: Path, loaded: LoadedBenchmark) -> Path:
    return out / f"{loaded.benchmark.name}.jsonl"
