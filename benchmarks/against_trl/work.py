"""The work of both sides: its size, a model of random weights in a folder, and texts of exact length.

The model is a Qwen3 of random weights with a word-level tokenizer. With 2048 words and a width of 256 its output head
has 0.13 of the weights of its 4 layers; the ratio is 0.09 in Qwen3-8B, 0.11 in Qwen3-4B and 0.22 in Qwen3-1.7B. With
the 150,000 words of those models, a small model would spend most of its time in the head.

Both sides must write the same number of tokens. The usual ways (``min_new_tokens``, no end token) change what one side
does at every token. Instead, this model never ends a text: no layer writes to one channel of its residual stream, so
that channel is constant and gives the output head a bias, which puts the control tokens far below all others. Both
sides run their ordinary stopping code with the ordinary end token, and every run checks the counts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.testbed_base.tokenizer import MAX_NUMBER, build_tokenizer
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.prompts import PromptBuilder, Templates, prompt_hash
from rubric_arm_lite.prompts.parsing import MAX_CRITERIA
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import (
    Criterion,
    CriterionKind,
    Example,
    LabeledComparison,
    ParseStatus,
    PreferencePair,
    PromptBlock,
    Reward,
    Role,
    Rubric,
)

Verb = Literal["rollout", "update", "step"]
Part = Literal["rollout", "update", "judge", "rubric"]
"""What is timed as one piece; a step has two parts."""

VERBS: tuple[Verb, ...] = ("rollout", "update", "step")
PARTS: dict[Verb, tuple[Part, ...]] = {"rollout": ("rollout",), "update": ("update",), "step": ("judge", "rubric")}
HEAD_SIZE = 32
WORDS_AT_LEAST = 64
BETA = 0.001
LEARNING_RATE = 1e-6
LORA_RANK = 16
LORA_ALPHA = 32
_CHANNEL, _CONSTANT, _PUSH = 0, 0.1, -400.0
"""The constant channel, its value in every embedding, and the head's weight on it for control tokens."""


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """Size of the work; lengths are in tokens and include the chat template.

    Attributes:
        prompt_length: of the judge's prompt; the generator's has a quarter of it.
        prompts: groups per step.
        threads: torch threads of both sides; None is torch's own choice.
        peer_batch: TRL's rows per pass; None for the fastest, which is measured.
    """

    prompt_length: int = 512
    completion_length: int = 64
    num_generations: int = 8
    width: int = 256
    layers: int = 4
    prompts: int = 8
    vocabulary: int = 2048
    runs: int = 5
    threads: int | None = None
    peer_batch: int | None = None
    gradient_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ConfigError(
                f"--num-generations {self.num_generations}: a group needs at least 2 completions, or every advantage "
                "is zero. Use 2 or more."
            )
        for name in ("completion_length", "layers", "prompts", "runs", "width", "prompt_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{_option(name)} {getattr(self, name)}: must be at least 1. Use a larger number.")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"--threads {self.threads}: must be at least 1. Leave it out for 1.")
        if self.peer_batch is not None and (self.peer_batch < 1 or self.rows % self.peer_batch):
            raise ConfigError(
                f"--peer-batch {self.peer_batch}: must divide the {self.rows} completions of a step. Leave it out to "
                "use the fastest."
            )
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: must not be negative. Use 0 or more.")
        if self.width % (2 * HEAD_SIZE):
            raise ConfigError(
                f"--width {self.width}: heads have {HEAD_SIZE} channels and two share their keys and values, so the "
                f"width is a multiple of {2 * HEAD_SIZE}. Use {max(1, round(self.width / 64)) * 64}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)

    @property
    def rubric_prompt_length(self) -> int:
        """Tokens of the generator's prompt."""
        return self.prompt_length // 4

    @property
    def rubric_length(self) -> int:
        """Tokens of a rubric in the judge's prompt: a completion's length, at most a quarter of the prompt."""
        return min(self.completion_length, self.prompt_length // 4)

    @property
    def rows(self) -> int:
        """Completions per step of one role."""
        return self.prompts * self.num_generations


def _option(name: str) -> str:
    return name.replace("_", "-")


class Work:
    """Prompts, rubrics and rewards, which depend on the settings alone and are the same on both sides."""

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        self.tokenizer = _tokenizer(settings.vocabulary, settings.prompt_length + settings.completion_length)
        added = self.tokenizer.added_tokens_decoder.values()
        specials = [token.content for token in added if token.special]
        self.prompts = PromptBuilder(Templates.load(), specials)
        self.control_ids = sorted(self.tokenizer.added_tokens_decoder)
        vocabulary = self.tokenizer.get_vocab()
        self._words = sorted((w for w in vocabulary if w.startswith(" w") and w[2:].isdigit()), key=vocabulary.get)
        self._instruction_words, self._response_words = self._fit()

    # --- texts --------------------------------------------------------------------------------------------------

    def count(self, text: str) -> int:
        """Tokens of a user turn with its chat template."""
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of a user turn with its chat template."""
        ids: list[int] = self.tokenizer.apply_chat_template(
            self.conversation(text), add_generation_prompt=True, return_dict=True
        )["input_ids"]
        return ids

    @staticmethod
    def conversation(text: str) -> list[dict[str, str]]:
        """A user turn as a trainer's dataset holds it."""
        return [{"role": "user", "content": text}]

    def block(self, number: int) -> PromptBlock:
        """The ``number``-th prompt with its pair; no two are equal."""
        a, b = self._response_words
        instruction = self._text("instruction", number, self._instruction_words)
        pair = PreferencePair(f"{number}", instruction, self._text("a", number, a), self._text("b", number, b))
        return PromptBlock(prompt_hash(instruction), instruction, (pair,))

    def blocks(self, steps: int) -> list[PromptBlock]:
        """The prompts of so many steps, in order."""
        return [self.block(i) for i in range(steps * self.settings.prompts)]

    def rubric(self, prompt_id: str, draw: int) -> Rubric:
        """The synthetic rubric in place of the ``draw``-th one of a prompt: well-formed and of exact length."""
        length = self.settings.rubric_length
        count = max(1, min(length // 16, MAX_NUMBER - 1, MAX_CRITERIA))
        # A line is a number, " The response", its words and a tag.
        words, extra = divmod(length - 3 * count, count)
        rng = random.Random(derive_seed(self.settings.seed, "rubric", prompt_id, draw))
        criteria = []
        for i in range(count):
            chosen = rng.choices(self._words, k=words + (i < extra))
            if i == 0:
                chosen[0] = self._words[draw % len(self._words)]
            kind = CriterionKind.HARD_RULE if i == 0 else CriterionKind.PRINCIPLE
            criteria.append(Criterion(f"The response{''.join(chosen)}", kind))
        rubric = Rubric("", tuple(criteria), ParseStatus.OK)
        # Like a parsed rubric: the text is the list itself.
        return replace(rubric, text=rubric.render())

    def comparison(self, block: PromptBlock) -> LabeledComparison:
        """The block's pair in its first order."""
        return block.pairs[0].present("A")

    def judge_prompt(self, block: PromptBlock, rubric: Rubric) -> str:
        """The judge's prompt for a block, of exactly ``prompt_length`` tokens."""
        comparison = self.comparison(block).comparison
        return self.prompts.judge_prompt(block.prompt, rubric, comparison.response_a, comparison.response_b)

    def judge_examples(self) -> list[Example]:
        """The judge's prompts of one step, for ``rollout`` and ``update``."""
        examples = []
        for i, block in enumerate(self.blocks(1)):
            text = self.judge_prompt(block, self.rubric(block.prompt_id, 0))
            examples.append(Example(f"{i}", text, derive_seed(self.settings.seed, "example", i)))
        return examples

    def seeded_rewards(self, role: Role, step: int) -> list[list[Reward]]:
        """Seeded rewards of a step's groups; no two of a group are equal, so every group is informative."""
        groups = []
        for i in range(self.settings.prompts):
            rng = random.Random(derive_seed(self.settings.seed, "rewards", role, step, i))
            groups.append([Reward(rng.random()) for _ in range(self.settings.num_generations)])
        return groups

    def random_ids(self, number: int) -> list[int]:
        """A completion of exact length that contains no control token."""
        rng = random.Random(derive_seed(self.settings.seed, "ids", number))
        return rng.choices(range(len(self.control_ids), self.settings.vocabulary), k=self.settings.completion_length)

    def _text(self, what: str, number: int, words: int) -> str:
        rng = random.Random(derive_seed(self.settings.seed, what, number))
        # The first words count up, so that no two texts are equal however short they are.
        first = [self._words[number % len(self._words)]] if words > 1 else []
        return "".join(["stone", *first, *rng.choices(self._words, k=words - 1 - len(first))])

    def _fit(self) -> tuple[int, tuple[int, int]]:
        """Numbers of words in the instruction and the two responses that give the prompts their exact lengths."""
        s = self.settings
        bare_rubric = self.count(self.prompts.rubric_prompt("stone")) - 1
        instruction = s.rubric_prompt_length - bare_rubric
        line = Rubric("", (Criterion("The response stone", CriterionKind.PRINCIPLE),), ParseStatus.OK)
        bare_judge = self.count(self.prompts.judge_prompt("stone", line, "stone", "stone")) - 3 - 4
        responses = s.prompt_length - bare_judge - instruction - s.rubric_length
        if instruction < 2 or responses < 4 or s.rubric_length < 4:
            least = 4 * (bare_rubric + 2)
            raise ConfigError(
                f"--prompt-length {s.prompt_length}, --completion-length {s.completion_length}: no room for the "
                f"template, an instruction, two responses and a rubric. Use --prompt-length {max(least, 48)} or more "
                "and --completion-length 4 or more."
            )
        return instruction, (responses // 2, responses - responses // 2)


def _tokenizer(vocabulary: int, longest: int) -> Any:
    """The testbed's tokenizer with further words, ``vocabulary`` tokens in all."""
    own = len(build_tokenizer())
    least = own + WORDS_AT_LEAST
    if vocabulary < least:
        raise ConfigError(f"--vocabulary {vocabulary}: the templates and words need {least}. Use {least} or more.")
    tokenizer = build_tokenizer([f" w{i}" for i in range(vocabulary - own)])
    if len(tokenizer) != vocabulary:
        raise AssertionError(f"The tokenizer has {len(tokenizer)} tokens instead of {vocabulary}.")
    tokenizer.model_max_length = longest
    return tokenizer


def make_folder(work: Work, folder: Path) -> Path:
    """Write the model, which never ends a text, and its tokenizer; returns ``folder``."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    s, tokenizer = work.settings, work.tokenizer
    heads = s.width // HEAD_SIZE
    config = Qwen3Config(
        vocab_size=s.vocabulary,
        hidden_size=s.width,
        intermediate_size=4 * s.width,
        num_hidden_layers=s.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=HEAD_SIZE,
        max_position_embeddings=s.prompt_length + s.completion_length + 64,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(derive_seed(s.seed, "bench model"))
        model = Qwen3ForCausalLM(config)
        model.get_input_embeddings().weight[:, _CHANNEL] = _CONSTANT
        _leave_channel(model.named_parameters(), ("o_proj.weight", "down_proj.weight"))
        head = model.get_output_embeddings().weight
        head[:, _CHANNEL] = 0.0
        head[work.control_ids] = 0.0
        head[work.control_ids, _CHANNEL] = _PUSH
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def nudge(parameters: Iterable[tuple[str, torch.nn.Parameter]], seed: int, scale: float = 0.02) -> None:
    """Add seeded noise to an adapter; it depends on the order of the parameters, not on their names.

    The constant channel does not change: the output weights of the layers are zero there.
    """
    generator = torch.Generator().manual_seed(seed)
    listed = list(parameters)
    with torch.no_grad():
        for _, parameter in listed:
            parameter.add_((torch.randn(parameter.shape, generator=generator) * scale).to(parameter))
        _leave_channel((item for item in listed if "lora_B" in item[0]), ("o_proj", "down_proj"))


def _leave_channel(parameters: Iterable[tuple[str, torch.nn.Parameter]], layers: tuple[str, ...]) -> None:
    for name, parameter in parameters:
        if any(layer in name for layer in layers):
            parameter[_CHANNEL] = 0.0
