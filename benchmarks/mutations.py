"""Ten deliberate mistakes in the core of the method, each of which a test must catch.

    python benchmarks/mutations.py [NAME …]

Each mutation is made in a temporary copy of the repository; the tests named with it are run there and must fail. Exits
with 1 if a mutation survives, or if its place in the code is gone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rubric_arm_lite"


@dataclass(frozen=True)
class Mutation:
    """A mistake: ``before`` becomes ``after`` in one file, and one of the ``tests`` must fail."""

    name: str
    file: str
    before: str
    after: str
    tests: str


MUTATIONS = (
    Mutation(
        "sign of the advantage",
        "training/advantages.py",
        "(r.total - mean) / divisor",
        "(mean - r.total) / divisor",
        "training/test_advantages.py",
    ),
    Mutation(
        "clip bound",
        "training/losses.py",
        "ratio.clamp(1 - epsilon, 1 + epsilon_high)",
        "ratio.clamp(1 - epsilon, 1 + epsilon)",
        "training/test_losses.py",
    ),
    Mutation(
        "reference adapter",
        "training/learner.py",
        'model.using(f"{role}_ref")',
        "model.using(role)",
        "training/test_learner.py",
    ),
    Mutation(
        "cache key",
        "reward_model/generator.py",
        "state = self.sampler.fingerprint(adapter)",
        'state = ""',
        "training/test_phases.py",
    ),
    Mutation(
        "order swap",
        "reward_model/judge.py",
        '[(b, a)] * (orders != "original")',
        '[(a, b)] * (orders != "original")',
        "training/test_phases.py",
    ),
    Mutation("seed", "recipe/seeds.py", "json.dumps(parts)", "json.dumps(parts[:1])", "recipe/test_seeds.py"),
    Mutation(
        "mask",
        "training/losses.py",
        "log_ratio = torch.where(mask, logp - old_logprobs_RC, torch.zeros_like(logp))",
        "log_ratio = logp - old_logprobs_RC",
        "training/test_losses.py",
    ),
    Mutation(
        "prefix position",
        "models/shared_prefix/tree.py",
        "positions += range(depth, common)",
        "positions += range(common - depth)",
        "models/test_tree.py",
    ),
    Mutation("KL weight", "training/losses.py", "per_token + beta * kl", "per_token + kl", "training/test_losses.py"),
    Mutation(
        "majority tie",
        "reward_model/verdict.py",
        'return "A" if lead > 0',
        'return "A" if lead >= 0',
        "evaluation/test_evaluate.py",
    ),
)


def is_caught(mutation: Mutation, folder: Path) -> bool:
    """Whether the named tests fail with the mutation in place."""
    file = folder / PACKAGE / mutation.file
    text = file.read_text("utf-8")
    if text.count(mutation.before) != 1:
        sys.exit(f"{mutation.name}: its place in {mutation.file} is gone. Correct this script.")
    file.write_text(text.replace(mutation.before, mutation.after), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{mutation.tests}"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    file.write_text(text, "utf-8")
    if done.returncode not in (0, 1):
        sys.exit(f"{mutation.name}: the tests did not run.\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def main() -> None:
    chosen = [m for m in MUTATIONS if len(sys.argv) == 1 or m.name in sys.argv[1:]]
    survived = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in (PACKAGE, "tests", "benchmarks", "recipes", "docs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for mutation in chosen:
            caught = is_caught(mutation, folder)
            survived += not caught
            print(f"{'caught' if caught else 'SURVIVED':9} {mutation.name} ({mutation.tests})", flush=True)
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
