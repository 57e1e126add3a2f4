"""Evaluates several benchmarks and keeps their results in one folder.

The folder holds ``NAME.jsonl`` per benchmark (the journal: one line per item with rubric, judgements and verdicts)
and ``results.json``. It belongs to one pair of adapters under one set of settings; results of others are refused.
Duels are judged in both orders, with one rubric per prompt, in batches of whole prompts. After each batch its rows are
in the journal: an evaluation that was killed judges only what is not there and, as seeds derive from the texts, ends
with the same numbers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation.benchmarks.load import LoadedBenchmark
from rubric_arm_lite.evaluation.benchmarks.results import Result, result_of, row_of
from rubric_arm_lite.evaluation.benchmarks.scoring import Item
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.runs import IfExists, Journal, atomic_write

RESULTS = "results.json"
BENCHMARKS_FOLDER = "benchmarks"
"""Where results go in a run directory."""
BATCH_DUELS = 64
"""Duels per batch, each judged in two orders: what a kill can cost, and enough for a backend to fill its memory."""


@dataclass(frozen=True, slots=True)
class SavedResults:
    """The content of ``results.json``: the judging settings, and the results by benchmark."""

    asked: dict[str, Any]
    benchmarks: dict[str, Result]


def check_folder(out: Path, benchmarks: Sequence[LoadedBenchmark], if_exists: IfExists) -> None:
    """Refuse, before any model is loaded, to write where results are.

    Raises:
        CheckpointError: with ``raise``, if one of the benchmarks has been begun in the folder.
    """
    for loaded in benchmarks:
        path = out / f"{loaded.benchmark.name}.jsonl"
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
    progress: Callable[[str, int, int], None] = lambda title, done, items: None,
    batch_duels: int = BATCH_DUELS,
) -> list[Result]:
    """Judge and score the benchmarks in turn; results are on disk after each.

    Args:
        votes: judgements per duel and order; one at the recipe's judge temperature, more are sampled.
        progress: called with the benchmark's title, its items done and all its items after each batch.

    Returns:
        All results in the folder: those of earlier benchmarks under the same settings, then these.

    Raises:
        CheckpointError: if the folder holds results of other adapters or settings.
    """
    settings = model.identity(votes)
    results = {} if if_exists == "overwrite" else _earlier_results(out, settings)
    seed = derive_seed(model.recipe.seed, "benchmarks")
    for loaded in benchmarks:
        name = loaded.benchmark.name
        job = {"benchmark": name, "items": loaded.digest, "count": len(loaded.items), **settings}
        with Journal.open(out / f"{name}.jsonl", job, if_exists) as journal:
            todo = [item for item in loaded.items if item.item_id not in journal.rows]
            done = len(loaded.items) - len(todo)
            for batch in batches(todo, batch_duels):
                journal.add(_judge(model, batch, votes))
                done += len(batch)
                progress(loaded.benchmark.title, done, len(loaded.items))
        results[name] = result_of(loaded, journal.rows, model.recipe.evaluation, votes, seed)
        saved = asdict(SavedResults(settings, results))
        atomic_write(out / RESULTS, (json.dumps(saved, indent=1, ensure_ascii=False) + "\n").encode())
    return list(results.values())


def read_results(folder: Path) -> SavedResults:
    """The judging settings and results of a folder; both empty if it has none.

    Raises:
        CheckpointError: if the file is damaged.
    """
    file = folder / RESULTS
    if not file.exists():
        return SavedResults({}, {})
    try:
        return TypeAdapter(SavedResults).validate_json(file.read_bytes(), strict=True)
    except ValueError as error:
        raise CheckpointError(
            f"{file} is damaged ({type(error).__name__}: {error}). Move it away; --resume writes it again from the "
            "journals."
        ) from error


def _earlier_results(out: Path, settings: Mapping[str, Any]) -> dict[str, Result]:
    saved = read_results(out)
    before = saved.asked
    changed = [name for name in settings if saved.benchmarks and before.get(name) != settings[name]]
    if changed:
        changes = ", ".join(f"{name}: {before.get(name)!r} there, {settings[name]!r} now" for name in changed[:3])
        raise CheckpointError(
            f"{out} holds results of other adapters or settings ({changes}). Name another --out, or start anew with "
            "--if-exists overwrite."
        )
    return saved.benchmarks


# --- judging --------------------------------------------------------------------------------------------------------


def batches(items: Sequence[Item], duels: int) -> Iterator[list[Item]]:
    """Items grouped by prompt, in batches of about so many duels; a prompt is split only if it has more by itself."""
    by_prompt: dict[str, list[Item]] = {}
    for item in items:
        by_prompt.setdefault(prompt_hash(item.prompt), []).append(item)
    batch: list[Item] = []
    size = 0
    for group in by_prompt.values():
        whole = sum(len(item.duels) for item in group)
        for item in group:
            if batch and size + (whole if item is group[0] else len(item.duels)) > duels:
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(item.duels)
    if batch:
        yield batch


def _judge(model: RubricRewardModel, batch: Sequence[Item], votes: int) -> list[tuple[str, dict[str, Any]]]:
    """Judge a batch: the journal's row of each item under its id."""
    started, tokens = time.perf_counter(), model.model.tokens_written
    duels = [(item, first, second) for item in batch for first, second in item.duels]
    cases = [(item.prompt, item.responses[first], item.responses[second], None) for item, first, second in duels]
    names = [item.where or item.item_id for item, _, _ in duels]
    verdicts = iter(model.compare_many(cases, votes, names, too_long="skip"))
    rows = [(item.item_id, row_of(item, [next(verdicts) for _ in item.duels])) for item in batch]
    # Each duel takes an equal share of its batch, so that sums and means over a benchmark are those of its batches.
    share = 1 / len(duels)
    seconds, tokens = time.perf_counter() - started, model.model.tokens_written - tokens
    for (_, row), item in zip(rows, batch, strict=True):
        row |= {"seconds": seconds * share * len(item.duels), "tokens": tokens * share * len(item.duels)}
    return rows
