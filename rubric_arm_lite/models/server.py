"""A sampler over an OpenAI-compatible server (vLLM, llama.cpp, a cloud endpoint), for evaluation and judging.

A prompt is sent as the content of one user message, which the server puts into its chat template. Only the texts of the
completions are used; the project's own parsers read them. Token ids and log-probabilities stay unknown, so the
completions can be evaluated but not trained on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import threading
import uuid
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from rubric_arm_lite.errors import BackendError, ConfigError, clean
from rubric_arm_lite.models.sampler import Sampling, Usage
from rubric_arm_lite.models.server_answers import RefusedRequest, estimate_tokens, read_answer
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import Example, RolloutGroup, Sample

T = TypeVar("T")
DEFAULT_KEY_ENV = "OPENAI_API_KEY"
COMMON_CONTROL_TOKENS = re.compile(
    r"<[|｜][^\s<>]{1,64}[|｜]>"  # ChatML, Llama 3 and 4, Phi, DeepSeek, GLM, harmony, Cohere, Granite, Falcon, LFM2
    r"|<\|[\w/]{1,64}>|<[\w/]{1,64}\|>|\[\|[\w/]{1,64}\|\]|\]~!?b[\[\]]|\[e~\["  # Gemma 4, EXAONE, MiniMax
    r"|(?i:</?(?:s|bos|eos|pad|unk|mask|sep|cls|sop|eop|eod|think|tool_\w{1,32}|arg_\w{1,32}|seed:\w{1,32})>"
    r"|<(?:(?:start|end|begin|beginning)_of_\w{1,32}|\w{1,32}_token|(?:unused|reserved_|extra_id_|special_)\d{1,6})>"
    r"|<(?:file_sep|repo_name|gh_stars|empty_output|(?:fim|jupyter|commit|issue)_\w{1,32})>|<</?sys>>"
    r"|</?(?:role|longcat_\w{1,32}|(?:start|end)_function_\w{1,32})>)"
    # Gemma, Cohere, Seed, MiniMax; StarCoder, Llama 2; Ling, LongCat, FunctionGemma
    r"|<\[[^\s<>]{1,64}\]>|\[UNUSED_TOKEN_\d{1,6}\]|>>(?:TITLE|[A-Z]{6,12})<<"  # Seed-Coder, InternLM, Falcon
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_[A-Z_]{1,32}|MODEL_SETTINGS|THINK|ARGS|CALL_ID|[gs]?MASK"
    r"|(?:IMG|AUDIO|BEGIN)[A-Z_]{0,32}|PREFIX|MIDDLE|SUFFIX|CLS|SEP|PAD|UNK|BOS|EOS)\]"  # Mistral, GLM
)
"""Control tokens of the common model families.

A server does not report those of its tokenizer, and reads them as control tokens inside a message's content, too."""
PROMPT_BYTES_PER_TOKEN = 2
TEMPLATE_TOKENS = 64
_OPTIONAL_FIELDS = {
    "chat_template_kwargs": ("chat_template_kwargs", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
}
"""Fields that not every server knows, and the words that a refusal of them contains."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Address of the server, names of its models, and how to send requests."""

    base_url: str
    """``http(s)://host[:port][/path]``, with or without ``/v1`` at the end."""
    rubric_model: str = "rubric"
    judge_model: str = "judge"
    base_model: str | None = None
    """The model without adapters; needed only to sample from it."""
    api_key_env: str = DEFAULT_KEY_ENV
    """Name of the environment variable that holds the key; without a value no key is sent."""
    timeout: float = 600.0
    """Seconds for one attempt."""
    retries: int = 5
    """Further attempts after a failure that may pass."""
    concurrency: int = 32
    """Requests at a time; few requests leave a GPU server idle."""
    stream: bool = False
    chat: bool = True
    """``/v1/chat/completions``; false is ``/v1/completions``, which applies no chat template."""
    disable_thinking: bool = True
    """Send ``enable_thinking: false`` to the chat template, as in training; dropped if the server refuses it."""
    revision: str | None = None
    """Name of the weights that are served; change it when they change."""
    control_tokens: Sequence[str] = ()
    """Control tokens of the server's tokenizer beside :data:`COMMON_CONTROL_TOKENS`; prompts have all broken up."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More fields for each request, such as ``{"top_k": -1}`` where the server has defaults of its own."""

    def __post_init__(self) -> None:
        root_of(self.base_url)
        for name in ("rubric_model", "judge_model", "api_key_env"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty. Give a name, or omit it for the default.")
        if not (0 < self.timeout < math.inf) or self.retries < 0 or self.concurrency < 1:
            raise ConfigError(
                f"timeout {self.timeout}, retries {self.retries}, concurrency {self.concurrency}: the timeout must be "
                "positive, retries not negative and concurrency at least 1. Change the wrong ones."
            )


def root_of(base_url: str) -> str:
    """The address without ``/v1``, which paths are appended to.

    Raises:
        ConfigError: if it is not a plain http or https address.
    """
    if "@" in base_url:  # may hold a password, so it is not repeated
        raise ConfigError(
            "The server's address has a user or password in it. Remove it; a key comes from an environment variable."
        )
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or half a bracket
        usable = False
    if not usable or not base_url.isascii() or not base_url.isprintable() or set(base_url) & set(" ?#\\"):
        raise ConfigError(
            f'"{clean(base_url)}" is not a server\'s address. Give scheme, host, port and path only, like '
            "http://localhost:8000/v1."
        )
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


class _TokenCount(BaseModel, strict=True):
    count: Annotated[int, Field(gt=0)]


class ServerSampler:
    """A :class:`~rubric_arm_lite.models.sampler.ChatSampler` over HTTP.

    Samples have empty ``token_ids`` and ``logprobs``, and groups empty ``prompt_ids``. ``tokens_written`` counts what
    the server reports (:func:`~.server_answers.read_answer` where it reports nothing). Seeds are sent; whether equal
    seeds give equal texts depends on the server.

    Raises:
        BackendError: if the key, the address or the environment's proxies cannot be used.
    """

    def __init__(self, settings: ServerSettings) -> None:
        from rubric_arm_lite.models.server_client import ServerClient

        self.settings = settings
        self.tokens_written = 0
        root, key = root_of(settings.base_url), _read_key(settings.api_key_env)
        self._client = ServerClient(root, key, settings.timeout, settings.retries, settings.concurrency)
        self._dropped: set[str] = set()
        self._one_by_one = False
        self._counts_tokens = True
        self._loaded: dict[str, list[str]] = {}
        self._salts: dict[str, str] = {}

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """One group per example, in the order of the examples; the first error, or Ctrl-C, ends all requests.

        Raises:
            BackendError: if a request fails for good, or an answer cannot be used.
        """
        groups = {place: group for place, group, _ in self.answered(adapter, examples, sampling)}
        return [groups[place] for place in range(len(examples))]

    def answered(
        self, adapter: str | None, examples: Sequence[Example], sampling: Sampling
    ) -> Iterator[tuple[int, RolloutGroup, Usage]]:
        """:meth:`sample` as the answers arrive: the example's index, its group, and the tokens it took.

        Every answer that arrived before an error is yielded before the error is raised.
        """
        model = self._model(adapter)
        remaining = iter(enumerate(examples))
        places: dict[Future[tuple[RolloutGroup, Usage]], int] = {}
        try:
            # A request is sent only once fewer than `concurrency` are in flight or not yet taken: whoever stores what
            # is yielded can lose no more than `concurrency` answers.
            while True:
                for place, example in islice(remaining, self.settings.concurrency - len(places)):
                    places[_submit(self._group(model, example, sampling))] = place
                if not places:
                    return
                done, _ = wait(places, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: (f.exception() is not None, places[f])):
                    group, usage = future.result()
                    self.tokens_written += usage.completion_tokens
                    yield places[future], group, usage
                    del places[future]
        finally:  # after an error, Ctrl-C, or when the caller stops: close the connections of the rest
            for future in places:
                future.cancel()

    def fingerprint(self, adapter: str | None) -> str:
        """Hash (16 hex digits) of address, model, revision and request fields; the weights themselves are remote.

        It changes with :meth:`load_adapter`. If something else changes the weights, change ``revision``.
        """
        settings, model = self.settings, self._model(adapter)
        parts: list[Any] = [self._client.root, model, settings.revision, settings.chat, settings.disable_thinking]
        parts += [dict(settings.extra_body), self._loaded.get(model, [])]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def prompt_tokens(self, prompt: str) -> int:
        """Length of a user turn in tokens, counted by the server's ``/tokenize`` (vLLM has it).

        Elsewhere an estimate that is too high for most texts: a token for 2 bytes of UTF-8, and 64 for the template.
        """
        if self._counts_tokens:
            body: dict[str, Any] = {"model": self.settings.base_model or self.settings.rubric_model}
            body |= self._prompt(prompt) | ({"add_generation_prompt": True} if self.settings.chat else {})
            body = {name: value for name, value in body.items() if name not in self._dropped}
            try:
                return _TokenCount.model_validate_json(_run(self._client.post("/tokenize", body))).count
            except RefusedRequest as error:
                if error.status in (401, 403):
                    raise
            except ValidationError:
                pass
            self._counts_tokens = False
        return estimate_tokens(prompt, PROMPT_BYTES_PER_TOKEN) + TEMPLATE_TOKENS

    def control_tokens(self) -> list[str | re.Pattern[str]]:
        """Control tokens of the common model families, and those that the settings list."""
        return [COMMON_CONTROL_TOKENS, *self.settings.control_tokens]

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Have the server load a PEFT folder under an adapter's name, in place of the one it has there (vLLM).

        vLLM caches keys and values of prompts and would reuse the old adapter's under the new one where the path is
        the same (in older versions, where the name is). From here on this sampler's requests carry a ``cache_salt``
        of their own, so those caches are not used; for other samplers of the same server, load new weights from a
        path that it has not seen.

        Args:
            name: ``rubric`` or ``judge``.
            path: the folder as the server's machine sees it.

        Raises:
            BackendError: if the server cannot load adapters while it runs, or not this one.
        """
        model = self._model(name)
        self._salts[model] = uuid.uuid4().hex  # first: the server may load the adapter although its answer is lost
        _run(self._load(model, str(path)))
        self._loaded.setdefault(model, []).append(str(path))

    def close(self) -> None:
        """Close the connections."""
        _run(self._client.openai.close())

    async def _load(self, model: str, path: str) -> None:
        body = {"lora_name": model, "lora_path": path}
        state = "What it had under this name still answers."
        try:
            try:
                await self._client.post("/v1/load_lora_adapter", body | {"load_inplace": True})
                return
            except RefusedRequest as error:
                if error.status != 400 or "already" not in error.message:
                    raise
            try:  # an older vLLM
                await self._client.post("/v1/unload_lora_adapter", {"lora_name": model})
            except RefusedRequest as error:
                if error.status not in (400, 404):  # another client unloaded it
                    raise
            state = "It has nothing under this name now: load a folder that it takes."
            await self._client.post("/v1/load_lora_adapter", body)
        except RefusedRequest as error:
            status, message = error.status, clean(error.message)
            if status in (401, 403):
                raise
            fix = f"{state} Check that the folder was made for the server's base, and that --max-lora-rank is no less."
            if status in (404, 405):
                fix = (
                    "It cannot load adapters while it runs: start vLLM with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or restart it with the new adapters."
                )
            if status == 404 and "no adapter" in error.message.lower():
                fix = f"{state} Give a folder that the server's machine has, with the path it has there."
            raise BackendError(
                f'The server did not load adapter `{model}` from {path}: {status}, "{message}". {fix}'
            ) from error

    def _model(self, adapter: str | None) -> str:
        settings = self.settings
        names = {"rubric": settings.rubric_model, "judge": settings.judge_model, None: settings.base_model}
        if adapter not in names:
            raise BackendError(f"Adapter `{adapter}` is not on a server; rubric and judge are. Use one of them.")
        name = names[adapter]
        if not name:
            raise BackendError("base_model is not set, so the base cannot be used. Name the server's base model.")
        return name

    async def _group(self, model: str, example: Example, sampling: Sampling) -> tuple[RolloutGroup, Usage]:
        """The completions of one example and the tokens they took: all in one request where the server can."""
        total = sampling.num_generations
        samples: list[Sample] = []
        prompt_tokens = completion_tokens = 0
        refused = False
        while len(samples) < total:
            n = total if not samples and not refused and not self._one_by_one else 1
            seed = derive_seed(example.seed, len(samples)) % 2**31  # fits what any server takes for a seed
            try:
                completions, usage = await self._complete(model, example.prompt, sampling, n, seed)
            except RefusedRequest as error:
                if n == 1 or error.status not in (400, 422):
                    raise
                refused = True  # perhaps because of n; if not, the next request is refused as well
                continue
            samples += completions
            prompt_tokens += usage.prompt_tokens
            completion_tokens += usage.completion_tokens
            self._one_by_one = self._one_by_one or refused
        return RolloutGroup(example, (), tuple(samples)), Usage(prompt_tokens, completion_tokens)

    async def _complete(
        self, model: str, prompt: str, sampling: Sampling, n: int, seed: int
    ) -> tuple[list[Sample], Usage]:
        settings = self.settings
        body: dict[str, Any] = {
            **settings.extra_body,
            "model": model,
            **self._prompt(prompt, sampling.thinking),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        body |= {"n": n} if n > 1 else {}
        body |= {"cache_salt": self._salts[model]} if model in self._salts else {}
        body |= {"stream": True, "stream_options": {"include_usage": True}} if settings.stream else {}
        path = "/v1/chat/completions" if settings.chat else "/v1/completions"
        while True:
            request = {name: value for name, value in body.items() if name not in self._dropped}
            try:
                answer = await self._client.post(path, request, settings.stream)
                break
            except RefusedRequest as error:
                refused = {name for name, words in _OPTIONAL_FIELDS.items() if any(w in error.message for w in words)}
                if error.status not in (400, 422) or not refused & request.keys():
                    raise
                self._dropped |= refused  # each round drops at least one more field
        try:
            return read_answer(answer, prompt, n, settings.stream)
        except BackendError as error:
            raise BackendError(self._client.redact(str(error), 1000)) from None

    def _prompt(self, prompt: str, thinking: bool = False) -> dict[str, Any]:
        if not self.settings.chat:
            return {"prompt": prompt}
        body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        if self.settings.disable_thinking or thinking:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        return body


def _read_key(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key:
        if variable != DEFAULT_KEY_ENV:
            raise BackendError(f"The environment variable {variable} is not set. Set it to the key, or name another.")
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BackendError(f"The key in {variable} has blanks or characters that no key has. Set it again.")
    return key


@cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """The loop of all requests of a process, in a thread of its own: a notebook's main thread runs another loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rubric-arm-server", daemon=True).start()
    return loop


def _submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    return asyncio.run_coroutine_threadsafe(work, _event_loop(os.getpid()))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of some work; Ctrl-C ends it."""
    future = _submit(work)
    try:
        return future.result()
    finally:
        future.cancel()
