"""The other side: stock TRL ``GRPOTrainer`` on the same model, adapters, prompts, rewards and number of tokens.

Each role has a trainer with a model of its own, as TRL knows one policy per model. Its adapter is called ``default``;
TRL makes ``ref``, the reference, a frozen copy of it. ``update`` and ``step`` run under ``trainer.train()``, as a user
would run them, and are timed from the beginning of a step to its end; ``rollout`` calls the trainer's own generation.

What TRL does not have is written as a user of it would: a plain batched ``generate`` writes the rubrics that the
judge's prompts need, and the generator's reward function asks the judge with a plain, left-padded, greedy
``generate`` (:mod:`.peer_texts`). Texts that do not parse and rewards are replaced as on our side (:mod:`.ours`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.against_trl.ours import MOVE, Run, check_lengths, clock, recipe_of
from benchmarks.against_trl.work import PARTS, Part, Verb, Work, nudge
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models import load_for_trainer
from rubric_arm_lite.prompts import parse_judgement, parse_rubric
from rubric_arm_lite.recipe import GRPOSettings, RewardSettings
from rubric_arm_lite.training.rewards import judge_reward, rubric_reward
from rubric_arm_lite.types import PromptBlock, Role, RolloutGroup, Rubric


class PlainTexts:
    """Generation, parsing and rewards outside the trainers; ``model_of`` gives the model of a role."""

    def __init__(self, work: Work, rewards: RewardSettings, model_of: Callable[[Role], Any]) -> None:
        self.tokens_written = 0
        self._work = work
        self._rewards = rewards
        self._model_of = model_of

    def write_rubrics(self, blocks: Sequence[PromptBlock], judge_prompts: Sequence[str]) -> None:
        """One rubric per prompt; the judge's prompts made with them are those of the trainer's dataset."""
        written = self._generate("rubric", [self._work.prompts.rubric_prompt(b.prompt) for b in blocks], sample=True)
        for block, text, prompt in zip(blocks, written, judge_prompts, strict=True):
            if self._work.judge_prompt(block, self._usable(block, text, 0)) != prompt:
                raise AssertionError("A random model wrote a rubric that parses. Use another --seed.")

    def score_judgements(self, blocks: Sequence[PromptBlock], texts: Sequence[str]) -> None:
        """Parse the judge's completions and work out their rewards."""
        for block, text in zip(blocks, texts, strict=True):
            rubric = self._work.rubric(block.prompt_id, 0)
            judge_reward(parse_judgement(text, rubric), rubric, self._work.comparison(block), self._rewards)

    def score_rubrics(self, blocks: Sequence[PromptBlock], texts: Sequence[str]) -> None:
        """Ask the judge greedily under each rubric, parse what it says and work out the rewards."""
        n = self._work.settings.num_generations
        rubrics = [self._usable(b, text, i % n) for i, (b, text) in enumerate(zip(blocks, texts, strict=True))]
        asked = [self._work.judge_prompt(b, r) for b, r in zip(blocks, rubrics, strict=True)]
        for block, rubric, text in zip(blocks, rubrics, self._generate("judge", asked, sample=False), strict=True):
            rubric_reward(rubric, [(self._work.comparison(block), parse_judgement(text, rubric))], self._rewards)

    def _usable(self, block: PromptBlock, text: str, draw: int) -> Rubric:
        parsed = parse_rubric(text)
        return parsed if parsed.usable else self._work.rubric(block.prompt_id, draw)

    def _generate(self, role: Role, texts: Sequence[str], sample: bool) -> list[str]:
        """A plain batched, left-padded ``generate``."""
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
        drawing = {"do_sample": True, "temperature": 1.0, "top_k": 0} if sample else {"do_sample": False}
        config = GenerationConfig(
            max_new_tokens=self._work.settings.completion_length,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **drawing,
        )
        with _evaluating(model), torch.no_grad():
            found = model.generate(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config
            )
        ids = found[:, inputs["input_ids"].shape[1] :].tolist()
        check_lengths(ids, self._work.settings.completion_length)
        self.tokens_written += sum(map(len, ids))
        decoded: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return decoded


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Put a model into eval mode for a while; its layers use a cache then, also under gradient checkpointing."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


BROKEN = "1.15.0"
"""A TRL whose GRPO needs triton and fails on a CPU without it."""

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
"""Fields of ours that mean the same in TRL."""

Hook = Callable[[], None]
After = Callable[[Run], None]


def check_trl() -> str:
    """The version of TRL, if it can be measured here.

    Raises:
        ConfigError: if it is missing, or known not to run.
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
    """What ``GRPOConfig`` and our settings call by the same name, and TRL's k3 made the paper's."""
    shared = {name: getattr(settings, name) for name in SAME_NAMES}
    # TRL multiplies k3 by the ratio by default.
    return {**shared, "use_bias_correction_kl": False}


def _nothing(*_: object) -> None:
    """The hook of those who have none."""


def _no_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """Rewards of a trainer that only rolls out."""
    return [0.0] * len(completions)


class Peer:
    """Stock trainers, built for one verb; ``steps`` is how often each part will run.

    ``given`` are the rollouts that updates are fed; without them random tokens are, which is enough to measure memory.
    """

    def __init__(
        self, work: Work, folder: Path, verb: Verb, steps: int, given: Sequence[RolloutGroup] | None = None
    ) -> None:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked experimental
        self.work = work
        self._folder = folder
        self._steps = steps
        self._models: dict[Role, Any] = {}
        self._step = 0
        self._tokens = 0
        self._texts = PlainTexts(work, recipe_of(work.settings, folder).reward, self.model)
        self._before: Hook = _nothing
        self._after: After = _nothing
        self._trainers: dict[Part, Any] = {part: self._build(part, given) for part in PARTS[verb]}

    def _build(self, part: Part, given: Sequence[RolloutGroup] | None) -> Any:
        match part:
            case "rollout":
                return self._trainer("judge", self._conversations(), _no_reward, [])
            case "update":
                return self._update_trainer(given)
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
            gradient_checkpointing=s.gradient_checkpointing,
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

    def _update_trainer(self, given: Sequence[RolloutGroup] | None) -> Any:
        """A trainer that is fed the given rollouts and the work's rewards."""
        s = self.work.settings
        if given is None:
            encoded = [self.work.encode(example.prompt) for example in self.work.judge_examples()]
            repeated = [ids for ids in encoded for _ in range(s.num_generations)]
            rows = [(ids, self.work.random_ids(i)) for i, ids in enumerate(repeated)]
        else:
            rows = [(list(g.prompt_ids), list(sample.token_ids)) for g in given for sample in g.samples]
        check_lengths([ids for _, ids in rows], s.completion_length)
        check_lengths([ids for ids, _ in rows], s.prompt_length)
        rewards = [r.total for group in self.work.drawn_rewards("judge", 0) for r in group]

        def rollout(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
            self._tokens += sum(len(ids) for _, ids in rows)
            return {"prompt_ids": [p for p, _ in rows], "completion_ids": [c for _, c in rows], "logprobs": None}

        def reward(**_: Any) -> list[float]:
            return rewards

        return self._trainer("judge", self._conversations(), reward, [self._timer()], rollout)

    def first_update(self) -> tuple[float, float]:
        """Loss and gradient norm of the first update, all rows at once, without the update."""
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
            said = [completion[0]["content"] for completion in completions]
            score = self._texts.score_judgements if role == "judge" else self._texts.score_rubrics
            score([blocks[i] for i in number], said)
            return [r.total for group in work.drawn_rewards(role, self._step) for r in group]

        def write_rubrics() -> None:
            if role == "judge":
                now = slice(self._step * work.settings.prompts, (self._step + 1) * work.settings.prompts)
                self._texts.write_rubrics(blocks[now], texts[now])

        return self._trainer(role, Dataset.from_list(rows), reward, [self._timer(write_rubrics)])

    # --- timing -------------------------------------------------------------------------------------------------

    def _timer(self, first: Hook = _nothing) -> Any:
        """A callback that times each step of ``train()``, with ``first`` as a part of the step."""
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
                """Stop it."""
                seconds = clock() - self.started
                peer._step += 1
                peer._after(Run(seconds, peer._tokens + peer._texts.tokens_written))

        return Timer()
