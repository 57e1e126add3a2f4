"""The testbed recipe on a GPU: learning curves over seeds, and a killed and resumed run against an unbroken one.

    python benchmarks/gpu/testbed.py --output testbed.json

Runs at the same time. A run that is not finished after ``--seconds`` is stopped, and its measurements are reported.
Sums on a GPU have no fixed order, so a resumed run is only close to an unbroken one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def start(folder: Path, seed: int, overrides: list[str]) -> subprocess.Popen[bytes]:
    """Start the testbed recipe in its own folder, or resume it there."""
    sets = [part for value in (f"seed={seed}", *overrides) for part in ("--set", value)]
    command = [sys.executable, "-m", "rubric_arm_lite", "run", "testbed", *sets, "--run-dir", str(folder), "--json"]
    log = (folder.parent / f"{folder.name}.log").open("ab")
    return subprocess.Popen(
        [*command, "--if-exists", "resume"], stdout=log, stderr=log, start_new_session=True, env=os.environ
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run so far."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def evaluations(folder: Path) -> dict[str, dict[str, float]]:
    """Accuracy and more of every evaluation, by name."""
    names = ("accuracy", "principle_recall", "position_bias", "format_sampled")
    return {r["name"]: {n: r[n] for n in names if n in r} for r in rows(folder) if r["kind"] == "evaluation"}


def difference(one: Path, other: Path) -> dict[str, Any]:
    """Relative difference of the final adapters by role, and whether they are identical."""
    from safetensors.torch import load_file

    differences: dict[str, Any] = {}
    for role in ("rubric", "judge"):
        a, b = (load_file(folder / "adapters" / role / "adapter_model.safetensors") for folder in (one, other))
        gap = sum(float((a[k].float() - b[k].float()).square().sum()) for k in a) ** 0.5
        norm = sum(float(a[k].float().square().sum()) for k in a) ** 0.5
        differences[role] = {"relative": gap / norm, "identical": gap == 0.0}
    return differences


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--kill-after", type=float, nargs="+", default=[70.0, 90.0])
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        running = {seed: start(root / f"seed-{seed}", seed, args.overrides) for seed in args.seeds}
        finished: dict[int, float] = {}
        killed = root / "killed"
        victim = start(killed, args.seeds[0], args.overrides)
        moments, since = list(args.kill_after), time.perf_counter()
        kills = []
        while time.perf_counter() - began < args.seconds:
            time.sleep(0.5)
            if moments and time.perf_counter() - since > moments[0] and victim.poll() is None:
                os.killpg(victim.pid, signal.SIGKILL)
                victim.wait()
                kills.append(moments.pop(0))
                victim, since = start(killed, args.seeds[0], args.overrides), time.perf_counter()
            for seed, process in running.items():
                if process.poll() is not None:
                    finished.setdefault(seed, time.perf_counter() - began)
            if len(finished) == len(running) and victim.poll() is not None:
                break
        done = victim.poll() == 0
        for process in (*running.values(), victim):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        result: dict[str, Any] = {
            "command": re.sub(r" --output \S+", "", " ".join(["python", "benchmarks/gpu/testbed.py", *sys.argv[1:]])),
            "seeds": {
                seed: {
                    "ended_with": process.returncode,
                    "seconds": finished.get(seed),
                    "evaluations": evaluations(root / f"seed-{seed}"),
                    **({} if process.returncode == 0 else {"log": _tail(root / f"seed-{seed}.log")}),
                }
                for seed, process in running.items()
            },
            "resume": {"killed_after": kills, "finished": done, "evaluations": evaluations(killed)},
        }
        if done and args.seeds[0] in finished and running[args.seeds[0]].returncode == 0:
            result["resume"]["difference"] = difference(root / f"seed-{args.seeds[0]}", killed)
        elif not done:
            result["resume"]["log"] = _tail(root / "killed.log")
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


def _tail(file: Path) -> str:
    return file.read_text("utf-8", "replace")[-1500:] if file.is_file() else ""


if __name__ == "__main__":
    main()
