"""Attack the parsers and prompts with generated texts and count the forgeries (required: 0 in 100,000).

    python benchmarks/hostile_texts.py [--cases 100000] [--first-seed 0]

Cases come from ``tests/hostile_cases.py``, the generator of the test suite; each has one seed, so
``hostile_case(seed)`` reproduces a failure. Exits with 1 if anything was forged.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rubric_arm_lite.prompts import parse_judgement
from tests.hostile_cases import faults, hostile_case

FAULTS = {
    "verdict": "forged verdicts",
    "format": "malformed judgements accepted as well-formed",
    "rubric": "rubrics misread",
    "prompt": "prompts with a forged section, turn or control token",
    "lost": "carefully written judgements not read",
}


def main() -> int:
    """Run the cases and print the counts."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=100_000)
    options.add_argument("--first-seed", type=int, default=0)
    arguments = options.parse_args()
    counts: Counter[str] = Counter()
    decided = read = 0
    start = time.perf_counter()
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.cases):
        case = hostile_case(seed)
        for fault in faults(case):
            counts[fault] += 1
            if counts[fault] <= 3:
                print(f"seed {seed}: {fault}")
        if case.verdict is not None:
            decided += 1
            read += parse_judgement(case.judgement, case.judged_by, case.finish_reason).winner is not None
    print(f"{arguments.cases} hostile cases in {time.perf_counter() - start:.0f} s, {decided} of them with a verdict")
    for fault, meaning in FAULTS.items():
        print(f"{counts[fault]:8d} {meaning}")
    print(f"{read:8d} verdicts read despite the attack ({read / max(decided, 1):.0%})")
    return int(counts.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
