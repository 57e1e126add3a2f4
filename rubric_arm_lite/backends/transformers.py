"""One base model with a LoRA adapter per role, in transformers and PEFT.

Adapters ``rubric`` and ``judge``, and ``policy`` where there is one, sit on the same frozen base; ``rubric_ref`` and so
on are frozen copies of their warm-up states, the KL references. Which adapter is active, which parameters want
gradients and whether the model is in training mode change together, in one context manager, and outside it nothing is
trainable.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rubric_arm_lite.backends import shared_prefix
from rubric_arm_lite.backends.answers import next_word_logprobs
from rubric_arm_lite.backends.base import NextWords, Sampling
from rubric_arm_lite.backends.generation import Completion, generate
from rubric_arm_lite.batching import Layout, RowBatch, positions
from rubric_arm_lite.config import ModelSettings
from rubric_arm_lite.errors import BackendError, PromptTooLongError
from rubric_arm_lite.losses import TokenScores, score_tokens
from rubric_arm_lite.memory import SHARE_CUDA, free_cuda, is_out_of_memory, release
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import ROLES, Example, Role, RolloutGroup, Sample

MAX_ROWS_CPU = 512
MAX_ROWS_CUDA = 64


class TwoAdapterModel:
    """The base, its tokenizer and the adapters; samples completions and scores tokens for updates."""

    def __init__(self, model: Any, tokenizer: Any, settings: ModelSettings) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self._dtype: torch.dtype = model.dtype  # asked of the model it is looked for among all parameters
        self.max_rows = MAX_ROWS_CUDA if self.device.type == "cuda" else MAX_ROWS_CPU
        self._head = _Head(model.get_base_model())
        whole_rows = settings.gradient_checkpointing or not settings.shared_prefix
        self.layout: Layout = "separate" if whole_rows else "expanded"
        if model.get_base_model().config._attn_implementation == shared_prefix.NAME:
            self.layout = "packed"
        self.roles = tuple(model.peft_config)
        self.tokens_written = 0
        self._inside = False
        self._lora_layers = [m for m in model.modules() if hasattr(m, "lora_A") and hasattr(m, "_active_adapter")]
        self._parameters: dict[str, list[tuple[str, torch.nn.Parameter]]] = {}
        self._fingerprints: dict[str, str] = {}
        self._rounded: dict[str, list[tuple[Any, Tensor, Tensor]]] = {}
        config = model.generation_config.eos_token_id if model.generation_config else None
        configured = config if isinstance(config, list) else [config]
        self.end_ids = frozenset(int(i) for i in [tokenizer.eos_token_id, *configured] if i is not None)
        self._specials = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        self._specials_in_empty_turn = {
            thinking: self._count_specials(self._tokenize(self._wrap("", thinking))) for thinking in (False, True)
        }
        self._rest()

    @property
    def device(self) -> torch.device:
        """Where the base stands."""
        device: torch.device = self.model.device
        return device

    # --- adapters -----------------------------------------------------------------------------------------------

    @contextmanager
    def using(self, adapter: str | None, train: bool = False) -> Iterator[Any]:
        """Activate one adapter (None: the bare base), for sampling or, with ``train``, for updating it.

        Afterwards nothing is trainable and the model is in eval mode again, also after an error.
        """
        if self._inside:
            raise AssertionError("Adapters cannot be switched while one is in use: gradients would go astray.")
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
                self._activate(adapter)
                if train:
                    for _, parameter in self.parameters(adapter):
                        parameter.requires_grad_(True)
                    self._begin_training()
                if not train:
                    self._shorten(adapter)
                with self._precision():
                    yield self.model
        finally:
            if adapter is not None and train:
                self.changed(adapter)
            for layer, _, _ in self._rounded.get(adapter or "", ()):
                vars(layer).pop("forward", None)
            self._inside = False
            if adapter is None or train:  # else nothing has been touched but which adapter is active
                self._rest()

    def _precision(self) -> torch.autocast:
        """Adapters are kept in float32, so that small steps are not lost, and multiplied in the base's dtype.

        The cache of casts stays off: it would outlive the step that changes the weights, and cannot be recorded.
        """
        half = self._half()
        return torch.autocast(self.device.type, self._dtype if half else None, enabled=half, cache_enabled=False)

    def _half(self) -> bool:
        """Whether the base computes in half precision on a GPU."""
        return self.device.type == "cuda" and self._dtype in (torch.bfloat16, torch.float16)

    def _shorten(self, adapter: str) -> None:
        """Let LoRA layers write with an adapter rounded beforehand, in 2 small products in place of 8 operations.

        On a GPU a step of decoding costs as much as it has operations, however small they are.
        """
        if adapter not in self.roles or not self._half():  # a reference scores the way an update does, to the last bit
            return
        if adapter not in self._rounded:
            dtype = self._dtype
            plain = [m for m in self._lora_layers if adapter in m.lora_A and adapter not in m.lora_variant]
            self._rounded[adapter] = [
                (
                    layer,
                    layer.lora_A[adapter].weight.detach().to(dtype).T,
                    (layer.lora_B[adapter].weight.detach() * layer.scaling[adapter]).to(dtype).T,
                )
                for layer in plain
                if isinstance(layer.lora_A[adapter], torch.nn.Linear)
            ]
        for layer, down, up in self._rounded[adapter]:
            layer.forward = partial(_rounded_forward, layer.base_layer, down, up)

    def changed(self, adapter: str) -> None:
        """Note that an adapter's weights are others than before."""
        self._fingerprints.pop(adapter, None)
        self._rounded.pop(adapter, None)

    def _activate(self, adapter: str) -> None:
        """Make an adapter the active one: a name set in each layer, microseconds where PEFT walks the whole model.

        PEFT's ``set_adapter`` also switches gradients on and off, which here is :meth:`using`'s business alone.
        """
        for layer in self._lora_layers:
            layer._active_adapter = [adapter]
        self.model.active_adapter = self.model.base_model.active_adapter = adapter

    def _begin_training(self) -> None:
        self.model.train()

    def _rest(self) -> None:
        self.model.eval()
        self.model.requires_grad_(False)

    def parameters(self, adapter: str) -> list[tuple[str, torch.nn.Parameter]]:
        """Names and parameters of an adapter, in a fixed order."""
        if adapter not in self._parameters:
            found = [(name, p) for name, p in self.model.named_parameters() if f".{adapter}." in name]
            self._parameters[adapter] = found
        return self._parameters[adapter]

    def freeze_references(self, roles: Sequence[str] | None = None) -> None:
        """Make ``<role>_ref`` a frozen copy of each role's adapter as it is now (all roles if none are named)."""
        for role in self.roles if roles is None else roles:
            reference = f"{role}_ref"
            if reference not in self.model.peft_config:
                self.model.add_adapter(reference, self.model.peft_config[role])
                self._parameters.pop(reference, None)
            copies = dict(self.parameters(reference))
            with torch.no_grad():
                for name, parameter in self.parameters(role):
                    copies[name.replace(f".{role}.", f".{reference}.")].copy_(parameter)
            self.changed(reference)
        self._rest()

    def fingerprint(self, adapter: str | None) -> str:
        """SHA-256 (16 hex digits) of an adapter's bytes; ``base`` for the bare base."""
        if adapter is None:
            return "base"
        if adapter not in self._fingerprints:
            digest = hashlib.sha256()
            for name, parameter in self.parameters(adapter):
                digest.update(name.encode())
                digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
            self._fingerprints[adapter] = digest.hexdigest()[:16]
        return self._fingerprints[adapter]

    def save_adapter(self, adapter: str, folder: Path) -> None:
        """Write an adapter as a plain PEFT folder (safetensors)."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self.model, adapter_name=adapter, save_embedding_layers=False)
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors")
        self.model.peft_config[adapter].save_pretrained(str(folder))

    def load_adapter(self, adapter: str, folder: Path) -> None:
        """Copy a saved adapter's weights into the adapter of that name.

        Raises:
            BackendError: if the folder is not a LoRA adapter of this base and rank.
        """
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        self._check_adapter(folder)
        try:
            state = load_file(folder / "adapter_model.safetensors")
        except Exception as error:  # safetensors raises its own type for a broken header
            raise BackendError(f"{folder}/adapter_model.safetensors cannot be read: {error}. Save it again.") from error
        own = {name: p.shape for name, p in self.parameters(adapter)}
        given = {k.replace(".weight", f".{adapter}.weight"): v.shape for k, v in state.items()}
        wrong = sorted(k for k in own.keys() | given.keys() if own.get(k) != given.get(k))
        if wrong:
            name = wrong[0]
            raise BackendError(
                f"{folder} does not fit this base: `{name}` has shape {_shape(given.get(name))} there and "
                f"{_shape(own.get(name))} here ({len(wrong)} differ). Use the base it was trained on, or the same "
                "model.lora.r and target_modules."
            )
        set_peft_model_state_dict(self.model, state, adapter_name=adapter)
        self.changed(adapter)
        self._rest()

    def _check_adapter(self, folder: Path) -> None:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / name).is_file():
                raise BackendError(f"{folder} has no {name}: it is not a PEFT adapter. Name a folder that has both.")
        try:
            config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        except ValueError as error:
            raise BackendError(f"{folder}/adapter_config.json is not JSON: {error}. Save the adapter again.") from error
        if not isinstance(config, dict):
            raise BackendError(f"{folder}/adapter_config.json is no mapping. Save the adapter again.")
        if config.get("peft_type") != "LORA":
            raise BackendError(f"{folder} holds a {config.get('peft_type')!r} adapter; only LORA adapters are used.")
        rank = self.settings.lora.r
        if config.get("r") != rank:
            raise BackendError(
                f"{folder} has rank {config.get('r')}, the recipe says model.lora.r: {rank}. Set it to "
                f"{config.get('r')} or choose another adapter."
            )
        alpha = config.get("lora_alpha")
        if alpha != self.settings.lora.alpha:
            raise BackendError(
                f"{folder} has lora_alpha {alpha}, the recipe says model.lora.alpha: {self.settings.lora.alpha:g}. "
                f"Set it to {alpha}: with another scale the adapter would not be what was trained."
            )
        for name in ("use_rslora", "alpha_pattern"):
            if config.get(name):
                raise BackendError(
                    f"{folder} uses {name}, which this project does not: its scale would be another. Train it with a "
                    "plain lora_alpha."
                )

    # --- prompts ------------------------------------------------------------------------------------------------

    def encode(self, prompt: str) -> list[int]:
        """Token ids of one user turn with the chat template around it, thinking off.

        The same rendering serves warm-up, training and inference.

        Raises:
            BackendError: if the text smuggled a control token past :class:`~rubric_arm_lite.prompts.PromptBuilder`.
        """
        return self._encode_all([prompt])[0]

    def _encode_all(self, prompts: Sequence[str], thinking: bool = False) -> list[list[int]]:
        """:meth:`encode` of many prompts, tokenised together; with ``thinking``, the template switches thoughts on."""
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

    def prompt_tokens(self, prompt: str) -> int:
        """Length of :meth:`encode`'s result."""
        return len(self.encode(prompt))

    def control_tokens(self) -> list[str]:
        """Strings that the tokenizer reads as control tokens."""
        return control_tokens(self.tokenizer)

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

    # --- sampling -----------------------------------------------------------------------------------------------

    def sample(self, adapter: str | None, examples: Sequence[Example], sampling: Sampling) -> list[RolloutGroup]:
        """One group of completions per example (see :class:`~rubric_arm_lite.backends.base.Sampler`).

        Where prompt and completion do not fit ``max_context``, nothing is written and the samples say so: they are
        empty and cut by length. Pairs that long are left out before a run starts; what remains are the rare prompts
        that a rubric makes longer than foreseen, and those must not end a run.
        """
        prompts = self._encode_all([example.prompt for example in examples], sampling.thinking)
        room = self.settings.max_context - sampling.max_tokens
        fitting = [i for i, ids in enumerate(prompts) if len(ids) <= room]
        if examples and not fitting:
            length, first = min((len(ids), i) for i, ids in enumerate(prompts))
            raise PromptTooLongError(
                f"{examples[first].example_id}: prompt of {length} tokens + {sampling.max_tokens} to write exceeds "
                f"model.max_context ({self.settings.max_context}). Raise it or shorten the prompt."
            )
        cut = Sample("", (), (), "length")
        samples = [(cut,) * sampling.num_generations for _ in examples]
        with self.using(adapter) as model:
            texts, seeds = [prompts[i] for i in fitting], [examples[i].seed for i in fitting]
            groups: list[list[Completion]] = []
            while fitting and not groups:
                rows = min(self.max_rows, self._rows_that_fit(max(map(len, texts)), sampling))
                try:
                    groups = self._write(model, texts, seeds, sampling, rows)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                if not groups:  # out here, where the error no longer holds on to the tensors of its frames
                    self._halve_rows(sampling, len(fitting))
        for i, group in zip(fitting, groups, strict=True):
            samples[i] = tuple(self._sample_of(completion) for completion in group)
            self.tokens_written += sum(len(sample.token_ids) for sample in samples[i])
        return [
            RolloutGroup(example, tuple(ids), group)
            for example, ids, group in zip(examples, prompts, samples, strict=True)
        ]

    def _write(
        self, model: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: Sampling, rows: int
    ) -> list[list[Completion]]:
        """``num_generations`` completions of each prompt's ids, at most ``rows`` at once."""
        pad = int(self.tokenizer.pad_token_id)
        head = self._head if self.layout == "packed" else None
        return generate(model, prompts, seeds, sampling, self.end_ids, pad, rows, head)

    def _share_of_prompt(self, sampling: Sampling) -> float:
        """The part of a prompt's cache that one completion holds."""
        return 1 / sampling.num_generations if self.layout == "packed" else 1.0

    def _rows_that_fit(self, prompt: int, sampling: Sampling) -> int:
        """Rows whose caches a GPU holds, each with its share of a prompt of so many tokens; one prompt's at least."""
        if self.device.type != "cuda":
            return self.max_rows
        release(self.device)
        config = self.model.get_base_model().config.get_text_config()
        size = self._dtype.itemsize
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache = 2 * config.num_hidden_layers * heads * head * size
        share = prompt * self._share_of_prompt(sampling)
        # A prompt passes through one layer at a time, whose widest tensors are those of its MLP; probabilities are
        # held a few times over.
        row = sampling.max_tokens * cache + share * (cache + 6 * config.intermediate_size * size)
        row += 6 * 4 * config.vocab_size
        return max(sampling.num_generations, int(SHARE_CUDA * free_cuda(self.device) / row))

    def _halve_rows(self, sampling: Sampling, prompts: int) -> None:
        """Sample fewer completions at once; the same are drawn again, since each has its own seed.

        Raises:
            BackendError: if they went one prompt at a time already.
        """
        release(self.device)
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

    def _sample_of(self, completion: Completion) -> Sample:
        ids = completion.token_ids[:-1] if completion.stopped else completion.token_ids
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        return Sample(text, completion.token_ids, completion.logprobs, "stop" if completion.stopped else "length")

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        """See :class:`~rubric_arm_lite.backends.base.WordReader` and :mod:`.answers`."""
        return next_word_logprobs(self, adapter, questions)

    # --- scoring for updates ------------------------------------------------------------------------------------

    def score(self, model: Any, batch: RowBatch, temperature: float, layout: Layout) -> TokenScores:
        """Log-probabilities and entropies of a batch's completion tokens under the active adapter.

        All layouts give the same numbers; they differ in how often a prompt goes through the network.
        """
        base = model.get_base_model()
        kept = batch.mask_RC.bool().flatten()
        match layout:
            case "packed":
                hidden_N = self._packed_hidden(base, batch)
            case "expanded":
                hidden_N = self._expanded_hidden(base, batch).flatten(0, 1)[kept]
            case "separate":
                hidden_N = self._separate_hidden(base, batch).flatten(0, 1)[kept]
        rows, length = batch.completions_RC.shape
        logp, entropy = score_tokens(
            hidden_N,
            batch.completions_RC.flatten()[kept],
            self._head,
            temperature,
            base.config.get_text_config().vocab_size,
        )
        spread = torch.zeros((2, rows * length), dtype=logp.dtype, device=logp.device)
        index = kept.nonzero().squeeze(-1)
        return TokenScores(
            spread[0].index_copy(0, index, logp).view(rows, length),
            spread[1].index_copy(0, index, entropy).view(rows, length),
        )

    def _packed_hidden(self, base: Any, batch: RowBatch) -> Tensor:
        """Hidden states (N, H) that predict each completion token, every distinct prefix computed once."""
        packed = batch.packed
        if packed is None:
            raise AssertionError("The batch was made for another layout.")
        one_row = shared_prefix.PackedPass(packed.tree)
        hidden = shared_prefix.forward(base.get_decoder(), packed.ids_1T, packed.positions_1T, one_row)
        return hidden[0].index_select(0, packed.source_N)

    def _expanded_hidden(self, base: Any, batch: RowBatch) -> Tensor:
        """Hidden states (R, C, H) that predict each completion token, prompts computed once."""
        from transformers import DynamicCache

        cache = DynamicCache()
        mask = batch.prompt_mask_gP
        prompt = base.get_decoder()(
            input_ids=batch.prompts_gP,
            attention_mask=mask,
            position_ids=positions(mask),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        last = torch.index_select(prompt[:, -1:], 0, batch.group_of_R)
        if batch.completions_RC.shape[1] == 1:
            return last
        cache.batch_select_indices(batch.group_of_R)
        lengths = mask.sum(-1).index_select(0, batch.group_of_R)
        inputs = batch.completions_RC[:, :-1]
        whole_mask = torch.cat([mask.index_select(0, batch.group_of_R), batch.mask_RC[:, :-1]], dim=1)
        rest = base.get_decoder()(
            input_ids=inputs,
            attention_mask=whole_mask,
            position_ids=lengths[:, None] + torch.arange(inputs.shape[1], device=lengths.device),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return torch.cat([last, rest], dim=1)

    def _separate_hidden(self, base: Any, batch: RowBatch) -> Tensor:
        """Hidden states (R, C, H), every row with its own prompt."""
        ids = torch.cat([batch.prompts_gP.index_select(0, batch.group_of_R), batch.completions_RC], dim=1)
        mask = torch.cat([batch.prompt_mask_gP.index_select(0, batch.group_of_R), batch.mask_RC], dim=1)
        width = batch.prompts_gP.shape[1]
        hidden: Tensor = base.get_decoder()(
            input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
        ).last_hidden_state
        return torch.narrow(hidden, 1, width - 1, batch.completions_RC.shape[1])


def control_tokens(tokenizer: Any) -> list[str]:
    """Strings that a tokenizer reads as control tokens; added words that are plain words are none."""
    added = tokenizer.added_tokens_decoder.values()
    return [
        *tokenizer.all_special_tokens,
        *(token.content for token in added if token.special or not token.content.strip().isalnum()),
    ]


def _rounded_forward(base: Any, down: Tensor, up: Tensor, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """What a LoRA layer computes: the base's output and the adapter's, ``up`` scaled already."""
    out: Tensor = base(x)
    flat = torch.addmm(out.reshape(-1, out.shape[-1]), x.reshape(-1, x.shape[-1]).to(down.dtype) @ down, up)
    return flat.view(out.shape)


class _Head:
    """From hidden states to logits, as the architecture does it (some cap or scale their logits)."""

    def __init__(self, base: Any) -> None:
        config = base.config.get_text_config()
        self._layer = base.get_output_embeddings()
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._factor = float(getattr(config, "logit_scale", 1.0) or 1.0)
        self._divisor = float(getattr(config, "logits_scaling", 1.0) or 1.0)

    def __call__(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._layer(hidden) * (self._factor / self._divisor)
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape))


def new_adapters(model: Any, settings: ModelSettings, seed: int, roles: Sequence[Role] = ROLES) -> Any:
    """Put a freshly initialised adapter per role on a base; each one's draw depends on ``seed`` and its role alone."""
    from peft import get_peft_model

    config = lora_config(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora", roles[0]))
        peft_model: Any = get_peft_model(model, config, adapter_name=roles[0])
        for role in roles[1:]:
            torch.manual_seed(derive_seed(seed, "lora", role))
            peft_model.add_adapter(role, config)
    return peft_model


def lora_config(settings: ModelSettings) -> Any:
    """PEFT's configuration of either adapter."""
    from peft import LoraConfig

    lora = settings.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
