"""A base's chat template and tokenizer: texts become token ids of a user turn or of an assistant's text.

Warm-up, training and inference use the same rendering. A prompt that contains control tokens is refused. The template
is a program that came with the model: it is tried with a word and under a time limit before anything depends on it.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rubric_arm_lite.errors import BackendError, first_line
from rubric_arm_lite.recipe import ModelSettings

TEMPLATE_SECONDS = 10.0
"""Time in which a chat template must render one word."""
_WORD = "rivers"
_DATE_MACRO = """\
{%- macro strftime_now(format) -%}
{%- set written = namespace(date=format | replace("%%", "\\0")) -%}
{%- for code, text in chat_date.items() -%}{%- set written.date = written.date | replace(code, text) -%}{%- endfor -%}
{{- written.date | replace("\\0", "%") -}}
{%- endmacro -%}
"""
"""Stands before a template that asks for today's date and gives it the recipe's: a template takes data alone."""
_DATE_CODES = tuple(f"%{pad}{code}" for pad in ("-", "") for code in "aAbBcdDeFHIjmMpSTuUVwWxXyYzZ")


class ChatTokenizer:
    """Renders and tokenizes turns; thinking is off by default.

    Attributes:
        has_thinking_switch: whether the template can switch a model's thoughts on (``Sampling.thinking``).
        end_id: the token with which the template ends an assistant's turn, else the tokenizer's end token.

    Raises:
        BackendError: if the chat template fails, loops, or loses the user's message.
    """

    def __init__(self, tokenizer: Any, settings: ModelSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self._date = (settings or ModelSettings()).chat_date
        self._find_content()
        self._specials = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        texts = {thinking: self._limited(partial(self._wrap, _WORD, thinking)) for thinking in (False, True)}
        self._specials_in_turn = {k: sum(i in self._specials for i in self._tokenize([v])[0]) for k, v in texts.items()}
        self.has_thinking_switch = texts[True] != texts[False]
        self.end_id = self._turn_end()

    def _find_content(self) -> None:
        """Find out whether the template takes a message as text or as a list of parts."""
        problem = None
        for self._takes_parts in (False, True):
            try:
                if _WORD in self._limited(partial(self._wrap, _WORD)):
                    return
                problem = problem or self._unusable("it leaves out the user's message")
            except BackendError as error:
                problem = problem or error
        raise problem or AssertionError

    def _turn_end(self) -> int:
        try:
            text = self._limited(
                partial(self._render, {"user": _WORD, "assistant": _WORD}, add_generation_prompt=False)
            )
        except BackendError:  # templates without assistant turns
            text = ""
        after = self._tokenize([text[text.rfind(_WORD) + len(_WORD) :].strip()])[0] if _WORD in text else []
        eos: int = self.tokenizer.eos_token_id
        if (
            not after
            or after[0] in (eos, self.tokenizer.unk_token_id)
            or after[0] not in self.tokenizer.added_tokens_decoder
        ):
            return eos
        warnings.warn(
            f"The chat template of `{self.tokenizer.name_or_path}` ends a turn with "
            f"`{self.tokenizer.convert_ids_to_tokens(after[0])}`, not with its end token `{self.tokenizer.eos_token}`. "
            "Completions end at either; warm-up texts end as in the template.",
            stacklevel=3,
        )
        return after[0]

    def encode_all(self, prompts: Sequence[str], thinking: bool = False) -> list[list[int]]:
        """Token ids of one user turn per prompt; with ``thinking``, the template switches thoughts on.

        Raises:
            BackendError: if a prompt contains control tokens, which `PromptBuilder` would have broken up.
        """
        if not prompts:
            return []
        texts = [self._wrap(prompt, thinking) for prompt in prompts]
        encoded = self._tokenize(texts)
        expected = self._specials_in_turn[thinking]
        if any(sum(i in self._specials for i in ids) != expected for ids in encoded):
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
        return [*self._tokenize([text])[0], self.end_id]

    def _wrap(self, prompt: str, thinking: bool = False) -> str:
        return self._render({"user": prompt}, add_generation_prompt=True, enable_thinking=thinking)

    def _render(self, texts: Mapping[str, str], **options: Any) -> str:
        """Render one turn per role."""
        contents = {role: [{"type": "text", "text": t}] if self._takes_parts else t for role, t in texts.items()}
        turns = [{"role": role, "content": content} for role, content in contents.items()]
        options["tokenize"] = False
        try:
            template = self.tokenizer.get_chat_template()
            if "strftime_now" in template:
                options["chat_template"] = _DATE_MACRO + template
                options["chat_date"] = {code: self._date.strftime(code) for code in _DATE_CODES}
            rendered: str = self.tokenizer.apply_chat_template(turns, **options)
        except Exception as error:  # a template may raise anything
            raise self._unusable(first_line(error)) from error
        return rendered

    def _unusable(self, problem: str) -> BackendError:
        return BackendError(
            f"The chat template of `{self.tokenizer.name_or_path}` cannot be used: {problem}. Correct it in the "
            "folder's chat_template.jinja or tokenizer_config.json, or use another model."
        )

    def _limited(self, render: Callable[[], str]) -> str:
        """The result of ``render``, which is stopped after :data:`TEMPLATE_SECONDS`; its error is raised here."""
        results: list[str | BackendError] = []

        def work() -> None:
            try:
                results.append(render())
            except BackendError as error:
                results.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(TEMPLATE_SECONDS)
        if thread.is_alive():  # Jinja's loops are Python, so an exception ends them
            thread_id, stop = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeoutError)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread_id, stop)
            raise self._unusable(f"it takes more than {TEMPLATE_SECONDS:g} seconds for one word")
        if isinstance(results[0], BackendError):
            raise results[0]
        return results[0]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        try:
            ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        except Exception as error:  # such as a vocabulary without the token for unknown words
            raise BackendError(
                f"The tokenizer of `{self.tokenizer.name_or_path}` cannot read a text ({first_line(error)}). Copy its "
                "tokenizer files again."
            ) from error
        return ids

    def control_tokens(self) -> list[str]:
        """Strings that the tokenizer reads as control tokens; added tokens that are plain words do not count."""
        added = self.tokenizer.added_tokens_decoder.values()
        return [
            *self.tokenizer.all_special_tokens,
            *(token.content for token in added if token.special or not token.content.strip().isalnum()),
        ]
