"""TRL's own GRPOTrainer on our rollouts: the oracle of our loss, advantages, masks and updates.

TRL is handed our prompts, completions and rewards through its public ``rollout_func`` and reward function; everything
after that (advantages, truncation mask, old and reference log-probs, loss, optimizer) is its own code. It knows its
adapters as ``default`` and ``ref`` only (DESIGN, traps), so ours are copied into those names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from benchmarks.against_trl.peer import trl_arguments
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.base import checkpointing_name
from rubric_arm_lite.recipe.fields import GRPOSettings
from rubric_arm_lite.types import RolloutGroup

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental


class Oracle:
    """A GRPOTrainer that starts from two of our adapters and is fed our rollouts."""

    def __init__(
        self,
        ours: AdapterModel,
        settings: GRPOSettings,
        groups: Sequence[RolloutGroup],
        rewards: Sequence[Sequence[float]],
        adapter: str,
        folder: Path,
    ) -> None:
        self._rows = [(group.prompt_ids, sample) for group in groups for sample in group.samples]
        self._rewards = [reward for group in rewards for reward in group]
        base = AutoModelForCausalLM.from_pretrained(ours.settings.base, dtype=torch.float32)
        lora = ours.settings.lora
        config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = get_peft_model(base, config)
        # TRL makes its reference a copy of `default` as it is now; the policy's weights come after that.
        self.copy(ours, f"{adapter}_ref" if settings.beta else adapter)
        self.trainer = GRPOTrainer(
            model=self.model,
            reward_funcs=self._reward,
            args=GRPOConfig(
                output_dir=str(folder),
                use_cpu=True,
                bf16=False,
                report_to=[],
                save_strategy="no",
                logging_steps=1,
                disable_tqdm=True,
                **{checkpointing_name(): False},
                per_device_train_batch_size=len(self._rows),
                steps_per_generation=1,
                max_steps=settings.num_iterations,
                lr_scheduler_type="constant",
                **trl_arguments(settings),
            ),
            train_dataset=Dataset.from_dict({"prompt": [f"prompt {i}" for i in range(len(groups))]}),
            processing_class=ours.tokenizer,
            rollout_func=self._rollout,
        )
        self.copy(ours, adapter)

    def _rollout(self, prompts: Any, trainer: Any) -> dict[str, Any]:
        assert len(prompts) == len(self._rows)
        return {
            "prompt_ids": [list(ids) for ids, _ in self._rows],
            "completion_ids": [list(sample.token_ids) for _, sample in self._rows],
            "logprobs": None,
        }

    def _reward(self, **_: Any) -> list[float]:
        return self._rewards

    def copy(self, ours: AdapterModel, adapter: str) -> None:
        """Give TRL's policy the weights of one of our adapters."""
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in ours.parameters(adapter):
                own[name.replace(f".{adapter}.", ".default.")].copy_(parameter)

    def inputs(self) -> dict[str, Any]:
        """TRL's scored batch: its advantages, masks, old and reference log-probs under the present policy."""
        self.model.train()
        rows: dict[str, Any] = self.trainer._generate_and_score_completions(
            [{"prompt": f"prompt {i}"} for i in range(len(self._rows))]
        )
        return rows

    def loss(self, inputs: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
        """TRL's loss and its gradient by parameter name (with ``default`` in it)."""
        self.model.train()
        self.model.zero_grad()
        self.trainer.current_gradient_accumulation_steps = 1
        loss = self.trainer.compute_loss(self.model, inputs)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
        return float(loss.detach()), gradients

    def train(self) -> dict[str, torch.Tensor]:
        """Let the trainer do its updates; returns the policy's weights by name (with ``default`` in it)."""
        self.trainer.train()
        return {n: p.detach().clone() for n, p in self.model.named_parameters() if ".default." in n}
