"""Times both sides on the same work in one process and checks that they compute the same thing.

After one untimed run of each side, the sides alternate, so that other load on the machine affects both. The ratio is
TRL's median of seconds divided by ours. If a side's slowest run takes more than 1.5 times its fastest, the result is
marked as unsteady.
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
from benchmarks.against_trl.token_counts import count_tokens
from benchmarks.against_trl.work import PARTS, VERBS, BenchSettings, Part, Verb, Work, make_folder
from rubric_arm_lite.errors import ConfigError, TrainingError
from rubric_arm_lite.runs import package_versions

Against = Literal["trl", "none"]
Progress = Callable[[str], None]

STEADY = 1.5
"""Largest ratio of a side's slowest to its fastest run that counts as steady."""
CLEARLY = 1.25
"""A micro-batch slower than the fastest by this factor ends the search; one run each is noisy."""
TOLERANCE = {"cpu": 1e-4, "cuda": 1e-2}
"""Largest difference of the losses, and relative difference of the gradient norms: float32, and bfloat16."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Loss and gradient norm of the first update on both sides; ``gradient_difference`` is relative."""

    loss_ours: float
    loss_theirs: float
    loss_difference: float
    gradient_norm_ours: float
    gradient_norm_theirs: float
    gradient_difference: float


def check_against(against: str) -> Against:
    """The trainer to compare with.

    Raises:
        ConfigError: if it is unknown, or cannot run on this machine.
    """
    match against:
        case "trl":
            check_trl()
            return "trl"
        case "none":
            return "none"
        case _:
            raise ConfigError(f"--against {against}: unknown trainer. Use trl, or none for our side alone.")


def check_verb(verb: str | None, sweep: bool) -> Verb | None:
    """The verb of the command line; None for all of them.

    Raises:
        ConfigError: if there is no such verb, or a sweep without one.
    """
    if verb is None and sweep:
        raise ConfigError(
            "--sweep varies the settings of one verb. Write rubric-arm bench update --sweep, for example."
        )
    for known in VERBS:
        if verb == known:
            return known
    if verb is not None:
        raise ConfigError(f"bench {verb}: not a verb. Use {', '.join(VERBS)}, or nothing for all.")
    return None


def measure(verb: Verb, settings: BenchSettings, against: Against, memory: bool, progress: Progress) -> dict[str, Any]:
    """Measure one verb; returns the result that ``--json`` prints.

    Raises:
        TrainingError: if the first updates of both sides differ, so that they do not do the same work.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(prefix="rubric-arm-bench-") as name:
        return _Measurement(verb, settings, against, Path(name), progress).result(memory)


class _Measurement:
    """One verb at one size."""

    def __init__(self, verb: Verb, settings: BenchSettings, against: Against, folder: Path, progress: Progress) -> None:
        self.verb = verb
        self.settings = settings
        self.against = against
        self.folder = folder
        self.progress = progress
        self.agreement: Agreement | None = None
        self.tried: dict[int, float] = {}
        work = Work(settings)
        make_folder(work, folder)
        write_adapters(work, folder)

    def result(self, memory: bool) -> dict[str, Any]:
        """All measurements by name."""
        steps = self.settings.runs + 1  # the first is the warm-up
        ours = Ours(Work(self.settings), self.folder, steps)
        if self.against == "trl" and self.verb != "rollout":
            self._check_agreement(ours)
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
            "tokens": count_tokens(self.verb, self.settings).to_dict(),
            "switch_microseconds": switch,
            "settings": self._settings(),
            "versions": package_versions(("torch", "transformers", "trl", "peft", "accelerate")),
            "notes": self._notes(steady),
        }

    # --- both sides the same ------------------------------------------------------------------------------------

    def _check_agreement(self, ours: Ours) -> None:
        """Check that one update gives the same on both sides, and find TRL's fastest micro-batch."""
        rollouts = ours.rollouts()
        peer = Peer(ours.work, self.folder, "update", 1, rollouts)
        loss, norm = peer.first_update()
        values = ours.update(rollouts).values
        difference = abs(values["loss"] - loss)
        relative = abs(values["grad_norm"] - norm) / norm
        self.agreement = Agreement(values["loss"], loss, difference, values["grad_norm"], norm, relative)
        limit = TOLERANCE["cuda" if torch.cuda.is_available() else "cpu"]
        if not (difference <= limit and relative <= limit):
            raise TrainingError(
                f"The sides compute different things: losses {values['loss']:.6g} (ours) and {loss:.6g} (TRL), "
                f"gradient norms {values['grad_norm']:.6g} and {norm:.6g}; they may differ by {limit:g}. Times "
                "of different work cannot be compared: report this with your versions."
            )
        if self.settings.peer_batch is None:
            self._find_batch(ours.work, peer)

    def _find_batch(self, work: Work, peer: Peer) -> None:
        """Halve TRL's rows per pass, from all rows of a step, until an update is clearly slower than the fastest."""
        rows = self.settings.rows
        while True:
            self.progress(f"TRL's micro-batch: {rows} rows")
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
        """Timed runs of both sides; those of a step are sums over its parts."""
        rollouts = ours.rollouts() if self.verb == "update" else None
        work = Work(self.settings)
        peer = None if self.against == "none" else Peer(work, self.folder, self.verb, steps, rollouts)
        mine: list[list[Run]] = []
        theirs: list[list[Run]] = []
        for part in PARTS[self.verb]:
            a, b = self._alternate_part(ours, peer, part, steps)
            mine.append(a[1:])
            theirs.append(b[1:])
        return _sum_parts(mine), _sum_parts(theirs)

    def _alternate_part(self, ours: Ours, peer: Peer | None, part: Part, steps: int) -> tuple[list[Run], list[Run]]:
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
            self.progress(f"{part}, {done}: ours {mine[-1].seconds:.2f} s{other}")

        if peer is None:
            for _ in range(steps):
                our_turn()
        else:
            peer.drive(part, lambda: None, our_turn)
        return mine, theirs

    def _peaks(self) -> dict[str, Peak]:
        sides: list[Side] = ["ours"] if self.against == "none" else ["ours", "theirs"]
        peaks: dict[str, Peak] = {}
        for side in sides:
            self.progress(f"memory of {side}")
            peaks[side] = measure_alone(side, self.verb, self.settings, self.folder)
        return peaks

    # --- words --------------------------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
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
            notes.append(f"TRL's fastest micro-batch was searched for with one update each: {tried}.")
        if self.verb == "step":
            notes.append(
                "Weights are random: their texts are parsed, then a synthetic rubric of equal length replaces one that "
                "does not parse, and seeded rewards that differ within a group replace the real ones, on both sides."
            )
        return notes


def measure_all(settings: BenchSettings, against: Against, memory: bool, progress: Progress) -> dict[str, Any]:
    """Measure all verbs; the top-level ratio and sides are those of ``step``, which is all of the work."""
    results: dict[str, Any] = {}
    for verb in VERBS:
        results[verb] = measure(verb, settings, against, memory, progress)
        # The micro-batch found for the update also serves the updates of a step.
        settings = replace(settings, peer_batch=results[verb]["settings"]["peer_batch"])
    step = results["step"]
    top = {key: step[key] for key in ("ratio", "steady", "ours", "theirs", "settings", "versions")}
    top["steady"] = all(result["steady"] for result in results.values())
    return {**top, **results}


def _seconds(runs: Sequence[Run]) -> list[float]:
    return [run.seconds for run in runs]


def _sum_parts(parts: Sequence[Sequence[Run]]) -> list[Run]:
    """Runs of the whole work, from the runs of its parts."""
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
