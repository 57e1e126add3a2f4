"""Train policies on the testbed with iterative DPO and online GRPO against the reward model, over several seeds.

    python benchmarks/testbed_policy.py 101 102 103 --reward-runs FOLDER --jobs 2

For each seed, trains the policy against the reward model of ``FOLDER/SEED``, the testbed recipe with that seed (trained
first if missing), and against the same run's warm-up adapters, from one start and with the same budget. DPO is the
first round of iterative DPO: the same recipe and seed make the same pairs. The main measure is the oracle's mean score
of sampled answers to held-out requests, from 0 to 4. Writes ``benchmarks/testbed_policy.json`` and ``.md`` with every
seed. ``--set key=value`` overrides the policy recipe. ``--folder`` keeps the policy runs, so that a killed benchmark
continues; with ``--read`` nothing runs, and the finished runs are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
METHODS = ("iterdpo", "grpo")
STATES = ("final", "warm-up")
NAMES = {"iterdpo": "DPO, then iterative", "grpo": "online GRPO"}
ROUNDS = ("start", "round 1", "round 2", "round 3")
COLUMNS = {
    "score": "oracle's mean score",
    "independent/win_rate": "oracle's win rate over the start",
    "independent/win_rate_lc": "oracle's win rate at equal length",
    "trained/win_rate": "win rate by the reward model trained against",
    "kl": "KL to the start, nats per answer",
    "length": "tokens per answer",
}


def rubric_arm(*arguments: str) -> None:
    """Run one command without its output."""
    subprocess.run([sys.executable, "-m", "rubric_arm_lite", *arguments], check=True, stdout=subprocess.DEVNULL)


def train_policy(method: str, state: str, seed: int, reward: Path, folder: Path, overrides: Sequence[str]) -> None:
    """Run or resume one policy run."""
    values = [f"seed={seed}", f"reward.state={state}", *overrides]
    sets = [part for value in values for part in ("--set", value)]
    target = ("--run-dir", str(folder), "--if-exists", "resume")
    rubric_arm("policy", method, "testbed", "--reward", str(reward), *sets, *target, "--json")


def read_policy(folder: Path) -> dict[str, Any]:
    """A finished policy run's evaluations by name, the yields of its labels, and its alarms."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {
        "evaluations": {row["name"]: row for row in rows if row["kind"] == "evaluation"},
        "labels": [row for row in rows if row["kind"] == "labels"],
        "alarms": json.loads((folder / "summary.json").read_text("utf-8"))["alarms"],
    }


def run_seed(seed: int, rewards: Path, folder: Path, overrides: Sequence[str], read_only: bool) -> dict[str, Any]:
    """Train with both methods against both reward models, from the start that the first run makes."""
    reward = rewards / str(seed)
    if not (reward / "summary.json").is_file() and not read_only:
        target = ("--run-dir", str(reward), "--if-exists", "resume")
        rubric_arm("run", "testbed", "--set", f"seed={seed}", *target, "--json")
    rows = [json.loads(line) for line in (reward / "metrics.jsonl").read_text("utf-8").splitlines()]
    accuracy = {row["name"]: row["accuracy"] for row in rows if row["kind"] == "evaluation" and row["name"] in STATES}
    result: dict[str, Any] = {"seed": seed, "reward_accuracy": accuracy, "runs": {}}
    start: list[str] = []
    for method in METHODS:
        for state in STATES:
            run = folder / f"{seed}-{method}-{state}"
            if not read_only:
                train_policy(method, state, seed, reward, run, [*overrides, *start])
            start = start or ["start.source=null", f"start.adapter={run / 'adapters' / 'policy_ref'}"]
            if (run / "summary.json").is_file():
                done = result["runs"][f"{method} {state}"] = read_policy(run)
                scores = (f"{done['evaluations'][name]['score']:.3f}" for name in ROUNDS)
                print(seed, method, state, *scores, flush=True)
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a table per quantity with a row per method, reward model and seed, mean and standard deviation."""
    lines = []
    for column, title in COLUMNS.items():
        lines += [f"### {title}", "", "| policy | reward model | seed | " + " | ".join(ROUNDS) + " |"]
        lines.append("|---|---|---|" + "---|" * len(ROUNDS))
        for method in METHODS:
            for state in STATES:
                name = f"{method} {state}"
                runs = [(r["seed"], r["runs"][name]["evaluations"]) for r in results if name in r["runs"]]
                if not runs:
                    continue
                values = [[evaluations[name][column] for name in ROUNDS] for _, evaluations in runs]
                shown = [(str(seed), row) for (seed, _), row in zip(runs, values, strict=True)]
                columns = list(zip(*values, strict=True))
                shown.append(("mean", [statistics.fmean(c) for c in columns]))
                if len(values) > 1:
                    shown.append(("sd", [statistics.stdev(c) for c in columns]))
                for seed, row in shown:
                    cells = " | ".join(f"{value:.3f}" for value in row)
                    lines.append(f"| {NAMES[method]} | {state} | {seed} | {cells} |")
        lines.append("")
    lines += ["### runs", "", "| seed | policy | reward model | its accuracy | pairs kept | alarms |"]
    lines.append("|---|---|---|---|---|---|")
    for result in results:
        for method in METHODS:
            for state in STATES:
                done = result["runs"].get(f"{method} {state}")
                kept = ", ".join(str(row["kept"]) for row in done["labels"]) if done else "not finished"
                alarmed = ", ".join(alarm["at"] for alarm in done["alarms"]) or "none" if done else ""
                accuracy = f"{result['reward_accuracy'][state]:.3f}"
                lines.append(f"| {result['seed']} | {NAMES[method]} | {state} | {accuracy} | {kept} | {alarmed} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the seeds and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--reward-runs", type=Path, help="folder of reward-model runs by seed (default: new runs)")
    parser.add_argument("--folder", type=Path, help="keep the policy runs here (default: a temporary folder)")
    parser.add_argument("--read", action="store_true", help="show the finished runs in --folder and run nothing")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at the same time")
    parser.add_argument("--out", type=Path, default=HERE / "testbed_policy")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool, tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)).resolve()
        rewards = (arguments.reward_runs or folder / "rewards").resolve()
        jobs = [(seed, rewards, folder, arguments.overrides, arguments.read) for seed in arguments.seeds]
        results = list(pool.map(lambda job: run_seed(*job), jobs))
    command = " ".join(["python", "benchmarks/testbed_policy.py", *map(_without_paths, sys.argv[1:])])
    arguments.out.with_suffix(".json").write_text(json.dumps({"command": command, "results": results}, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(
        f"# Policies of the testbed\n\n`{command}`\n\n{table(results)}", "utf-8"
    )


def _without_paths(argument: str) -> str:
    """An argument without the paths of this machine."""
    return "FOLDER" if argument.startswith("/") else argument


if __name__ == "__main__":
    main()
