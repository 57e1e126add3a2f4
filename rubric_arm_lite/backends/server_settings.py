"""Where an OpenAI-compatible server is and how to ask it; checked before anything is sent."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rubric_arm_lite.backends.server_text import clean
from rubric_arm_lite.errors import BackendError, ConfigError

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
USUAL_CONTROL_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<start_of_turn>", "<end_of_turn>", "<bos>",
    "<eos>", "<pad>", "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<|system|>",
    "<|user|>", "<|assistant|>", "<|end|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<think>",
    "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<|object_ref_start|>",
    "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|pad|>",
)  # fmt: skip
"""Control tokens of Qwen (all that its tokenizers add), Llama, Gemma, Mistral, Phi, gpt-oss and the testbed.

Servers read them in a message's content, too."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server is, what its models are called, and how to ask it."""

    base_url: str
    """``http(s)://host[:port][/path]``, with or without the ``/v1`` at the end."""
    rubric_model: str = "rubric"
    judge_model: str = "judge"
    base_model: str | None = None
    """The model without adapters; needed only to sample from it."""
    api_key_env: str = DEFAULT_KEY_ENV
    """Name of the environment variable that holds the key; without a value no key is sent."""
    timeout: float = 600.0
    """Seconds for one attempt."""
    retries: int = 5
    concurrency: int = 32
    """Requests at a time; a GPU's server is not busy with few."""
    stream: bool = False
    chat: bool = True
    """``/v1/chat/completions``; false is ``/v1/completions``, where the prompt stands without any template."""
    disable_thinking: bool = True
    """Send ``enable_thinking: false`` to the chat template, as in training; left out if the server refuses it."""
    revision: str | None = None
    """What to call the weights that are served; change it when they change."""
    control_tokens: tuple[str, ...] = USUAL_CONTROL_TOKENS
    """Strings that the server's tokenizer reads as control tokens; prompts have them broken up."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields for each request, such as ``{"top_k": -1}`` where the server has defaults of its own."""

    def __post_init__(self) -> None:
        root_of(self.base_url)
        for name in ("rubric_model", "judge_model", "api_key_env"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty. Give a name, or leave it out for the default.")
        if not (0 < self.timeout < math.inf) or self.retries < 0 or self.concurrency < 1:
            raise ConfigError(
                f"timeout {self.timeout}, retries {self.retries}, concurrency {self.concurrency}: the timeout must be "
                "positive, retries not negative and concurrency at least 1. Change what is not."
            )


def root_of(base_url: str) -> str:
    """The address without ``/v1``, which paths are appended to.

    Raises:
        ConfigError: if it is no plain http or https address.
    """
    if "@" in base_url:  # may hold a password, so it is not repeated
        raise ConfigError(
            "The server's address has a user or password in it. Leave it out; a key comes from an environment variable."
        )
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or half a bracket
        usable = False
    plain = base_url.isascii() and base_url.isprintable() and not set(base_url) & set(" ?#\\")
    if not usable or not plain:
        raise ConfigError(
            f'"{clean(base_url)}" is no server\'s address. Give scheme, host, port and path only, like '
            "http://localhost:8000/v1."
        )
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


def key_from(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key:
        if variable != DEFAULT_KEY_ENV:
            raise BackendError(f"The environment variable {variable} is not set. Set it to the key, or name another.")
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BackendError(f"The key in {variable} has blanks or characters that no key has. Set it again.")
    return key
