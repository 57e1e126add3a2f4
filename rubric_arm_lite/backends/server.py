"""A sampler over an OpenAI-compatible HTTP server (vLLM, llama.cpp, a cloud endpoint): for evaluation and judging.

The prompts are the project's own; a prompt travels as the content of one user message, which the server puts into its
chat template. Only completions' texts are taken from the server; what they mean is decided by :mod:`..parsing` alone.
Token ids and log-probabilities are not known here, so what this sampler writes can be evaluated but never trained on.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rubric_arm_lite.backends.base import Sampling, Usage
from rubric_arm_lite.backends.server_adapters import load_lora
from rubric_arm_lite.backends.server_answers import (
    Answer,
    Completion,
    StreamError,
    likely_tokens,
    read_answer,
    read_stream,
)
from rubric_arm_lite.backends.server_http import MAX_BODY, MAX_STREAM, JsonServer, Pause, RefusedRequest
from rubric_arm_lite.backends.server_settings import ServerSettings, key_from, root_of
from rubric_arm_lite.backends.server_text import parse_json
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Example, RolloutGroup, Sample

BYTES_PER_TOKEN = 2
TEMPLATE_TOKENS = 64
_DROPPED_IF_NAMED = {
    "chat_template_kwargs": ("chat_template_kwargs", "enable_thinking"),
    "stream_options": ("stream_options", "include_usage"),
}
"""Fields that not every server knows, and the words by which it refuses them."""


class ServerSampler:
    """A :class:`~rubric_arm_lite.backends.base.Sampler` over HTTP.

    Samples have empty ``token_ids`` and ``logprobs``, and groups empty ``prompt_ids``. ``tokens_written`` counts what
    the server says it wrote (:mod:`.server_answers` where it does not). Seeds are sent; whether equal seeds give equal
    texts is up to the server.

    Args:
        pause: waits between attempts; tests pass their own.

    Raises:
        BackendError: if the environment variable of the key cannot be used.
    """

    def __init__(self, settings: ServerSettings, pause: Pause = threading.Event.wait) -> None:
        self.settings = settings
        self.tokens_written = 0
        self._server = JsonServer(
            root_of(settings.base_url),
            key_from(settings.api_key_env),
            settings.timeout,
            settings.retries,
            settings.concurrency,
            pause,
        )
        self._dropped: set[str] = set()
        self._one_by_one = False
        self._counts_tokens = True
        self._reloads: dict[str, list[str]] = {}
        self._salts: dict[str, str] = {}

    # --- the Sampler protocol -----------------------------------------------------------------------------------

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """One group per example, in the order of the examples; the first error, or Ctrl-C, ends all.

        Raises:
            BackendError: if a request fails for good, or an answer cannot be used.
        """
        found = {place: group for place, group, _ in self.answered(adapter, examples, sampling)}
        return [found[place] for place in range(len(examples))]

    def answered(
        self, adapter: str | None, examples: Sequence[Example], sampling: Sampling
    ) -> Iterator[tuple[int, RolloutGroup, Usage]]:
        """:meth:`sample` as the answers come in: the example's place, its group, and what it took.

        After an error nothing more is yielded, but everything that was answered before it has been.
        """
        model = self._model(adapter)
        stopped = threading.Event()
        pool = ThreadPoolExecutor(self.settings.concurrency, "rubric-arm-server")
        left = iter(enumerate(examples))
        places: dict[Future[tuple[RolloutGroup, Usage]], int] = {}
        try:
            # No request goes out before there is one less on its way or waiting to be taken: whoever stores what is
            # yielded can lose no more than `concurrency` answers.
            while True:
                for place, example in islice(left, self.settings.concurrency - len(places)):
                    places[pool.submit(self._group, model, example, sampling, stopped)] = place
                if not places:
                    return
                done, _ = wait(places, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: (f.exception() is not None, places[f])):
                    group, usage = future.result()  # raises what it raised, while others may still run
                    self.tokens_written += usage.completion_tokens
                    yield places[future], group, usage
                    del places[future]
        except BaseException:
            stopped.set()
            for future in places:
                future.cancel()
            self._server.abort()
            raise
        finally:
            pool.shutdown()

    def fingerprint(self, adapter: str | None) -> str:
        """Name of what is asked: address, model, revision and fields; the weights themselves are not at hand.

        It changes with :meth:`load_adapter`. If other hands change the weights, change ``revision``.
        """
        settings = self.settings
        model = self._model(adapter)
        parts = [
            self._server.root,
            model,
            settings.revision,
            settings.chat,
            settings.disable_thinking,
            dict(settings.extra_body),
            self._reloads.get(model, []),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def prompt_tokens(self, prompt: str) -> int:
        """Length of a user turn in tokens: what the server's ``/tokenize`` counts (vLLM has it).

        Elsewhere an estimate on the high side for most texts: a token for 2 bytes of UTF-8, and 64 for the template.
        """
        if self._counts_tokens:
            body: dict[str, Any] = {"model": self.settings.base_model or self.settings.rubric_model}
            body |= self._prompt(prompt) | ({"add_generation_prompt": True} if self.settings.chat else {})
            try:
                found = self._server.ask("/tokenize", self._without_dropped(body), _json_or_none)
            except RefusedRequest as error:
                if error.status in (401, 403):
                    raise
                found = None
            count = found.get("count") if isinstance(found, dict) else None
            if type(count) is int and count > 0:
                return count
            self._counts_tokens = False
        return -(-len(prompt.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN) + TEMPLATE_TOKENS

    def control_tokens(self) -> list[str]:
        """What the settings say: a server does not tell which strings its tokenizer reads as control tokens."""
        return list(self.settings.control_tokens)

    # --- more ---------------------------------------------------------------------------------------------------

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Have the server load a PEFT folder under an adapter's name, in place of what it has there (vLLM).

        vLLM keeps keys and values of prompts it has read and would use the old adapter's under the new one, where the
        path is the same (in older versions, where the name is). From here on this sampler's requests carry a
        ``cache_salt`` of their own, so they are read anew; other samplers of the same server should be given weights
        by a path that it has not seen.

        Args:
            name: ``rubric`` or ``judge``.
            path: the folder as the server's machine sees it.

        Raises:
            BackendError: if the server cannot load adapters while it runs, or not this one.
        """
        model = self._model(name)
        self._salts[model] = uuid.uuid4().hex  # first: an answer that is lost on its way may have been a yes
        load_lora(self._server, model, path)
        self._reloads.setdefault(model, []).append(str(path))

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    # --- requests -----------------------------------------------------------------------------------------------

    def _model(self, adapter: str | None) -> str:
        match adapter:
            case "rubric":
                return self.settings.rubric_model
            case "judge":
                return self.settings.judge_model
            case None if self.settings.base_model:
                return self.settings.base_model
            case None:
                raise BackendError(
                    "base_model is not given, so the base cannot be asked. Name the server's base model."
                )
            case _:
                raise BackendError(f"Adapter `{adapter}` is not on a server; rubric and judge are. Use one of them.")

    def _group(
        self, model: str, example: Example, sampling: Sampling, stopped: threading.Event
    ) -> tuple[RolloutGroup, Usage]:
        """The completions of one example and what they took: all in one request where the server can."""
        wanted = sampling.num_generations
        written: list[Completion] = []
        tokens = read = 0
        refused = False
        while len(written) < wanted:
            at_once = wanted if wanted > 1 and not written and not refused and not self._one_by_one else 1
            seed = derive_seed(example.seed, len(written)) % 2**31  # fits what any server takes for a seed
            try:
                answer = self._complete(model, example.prompt, sampling, at_once, seed, stopped)
            except RefusedRequest as error:
                if at_once == 1 or error.status not in (400, 422):
                    raise
                refused = True  # perhaps for its n; if for something else, so is the next one
                continue
            written += answer.completions
            tokens += answer.tokens
            read += likely_tokens(example.prompt) if answer.prompt_tokens is None else answer.prompt_tokens
            self._one_by_one = self._one_by_one or refused
        samples = tuple(Sample(c.text, (), (), c.finish_reason) for c in written)
        return RolloutGroup(example, (), samples), Usage(read, tokens)

    def _complete(
        self, model: str, prompt: str, sampling: Sampling, n: int, seed: int, stopped: threading.Event
    ) -> Answer:
        settings = self.settings
        path = "/v1/chat/completions" if settings.chat else "/v1/completions"
        body: dict[str, Any] = {
            **settings.extra_body,
            "model": model,
            **self._prompt(prompt, sampling.thinking),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": seed,
        }
        if n > 1:
            body["n"] = n
        if model in self._salts:
            body["cache_salt"] = self._salts[model]
        if settings.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        while True:
            sent = self._without_dropped(body)
            try:
                if settings.stream:
                    return self._server.ask(path, sent, partial(self._streamed, path, n), stopped, MAX_STREAM)
                return self._server.ask(path, sent, partial(read_answer, wanted=n), stopped, MAX_BODY)
            except RefusedRequest as error:
                named = {key for key, words in _DROPPED_IF_NAMED.items() if any(w in error.said for w in words)}
                if error.status not in (400, 422) or not named & sent.keys():
                    raise
                self._dropped |= named  # each round leaves out one more field, so there are few

    def _streamed(self, path: str, n: int, chunks: Iterator[bytes]) -> Answer:
        try:
            return read_stream(chunks, n)
        except StreamError as error:
            raise self._server.refusal(path, error.status, error.said) from None

    def _prompt(self, prompt: str, thinking: bool = False) -> dict[str, Any]:
        if not self.settings.chat:
            return {"prompt": prompt}
        body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
        if self.settings.disable_thinking or thinking:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        return body

    def _without_dropped(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in body.items() if key not in self._dropped}


def _json_or_none(chunks: Iterator[bytes]) -> Any:
    try:
        return parse_json(b"".join(chunks))
    except ValueError:
        return None
