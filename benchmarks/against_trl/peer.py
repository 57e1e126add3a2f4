"""TRL's side: the stock ``GRPOTrainer`` on the same model, adapters, prompts, rewards and number of tokens.

Each role has a trainer with its own model, as TRL has one policy per model. The adapter is called ``default``; TRL
copies it to ``ref``, the frozen reference. ``update`` and ``step`` run under ``trainer.train()``, as a user would run
them, and are timed from the beginning of a step to its end; ``rollout`` calls the trainer's own generation.

:mod:`.peer_texts` does what TRL does not: it writes the rubrics for the judge's prompts and runs the judge inside the
generator's reward function. Texts that do not parse and rewards are replaced as on our side (:mod:`.ours`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.against_trl.ours import MOVE, Run, check_lengths, clock, recipe_of
from benchmarks.against_trl.peer_texts import PeerTexts
from benchmarks.against_trl.work import PARTS, Part, Verb, Work, nudge
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models import load_for_trainer
from rubric_arm_lite.models.base import checkpointing_name
from rubric_arm_lite.recipe import GRPOSettings
from rubric_arm_lite.types import Role, RolloutGroup

BROKEN = "1.15.0"
"""A version of TRL whose GRPO needs triton and so fails on a CPU without it."""

SAME_NAMES = (
    "num_generations",
    "max_completion_length",
    "num_iterations",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "temperature",
    "epsilon",
    "epsilon_high",
    "beta",
    "loss_type",
    "scale_rewards",
    "entropy_coef",
    "mask_truncated_completions",
)
"""Fields with the same name and meaning in TRL."""

Hook = Callable[[], None]
After = Callable[[Run], None]


def check_trl() -> str:
    """The version of TRL, if it can run on this machine.

    Raises:
        ConfigError: if it is not installed, or known to fail here.
    """
    try:
        version = metadata.version("trl")
    except metadata.PackageNotFoundError:
        raise ConfigError(
            "--against trl: TRL is not installed. Install it with pip install 'trl<1.15', or use --against none."
        ) from None
    if version == BROKEN and not torch.cuda.is_available() and importlib.util.find_spec("triton") is None:
        raise ConfigError(
            f"--against trl: TRL {BROKEN} fails on a CPU without triton. Install another version, such as 1.14.2, or "
            "use --against none."
        )
    return version


def trl_arguments(settings: GRPOSettings) -> dict[str, Any]:
    """Arguments of ``GRPOConfig`` for our settings, with the paper's k3 estimator of the KL."""
    shared = {name: getattr(settings, name) for name in SAME_NAMES}
    # TRL multiplies k3 by the ratio by default.
    return {**shared, "use_bias_correction_kl": False}


def _nothing(*_: object) -> None:
    """The hook that does nothing."""


def _no_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """Rewards of a trainer that only samples."""
    return [0.0] * len(completions)


class Peer:
    """Stock trainers for one verb.

    Args:
        steps: how often each part will run.
        rollouts: what updates train on; None for random tokens, which are enough to measure memory.
    """

    def __init__(
        self, work: Work, folder: Path, verb: Verb, steps: int, rollouts: Sequence[RolloutGroup] | None = None
    ) -> None:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental
        self.work = work
        self._folder = folder
        self._steps = steps
        self._models: dict[Role, Any] = {}
        self._step = 0
        self._tokens = 0
        self._texts = PeerTexts(work, recipe_of(work.settings, folder).reward, self.model)
        self._before: Hook = _nothing
        self._after: After = _nothing
        self._trainers: dict[Part, Any] = {part: self._build(part, rollouts) for part in PARTS[verb]}

    def _build(self, part: Part, rollouts: Sequence[RolloutGroup] | None) -> Any:
        match part:
            case "rollout":
                return self._trainer("judge", self._conversations(), _no_reward, [])
            case "update":
                return self._update_trainer(rollouts)
            case "judge" | "rubric":
                return self._step_trainer(part)

    # --- driving ------------------------------------------------------------------------------------------------

    def drive(self, part: Part, before: Hook, after: After) -> None:
        """Run a part ``steps`` times; ``before`` and ``after`` are called around each, outside its time."""
        self._step = 0
        self._before, self._after = before, after
        if part == "rollout":
            self._drive_rollout()
        else:
            self._trainers[part].train()
        if self._step != self._steps:
            raise AssertionError(f"The trainer made {self._step} steps in place of {self._steps}.")

    def _drive_rollout(self) -> None:
        trainer = self._trainers["rollout"]
        prompts = [row["prompt"] for row in self._rows_of_step()]
        for _ in range(self._steps):
            self._before()
            started = clock()
            trainer.model.train()
            ids = trainer._generate(prompts)[1]
            seconds = clock() - started
            check_lengths(ids, self.work.settings.completion_length)
            self._step += 1
            self._after(Run(seconds, sum(map(len, ids))))

    # --- trainers -----------------------------------------------------------------------------------------------

    def model(self, role: Role) -> Any:
        """The base with the role's warm-up adapter as ``default``, loaded once per role."""
        if role not in self._models:
            settings = recipe_of(self.work.settings, self._folder).model
            self._models[role] = load_for_trainer(settings, self._folder / role)
        return self._models[role]

    def _trainer(
        self, role: Role, dataset: Any, reward: Callable[..., Any], callbacks: list[Any], rollout: Any = None
    ) -> Any:
        from transformers.trainer_callback import PrinterCallback
        from trl import GRPOTrainer

        trainer = GRPOTrainer(
            model=self.model(role),
            reward_funcs=reward,
            args=self._config(),
            train_dataset=dataset,
            processing_class=self.work.tokenizer,
            callbacks=callbacks,
            rollout_func=rollout,
        )
        trainer.remove_callback(PrinterCallback)
        nudge(((n, p) for n, p in trainer.model.named_parameters() if ".default." in n), MOVE)
        return trainer

    def _config(self) -> Any:
        from trl import GRPOConfig

        s = self.work.settings
        settings = recipe_of(s, self._folder).judge
        cuda = torch.cuda.is_available()
        return GRPOConfig(
            output_dir=str(self._folder / "trl"),
            use_cpu=not cuda,
            bf16=cuda and torch.cuda.is_bf16_supported(),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=s.seed,
            **{checkpointing_name(): s.gradient_checkpointing},
            per_device_train_batch_size=s.peer_batch or s.rows,
            gradient_accumulation_steps=s.rows // (s.peer_batch or s.rows),
            max_steps=self._steps,
            lr_scheduler_type="constant",
            **trl_arguments(settings),
            shuffle_dataset=False,
        )

    def _conversations(self) -> Any:
        from datasets import Dataset

        texts = [example.prompt for example in self.work.judge_examples()]
        return Dataset.from_list([{"prompt": self.work.conversation(text)} for text in texts * self._steps])

    def _rows_of_step(self) -> list[dict[str, Any]]:
        """The rows TRL's sampler would hand out: each prompt once per completion."""
        n = self.work.settings.num_generations
        return [
            {"prompt": self.work.conversation(example.prompt)}
            for example in self.work.judge_examples()
            for _ in range(n)
        ]

    # --- update -------------------------------------------------------------------------------------------------

    def _update_trainer(self, rollouts: Sequence[RolloutGroup] | None) -> Any:
        """A trainer that trains on these rollouts and the work's rewards."""
        s = self.work.settings
        if rollouts is None:
            encoded = [self.work.encode(example.prompt) for example in self.work.judge_examples()]
            repeated = [ids for ids in encoded for _ in range(s.num_generations)]
            rows = [(ids, self.work.random_ids(i)) for i, ids in enumerate(repeated)]
        else:
            rows = [(list(g.prompt_ids), list(sample.token_ids)) for g in rollouts for sample in g.samples]
        check_lengths([ids for _, ids in rows], s.completion_length)
        check_lengths([ids for ids, _ in rows], s.prompt_length)
        rewards = [r.total for group in self.work.seeded_rewards("judge", 0) for r in group]

        def rollout(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
            self._tokens += sum(len(ids) for _, ids in rows)
            return {"prompt_ids": [p for p, _ in rows], "completion_ids": [c for _, c in rows], "logprobs": None}

        def reward(**_: Any) -> list[float]:
            return rewards

        return self._trainer("judge", self._conversations(), reward, [self._timer()], rollout)

    def first_update(self) -> tuple[float, float]:
        """Loss and gradient norm of the first update over all rows at once; no weight changes."""
        trainer = self._trainers["update"]
        trainer.model.train()
        inputs = trainer._generate_and_score_completions(self._rows_of_step())
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        squares = [p.grad.float().square().sum() for p in trainer.model.parameters() if p.grad is not None]
        trainer.model.zero_grad()
        return float(loss.detach()), float(torch.stack(squares).sum().sqrt())

    # --- step ---------------------------------------------------------------------------------------------------

    def _step_trainer(self, role: Role) -> Any:
        from datasets import Dataset

        work = self.work
        blocks = work.blocks(self._steps)
        if role == "judge":
            texts = [work.judge_prompt(block, work.rubric(block.prompt_id, 0)) for block in blocks]
            length = work.settings.prompt_length
        else:
            texts = [work.prompts.rubric_prompt(block.prompt) for block in blocks]
            length = work.settings.rubric_prompt_length
        check_lengths([work.encode(text) for text in texts], length)
        rows = [{"prompt": work.conversation(text), "number": i} for i, text in enumerate(texts)]

        def reward(completions: list[Any], completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
            check_lengths(completion_ids, work.settings.completion_length)
            self._tokens += sum(map(len, completion_ids))
            texts_written = [completion[0]["content"] for completion in completions]
            score = self._texts.score_judgements if role == "judge" else self._texts.score_rubrics
            score([blocks[i] for i in number], texts_written)
            return [r.total for group in work.seeded_rewards(role, self._step) for r in group]

        def write_rubrics() -> None:
            if role == "judge":
                batch = slice(self._step * work.settings.prompts, (self._step + 1) * work.settings.prompts)
                self._texts.write_rubrics(blocks[batch], texts[batch])

        return self._trainer(role, Dataset.from_list(rows), reward, [self._timer(write_rubrics)])

    # --- timing -------------------------------------------------------------------------------------------------

    def _timer(self, first: Hook = _nothing) -> Any:
        """A callback that times each step of ``train()``; ``first`` runs as a part of the step."""
        from transformers import TrainerCallback

        peer = self

        class Timer(TrainerCallback):  # type: ignore[misc]
            """Times steps."""

            started = 0.0

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                """Start the clock."""
                peer._tokens = peer._texts.tokens_written = 0
                peer._before()
                self.started = clock()
                first()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                """Stop the clock."""
                seconds = clock() - self.started
                peer._step += 1
                peer._after(Run(seconds, peer._tokens + peer._texts.tokens_written))

        return Timer()
