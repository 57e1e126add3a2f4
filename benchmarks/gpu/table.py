"""Collects the results of ``run_all.sh`` in one JSON file and one page of Markdown.

python benchmarks/gpu/table.py FOLDER-OF-RESULTS OUTPUT-FOLDER SECONDS-SO-FAR
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "unsloth")


def machine() -> dict[str, Any]:
    """GPU, driver and package versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = "unknown"
    versions: dict[str, Any] = {"gpu": gpu, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def memory(results: dict[str, Any]) -> list[str]:
    """A row per model, cap and stage."""
    lines = [
        "### Memory",
        "",
        "Group 8, prompt 2048, rank 16; 8B writes 1024 tokens, 14B and 32B (rank 8) 512. `judge phase` and",
        "`rubric phase` are whole steps with two rollouts each; `rollout` has buffers of full length and writes 48",
        "tokens. *On the card* is torch's reserved memory and the CUDA context, *tensors* the memory in use. Only 8B",
        "at 12 GiB ran alone, so only its seconds count.",
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
        if "failed" in result:
            lines.append(f"| {size} | {cap} GiB | | | | | {result['failed']} |")
    return [*lines, ""]


def speed(results: dict[str, Any]) -> list[str]:
    """Speed of generation and updates, and TRL's."""
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


def backends(results: dict[str, Any]) -> list[str]:
    """unsloth beside transformers, on the same folder."""
    rows = []
    for name in ("transformers", "unsloth"):
        stages = results.get(f"backend-{name}", {}).get("stages", {})
        for what in ("rollout 1", "update 1"):
            if "tokens_per_second" in stages.get(what, {}):
                rate, held = stages[what]["tokens_per_second"], stages[what]["allocated_gib"]
                rows.append(f"| {name} | {what.split()[0]} | {rate:.0f} | {held:.2f} GiB |")
    if not rows:
        return []
    head = ["### Backends, Qwen3-0.6B NF4", "", "| backend | | tokens/s | tensors |", "|---|---|---|---|"]
    return [*head, *rows, ""]


def failures(results: dict[str, Any]) -> list[str]:
    """Checks and stages that failed."""
    lines = [f"- {name}: {found['failed']}" for name, found in results.items() if "failed" in found]
    for name, found in results.items():
        for stage, seen in found.get("stages", {}).items():
            if "failed" in seen:
                lines.append(f"- {name}, {stage}: {seen['failed'][:200]}")
    return ["### Not finished", "", *lines, ""] if lines else []


def exactness(results: dict[str, Any]) -> list[str]:
    """Differences of packed and separate rows."""
    found = results.get("exact-1.7b", {}).get("exact")
    if not found:
        return []
    lines = ["### Packed against separate rows, Qwen3-1.7B", "", "| | largest | mean |", "|---|---|---|"]
    for dtype, pairs in found.items():
        for name, gap in pairs.items():
            words = f"{dtype}: {name.replace('_', ' ')}"
            if isinstance(gap, dict):
                lines.append(f"| {words}, log-probs | {gap['max']:.3f} | {gap['mean']:.4f} |")
            else:
                lines.append(f"| {words}, relative | {gap:.2g} | |")
    return [*lines, ""]


def profiles(results: dict[str, Any]) -> list[str]:
    """The kernels that take most of the time of generation and updates."""
    lines = []
    for title, rows in (
        ("Kernels of writing 8 rows", results.get("rollout-8b", {}).get("rollout", {}).get("profile")),
        ("Kernels of an update", results.get("update-8b", {}).get("profile")),
    ):
        if rows:
            lines += [f"### {title}, Qwen3-8B NF4", "", "| share | calls | kernel |", "|---|---|---|"]
            lines += [f"| {100 * r['share']:.0f} % | {r['calls']} | `{r['kernel'][:70]}` |" for r in rows[:8]]
            lines.append("")
    return lines


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
    resume = found["resume"]
    gaps = [f"{role} {gap['relative']:.1g}" for role, gap in resume.get("difference", {}).items()]
    moments = " and ".join(f"{moment:g} s" for moment in resume["killed_after"])
    lines.append(
        f"- killed after {moments} and resumed, against unbroken: relative difference of the final adapters "
        f"{', '.join(gaps) or 'not known'}"
    )
    return [*lines, ""]


def main() -> None:
    """Write ``results.json`` and ``results.md``."""
    parts, out = Path(sys.argv[1]), Path(sys.argv[2])
    results: dict[str, Any] = {}
    for file in sorted(parts.glob("*.json"), key=lambda f: (f.name.endswith(".failed.json"), f.name)):
        name = file.name.removesuffix(".json").removesuffix(".failed")
        try:
            found = json.loads(file.read_text("utf-8"))
        except ValueError:  # stopped while or before it wrote
            found = {"failed": "no result"}
        results[name] = {**results.get(name, {}), **found}  # a stopped check leaves its partial results
    kept = out / "results.json"
    if kept.is_file():
        results = {**json.loads(kept.read_text("utf-8")), **results}
    results.setdefault("machine", machine())
    results["seconds"] = {"total": int(sys.argv[3])}
    kept.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    about = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    page = ["# On a CUDA machine", "", "`bash benchmarks/gpu/run_all.sh benchmarks/gpu`", "", about, ""]
    page += [f"The last call took {results['seconds']['total']} s.", ""]
    page += [*memory(results), *speed(results), *backends(results), *exactness(results)]
    page += [*testbed(results), *profiles(results), *failures(results)]
    (out / "results.md").write_text("\n".join(page), "utf-8")


if __name__ == "__main__":
    main()
