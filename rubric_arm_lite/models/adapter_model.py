"""One base model with a LoRA adapter per role, in transformers and PEFT.

Adapters ``rubric`` and ``judge``, and ``policy`` where there is one, share a frozen base; ``rubric_ref`` and so on are
frozen copies of their warm-up states, the KL references. One context manager switches the active adapter, the trainable
parameters and the training mode together; outside it nothing is trainable.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rubric_arm_lite.errors import BackendError, PromptTooLongError
from rubric_arm_lite.models.chat import ChatTokenizer
from rubric_arm_lite.models.generate import CacheUse, Completion, generate
from rubric_arm_lite.models.logprobs import Head, TokenScores, next_word_logprobs, score_batch
from rubric_arm_lite.models.lora import read_adapter
from rubric_arm_lite.models.memory import SHARE_CUDA, free_cuda, is_out_of_memory
from rubric_arm_lite.models.sampler import NextWords, Sampling
from rubric_arm_lite.models.shared_prefix import passes as shared_prefix
from rubric_arm_lite.models.shared_prefix.batching import Layout, Row, RowBatch, make_batch
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.types import Example, RolloutGroup, Sample

MAX_ROWS_CPU = 512
MAX_ROWS_CUDA = 64
MERGED_FROM, MERGED_UP_TO = 2**26, 2**30
"""Bytes of linear weights from and up to which a CPU keeps a copy with the adapter added: the copy of a larger model
would not pay for its memory, and the products of a smaller one cost little."""


class AdapterModel(ChatTokenizer):
    """A base, its tokenizer and its adapters; samples completions and scores tokens for updates."""

    def __init__(self, model: Any, tokenizer: Any, settings: ModelSettings) -> None:
        super().__init__(tokenizer, settings)
        self.model = model
        self.settings = settings
        self.dtype: torch.dtype = model.dtype  # the property searches all parameters
        self.max_rows = MAX_ROWS_CUDA if self.device.type == "cuda" else MAX_ROWS_CPU
        self.head = Head(model.get_base_model())
        whole_rows = settings.gradient_checkpointing or not settings.shared_prefix
        self.layout: Layout = "separate" if whole_rows else "expanded"
        if model.get_base_model().config._attn_implementation == shared_prefix.ATTENTION_NAME:
            self.layout = "packed"
        self.cache_use: CacheUse = "shared" if self.layout == "packed" else "copied"
        self.roles = tuple(model.peft_config)
        self.tokens_written = 0
        self._inside = False
        self._lora_layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "_active_adapter")]
        self._parameters: dict[str, list[tuple[str, torch.nn.Parameter]]] = {}
        self._fingerprints: dict[str, str] = {}
        self._shortened: dict[str, list[tuple[Any, Callable[..., Tensor]]]] = {}
        linear = sum(w.numel() * w.element_size() for layer in self._lora_layers for w in _plain_weights(layer))
        self._merges = (
            self.device.type == "cpu" and self.dtype == torch.float32 and MERGED_FROM <= linear <= MERGED_UP_TO
        )
        configured = model.generation_config.eos_token_id if model.generation_config else None
        configured = configured if isinstance(configured, list) else [] if configured is None else [configured]
        ids = range(model.get_base_model().get_input_embeddings().weight.shape[0])
        if not all(isinstance(i, int) for i in configured):
            raise BackendError(
                f"`{settings.base}`: eos_token_id in generation_config.json is neither a token's id nor a list of "
                "them. Correct it."
            )
        self.end_ids = frozenset(i for i in [tokenizer.eos_token_id, self.end_id, *configured] if i in ids)
        self._begin_inference()

    @property
    def device(self) -> torch.device:
        """Device of the base."""
        device: torch.device = self.model.device
        return device

    @contextmanager
    def using(self, adapter: str | None, train: bool = False) -> Iterator[Any]:
        """Activate one adapter (None: the bare base), for sampling or, with ``train``, for updates.

        Afterwards, also after an error, nothing is trainable and the model is in eval mode.
        """
        if self._inside:
            raise AssertionError("Adapters cannot be switched while one is in use: gradients would mix.")
        if adapter is None and train:
            raise ValueError("The base is frozen; name an adapter to train.")
        self._inside = True
        try:
            if adapter is None:
                with self.model.disable_adapter(), self._precision():
                    yield self.model
            else:
                if adapter not in self.model.peft_config:
                    raise BackendError(f"There is no adapter `{adapter}`; there are {sorted(self.model.peft_config)}.")
                # By name in each layer: microseconds. PEFT's `set_adapter` walks the model and switches gradients.
                for layer in self._lora_layers:
                    layer._active_adapter = [adapter]
                self.model.active_adapter = self.model.base_model.active_adapter = adapter
                if train:
                    for _, parameter in self.parameters(adapter):
                        parameter.requires_grad_(True)
                    self._begin_training()
                else:
                    self._shorten(adapter)
                with self._precision():
                    yield self.model
        finally:
            if adapter is not None and train:
                self.weights_changed(adapter)
            for layer, _ in self._shortened.get(adapter or "", ()):
                vars(layer).pop("forward", None)
            self._inside = False
            if adapter is None or train:  # otherwise only the active adapter has changed
                self._begin_inference()

    def _precision(self) -> torch.autocast:
        """Multiply adapters in the base's dtype; they are stored in float32, so that small steps are not lost."""
        half = self._half()
        # The cache of casts is off: it would outlive the step that changes the weights, and cannot be recorded.
        return torch.autocast(self.device.type, self.dtype if half else None, enabled=half, cache_enabled=False)

    def _half(self) -> bool:
        """Whether the base computes in half precision on a GPU."""
        return self.device.type == "cuda" and self.dtype in (torch.bfloat16, torch.float16)

    def _shorten(self, adapter: str) -> None:
        """Let LoRA layers sample with fewer operations than an update needs.

        On a GPU, whose decoding step costs by the number of operations, the adapter is rounded beforehand: 2 small
        products in place of 8 operations. On a CPU it is added to a copy of the base's weights, if that is small: they
        are then the only product.
        """
        if adapter not in self.roles or not (self._half() or self._merges):  # a reference scores like an update
            return
        if adapter not in self._shortened:
            if self._merges:  # one copy at a time
                self._shortened.clear()
            self._shortened[adapter] = [
                (layer, self._short_forward(layer, adapter))
                for layer in self._lora_layers
                if adapter in layer.lora_A
                and adapter not in layer.lora_variant
                and isinstance(layer.lora_A[adapter], torch.nn.Linear)
                and (self._half() or _plain_weights(layer))
            ]
        for layer, short in self._shortened[adapter]:
            layer.forward = short

    def _short_forward(self, layer: Any, adapter: str) -> Callable[..., Tensor]:
        down = layer.lora_A[adapter].weight.detach()
        up = layer.lora_B[adapter].weight.detach() * layer.scaling[adapter]
        if self._half():
            return partial(_rounded_forward, layer.base_layer, down.to(self.dtype).T, up.to(self.dtype).T)
        weight = torch.addmm(layer.base_layer.weight.detach(), up, down)
        return partial(_merged_forward, weight, layer.base_layer.bias)

    def weights_changed(self, adapter: str) -> None:
        """Drop cached values of an adapter whose weights have changed."""
        self._fingerprints.pop(adapter, None)
        self._shortened.pop(adapter, None)

    def _begin_training(self) -> None:
        self.model.train()

    def _begin_inference(self) -> None:
        self.model.eval()
        self.model.requires_grad_(False)

    def parameters(self, adapter: str) -> list[tuple[str, torch.nn.Parameter]]:
        """Names and parameters of an adapter, in a fixed order."""
        if adapter not in self._parameters:
            named = self.model.named_parameters()
            self._parameters[adapter] = [(name, p) for name, p in named if f".{adapter}." in name]
        return self._parameters[adapter]

    def freeze_references(self, roles: Sequence[str] | None = None) -> None:
        """Make ``<role>_ref`` a frozen copy of each role's current adapter (default: all roles)."""
        for role in self.roles if roles is None else roles:
            reference = f"{role}_ref"
            if reference not in self.model.peft_config:
                self.model.add_adapter(reference, self.model.peft_config[role])
                self._parameters.pop(reference, None)
            copies = dict(self.parameters(reference))
            with torch.no_grad():
                for name, parameter in self.parameters(role):
                    copies[name.replace(f".{role}.", f".{reference}.")].copy_(parameter)
            self.weights_changed(reference)
        self._begin_inference()

    def fingerprint(self, adapter: str | None) -> str:
        """SHA-256 (16 hex digits) of an adapter's bytes, whatever its name; ``base`` for the bare base."""
        if adapter is None:
            return "base"
        if adapter not in self._fingerprints:
            digest = hashlib.sha256()
            for name, parameter in self.parameters(adapter):
                digest.update(name.replace(f".{adapter}.", ".").encode())
                digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
            self._fingerprints[adapter] = digest.hexdigest()[:16]
        return self._fingerprints[adapter]

    def save_adapter(self, adapter: str, folder: Path) -> None:
        """Write an adapter as a plain PEFT folder (safetensors)."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        # By our own names: PEFT 0.19 saves every adapter whose name holds this one's, as `rubric_ref` holds `rubric`.
        weights = {name: parameter.detach().cpu().contiguous() for name, parameter in self.parameters(adapter)}
        named = {f"{name.removesuffix(f'.{adapter}.weight')}.weight": value for name, value in weights.items()}
        save_file(named, folder / "adapter_model.safetensors")
        self.model.peft_config[adapter].save_pretrained(str(folder))

    def load_adapter(self, adapter: str, folder: Path) -> None:
        """Copy a saved adapter's weights into the adapter of that name.

        Raises:
            BackendError: if the folder is not a LoRA adapter of this base and rank.
        """
        read_adapter(adapter, folder, self.settings.lora, self.parameters(adapter))
        self.weights_changed(adapter)
        self._begin_inference()

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """One group of completions per example (see :class:`~rubric_arm_lite.models.sampler.Sampler`).

        Where prompt and completion do not fit ``max_context``, the samples are empty and end with ``length``. Pairs
        that long are skipped before a run starts; the rare prompts that an unexpectedly long rubric makes too long
        must not end a run.

        Raises:
            PromptTooLongError: if no prompt fits.
            BackendError: if memory does not suffice for the completions of one prompt.
        """
        prompts = self.encode_all([example.prompt for example in examples], sampling.thinking)
        room = self.settings.max_context - sampling.max_tokens
        fitting = [i for i, ids in enumerate(prompts) if len(ids) <= room]
        if examples and not fitting:
            length, first = min((len(ids), i) for i, ids in enumerate(prompts))
            raise PromptTooLongError(
                f"{examples[first].example_id}: prompt of {length} tokens + {sampling.max_tokens} to write exceeds "
                f"model.max_context ({self.settings.max_context}). Raise it or shorten the prompt."
            )
        samples = [(Sample("", (), (), "length"),) * sampling.num_generations for _ in examples]
        with self.using(adapter) as model:
            encoded, seeds = [prompts[i] for i in fitting], [examples[i].seed for i in fitting]
            groups: list[list[Completion]] = []
            while fitting and not groups:
                rows = min(self.max_rows, self._rows_that_fit(max(map(len, encoded)), sampling))
                try:
                    groups = self._write(model, encoded, seeds, sampling, rows)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                if not groups:  # outside the handler, where the error no longer holds the tensors of its frames
                    self._halve_rows(sampling, len(fitting))
        for i, group in zip(fitting, groups, strict=True):
            texts = [self.tokenizer.decode(c.token_ids[: -1 if c.stopped else None]) for c in group]
            samples[i] = tuple(
                Sample(text, c.token_ids, c.logprobs, "stop" if c.stopped else "length")
                for text, c in zip(texts, group, strict=True)
            )
            self.tokens_written += sum(len(c.token_ids) for c in group)
        return [
            RolloutGroup(example, tuple(ids), group)
            for example, ids, group in zip(examples, prompts, samples, strict=True)
        ]

    def _write(
        self, model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, rows: int
    ) -> list[list[Completion]]:
        """``num_generations`` completions of each prompt's ids, at most ``rows`` at once."""
        pad = int(self.tokenizer.pad_token_id)
        return generate(model, prompts, seeds, sampling, self.end_ids, pad, rows, self.head, self.cache_use)

    def _rows_that_fit(self, prompt: int, sampling: Sampling) -> int:
        """Rows whose caches fit a GPU, each with its share of a prompt of this many tokens; at least one prompt's."""
        if self.device.type != "cuda":
            return self.max_rows
        torch.cuda.empty_cache()
        config = self.model.get_base_model().config.get_text_config()
        size = self.dtype.itemsize
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache = 2 * config.num_hidden_layers * heads * head * size
        share = prompt / sampling.num_generations if self.layout == "packed" else prompt  # of the prompt's cache
        # A prompt passes through one layer at a time, whose widest tensors are those of its MLP; probabilities are
        # held a few times over.
        row = sampling.max_tokens * cache + share * (cache + 6 * config.intermediate_size * size)
        row += 6 * 4 * config.vocab_size
        return max(sampling.num_generations, int(SHARE_CUDA * free_cuda(self.device) / row))

    def _halve_rows(self, sampling: Sampling, prompts: int) -> None:
        """Sample fewer completions at once; each has its own seed, so the same ones are drawn again.

        Raises:
            BackendError: if only one prompt's completions were sampled at once.
        """
        torch.cuda.empty_cache()
        before = min(self.max_rows, prompts * sampling.num_generations)
        if before <= sampling.num_generations:
            raise BackendError(
                f"Memory ran out while sampling {sampling.num_generations} completions of one prompt. Lower "
                "num_generations or max_completion_length, or use a smaller base or model.quantization: nf4."
            )
        self.max_rows = before // 2
        warnings.warn(
            f"Memory ran out while sampling {before} completions at once; going on with {self.max_rows}.", stacklevel=2
        )

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        """See :class:`~rubric_arm_lite.models.sampler.WordReader`; errors as in :mod:`.logprobs`."""
        with self.using(adapter) as model, torch.no_grad():

            def score(rows: list[Row]) -> Tensor:
                batch = make_batch(rows, int(self.tokenizer.pad_token_id), self.device, self.layout)
                return (self.score(model, batch, 1.0, self.layout).logprobs * batch.mask_RC).sum(-1)

            return next_word_logprobs(self, questions, self.settings.max_context, self.layout, score)

    def score(self, model: Any, batch: RowBatch, temperature: float, layout: Layout) -> TokenScores:
        """Log-probabilities and entropies of a batch's completion tokens under the active adapter."""
        return score_batch(model.get_base_model(), self.head, batch, temperature, layout)


def _plain_weights(layer: Any) -> list[Tensor]:
    """The weight of a LoRA layer's base where it is a plain linear layer, in no quantized form."""
    base = layer.base_layer
    return [base.weight] if type(base) is torch.nn.Linear and base.weight.dtype == torch.float32 else []


def _merged_forward(weight: Tensor, bias: Tensor | None, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Output of a LoRA layer whose adapter has been added to its weight."""
    return torch.nn.functional.linear(x, weight, bias)


def _rounded_forward(base: Any, down: Tensor, up: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Output of a LoRA layer: the base's plus the adapter's; ``up`` includes the scaling."""
    out: Tensor = base(x)
    flat = torch.addmm(out.reshape(-1, out.shape[-1]), x.reshape(-1, x.shape[-1]).to(down.dtype) @ down, up)
    return flat.view(out.shape)
