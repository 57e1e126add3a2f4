"""Serve a scripted model until a signal, as a process; it answers nothing before a line on standard input."""

from __future__ import annotations

import sys
import threading
from typing import Any

from rubric_arm_lite.reward_model.serve.app import Service, build_app
from rubric_arm_lite.reward_model.serve.batcher import ModelDesk, Worker
from rubric_arm_lite.reward_model.serve.security import GateSettings
from rubric_arm_lite.reward_model.serve.server import bind, run, url_of
from tests.serving import model

GO = threading.Event()


def when_told(answer: Any) -> Any:
    """The same answers, from the moment on that :data:`GO` is set."""

    def waits(questions: Any) -> Any:
        GO.wait()
        return answer(questions)

    return waits


def listen() -> None:
    sys.stdin.readline()
    GO.set()


if __name__ == "__main__":
    threading.Thread(target=listen, daemon=True).start()
    scripted = model()
    worker: Worker[Any, Any] = Worker(when_told(ModelDesk(scripted, None, "final").answer), batch=1)
    service = Service("script", scripted.recipe, worker, lambda: ["final"], "final", 60.0)
    with bind("127.0.0.1", 0) as bound:
        url = url_of(bound, "127.0.0.1")
        in_order = run(build_app(service, GateSettings()), bound, 60.0, lambda: print(url, flush=True), 1.5)
    print(f"answered {len(scripted.model.calls)}, in order: {in_order}")  # type: ignore[attr-defined]
