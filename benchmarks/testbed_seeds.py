"""Train the testbed recipe over several seeds; the seed sets world, data and LoRA.

    python benchmarks/testbed_seeds.py 101 102 103 104 105

Writes ``benchmarks/testbed_seeds.json`` and ``.md`` with every seed, failures included, and the spread. ``--set
key=value`` overrides the recipe, ``--recipe`` names another one, and ``--beside`` adds the accuracy of the same seeds
from an earlier JSON file. ``--folder`` keeps the runs, so that a killed benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PHASES = ("warm-up", "judge 1", "rubric 1", "judge 2", "rubric 2", "judge 3", "rubric 3", "final")
COLUMNS = ("accuracy", "principle_recall", "position_bias", "consistency", "format_sampled")
POINTWISE_COLUMNS = (
    "accuracy",
    "tie_rate",
    "margin",
    "accuracy_words",
    "tie_rate_words",
    "principle_recall",
    "format_sampled",
)


def run_seed(seed: int, recipe: str, overrides: list[str], folder: Path) -> dict[str, Any]:
    """Train one seed; returns its evaluations by name, the oracle's values and the wall time."""
    sets = [part for value in (f"seed={seed}", *overrides) for part in ("--set", value)]
    target = ("--run-dir", str(folder), "--if-exists", "resume", "--json")
    command = [sys.executable, "-m", "rubric_arm_lite", "run", recipe, *sets, *target]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    # The sum over logged stages also holds for a run that was killed.
    timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text("utf-8").splitlines()]
    seconds = sum(row["seconds"] for row in timings)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    evaluations = {row["name"]: row for row in rows if row["kind"] == "evaluation"}
    steps = [row for row in rows if row["kind"] == "step"]
    print(seed, *(f"{evaluations[phase]['accuracy']:.3f}" for phase in PHASES), f"{seconds:.0f} s", flush=True)
    return {
        "seed": seed,
        "seconds": seconds,
        "oracle": json.loads((folder / "data.json").read_text("utf-8"))["oracle"],
        "evaluations": evaluations,
        "informative": {
            phase: statistics.fmean(row["groups/informative"] for row in steps if row["phase"] == phase)
            for phase in dict.fromkeys(row["phase"] for row in steps)
        },
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row per seed and phase, then mean and spread, then cross-play."""
    lines = []
    for column in POINTWISE_COLUMNS if "tie_rate" in results[0]["evaluations"]["final"] else COLUMNS:
        lines += [f"### {column.replace('_', ' ')}", "", "| seed | " + " | ".join(PHASES) + " |"]
        lines.append("|---|" + "---|" * len(PHASES))
        for result in results:
            values = [result["evaluations"][phase].get(column) for phase in PHASES]
            lines.append(f"| {result['seed']} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
        columns = list(zip(*([r["evaluations"][p][column] for p in PHASES] for r in results), strict=True))
        lines.append("| mean | " + " | ".join(f"{statistics.fmean(c):.3f}" for c in columns) + " |")
        if len(results) > 1:
            lines.append("| sd | " + " | ".join(f"{statistics.stdev(c):.3f}" for c in columns) + " |")
        lines.append("")
    return "\n".join([*lines, cross_play_table(results), run_table(results)])


def cross_play_table(results: list[dict[str, Any]]) -> str:
    """Markdown: the accuracy of every combination of old and new adapters."""
    names = [name for name in results[0]["evaluations"] if name.startswith("cross-play")]
    lines = ["### cross-play accuracy", "", "| seed | " + " | ".join(n.removeprefix("cross-play: ") for n in names)]
    lines[-1] += " |"
    lines.append("|---|" + "---|" * len(names))
    for result in results:
        values = [result["evaluations"][name]["accuracy"] for name in names]
        lines.append(f"| {result['seed']} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    means = [statistics.fmean(r["evaluations"][name]["accuracy"] for r in results) for name in names]
    return "\n".join([*lines, "| mean | " + " | ".join(f"{v:.3f}" for v in means) + " |", ""])


def run_table(results: list[dict[str, Any]]) -> str:
    """Markdown: wall time, and the accuracy of an oracle in each world."""
    lines = ["### run", "", "| seed | seconds | oracle, true rubric | oracle, hard rule only | oracle, best generic |"]
    lines.append("|---|---|---|---|---|")
    for result in results:
        oracle = result["oracle"]
        values = [oracle["true"], oracle["hard_rule"], oracle["generic"]]
        lines.append(f"| {result['seed']} | {result['seconds']:.0f} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def beside_table(results: list[dict[str, Any]], file: Path) -> str:
    """Markdown: the accuracy of the same seeds in an earlier benchmark."""
    earlier = {row["seed"]: row for row in json.loads(file.read_text("utf-8"))["results"]}
    same = [earlier[result["seed"]] for result in results if result["seed"] in earlier]
    if not same:
        raise SystemExit(f"{file} has none of these seeds.")
    lines = [f"### accuracy of the same seeds in {file.name}", "", "| seed | " + " | ".join(PHASES) + " |"]
    lines.append("|---|" + "---|" * len(PHASES))
    rows = {str(row["seed"]): [row["evaluations"][phase]["accuracy"] for phase in PHASES] for row in same}
    rows["mean"] = [statistics.fmean(column) for column in zip(*rows.values(), strict=True)]
    lines += [f"| {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the seeds and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--recipe", default="testbed")
    parser.add_argument("--beside", type=Path, help="JSON of an earlier benchmark with the same seeds")
    parser.add_argument("--folder", type=Path, help="keep the runs here (default: a temporary folder)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at the same time")
    parser.add_argument("--out", type=Path, default=HERE / "testbed_seeds")
    arguments = parser.parse_args()
    with ThreadPoolExecutor(arguments.jobs) as pool, tempfile.TemporaryDirectory() as scratch:
        folders = [(arguments.folder or Path(scratch)) / str(seed) for seed in arguments.seeds]

        def run(seed: int, folder: Path) -> dict[str, Any]:
            return run_seed(seed, arguments.recipe, arguments.overrides, folder)

        results = list(pool.map(run, arguments.seeds, folders))
    command = " ".join(["python", "benchmarks/testbed_seeds.py", *sys.argv[1:]])
    arguments.out.with_suffix(".json").write_text(json.dumps({"command": command, "results": results}, indent=1) + "\n")
    text = f"# Testbed over seeds\n\n`{command}`\n\n{table(results)}"
    if arguments.beside is not None:
        text += f"\n{beside_table(results, arguments.beside)}"
    arguments.out.with_suffix(".md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
