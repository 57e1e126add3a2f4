"""Check sampling and updates of tiny random models, one per architecture, against each model's own forward pass.

    python benchmarks/architectures.py [TYPE …] [--out benchmarks/architectures.md]

For each model type of ``architectures.json`` (config fields of a model of four layers) this writes a folder with random
weights and the testbed's tokenizer, loads it as a recipe would, and compares, with noisy adapters in float32:

- *sampling*: log-probabilities noted while sampling, against one plain forward pass over each row alone;
- *company*: the tokens of an example sampled alone, against those sampled in a batch with prompts of other lengths;
- *update*: log-probabilities of the update's layout, against the same forward pass;
- *gradient*: the adapter's gradient of their sum, against that of separate rows.

A model that cannot be loaded must end in one error of this package; anything else is reported as a fault. Exits with 1
if there is a fault or a difference above the tolerance.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
sys.path.insert(0, str(CHECKOUT))

import torch  # noqa: E402

from benchmarks.testbed_base.tokenizer import build_tokenizer  # noqa: E402
from rubric_arm_lite.errors import RubricArmError  # noqa: E402
from rubric_arm_lite.models import AdapterModel, Sampling, load_model  # noqa: E402
from rubric_arm_lite.models.shared_prefix.batching import Row, make_batch  # noqa: E402
from rubric_arm_lite.recipe.fields import ModelSettings  # noqa: E402
from rubric_arm_lite.types import Example, RolloutGroup  # noqa: E402

TOLERANCE = 2e-5
"""Largest difference of log-probabilities in nats, and of gradients relative to the largest."""
CONTEXT = 128
PROMPTS = (
    "gardens",
    "Write a note about rivers for children. Include the word amber.",
    "Write a letter about trains for pilots. Avoid the word silk. maple quartz raven",
)
TOKENS, ROWS = 12, 3


@dataclass(frozen=True, slots=True)
class Checked:
    """What one architecture gave; ``error`` is this package's refusal or a fault."""

    kind: str
    layout: str = ""
    sampling: float = float("nan")
    company: bool = False
    update: float = float("nan")
    gradient: float = float("nan")
    rounding: float = 0.0
    error: str = ""
    fault: bool = False

    @property
    def good(self) -> bool:
        """Refused with one error, or all differences within the tolerance."""
        worst, tolerance = max(self.sampling, self.update, self.gradient), max(TOLERANCE, 4 * self.rounding)
        return not self.fault and (bool(self.error) or (worst <= tolerance and self.company))

    def row(self) -> str:
        """A line of the Markdown table."""
        if self.error:
            return f"| `{self.kind}` | {'FAULT' if self.fault else 'refused'} | {self.error} | | | | |"
        numbers = " | ".join(f"{value:.1e}" for value in (self.sampling, self.update, self.gradient, self.rounding))
        company, wrong = "same" if self.company else "DIFFERENT", "" if self.good else "WRONG"
        return f"| `{self.kind}` | {self.layout} | {numbers} | {company} | {wrong} |"


def write_folder(kind: str, fields: dict[str, Any], folder: Path) -> None:
    """A model folder with random weights and the testbed's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = build_tokenizer()
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = AutoConfig.for_model(kind, **{**fields, **ids})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stir(model: AdapterModel, adapter: str) -> None:
    """Add noise to an adapter's weights, since a fresh one changes nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.parameters(adapter):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    model.weights_changed(adapter)


def own_logprobs(model: AdapterModel, groups: list[RolloutGroup]) -> list[torch.Tensor]:
    """Log-probabilities of each sample's tokens from the model's own forward pass over its row alone, in its dtype."""
    scores = []
    with torch.no_grad(), model.using("judge") as active:
        for group in groups:
            for sample in group.samples:
                ids = torch.tensor([[*group.prompt_ids, *sample.token_ids]])
                logits = active(input_ids=ids, use_cache=False).logits[0, len(group.prompt_ids) - 1 : -1]
                chosen = torch.tensor(sample.token_ids)[:, None]
                scores.append(torch.log_softmax(logits, dim=-1).gather(-1, chosen).squeeze(-1))
    return scores


def exact_logprobs(model: AdapterModel, groups: list[RolloutGroup]) -> list[torch.Tensor]:
    """The same in float64."""
    base = model.model.get_base_model()
    if hasattr(base, "set_experts_implementation"):
        base.set_experts_implementation("eager")  # the fused products of experts have no float64
    model.model.double()
    try:
        return own_logprobs(model, groups)
    finally:
        model.model.float()


def update_pass(model: AdapterModel, rows: list[Row], layout: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (R, C) of an update in a layout, and the adapter's gradient of their sum, flat."""
    batch = make_batch(rows, int(model.tokenizer.pad_token_id), model.device, layout)
    with model.using("judge", train=True) as active:
        parameters = [parameter for _, parameter in model.parameters("judge")]
        scores = model.score(active, batch, 1.0, layout).logprobs * batch.mask_RC
        gradients = torch.autograd.grad(scores.sum(), parameters, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return scores.detach(), torch.cat([g.flatten() for g in flat])


def check(kind: str, fields: dict[str, Any], folder: Path) -> Checked:
    """Load one architecture and compare."""
    write_folder(kind, fields, folder)
    settings = ModelSettings.model_validate(
        {"base": str(folder), "dtype": "float32", "max_context": CONTEXT, "lora": {"r": 4, "alpha": 8}}
    )
    try:
        model = load_model(settings, seed=0)
    except RubricArmError as error:
        return Checked(kind, error=" ".join(str(error).replace(str(folder), "FOLDER").split()))
    stir(model, "judge")
    examples = [Example(f"e{i}", prompt, 1000 * i) for i, prompt in enumerate(PROMPTS)]
    sampling = Sampling(TOKENS, ROWS, 1.0)
    groups = model.sample("judge", examples, sampling)
    alone = [model.sample("judge", [example], sampling)[0] for example in examples]
    own = own_logprobs(model, groups)
    samples = [sample for group in groups for sample in group.samples]
    sampled = max(
        float((torch.tensor(s.logprobs) - scores).abs().max()) for s, scores in zip(samples, own, strict=True)
    )
    rows = [
        Row(tuple(group.prompt_ids), tuple(s.token_ids), tuple(s.logprobs), 1.0, 1.0)
        for group in groups
        for s in group.samples
    ]
    scores_RC, gradient = update_pass(model, rows, model.layout)
    _, expected = update_pass(model, rows, "separate")
    updated = max(float((line[: len(s)] - s).abs().max()) for line, s in zip(scores_RC, own, strict=True))
    try:
        rounding = max(float((a - b).abs().max()) for a, b in zip(exact_logprobs(model, groups), own, strict=True))
    except RuntimeError:  # model code that has no float64
        rounding = 0.0
    return Checked(
        kind,
        layout=f"{model.cache_use}, {model.layout}",
        sampling=sampled,
        company=[[s.token_ids for s in g.samples] for g in groups] == [[s.token_ids for s in g.samples] for g in alone],
        update=updated,
        rounding=rounding,
        gradient=float((gradient - expected).abs().max() / expected.abs().max()),
    )


def main() -> int:
    """Check the named model types, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types of architectures.json (default: all)")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    table = json.loads((CHECKOUT / "benchmarks/architectures.json").read_text("utf-8"))
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    results = []
    for kind in arguments.types or table:
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = check(kind, table[kind], Path(folder))
            except Exception as error:
                result = Checked(kind, error=f"{type(error).__name__}: {error}"[:200].replace("\n", " "), fault=True)
        results.append(result)
        print(result.row(), flush=True)
    good = sum(result.good for result in results)
    print(f"{good} of {len(results)} architectures are right or refused with one error.")
    if arguments.out:
        import transformers

        head = [
            "# Architectures",
            "",
            f"`python benchmarks/architectures.py --out {arguments.out}`, torch {torch.__version__}, transformers "
            f"{transformers.__version__}, float32 on a CPU. Largest differences of log-probabilities (nats) and of "
            f"gradients (relative); the tolerance is {TOLERANCE:g}, or four times the model's own rounding, the "
            "difference of its forward pass from float64, where that is larger. *Prompts shared*, in sampling and in "
            "updates: computed once and kept once (shared, packed), once and copied (copied, expanded), or once per "
            "completion (none, separate). *Company*: whether an example alone gives the same tokens as in a batch.",
            "",
            "| type | prompts shared | sampling | update | gradient | own rounding | company | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines = [*head, *(result.row() for result in results), "", f"{good} of {len(results)} right or refused."]
        arguments.out.write_text("\n".join(lines) + "\n", "utf-8")
    return 0 if good == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
