"""Kill the demo at random moments, resume it, and compare with a run that was never killed.

    python benchmarks/kill_resume.py --kills 20 --per-run 4 --jobs 2

kills every run ``--per-run`` times, resuming it in between, until there were ``--kills`` kills, and prints how many of
them were in runs that ended with the same adapters, metrics and report, byte for byte (the report but for its timing
section). A run that ended before its next kill was due counts as killed only as often as it was. ``--set`` overrides
the recipe, for example to make it shorter.
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
    """The demo in a folder of its own; it resumes what it finds."""
    sets = [part for value in overrides for part in ("--set", value)]
    return [sys.executable, "-m", "rubric_arm_lite", "demo", "--run-dir", str(folder), "--json", *sets]


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of what must be equal."""
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in COMPARED}
    page = TIMING.sub("", (folder / "report.html").read_text("utf-8"))
    return {**found, "report.html": hashlib.sha256(page.encode()).hexdigest()}


def killed_run(folder: Path, overrides: list[str], moments: list[float]) -> tuple[list[float], float]:
    """Run, ``kill -9`` after each of ``moments`` seconds since the last start, then let it finish.

    Returns the moments at which there was something left to kill, and the seconds of the last part.
    """
    struck = []
    for moment in moments:
        process = subprocess.Popen(
            command(folder, overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            struck.append(moment)
        else:
            break
    started = time.perf_counter()
    subprocess.run(command(folder, overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return struck, time.perf_counter() - started


def main() -> None:
    """Compare and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--per-run", type=int, default=4, help="kills of one run")
    parser.add_argument("--jobs", type=int, default=1, help="killed runs at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
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
            """One run killed several times: how often it was, and whether it ended as the unbroken one."""
            rng = random.Random(f"{arguments.seed} {number}")
            parts = sorted(rng.uniform(0.02, 0.98) * seconds for _ in range(arguments.per_run))
            moments = [later - earlier for earlier, later in itertools.pairwise([0.0, *parts])]
            folder = Path(scratch) / f"killed-{number}"
            struck, rest = killed_run(folder, arguments.overrides, moments)
            found = digest(folder)
            differing = [name for name in expected if found[name] != expected[name]]
            verdict = "identical" if not differing else f"DIFFERS in {', '.join(differing)}"
            after = ", ".join(f"{moment:.1f}" for moment in struck)
            print(f"run {number}: killed after {after} s, then ran {rest:.1f} s: {verdict}", flush=True)
            return len(struck), not differing

        kills = good = number = 0
        with ThreadPoolExecutor(arguments.jobs) as pool:
            while kills < arguments.kills:
                missing = math.ceil((arguments.kills - kills) / arguments.per_run)
                for struck, identical in pool.map(trial, range(number, number + missing)):
                    kills, good = kills + struck, good + struck * identical
                number += missing
        print(f"{good} of {kills} kills, in {number} runs, ended identical to the unbroken run")
    raise SystemExit(good != kills)


if __name__ == "__main__":
    main()
