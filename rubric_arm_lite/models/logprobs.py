"""Log-probabilities of a batch's completion tokens for an update: hidden states in one of three layouts, then the head.

All layouts give the same numbers; they differ in how often a prompt goes through the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rubric_arm_lite.errors import BackendError, PromptTooLongError
from rubric_arm_lite.models.base import HEAD_CAPS, HEAD_FACTORS, cache_name
from rubric_arm_lite.models.chat import ChatTokenizer
from rubric_arm_lite.models.memory import is_out_of_memory
from rubric_arm_lite.models.sampler import NextWords
from rubric_arm_lite.models.shared_prefix import passes as shared_prefix
from rubric_arm_lite.models.shared_prefix.batching import Layout, Row, RowBatch, positions
from rubric_arm_lite.models.shared_prefix.tree import common_length

LOGIT_BYTES = {"cpu": 256 * 1024 * 1024, "cuda": 64 * 1024 * 1024}
"""Limit of one chunk of float32 logits in bytes; backward holds several chunks at once."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Per-token log-probability and entropy (nats), each of shape (R, C)."""

    logprobs: Tensor
    entropies: Tensor


def score_tokens(
    hidden_NH: Tensor, targets_N: Tensor, head: Callable[[Tensor], Tensor], temperature: float, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each target, without holding all logits at once.

    The head, from hidden states (n, H) to logits (n, V), is applied to chunks of tokens, whose size V (``vocabulary``)
    bounds; where there is more than one chunk, each is recomputed in backward. Logits are divided by ``temperature``.
    """

    def scores(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logp = torch.log_softmax(head(hidden).float() / temperature, dim=-1)
        entropy = -(logp.exp() * logp).sum(-1)
        return logp.gather(-1, targets[:, None]).squeeze(-1), entropy

    size = max(16, LOGIT_BYTES.get(hidden_NH.device.type, LOGIT_BYTES["cuda"]) // (4 * vocabulary))
    if len(targets_N) <= size:
        return scores(hidden_NH, targets_N)
    chunks = [
        checkpoint(scores, hidden, targets, use_reentrant=False)
        for hidden, targets in zip(torch.split(hidden_NH, size), torch.split(targets_N, size), strict=True)
    ]
    return torch.cat([logp for logp, _ in chunks]), torch.cat([entropy for _, entropy in chunks])


class Head:
    """Maps hidden states to logits as the architecture does (some cap or scale their logits)."""

    def __init__(self, base: Any) -> None:
        config = base.config.get_text_config()
        self._layer = base.get_output_embeddings()
        caps = (getattr(config, name, None) for name in HEAD_CAPS)
        self._cap = next((cap for cap in caps if cap is not None), None)
        scale, divisor, multiplier = (float(getattr(config, name, 1.0) or 1.0) for name in HEAD_FACTORS)
        # Granite divides by `logits_scaling`, HyperCLOVAX multiplies by it.
        self._candidates = tuple(dict.fromkeys((scale / divisor, divisor, multiplier, 1.0)))
        self._factor = self._candidates[0]

    def fit(self, error: Callable[[], float]) -> float:
        """Keep the factor with the smallest ``error()``, a comparison with the model's own logits, and return that."""
        errors = {}
        for factor in self._candidates:
            self._factor = factor
            errors[factor] = error()
        self._factor = min(errors, key=errors.__getitem__)
        return errors[self._factor]

    def __call__(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._layer(hidden) * self._factor
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits


def score_batch(base: Any, head: Head, batch: RowBatch, temperature: float, layout: Layout) -> TokenScores:
    """Log-probabilities and entropies of a batch's completion tokens under the active adapter."""
    kept = batch.mask_RC.bool().flatten()
    match layout:
        case "packed":
            if batch.packed is None:
                raise AssertionError("The batch was made for another layout.")
            tree_pass = shared_prefix.PackedPass(batch.packed.tree)
            hidden = shared_prefix.forward(
                shared_prefix.decoder_of(base), batch.packed.ids_1T, batch.packed.positions_1T, tree_pass
            )
            hidden_N = hidden[0].index_select(0, batch.packed.source_N)
        case "expanded":
            hidden_N = _expanded_hidden(base, batch).flatten(0, 1)[kept]
        case "separate":
            hidden_N = _separate_hidden(base, batch).flatten(0, 1)[kept]
    rows, length = batch.completions_RC.shape
    targets_N, vocabulary = batch.completions_RC.flatten()[kept], base.config.get_text_config().vocab_size
    logp, entropy = score_tokens(hidden_N, targets_N, head, temperature, vocabulary)
    padded = torch.zeros((2, rows * length), dtype=logp.dtype, device=logp.device)
    index = kept.nonzero().squeeze(-1)
    return TokenScores(
        padded[0].index_copy(0, index, logp).view(rows, length),
        padded[1].index_copy(0, index, entropy).view(rows, length),
    )


def _expanded_hidden(base: Any, batch: RowBatch) -> Tensor:
    """Hidden states (R, C, H) that predict each completion token; prompts are computed once."""
    from transformers import DynamicCache

    cache, decoder = DynamicCache(), shared_prefix.decoder_of(base)
    mask = batch.prompt_mask_gP
    options = {cache_name(decoder): cache, "use_cache": True}
    prompt = decoder(
        input_ids=batch.prompts_gP, attention_mask=mask, position_ids=positions(mask), **options
    ).last_hidden_state
    last = torch.index_select(prompt[:, -1:], 0, batch.group_of_R)
    if batch.completions_RC.shape[1] == 1:
        return last
    cache.batch_select_indices(batch.group_of_R)
    lengths = mask.sum(-1).index_select(0, batch.group_of_R)
    inputs = batch.completions_RC[:, :-1]
    whole_mask = torch.cat([mask.index_select(0, batch.group_of_R), batch.mask_RC[:, :-1]], dim=1)
    rest = decoder(
        input_ids=inputs,
        attention_mask=whole_mask,
        position_ids=lengths[:, None] + torch.arange(inputs.shape[1], device=lengths.device),
        **options,
    ).last_hidden_state
    return torch.cat([last, rest], dim=1)


def _separate_hidden(base: Any, batch: RowBatch) -> Tensor:
    """Hidden states (R, C, H) that predict each completion token; every row has its own prompt."""
    ids = torch.cat([batch.prompts_gP.index_select(0, batch.group_of_R), batch.completions_RC], dim=1)
    # Each row is moved to the left, so that all padding stands behind it: no token before it can see it, whatever the
    # architecture makes of masks.
    shift_R = (1 - batch.prompt_mask_gP).sum(-1).index_select(0, batch.group_of_R)
    width, length = batch.prompts_gP.shape[1], batch.completions_RC.shape[1]
    columns_T = torch.arange(ids.shape[1], device=ids.device)
    ids = ids.gather(1, (columns_T + shift_R[:, None]) % ids.shape[1])
    hidden: Tensor = shared_prefix.decoder_of(base)(input_ids=ids, use_cache=False).last_hidden_state
    places_RC = (width - 1 - shift_R)[:, None] + columns_T[:length]
    return hidden.gather(1, places_RC[..., None].expand(-1, -1, hidden.shape[-1]))


TOKENS_AT_ONCE = 16384
"""Tokens that go through the network in one pass, unless one prompt alone has more."""


def next_word_logprobs(
    chat: ChatTokenizer,
    questions: Sequence[NextWords],
    max_context: int,
    layout: Layout,
    score: Callable[[list[Row]], Tensor],
) -> list[tuple[float, ...]]:
    """Log-probabilities, in nats at temperature 1, of each question's options.

    An option of several tokens has the sum of theirs.

    Args:
        score: sums the log-probabilities of each row's completion, shape (rows,).

    Raises:
        BackendError: if the tokenizer does not distinguish the options, or memory does not suffice for one prompt.
        PromptTooLongError: if a prompt with its answer exceeds ``max_context``.
    """
    prompts = {prompt: chat.encode(prompt) for prompt in dict.fromkeys(q.prompt for q in questions)}
    rows_by_question = [option_rows(chat, prompts[q.prompt], q, max_context) for q in questions]
    rows = [row for options in rows_by_question for row in options]
    logprobs: list[float] = []
    token_limit = TOKENS_AT_ONCE
    while len(logprobs) < len(rows):
        batch = _next_batch(rows[len(logprobs) :], layout, token_limit)
        try:
            logprobs += score(batch).tolist()
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        if len({row.prompt_ids for row in batch}) == 1:
            raise BackendError(
                "Memory ran out while reading the probabilities of one answer. Lower model.max_context, or use a "
                "smaller base or model.quantization: nf4."
            )
        warnings.warn(
            f"Memory ran out with {token_limit} tokens at once; going on with {token_limit // 2}.", stacklevel=3
        )
        token_limit //= 2
    values = iter(logprobs)
    return [tuple(next(values) for _ in options) for options in rows_by_question]


def option_rows(chat: ChatTokenizer, prompt: Sequence[int], question: NextWords, max_context: int) -> list[Row]:
    """One row per option: their common prefix is the prompt, the rest is scored."""
    whole = [tuple(chat.encode_completion(question.written + option)[:-1]) for option in question.options]
    common = min(common_length(whole[0], ids) for ids in whole)
    if any(len(ids) == common for ids in whole) or len(set(whole)) < len(whole):
        listed = ", ".join(repr(option) for option in question.options)
        raise BackendError(
            f"The tokenizer does not tell {listed} apart, so their probabilities cannot be read. Scores need a base "
            "that knows these words, or others in prompts.pointwise_words, as a run of arrow-testbed has."
        )
    longest = len(prompt) + max(map(len, whole))
    if longest > max_context:
        raise PromptTooLongError(
            f"A prompt with its answer has {longest} tokens, more than model.max_context "
            f"({max_context}). Raise it or shorten the texts."
        )
    return [Row((*prompt, *ids[:common]), ids[common:], (0.0,) * (len(ids) - common), 0.0, 0.0) for ids in whole]


def _next_batch(rows: Sequence[Row], layout: Layout, token_limit: int) -> list[Row]:
    """The first rows, of about ``token_limit`` tokens; in the packed layout a row costs what it adds to the last."""
    batch: list[Row] = []
    tokens = longest = 0
    for prefix, same_prefix in groupby(rows, key=lambda row: row.prompt_ids):
        group = list(same_prefix)
        if layout == "packed":
            before = batch[-1].prompt_ids if batch else ()
            tokens += len(prefix) - common_length(before, prefix) + sum(len(r.token_ids) for r in group)
        else:
            longest = max(longest, *(len(prefix) + len(row.token_ids) for row in group))
            tokens = (len(batch) + len(group)) * longest
        if batch and tokens > token_limit:
            break
        batch += group
    return batch
