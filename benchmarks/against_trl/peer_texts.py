"""Rubrics and judgements on TRL's side, written as a user of TRL would: with a plain batched ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.against_trl.ours import check_lengths
from benchmarks.against_trl.work import Work
from rubric_arm_lite.prompts import parse_judgement, parse_rubric
from rubric_arm_lite.recipe import RewardSettings
from rubric_arm_lite.reward_model import Verdict
from rubric_arm_lite.training.rewards import judge_reward, rubric_reward
from rubric_arm_lite.types import PromptBlock, Role, Rubric


class PeerTexts:
    """Generation, parsing and rewards outside the trainers; ``model_of`` gives the model of a role."""

    def __init__(self, work: Work, rewards: RewardSettings, model_of: Callable[[Role], Any]) -> None:
        self.tokens_written = 0
        self._work = work
        self._rewards = rewards
        self._model_of = model_of

    def write_rubrics(self, blocks: Sequence[PromptBlock], judge_prompts: Sequence[str]) -> None:
        """Write one rubric per prompt; they must lead to the judge's prompts in the trainer's dataset."""
        written = self._generate("rubric", [self._work.prompts.rubric_prompt(b.prompt) for b in blocks], sample=True)
        for block, text, prompt in zip(blocks, written, judge_prompts, strict=True):
            if self._work.judge_prompt(block, self._usable(block, text, 0)) != prompt:
                raise AssertionError("A random model wrote a rubric that parses. Use another --seed.")

    def score_judgements(self, blocks: Sequence[PromptBlock], texts: Sequence[str]) -> None:
        """Parse the judge's completions and compute their rewards."""
        for block, text in zip(blocks, texts, strict=True):
            rubric = self._work.rubric(block.prompt_id, 0)
            judge_reward(parse_judgement(text, rubric), rubric, self._work.comparison(block), self._rewards)

    def score_rubrics(self, blocks: Sequence[PromptBlock], texts: Sequence[str]) -> None:
        """Judge greedily under each rubric, parse the judgements and compute the rewards."""
        n = self._work.settings.num_generations
        rubrics = [self._usable(b, text, i % n) for i, (b, text) in enumerate(zip(blocks, texts, strict=True))]
        prompts = [self._work.judge_prompt(b, r) for b, r in zip(blocks, rubrics, strict=True)]
        for block, rubric, text in zip(blocks, rubrics, self._generate("judge", prompts, sample=False), strict=True):
            verdict = Verdict(rubric, (parse_judgement(text, rubric),))
            rubric_reward(rubric, [(self._work.comparison(block), verdict)], self._rewards)

    def _usable(self, block: PromptBlock, text: str, draw: int) -> Rubric:
        parsed = parse_rubric(text)
        return parsed if parsed.usable else self._work.rubric(block.prompt_id, draw)

    def _generate(self, role: Role, texts: Sequence[str], sample: bool) -> list[str]:
        """Call a plain, batched, left-padded ``generate``."""
        from transformers import GenerationConfig

        tokenizer, model = self._work.tokenizer, self._model_of(role)
        inputs = tokenizer.apply_chat_template(
            [self._work.conversation(text) for text in texts],
            add_generation_prompt=True,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_dict=True,
        ).to(model.device)
        decoding = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {"do_sample": False}
        config = GenerationConfig(
            max_new_tokens=self._work.settings.completion_length,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **decoding,
        )
        with _evaluating(model), torch.no_grad():
            output = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
            )
        ids = output[:, inputs["input_ids"].shape[1] :].tolist()
        check_lengths(ids, self._work.settings.completion_length)
        self.tokens_written += sum(map(len, ids))
        decoded: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return decoded


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put a model into eval mode, in which its layers use a cache also under gradient checkpointing."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
