"""The unsloth backend: its kernels and gradient checkpointing in updates, its ``generate`` in rollouts.

unsloth replaces a model's forward passes. They do not support shared prefixes, so a prompt is computed once for each
completion, and the decoding loop is unsloth's as well; the next token is still drawn here, from the example's own seed.
Loading checks that rollouts and padded rows of an update agree on log-probabilities.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from rubric_arm_lite.errors import BackendError, first_line
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.generate import Completion, batches, choose_tokens, completed, draw_uniforms
from rubric_arm_lite.models.lora import add_adapters, lora_options
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.models.shared_prefix.batching import make_batch, make_rows, pad_left
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.types import ROLES, Example, Role


def prepare() -> Any:
    """Import unsloth, before transformers if that is still possible, and return its ``FastLanguageModel``.

    Raises:
        BackendError: if it is not installed, or does not run on this machine.
    """
    # Its generated code goes where only this user can write, not into the working directory.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rubric-arm-lite" / "unsloth"
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    try:
        with quiet():
            from unsloth import FastLanguageModel
    except (ImportError, RuntimeError) as error:  # RuntimeError: a machine or a model that it does not support
        raise BackendError(
            f"model.backend: unsloth cannot be used ({first_line(error)}). Install it, in the project's "
            "folder, with pip install -e '.[unsloth]', or set model.backend to transformers."
        ) from error
    return FastLanguageModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide its banners on standard output, which programs may parse, and its warnings about the import order."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Mean difference of log-probabilities, in nats, that rounding explains, with a margin."""
_PROBES = ("Write a note.", "Write a long letter about rivers, trains and gardens for children who like both.")


def load_unsloth(
    name: str, tokenizer: Any, settings: ModelSettings, dtype: torch.dtype, seed: int, roles: Sequence[Role] = ROLES
) -> UnslothModel:
    """A base through ``FastLanguageModel`` with a fresh adapter per role.

    The base is exactly the named one, never unsloth's quantized copy of it; the tokenizer is the one already checked.

    Raises:
        BackendError: if unsloth cannot load it as the recipe says, or computes other numbers for padded rows.
    """
    fast = prepare()
    four_bits = settings.quantization == "nf4"
    try:
        with quiet():
            base, _ = fast.from_pretrained(
                model_name=name,
                max_seq_length=settings.max_context,
                dtype=dtype,
                load_in_4bit=four_bits,
                trust_remote_code=False,
                revision=settings.revision,
                use_exact_model_name=True,
                use_safetensors=True,
                use_gradient_checkpointing=_checkpointing(settings),
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"unsloth cannot load `{name}` ({first_line(error)}). Set model.backend to transformers, or use a base "
            "that unsloth knows."
        ) from error
    if four_bits and not getattr(base, "is_loaded_in_4bit", False):
        raise BackendError(
            f"unsloth loaded `{name}` without 4 bits, which it does where bitsandbytes cannot quantize it on this "
            "machine. Set model.quantization to none, or model.backend to transformers."
        )
    try:
        model = UnslothModel(_with_adapters(fast, base, settings, seed, roles), tokenizer, settings)
    except ValueError as error:
        raise BackendError(f"model.lora does not fit `{settings.base}`: {error}") from error
    difference = model.disagreement()
    if difference > AGREEMENT[dtype]:
        raise BackendError(
            f"unsloth's log-probabilities of padded rows in an update differ by {difference:.2g} nats in the mean from "
            "those it samples with. Training on them would be wrong: set model.backend to transformers."
        )
    return model


def _with_adapters(fast: Any, base: Any, settings: ModelSettings, seed: int, roles: Sequence[Role]) -> Any:
    """Apply unsloth's patches with its ``get_peft_model``, then replace its one adapter by ours."""
    with torch.random.fork_rng(devices=[]), quiet():
        options = {"use_gradient_checkpointing": _checkpointing(settings), "max_seq_length": settings.max_context}
        model = add_adapters(fast.get_peft_model(base, **lora_options(settings.lora), **options), settings, seed, roles)
        model.delete_adapter("default")
    return model


def _checkpointing(settings: ModelSettings) -> str | bool:
    return "unsloth" if settings.gradient_checkpointing else False


class UnslothModel(AdapterModel):
    """An :class:`AdapterModel` whose base unsloth has patched."""

    def __init__(self, model: Any, tokenizer: Any, settings: ModelSettings) -> None:
        self._fast = prepare()
        # In training it drops the mask of a row unless it knows that prompts are padded on the left.
        model.get_base_model().get_decoder()._unsloth_keep_padding_mask = True
        super().__init__(model, tokenizer, settings)
        self.layout = "separate"
        # The model's own top-k or penalties must not change the distribution that rollouts are drawn from.
        model.get_base_model().generation_config = GenerationConfig(
            eos_token_id=sorted(self.end_ids), pad_token_id=int(tokenizer.pad_token_id)
        )

    def _begin_training(self) -> None:
        self._fast.for_training(self.model, use_gradient_checkpointing=_checkpointing(self.settings))

    def _begin_inference(self) -> None:
        self._fast.for_inference(self.model)
        super()._begin_inference()

    def _shorten(self, adapter: str) -> None:
        """Do nothing: unsloth's kernels read an adapter's weights directly."""

    def _write(
        self, model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, rows: int
    ) -> list[list[Completion]]:
        n = sampling.num_generations
        pad = int(self.tokenizer.pad_token_id)
        groups: list[list[Completion]] = [[] for _ in prompts]
        for batch in batches(prompts, max(1, rows // n), "copied"):
            ids, mask = (t.to(self.device).repeat_interleave(n, 0) for t in pad_left([prompts[i] for i in batch], pad))
            uniforms = None
            if sampling.temperature > 0:
                uniforms = torch.cat([draw_uniforms(seeds[i], n, sampling.max_tokens) for i in batch]).to(self.device)
            choice = SeededChoice(uniforms, sampling)
            with torch.no_grad():
                model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=sampling.max_tokens,
                    do_sample=False,
                    use_cache=True,
                    logits_processor=[choice],
                )
            flat = completed(torch.stack(choice.ids, 1), torch.stack(choice.logprobs, 1), self.end_ids)
            for place, i in enumerate(batch):
                groups[i] = flat[place * n : (place + 1) * n]
        return groups

    def disagreement(self) -> float:
        """Mean difference, in nats, between log-probs as sampled and as an update computes them for padded rows."""
        written = self.tokens_written
        examples = [Example(f"probe {i}", text, i) for i, text in enumerate(_PROBES)]
        room = self.settings.max_context - max(self.prompt_tokens(text) for text in _PROBES)
        groups = self.sample("judge", examples, Sampling(max(1, min(8, room)), 2))
        self.tokens_written = written
        rows = make_rows(groups, [[1.0, 1.0]] * len(groups), "grpo", 8, False)
        batch = make_batch(rows, int(self.tokenizer.pad_token_id), self.device, self.layout)
        with self.using("judge", train=True) as model:
            logprobs = self.score(model, batch, 1.0, self.layout).logprobs.detach()
        return float(((logprobs - batch.old_logprobs_RC).abs() * batch.mask_RC).sum() / batch.mask_RC.sum())


class SeededChoice(LogitsProcessor):  # type: ignore[misc]
    """Chooses the next token from numbers drawn beforehand, and forces greedy decoding to take it.

    ``ids`` and ``logprobs`` hold the token of every row and its log-probability, per step.
    """

    def __init__(self, uniforms: Tensor | None, sampling: Sampling) -> None:
        self._uniforms, self._sampling = uniforms, sampling
        self.ids: list[Tensor] = []
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores that allow only the chosen token of each row."""
        uniforms = None if self._uniforms is None else self._uniforms[:, len(self.ids)]
        chosen, logprobs = choose_tokens(scores, uniforms, self._sampling)
        self.ids.append(chosen)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, float("-inf")).scatter(1, chosen[:, None], 0.0)
