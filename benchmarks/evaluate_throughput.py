"""Compare the speed of a batched evaluation with judging the same pairs one by one.

    python benchmarks/evaluate_throughput.py runs/testbed

Judges pairs of the run's own world in both orders (the mixed order takes one of the two) with voting@5, in one
process, on one thread: first all ``--pairs`` batched, then samples of ``--slow-pairs`` of them with ``compare`` and
batched in turn, ``--rounds`` times. Both sides write one rubric per prompt and sample the same judgements, which the
table confirms. Writes ``evaluate_throughput.json`` and ``.md`` next to this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.evaluation.benchmarks.load import load_benchmarks
from rubric_arm_lite.evaluation.benchmarks.results import answer_of
from rubric_arm_lite.evaluation.benchmarks.run import evaluate_benchmarks
from rubric_arm_lite.evaluation.benchmarks.scoring import Item
from rubric_arm_lite.models import ChatSampler, Sampling
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.runs import read_jsonl
from rubric_arm_lite.types import Example, RolloutGroup

VOTES = 5
PAIRS_PER_PROMPT = 8
"""The test split has 384 distinct prompts; with eight pairs each, 250 of them give 2,000 pairs."""
Winners = list[tuple[int | None, ...]]


@dataclass(frozen=True, slots=True)
class Timed:
    """Time and verdicts of one way to judge."""

    seconds: float
    pairs: int
    rubrics_written: int
    rubrics_reused: int
    winners: Winners

    @property
    def per_pair(self) -> float:
        """Seconds per pair in both orders, with all votes and its share of the rubric."""
        return self.seconds / self.pairs


def write_pairs(model: RubricRewardModel, path: Path, count: int) -> None:
    """Held-out pairs of the run's world as JSONL."""
    settings = model.recipe.data.world.model_copy(update={"label_noise": 0.0, "pairs_per_prompt": PAIRS_PER_PROMPT})
    blocks = World(model.recipe.seed, settings).blocks("test", -(-count // PAIRS_PER_PROMPT))
    pairs = [pair for block in blocks for pair in block.pairs][:count]
    rows = [{"id": p.pair_id, "prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class CountingSampler:
    """A sampler that counts the rubrics it writes."""

    def __init__(self, sampler: ChatSampler) -> None:
        self._sampler = sampler
        self.rubrics = 0

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        self.rubrics += len(examples) if adapter == "rubric" else 0
        return self._sampler.sample(adapter, examples, sampling)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


def fresh(model: RubricRewardModel) -> tuple[RubricRewardModel, CountingSampler]:
    """The same adapters with an empty cache."""
    counting = CountingSampler(model.model)
    return RubricRewardModel(counting, model.recipe), counting


def batched(model: RubricRewardModel, items: Sequence[Item], path: Path) -> Timed:
    """Judge all items batched, journal and scores included."""
    reward_model, counting = fresh(model)
    (benchmark,) = load_benchmarks([str(path)], {})
    benchmark = replace(benchmark, items=tuple(items))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        (result,) = evaluate_benchmarks(reward_model, [benchmark], Path(folder), VOTES)
        seconds = time.perf_counter() - started
        rows = {row["key"]: row for row in read_jsonl(Path(folder) / "pairs.jsonl") if "key" in row}
    answers = [answer_of(item, rows[item.item_id]) for item in items]
    winners = [tuple(None if o is None else int(not o) for o in (*a.original[0], *a.swapped[0])) for a in answers]
    return Timed(seconds, len(items), counting.rubrics, int(result.rates["rubrics_reused"]), winners)


def one_by_one(model: RubricRewardModel, items: Sequence[Item]) -> Timed:
    """Judge the same items with one call of ``compare`` each; the model's cache keeps the rubrics."""
    reward_model, counting = fresh(model)
    winners: Winners = []
    started = time.perf_counter()
    for item in items:
        verdict = reward_model.compare(item.prompt, item.responses[0], item.responses[1], votes=VOTES)
        winners.append(tuple(None if side is None else "AB".index(side) for side in verdict.winners))
    seconds = time.perf_counter() - started
    return Timed(seconds, len(items), counting.rubrics, reward_model.cache.hits, winners)


def measure(model: RubricRewardModel, pairs: int, slow_pairs: int, rounds: int, say: Callable[[str], None]) -> Any:
    """Time both ways; returns the values of the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        write_pairs(model, path, pairs)
        items = load_benchmarks([str(path)], {})[0].items
        batched(model, items[:8], path)  # not timed: kernels and caches of the libraries
        whole = batched(model, items, path)
        say(f"batched, {whole.pairs} pairs: {whole.seconds:.1f} s, {whole.rubrics_written} rubrics")
        results = []
        for number in range(rounds):
            start = number * slow_pairs % max(1, len(items) - slow_pairs + 1)
            part = items[start : start + slow_pairs]
            slow, fast = one_by_one(model, part), batched(model, part, path)
            same = sum(a == b for a, b in zip(slow.winners, fast.winners, strict=True)) / len(part)
            results.append({
                "pair_by_pair": slow.per_pair,
                "engine": fast.per_pair,
                "same_verdicts": same,
                "cache_hits": slow.rubrics_reused,
                "rubrics_written": slow.rubrics_written,
                "engine_rubrics": fast.rubrics_written,
            })  # fmt: skip
            say(f"round {number + 1}: {slow.per_pair:.4f} s a pair one by one, {fast.per_pair:.4f} batched")
    slow_seconds = statistics.median(row["pair_by_pair"] for row in results)
    return {
        "pairs": whole.pairs,
        "prompts": len({item.prompt for item in items}),
        "votes": VOTES,
        "threads": torch.get_num_threads(),
        "engine_seconds": whole.seconds,
        "engine_seconds_per_pair": whole.per_pair,
        "rubrics_written": whole.rubrics_written,
        "rubrics_reused": whole.rubrics_reused,
        "pair_by_pair_seconds_per_pair": slow_seconds,
        "ratio": slow_seconds / whole.per_pair,
        "ratio_same_size": statistics.median(row["pair_by_pair"] / row["engine"] for row in results),
        "rounds": results,
    }


def table(result: dict[str, Any], command: str) -> str:
    """The result in Markdown."""
    rounds = result["rounds"]
    lines = [
        f"`{command}`: {result['pairs']:,} pairs of {result['prompts']:,} prompts in three orders with "
        f"voting@{result['votes']}, {result['threads']} thread(s).",
        "",
        "| | seconds per pair | rubrics written | reused |",
        "|---|---|---|---|",
        f"| batched, all pairs ({result['engine_seconds']:.1f} s) | {result['engine_seconds_per_pair']:.4f} "
        f"| {result['rubrics_written']:,} | {result['rubrics_reused']:,} judge prompts |",
    ]
    for i, row in enumerate(rounds, start=1):
        lines.append(
            f"| one by one, round {i} | {row['pair_by_pair']:.4f} | {row['rubrics_written']:,} "
            f"| {row['cache_hits']:,} pairs (cache hits) |"
        )
        lines.append(f"| batched, same pairs, round {i} | {row['engine']:.4f} | {row['engine_rubrics']:,} | |")
    ratios = [row["pair_by_pair"] / row["engine"] for row in rounds]
    lines += [
        "",
        f"Batched judging takes 1/{result['ratio']:.2f} of the time per pair over all pairs (median of the rounds) and "
        f"1/{result['ratio_same_size']:.2f} on the same pairs ({min(ratios):.2f}-{max(ratios):.2f}). Pairs with the "
        f"same ten verdicts both ways: {100 * statistics.mean(row['same_verdicts'] for row in rounds):.1f} %.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of the testbed recipe")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--slow-pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "evaluate_throughput")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = RubricRewardModel.from_run(arguments.run)
    result = measure(
        model, arguments.pairs, arguments.slow_pairs, arguments.rounds, lambda text: print(text, flush=True)
    )
    options = f"--pairs {arguments.pairs} --slow-pairs {arguments.slow_pairs} --rounds {arguments.rounds}"
    text = table(result, f"python benchmarks/evaluate_throughput.py RUN {options}")
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
