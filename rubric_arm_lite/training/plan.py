"""Plans a recipe before it runs: the memory of each stage, settings that make it fit a card, and the length of a cycle.

Input is a recipe; the shape of its base comes from the model's configuration, built without weights. Output is a
:class:`Plan` with bytes by stage, and steps and tokens by role. It needs no GPU and no weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rubric_arm_lite.data import blocks_from_pairs, read_blocks, read_pairs
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.models import check_before_loading
from rubric_arm_lite.models.logprobs import LOGIT_BYTES
from rubric_arm_lite.models.memory import CPU_AIM, SHARE_CUDA
from rubric_arm_lite.recipe import WORLDS, GRPOSettings, Recipe, SFTSettings
from rubric_arm_lite.training.schedule import scheduled_phases
from rubric_arm_lite.training.shapes import Shape, shape_of
from rubric_arm_lite.training.warmup import LARGE_VOCABULARY
from rubric_arm_lite.types import ROLES, Role

GIB = 2**30
CONTEXT = 0.67 * GIB
"""Bytes of a CUDA context and its libraries, which no tensor can use (H100; a small card has less)."""
PROCESS = 0.57 * GIB
"""Bytes of Python and its libraries on a CPU, TRL and matplotlib among them."""
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of one weight with double quantization: 4 bits, an 8-bit constant per block of 64, a float32 one per 256 blocks."""
MOMENTS = {"adamw_torch": 8.0, "adamw_8bit": 2 + 8 / 256}
"""Bytes that an optimizer keeps of one weight: two float32 numbers, or 8 bits each and a constant per 256."""
PER_MLP, PER_HIDDEN, PER_HIDDEN_CHECKPOINTED = 8.0, 38.0, 2.0
"""Bytes of a token in the layer that is in backward, per MLP channel and per hidden channel in half precision; and of a
token in each checkpointed layer. Fitted to updates of Qwen3-8B and 14B."""
SAVED = {4.0: (16.0, 38.0), 2.0: (10.0, 45.0)}
"""Bytes that autograd keeps of a token and a layer without checkpointing, per MLP and per hidden channel, by the bytes
of a number. Half precision saves little: adapters stay in float32, and every layer's input is kept in both."""
CPU_HEAP = 1.5
"""Bytes that a process on a CPU holds for each byte of an update's tensors, since its heap has gaps: two warm-ups of
SmolLM2-135M with 2.9 GiB of tensors took 4.9 and 5.8 GiB in all."""
CHUNK = 256
"""Tokens whose logits the warm-up has at once where the vocabulary is large."""
LOGITS_HELD = 6
"""Float32 copies of a chunk of logits held at once in backward."""
SPARE = 0.02
"""Part of a card that is lost to blocks between tensors."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Bytes of a stage on the card that the plan is for, with an automatic micro-batch.

    Attributes:
        stage: its name.
        least_bytes: bytes that it needs, with a smaller micro-batch if that needs less.
        peak_bytes: bytes that it takes.
        parts: these bytes by what takes them.
    """

    stage: str
    least_bytes: float
    peak_bytes: float
    parts: dict[str, float]


def _stage(name: str, parts: dict[str, float], slack: float = 0.0) -> Stage:
    """A stage that could do without ``slack`` of its bytes."""
    peak = sum(parts.values())
    return Stage(name, peak - slack, peak, parts)


class Planner:
    """Plans the stages of one recipe on a base of one shape, for a card of so many bytes (None: none in particular)."""

    def __init__(self, recipe: Recipe, shape: Shape, card: float | None, cuda: bool) -> None:
        model = recipe.model
        self.recipe, self.shape, self.card, self.cuda = recipe, shape, card, cuda
        self.size = 2.0 if model.dtype in ("bfloat16", "float16") or (model.dtype == "auto" and cuda) else 4.0
        linear = NF4_BYTES if model.quantization == "nf4" else self.size
        self.weights = shape.linear_weights * linear + shape.other_weights * self.size
        self.lora = shape.lora_weights(model)
        self.context = CONTEXT if cuda else PROCESS

    def stages(self) -> Iterator[Stage]:
        """Every stage, in order; of full checkpoints, both of them and one judgement in progress."""
        if self.recipe.model.checkpoints is not None:
            context = self.recipe.model.max_context
            parts = {"weights": 2 * self.weights, "context": self.context}
            yield _stage("inference", {**parts, **self._generation(1, context, context)})
            return
        if (warmup := self.recipe.warmup).source is not None:
            settings = max((warmup.judge, warmup.rubric), key=lambda sft: sft.per_device_train_batch_size)
            tokens = settings.per_device_train_batch_size * self.recipe.model.max_context
            chunk = CHUNK if self.shape.vocabulary >= LARGE_VOCABULARY else tokens
            parts = {**self._fixed(2, (settings,), True), "activations": self._held(self._activations(tokens, chunk))}
            yield _stage("warm-up", parts)
        for role in _trained_roles(self.recipe):
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

    def _activations(self, tokens: float, targets: float) -> float:
        """Bytes that so many tokens take in an update, ``targets`` of which have their logits in one chunk."""
        shape, wide = self.shape, self.size / 2
        chunk = float(LOGIT_BYTES["cuda" if self.cuda else "cpu"])
        logits = LOGITS_HELD * min(chunk, 4.0 * targets * shape.vocabulary)
        if not self.recipe.model.gradient_checkpointing:
            per_mlp, per_hidden = SAVED[self.size]
            return tokens * shape.layers * (per_mlp * shape.mlp + per_hidden * shape.hidden) + logits
        layer = tokens * (PER_MLP * shape.mlp + PER_HIDDEN * shape.hidden) * wide
        # Logits are gone before the first layer is computed again.
        return tokens * shape.layers * PER_HIDDEN_CHECKPOINTED * shape.hidden * wide + max(layer, logits)

    def _generation(self, rows: int, prompts: int, cached: int) -> dict[str, float]:
        """Bytes of generation: so many rows sample, prompt tokens are read at once, and tokens are in the cache."""
        return {
            "cache": self.shape.cache * self.size * cached,
            "activations": prompts * 6 * self.shape.mlp * self.size,
            "logits": 6.0 * 4 * rows * self.shape.vocabulary,
        }

    def _rollout(self, role: Role) -> Stage:
        settings, model = self.recipe.grpo(role), self.recipe.model
        prompt, rows = model.max_context - settings.max_completion_length, settings.num_generations
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), False)
        ours = model.backend == "transformers"
        parts["rounded adapters"] = 2.0 * 2 * self.lora if ours and self.cuda and self.size == 2 else 0.0
        prompts = 1 if ours and model.shared_prefix else rows
        cached = prompts * prompt + rows * settings.max_completion_length
        return _stage(f"{role} rollout", {**parts, **self._generation(rows, prompt if ours else rows * prompt, cached)})

    def _update(self, role: Role) -> Stage:
        settings = self.recipe.grpo(role)
        length, group = settings.max_completion_length, settings.num_generations
        row_tokens = self.recipe.model.max_context
        group_tokens = row_tokens + (group - 1) * length
        parts = self._fixed(4, (self.recipe.judge, self.recipe.rubric), True)
        least = self._activations(row_tokens, length)
        whole = self._activations(group_tokens, group * length)
        if settings.micro_batch_tokens != "auto":
            tokens = max(row_tokens, min(settings.micro_batch_tokens, group_tokens))
            used = least = self._activations(tokens, length)
        elif self.cuda:
            room = whole if self.card is None else SHARE_CUDA * (self.card - sum(parts.values()))
            used = max(least, min(room, settings.prompts_per_step * whole))
        else:
            least, used = whole, max(whole, min(float(CPU_AIM), settings.prompts_per_step * whole))
        used, least = self._held(used), self._held(least)
        return _stage(f"{role} update", {**parts, "activations": used}, used - least)

    def _held(self, activations: float) -> float:
        return activations if self.cuda else CPU_HEAP * activations


# --- the length of a cycle ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Length:
    """Steps and tokens by role; a role whose length is unknown is in neither.

    Attributes:
        train_prompts: training prompts that a phase without ``max_steps`` goes through, over all cycles; None if unused
            or unknown.
        steps_per_phase: steps of one phase; of the longest where cycles differ by a prompt.
        tokens_per_cycle: most tokens that one cycle generates: rollouts, and the other role's part in their rewards.
        length_unknown: what is unknown, why, and what to add; None if nothing is.
        test_pairs: held-out pairs; None if unknown.
    """

    train_prompts: int | None = None
    steps_per_phase: dict[Role, int] = field(default_factory=dict)
    tokens_per_cycle: dict[Role, int] = field(default_factory=dict)
    length_unknown: str | None = None
    test_pairs: int | None = None


def length_of(recipe: Recipe) -> Length:
    """Steps and tokens of a cycle of the roles that are trained."""
    if recipe.model.checkpoints is not None:
        return Length()
    limits = {role: recipe.grpo(role).max_steps for role in _trained_roles(recipe)}
    fields = [f"{role}.max_steps" for role, limit in limits.items() if limit is None]
    prompts, test_pairs, problem = _count_data(recipe)
    part = prompts if recipe.schedule.split == "all" else prompts and -(-prompts // recipe.schedule.cycles)
    steps, tokens = {}, {}
    for role, limit in limits.items():
        batch = recipe.grpo(role).prompts_per_step
        if part:
            steps[role] = limit or -(-part // batch)
            tokens[role] = _tokens_per_prompt(recipe, role) * (min(batch, part) * limit if limit else part)
        elif limit:
            steps[role], tokens[role] = limit, _tokens_per_prompt(recipe, role) * batch * limit
    unknown = None
    if fields and problem:
        unknown = (
            f"Tokens and hours are unknown: {' and '.join(fields)} {'is' if len(fields) == 1 else 'are'} null, so a "
            f"phase goes once through the data, and {problem}. Add {' '.join(f'--set {name}=N' for name in fields)}"
            f"{'' if _is_file(recipe.data.source) else ', or --set data.source=FILE'}."
        )
    return Length(prompts if fields else None, steps, tokens, unknown, test_pairs)


def _trained_roles(recipe: Recipe) -> list[Role]:
    return list(dict.fromkeys(role for phase in scheduled_phases(recipe.schedule) for role in phase.roles))


def _count_data(recipe: Recipe) -> tuple[int | None, int | None, str]:
    """Most training prompts and held-out pairs of a run; None for those unknown, and why the prompts are.

    Decontamination, held-out pairs that are not on this machine and lengths in tokens are not looked up, so a run may
    have a few less.
    """
    settings = recipe.data
    if settings.source in WORLDS:
        world = settings.world if settings.source == "testbed" else settings.english
        test = (settings.test_prompts or recipe.evaluation.pairs) * world.pairs_per_prompt
        return settings.train_prompts or TRAIN_PROMPTS, test, ""
    if not _is_file(settings.source):
        problem = "" if settings.train_prompts else f"{settings.source} is no file on this machine"
        return settings.train_prompts, None, problem
    try:
        if settings.evaluation is None or _is_file(settings.evaluation):
            train, held_out, _ = read_blocks(settings, recipe.seed)
            return len(train), sum(len(block.pairs) for block in held_out), ""
        blocks = blocks_from_pairs(read_pairs(settings, recipe.seed)[0])
        return len(blocks[: settings.train_prompts]), None, ""
    except DataError as error:
        return None, None, f"the prompts cannot be counted ({str(error).rstrip('.')})"


def _is_file(source: str) -> bool:
    return os.path.isfile(source)  # noqa: PTH113  # Path.is_file raises for a long name


def _tokens_per_prompt(recipe: Recipe, role: Role) -> int:
    """Most tokens that one prompt of a step generates: rollouts, and the other role's part in their rewards."""
    settings, reward = recipe.grpo(role), recipe.reward
    rollouts = settings.num_generations * settings.max_completion_length
    if role == "judge":
        # Rubrics drawn for one prompt, those that do not parse included; a greedy one is not drawn again.
        attempts = reward.rubric_attempts if reward.rubric_temperature else 1
        rubrics = attempts * min(settings.pairs_per_prompt, recipe.cache.rubrics_per_prompt)
        pairs = settings.pairs_per_prompt * (2 if recipe.pointwise else 1)
        return rollouts * pairs + rubrics * recipe.rubric.max_completion_length
    orders = 2 if reward.judge_orders == "both" or recipe.pointwise else 1
    judgements = settings.num_generations * settings.pairs_per_prompt * orders * reward.judge_samples
    return rollouts + judgements * reward.judge_max_tokens


def evaluation_tokens(recipe: Recipe, length: Length) -> dict[str, int]:
    """Most tokens that a run's evaluations generate, by evaluation; supervised warm-ups generate none.

    Each writes a rubric per pair and judges in both orders (pointwise: both responses), once greedily, for
    ``vote_pairs`` of them by samples, and for ``probes`` of them under another rubric. Adapters that were judged before
    are not judged again: the base without a warm-up, corners of the cross-play, and the final ones but for their votes.
    """
    settings, phases = recipe.evaluation, scheduled_phases(recipe.schedule)
    if recipe.model.checkpoints is not None:
        return {}

    def tokens(pairs: int, *again: int) -> int:
        judged = pairs + sum(min(count, pairs) for count in again)
        return pairs * settings.rubric_max_tokens + 2 * judged * settings.judge_max_tokens

    # The adapters of rubric generator and judge, by the phase that trained them last; 0 is the warm-up.
    latest: dict[Role, int] = {"rubric": 0, "judge": 0}
    evaluated = {"base": [(0, 0) if recipe.warmup.is_empty else (-1, -1)], "warm-up": [(0, 0)]}
    evaluated["after phases"] = after_phases = []
    for phase in phases:
        latest |= dict.fromkeys(phase.roles, phase.index + 1)
        if settings.after_phases:
            after_phases.append((latest["rubric"], latest["judge"]))
    evaluated["cross-play"] = [(rubric, judge) for rubric in (0, latest["rubric"]) for judge in (0, latest["judge"])]
    pairs = settings.pairs if length.test_pairs is None else min(settings.pairs, length.test_pairs)
    known: set[tuple[int, int]] = set()
    counts: dict[str, int] = {}
    for name, adapters in evaluated.items():
        counts[name] = len(set(adapters) - known) * tokens(pairs, settings.vote_pairs, settings.probes)
        known.update(adapters)
    if recipe.warmup.until is not None:
        counts["reading"] = tokens(recipe.warmup.until.pairs, 1)
    if (until := recipe.schedule.until) is not None:
        probes = sum(until.phase in phase.roles for phase in phases)
        probes *= length.steps_per_phase.get(until.phase, 0) // until.every
        counts["probes"] = probes * tokens(until.pairs, 1)
    sampled = settings.rubric_max_tokens + 2 * settings.votes * settings.judge_max_tokens
    counts["final"] = min(settings.vote_pairs, pairs) * sampled * (settings.votes > 1)
    return {name: count for name, count in counts.items() if count}


# --- plans ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe needs.

    Attributes:
        card_bytes: of the card that the plan is for, None for none in particular.
        fits: None without a card.
        least_bytes: of the stage that needs most.
        peak_bytes: of the stage that takes most.
        stages: in the order of a run.
        advice: changes that make it fit, each a ``--set`` value with the bytes it then needs.
        length: steps and tokens of a cycle.
        evaluation_tokens: most tokens of all evaluations of a run, by evaluation.
    """

    card_bytes: float | None
    fits: bool | None
    least_bytes: float
    peak_bytes: float
    stages: tuple[Stage, ...]
    advice: tuple[tuple[str, float], ...] = ()
    length: Length = field(default_factory=Length)
    evaluation_tokens: dict[str, int] = field(default_factory=dict)


def plan_for(recipe: Recipe, gpu_gb: float | None = None, prompt_length: int | None = None) -> Plan:
    """Plan for a card of ``gpu_gb`` GiB, else for this machine: its GPU, or its memory where it has none.

    Where there is no GPU, a float32 recipe is planned for a CPU unless a card is named.

    Raises:
        ConfigError: if the size of the card or prompt is out of range, or the base's shape cannot be found.
        BackendError: if the base would be refused when it is loaded.
    """
    import torch

    if gpu_gb is not None and not 0 < gpu_gb < 10_000:
        raise ConfigError(f"--gpu-gb {gpu_gb:g}: give the size of a card in GiB, such as 24.")
    check_before_loading(recipe.model)
    if prompt_length is not None:
        longest = max(recipe.grpo(role).max_completion_length for role in ROLES)
        if not 0 < prompt_length <= recipe.model.max_context - longest:
            raise ConfigError(
                f"--prompt-length {prompt_length}: must be at least 1 and leave room for {longest} tokens in "
                f"model.max_context ({recipe.model.max_context}). Use a shorter one, or --set model.max_context."
            )
        recipe = _changed(recipe, "model.max_context", prompt_length + longest)
    card, cuda = None if gpu_gb is None else gpu_gb * GIB, True
    if card is None and torch.cuda.is_available():
        card = float(torch.cuda.get_device_properties(0).total_memory)
    elif card is None and recipe.model.dtype == "float32":
        card, cuda = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")), False
    length = length_of(recipe)
    plan = make_plan(recipe, shape_of(recipe.model.base), card, cuda)
    return replace(plan, length=length, evaluation_tokens=evaluation_tokens(recipe, length))


def make_plan(recipe: Recipe, shape: Shape, card: float | None, cuda: bool = True) -> Plan:
    """Plan a recipe's memory for a card of so many bytes (None: for none in particular), without its length.

    Args:
        cuda: whether the base is on a GPU, in half precision unless the recipe says float32; else float32 on a CPU.
    """
    stages = tuple(Planner(recipe, shape, card, cuda).stages())
    least, peak = max(stage.least_bytes for stage in stages), max(stage.peak_bytes for stage in stages)
    room = None if card is None else card * (1 - SPARE)
    advice = () if room is None or least <= room else tuple(_advice(recipe, shape, room, cuda))
    return Plan(card, None if room is None else least <= room, least, peak, stages, advice)


def _advice(recipe: Recipe, shape: Shape, room: float, cuda: bool) -> list[tuple[str, float]]:
    """Single changes that make the recipe fit; where none does, all of them together if they do."""
    model, longest = recipe.model, max(recipe.grpo(role).max_completion_length for role in ROLES)
    candidates = [
        ("model.quantization", "nf4", model.quantization == "none"),
        ("model.gradient_checkpointing", True, not model.gradient_checkpointing),
        ("model.lora.r", 8, model.lora.r > 8),
        *(("model.max_context", n, longest < n < model.max_context) for n in (16384, 8192, 6144, 4096, 3072, 2048)),
    ]
    changes: list[tuple[str, Any]] = [(name, value) for name, value, helps in candidates if helps]

    def needed(*fields: tuple[str, Any]) -> tuple[str, float]:
        changed = recipe
        for name, value in fields:
            changed = _changed(changed, name, value)
        text = " ".join(f"{name}={str(value).lower()}" for name, value in fields)
        return text, make_plan(changed, shape, None, cuda).least_bytes

    together = [change for change in changes if change[0] != "model.max_context" or change == changes[-1]]
    fitting = [(text, least) for text, least in map(needed, changes) if least <= room]
    return fitting or [(text, least) for text, least in [needed(*together)] if changes and least <= room]


def _changed(settings: Any, name: str, value: Any) -> Any:
    """Settings with the field of a dotted name replaced."""
    section, _, field = name.partition(".")
    return settings.model_copy(update={section: _changed(getattr(settings, section), field, value) if field else value})
