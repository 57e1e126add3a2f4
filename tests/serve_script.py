"""Serve a scripted model until a signal, as a process of its own: ``python -m tests.serve_script DELAY``."""

from __future__ import annotations

import sys

from rubric_arm_lite.serve.app import Service, build_app
from rubric_arm_lite.serve.gate import GateSettings
from rubric_arm_lite.serve.questions import ModelDesk
from rubric_arm_lite.serve.server import bind, run, url_of
from rubric_arm_lite.serve.worker import Worker
from tests.serving import model

if __name__ == "__main__":
    scripted = model(float(sys.argv[1]))
    worker = Worker(ModelDesk(scripted, None, "final").answer, batch=1)
    service = Service("script", scripted.recipe, worker, lambda: ["final"], "final", 20.0)
    with bind("127.0.0.1", 0) as bound:
        url = url_of(bound, "127.0.0.1")
        run(build_app(service, GateSettings()), bound, 20.0, lambda: print(url, flush=True))
    print(f"answered {len(scripted.model.calls)}")  # type: ignore[attr-defined]
