"""A base's chat template and tokenizer: texts become token ids of a user turn or of an assistant's text.

Warm-up, training and inference use the same rendering. A prompt that contains control tokens is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rubric_arm_lite.errors import BackendError


class ChatTokenizer:
    """Renders and tokenizes turns; thinking is off by default."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._specials = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._specials_in_empty_turn = {
            thinking: self._count_specials(self._tokenize(self._wrap("", thinking))) for thinking in (False, True)
        }

    def encode_all(self, prompts: Sequence[str], thinking: bool = False) -> list[list[int]]:
        """Token ids of one user turn per prompt; with ``thinking``, the template switches thoughts on.

        Raises:
            BackendError: if a prompt contains control tokens, which `PromptBuilder` would have broken up.
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

    def encode(self, prompt: str) -> list[int]:
        """:meth:`encode_all` for one prompt, thinking off."""
        return self.encode_all([prompt])[0]

    def prompt_tokens(self, prompt: str) -> int:
        """Length of a user turn in tokens, with the chat template around it."""
        return len(self.encode(prompt))

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of an assistant's text and the end token, for the warm-up."""
        return [*self._tokenize(text), self.tokenizer.eos_token_id]

    def has_thinking_switch(self) -> bool:
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

    def control_tokens(self) -> list[str]:
        """Strings that the tokenizer reads as control tokens; added tokens that are plain words do not count."""
        added = self.tokenizer.added_tokens_decoder.values()
        return [
            *self.tokenizer.all_special_tokens,
            *(token.content for token in added if token.special or not token.content.strip().isalnum()),
        ]
