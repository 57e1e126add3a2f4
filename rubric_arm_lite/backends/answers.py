"""How probable a model finds given words as the next ones of its answer: exact, with every common prefix computed once.

All questions about one prompt go through the network together. In the packed layout the places of one text, which
continue each other, cost the tokens of the text once.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from rubric_arm_lite.backends.base import NextWords
from rubric_arm_lite.batching import Row, make_batch
from rubric_arm_lite.errors import BackendError, PromptTooLongError
from rubric_arm_lite.memory import is_out_of_memory, release
from rubric_arm_lite.prefix_tree import common_length

if TYPE_CHECKING:
    from rubric_arm_lite.backends.transformers import TwoAdapterModel

TOKENS_AT_ONCE = 16384
"""Tokens that go through the network in one pass, unless one prompt alone has more."""


@torch.no_grad()
def next_word_logprobs(
    model: TwoAdapterModel, adapter: str | None, questions: Sequence[NextWords]
) -> list[tuple[float, ...]]:
    """Log-probabilities, in nats at temperature 1, of each question's options.

    An option of several tokens has the sum of theirs.

    Raises:
        BackendError: if the tokenizer does not tell the options apart.
        PromptTooLongError: if a prompt with its answer exceeds ``model.max_context``.
    """
    prompts = {prompt: model.encode(prompt) for prompt in dict.fromkeys(q.prompt for q in questions)}
    rows = [_rows(model, prompts[question.prompt], question) for question in questions]
    found: list[float] = []
    flat = [row for own in rows for row in own]
    most = TOKENS_AT_ONCE
    with model.using(adapter) as active:
        while len(found) < len(flat):
            run = _run(flat[len(found) :], model.layout, most)
            try:
                batch = make_batch(run, int(model.tokenizer.pad_token_id), model.device, model.layout)
                scores = model.score(active, batch, 1.0, model.layout).logprobs
                found += (scores * batch.mask_RC).sum(-1).tolist()
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            most = _halved(model, run, most)
    values = iter(found)
    return [tuple(next(values) for _ in own) for own in rows]


def _rows(model: TwoAdapterModel, prompt: Sequence[int], question: NextWords) -> list[Row]:
    """One row per option: what they have in common is the prompt, the rest what is scored."""
    whole = [tuple(model.encode_completion(question.written + option)[:-1]) for option in question.options]
    common = min(common_length(whole[0], ids) for ids in whole)
    if any(len(ids) == common for ids in whole) or len(set(whole)) < len(whole):
        listed = ", ".join(repr(option) for option in question.options)
        raise BackendError(
            f"The tokenizer does not tell {listed} apart, so their probabilities cannot be read. Scores need a base "
            "that knows these words, or others in prompts.pointwise_words, as a run of arrow-testbed has."
        )
    longest = len(prompt) + max(map(len, whole))
    if longest > model.settings.max_context:
        raise PromptTooLongError(
            f"A prompt with its answer has {longest} tokens, more than model.max_context "
            f"({model.settings.max_context}). Raise it or shorten the texts."
        )
    return [Row((*prompt, *ids[:common]), ids[common:], (0.0,) * (len(ids) - common), 0.0, 0.0) for ids in whole]


def _run(rows: Sequence[Row], layout: str, most: int) -> list[Row]:
    """The first rows, of about ``most`` tokens; in the packed layout a row costs what it adds to the one before it."""
    run: list[Row] = []
    tokens = longest = 0
    for prefix, same in groupby(rows, key=lambda row: row.prompt_ids):
        group = list(same)
        if layout == "packed":
            before = run[-1].prompt_ids if run else ()
            tokens += len(prefix) - common_length(before, prefix) + sum(len(r.token_ids) for r in group)
        else:
            longest = max(longest, *(len(prefix) + len(row.token_ids) for row in group))
            tokens = (len(run) + len(group)) * longest
        if run and tokens > most:
            break
        run += group
    return run


def _halved(model: TwoAdapterModel, run: Sequence[Row], most: int) -> int:
    """Fewer tokens at once after memory ran out.

    Raises:
        BackendError: if it was one prompt's place alone.
    """
    release(model.device)
    if len({row.prompt_ids for row in run}) == 1:
        raise BackendError(
            "Memory ran out while reading the probabilities of one answer. Lower model.max_context, or use a smaller "
            "base or model.quantization: nf4."
        )
    warnings.warn(f"Memory ran out with {most} tokens at once; going on with {most // 2}.", stacklevel=3)
    return most // 2
