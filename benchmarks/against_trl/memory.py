"""Measures the peak memory of one side: the same work once, in its own process, above the memory held before it.

On CUDA it is the memory that torch allocated. On a CPU it is the resident memory of a process whose allocator returns
every block as soon as it is freed; otherwise heap fragmentation changes the result by up to half from one process to
the next. The high-water mark is reset through ``/proc/self/clear_refs`` right before the work. Where that is not
allowed, resident memory is sampled every few milliseconds, which can miss a short peak; the result says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.against_trl.work import PARTS, BenchSettings, Verb, Work
from rubric_arm_lite.errors import BackendError, ConfigError

Side = Literal["ours", "theirs"]
INTERVAL = 0.002
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc's settings to return freed blocks at once; other allocators ignore them."""


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes held before the work, the largest number held above that during it, and how they were measured."""

    before_bytes: int
    peak_bytes: int
    how: str


class Meter:
    """Measures from the first :meth:`start` to :meth:`stop`."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._how = ""
        self._seen = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start measuring; earlier peaks do not count."""
        if self._before is not None:
            return
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._before, self._how = torch.cuda.memory_allocated(), "torch.cuda.max_memory_allocated"
            return
        try:
            self._before = _status("VmRSS")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"Peak memory is read from /proc/self/status, which cannot be read ({error}). Use --no-memory."
            ) from error
        if _reset_high_water():
            self._how = "high-water mark of resident memory, reset before the work"
        else:
            self._how = f"resident memory sampled every {INTERVAL * 1000:g} ms; short peaks can be missed"
            threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> Peak:
        """The measured peak."""
        if self._before is None:
            raise AssertionError("Start the meter before you stop it.")
        self._stopped.set()
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
        elif self._seen:
            peak = max(self._seen, _status("VmRSS"))
        else:
            peak = _status("VmHWM")
        return Peak(self._before, max(0, peak - self._before), self._how)

    def _watch(self) -> None:
        while not self._stopped.is_set():
            self._seen = max(self._seen, _status("VmRSS"))
            self._stopped.wait(INTERVAL)


def _status(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name}")


def _reset_high_water() -> bool:
    """Reset the high-water mark; whether that worked."""
    try:
        held = torch.ones(2**24)  # 64 MiB that the mark must forget
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
        high = _status("VmHWM")
        del held
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
        return _status("VmHWM") < high
    except (OSError, ValueError):
        return False


def measure_alone(side: Side, verb: Verb, settings: BenchSettings, folder: Path) -> Peak:
    """Run one side's work once in a fresh process.

    Raises:
        BackendError: if that process fails, for example for lack of memory.
    """
    job = {"side": side, "verb": verb, "settings": settings.to_dict(), "folder": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.against_trl.memory"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **RETURN_FREED},
        cwd=Path(__file__).resolve().parents[2],
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message; perhaps it was killed for lack of memory"])[-1]
        raise BackendError(
            f"Memory of {side}: the process ended with {done.returncode} ({last}). Use smaller lengths, or --no-memory."
        )
    return Peak(**json.loads(done.stdout.strip().splitlines()[-1]))


def run_alone(side: Side, verb: Verb, settings: BenchSettings, folder: Path) -> Peak:
    """Do the work once in this process and measure its peak memory."""
    from benchmarks.against_trl.ours import Ours

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    work = Work(settings)
    meter = Meter()
    if side == "ours":
        ours = Ours(work, folder, 1)
        if verb == "update":
            ours.use_random_rollouts()
        meter.start()
        for part in PARTS[verb]:
            ours.run(part, 0)
    else:
        from benchmarks.against_trl.peer import Peer

        peer = Peer(work, folder, verb, 1)
        for part in PARTS[verb]:
            peer.drive(part, meter.start, lambda _: None)
    return meter.stop()


def main() -> None:
    """Read a job from standard input and write the peak as the last line of standard output."""
    job = json.load(sys.stdin)
    settings = BenchSettings(**job["settings"])
    print(json.dumps(asdict(run_alone(job["side"], job["verb"], settings, Path(job["folder"])))))


if __name__ == "__main__":
    main()
