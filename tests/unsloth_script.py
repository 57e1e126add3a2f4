"""What a process with unsloth finds, as JSON on its last line: it patches other libraries, so it has one of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rubric_arm_lite.models.unsloth import prepare

prepare()

import torch  # noqa: E402  (unsloth comes first)

from rubric_arm_lite.models.adapter_model import AdapterModel  # noqa: E402
from rubric_arm_lite.models.load import load_model  # noqa: E402
from rubric_arm_lite.models.sampler import Sampling  # noqa: E402
from rubric_arm_lite.models.shared_prefix.batching import make_batch, make_rows  # noqa: E402
from rubric_arm_lite.recipe.fields import ModelSettings  # noqa: E402
from rubric_arm_lite.types import Example, RolloutGroup  # noqa: E402

TEXTS = ("Write a note about rivers for children. Include the word amber.", "gardens", "stone table window")


def load(backend: str, **settings: Any) -> AdapterModel:
    fields = {"backend": backend, "dtype": "float32", "max_context": 256, **settings}
    return load_model(ModelSettings.model_validate(fields), 5)


def stirred(model: AdapterModel) -> AdapterModel:
    with torch.no_grad():
        for name, parameter in model.parameters("judge"):
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.weights_changed("judge")
    return model


def sampled(model: AdapterModel) -> list[list[RolloutGroup]]:
    examples = [Example(str(i), text, i) for i, text in enumerate(TEXTS)]
    return [
        model.sample("judge", examples, Sampling(16, 4)),
        model.sample("judge", examples, Sampling(16, 1, 0.0)),
        model.sample(None, examples, Sampling(16, 2, 0.7, 0.9)),
    ]


def gradients(model: AdapterModel, groups: list[RolloutGroup]) -> list[torch.Tensor]:
    rows = make_rows(groups, [[1.0, -1.0, 0.5, -0.5]] * len(groups), "grpo", 16, False)
    batch = make_batch(rows, int(model.tokenizer.pad_token_id), model.device, model.layout)
    with model.using("judge", train=True) as active:
        scores = model.score(active, batch, 1.0, model.layout)
        torch.autograd.backward((scores.logprobs * batch.weights_RC * batch.advantages_R[:, None]).sum())
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for _, p in model.parameters("judge")]


def beside_transformers(**settings: Any) -> dict[str, Any]:
    """How far a base through unsloth is from the same one through transformers."""
    ours, theirs = stirred(load("transformers", **settings)), stirred(load("unsloth", **settings))
    a, b = sampled(ours), sampled(theirs)
    pairs = [
        (s, t) for x, y in zip(a, b, strict=True) for g, h in zip(x, y, strict=True)
        for s, t in zip(g.samples, h.samples, strict=True)
    ]  # fmt: skip
    mine, other = gradients(ours, a[0]), gradients(theirs, a[0])
    norm = sum(float(g.square().sum()) for g in mine) ** 0.5
    return {
        "kind": type(theirs).__name__,
        "layout": theirs.layout,
        "adapters": sorted(theirs.model.peft_config),
        "same_tokens": all(s.token_ids == t.token_ids for s, t in pairs),
        "logprobs": max(abs(p - q) for s, t in pairs for p, q in zip(s.logprobs, t.logprobs, strict=True)),
        "gradient": sum(float((g - h).square().sum()) for g, h in zip(mine, other, strict=True)) ** 0.5 / norm,
        "trainable_at_rest": [name for name, p in theirs.model.named_parameters() if p.requires_grad],
        "training_at_rest": theirs.model.training,
    }


def with_other_updates() -> float:
    """The disagreement of a model that computes something else in training than in sampling."""
    model = load("unsloth")
    decoder: Any = model.model.get_base_model().get_decoder()
    forward = decoder.forward

    def other(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if decoder.training:
            out.last_hidden_state = out.last_hidden_state * 1.1
        return out

    decoder.forward = other
    return model.disagreement()


def trained(folder: Path) -> dict[str, Any]:
    """A short run of the testbed's recipe on a 4-bit base."""
    from rubric_arm_lite.cli.main import app

    changes = (
        "model.backend=unsloth", "model.quantization=nf4", "model.gradient_checkpointing=true", "schedule.cycles=1",
        "judge.max_steps=2", "rubric.max_steps=1", "rubric.prompts_per_step=3", "judge.prompts_per_step=6",
        "warmup.prompts=4", "warmup.rubric.per_device_train_batch_size=8", "warmup.judge.per_device_train_batch_size=8",
        "warmup.rubric.max_steps=20", "warmup.judge.max_steps=8", "data.train_prompts=24", "evaluation.pairs=4",
        "evaluation.vote_pairs=2", "evaluation.votes=1", "evaluation.after_phases=false",
    )  # fmt: skip
    sets = [part for change in changes for part in ("--set", change)]
    until = ["--stage", "alternating"]  # what comes then is not looked at
    app(["run", "testbed", *sets, *until, "--run-dir", str(folder), "--json"], standalone_mode=False)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    losses = [row["loss"] for row in rows if row["kind"] == "warmup"]
    return {
        "roles": [row["role"] for row in steps if row["updates"]],
        "first_kl": [row["kl"] for row in steps if row["step"] == 0 and row["updates"]],
        "log_ratio": max(row.get("log_ratio/max", 0.0) for row in steps),
        "losses": losses,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {
        "plain": beside_transformers(),
        "nf4": beside_transformers(quantization="nf4", gradient_checkpointing=True),
        "other_updates": with_other_updates(),
        "trained": trained(Path(sys.argv[1])),
    }
    print(json.dumps(found))
