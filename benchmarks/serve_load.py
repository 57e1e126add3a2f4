"""Send requests of many clients to a served run and count what goes wrong.

    python benchmarks/serve_load.py RUN [--clients 64] [--seconds 60] [--pairs 200]

Starts ``rubric-arm serve RUN``. Every client sends pairs of the run's world to ``/v1/compare``, one after the other, on
a connection of its own. Before that, every pair is judged alone on the same adapters: an answer that differs under load
is counted, and is a wrong pairing if it is the answer to another pair. Exits with 1 after an error or a wrong pairing.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rubric_arm_lite.data.testbed.world import World
from rubric_arm_lite.reward_model import RubricRewardModel
from rubric_arm_lite.reward_model.serve.schema import answer_of


@dataclass
class Counts:
    """Counts of all clients, and the lock that guards them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    different: int = 0
    wrong_pairings: int = 0


def main() -> int:
    """Run the load and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pairs", type=int, default=200)
    options = parser.parse_args()
    bodies, alone, seconds = judged_alone(options.run, options.pairs)
    print(f"{len(bodies)} pairs judged alone: {seconds * 1000:.0f} ms each")
    served = subprocess.Popen(
        [sys.executable, "-m", "rubric_arm_lite", "serve", str(options.run), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert served.stdout is not None
    url = re.search(r"http://\S+/", served.stdout.readline())
    assert url is not None
    counts = Counts()
    start = time.monotonic()
    threads = [
        threading.Thread(target=client, args=(url[0], i, start + options.seconds, bodies, alone, counts))
        for i in range(options.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.monotonic() - start
    served.send_signal(signal.SIGTERM)
    code = served.wait(60)
    requests = len(counts.seconds)
    p50, p95 = np.percentile(counts.seconds, [50, 95])
    print(f"{options.clients} clients for {spent:.0f} s: {requests} requests, {requests / spent:.1f} per second")
    print(f"errors {counts.errors.total()} {dict(counts.errors) or ''}".rstrip())
    print(f"answers unlike the one alone {counts.different}, wrong pairings {counts.wrong_pairings}")
    print(f"latency p50 {p50:.2f} s, p95 {p95:.2f} s")
    print(f"SIGTERM: exit code {code}")
    return 1 if counts.errors or counts.wrong_pairings or code else 0


def judged_alone(run: Path, pairs: int) -> tuple[list[dict[str, str]], list[dict[str, Any]], float]:
    """Request bodies, the answer to each when it is judged alone, and the seconds per pair."""
    model = RubricRewardModel.from_run(run)
    world = World(model.recipe.seed, model.recipe.data.world)
    drawn = [pair for block in world.blocks("test", pairs) for pair in block.pairs][:pairs]
    sides = random.Random(0)
    bodies = []
    for pair in drawn:
        shown = pair.present(sides.choice(("A", "B"))).comparison
        bodies.append({"prompt": str(shown.prompt), "response_a": shown.response_a, "response_b": shown.response_b})
    start = time.monotonic()
    verdicts = [model.compare(**body) for body in bodies]
    seconds = (time.monotonic() - start) / len(bodies)
    answers = [
        answer_of(verdict, "final", model.unknown_words(*body.values())).model_dump(mode="json")
        for verdict, body in zip(verdicts, bodies, strict=True)
    ]
    return bodies, answers, seconds


def client(
    url: str, number: int, until: float, bodies: list[dict[str, str]], alone: list[dict[str, Any]], counts: Counts
) -> None:
    """Send pairs in an order of its own until the time is over."""
    rng = random.Random(number)
    with httpx.Client(base_url=url, timeout=120) as connection:
        while time.monotonic() < until:
            i = rng.randrange(len(bodies))
            start = time.monotonic()
            problem, answer = "", {}
            try:
                reply = connection.post("v1/compare", json=bodies[i])
                if reply.status_code == 200:
                    answer = reply.json()
                else:
                    problem = str(reply.status_code)
            except httpx.HTTPError as error:
                problem = type(error).__name__
            seconds = time.monotonic() - start
            with counts.lock:
                counts.seconds.append(seconds)
                if problem:
                    counts.errors[problem] += 1
                elif answer != alone[i]:
                    counts.different += 1
                    counts.wrong_pairings += answer in alone


if __name__ == "__main__":
    raise SystemExit(main())
