"""Time both sides on the same work, alternating, in one process; check that they compute the same thing.

One untimed run of each side comes first. Then theirs and ours take turns, A B A B, so that whatever else the machine
does falls on both. The ratio is that of the medians of seconds, theirs by ours; a side whose slowest run took more than
1.5 times its fastest makes the result unsteady, and it says so.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.against_trl.memory import Peak, Side, measure_alone
from benchmarks.against_trl.ours import Ours, Run, write_adapters
from benchmarks.against_trl.peer import Peer, check_trl
from benchmarks.against_trl.work import PARTS, VERBS, BenchSettings, Part, Verb, Work, make_folder, tokens
from rubric_arm_lite.errors import ConfigError, TrainingError
from rubric_arm_lite.runs import package_versions

Against = Literal["trl", "none"]
Say = Callable[[str], None]

STEADY = 1.5
"""Largest slowest-to-fastest ratio of a side that still counts as steady."""
CLEARLY = 1.25
"""A micro-batch this much slower than the fastest ends the search for it; one run each is noisy."""
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-2}
"""Largest difference of the losses, and relative difference of the gradient norms: float32, and bfloat16."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the first update is the same on both sides; ``gradient_difference`` is relative."""

    loss_ours: float
    loss_theirs: float
    loss_difference: float
    gradient_norm_ours: float
    gradient_norm_theirs: float
    gradient_difference: float


def check_against(against: str) -> Against:
    """The side to measure against.

    Raises:
        ConfigError: if it is unknown, or cannot run here.
    """
    match against:
        case "trl":
            check_trl()
            return "trl"
        case "none":
            return "none"
        case _:
            raise ConfigError(f"--against {against}: not a trainer known here. Use trl, or none for our side alone.")


def check_verb(verb: str | None, sweep: bool) -> Verb | None:
    """The verb as typed; None is all of them.

    Raises:
        ConfigError: if there is no such verb, or a sweep has none.
    """
    if verb is None and sweep:
        raise ConfigError(
            "--sweep varies the settings of one verb. Write rubric-arm bench update --sweep, for example."
        )
    for known in VERBS:
        if verb == known:
            return known
    if verb is not None:
        raise ConfigError(f"bench {verb}: not something that is measured. Use {', '.join(VERBS)}, or nothing for all.")
    return None


def measure(verb: Verb, settings: BenchSettings, against: Against, memory: bool, say: Say) -> dict[str, Any]:
    """Measure one verb; returns the result as it is printed with ``--json``.

    Raises:
        TrainingError: if both sides' first updates differ, so that they do not do the same work.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(prefix="rubric-arm-bench-") as name:
        return _Measurement(verb, settings, against, Path(name), say).result(memory)


class _Measurement:
    """One verb at one size."""

    def __init__(self, verb: Verb, settings: BenchSettings, against: Against, folder: Path, say: Say) -> None:
        self.verb = verb
        self.settings = settings
        self.against = against
        self.folder = folder
        self.say = say
        self.agreement: Agreement | None = None
        self.tried: dict[int, float] = {}
        work = Work(settings)
        make_folder(work, folder)
        write_adapters(work, folder)

    def result(self, memory: bool) -> dict[str, Any]:
        """Everything measured, by name."""
        steps = self.settings.runs + 1  # the first is the warm-up
        ours = Ours(Work(self.settings), self.folder, steps)
        if self.against == "trl" and self.verb != "rollout":
            self._match(ours)
        mine, theirs = self._alternate(ours, steps)
        switch = ours.switch_microseconds()
        del ours
        peaks = self._peaks() if memory else {}
        ratio = statistics.median(_seconds(theirs)) / statistics.median(_seconds(mine)) if theirs else None
        pairs = [b / a for a, b in zip(_seconds(mine), _seconds(theirs), strict=False)]
        steady = all(max(s) <= STEADY * min(s) for s in (_seconds(mine), _seconds(theirs)) if s)
        return {
            "verb": self.verb,
            "ratio": ratio,
            "ratio_pairs": {"min": min(pairs), "max": max(pairs)} if pairs else None,
            "steady": steady,
            "ours": _side(mine, peaks.get("ours")),
            "theirs": _side(theirs, peaks.get("theirs")) if theirs else None,
            "loss_difference": self.agreement.loss_difference if self.agreement else None,
            "agreement": asdict(self.agreement) if self.agreement else None,
            "tokens": tokens(self.verb, self.settings).to_dict(),
            "switch_microseconds": switch,
            "settings": self._described(),
            "versions": package_versions(("torch", "transformers", "trl", "peft", "accelerate")),
            "notes": self._notes(steady),
        }

    # --- both sides the same ------------------------------------------------------------------------------------

    def _match(self, ours: Ours) -> None:
        """Check that one update is the same on both sides, and find TRL's fastest micro-batch."""
        given = ours.given()
        peer = Peer(ours.work, self.folder, "update", 1, given)
        loss, norm = peer.first_update()
        values = ours.update(given).values
        difference = abs(values["loss"] - loss)
        relative = abs(values["grad_norm"] - norm) / norm
        self.agreement = Agreement(values["loss"], loss, difference, values["grad_norm"], norm, relative)
        limit = TOLERANCE["cuda" if torch.cuda.is_available() else "cpu"]
        if not (difference <= limit and relative <= limit):
            raise TrainingError(
                f"The sides compute different things: losses {values['loss']:.6g} (ours) and {loss:.6g} (TRL), "
                f"gradient norms {values['grad_norm']:.6g} and {norm:.6g}; they may differ by {limit:g}. A time for "
                "different work means nothing: report this with your versions."
            )
        if self.settings.peer_batch is None:
            self._find_batch(ours.work, peer)

    def _find_batch(self, work: Work, peer: Peer) -> None:
        """Halve TRL's rows per pass from all of a step, while an update is not clearly slower than the fastest."""
        rows = self.settings.rows
        while True:
            self.say(f"TRL's micro-batch: {rows} rows")
            runs: list[Run] = []
            peer.drive("update", lambda: None, runs.append)
            self.tried[rows] = runs[0].seconds
            best = min(self.tried, key=lambda size: self.tried[size])
            if rows % 2 or self.tried[rows] > CLEARLY * self.tried[best]:
                break
            rows //= 2
            peer = Peer(Work(replace(work.settings, peer_batch=rows)), self.folder, "update", 1)
        self.settings = replace(self.settings, peer_batch=best)

    # --- time and memory ----------------------------------------------------------------------------------------

    def _alternate(self, ours: Ours, steps: int) -> tuple[list[Run], list[Run]]:
        """Timed runs of ours and of theirs, the parts of a step added up."""
        given = ours.given() if self.verb == "update" else None
        work = Work(self.settings)
        peer = None if self.against == "none" else Peer(work, self.folder, self.verb, steps, given)
        mine: list[list[Run]] = []
        theirs: list[list[Run]] = []
        for part in PARTS[self.verb]:
            a, b = self._turns(ours, peer, part, steps)
            mine.append(a[1:])
            theirs.append(b[1:])
        return _added(mine), _added(theirs)

    def _turns(self, ours: Ours, peer: Peer | None, part: Part, steps: int) -> tuple[list[Run], list[Run]]:
        mine: list[Run] = []
        theirs: list[Run] = []

        def our_turn(run: Run | None = None) -> None:
            if run is not None:
                theirs.append(run)
            mine.append(ours.run(part, len(mine)))
            if run is not None and run.tokens != mine[-1].tokens:
                raise AssertionError(f"{part}: {run.tokens} tokens on their side, {mine[-1].tokens} on ours.")
            done = "warm-up" if len(mine) == 1 else f"run {len(mine) - 1} of {steps - 1}"
            other = f", theirs {run.seconds:.2f} s" if run is not None else ""
            self.say(f"{part}, {done}: ours {mine[-1].seconds:.2f} s{other}")

        if peer is None:
            for _ in range(steps):
                our_turn()
        else:
            peer.drive(part, lambda: None, our_turn)
        return mine, theirs

    def _peaks(self) -> dict[str, Peak]:
        sides: list[Side] = ["ours"] if self.against == "none" else ["ours", "theirs"]
        found: dict[str, Peak] = {}
        for side in sides:
            self.say(f"memory of {side}")
            found[side] = measure_alone(side, self.verb, self.settings, self.folder)
        return found

    # --- words --------------------------------------------------------------------------------------------------

    def _described(self) -> dict[str, Any]:
        cuda = torch.cuda.is_available()
        settings = self.settings.to_dict()
        settings["threads"] = torch.get_num_threads()
        return {
            "against": self.against,
            **settings,
            "peer_batch_tried": {str(rows): seconds for rows, seconds in self.tried.items()},
            "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
            "dtype": "bfloat16" if cuda else "float32",
        }

    def _notes(self, steady: bool) -> list[str]:
        notes = []
        if not steady:
            notes.append(
                f"Not steady: a side's slowest run took more than {STEADY:g} times its fastest. Close other programs, "
                "pin --threads, or raise --runs, and measure again."
            )
        if self.tried:
            tried = ", ".join(f"{rows} rows {seconds:.2f} s" for rows, seconds in self.tried.items())
            notes.append(f"TRL's fastest micro-batch was looked for with one update each: {tried}.")
        if self.verb == "step":
            notes.append(
                "Weights are random: what they write is parsed, then a synthetic rubric of the same length takes the "
                "place of one that does not parse, and rewards are replaced by seeded ones with spread, the same on "
                "both sides."
            )
        return notes


def measure_all(settings: BenchSettings, against: Against, memory: bool, say: Say) -> dict[str, Any]:
    """All verbs; the top-level ratio and sides are those of ``step``, the whole of the work."""
    found: dict[str, Any] = {}
    for verb in VERBS:
        found[verb] = measure(verb, settings, against, memory, say)
        # What is found for the update holds for the updates of a step.
        settings = replace(settings, peer_batch=found[verb]["settings"]["peer_batch"])
    step = found["step"]
    top = {key: step[key] for key in ("ratio", "steady", "ours", "theirs", "settings", "versions")}
    top["steady"] = all(result["steady"] for result in found.values())
    return {**top, **found}


def _seconds(runs: Sequence[Run]) -> list[float]:
    return [run.seconds for run in runs]


def _added(parts: Sequence[Sequence[Run]]) -> list[Run]:
    """Runs of a whole, from the runs of its parts."""
    return [Run(sum(run.seconds for run in row), sum(run.tokens for run in row)) for row in zip(*parts, strict=True)]


def _side(runs: Sequence[Run], peak: Peak | None) -> dict[str, Any]:
    seconds = _seconds(runs)
    median = statistics.median(seconds)
    return {
        "seconds": {"min": min(seconds), "median": median, "max": max(seconds)},
        "runs": seconds,
        "tokens": runs[0].tokens,
        "tokens_per_second": runs[0].tokens / median,
        "peak_memory_bytes": peak.peak_bytes if peak else None,
        "memory": asdict(peak) if peak else None,
    }


SWEEP: dict[str, tuple[int, ...]] = {
    "prompt_length": (128, 256, 512, 1024, 2048),
    "completion_length": (16, 32, 64, 128, 256),
    "num_generations": (2, 4, 8, 16),
    "width": (128, 256, 512),
}
"""Values of each axis; the other settings stay as they are."""


def check_axes(axes: Sequence[str] | None, sweep: bool) -> tuple[str, ...]:
    """The settings that a sweep varies, all if none is named.

    Raises:
        ConfigError: if one cannot be swept, or there is no sweep.
    """
    if axes and not sweep:
        raise ConfigError(f"--axis {axes[0]}: only a sweep has axes. Add --sweep.")
    chosen = tuple(dict.fromkeys(axis.replace("-", "_") for axis in axes or SWEEP))
    for axis in chosen:
        if axis not in SWEEP:
            names = ", ".join(name.replace("_", "-") for name in SWEEP)
            raise ConfigError(f"--axis {axis}: not a setting that is swept. Use one or more of {names}.")
    return chosen


def measure_sweep(
    verb: Verb, settings: BenchSettings, against: Against, memory: bool, say: Say, axes: Sequence[str]
) -> dict[str, Any]:
    """A verb along each axis, one at a time around ``settings``; the settings themselves are measured once."""
    points = {axis: sorted({*SWEEP[axis], getattr(settings, axis)}) for axis in axes}
    # Every point is checked before the first is measured.
    planned = {(axis, value): replace(settings, **{axis: value}) for axis in axes for value in points[axis]}
    for planned_settings in planned.values():
        Work(planned_settings)
    centre = measure(verb, settings, against, memory, say)
    sweep: dict[str, list[dict[str, Any]]] = {axis: [] for axis in axes}
    for (axis, value), changed in planned.items():
        say(f"{axis} {value}")
        result = centre if changed == settings else measure(verb, changed, against, memory, say)
        sweep[axis].append(result)
    return {**centre, "sweep": sweep}
