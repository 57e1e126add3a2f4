"""Compares runs, or the arms of a sweep: spread over seeds, paired tests, learning curves, cost, differing fields.

Run directories and folders of sweeps go in; a :class:`Comparison` comes out, and from it a page, a text
and a table for LaTeX. Runs that differ only in their seed are one arm. Every arm is tested against the
first one, or the baseline that is named, in two ways. Over seeds: does training with these settings differ? Over
held-out pairs, seed by seed: do these trained adapters differ on other pairs? Both are exact or sampled sign-flip
permutation tests; Holm's correction is for the number of arms.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.evaluation.metrics import stratified_interval
from rubric_arm_lite.recipe import flat_fields
from rubric_arm_lite.report.headline import points
from rubric_arm_lite.report.panels import Band, Color, Panel, Series, Unit
from rubric_arm_lite.report.read import EvaluationRow, RunRecord, read_file, read_run, safe_text
from rubric_arm_lite.report.render import render
from rubric_arm_lite.report.tables import ABSENT, Table
from rubric_arm_lite.runs import atomic_write
from rubric_arm_lite.training import SWEEP

COMPARISON_FILES = ("compare.html", "compare.md", "compare.tex")
_MEASURED = {
    "accuracy": "accuracy",
    "position_bias": "bias",
    "consistency": "agree",
    "tie_rate": "ties",
    "format_sampled": "well-formed",
    "principle_recall": "named",
    "unparsed": "unparsed",
}
"""Values of the final evaluation that are compared, all shares, with their titles."""
_CURVES = {
    "accuracy": ("Accuracy", "Held-out pairs, in both orders."),
    "position_bias": ("Position bias", "Should be near 0."),
    "format_sampled": ("Well-formed judgements", "Sampled judgements of held-out pairs."),
    "principle_recall": ("Principles named", "Share of a prompt's true principles that its rubric names."),
}
_RESAMPLES = 9999
_INTERVAL_RESAMPLES = 2000
_COLORS: tuple[Color, ...] = ("accent", "judge", "rubric", "ink", "muted")
_OWN_FIELDS = ("name", "seed", "description", "warmup.from")
"""Fields in which the runs of one arm may differ."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over seeds (None of one), and the values by seed."""

    mean: float
    sd: float | None
    by_seed: Mapping[int, float]

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Spread:
        """The spread of at least one value."""
        numbers = list(values.values())
        return cls(mean(numbers), stdev(numbers) if len(numbers) > 1 else None, dict(values))

    def text(self, scale: float = 100.0, form: str = ".1f") -> str:
        """Mean ± standard deviation, by default of a share in percent."""
        return f"{scale * self.mean:{form}}" + ("" if self.sd is None else f" ± {scale * self.sd:{form}}")


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A paired comparison with the baseline.

    Attributes:
        difference: mean difference of accuracy, over what is counted by ``count``: seeds, or pairs of all seeds.
        interval: its 95 % interval: of Student's t over seeds, by a bootstrap over the pairs of each seed; None if
            there is no spread to estimate it from.
        p: two-sided p-value of the sign-flip permutation test; None for a single seed.
        p_holm: after Holm's correction for all arms.
    """

    count: int
    difference: float
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What was measured for one arm.

    Attributes:
        values: spreads of the final evaluation by name, of ``warm_up`` (accuracy there) and of ``gain``.
        cost: spreads of sampled tokens and seconds, in all and in the phases alone.
        curves: (updates, mean, standard deviation) after the warm-up and each phase, by value.
        over_seeds: the test against the baseline over seeds; None for the baseline itself, or without common seeds.
        over_pairs: the test over held-out pairs.
    """

    label: str
    runs: tuple[str, ...]
    values: Mapping[str, Spread]
    cost: Mapping[str, Spread]
    curves: Mapping[str, tuple[tuple[float, float, float], ...]]
    over_seeds: PairedTest | None = None
    over_pairs: PairedTest | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arms in order, the fields in which their recipes differ, and what a reader must know."""

    name: str
    description: str
    baseline: str
    arms: tuple[ArmResult, ...]
    fields: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return asdict(self)

    def result_table(self) -> Table:
        """Mean ± standard deviation of each value over seeds, in percent."""
        names = {"warm_up": "warm-up", **_MEASURED, "gain": "gain"}
        shown = [name for name in names if any(name in arm.values for arm in self.arms)]
        rows = [(arm.label, str(len(arm.runs)), *(_cell(arm.values.get(name)) for name in shown)) for arm in self.arms]
        return Table(("arm", "seeds", *(names[name] for name in shown)), tuple(rows))

    def test_table(self) -> Table:
        """The tests of every arm against the baseline; differences in percentage points."""

        def cells(test: PairedTest | None) -> tuple[str, ...]:
            if test is None:
                return (ABSENT,) * 3
            interval = "" if test.interval is None else " [{}, {}]".format(*map(points, test.interval))
            return points(test.difference) + interval, _p(test.p), _p(test.p_holm)

        rows = [
            (arm.label, *cells(arm.over_seeds), *cells(arm.over_pairs))
            for arm in self.arms
            if arm.label != self.baseline
        ]
        head = ("over seeds", "p", "Holm", "over pairs", "p", "Holm")
        return Table((f"against {self.baseline}", *head), tuple(rows))

    def cost_table(self) -> Table:
        """Sampled tokens and seconds of a run."""
        names = {"tokens": "tokens", "phase_tokens": "in phases", "seconds": "seconds", "phase_seconds": "in phases"}
        rows = [(arm.label, *(arm.cost[name].text(1.0, ",.0f") for name in names)) for arm in self.arms]
        return Table(("arm", *names.values()), tuple(rows))

    def field_table(self) -> Table:
        """The fields in which the recipes differ."""
        rows = tuple((name, *values) for name, values in self.fields.items())
        return Table(("field", *(arm.label for arm in self.arms)), rows)

    def pictures(self) -> list[tuple[str, str, str, Panel]]:
        """Learning curves: key, title, caption and panel."""
        return [(key, *texts, _panel(self.arms, key)) for key, texts in _CURVES.items()]

    def latex(self) -> str:
        """Rows of a LaTeX table: arm, warm-up, accuracy, difference and Holm's p over seeds, then over pairs."""
        lines = [r"% arm & warm-up & accuracy & difference over seeds & p (Holm) & over pairs & p (Holm) \\"]
        for arm in self.arms:
            cells = [_latex(arm.label), *(_latex(_cell(arm.values.get(name))) for name in ("warm_up", "accuracy"))]
            for test in (arm.over_seeds, arm.over_pairs):
                cells += ["--", "--"] if test is None else [_latex(points(test.difference)), _latex(_p(test.p_holm))]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join(lines) + "\n"


def compare(sources: Sequence[str | Path], baseline: str | None = None) -> Comparison:
    """Compare the finished runs among run directories and folders of sweeps.

    Args:
        baseline: label of the arm that the others are tested against; the first one by default.

    Raises:
        CheckpointError: if a source is neither, or no run is finished.
        ConfigError: if there is no arm of that name.
    """
    arms, notes, name, description = _read([Path(source) for source in sources])
    labels = list(arms)
    if baseline is not None and baseline not in arms:
        raise ConfigError(f"--baseline {safe_text(baseline)}: there is no such arm. Use one of {', '.join(labels)}.")
    base = arms[baseline or labels[0]]
    results = [_measure(label, runs) for label, runs in arms.items()]
    tests = {label: _tests(runs, base, notes) for label, runs in arms.items() if runs is not base}
    for which in (0, 1):
        tested = {label: pair[which] for label, pair in tests.items()}
        corrected = holm({label: test.p for label, test in tested.items() if test is not None and test.p is not None})
        for label, p in corrected.items():
            test = tested[label]
            assert test is not None
            tests[label][which] = PairedTest(test.count, test.difference, test.interval, test.p, p)
    counts = [test.count for test, _ in tests.values() if test is not None]
    if counts and (least := 2.0 ** (1 - max(counts))) > 0.05:
        notes.append(
            f"Over {max(counts)} seed{'s' * (max(counts) > 1)} no p below {least:.3g} is possible; use at least 6 for "
            "one below 0.05."
        )
    return Comparison(
        name,
        description,
        baseline or labels[0],
        tuple(
            ArmResult(r.label, r.runs, r.values, r.cost, r.curves, *tests.get(r.label, (None, None))) for r in results
        ),
        _differing_fields({label: next(iter(runs.values())).record for label, runs in arms.items()}),
        tuple(dict.fromkeys(notes)),
    )


def write_comparison(
    sources: Sequence[str | Path], folder: Path, baseline: str | None = None
) -> tuple[Comparison, list[Path]]:
    """:func:`compare`, written as :data:`COMPARISON_FILES` in a folder, where it replaces an earlier one."""
    from rubric_arm_lite.report.figures import draw_panel

    comparison = compare(sources, baseline)
    values = {"comparison": comparison, "record": {"name": comparison.name, "recipe": None}}
    texts = (
        render("compare.html.jinja", **values, draw=draw_panel),
        render("compare.md.jinja", **values),
        comparison.latex(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(COMPARISON_FILES, texts, strict=True):
        atomic_write(folder / name, text.encode())
    return comparison, [folder / name for name in COMPARISON_FILES]


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    path: Path
    record: RunRecord
    data: str = field(default="")

    @property
    def final(self) -> EvaluationRow:
        return self.record.evaluations["final"]

    @property
    def settings(self) -> str:
        """A hash of the recipe without what the runs of one arm differ in."""
        text = json.dumps(_flat(self.record), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


_Arms = dict[str, dict[int, _Run]]
"""Runs by the label of their arm and their seed."""


def _read(sources: Sequence[Path]) -> tuple[_Arms, list[str], str, str]:
    """The finished runs by arm and seed, notes, and the name and description of what is compared."""
    arms: _Arms = {}
    notes: list[str] = []
    sweeps = [source for source in sources if (source / SWEEP).is_file()]
    name, description, single = "comparison", "", []
    for source in sources:
        if source not in sweeps:
            single += [run] if (run := _read_finished(source, notes)) else []
            continue
        noted = read_file(source / SWEEP)
        if len(sources) == 1:
            name, description = str(noted["name"]), str(noted["description"])
        for label, arm in noted["arms"].items():
            title = safe_text(label if len(sweeps) == 1 else f"{source.resolve().name}: {label}")
            for seed in noted["seeds"]:
                path = source / str(arm["folder"]) / f"seed-{seed}"
                if not path.is_dir():
                    notes.append(f"{path} has not begun.")
                elif run := _read_finished(path, notes):
                    arms.setdefault(title, {})[int(seed)] = run
    groups: dict[str, list[_Run]] = {}
    for run in single:
        groups.setdefault(run.settings, []).append(run)
    for runs in groups.values():
        seeds = [run.record.recipe.seed if run.record.recipe else 0 for run in runs]
        for part in [runs] if len(set(seeds)) == len(seeds) else [[run] for run in runs]:
            names = [part[0].record.name, part[0].path.resolve().name, str(part[0].path)]
            label = next(safe_text(n) for n in names if safe_text(n) not in arms)
            arms[label] = {run.record.recipe.seed if run.record.recipe else 0: run for run in part}
    if not arms:
        raise CheckpointError(
            f"None of {', '.join(map(str, sources))} is a finished run. Finish one: repeat its command with --resume."
        )
    return arms, notes, safe_text(name), safe_text(description)


def _read_finished(path: Path, notes: list[str]) -> _Run | None:
    """A run that has its final evaluation; a note if it has not."""
    record = read_run(path)
    if "accuracy" not in record.evaluations.get("final", EvaluationRow("", {})).values:
        notes.append(f"{path} is not finished and left out.")
        return None
    file = path / "data.json"
    return _Run(path, record, str(read_file(file).get("fingerprint", "")) if file.is_file() else "")


def _flat(record: RunRecord) -> dict[str, Any]:
    """The fields of a run's recipe by dotted name, without those that the runs of an arm differ in."""
    values = flat_fields(record.recipe.model_dump(mode="json") if record.recipe else {"recipe": record.recipe_text})
    return {name: value for name, value in values.items() if name not in _OWN_FIELDS}


def _differing_fields(records: Mapping[str, RunRecord]) -> dict[str, tuple[str, ...]]:
    """The fields in which recipes differ, each with its value for every arm."""
    flat = [_flat(record) for record in records.values()]
    names = dict.fromkeys(itertools.chain(*flat))
    texts = {
        name: tuple(safe_text(json.dumps(values[name])) if name in values else ABSENT for values in flat)
        for name in names
    }
    return {name: values for name, values in texts.items() if len(set(values)) > 1}


# --- numbers --------------------------------------------------------------------------------------------------------


def _measure(label: str, runs: Mapping[int, _Run]) -> ArmResult:
    values = {
        name: Spread.of(found)
        for name in _MEASURED
        if len(found := {s: run.final.values[name] for s, run in runs.items() if name in run.final.values}) == len(runs)
    }
    starts = {seed: run.record.evaluations.get("warm-up") for seed, run in runs.items()}
    if all(start is not None and "accuracy" in start.values for start in starts.values()):
        start = {seed: row.values["accuracy"] for seed, row in starts.items() if row is not None}
        gains = {seed: run.final.values["accuracy"] - start[seed] for seed, run in runs.items()}
        values |= {"warm_up": Spread.of(start), "gain": Spread.of(gains)}
    cost: dict[str, dict[int, float]] = {}
    for seed, run in runs.items():
        phases = {row.phase for row in run.record.steps}
        for at, name in enumerate(("seconds", "tokens")):
            times = run.record.times.items()
            cost.setdefault(name, {})[seed] = sum(value[at] for _, value in times)
            cost.setdefault(f"phase_{name}", {})[seed] = sum(value[at] for stage, value in times if stage in phases)
    curves = {name: _curve([_points(run.record, name) for run in runs.values()]) for name in _CURVES}
    return ArmResult(
        label,
        tuple(safe_text(str(run.path)) for run in runs.values()),
        values,
        {name: Spread.of(by_seed) for name, by_seed in cost.items()},
        {name: points for name, points in curves.items() if points},
    )


def _points(record: RunRecord, name: str) -> list[tuple[float, float]]:
    """A value after the warm-up and each phase, over the updates made until then."""
    lengths: dict[str, int] = {}
    for row in record.steps:
        lengths[row.phase] = max(lengths.get(row.phase, 0), row.step + 1)
    places = dict(zip(lengths, itertools.accumulate(lengths.values()), strict=True))
    places |= {"warm-up": 0, "final": sum(lengths.values())}
    found = {float(places[r.name]): r.values[name] for r in record.phases if r.name in places and name in r.values}
    return sorted(found.items())


def _curve(runs: Sequence[Sequence[tuple[float, float]]]) -> tuple[tuple[float, float, float], ...]:
    """Mean place, mean value and its standard deviation (0 of one) over runs, evaluation by evaluation."""
    curve = []
    for at in zip(*runs, strict=False):
        values = [value for _, value in at]
        curve.append((mean(x for x, _ in at), mean(values), stdev(values) if len(values) > 1 else 0.0))
    return tuple(curve)


def _panel(arms: Sequence[ArmResult], key: str) -> Panel:
    """The curves of one value, with the standard deviation over seeds as a band."""
    series = []
    for number, arm in enumerate(arms):
        if curve := arm.curves.get(key):
            color, dashed = _COLORS[number % len(_COLORS)], number // len(_COLORS) % 2 == 1
            band = tuple((x, max(0.0, y - sd), min(1.0, y + sd)) for x, y, sd in curve)
            series.append(Series(arm.label, color, (tuple((x, y) for x, y, _ in curve),), dashed, band))
    last = max([1.0, *(x for one in series for x, _ in one.segments[0])])
    unit: Unit = "rate" if key == "position_bias" else "share"
    return Panel(tuple(series), (Band(f"{last:.0f} updates", 0.0, last),), unit)


def _tests(runs: Mapping[int, _Run], base: Mapping[int, _Run], notes: list[str]) -> list[PairedTest | None]:
    """The tests of an arm against the baseline, over seeds and over pairs."""
    import numpy as np
    from scipy import stats

    shared = [seed for seed in runs if seed in base]
    if not shared:
        notes.append("Some arms have no seed in common with the baseline, so nothing about them is paired.")
        return [None, None]
    ours, theirs = ([arm[seed].final.values["accuracy"] for seed in shared] for arm in (runs, base))
    differences, interval = np.subtract(ours, theirs), None
    if len(shared) > 1 and np.ptp(differences) > 0:
        low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        interval = (float(low), float(high))
    p = sign_flip_p(differences.tolist()) if len(shared) > 1 else None
    over_seeds = PairedTest(len(shared), float(differences.mean()), interval, p)
    strata = []
    for seed in shared:
        if runs[seed].data != base[seed].data:
            notes.append("Some arms judge other held-out pairs than the baseline, and are not compared over pairs.")
            continue
        mine, other = runs[seed].final.scores(), base[seed].final.scores()
        strata += [[mine[pair] - other[pair] for pair in mine if pair in other]]
    pooled = [difference for stratum in strata for difference in stratum]
    if not pooled:
        return [over_seeds, None]
    bounds = stratified_interval([(len(s), s) for s in strata if s], _INTERVAL_RESAMPLES, 0)
    return [over_seeds, PairedTest(len(pooled), mean(pooled), bounds, sign_flip_p(pooled))]


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of paired differences by flipping their signs: exact up to 13, else by 9,999 random flips."""
    import numpy as np
    from scipy import stats

    if not any(differences):
        return 1.0
    result = stats.permutation_test(
        (np.asarray(differences), np.zeros(len(differences))),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=200,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: each p times the number of hypotheses not yet rejected, never falling, at most 1."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        corrected[name] = largest
    return corrected


# --- text -----------------------------------------------------------------------------------------------------------


def _cell(spread: Spread | None) -> str:
    return ABSENT if spread is None else spread.text()


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "<": "$<$",
    ">": "$>$",
    ABSENT: "--",
}


def _latex(text: str) -> str:
    """Text of a LaTeX cell, in which nothing is a command."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
