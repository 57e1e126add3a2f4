"""The check of a loaded model against its own forward pass, which decides how prompts are shared and rows are padded.

A transformers model may scale its logits, skip what it is told about attention, keep a state that padding changes, or
run on a cache of its own class. What this package computes (the head, sampling over a cache, the layouts of an update)
is therefore compared with the plain ``model(input_ids).logits`` of a few short rows before anything is trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from rubric_arm_lite.errors import BackendError, first_line
from rubric_arm_lite.models.generate import CacheUse, start_decoding
from rubric_arm_lite.models.memory import is_out_of_memory
from rubric_arm_lite.models.shared_prefix.attention import kernel_error
from rubric_arm_lite.models.shared_prefix.batching import Layout, Row, make_batch
from rubric_arm_lite.models.shared_prefix.passes import decoder_of

if TYPE_CHECKING:
    from rubric_arm_lite.models.adapter_model import AdapterModel

Result = TypeVar("Result")
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference, relative to the largest value, that rounding explains, with a margin."""
PROMPTS, COMPLETIONS = (9, 10, 21), (4, 7)
"""Tokens of the probe's prompts, and of the two completions of each. The first two prompts share eight tokens."""


class Probe:
    """Rows of random tokens and the logits of the model's own forward pass over each row alone."""

    def __init__(self, model: AdapterModel, active: Any) -> None:
        self._model, self._active = model, active
        self._pad = int(model.tokenizer.pad_token_id)
        vocabulary = active.get_input_embeddings().weight.shape[0]
        draw = torch.Generator().manual_seed(0)
        prompts = [torch.randint(vocabulary, (length,), generator=draw).tolist() for length in PROMPTS]
        prompts[1][:8] = prompts[0][:8]
        self.rows = [
            Row(tuple(prompt), tuple(torch.randint(vocabulary, (n,), generator=draw).tolist()), (0.0,) * n, 0.0, 0.0)
            for prompt in prompts
            for n in COMPLETIONS
        ]
        # Each row alone: nothing is padded, cached or shared.
        ids = [torch.tensor([[*row.prompt_ids, *row.token_ids]], device=model.device) for row in self.rows]
        self.logits: list[Tensor] = [active(input_ids=row, use_cache=False).logits[0].float() for row in ids]
        self._scale = max(float(logits.abs().max()) for logits in self.logits)

    def foresight(self) -> float:
        """Difference of a prompt's logits between rows that go on in different ways; zero where attention is causal."""
        prompts = [logits[: len(row.prompt_ids)] for row, logits in zip(self.rows, self.logits, strict=True)]
        return self.difference(torch.cat(prompts[::2]), torch.cat(prompts[1::2]))

    def difference(self, got: Tensor, expected: Tensor) -> float:
        """Difference of logits, relative to the largest logit; infinite if a number is not finite.

        The largest difference in float32. In half precision the one that a tenth of the rows exceed: rounding may send
        a token to another expert of a mixture, and what is wrong is wrong almost everywhere.
        """
        gaps = (got.float() - expected).abs().reshape(len(expected), -1).amax(-1)
        gap = gaps.max() if self._model.dtype == torch.float32 else gaps.quantile(0.9)
        return float(gap) / max(self._scale, 1e-6) if bool(torch.isfinite(gaps).all()) else float("inf")

    def head_error(self) -> float:
        """Difference of our head's logits; of the forms that architectures have, the head takes the one that fits."""
        row, logits = self.rows[-1], self.logits[-1]
        ids = torch.tensor([[*row.prompt_ids, *row.token_ids]], device=self._model.device)
        base = self._active.get_base_model()
        hidden = decoder_of(base)(input_ids=ids, use_cache=False).last_hidden_state[0]
        return self._model.head.fit(lambda: self.difference(self._model.head(hidden), logits))

    def update_error(self, layout: Layout) -> float:
        """Difference of an update's log-probabilities, relative to the largest logit."""
        batch = make_batch(self.rows, self._pad, self._model.device, layout)
        scores = self._model.score(self._active, batch, 1.0, layout).logprobs
        gaps = []
        for row, line, logits in zip(self.rows, scores, self.logits, strict=True):
            own = torch.log_softmax(logits[len(row.prompt_ids) - 1 : -1], dim=-1)
            chosen = torch.tensor(row.token_ids, device=own.device)[:, None]
            gaps.append(self.difference(line[: len(chosen)], own.gather(-1, chosen).squeeze(-1)))
        return max(gaps)

    def sampling_error(self, cache_use: CacheUse) -> float:
        """Difference of the logits while rows are fed token by token, two rows for each prompt."""
        rows: tuple[int, ...] = (1, 1) if cache_use == "copied_by_length" else (1, 3, 5)
        length, prompts = len(self.rows[1].token_ids), [self.rows[i].prompt_ids for i in rows]
        decoding = start_decoding(self._active, self._model.head, prompts, 2, self._pad, length, cache_use)
        gaps, logits = [], decoding.logits
        for step in range(length):
            if step == 2:  # the first two rows have ended, and the cache is cut down to the others
                decoding.keep(list(range(2, 2 * len(rows))))
                logits, rows = logits[2:], rows[1:]
            expected = [self.logits[i][len(self.rows[i].prompt_ids) - 1 + step] for i in rows]
            gaps.append(self.difference(logits, torch.stack(expected).repeat_interleave(2, dim=0)))
            if step + 1 < length:
                tokens = torch.tensor([self.rows[i].token_ids[step] for i in rows], device=logits.device)
                logits = decoding.step(tokens.repeat_interleave(2))
        return max(gaps)


def check_own_forward(model: AdapterModel, name: str) -> None:
    """Choose the fastest way that agrees with the model's own forward pass, for sampling and for updates.

    Sets the head's form, ``model.layout`` and ``model.cache_use``. Shared prefixes that change results are given up
    with a warning; the other ways are as exact, and slower.

    Raises:
        BackendError: if no way agrees, so that every log-probability would be wrong.
    """
    tolerance = TOLERANCE[model.dtype]
    with torch.no_grad(), model.using(None) as active:
        probe = _run(name, lambda: Probe(model, active))
        if probe.foresight() > tolerance:
            active.get_base_model().set_attn_implementation("eager")
            probe, model.cache_use = _run(name, lambda: Probe(model, active)), "copied"
            model.layout = "expanded" if model.layout == "packed" else model.layout
            if probe.foresight() > tolerance:
                raise BackendError(
                    f"`{name}` lets tokens see those after them, so it cannot write a text token by token. Use a "
                    "causal language model."
                )
            warnings.warn(
                f"In transformers' sdpa attention tokens of `{name}` see those after them, so it runs with eager "
                "attention. Slower, otherwise the same.",
                stacklevel=2,
            )
        if _run(name, probe.head_error) > tolerance:
            raise BackendError(
                f"`{name}` computes its logits from the last hidden states in a way that this package does not know, "
                "so all log-probabilities would be wrong. Use another base, and please report its model type."
            )
        if model.layout == "packed":
            with torch.enable_grad():
                kernels = kernel_error(model.device, model.dtype)
            sampling = _attempt(lambda: probe.sampling_error("shared"))
            difference = max(_attempt(lambda: probe.update_error("packed")), sampling, kernels)
            if difference > tolerance:
                warnings.warn(
                    f"Shared prefixes change the results of `{name}` on this machine (relative difference "
                    f"{difference:.2g}), so prompts are computed once for each completion. Slower, otherwise the same.",
                    stacklevel=2,
                )
                active.get_base_model().set_attn_implementation("sdpa")
                model.layout, model.cache_use = "expanded", "copied"
            else:
                return
        if model.layout == "expanded" and _attempt(lambda: probe.update_error("expanded")) > tolerance:
            model.layout = "separate"
        if model.layout == "separate" and _run(name, lambda: probe.update_error("separate")) > tolerance:
            raise BackendError(
                f"`{name}` gives other log-probabilities when rows stand in a batch than when they stand alone. Use "
                "another base, and please report its model type."
            )
        if _attempt(lambda: probe.sampling_error("copied")) <= tolerance:
            return
        model.cache_use = "copied_by_length"
        if _attempt(lambda: probe.sampling_error("copied_by_length")) > tolerance:
            model.cache_use = "none"
            warnings.warn(
                f"`{name}` has no cache that can be copied to several completions, so each token is sampled by a pass "
                "over its whole row. Much slower, otherwise the same.",
                stacklevel=2,
            )


def _attempt(error: Callable[[], float]) -> float:
    """A difference; infinite where the model cannot compute it this way."""
    try:
        return error()
    except Exception as problem:  # model code of any architecture
        if is_out_of_memory(problem):
            raise
        return float("inf")


def _run(name: str, compute: Callable[[], Result]) -> Result:
    """A result that every usable model must give.

    Raises:
        BackendError: if the model's code fails.
    """
    try:
        return compute()
    except BackendError:
        raise
    except Exception as problem:  # model code of any architecture
        if is_out_of_memory(problem):
            raise
        raise BackendError(
            f"`{name}` cannot be run by this package ({type(problem).__name__}: {first_line(problem)}). Use another "
            "base, and please report its model type."
        ) from problem
