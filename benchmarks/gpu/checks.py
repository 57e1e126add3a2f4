"""Runs one check of a CUDA machine; ``run_all.sh`` runs all of them.

    python benchmarks/gpu/checks.py fits --size 8b --cap 12 --output fits-8b-12.json

A check prints one JSON object and writes partial results as it goes. It needs no real weights (:mod:`models`).
``--cap`` simulates a smaller card: torch may allocate the cap minus the CUDA context of this process. ``--rehearse``
runs a check on a CPU, to find mistakes before a GPU is paid for; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
if "unsloth" in sys.argv:  # before the libraries that it patches
    from rubric_arm_lite.models.unsloth import prepare

    prepare()

import rehearsal
from models import SHAPES, build, write_folder

from benchmarks.against_trl.ours import STIR, Ours
from benchmarks.against_trl.work import BenchSettings, Work, nudge
from rubric_arm_lite.models import Sampling, load_model
from rubric_arm_lite.models import generate as generation
from rubric_arm_lite.models.shared_prefix import passes as shared_prefix
from rubric_arm_lite.models.shared_prefix.batching import Row, make_batch
from rubric_arm_lite.recipe import ModelSettings, SFTSettings
from rubric_arm_lite.training.warmup import warm_up_role
from rubric_arm_lite.types import ROLES

GIB = 2**30


def context_bytes() -> int:
    """Bytes of this process on the GPU apart from torch's tensors: the CUDA context and its libraries."""
    square = torch.ones((64, 64), device="cuda", dtype=torch.bfloat16)
    float((square @ square).sum())
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def set_cap(args: argparse.Namespace) -> dict[str, float]:
    """Limit this process to ``--cap`` GiB of the card in all."""
    context = int(args.context * GIB) if args.context else context_bytes()
    gib = args.cap
    if gib is not None:
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((gib * GIB - context) / total)
    return {"cap_gib": gib or 0.0, "context_gib": context / GIB}


def save_partial(args: argparse.Namespace, head: dict[str, float], name: str, results: dict[str, Any]) -> None:
    """Write the results so far, so that a check that is stopped for time does not lose them."""
    print(json.dumps(results[list(results)[-1]]), file=sys.stderr, flush=True)
    if args.output:
        args.output.write_text(json.dumps({**head, name: results}, indent=1) + "\n", "utf-8")


class Stages:
    """Seconds and peak memory of stages by name; a failed stage is recorded and the others still run."""

    def __init__(self, args: argparse.Namespace, head: dict[str, float]) -> None:
        self.context_gib = head["context_gib"]
        self.results: dict[str, dict[str, Any]] = {}
        self._save = partial(save_partial, args, head, "stages", self.results)

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        """Do ``work`` and record its time and memory."""
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        result, note = None, {}
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            try:
                result = work()
            except Exception as error:  # the table names the failed stage; the others still run
                note["failed"] = f"{type(error).__name__}: {str(error)[:400]}"
        torch.cuda.synchronize()
        texts = {str(w.message)[:300] for w in seen}
        messages = sorted(text for text in texts if "Memory" in text or "recorded" in text or "Shared" in text)
        self.results[name] = {
            "seconds": time.perf_counter() - started,
            "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
            "card_gib": torch.cuda.max_memory_reserved() / GIB + self.context_gib,
            **note,
            **({"warnings": messages} if messages else {}),
            **(result if isinstance(result, dict) else {}),
        }
        self._save()
        return result


def settings_of(args: argparse.Namespace, **changes: Any) -> BenchSettings:
    """The work that the options describe."""
    fields = {
        "prompt_length": args.prompt_length,
        "completion_length": args.completion_length,
        "num_generations": args.num_generations,
        "prompts": 1,
        "runs": 1,
        "gradient_checkpointing": True,
    }
    return BenchSettings(**{**fields, **changes})


def part(ours: Ours, name: str) -> dict[str, Any]:
    """One part of the work, timed."""
    run = ours.run(name, 0)  # type: ignore[arg-type]
    return {"work_seconds": run.seconds, "tokens": run.tokens, "tokens_per_second": run.tokens / run.seconds}


def fits(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of each stage of training under a cap: a warm-up step, a judge step, a rubric step."""
    head = set_cap(args)
    stages = Stages(args, head)
    work = Work(settings_of(args))
    model: Any = None

    def load() -> None:
        nonlocal model
        model = build(args.size, work, rank=args.rank)

    stages.run("load", load)
    if model is None:
        return {**head, "stages": stages.results}
    before = _checksums(model)
    frozen = model.fingerprint("rubric")
    with tempfile.TemporaryDirectory() as scratch:
        ours = Ours(work, Path(scratch), 1, model)
        text = work.judge_prompt(work.block(0), work.rubric(work.block(0).prompt_id, 0))
        example = (work.encode(text), work.random_ids(0))
        sft = SFTSettings(max_steps=1, per_device_train_batch_size=1)
        stages.run("warm-up", partial(warm_up_role, model, "judge", [example], sft, 0, Path(scratch), _quiet))
        model.weights_changed("judge")
        names = args.stages.split(",")
        if "judge" in names:
            stages.run("judge phase", lambda: part(ours, "judge"))
            stages.results["judge phase"]["base_unchanged"] = before == _checksums(model)
            stages.results["judge phase"]["rubric_adapter_unchanged"] = model.fingerprint("rubric") == frozen
        if "rubric" in names:
            stages.run("rubric phase", lambda: part(ours, "rubric"))
        if "update" in names:
            ours.use_random_rollouts()
            stages.run("update", lambda: part(ours, "update"))
        if "rollout" in names:
            # The memory of a whole rollout and a part of its time: buffers have their full length from the start.
            shared_prefix.FIXED_ROOM = args.completion_length
            sampling = Sampling(min(args.rollout_tokens, args.completion_length), args.num_generations)
            examples = work.judge_examples()
            stages.run("rollout", lambda: {"groups": len(model.sample("judge", examples, sampling))})
        budgets = {role: budget.most for role, budget in ours.learner.budgets.items()}
        switch = ours.switch_microseconds()
    return {**head, "stages": stages.results, "token_budgets": budgets, "switch_microseconds": switch}


def _checksums(model: Any) -> list[int]:
    """The sum of each base tensor's bytes, four at a time."""
    base = [p.detach() for n, p in model.model.named_parameters() if ".lora_" not in n]
    return [int(p.reshape(-1).view(torch.int32).sum(dtype=torch.int64)) for p in base]


def _quiet(step: int, values: dict[str, float]) -> None:
    """Log nothing."""


def longest(args: argparse.Namespace) -> dict[str, Any]:
    """The longest of several prompts whose update, prefill and buffers fit under the cap."""
    head = set_cap(args)
    stages = Stages(args, head)
    model = None
    for length in map(int, args.lengths.split(",")):
        work = Work(settings_of(args, prompt_length=length))
        if model is None:
            model = build(args.size, work, rank=args.rank)
        model.settings = model.settings.model_copy(update={"max_context": length + args.completion_length})
        with tempfile.TemporaryDirectory() as scratch:
            ours = Ours(work, Path(scratch), 1, model)
            ours.use_random_rollouts()
            stages.run(f"update {length}", partial(part, ours, "update"))
            shared_prefix.FIXED_ROOM = args.completion_length
            sampling = Sampling(8, args.num_generations)
            examples = work.judge_examples()
            stages.run(f"rollout {length}", partial(model.sample, "judge", examples, sampling))
        if any("failed" in stages.results[f"{what} {length}"] for what in ("update", "rollout")):
            break
    return {**head, "stages": stages.results}


def rollout(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of generation at several batch sizes, with and without recorded steps, and the bandwidth."""
    head = set_cap(args)
    work = Work(settings_of(args, prompts=max(1, 128 // args.num_generations)))
    model = build(args.size, work, nf4=not args.bf16, rank=args.rank)
    model.max_rows = 128
    bandwidth = _bandwidth()
    used = ((n, p) for n, p in model.model.named_parameters() if "_ref" not in n and "embed" not in n)
    read = sum(p.numel() * p.element_size() for _, p in used)
    head = {**head, "bandwidth_gb_s": bandwidth / 1e9, "weights_read_gb": read / 1e9}
    examples = work.judge_examples()
    results: dict[str, Any] = {}
    plans = [(8, True), (32, True), (128, True), (8, False)]
    for rows, recorded in plans:
        chosen = examples[: rows // args.num_generations]
        generation.StepRecord.broken = not recorded
        lengths = (16, args.completion_length) if recorded else (8, 24)
        few, many = (
            _seconds(partial(model.sample, "judge", chosen, Sampling(n, args.num_generations)), 1) for n in lengths
        )
        step = (many - few) / (lengths[1] - lengths[0])
        name = f"{rows} rows, {'recorded' if recorded else 'launched'}"
        results[name] = {
            "milliseconds_per_step": 1e3 * step,
            "tokens_per_second": rows / step,
            "share_of_bandwidth": read / step / bandwidth,
            "seconds": many,
            "tokens": rows * lengths[1],
        }
        save_partial(args, head, "rollout", results)
    generation.StepRecord.broken = False
    results["profile"] = _profile(
        lambda: model.sample("judge", examples[:1], Sampling(min(48, args.completion_length), args.num_generations))
    )
    return {**head, "rollout": results}


def _bandwidth() -> float:
    """Bytes per second of a copy on the card, read and written."""
    one = torch.empty(2 * GIB, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(one)
    return 2 * one.numel() / _seconds(lambda: other.copy_(one), 5)


def _seconds(call: Callable[[], object], runs: int) -> float:
    call()
    seconds = []
    for _ in range(runs):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _profile(call: Callable[[], object]) -> list[dict[str, Any]]:
    """The kernels that took most of the GPU's time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    rows = sorted(seen.key_averages(), key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in rows) or 1.0
    return [
        {"kernel": row.key[:90], "share": row.self_device_time_total / total, "calls": row.count} for row in rows[:12]
    ]


def exact(args: argparse.Namespace) -> dict[str, Any]:
    """Differences of packed and separate rows: log-probs in bf16 and NF4, and gradients from float32."""
    head = set_cap(args)
    results: dict[str, Any] = {}
    work = Work(settings_of(args))
    for name, nf4 in (("nf4", True), ("bf16", False)):
        model = build(args.size, work, nf4=nf4, rank=args.rank)
        rows = _rows(work)
        packed, separate = _logprobs(model, rows, "packed"), _logprobs(model, rows, "separate")
        alone = torch.cat([_logprobs(model, [row], "separate") for row in rows])
        results[name] = {
            "packed_to_separate": _gap(packed, separate),
            "separate_to_one_by_one": _gap(separate, alone),
            "packed_to_one_by_one": _gap(packed, alone),
        }
        if not nf4:
            ours, theirs = _gradient(model, rows, "packed"), _gradient(model, rows, "separate")
            model.model.float()
            model._dtype = torch.float32
            truth = _logprobs(model, rows, "separate")
            exact_gradient = _gradient(model, rows, "separate")
            results[name] |= {
                "packed_to_float32": _gap(packed, truth),
                "separate_to_float32": _gap(separate, truth),
                "gradient_packed_to_float32": _relative(ours, exact_gradient),
                "gradient_separate_to_float32": _relative(theirs, exact_gradient),
                "float32_gradient_packed_to_separate": _relative(_gradient(model, rows, "packed"), exact_gradient),
            }
        del model
        torch.cuda.empty_cache()
        save_partial(args, head, "exact", results)
    return {**head, "exact": results}


def _rows(work: Work) -> list[Row]:
    prompt = tuple(work.encode(work.judge_examples()[0].prompt))
    n = work.settings.num_generations
    ids = [tuple(work.random_ids(i))[: work.settings.completion_length - 3 * i] for i in range(n)]
    return [Row(prompt, x, (0.0,) * len(x), 1.0 if i % 2 else -1.0, 1.0 / (n * len(x))) for i, x in enumerate(ids)]


def _logprobs(model: Any, rows: list[Row], layout: Any) -> torch.Tensor:
    batch = make_batch(rows, 0, model.device, layout)
    with model.using("judge") as active, torch.no_grad():
        return model.score(active, batch, 1.0, layout).logprobs[batch.mask_RC.bool()].float().cpu()


def _gradient(model: Any, rows: list[Row], layout: Any) -> torch.Tensor:
    batch = make_batch(rows, 0, model.device, layout)
    with model.using("judge", train=True) as active:
        scores = model.score(active, batch, 1.0, layout)
        (scores.logprobs * batch.weights_RC * batch.advantages_R[:, None]).sum().backward()
    gradient = torch.cat([p.grad.float().flatten().cpu() for _, p in model.parameters("judge")])
    for _, p in model.parameters("judge"):
        p.grad = None
    return gradient


def _gap(one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    gap = (one - other).abs()
    return {"max": float(gap.max()), "mean": float(gap.mean())}


def _relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def update(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an update with shared prompts and with separate rows, alternating, on the same rollouts."""
    head = set_cap(args)
    stages = Stages(args, head)
    work = Work(settings_of(args, prompts=2))
    model = build(args.size, work, rank=args.rank)
    seconds: dict[str, list[float]] = {"packed": [], "separate": []}
    with tempfile.TemporaryDirectory() as scratch:
        sides = {}
        for layout in seconds:
            sides[layout] = Ours(work, Path(scratch), 1, model)
            sides[layout].learner.layout = layout
            sides[layout].use_random_rollouts()
        for i in range(args.runs + 1):
            for layout, ours in sides.items():
                stages.run(f"{layout} {i}", partial(part, ours, "update"))
                if i:
                    seconds[layout].append(stages.results[f"{layout} {i}"]["work_seconds"])
    medians = {layout: statistics.median(runs) for layout, runs in seconds.items()}
    profile = _profile(lambda: sides["packed"].run("update", 0))
    return {
        **head,
        "seconds": seconds,
        "ratio": medians["separate"] / medians["packed"],
        "tokens_per_second": {k: sides[k].run("update", 0).tokens / v for k, v in medians.items()},
        "stages": stages.results,
        "profile": profile,
    }


def backend(args: argparse.Namespace) -> dict[str, Any]:
    """A rollout and an update through a backend, loaded from a folder as users have it: 4 bits, separate rows.

    Each backend needs its own process, as unsloth patches the libraries that the other one uses.
    """
    head = set_cap(args)
    stages = Stages(args, head)
    work = Work(settings_of(args, prompts=2))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        write_folder(args.size, work, folder)
        settings = ModelSettings.model_validate(
            {
                "base": str(folder),
                "backend": args.backend,
                "dtype": "bfloat16",
                "quantization": "nf4",
                "max_context": args.prompt_length + args.completion_length,
                "gradient_checkpointing": True,
                "lora": {"r": args.rank, "alpha": 2 * args.rank},
            }
        )
        model: Any = None

        def load() -> None:
            nonlocal model
            model = load_model(settings, 0)

        stages.run("load", load)
        if model is None:
            return {**head, "stages": stages.results}
        for role in ROLES:
            nudge(model.parameters(role), STIR, 0.002)
        model.freeze_references()
        model.end_ids = frozenset()
        ours = Ours(work, Path(scratch), 1, model)
        for i in range(2):  # the first builds kernels
            stages.run(f"rollout {i}", partial(part, ours, "rollout"))
            stages.run(f"update {i}", partial(part, ours, "update"))
    return {**head, "layout": model.layout, "stages": stages.results}


def context(args: argparse.Namespace) -> dict[str, Any]:
    """The CUDA context of a process, which checks that run at the same time take as an option."""
    return set_cap(args)


CHECKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "context": context,
    "fits": fits,
    "longest": longest,
    "rollout": rollout,
    "exact": exact,
    "update": update,
    "backend": backend,
}


def main() -> None:
    """Run one check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--size", choices=SHAPES, default="8b")
    parser.add_argument("--cap", type=float, help="GiB of the card to use, as on a smaller one")
    parser.add_argument("--context", type=float, help="GiB of the CUDA context (default: measured)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-length", type=int, default=2048)
    parser.add_argument("--completion-length", type=int, default=1024)
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--rollout-tokens", type=int, default=48)
    parser.add_argument("--stages", default="judge,rubric")
    parser.add_argument("--lengths", default="4096,8192,12288,16384")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--backend", choices=("transformers", "unsloth"), default="transformers")
    parser.add_argument("--rehearse", action="store_true", help="run on a CPU; the numbers mean nothing")
    parser.add_argument("--bf16", action="store_true", help="no quantization")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.rehearse:
        rehearsal.begin(sys.modules[__name__])
    started = time.perf_counter()
    result = {
        "command": re.sub(r" --output \S+", "", " ".join(["python", "benchmarks/gpu/checks.py", *sys.argv[1:]])),
        "gpu": torch.cuda.get_device_name(),
        **CHECKS[args.check](args),
        "seconds": time.perf_counter() - started,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
