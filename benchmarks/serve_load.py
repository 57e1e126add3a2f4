"""Hold many clients on a served run and count what goes wrong.

    python benchmarks/serve_load.py RUN [--clients 64] [--seconds 60] [--pairs 200]

Starts ``rubric-arm serve RUN`` and has every client ask ``/v1/compare`` about pairs of the run's world, one after the
other, each in a connection of its own. Before that every pair is judged alone, on the same adapters: an answer that
differs under load is counted, and is a wrong pairing if it is the answer to another pair. Exits with 1 after an error
or a wrong pairing.
"""

from __future__ import annotations

import argparse
import json
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
from rubric_arm_lite.reward_model import RubricRewardModel, Verdict

Fingerprint = tuple[Any, ...]


@dataclass
class Counts:
    """What the clients saw; one lock for all."""

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
    chosen = parser.parse_args()
    bodies, alone, each = judged_alone(chosen.run, chosen.pairs)
    print(f"{len(bodies)} pairs judged alone: {each * 1000:.0f} ms each")
    served = subprocess.Popen(
        [sys.executable, "-m", "rubric_arm_lite", "serve", str(chosen.run), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert served.stdout is not None
    url = re.search(r"http://\S+/", served.stdout.readline())
    assert url is not None
    counts = Counts()
    start = time.monotonic()
    threads = [
        threading.Thread(target=client, args=(url[0], i, start + chosen.seconds, bodies, alone, counts))
        for i in range(chosen.clients)
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
    print(f"{chosen.clients} clients for {spent:.0f} s: {requests} requests, {requests / spent:.1f} per second")
    print(f"errors {counts.errors.total()} {dict(counts.errors) or ''}".rstrip())
    print(f"answers unlike the one alone {counts.different}, wrong pairings {counts.wrong_pairings}")
    print(f"latency p50 {p50:.2f} s, p95 {p95:.2f} s")
    print(f"SIGTERM: exit code {code}")
    return 1 if counts.errors or counts.wrong_pairings or code else 0


def judged_alone(run: Path, pairs: int) -> tuple[list[dict[str, str]], list[Fingerprint], float]:
    """Bodies of requests, what each is answered alone, and the seconds for one."""
    model = RubricRewardModel.from_run(run)
    world = World(model.recipe.seed, model.recipe.data.world)
    found = [pair for block in world.blocks("test", pairs) for pair in block.pairs][:pairs]
    sides = random.Random(0)
    bodies = []
    for pair in found:
        shown = pair.present(sides.choice(("A", "B")))
        bodies.append({"prompt": str(shown.prompt), "response_a": shown.response_a, "response_b": shown.response_b})
    start = time.monotonic()
    alone = [of_verdict(model.compare(b["prompt"], b["response_a"], b["response_b"])) for b in bodies]
    return bodies, alone, (time.monotonic() - start) / len(bodies)


def of_verdict(verdict: Verdict) -> Fingerprint:
    """All that the model wrote."""
    texts = [j.text for j in (*verdict.judgements, *verdict.flipped)]
    return (verdict.winner, verdict.rubric.text, *texts)


def of_answer(answer: dict[str, Any]) -> Fingerprint:
    """The same of an answer over HTTP."""
    texts = [j["text"] for j in (*answer["given"], *answer["swapped"])]
    return (answer["winner"], answer["rubric"]["text"], *texts)


def client(
    url: str, number: int, until: float, bodies: list[dict[str, str]], alone: list[Fingerprint], counts: Counts
) -> None:
    """Ask about pairs in an order of its own until the time is over."""
    rng = random.Random(number)
    with httpx.Client(base_url=url, timeout=120) as connection:
        while time.monotonic() < until:
            i = rng.randrange(len(bodies))
            start = time.monotonic()
            try:
                reply = connection.post("v1/compare", json=bodies[i])
                problem = "" if reply.status_code == 200 else str(reply.status_code)
                got = of_answer(json.loads(reply.content)) if not problem else ()
            except httpx.HTTPError as error:
                problem, got = type(error).__name__, ()
            spent = time.monotonic() - start
            with counts.lock:
                counts.seconds.append(spent)
                if problem:
                    counts.errors[problem] += 1
                elif got != alone[i]:
                    counts.different += 1
                    counts.wrong_pairings += got in alone


if __name__ == "__main__":
    raise SystemExit(main())
