"""The fields of a recipe, as frozen pydantic models that check each value and combinations of values.

Every number that a run depends on is a field here. A field that TRL's ``GRPOConfig`` or ``SFTConfig`` has, too, has
TRL's name. :mod:`rubric_arm_lite.recipe.load` reads recipes from YAML.
"""

from __future__ import annotations

import re
from datetime import date
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rubric_arm_lite.types import ROLES, Role

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]

Order = Literal["judge_first", "rubric_first", "judge_only", "rubric_only", "simultaneous"]
LossType = Literal["grpo", "dapo", "dr_grpo"]
FormatName = Literal[
    "auto", "pairs", "openrubric", "ultrafeedback", "skywork", "helpsteer3", "rubricarm-arena", "tulu3", "hh-rlhf",
    "shp", "nectar", "ultrafeedback-raw", "helpsteer2-preference", "helpsteer2", "arena", "mt-bench", "webgpt",
    "safe-rlhf", "orca-dpo", "sharegpt", "alpaca", "llmbar", "auto-j", "pandalm", "judgebench", "rmb", "rmb-best-of-n",
    "writing", "writing-response", "rewardbench", "ppe-best-of-k", "ppe-human-preference", "several",
]  # fmt: skip
"""Formats of source rows; `pairs` is our own, the others are in ``data/formats.yaml``."""
Plugin = Annotated[str, Field(pattern=r"^.+:[A-Za-z_][A-Za-z0-9_]*$")]
"""A function of the user's: ``my_module:my_function`` or ``file.py:my_function`` (:mod:`.plugins`)."""
Optim = Literal["adamw_torch", "adamw_8bit"]
WORLDS = ("testbed", "english")
"""Synthetic worlds that a ``source`` may name: they write their own pairs and warm-up texts."""


def _read_date(value: Any) -> Any:
    """A date from text such as 2026-01-31."""
    try:
        return date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("a date such as 2026-01-31 is needed") from None


class Settings(BaseModel):
    """Base of all sections: frozen; an unknown key is an error. The docstring of a field is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True, serialize_by_alias=True
    )


class RunSettings(Settings):
    """Base of all kinds of recipes."""

    recipe_folder: ClassVar[str] = ""
    """Folder of the shipped recipes of this kind below ``recipes/``."""
    roles: ClassVar[tuple[Role, ...]]
    """The roles that a recipe of this kind trains."""
    unhashed_fields: ClassVar[tuple[str, ...]] = ("report_to",)
    """Fields that do not change results, such as a server's address: a run can be resumed with other values."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the run and of its default directory, runs/NAME: letters, digits, `.`, `_` and `-`."""
    description: str = ""
    """A note of your own; it changes nothing."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every draw: data split, sampling, order of presentation, initial adapters."""
    threads: Positive | None = None
    """Torch threads on a CPU (null: torch's default). Results are reproducible for the same number."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    """Trackers that get the numbers of metrics.jsonl: `tensorboard`, `wandb`, `trackio`, `mlflow`, offline unless
    configured otherwise (docs/metrics.md). It changes no result."""


class LoraSettings(Settings):
    """LoRA configuration of each adapter."""

    r: Positive = 16
    """LoRA rank."""
    alpha: PositiveFloat = 32
    """LoRA scale: an adapter's output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout on an adapter's input, in updates only, never in rollouts."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers that have an adapter: all, or names such as `q_proj`."""


class CheckpointPair(Settings):
    """Two full models in place of adapters, one per role: folders or Hub ids."""

    rubric: Annotated[str, Field(min_length=1)]
    """The rubric generator: a folder or Hub id."""
    judge: Annotated[str, Field(min_length=1)]
    """The judge: a folder or Hub id."""
    rubric_revision: str | None = None
    """Commit or tag of the rubric generator on the Hub."""
    judge_revision: str | None = None
    """Commit or tag of the judge on the Hub."""

    def of(self, role: Role) -> tuple[str, str | None]:
        """The folder or id of a role's model, and its revision."""
        return (self.judge, self.judge_revision) if role == "judge" else (self.rubric, self.rubric_revision)


class ModelSettings(Settings):
    """The base model that both adapters share."""

    backend: Literal["transformers", "unsloth"] = "transformers"
    """`transformers`, or `unsloth`: the base is loaded and run with its kernels, without `shared_prefix`."""
    base: str = "testbed"
    """`testbed` for the shipped tiny base, a folder, or a Hub id."""
    revision: str | None = None
    """Commit or tag on the Hub; pin it to make a run reproducible."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the base: `float32`, `bfloat16`, `float16`, or `auto`: float32 on a CPU, bfloat16 on a GPU that supports
    it, else float16."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` loads the base in 4 bits with double quantization; `none` loads it in `dtype`."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention of transformers: `sdpa` (torch's fused kernels) or `eager` (plain, slower)."""
    shared_prefix: bool = True
    """Compute the shared prefix of prompts once, in rollouts and updates. Exact; false is for comparisons."""
    max_context: Positive = 4096
    """Longest prompt + completion in tokens; longer pairs are skipped and counted."""
    chat_date: Annotated[date, BeforeValidator(_read_date)] = date(2026, 1, 1)
    """Today's date in chat templates that write one; fixed, so that prompts are the same on every day."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    lora: LoraSettings = LoraSettings()
    checkpoints: CheckpointPair | None = None
    """Two full models in place of adapters on `base`, for inference and evaluation only."""


class PointwiseWords(Settings):
    """Words that end a criterion's line in a pointwise judgement, for a base whose tokenizer lacks the defaults."""

    answer: str = "Answer:"
    """Text before the answer; may be empty."""
    met: Annotated[str, Field(min_length=1)] = "true"
    """The answer for a criterion that the response meets."""
    missed: Annotated[str, Field(min_length=1)] = "false"
    """The answer for a criterion that it does not meet."""

    @model_validator(mode="after")
    def _check(self) -> PointwiseWords:
        for word in (self.answer, self.met, self.missed):
            if word != word.strip() or not word.isprintable():
                raise ValueError(f"pointwise_words: {word!r} has blanks at its ends or a line break. Remove them.")
        if self.met.endswith(self.missed) or self.missed.endswith(self.met):
            raise ValueError(f"met: {self.met!r} and missed: {self.missed!r} cannot be told apart at a line's end.")
        return self

    @property
    def options(self) -> tuple[str, str]:
        """The two texts after ``answer`` whose probabilities are read."""
        return (f" {self.met}", f" {self.missed}")


class PromptSettings(Settings):
    """Templates of the two roles' prompts: a built-in name or a Jinja file beside the recipe."""

    rubric_template: str = "rubric"
    """Template of the rubric generator's prompt: `rubric`, `rubric_short`, or a file with the placeholder
    instruction."""
    judge_template: str = "judge"
    """Template of a pairwise judge: `judge`, `judge_paper`, `judge_openrubrics`, `judge_short`, or a file with the
    placeholders instruction, response_a, response_b and rubric."""
    pointwise_template: str = "pointwise"
    """Template of a pointwise judge, which checks one response (RUBRIC-ARROW)."""
    pointwise_words: PointwiseWords = PointwiseWords()

    @model_validator(mode="after")
    def _check(self) -> PromptSettings:
        if self.pointwise_template == "pointwise" and self.pointwise_words != PointwiseWords():
            raise ValueError(
                "pointwise_words: the built-in pointwise_template asks for `Answer: true` or `Answer: false`. Give a "
                "template that asks for your words, or remove them."
            )
        return self


class PreferenceSettings(Settings):
    """Difficulty of a synthetic preference world."""

    liked: Probability = 0.5
    """Probability that a slot of a response expresses an attribute that its topic likes."""
    disliked: Probability = 0.35
    """Probability that a slot expresses an attribute that its topic dislikes."""
    distractions: Annotated[int, Field(ge=0, le=8)] = 2
    """Most attributes of a response that its topic neither likes nor dislikes; each appears half of the time."""
    gap: Annotated[int, Field(ge=1, le=2)] = 1
    """Least difference between the scores of a pair's responses (a hard rule counts 2, a liked attribute 1)."""
    rule_differs: Probability = 0.2
    """Fraction of drawn pairs in which only one response meets the hard rule."""
    label_noise: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """Fraction of training pairs whose label is wrong."""
    pairs_per_prompt: Positive = 4
    """Preference pairs of each prompt."""

    @model_validator(mode="after")
    def _check_difficulty(self) -> PreferenceSettings:
        if self.liked + self.disliked > 1:
            raise ValueError(f"liked + disliked is {self.liked + self.disliked:g}, above 1. Lower one of them.")
        if self.liked in (0.0, 1.0) and self.rule_differs == 0.0:
            raise ValueError(
                f"liked: {self.liked:g} with rule_differs: 0 gives all responses of a prompt the same score. Use a "
                "value between 0 and 1, or raise rule_differs."
            )
        return self


class WorldSettings(PreferenceSettings):
    """Size and difficulty of the testbed's preference world."""

    topics: Annotated[int, Field(ge=2, le=6)] = 4
    """Number of topics, each with its own two liked attributes."""
    attributes: Annotated[int, Field(ge=4, le=12)] = 8
    """Number of attributes; two per topic are principles, the rest are noise."""

    @model_validator(mode="after")
    def _check(self) -> WorldSettings:
        _check_attribute_count("attributes", self.attributes, "topics", self.topics)
        return self


class EnglishSettings(PreferenceSettings):
    """Size and difficulty of the English world, in which a topic is a kind of request and an attribute a style."""

    kinds: Annotated[int, Field(ge=2, le=4)] = 4
    """Kinds of requests, in this order: question, writing, editing, advice."""
    styles: Annotated[int, Field(ge=4, le=10)] = 8
    """Number of styles; two per kind are liked, the rest are noise."""
    unseen_wordings: Probability = 0.5
    """Probability that a style of a test response has one of the wordings that occur in no other split."""
    max_words: Annotated[int, Field(ge=24, le=35)] = 35
    """Longest answer in words before styles are added."""

    @model_validator(mode="after")
    def _check(self) -> EnglishSettings:
        _check_attribute_count("styles", self.styles, "kinds", self.kinds)
        return self


def _check_attribute_count(attributes: str, count: int, topics: str, needed: int) -> None:
    """Refuse fewer attributes than the topics need: each likes two of its own."""
    if count < 2 * needed:
        raise ValueError(
            f"{attributes}: {count} is too few for {needed} {topics} with two principles each. Use at least "
            f"{2 * needed}, or fewer {topics}."
        )


class TeacherSettings(Settings):
    """Quality of the warm-up texts of a synthetic world; each field is a probability."""

    true_principle: Probability = 0.25
    """A rubric's principle is one that its topic implies."""
    generic_principle: Probability = 0.45
    """A rubric's principle is one of the world's two generic ones (otherwise: any attribute)."""
    malformed_rubric: Probability = 0.2
    """A rubric is malformed."""
    ignores_principles: Probability = 0.3
    """A judgement ignores the principles and follows the hard rule."""
    prefers_first: Probability = 0.8
    """A judgement of a pair that is undecided or careless prefers Response A."""
    careless: Probability = 0.25
    """A judgement contradicts its own findings: pairwise it follows `prefers_first`, pointwise it negates them."""
    malformed_judgement: Probability = 0.25
    """A judgement is malformed."""

    @model_validator(mode="after")
    def _check(self) -> TeacherSettings:
        total = self.true_principle + self.generic_principle
        if total > 1:
            raise ValueError(f"true_principle + generic_principle is {total:g}, above 1. Lower one of them.")
        return self


Label = bool | str | int | float


def label_text(value: Any) -> str:
    """A label as text: 1, 1.0, ``"1"`` and ``"1.0"`` are the same."""
    text = str(value).strip().casefold()
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One value or several, or None, as a tuple."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


class ColumnSettings(Settings):
    """What the columns of a source hold. A column may be `column.key`, what stands inside an object, or `column.0`, the
    first item of a list."""

    prompt: str | tuple[str, ...] | None = "prompt"
    """The request (texts of several columns are joined by blank lines); null: the turns before the responses."""
    system: str | None = None
    """A column with a system prompt, where a row has one."""
    history: str | None = None
    """A column with the earlier turns as pairs of a request and its response, where a row has one."""
    responses: tuple[str, ...] = ("chosen", "rejected")
    """The two responses: the chosen one first, unless one of the next fields says which it is."""
    winner: str | tuple[str, ...] | None = None
    """A column that says which response is better; of several, more than half must agree."""
    first: Label | tuple[Label, ...] | None = None
    """Value or values of `winner` for the first response (null: A, B and tie, also as response_a or model_b)."""
    second: Label | tuple[Label, ...] | None = None
    """Value or values of `winner` for the second response."""
    tie: Label | tuple[Label, ...] | None = None
    """Value or values of `winner` for a tie; such rows are skipped and counted."""
    preference: str | None = None
    """A column with a number: below 0 if the first response is better, above 0 if the second is; 0 is a tie."""
    scores: tuple[str, ...] | None = None
    """The columns with the scores of the two responses: higher is better, equal is a tie."""
    equal: tuple[str, ...] | None = None
    """Two columns: a row with the same number in both is a tie."""
    answers: str | None = None
    """A column with a list of responses to compare by score or rank: objects, or texts beside a list of their scores;
    or `response_*` for columns numbered from 1 and a list of their scores; null: each row is one response of `text`,
    and those of a prompt follow one another."""
    text: str = "response"
    """The response of each item of `answers`, or of each row."""
    score: str | None = None
    """Its score: higher is better, true is above false, equal is a tie."""
    rank: str | None = None
    """Its rank: 1 is best."""
    lists: bool = False
    """`responses` are lists (of texts, or of objects with `text`): each of the first with each of the second."""
    transcripts: bool = False
    """Prompts and responses are texts whose turns begin with `Human:` and `Assistant:`."""
    turn: str | None = None
    """A column with the number of the turn that was judged; later ones are left out."""
    subset: str | None = None
    """A column that names the row's part of the data."""
    rubric: str = "rubric"
    """For a warm-up: a column with the rubric."""
    judgement: str | tuple[str, ...] | None = None
    """For a warm-up: a column with the judgement of (first, second) under it (of several, the first that a row has). It
    must agree with the label, if one is described."""

    @model_validator(mode="after")
    def _check(self) -> ColumnSettings:
        for name in ("responses", "scores", "equal"):
            columns = getattr(self, name)
            if columns is not None and len(columns) != 2:
                raise ValueError(f"{name}: a list of {len(columns)}. Name the columns of the two responses.")
        if (self.first is None) != (self.second is None) or (self.tie is not None and self.first is None):
            raise ValueError("first and second: give the values of winner for both responses, or for neither.")
        if self.first is not None and self.winner is None:
            raise ValueError(f"first: {self.first!r} is a value of winner, which is null. Name the column.")
        sides = {"first": self.first, "second": self.second, "tie": self.tie}
        for (one, values), (other, others) in combinations(sides.items(), 2):
            both = set(map(label_text, as_tuple(values))) & set(map(label_text, as_tuple(others)))
            if both:
                raise ValueError(f"{one} and {other}: both have the value {min(both)}. Give it to one of the two.")
        names = ("winner", "preference", "scores", "equal", "score", "rank")
        labels = [f"{name}: {getattr(self, name)!r}" for name in names if getattr(self, name) is not None]
        if len(labels) > 1:
            raise ValueError(f"{labels[0]} and {labels[1]}. Give one of the two.")
        if self.answers is not None and self.score is None and self.rank is None:
            raise ValueError(f"answers: {self.answers!r} needs the key of their score or rank. Give one of the two.")
        return self


class SourceSettings(Settings):
    """A source of rows (a file, a folder, or a data set on the Hub) and which of its rows are used."""

    source: str | None = "testbed"
    """`testbed`, `english`, a JSONL, CSV or Parquet file, a folder of such files, or a Hub id (owner/name)."""
    format: FormatName | Plugin = "auto"
    """Format of the columns. `auto` detects known Hub ids and unambiguous columns, else assumes our own format. A
    plug-in (`my_module:f` or `file.py:f`) maps a row to our own format, or to None to skip it (docs/plugins.md)."""
    columns: ColumnSettings | None = None
    """What the columns hold (of `evaluation`, too), if they are neither our own nor of a known format."""
    config: str | None = None
    """Configuration of the data set, or a folder in it (null: the default of its format)."""
    split: str | None = None
    """Split to read (null: the default of its format, else the only split, else `train`)."""
    revision: str | None = None
    """Commit or tag on the Hub; pin it to make a run reproducible."""
    streaming: bool = False
    """Read while downloading, without the `datasets` library's cache on disk."""
    rows: Positive | None = None
    """Read only this many rows, the first ones (null: all)."""
    subset: tuple[str, ...] = ()
    """Keep only rows of these subsets, or of these sources where a row names no subset; empty keeps all."""
    sample: Positive | None = None
    """Keep at most this many prompts, sampled with the recipe's seed from all that were read."""

    @model_validator(mode="after")
    def _check_choices(self) -> SourceSettings:
        chosen = [name for name, unset in _CHOICES.items() if getattr(self, name) != unset]
        if chosen and self.source in (None, *WORLDS):
            raise ValueError(
                f"{chosen[0]}: source {self.source or 'null'} has nothing to choose from. Give a file, a folder or a "
                f"Hub id as source, or remove {chosen[0]}."
            )
        if self.columns is not None and self.format != "auto":
            raise ValueError(f"columns: they would not be used with format: {self.format}. Remove one of the two.")
        return self


_CHOICES: dict[str, Any] = {
    name: field.default for name, field in SourceSettings.model_fields.items() if name != "source"
}


class DataSettings(SourceSettings):
    """Where preference pairs come from."""

    source: str = "testbed"
    """`testbed` or `english` for a synthetic world; a file (JSONL, CSV, Parquet) or folder with prompt, chosen,
    rejected; or a Hub id (owner/name)."""
    deduplicate: Literal["none", "pairs", "prompts"] = "pairs"
    """`pairs` drops repeated pairs; `prompts` also drops further pairs of the same prompt; `none` keeps all."""
    decontaminate: tuple[str, ...] = ()
    """Drop training prompts that overlap with these benchmarks: names, files, folders or Hub ids."""
    overlap_words: Positive = 13
    """A prompt overlaps if it shares this many consecutive words with a benchmark's prompt, or equals a shorter one."""
    evaluation: str | None = None
    """Held-out pairs (file, folder or Hub id); null holds out `test_fraction` of the prompts of `source`."""
    evaluation_split: str | None = None
    """Split of `evaluation`, for example another split of `source`."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the prompts that is held out where `evaluation` is null."""
    train_prompts: Positive | None = None
    """Use at most this many prompts for training (all if null)."""
    test_prompts: Positive | None = None
    """Use at most this many held-out prompts (all if null)."""
    world: WorldSettings = WorldSettings()
    """The world of `source: testbed`."""
    english: EnglishSettings = EnglishSettings()
    """The world of `source: english`."""

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if self.evaluation_split is not None and self.evaluation is None:
            raise ValueError(
                f"evaluation_split: {self.evaluation_split!r} is the split of data.evaluation, which is null. Give "
                "evaluation as well; it may be the same source."
            )
        if self.source in WORLDS and self.evaluation is not None:
            raise ValueError(
                f"evaluation: {self.evaluation!r} would not be used, as source: {self.source} holds out prompts of its "
                "own. Remove it, or give data.source as well."
            )
        if self.source in WORLDS and self.decontaminate:
            raise ValueError(
                f"decontaminate: {', '.join(self.decontaminate)} would not be used, as source: {self.source} has "
                "prompts of its own. Remove it, or give data.source as well."
            )
        return self


class SFTSettings(Settings):
    """Supervised training with TRL's SFTTrainer; names as in its SFTConfig."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of AdamW."""
    per_device_train_batch_size: Positive = 8
    """Rows per forward pass (of all processes together)."""
    gradient_accumulation_steps: Positive = 1
    """Forward passes per update."""
    num_train_epochs: PositiveFloat = 1.0
    """Passes over the data; may be a fraction."""
    max_steps: Positive | Literal[-1] = -1
    """Stop after this many updates (-1: after the epochs)."""
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Fraction of the updates over which the learning rate rises to its full value (TRL: warmup_steps below 1)."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after its rise: `constant`, or falling to 0 as `linear` or `cosine`."""
    max_grad_norm: NonNegative = 1.0
    """The gradient is scaled down to this norm; 0 leaves it as it is."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    optim: Optim = "adamw_torch"
    """`adamw_torch` keeps moments in float32, 8 bytes per adapter weight; `adamw_8bit` (bitsandbytes) in 2 bytes."""
    save_steps: Positive = 200
    """Updates between checkpoints of the warm-up."""


class ReadingSettings(Settings):
    """What a judge must show after its warm-up. From one that cannot read, a judge phase learns nothing."""

    position_bias: Probability = 0.3
    """Largest position bias of greedy verdicts, where the judge is pairwise."""
    accuracy: Probability = 0.8
    """Least accuracy with the true rubrics of a synthetic world; other data have none, and only the bias is measured,
    with greedy rubrics."""
    pairs: Positive = 64
    """Pairs that it is measured on: a world's validation pairs, or the last of the training data."""
    action: Literal["lengthen", "refuse"] = "lengthen"
    """`lengthen` repeats the judge's warm-up up to `repeats` times, then refuses; `refuse` ends the run."""
    repeats: Positive = 2
    """Most repetitions of the judge's warm-up."""


class WarmupSettings(SourceSettings):
    """Supervised warm-up, stage I (paper, sec. 4.1)."""

    from_: Annotated[str | None, Field(alias="from")] = None
    """Adapters that the warm-up starts from; with `source: null` they are its result. A run of the same base (`RUN` for
    its warm-up, `RUN@final`, `RUN@latest`, `RUN@state-000012`), or a folder with PEFT folders `rubric` and `judge`."""
    source: str | None = "testbed"
    """`testbed` or `english`, as `data.source`; a file or folder with columns prompt, rubric, response_a, response_b,
    judgement (for a pointwise judge response in place of the two); a Hub id with rubrics and judgements; or null to
    skip the warm-up."""
    prompts: Positive = 200
    """Number of a synthetic world's prompts for which its teacher writes trajectories."""
    teacher: TeacherSettings = TeacherSettings()
    rubric: SFTSettings = SFTSettings()
    """Supervised warm-up of the rubric generator."""
    judge: SFTSettings = SFTSettings()
    """Supervised warm-up of the judge."""
    until: ReadingSettings | None = None
    """What the judge must show before its first phase; null: nothing."""

    @property
    def is_empty(self) -> bool:
        """Whether the adapters start as they were created, so that they add nothing to the base."""
        return self.source is None and self.from_ is None


class GRPOSettings(Settings):
    """GRPO of one role; names as in TRL's GRPOConfig."""

    num_generations: Positive = 8
    """Completions per prompt: the group size G."""
    max_completion_length: Positive = 512
    """In tokens; longer completions are truncated and their verdict does not count."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of rollouts; log-probabilities are those at this temperature, as in TRL."""
    num_iterations: Positive = 1
    """Updates per batch of rollouts (μ)."""
    epsilon: PositiveFloat = 0.2
    """Lower clipping bound: the probability ratio counts from 1 - epsilon on."""
    epsilon_high: PositiveFloat = 0.28
    """Upper clipping bound: the ratio counts up to 1 + epsilon_high."""
    beta: NonNegative = 0.001
    """Weight of the KL divergence from the role's frozen warm-up adapter."""
    loss_type: LossType = "grpo"
    """Weight of a token: `grpo` 1 / (its completion's tokens x rows), `dapo` 1 / (tokens of the batch), `dr_grpo`
    1 / (max_completion_length x rows)."""
    scale_rewards: Literal["group", "none"] = "group"
    """`group` divides advantages by the group's standard deviation; `none` leaves them undivided."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy's mean over all tokens of the batch, subtracted from the loss."""
    entropy_target: PositiveFloat | None = None
    """Entropy, in nats per token, up to which its bonus counts: `entropy_coef` falls linearly to 0 as the entropy of
    the rollouts reaches it. Over a large vocabulary a bonus without a target pays for noise. Null: no target."""
    mask_truncated_completions: bool = False
    """Leave completions that were truncated out of the loss."""
    skip_uninformative: bool = False
    """Skip forward and backward for rows without advantage also where KL or entropy would count for them. They stay in
    the loss's denominator. Without `beta` and `entropy_coef` such rows contribute nothing and are always skipped. The
    logged `kl`, `entropy` and `clip_ratio` are means over the tokens of the rows that were not skipped."""
    learning_rate: PositiveFloat = 1e-5
    """Learning rate of AdamW."""
    warmup_steps: Annotated[int, Field(ge=0)] = 3
    """Steps at the start of every phase over which the learning rate rises to its full value, after which it is
    constant: AdamW's first steps move every weight by the whole learning rate, however small its gradient is."""
    weight_decay: NonNegative = 0.0
    """Weight decay of AdamW."""
    optim: Optim = "adamw_torch"
    """`adamw_torch` keeps moments in float32, 8 bytes per adapter weight; `adamw_8bit` (bitsandbytes) in 2 bytes."""
    adam_beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of AdamW's mean of gradients."""
    adam_beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of AdamW's mean of squared gradients."""
    max_grad_norm: PositiveFloat = 1.0
    """The gradient is scaled down to this norm."""
    prompts_per_step: Positive = 16
    """Prompts per step (TRL: generation_batch_size / num_generations)."""
    pairs_per_prompt: Positive = 1
    """Judge phase: pairs used of each prompt. Rubric phase: pairs on which a rubric is scored."""
    max_steps: Positive | None = None
    """Steps of one phase (null: one pass through the cycle's part of the data)."""
    micro_batch_tokens: Positive | Literal["auto"] = "auto"
    """Tokens per forward pass in an update; `auto` measures what fits. Halved if memory runs out."""

    @model_validator(mode="after")
    def _check(self) -> GRPOSettings:
        if self.num_generations < 2:
            raise ValueError(
                "num_generations: 1 gives zero advantage everywhere. Use at least 2, or stop after the warm-up (run "
                "--stage warmup)."
            )
        if self.epsilon >= 1:
            raise ValueError(f"epsilon: {self.epsilon:g} must be below 1; the paper uses 0.2.")
        return self


class RewardSettings(Settings):
    """Rewards of both roles (paper, sec. 4.2), including choices that the paper leaves open."""

    judge: Literal["pairwise", "pointwise"] = "pairwise"
    """`pairwise` compares two responses; `pointwise` checks one response at a time (RUBRIC-ARROW, 2605.29156)."""
    function: str | None = None
    """Your own reward in place of the method's: `my_module:my_reward`, or `file.py:my_reward` beside the recipe."""
    format_weight: NonNegative = 1.0
    """Weight of the format reward. Pairwise only: a malformed pointwise judgement has the reward −1."""
    format_mode: Literal["strict", "graded"] = "strict"
    """`strict`: 1 if the judgement has every section and answers every criterion, else 0; `graded`: the share of it."""
    faithful: bool = False
    """Pairwise only: a judgement whose verdict contradicts its own findings earns no format reward."""
    pair_orders: Literal["one", "fixed", "both"] = "one"
    """Judge phase: each pair is shown in `one` order, drawn anew in each step, in a `fixed` one, drawn once for the
    run, or in `both`, as one group. A judge that always names the same side then earns different rewards within a
    group, so that it has a gradient."""
    consistency_weight: NonNegative = 0.0
    """With `pair_orders: both`: weight of the share of the other order's samples that name the same response."""
    skip_silent: bool = False
    """Pairwise judge phase: leave out pairs that the frozen rubric does not decide: by the findings of most samples,
    both responses meet the same criteria, so that only chance makes a verdict right."""
    unparsed: Literal["zero", "mask"] = "zero"
    """Rubric phase: an unparsed judgement counts as wrong (`zero`), or removes the rubric from its group (`mask`)."""
    short_bonus: NonNegative = 0.1
    """Pointwise only: bonus for the shortest correct rubrics of a group."""
    short_from: Positive = 5
    """The bonus applies if the correct rubrics of the group have at least this many criteria on average."""
    judge_orders: Literal["one", "fixed", "both"] = "one"
    """Rubric phase: the frozen judge sees each pair in `one` order, drawn anew in each step, in the `fixed` one of the
    run, or in `both`."""
    judge_samples: Positive = 1
    """Judgements per rubric and order: 1 is greedy (eq. 8), more are sampled and averaged."""
    judge_max_tokens: Positive = 1024
    """Most tokens of the frozen judge's judgement in the rubric phase; longer ones are unparsed."""
    repeated_criteria: Literal["allow", "zero"] = "allow"
    """Rubric phase: a rubric that states a criterion twice, which then counts double, is judged like others (`allow`),
    or earns what a malformed one does (`zero`)."""
    rubric_temperature: NonNegative = 1.0
    """Temperature of the rubrics that the judge phase caches per prompt; 0 is greedy."""
    rubric_attempts: Positive = 3
    """Attempts until a rubric parses; a prompt without one is skipped in the judge step and counted."""


class UntilSettings(Settings):
    """Ends a phase early when a metric on a probe set reaches a threshold."""

    phase: Literal["rubric", "judge"] = "judge"
    """The phases that may end early: those of the `judge` or of the `rubric` generator."""
    metric: Literal["accuracy", "consistency", "format"] = "consistency"
    """`accuracy` of greedy verdicts in both orders; `consistency`: both orders agree; `format`: strict validity."""
    at_least: Probability = 0.9
    """Value of the metric at which the phase ends."""
    every: Positive = 5
    """Steps between measurements."""
    pairs: Positive = 64
    """Pairs in the probe set, taken from the end of the training data."""


class TripwireSettings(Settings):
    """What shows that a phase is destroying its adapter, and what happens then.

    Each step is compared with the first one of its phase, whose rollouts are still those of the unchanged adapter.
    """

    action: Literal["back", "stop", "off"] = "back"
    """`back`: return to the last good checkpoint of the phase, or to its start, and go on with smaller steps; `stop`:
    end the run with an error; `off`: nothing."""
    contradicted: PositiveFloat = 0.25
    """Rise of the share of verdicts that contradict their own findings."""
    one_sided: Probability = 0.95
    """Share of the verdicts for one of the two responses, whose order is drawn at random."""
    malformed: PositiveFloat = 0.3
    """Rise of the share of texts that do not parse."""
    entropy: PositiveFloat = 1.0
    """Rise of the entropy, in nats per token."""
    groups: Positive = 16
    """The last steps that have this many groups together are averaged, so that one unusual prompt is no alarm."""
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Factor on the learning rate of the rest of the phase after each return."""
    returns: Positive = 3
    """Most returns in one phase; after them the phase ends with its last good checkpoint."""


class ScheduleSettings(Settings):
    """Order of the phases (paper, eqs. 9-11)."""

    order: Order = "judge_first"
    """Phases of a cycle: `judge_first` (the paper's), `rubric_first`, `judge_only`, `rubric_only`, or `simultaneous`:
    one phase that updates both in each step."""
    cycles: Positive = 3
    """Times that the phases are repeated."""
    split: Literal["disjoint", "all"] = "disjoint"
    """Training prompts of a cycle: `disjoint`, an equal part of its own, or `all`, beginning with that part. The two
    differ for phases that have more steps than a part has prompts for; without `max_steps` a phase of `all` goes once
    through all prompts."""
    until: UntilSettings | None = None
    """Early end of phases; null: every phase takes all its steps."""
    tripwire: TripwireSettings = TripwireSettings()


class AlarmSettings(Settings):
    """Signs that training goes wrong, each with its threshold; null turns one off.

    Each is logged and shown at most once per phase. Values of steps are means over the last `groups` groups. What rises
    or falls is compared with the warm-up: with the role's first step, or with the evaluation after the warm-up.
    """

    action: Literal["note", "stop"] = "note"
    """`note` shows an alarm; `stop` also ends the run with an error."""
    groups: Positive = 32
    """The last steps of a phase that have this many groups together are averaged; at its end, fewer are enough."""
    solved: Probability = 0.9
    """At this accuracy of the samples, `no_spread` and `entropy` are no alarms, since little is left to learn."""
    unusable: Probability | None = 0.5
    """Share of prompts without a usable rubric in a judge phase, of rubrics that do not parse in a rubric phase."""
    no_spread: Probability | None = 0.0
    """Share of groups whose samples earn different rewards: an alarm at this value or below."""
    truncated: Probability | None = 0.25
    """Share of samples that reach `max_completion_length`."""
    kl: PositiveFloat | None = 1.0
    """KL to the adapter after the warm-up, in nats per token."""
    entropy: Probability | None = 0.1
    """Entropy per token as a share of the first step's: an alarm at this value or below."""
    contradicted: Probability | None = 0.25
    """Rise of the share of verdicts that contradict their own findings."""
    length: Annotated[float, Field(gt=1.0, allow_inf_nan=False)] | None = 2.0
    """Rubric phase: factor by which rubrics get longer or shorter, in tokens."""
    repeated: Probability | None = 0.25
    """Rubric phase: share of criteria that repeat another one of their rubric."""
    copied: Probability | None = 0.5
    """Rubric phase: mean share of the other prompts' rubrics that have a criterion word for word, too."""
    topical: PositiveFloat | None = 0.3
    """Rubric phase: rise of the share of principles that name a thing of their own prompt."""
    position_bias: PositiveFloat | None = 0.2
    """Rise of the position bias on held-out pairs."""
    held_out: PositiveFloat | None = 0.05
    """Fall of the held-out accuracy below the best one since the warm-up and its 95 % interval, in a phase whose
    training reward rises."""
    rubric_gain: Probability | None = 0.05
    """Accuracy that a prompt's own rubric adds to that under another prompt's (`evaluation.probes`): an alarm if the
    whole 95 % interval is at this value or below."""
    ignored: Probability | None = 0.95
    """Share of verdicts that stay the same under another prompt's rubric (`evaluation.probes`)."""


class PhaseSettings(Settings):
    """Phases of a researcher's own: `my_module:MyPhase`, or `file.py:MyPhase` beside the recipe (docs/plugins.md)."""

    judge: str | None = None
    """Judge phase: called with recipe, rubric generator and judge; returns a Phase. Null: the method's own."""
    rubric: str | None = None
    """The rubric phase, likewise."""

    def of(self, role: Role) -> str | None:
        """The named phase of a role."""
        return {"judge": self.judge, "rubric": self.rubric, "policy": None}[role]


class CacheSettings(Settings):
    """Cache of rubrics by prompt."""

    enabled: bool = True
    """false: the judge phase draws new rubrics in every step, in place of one set for as long as the generator stays
    the same."""
    capacity: Positive = 4096
    """Most rubrics in memory; the one unused for the longest time is dropped."""
    rubrics_per_prompt: Positive = 1
    """Different rubrics drawn for a prompt; each pair of a judge step uses one of them at random."""
    judgements: Annotated[int, Field(ge=0)] = 4096
    """Most greedy judgements of the frozen judge in memory: a rubric that is sampled again for a prompt is not judged
    again. 0 turns it off."""


class EvaluationSettings(Settings):
    """Evaluation before and after every phase."""

    pairs: Positive = 200
    """Held-out pairs; a pairwise judge sees each in both orders, a pointwise judge each response by itself."""
    after_phases: bool = True
    """Evaluate after every phase, too, not only base, warm-up, cross-play and final adapters."""
    rubric_max_tokens: Positive = 1024
    """Most tokens of a greedy rubric in evaluations."""
    judge_max_tokens: Positive = 4096
    """Most tokens of a judgement in evaluations."""
    judge_temperature: NonNegative = 0.0
    """0 is greedy; the paper samples at 1.0."""
    unparsed_value: Probability = 0.5
    """Credit for an unparsed verdict, as in RewardBench."""
    unparsed_best_of: Probability = 0.25
    """Credit for a best-of-n row that loses no comparison but has an unparsed verdict, as in RewardBench 2."""
    votes: Positive = 5
    """Samples for voting@k at the end; 1 turns it off."""
    vote_pairs: Positive = 50
    """Pairs, of `pairs`, that are also judged by samples: for the sampled format rate and for voting@k."""
    vote_temperature: PositiveFloat = 1.0
    """Sampling temperature of these judgements."""
    bootstrap: Positive = 2000
    """Resamples for the 95 % intervals."""
    probes: Annotated[int, Field(ge=0)] = 24
    """Pairs, of `pairs`, that are also judged under the rubric of another prompt, in both orders: whether the rubrics
    and the judge's use of them matter (docs/metrics.md). 0 turns it off."""
    showcase: Annotated[int, Field(ge=0)] = 3
    """Prompts whose rubrics and judgements are saved after every phase, as examples in the report."""


class CheckpointSettings(Settings):
    """Checkpoints in the alternating stage."""

    save_steps: Positive = 10
    """Steps between checkpoints inside a phase, from which a killed run resumes."""
    save_total_limit: Positive = 2
    """Checkpoints that are kept, the newest ones."""


class Recipe(RunSettings):
    """A complete recipe of a reward model's run."""

    roles: ClassVar[tuple[Role, ...]] = ROLES
    unhashed_fields: ClassVar[tuple[str, ...]] = (*RunSettings.unhashed_fields, "alarms")

    model: ModelSettings = ModelSettings()
    prompts: PromptSettings = PromptSettings()
    data: DataSettings = DataSettings()
    warmup: WarmupSettings = WarmupSettings()
    judge: GRPOSettings = GRPOSettings()
    """GRPO of the judge."""
    rubric: GRPOSettings = GRPOSettings()
    """GRPO of the rubric generator."""
    reward: RewardSettings = RewardSettings()
    phases: PhaseSettings = PhaseSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    alarms: AlarmSettings = AlarmSettings()
    cache: CacheSettings = CacheSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @property
    def pointwise(self) -> bool:
        """Whether the judge scores one response at a time in place of comparing two."""
        return self.reward.judge == "pointwise"

    def grpo(self, role: Role) -> GRPOSettings:
        """The GRPO settings of a role."""
        return {"rubric": self.rubric, "judge": self.judge}[role]

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        for role in ("judge", "rubric"):
            longest = self.grpo(role).max_completion_length
            if longest >= self.model.max_context:
                raise ValueError(
                    f"{role}.max_completion_length: {longest} leaves no room for a prompt in model.max_context "
                    f"({self.model.max_context}). Raise the context or shorten the completion."
                )
        if self.model.checkpoints is not None and self.model.backend != "transformers":
            raise ValueError(
                f"model.backend: {self.model.backend} cannot run the two models of model.checkpoints. Use transformers."
            )
        if self.pointwise:
            if self.reward.judge_orders == "both":
                raise ValueError(
                    "reward.judge_orders: both is for two responses in one prompt, but a pointwise judge sees one. "
                    "Use one."
                )
            if self.reward.faithful:
                raise ValueError(
                    "reward.faithful: true is for verdicts between two responses, but a pointwise judge gives none. "
                    "Use false."
                )
            if self.reward.pair_orders == "both" or self.reward.skip_silent:
                field = "pair_orders: both" if self.reward.pair_orders == "both" else "skip_silent: true"
                raise ValueError(
                    f"reward.{field} is for verdicts between two responses, but a pointwise judge gives none. Remove "
                    "it."
                )
            if self.schedule.until is not None and self.schedule.until.metric == "consistency":
                raise ValueError(
                    "schedule.until.metric: consistency compares two orders, but a pointwise judge has none. Use "
                    "accuracy or format."
                )
        if self.reward.consistency_weight and self.reward.pair_orders == "one":
            raise ValueError(
                f"reward.consistency_weight: {self.reward.consistency_weight:g} compares both orders of a pair, but "
                "reward.pair_orders is one. Use both, or a weight of 0."
            )
        if (self.data.train_prompts or self.schedule.cycles) < self.schedule.cycles:
            raise ValueError(
                f"data.train_prompts: {self.data.train_prompts} cannot be split into schedule.cycles: "
                f"{self.schedule.cycles} parts. Use fewer cycles or more prompts."
            )
        self._check_world()
        if self.model.base == "testbed" and self.model.quantization == "none" and self.model.dtype == "float16":
            raise ValueError("model.dtype: float16 cannot train the testbed's base on a CPU. Use float32 or auto.")
        return self

    def _check_world(self) -> None:
        """Check what a synthetic world asks of the warm-up, the base and the number of pairs."""
        source, warmup = self.data.source, self.warmup.source
        if warmup in WORLDS and warmup != source:
            instead = source if source in WORLDS else "a file of trajectories"
            raise ValueError(
                f"warmup.source: {warmup} writes trajectories of the {warmup}'s world, but data.source is {source!r}. "
                f"Give {instead}, or null to start from the base."
            )
        if warmup == "testbed" and self.prompts.judge_template == "judge_short":
            raise ValueError(
                "prompts.judge_template: judge_short asks for a form that the testbed's warm-up does not write. Use "
                "judge, or data.source and warmup.source: english."
            )
        if source == "english" and self.model.base == "testbed":
            raise ValueError(
                "data.source: english needs a language model, but model.base is testbed, whose base knows only the "
                "testbed's words. Give a folder or a Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct."
            )
        if source in WORLDS:
            name, world = ("world", self.data.world) if source == "testbed" else ("english", self.data.english)
            k = max(self.judge.pairs_per_prompt, self.rubric.pairs_per_prompt)
            if k > world.pairs_per_prompt:
                raise ValueError(
                    f"pairs_per_prompt: {k} is more than data.{name}.pairs_per_prompt ({world.pairs_per_prompt}). "
                    "Lower it, or raise the world's."
                )
