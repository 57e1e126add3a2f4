"""Serve a scripted model until a signal, as a process; the model waits for a line on standard input."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from rubric_arm_lite.reward_model.serve.app import Service, build_app
from rubric_arm_lite.reward_model.serve.batcher import BatchedJudge, Batcher
from rubric_arm_lite.reward_model.serve.schema import Body, WrittenRubric
from rubric_arm_lite.reward_model.serve.security import SecuritySettings
from rubric_arm_lite.reward_model.serve.server import bind, run, url_of
from tests.serving import model

GO = threading.Event()


def listen() -> None:
    sys.stdin.readline()
    GO.set()


if __name__ == "__main__":
    threading.Thread(target=listen, daemon=True).start()
    scripted = model()
    judge = BatchedJudge(scripted, "final")

    def answer(requests: Sequence[Body]) -> list[WrittenRubric | Exception]:
        GO.wait()
        return judge.answer(requests)

    service = Service("script", judge, Batcher(answer, batch=1), 60.0)
    with bind("127.0.0.1", 0) as bound:
        url = url_of(bound, "127.0.0.1")
        answered = run(build_app(service, SecuritySettings()), bound, 60.0, lambda: print(url, flush=True), 1.5)
    print(f"answered {len(scripted.model.calls)}, all: {answered}")  # type: ignore[attr-defined]
