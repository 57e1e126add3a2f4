"""Cross-play: every rubric generator of some runs with every judge, on the same held-out pairs.

Run directories go in; a matrix of accuracies comes out, and how much better adapters do with the partner that they were
trained with than each of the two does on average (:attr:`CrossPlay.co_adaptation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.evaluation.evaluate import Evaluation, evaluator_of
from rubric_arm_lite.evaluation.metrics import bootstrap_interval, row_accuracy
from rubric_arm_lite.models import AdapterModel, Sampling
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.runs import adapter_folder, read_object, recipe_of_run, run_and_state, states_of, swapped_adapter
from rubric_arm_lite.runs.files import file_hash
from rubric_arm_lite.types import ROLES, PreferencePair, Role


@dataclass(frozen=True, slots=True)
class CrossPlay:
    """The combinations of generators (rows) and judges (columns).

    Attributes:
        generators: labels, ``RUN@STATE``; of equal adapters only the first is measured.
        judges: likewise.
        cells: the values of each combination, by name: accuracy, its interval, position bias, and so on.
        partners: rows and columns of adapters that belong to the same state of a run.
        co_adaptation: mean over the partners of accuracy beyond what the means of their row and column add up to, with
            its 95 % interval over pairs; None with a single generator or judge.
        pairs: held-out pairs.
        notes: what a reader must know of the runs.
    """

    generators: tuple[str, ...]
    judges: tuple[str, ...]
    cells: tuple[tuple[Mapping[str, float], ...], ...]
    partners: tuple[tuple[int, int], ...]
    co_adaptation: tuple[float, float, float] | None
    pairs: int
    notes: tuple[str, ...] = ()


def cross_play(
    sources: Sequence[str | Path],
    pairs: Sequence[PreferencePair] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CrossPlay:
    """Measure every generator with every judge of runs on one base.

    Args:
        sources: run directories, for their warm-up, kept checkpoints and final adapters; ``RUN@STATE`` for one of them.
        pairs: pairs to judge, in place of those that the first run holds out.
        limit: at most this many pairs, the first ones.
        progress: called with the combinations done and in all.

    Raises:
        CheckpointError: if a source is no run, has no such state, or was trained on another base or other prompts.
        DataError: if no pair fits the context.
    """
    states = _states([str(source) for source in sources])
    first = states[0][0]
    folders = {role: _distinct(first, states, role) for role in ROLES}
    model = RubricRewardModel.from_run(first, states[0][1])
    evaluator, skipped = evaluator_of(model, pairs, limit=limit)
    adapters = cast(AdapterModel, model.model)
    settings = evaluator.settings.model_copy(update={"vote_pairs": 1, "probes": 0, "showcase": 0})
    evaluator = replace(evaluator, settings=settings)
    generators, judges = ([folder for folder, _ in folders[role].values()] for role in ROLES)
    greedy = Sampling(settings.rubric_max_tokens, 1, 0.0)
    prompts = [pair.prompt for pair in evaluator.pairs]
    measured: list[list[Evaluation]] = []
    for row, generator in enumerate(generators):
        adapters.load_adapter("rubric", generator)
        rubrics = evaluator.generator.with_new_cache().write(prompts, greedy, evaluator.seed)
        measured.append([])
        for column, judge in enumerate(judges):
            adapters.load_adapter("judge", judge)
            measured[-1].append(evaluator.evaluate("cross-play", rubrics=rubrics))
            progress(row * len(judges) + column + 1, len(generators) * len(judges))
    places = [{at: i for i, (_, users) in enumerate(folders[role].values()) for at in users} for role in ROLES]
    partners = tuple(dict.fromkeys((places[0][at], places[1][at]) for at in states))
    names = [tuple(_label(users[0], states) for _, users in folders[role].values()) for role in ROLES]
    return CrossPlay(
        generators=names[0],
        judges=names[1],
        cells=tuple(tuple(evaluation.values for evaluation in row) for row in measured),
        partners=partners,
        co_adaptation=_co_adaptation(measured, partners, settings.bootstrap, evaluator.seed),
        pairs=len(evaluator.pairs),
        notes=tuple(_notes(states, skipped, held_out=pairs is None)),
    )


def _states(sources: Sequence[str]) -> list[tuple[Path, str]]:
    """Runs and states in order, oldest state first."""
    states: dict[tuple[Path, str], None] = {}
    for source in sources:
        run, state = run_and_state(source, "")
        found = [state] if state else states_of(run)
        if not found:
            recipe_of_run(run)  # says so if it is no run
            raise CheckpointError(f"{run} has no adapters yet. Give a run that is through its warm-up.")
        states |= dict.fromkeys((run, name) for name in found)
    return list(states)


def _distinct(
    first: Path, states: Sequence[tuple[Path, str]], role: Role
) -> dict[str, tuple[Path, list[tuple[Path, str]]]]:
    """The folders of a role's different adapters by the hash of their weights, each with the states that have it."""
    adapters: dict[str, tuple[Path, list[tuple[Path, str]]]] = {}
    for run, state in states:
        same = run == first
        folder = adapter_folder(run, role, state) if same else swapped_adapter(first, role, f"{run}@{state}")
        _, users = adapters.setdefault(file_hash(folder / "adapter_model.safetensors") or "", (folder, []))
        if state in ("final", "latest") and users and users[0][0] == run and users[0][1] != "warm-up":
            users.insert(0, (run, state))  # a better name than that of the last checkpoint
        else:
            users.append((run, state))
    return adapters


def _label(place: tuple[Path, str], states: Sequence[tuple[Path, str]]) -> str:
    """The state, with its run if there are several; the run by as much of its path as tells it from the others."""
    runs = list(dict.fromkeys(run for run, _ in states))
    if len(runs) == 1:
        return place[1]
    parts = next(n for n in range(1, 99) if len({run.resolve().parts[-n:] for run in runs}) == len(runs))
    return f"{'/'.join(place[0].resolve().parts[-parts:])}@{place[1]}"


def _notes(states: Sequence[tuple[Path, str]], skipped: int, held_out: bool) -> list[str]:
    """Pairs that were skipped, and runs on other data than the first one, whose held-out pairs are judged."""
    notes = [f"{skipped} pairs are longer than the context and were skipped."] if skipped else []
    data: dict[Path, Any] = {}
    for run in dict.fromkeys(run for run, _ in states):
        file = run / "data.json"
        data[run] = read_object(file).get("fingerprint") if file.is_file() else None
    first, *others = data
    differing = [str(run) for run in others if data[run] != data[first]]
    if differing and held_out:
        notes.append(
            f"{', '.join(differing)} did not learn from the data of {first}, on whose held-out pairs all are measured. "
            "Compare runs of one seed and one source, or give pairs."
        )
    return notes


def _co_adaptation(
    measured: Sequence[Sequence[Evaluation]], partners: Sequence[tuple[int, int]], resamples: int, seed: int
) -> tuple[float, float, float] | None:
    """See :attr:`CrossPlay.co_adaptation`; the interaction of a two-way table, averaged over the partners' cells."""
    import numpy as np

    if len(measured) < 2 or len(measured[0]) < 2:
        return None
    scores = np.array(
        [[[row_accuracy(pair) for pair in evaluation.rows] for evaluation in row] for row in measured]
    )  # generators x judges x pairs
    rows, columns = scores.mean(axis=1, keepdims=True), scores.mean(axis=0, keepdims=True)
    beyond = scores - rows - columns + scores.mean(axis=(0, 1))
    per_pair = np.mean([beyond[cell] for cell in partners], axis=0).tolist()
    return (sum(per_pair) / len(per_pair), *bootstrap_interval(per_pair, resamples, seed))
