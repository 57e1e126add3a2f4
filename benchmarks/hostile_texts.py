"""Attack the parsers and prompts with generated texts and count what was forged (bar: 0 in 100,000).

    python benchmarks/hostile_texts.py [--cases 100000] [--first-seed 0]

Cases come from ``tests/hostile_cases.py``, the generator of the test suite; each is one seed, so a failure that is
printed here can be looked at with ``hostile_case(seed)``. Exits with 1 if anything was forged.
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
    "format": "judgements called well-formed that are not",
    "rubric": "rubrics misread",
    "prompt": "prompts with a forged section, turn or control token",
    "lost": "careful judgements not read",
}


def main() -> int:
    """Run the cases and print the counts."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=100_000)
    options.add_argument("--first-seed", type=int, default=0)
    chosen = options.parse_args()
    found: Counter[str] = Counter()
    decided = read = 0
    start = time.perf_counter()
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.cases):
        case = hostile_case(seed)
        for fault in faults(case):
            found[fault] += 1
            if found[fault] <= 3:
                print(f"seed {seed}: {fault}")
        if case.verdict is not None:
            decided += 1
            read += parse_judgement(case.judgement, case.judged_by, case.finish_reason).winner is not None
    print(f"{chosen.cases} hostile cases in {time.perf_counter() - start:.0f} s, {decided} of them with a verdict")
    for fault, meaning in FAULTS.items():
        print(f"{found[fault]:8d} {meaning}")
    print(f"{read:8d} verdicts read all the same ({read / max(decided, 1):.0%})")
    return int(found.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
