"""Time an evaluation by the engine under all benchmarks against asking the same reward model pair by pair.

    python benchmarks/evaluate_throughput.py runs/testbed

judges pairs of the run's own world in both orders (the mixed order takes one of the two) with voting@5, in one
process, on one thread: first the engine on all ``--pairs``, then ``compare`` on samples of ``--slow-pairs`` of them,
``--rounds`` times in turn, the fast side on a part of equal size in every round. Both sides write one rubric per
prompt and sample the same judgements; the table says so. Writes ``evaluate_throughput.json`` and ``.md`` beside it.
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
from rubric_arm_lite.evaluation.benchmarks.engine import answer_of, load_pair_file

from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.evaluation.benchmarks.catalogue import pair_file
from rubric_arm_lite.evaluation.benchmarks.run import Chosen, evaluate_benchmarks
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
    """What one way of asking took, and what it said."""

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


class Counting:
    """The run's sampler, and how many rubrics it wrote."""

    def __init__(self, sampler: ChatSampler) -> None:
        self._sampler = sampler
        self.rubrics = 0

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        self.rubrics += len(examples) if adapter == "rubric" else 0
        return self._sampler.sample(adapter, examples, sampling)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


def fresh(model: RubricRewardModel) -> tuple[RubricRewardModel, Counting]:
    """The same adapters with an empty cache."""
    counting = Counting(model.model)
    return RubricRewardModel(counting, model.recipe), counting


def by_engine(model: RubricRewardModel, items: Sequence[Item], path: Path) -> Timed:
    """All items through the engine, journal and scores included."""
    asked, counting = fresh(model)
    chosen = load_pair_file(path)
    wanted = {item.item_id for item in items}
    part = replace(chosen, items=tuple(i for i in chosen.items if i.item_id in wanted))
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        (result,) = evaluate_benchmarks(asked, [Chosen(pair_file("pairs"), str(path), part)], Path(folder), VOTES)
        seconds = time.perf_counter() - started
        rows = {row["key"]: row for row in read_jsonl(Path(folder) / "pairs.jsonl") if "key" in row}
    said = [answer_of(item, rows[item.item_id]) for item in items]
    winners = [tuple(None if o is None else int(not o) for o in (*a.original[0], *a.flipped[0])) for a in said]
    return Timed(seconds, len(items), counting.rubrics, int(result.rates["rubrics_reused"]), winners)


def one_by_one(model: RubricRewardModel, items: Sequence[Item]) -> Timed:
    """The same items, one call of ``compare`` each; the model's cache keeps the rubrics."""
    asked, counting = fresh(model)
    winners: Winners = []
    started = time.perf_counter()
    for item in items:
        verdict = asked.compare(item.prompt, item.responses[0], item.responses[1], votes=VOTES)
        winners.append(tuple(None if side is None else "AB".index(side) for side in verdict.named))
    seconds = time.perf_counter() - started
    return Timed(seconds, len(items), counting.rubrics, asked.cache.hits, winners)


def measure(model: RubricRewardModel, pairs: int, slow_pairs: int, rounds: int, say: Callable[[str], None]) -> Any:
    """Everything that the table shows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        write_pairs(model, path, pairs)
        items = load_pair_file(path).items
        by_engine(model, items[:8], path)  # not timed: kernels and caches of the libraries
        whole = by_engine(model, items, path)
        say(f"engine, {whole.pairs} pairs: {whole.seconds:.1f} s, {whole.rubrics_written} rubrics")
        found = []
        for number in range(rounds):
            start = number * slow_pairs % max(1, len(items) - slow_pairs + 1)
            part = items[start : start + slow_pairs]
            slow, fast = one_by_one(model, part), by_engine(model, part, path)
            same = sum(a == b for a, b in zip(slow.winners, fast.winners, strict=True)) / len(part)
            found.append({
                "pair_by_pair": slow.per_pair,
                "engine": fast.per_pair,
                "same_verdicts": same,
                "cache_hits": slow.rubrics_reused,
                "rubrics_written": slow.rubrics_written,
                "engine_rubrics": fast.rubrics_written,
            })  # fmt: skip
            say(f"round {number + 1}: {slow.per_pair:.4f} s a pair one by one, {fast.per_pair:.4f} by the engine")
    slow_seconds = statistics.median(row["pair_by_pair"] for row in found)
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
        "ratio_same_size": statistics.median(row["pair_by_pair"] / row["engine"] for row in found),
        "rounds": found,
    }


def table(found: dict[str, Any], command: str) -> str:
    """The result in Markdown."""
    rounds = found["rounds"]
    lines = [
        f"`{command}`: {found['pairs']:,} pairs of {found['prompts']:,} prompts in three orders with "
        f"voting@{found['votes']}, {found['threads']} thread(s).",
        "",
        "| | seconds a pair | rubrics written | used again |",
        "|---|---|---|---|",
        f"| engine, all pairs ({found['engine_seconds']:.1f} s) | {found['engine_seconds_per_pair']:.4f} "
        f"| {found['rubrics_written']:,} | {found['rubrics_reused']:,} judge prompts |",
    ]
    for i, row in enumerate(rounds, start=1):
        lines.append(
            f"| pair by pair, round {i} | {row['pair_by_pair']:.4f} | {row['rubrics_written']:,} "
            f"| {row['cache_hits']:,} pairs (cache hits) |"
        )
        lines.append(f"| engine, same pairs, round {i} | {row['engine']:.4f} | {row['engine_rubrics']:,} | |")
    ratios = [row["pair_by_pair"] / row["engine"] for row in rounds]
    lines += [
        "",
        f"The engine takes 1/{found['ratio']:.2f} of the time a pair over all pairs (median of the slow rounds), and "
        f"1/{found['ratio_same_size']:.2f} on the same pairs ({min(ratios):.2f}-{max(ratios):.2f}). Pairs with the "
        f"same ten verdicts both ways: {100 * statistics.mean(row['same_verdicts'] for row in rounds):.1f} %.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of the testbed recipe")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--slow-pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "evaluate_throughput")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = RubricRewardModel.from_run(chosen.run)
    found = measure(model, chosen.pairs, chosen.slow_pairs, chosen.rounds, lambda text: print(text, flush=True))
    options = f"--pairs {chosen.pairs} --slow-pairs {chosen.slow_pairs} --rounds {chosen.rounds}"
    text = table(found, f"python benchmarks/evaluate_throughput.py RUN {options}")
    chosen.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    chosen.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
