"""Compare the engine's speed with the limits of this CPU: matmul rate and memory bandwidth.

    python benchmarks/limits.py

Measures the rate of a large float32 matmul and the bandwidth of reading weights that do not fit a cache, both in this
process on one thread. Then it measures our update and rollout at the settings of ``rubric-arm bench`` (P = 512,
C = 64, G = 8, eight prompts), and prints the time that the matrix products alone would take at those rates.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.against_trl.ours import Ours, write_adapters
from benchmarks.against_trl.work import BenchSettings, Work, make_folder


def median_seconds(call: Callable[[], object], runs: int = 7) -> float:
    """Median of ``runs`` calls after an untimed one."""
    call()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    settings = BenchSettings(threads=1)
    left, right = torch.randn(2048, 256), torch.randn(256, 1024)
    rate = 2 * left.numel() * right.shape[1] / median_seconds(lambda: left @ right)
    vector, weights = torch.randn(1024), torch.randn(64 * 1024, 1024)
    bandwidth = weights.numel() * 4 / median_seconds(lambda: weights @ vector)
    print(f"matmul {rate / 1e9:.0f} GFLOP/s, reading weights {bandwidth / 1e9:.1f} GB/s, one thread")

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work = Work(settings)
        make_folder(work, folder)
        write_adapters(work, folder)
        ours = Ours(work, folder, 1)
        base = ours.model.model.get_base_model()
        in_layers = [(name, p) for name, p in base.named_parameters() if ".layers." in name]
        body = sum(p.numel() for name, p in in_layers if ".lora_" not in name or ".judge." in name)
        head = base.get_output_embeddings().weight.numel()
        rows = settings.prompts * settings.num_generations
        packed = settings.prompts * settings.prompt_length + rows * (settings.completion_length - 1)
        written = rows * settings.completion_length
        # Reference forward, forward, and backward to the inputs: the base's weights are frozen.
        products = 2 * 3 * (body * packed + head * written)
        update = median_seconds(lambda: ours.run("update", 0))
        print(
            f"update  {update:.2f} s; {packed} tokens, {products / 1e9:.0f} GFLOP of matrix products, "
            f"{products / rate:.2f} s at that rate: {products / rate / update:.0%} of the time"
        )
        prefill = 2 * body * settings.prompts * settings.prompt_length / rate
        reading = settings.completion_length * (body + head) * 4 / bandwidth
        rollout = median_seconds(lambda: ours.run("rollout", 0))
        print(
            f"rollout {rollout:.2f} s; prefill {prefill:.2f} s at that rate, reading all weights once a token "
            f"{reading:.2f} s: {(prefill + reading) / rollout:.0%} of the time"
        )


if __name__ == "__main__":
    main()
