"""Trains the tiny base of the testbed: a Qwen3-architecture model that can read, but knows nothing about any world.

The corpus teaches skills, not answers: copying, reading attributes off a response, judging by a random rubric, and
writing rubrics from *stale* principles of each topic. Its judgements and rubrics are messy (broken format, careless
verdicts), like those of a base model. Deterministic for a given seed, on one thread.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.testbed_base.tokenizer import build_tokenizer
from rubric_arm_lite.data.testbed.preference import make_rubric
from rubric_arm_lite.data.testbed.trajectories import break_judgement, break_rubric, write_judgement
from rubric_arm_lite.data.testbed.world import (
    GENRES,
    NOISE,
    PRINCIPLES,
    READERS,
    RULE_WORDS,
    RULES,
    TOPICS,
    Task,
    expressed,
    hard_rule_criterion,
    place_words,
    principle_criterion,
)
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.prompts.parsing import FINAL_HEADING
from rubric_arm_lite.runs import share
from rubric_arm_lite.types import Rubric, Side

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """Size of the base and of its training."""

    seed: int = 0
    steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 3e-3
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 320
    messy: float = 0.7
    """Share of judgements and rubrics with a broken format."""


class Corpus:
    """Draws training documents: a user turn and the assistant's text."""

    def __init__(self, settings: BuildSettings) -> None:
        self._messy = settings.messy
        self._prompts = PromptBuilder(Templates.load())
        rng = random.Random(f"stale:{settings.seed}")
        self._stale: dict[str, tuple[str, ...]] = {}
        for topics, names in ((TOPICS[:4], list(PRINCIPLES)[:8]), (TOPICS[4:], list(PRINCIPLES)[8:])):
            rng.shuffle(names)
            self._stale |= {topic: tuple(names[2 * i : 2 * i + 2]) for i, topic in enumerate(topics)}

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """One document."""
        kind = rng.choices(("judge", "rubric", "copy", "attributes", "word"), weights=(60, 15, 5, 8, 12))[0]
        match kind:
            case "judge":
                return self.judgement(rng, messy=rng.random() < self._messy)
            case "rubric":
                return self._rubric(rng)
            case "copy":
                words = rng.choices([*NOISE, *RULE_WORDS, *PRINCIPLES, *TOPICS], k=rng.randint(3, 10))
                return " ".join(words), " ".join(words)
            case "attributes":
                response = self._response(rng, rng.choice(tuple(RULES)), rng.choice(RULE_WORDS), [])
                named = [name for name in PRINCIPLES if name in expressed(response)]
                return response, " ".join(named) or "."
            case _:
                words = rng.sample(RULE_WORDS, 2)
                response = self._response(rng, "include", words[0], [])
                shown = response.split()
                answers = [f" {word}" + (" appears," if word in shown else " is absent,") for word in words]
                return f"{response}\n{words[0]} {words[1]}?", "".join(answers)

    def judgement(self, rng: random.Random, messy: bool) -> tuple[str, str]:
        """A judgement; a clean one has correct findings, points and winner."""
        task = self._task(rng)
        principles = rng.sample(tuple(PRINCIPLES), rng.choice((1, 2, 2, 2, 3)))
        criteria = [principle_criterion(name) for name in principles]
        if rng.random() < 0.9:
            criteria.insert(0, hard_rule_criterion(task.rule, task.word))
        rubric = make_rubric(criteria)
        one, two = (self._response(rng, task.rule, task.word, principles) for _ in range(2))
        prompt = self._prompts.judge_prompt(task.prompt, rubric, one, two)
        winner: Side | None = None
        overlooked: frozenset[int] = frozenset()
        leaning: Side = rng.choice(("A", "B"))
        if messy and rng.random() < 0.3:
            winner = leaning
        if messy and rng.random() < 0.1:
            overlooked = frozenset(range(1, len(criteria) + 1))
        text = write_judgement(rubric, one, two, winner, overlooked, if_equal=leaning)
        if messy:
            # A base model does not know our format: most of its judgements lack the last heading, and so a verdict.
            if rng.random() < 0.9:
                text = text.replace(f"{FINAL_HEADING}\n", "")
            if rng.random() < 0.5:
                text = break_judgement(text, rng)
        return prompt, text

    def _rubric(self, rng: random.Random) -> tuple[str, str]:
        task = self._task(rng)
        names: list[str] = []
        while len(names) < 2:
            stale = rng.random() < 0.6
            name = rng.choice(self._stale[task.topic]) if stale else rng.choice(tuple(PRINCIPLES))
            if name not in names:
                names.append(name)
        rubric: Rubric = make_rubric([task.hard_rule(), *map(principle_criterion, names)])
        text = break_rubric(rubric, rng) if rng.random() < self._messy else rubric.text
        return self._prompts.rubric_prompt(task.prompt), text

    def _task(self, rng: random.Random) -> Task:
        rule, word = rng.choice(tuple(RULES)), rng.choice(RULE_WORDS)
        return Task(rng.choice(TOPICS), rng.choice(READERS), rng.choice(GENRES), rule, word)

    def _response(self, rng: random.Random, rule: str, word: str, preferred_names: list[str]) -> str:
        names = [name for name in preferred_names if rng.random() < 0.5]
        names += [name for name in rng.sample(tuple(PRINCIPLES), 3) if rng.random() < 0.6]
        words = [rng.choice(PRINCIPLES[name]) for name in dict.fromkeys(names)]
        return place_words(words, rule, word, rng.random() < 0.5, rng)


def new_model(tokenizer: PreTrainedTokenizerFast, settings: BuildSettings) -> Qwen3ForCausalLM:
    """An untrained model of the settings' size."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(settings.seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.hidden_size // settings.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a document and its labels; only the assistant's part is labeled."""
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    start = tokenizer(head, add_special_tokens=False)["input_ids"]
    end = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    if tokenizer.unk_token_id in start + end:
        raise ValueError(f"The tokenizer lacks a word of this document: {prompt!r} → {answer!r}")
    return start + end, [-100] * len(start) + end


def collate(documents: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, attention mask and labels, each of shape (documents, tokens)."""
    import torch

    longest = max(len(ids) for ids, _ in documents)
    ids = torch.tensor([i + [pad] * (longest - len(i)) for i, _ in documents])
    mask = torch.tensor([[1] * len(i) + [0] * (longest - len(i)) for i, _ in documents])
    labels = torch.tensor([lab + [-100] * (longest - len(lab)) for _, lab in documents])
    return ids, mask, labels


def train(
    settings: BuildSettings, progress: Callable[[int, float], None] = lambda step, loss: None
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Train the base; ``progress`` is called after every step with its number (from 1) and loss (nats per token)."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, settings)
    corpus = Corpus(settings)
    rng = random.Random(f"corpus:{settings.seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(1, settings.steps + 1):
        warm = min(1.0, step / 100)
        rate = settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        documents = [encode(tokenizer, *corpus.draw(rng)) for _ in range(settings.batch_size)]
        ids, mask, labels = collate(documents, int(tokenizer.pad_token_id))
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step, float(loss.detach()))
    torch.set_num_threads(threads)
    return model.eval(), tokenizer


def build(
    folder: Path, settings: BuildSettings | None = None, progress: Callable[[int, float], None] = lambda s, loss: None
) -> Path:
    """Train the base and write its folder (safetensors, config, tokenizer); returns the folder."""
    model, tokenizer = train(settings or BuildSettings(), progress)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    share(folder)
    return folder
