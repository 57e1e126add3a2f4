"""What a recipe needs: memory of each stage on a card, the field to change where it does not fit.

Enter: a recipe and the shape of its base. Leave: a table of bytes and the length of a cycle. Nothing is loaded and no
GPU is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rubric_arm_lite.data import blocks_from_pairs, read_blocks, read_pairs
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS, base_folder
from rubric_arm_lite.errors import ConfigError, DataError, first_line
from rubric_arm_lite.recipe import GRPOSettings, ModelSettings, Recipe, SFTSettings
from rubric_arm_lite.training.schedule import scheduled_phases
from rubric_arm_lite.types import Role


@dataclass(frozen=True, slots=True)
class Length:
    """Steps and tokens by role; a role of which they cannot be told is in neither.

    Attributes:
        prompts: training prompts that a phase without ``max_steps`` goes through, over all cycles; None if not needed
            or not known.
        steps: of one phase; of the longest where cycles differ by a prompt.
        tokens: most that one cycle writes: rollouts, and the other role's part in their rewards.
        unknown: why something cannot be told, and what to add; empty if all is told.
    """

    prompts: int | None = None
    steps: dict[Role, int] = field(default_factory=dict)
    tokens: dict[Role, int] = field(default_factory=dict)
    unknown: str = ""


def length_of(recipe: Recipe) -> Length:
    """Steps and tokens of a cycle of the roles that are trained."""
    if recipe.model.checkpoints is not None:
        return Length()
    roles = list(dict.fromkeys(role for slot in scheduled_phases(recipe.schedule) for role in slot.roles))
    unset = [role for role in roles if recipe.grpo(role).max_steps is None]
    prompts, problem = _training_prompts(recipe) if unset else (None, "")
    steps: dict[Role, int] = {}
    for role in roles:
        settings = recipe.grpo(role)
        if settings.max_steps is not None:
            steps[role] = settings.max_steps
        elif prompts is not None:
            steps[role] = -(-prompts // (recipe.schedule.cycles * settings.prompts_per_step))
    tokens = {role: _tokens(recipe, role, count) for role, count in steps.items()}
    return Length(prompts, steps, tokens, _unknown(recipe, unset, problem) if problem else "")


def _training_prompts(recipe: Recipe) -> tuple[int | None, str]:
    """Prompts that a run would train on at most, or None and why they cannot be counted.

    Benchmarks to keep clear of and held-out pairs that are not on this machine are not looked up, nor are lengths in
    tokens, so a run may train on a few less.
    """
    settings = recipe.data
    if settings.source == "testbed":
        return settings.train_prompts or TRAIN_PROMPTS, ""
    if not _is_file(settings.source):
        return settings.train_prompts, "" if settings.train_prompts else f"{settings.source} is no file on this machine"
    try:
        if settings.evaluation is None or _is_file(settings.evaluation):
            return len(read_blocks(settings, recipe.seed)[0]), ""
        blocks = blocks_from_pairs(read_pairs(settings, recipe.seed)[0])
        return len(blocks[: settings.train_prompts]), ""
    except DataError as error:
        return None, f"the prompts cannot be counted ({str(error).rstrip('.')})"


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return False


def _tokens(recipe: Recipe, role: Role, steps: int) -> int:
    settings = recipe.grpo(role)
    prompts = steps * settings.prompts_per_step
    written = prompts * settings.num_generations * settings.max_completion_length
    if role == "judge":
        groups = settings.pairs_per_prompt * (2 if recipe.reward.judge == "pointwise" else 1)
        return written * groups + prompts * _rubrics(recipe, settings) * recipe.rubric.max_completion_length
    return written + prompts * _judgements(recipe, settings) * recipe.reward.judge_max_tokens


def _rubrics(recipe: Recipe, settings: GRPOSettings) -> int:
    """Rubrics that a judge step draws for one prompt at most, those that do not parse included."""
    attempts = recipe.reward.rubric_attempts if recipe.reward.rubric_temperature else 1
    return attempts * min(settings.pairs_per_prompt, recipe.cache.rubrics_per_prompt)


def _judgements(recipe: Recipe, settings: GRPOSettings) -> int:
    """Judgements that the rubrics of one prompt are rewarded by."""
    orders = 2 if recipe.reward.judge_orders == "both" or recipe.reward.judge == "pointwise" else 1
    return settings.num_generations * settings.pairs_per_prompt * orders * recipe.reward.judge_samples


def _unknown(recipe: Recipe, unset: list[Role], problem: str) -> str:
    """One sentence of why, one of what to do."""
    fields = [f"{role}.max_steps" for role in unset]
    verb = "is" if len(fields) == 1 else "are"
    mend = "" if _is_file(recipe.data.source) else ", or --set data.source=FILE"
    return (
        f"Tokens and hours cannot be told: {' and '.join(fields)} {verb} null, so a phase goes once through the data, "
        f"and {problem}. Add {' '.join(f'--set {name}=N' for name in fields)}{mend}."
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense decoder."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of one layer's matrices."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.mlp),
            "up_proj": (self.hidden, self.mlp),
            "down_proj": (self.mlp, self.hidden),
        }

    @property
    def linear_weights(self) -> int:
        """Weights of all layers' matrices, what NF4 quantises."""
        return self.layers * sum(a * b for a, b in self.linears().values())

    @property
    def other_weights(self) -> int:
        """Embedding and head, which stay as they are, and norms."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden

    def lora_weights(self, settings: ModelSettings) -> int:
        """Weights of one adapter."""
        chosen = settings.lora.target_modules
        shapes = self.linears()
        names = list(shapes) if isinstance(chosen, str) else [name for name in shapes if name in chosen]
        return self.layers * settings.lora.r * sum(sum(shapes[name]) for name in names)

    def cache_bytes(self, size: float) -> float:
        """Bytes that one token's keys and values take in a cache."""
        return 2 * self.layers * self.key_heads * self.head_size * size


QWEN3 = {
    "0.6B": Shape(28, 1024, 3072, 16, 8, 128, 151936, True),
    "1.7B": Shape(28, 2048, 6144, 16, 8, 128, 151936, True),
    "4B": Shape(36, 2560, 9728, 32, 8, 128, 151936, True),
    "8B": Shape(36, 4096, 12288, 32, 8, 128, 151936, False),
    "14B": Shape(40, 5120, 17408, 40, 8, 128, 151936, False),
    "32B": Shape(64, 5120, 25600, 64, 8, 128, 151936, False),
}
KNOWN = {f"Qwen/Qwen3-{size}": shape for size, shape in QWEN3.items()}
"""Bases of shipped recipes, so that a plan needs no download (from their published configurations)."""


def shape_of(base: str) -> Shape:
    """The shape of a base: of the shipped one, a folder, a known Hub id, or one that transformers can look up.

    Raises:
        ConfigError: if it cannot be found, or is no dense decoder.
    """
    if base in KNOWN:
        return KNOWN[base]
    folder = base_folder() if base == "testbed" else Path(base)
    if (folder / "config.json").is_file():
        try:
            fields = json.loads((folder / "config.json").read_text("utf-8"))
        except ValueError as error:
            raise ConfigError(f"{folder}/config.json is not JSON: {error}. Copy the model again.") from error
    else:
        fields = _looked_up(base)
    return _shape(base, fields)


def _looked_up(base: str) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(base, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.base: the configuration of `{base}` cannot be read ({first_line(error)}). Give a folder "
            f"with config.json, a Hub id that can be reached, or one of {', '.join(KNOWN)}."
        ) from error
    return found


def _shape(base: str, fields: Any) -> Shape:
    if isinstance(fields, dict) and isinstance(fields.get("text_config"), dict):
        fields = fields["text_config"]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    missing = [name for name in names if not isinstance(fields, dict) or not isinstance(fields.get(name), int)]
    if missing:
        raise ConfigError(
            f"model.base: the configuration of `{base}` has no {missing[0]}, so it cannot be planned for."
        )
    experts = next(
        (name for name in ("num_experts", "num_local_experts", "n_routed_experts") if fields.get(name)), None
    )
    if experts:
        raise ConfigError(f"model.base: `{base}` has {experts}; a plan is made for dense models only.")
    heads = fields["num_attention_heads"]
    return Shape(
        fields["num_hidden_layers"],
        fields["hidden_size"],
        fields["intermediate_size"],
        heads,
        fields.get("num_key_value_heads") or heads,
        fields.get("head_dim") or fields["hidden_size"] // heads,
        fields["vocab_size"],
        bool(fields.get("tie_word_embeddings", False)),
    )


GIB = 2**30
CONTEXT = 0.67 * GIB
"""Bytes of a CUDA context and its libraries, which no tensor can use (H100; a small card has less)."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of one weight with double quantisation: 4 bits, an 8-bit constant per block of 64, a float32 one per 256 blocks."""
MOMENTS = {"adamw_torch": 8.0, "adamw_8bit": 2 + 8 / 256}
"""Bytes that an optimizer keeps of one weight: two float32 numbers, or 8 bits each and a constant per 256."""
PER_MLP, PER_HIDDEN, PER_HIDDEN_CHECKPOINTED = 8.0, 38.0, 2.0
"""Bytes of a token in the layer that is in backward, per MLP channel and per hidden channel in half precision; and of a
token in each checkpointed layer. Fitted to updates of Qwen3-8B and 14B."""
SAVED = {4.0: (16.0, 38.0), 2.0: (10.0, 45.0)}
"""Bytes that autograd keeps of a token and a layer without checkpointing, per MLP and per hidden channel, by the bytes
of a number. Half precision saves little: adapters stay in float32, and every layer's input is kept in both."""
CHUNK = 256
"""Tokens whose logits the warm-up has at once where the vocabulary is large."""
LOGITS_HELD = 6
"""Float32 copies of a chunk of logits held at once in backward."""
PROCESS = 0.57 * GIB
"""What Python and its libraries take on a CPU, TRL and matplotlib among them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Bytes of a stage by what takes them.

    Attributes:
        least: what it cannot do with less of.
        used: what it takes on the card that the plan is for, with an automatic micro-batch.
    """

    name: str
    parts: dict[str, float]
    least: float
    used: float


class Planner:
    """Plans the stages of one recipe on a base of one shape, for a card of so many bytes (None: none in particular)."""

    def __init__(self, recipe: Recipe, shape: Shape, card: float | None, cuda: bool) -> None:
        from rubric_arm_lite.models.logprobs import LOGIT_BYTES
        from rubric_arm_lite.models.memory import CPU_AIM, SHARE_CUDA
        from rubric_arm_lite.training.warmup import LARGE_VOCABULARY

        self.share, self.large_vocabulary = SHARE_CUDA, LARGE_VOCABULARY
        self.recipe, self.shape, self.card, self.cuda = recipe, shape, card, cuda
        self.chunk, self.together = float(LOGIT_BYTES["cuda" if cuda else "cpu"]), float(CPU_AIM)
        model = recipe.model
        self.size = 2.0 if model.dtype in ("bfloat16", "float16") or (model.dtype == "auto" and cuda) else 4.0
        linear = NF4_BYTES if model.quantization == "nf4" else self.size
        self.weights = shape.linear_weights * linear + shape.other_weights * self.size
        self.lora = shape.lora_weights(model)
        self.context = CONTEXT if cuda else PROCESS

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order."""
        if self.recipe.model.checkpoints is not None:
            yield self._asking()
            return
        if self.recipe.warmup.source is not None:
            yield self._warmup()
        roles: dict[str, tuple[Role, ...]] = {"judge_only": ("judge",), "rubric_only": ("rubric",)}
        for role in roles.get(self.recipe.schedule.order, ("judge", "rubric")):
            yield self._rollout(role)
            yield self._update(role)

    def _fixed(
        self, adapters: int, optimizers: Sequence[GRPOSettings | SFTSettings], gradients: bool
    ) -> dict[str, float]:
        return {
            "weights": self.weights,
            "adapters": 4.0 * self.lora * adapters,
            "optimizer": self.lora * sum(MOMENTS[settings.optim] for settings in optimizers),
            "gradients": 4.0 * self.lora if gradients else 0.0,
            "context": self.context,
        }

    def _activations(self, tokens: float, targets: int) -> float:
        """Bytes that so many tokens take in an update, ``targets`` of which have their logits in one chunk."""
        shape, wide = self.shape, self.size / 2
        logits = LOGITS_HELD * min(self.chunk, 4.0 * targets * shape.vocabulary)
        if not self.recipe.model.gradient_checkpointing:
            per_mlp, per_hidden = SAVED[self.size]
            return tokens * shape.layers * (per_mlp * shape.mlp + per_hidden * shape.hidden) + logits
        layer = tokens * (PER_MLP * shape.mlp + PER_HIDDEN * shape.hidden) * wide
        # Logits are gone before the first layer is computed again.
        return tokens * shape.layers * PER_HIDDEN_CHECKPOINTED * shape.hidden * wide + max(layer, logits)

    def _warmup(self) -> Stage:
        settings = max(
            (self.recipe.warmup.judge, self.recipe.warmup.rubric), key=lambda s: s.per_device_train_batch_size
        )
        tokens = settings.per_device_train_batch_size * self.recipe.model.max_context
        parts = self._fixed(2, (settings,), True)
        chunk = CHUNK if self.shape.vocabulary >= self.large_vocabulary else tokens
        parts["activations"] = self._activations(tokens, chunk)
        total = sum(parts.values())
        return Stage("warm-up", parts, total, total)

    def _asking(self) -> Stage:
        """Two checkpoints of the base's shape, and one judgement under way."""
        tokens = self.recipe.model.max_context
        parts = {
            "weights": 2 * self.weights,
            "cache": tokens * self.shape.cache_bytes(self.size),
            "activations": tokens * 6 * self.shape.mlp * self.size,
            "logits": 6.0 * 4 * self.shape.vocabulary,
            "context": self.context,
        }
        total = sum(parts.values())
        return Stage("asking", parts, total, total)

    def _prompt(self, settings: GRPOSettings) -> int:
        return self.recipe.model.max_context - settings.max_completion_length

    def _rollout(self, role: Role) -> Stage:
        settings = self.recipe.grpo(role)
        prompt, rows = self._prompt(settings), settings.num_generations
        cache = self.shape.cache_bytes(self.size)
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), False)
        ours = self.recipe.model.backend == "transformers"
        prompts = 1 if ours and self.recipe.model.shared_prefix else rows
        parts["rounded adapters"] = 2.0 * 2 * self.lora if ours and self.cuda and self.size == 2 else 0.0
        parts["cache"] = (prompts * prompt + rows * settings.max_completion_length) * cache
        parts["activations"] = (1 if ours else rows) * prompt * 6 * self.shape.mlp * self.size
        parts["logits"] = 6.0 * 4 * rows * self.shape.vocabulary
        total = sum(parts.values())
        return Stage(f"{role} rollout", parts, total, total)

    def _update(self, role: Role) -> Stage:
        settings = self.recipe.grpo(role)
        prompt, length = self._prompt(settings), settings.max_completion_length
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), True)
        fixed = sum(parts.values())
        row = self._activations(prompt + length, length)
        whole = prompt + settings.num_generations * length
        group = self._activations(whole, settings.num_generations * length)
        if settings.micro_batch_tokens != "auto":
            tokens = max(prompt + length, min(settings.micro_batch_tokens, whole))
            used = row = self._activations(tokens, length)
        else:
            everything = settings.prompts_per_step * group
            if not self.cuda:
                row, used = group, max(group, min(self.together, everything))
            else:
                room = group if self.card is None else self.share * (self.card - fixed)
                used = max(row, min(room, everything))
        parts["activations"] = used
        return Stage(f"{role} update", parts, fixed + row, fixed + used)


SPARE = 0.02
"""Part of a card that is lost to blocks between tensors."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe needs.

    Attributes:
        stages: in the order of a run.
        card: bytes of the card that the plan is for, None for none in particular.
        fits: None without a card.
        advice: changes that make it fit, each a ``--set`` value with the bytes it then needs.
        length: steps and tokens of a cycle.
    """

    stages: tuple[Stage, ...]
    card: float | None
    fits: bool | None
    advice: tuple[tuple[str, float], ...]
    length: Length = field(default_factory=Length)

    @property
    def least(self) -> float:
        """Bytes of the stage that needs most."""
        return max(stage.least for stage in self.stages)

    @property
    def peak(self) -> float:
        """Bytes that will be used at the peak."""
        return max(stage.used for stage in self.stages)


def plan_for(recipe: Recipe, gpu_gb: float | None = None, prompt_length: int | None = None) -> Plan:
    """Plan for a card of ``gpu_gb`` GiB, else for this machine: its GPU, or its memory where it has none.

    The testbed's base, float32, is planned for a CPU unless a card is named.

    Raises:
        ConfigError: if the card or the prompt is no size, or the base's shape cannot be found.
    """
    import torch

    if gpu_gb is not None and not 0 < gpu_gb < 10_000:
        raise ConfigError(f"--gpu-gb {gpu_gb:g}: give the size of a card in GiB, such as 24.")
    if prompt_length is not None:
        longest = max(recipe.judge.max_completion_length, recipe.rubric.max_completion_length)
        if not 0 < prompt_length <= recipe.model.max_context - longest:
            raise ConfigError(
                f"--prompt-length {prompt_length}: must be at least 1 and leave room for {longest} tokens in "
                f"model.max_context ({recipe.model.max_context}). Use a shorter one, or --set model.max_context."
            )
        model = recipe.model.model_copy(update={"max_context": prompt_length + longest})
        recipe = recipe.model_copy(update={"model": model})
    shape = shape_of(recipe.model.base)
    card, cuda = None if gpu_gb is None else gpu_gb * GIB, True
    if card is None and torch.cuda.is_available():
        card = float(torch.cuda.get_device_properties(0).total_memory)
    elif card is None and recipe.model.base == "testbed":
        card, cuda = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), False
    return replace(make_plan(recipe, shape, card, cuda), length=length_of(recipe))


def make_plan(recipe: Recipe, shape: Shape, card: float | None, cuda: bool = True) -> Plan:
    """Plan a recipe's memory for a card of so many bytes (None: for none in particular); its length is left open.

    Args:
        cuda: whether the base is on a GPU, in half precision unless the recipe says float32; else float32 on a CPU.
    """
    stages = tuple(Planner(recipe, shape, card, cuda).stages())
    plan = Plan(stages, card, None, ())
    if card is None:
        return plan
    fits = plan.least <= card * (1 - SPARE)
    advice = () if fits else tuple(_advice(recipe, shape, card, cuda))
    return replace(plan, fits=fits, advice=advice)


def _advice(recipe: Recipe, shape: Shape, card: float, cuda: bool) -> Iterator[tuple[str, float]]:
    """Single changes that make the recipe fit; where none does, all of them together if they do."""
    model = recipe.model
    changes: list[tuple[str, Any]] = []
    if model.quantization == "none":
        changes.append(("quantization=nf4", {"quantization": "nf4"}))
    if not model.gradient_checkpointing:
        changes.append(("gradient_checkpointing=true", {"gradient_checkpointing": True}))
    if model.lora.r > 8:
        changes.append(("lora.r=8", {"lora": model.lora.model_copy(update={"r": 8})}))
    longest = max(recipe.judge.max_completion_length, recipe.rubric.max_completion_length)
    for context in (16384, 8192, 6144, 4096, 3072, 2048):
        if longest < context < model.max_context:
            changes.append((f"max_context={context}", {"max_context": context}))

    def needed(fields: dict[str, Any]) -> float:
        changed = recipe.model_copy(update={"model": model.model_copy(update=fields)})
        return max(stage.least for stage in Planner(changed, shape, card, cuda).stages())

    fitting = [(f"model.{text}", least) for text, fields in changes if (least := needed(fields)) <= card * (1 - SPARE)]
    if fitting or not changes:
        yield from fitting
        return
    together = {text.split("=")[0]: (text, fields) for text, fields in changes}  # of the contexts the shortest
    least = needed({name: value for _, fields in together.values() for name, value in fields.items()})
    if least <= card * (1 - SPARE):
        yield " ".join(f"model.{text}" for text, _ in together.values()), least
