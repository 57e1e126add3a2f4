"""Kill the demo at random moments, resume it, and compare with a run that was never killed.

    python benchmarks/kill_resume.py --kills 20 --jobs 2

prints how many of the killed runs ended with the same adapters, metrics and report, byte for byte (the report but
for its timing section). ``--set`` overrides the recipe, for example to make it shorter.
"""

from __future__ import annotations

import argparse
import hashlib
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


def killed_run(folder: Path, overrides: list[str], moments: list[float]) -> float:
    """Run, ``kill -9`` after each of ``moments`` seconds of its own running time, then let it finish."""
    for moment in moments:
        process = subprocess.Popen(
            command(folder, overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    started = time.perf_counter()
    subprocess.run(command(folder, overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Compare and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1, help="killed runs at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        started = time.perf_counter()
        subprocess.run(
            command(whole, arguments.overrides), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seconds = time.perf_counter() - started
        expected = digest(whole)
        print(f"unbroken run: {seconds:.0f} s", flush=True)

        def trial(number: int, moment: float) -> bool:
            folder = Path(scratch) / f"killed-{number}"
            rest = killed_run(folder, arguments.overrides, [moment])
            found = digest(folder)
            differing = [name for name in expected if found[name] != expected[name]]
            verdict = "identical" if not differing else f"DIFFERS in {', '.join(differing)}"
            print(f"killed at {moment:6.1f} s, resumed for {rest:5.1f} s: {verdict}", flush=True)
            return not differing

        moments = [rng.uniform(0.02, 0.98) * seconds for _ in range(arguments.kills)]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            same = sum(pool.map(trial, range(arguments.kills), moments))
        print(f"{same} of {arguments.kills} killed runs ended identical to the unbroken one")
    raise SystemExit(same != arguments.kills)


if __name__ == "__main__":
    main()
