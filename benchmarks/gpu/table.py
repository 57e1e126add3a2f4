"""Gather the results of ``run_all.sh`` in one JSON and one page of Markdown.

python benchmarks/gpu/table.py FOLDER-OF-RESULTS OUTPUT-FOLDER
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes")


def machine() -> dict[str, Any]:
    """What ran: GPU, driver and versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = "unknown"
    found: dict[str, Any] = {"gpu": gpu, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def memory(results: dict[str, Any]) -> list[str]:
    """A row per model, cap and stage."""
    lines = [
        "### Memory",
        "",
        "| model | cap | stage | on the card | tensors | seconds | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if not name.startswith(("fits-", "longest-")):
            continue
        _, size, cap = name.split("-")
        for stage, seen in result.get("stages", {}).items():
            note = seen.get("failed") or "; ".join(seen.get("warnings", []))
            lines.append(
                f"| {size} | {cap} GiB | {stage} | {seen['card_gib']:.2f} GiB | {seen['allocated_gib']:.2f} GiB | "
                f"{seen['seconds']:.1f} | {note[:200]} |"
            )
        if "stages" not in result:
            lines.append(f"| {size} | {cap} GiB | | | | | {result.get('failed', '')} |")
    return [*lines, ""]


def speed(results: dict[str, Any]) -> list[str]:
    """Writing, updating, and TRL beside them."""
    lines = []
    if "rollout" in results.get("rollout-8b", {}):
        found = results["rollout-8b"]
        lines += ["### Writing, Qwen3-8B NF4", "", f"Copy on this card: {found['bandwidth_gb_s']:.0f} GB/s.", ""]
        lines += ["| | tokens/s | ms per token | share of bandwidth |", "|---|---|---|---|"]
        for name, row in found["rollout"].items():
            if name != "profile":
                lines.append(
                    f"| {name} | {row['tokens_per_second']:.0f} | {row['milliseconds_per_step']:.1f} | "
                    f"{100 * row['share_of_bandwidth']:.0f} % |"
                )
        lines.append("")
    if "ratio" in results.get("update-8b", {}):
        found = results["update-8b"]
        rates = found["tokens_per_second"]
        lines += ["### Update, Qwen3-8B NF4", ""]
        lines += [
            f"Shared prompts {rates['packed']:.0f} completion tokens/s, separate rows {rates['separate']:.0f}: "
            f"{found['ratio']:.2f} times as fast.",
            "",
        ]
    for name in ("trl-update", "trl-rollout"):
        found = results.get(name, {})
        if found.get("ratio"):
            ours, theirs = (found[side]["seconds"]["median"] for side in ("ours", "theirs"))
            lines.append(f"{name}: ours {ours:.2f} s, TRL {theirs:.2f} s, {found['ratio']:.2f} times as fast.")
    return [*lines, ""]


def testbed(results: dict[str, Any]) -> list[str]:
    """Accuracy of each evaluation."""
    found = results.get("testbed", {})
    if "seeds" not in found:
        return []
    lines = ["### Testbed on the GPU", ""]
    for seed, run in found["seeds"].items():
        values = [f"{name} {e['accuracy']:.3f}" for name, e in run["evaluations"].items() if "cross" not in name]
        lines.append(
            f"- seed {seed} (ended with {run['ended_with']}, {run['seconds'] or 0:.0f} s): {', '.join(values)}"
        )
    lines.append(f"- killed after {found['resume']['killed_after']} s and resumed: {found['resume'].get('difference')}")
    return [*lines, ""]


def main() -> None:
    """Write ``results.json`` and ``results.md``."""
    parts, out = Path(sys.argv[1]), Path(sys.argv[2])
    results: dict[str, Any] = {}
    for file in sorted(parts.glob("*.json")):
        try:
            results[file.name.split(".json")[0].removesuffix(".failed")] = json.loads(file.read_text("utf-8"))
        except ValueError:
            results[file.stem] = {"failed": "no result"}
    kept = out / "results.json"
    if kept.is_file():
        results = {**json.loads(kept.read_text("utf-8")), **results}
    results["machine"] = machine()
    kept.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    about = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    page = ["# On a CUDA machine", "", "`bash benchmarks/gpu/run_all.sh benchmarks/gpu`", "", about, ""]
    page += [*memory(results), *speed(results), *testbed(results)]
    (out / "results.md").write_text("\n".join(page), "utf-8")


if __name__ == "__main__":
    main()
