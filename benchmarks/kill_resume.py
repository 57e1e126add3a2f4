"""Kill the demo at random moments, resume it, and compare with a run that was never killed.

    python benchmarks/kill_resume.py --kills 20 --per-run 4 --jobs 2
    python benchmarks/kill_resume.py --kills 20 --per-run 4 --jobs 2 --dropout 0.1

Kills each run ``--per-run`` times and resumes it, until there were ``--kills`` kills, and prints how many of them were
in runs that ended with the same adapters, metrics and report, byte for byte (without the report's timing section). A
run that ends before its next kill counts with the kills that it had. ``--set`` overrides the recipe, for example to
shorten it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMPARED = ("adapters/rubric/adapter_model.safetensors", "adapters/judge/adapter_model.safetensors", "metrics.jsonl")
TIMING = re.compile(r'<section id="timing".*?</section>', re.DOTALL)


def command(folder: Path, overrides: list[str]) -> list[str]:
    """The command that runs the demo in its own folder, or resumes it there."""
    sets = [part for value in overrides for part in ("--set", value)]
    return [sys.executable, "-m", "rubric_arm_lite", "demo", "--run-dir", str(folder), "--json", *sets]


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that must be equal."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in COMPARED}
    page = TIMING.sub("", (folder / "report.html").read_text("utf-8"))
    return {**digests, "report.html": hashlib.sha256(page.encode()).hexdigest()}


def killed_run(folder: Path, overrides: list[str], moments: list[float]) -> tuple[list[float], float]:
    """Run, ``kill -9`` after each of ``moments`` seconds since the last start, then let it finish.

    Returns the moments at which the run was still going, and the seconds of its last part.
    """
    kills = []
    for moment in moments:
        process = subprocess.Popen(
            command(folder, overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills.append(moment)
        else:
            break
    started = time.perf_counter()
    subprocess.run(command(folder, overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return kills, time.perf_counter() - started


def main() -> None:
    """Run the trials and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of the adapters")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    arguments.overrides.append(f"model.lora.dropout={arguments.dropout}")
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        started = time.perf_counter()
        subprocess.run(
            command(whole, arguments.overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - started
        expected = digest(whole)
        print(f"unbroken run: {seconds:.0f} s", flush=True)

        def trial(number: int) -> tuple[int, bool]:
            """Kill one run several times: the number of kills, and whether it ended like the unbroken run."""
            rng = random.Random(f"{arguments.seed} {number}")
            parts = sorted(rng.uniform(0.02, 0.98) * seconds for _ in range(arguments.per_run))
            moments = [later - earlier for earlier, later in itertools.pairwise([0.0, *parts])]
            folder = Path(scratch) / f"killed-{number}"
            kill_times, rest = killed_run(folder, arguments.overrides, moments)
            digests = digest(folder)
            differing = [name for name in expected if digests[name] != expected[name]]
            verdict = "identical" if not differing else f"DIFFERS in {', '.join(differing)}"
            after = ", ".join(f"{moment:.1f}" for moment in kill_times)
            print(f"run {number}: killed after {after} s, then ran {rest:.1f} s: {verdict}", flush=True)
            return len(kill_times), not differing

        kills = good = number = 0
        with ThreadPoolExecutor(arguments.jobs) as pool:
            while kills < arguments.kills:
                missing = math.ceil((arguments.kills - kills) / arguments.per_run)
                for count, identical in pool.map(trial, range(number, number + missing)):
                    kills, good = kills + count, good + count * identical
                number += missing
        print(f"{good} of {kills} kills, in {number} runs, ended identical to the unbroken run")
    raise SystemExit(good != kills)


if __name__ == "__main__":
    main()
