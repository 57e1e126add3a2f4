"""A base's chat template and tokenizer: texts go in, the token ids of a user turn or of an assistant's text come out.

The same rendering serves warm-up, training and inference. A prompt with control tokens in it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rubric_arm_lite.errors import BackendError


class Chat:
    """Renders and tokenises turns; thinking is off unless asked for."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._specials = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._specials_in_empty_turn = {
            thinking: self._count_specials(self._tokenize(self._wrap("", thinking))) for thinking in (False, True)
        }

    def encode_all(self, prompts: Sequence[str], thinking: bool = False) -> list[list[int]]:
        """Token ids of one user turn each; with ``thinking``, the template switches thoughts on.

        Raises:
            BackendError: if a text smuggled a control token past `PromptBuilder`.
        """
        if not prompts:
            return []
        texts = [self._wrap(prompt, thinking) for prompt in prompts]
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        if any(self._count_specials(ids) != self._specials_in_empty_turn[thinking] for ids in encoded):
            raise BackendError(
                "A prompt contains control tokens of this tokenizer, so it could forge another turn. Build prompts "
                "with PromptBuilder(templates, special_tokens=model.control_tokens())."
            )
        return encoded

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of an assistant's text and the end token, for the warm-up."""
        return [*self._tokenize(text), self.tokenizer.eos_token_id]

    def thinks(self) -> bool:
        """Whether the chat template can switch a model's thoughts on (``Sampling.thinking``)."""
        return self._wrap("", thinking=True) != self._wrap("")

    def _wrap(self, prompt: str, thinking: bool = False) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        return text

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _count_specials(self, ids: list[int]) -> int:
        return sum(i in self._specials for i in ids)


def control_tokens(tokenizer: Any) -> list[str]:
    """Strings that a tokenizer reads as control tokens; added words that are plain words are none."""
    added = tokenizer.added_tokens_decoder.values()
    return [
        *tokenizer.all_special_tokens,
        *(token.content for token in added if token.special or not token.content.strip().isalnum()),
    ]
