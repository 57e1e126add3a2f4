"""The reward model as a reward function of TRL's trainers (paper, sec. 4.3, eq. 16).

Each completion is judged against a baseline answer a0 to its prompt, in both orders under one rubric; its reward is
half the number of orders it wins: 0, ½ or 1. The caller chooses a0: the policy's own greedy answer as in the paper, a
column of the dataset, any function of the prompts, or every other completion of the group in turn. TRL itself is not
imported; only the arguments that it passes to reward functions are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, Literal

import torch
from transformers import TrainerCallback

from rubric_arm_lite.data import prompt_of
from rubric_arm_lite.data.pairs import answer_of
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.reward_model.judge import check_compares
from rubric_arm_lite.reward_model.model import Case, RubricRewardModel

Answers = Callable[[Sequence[Any]], Sequence[str]]
"""Baseline answers to prompts in TRL's format, texts or lists of messages."""
Baseline = Literal["greedy", "column", "group"] | Answers


class GreedyAnswers(TrainerCallback):  # type: ignore[misc]
    """The policy's greedy answers: a callback that receives the trainer's model, and a function of prompts.

    For a policy on one device or under DDP. With sharded weights (FSDP, DeepSpeed ZeRO-3) use a function as baseline.

    Args:
        max_new_tokens: longest answer; by default the trainer's ``max_completion_length``.
        batch_size: prompts answered at once.
    """

    def __init__(self, max_new_tokens: int | None = None, batch_size: int = 16) -> None:
        if batch_size < 1 or (max_new_tokens is not None and max_new_tokens < 1):
            raise ConfigError(f"max_new_tokens {max_new_tokens}, batch_size {batch_size}: use at least 1.")
        self._max_new_tokens = max_new_tokens
        self._batch_size = batch_size
        self._model: Any = None

    def on_init_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **_: Any
    ) -> None:
        """Keep the trainer's model, tokenizer and chat template settings."""
        self._model = model
        self._tokenizer = getattr(processing_class, "tokenizer", processing_class)
        self._longest = self._max_new_tokens or args.max_completion_length
        self._template = dict(getattr(args, "chat_template_kwargs", None) or {})

    on_train_begin = on_init_end  # since wrapping may have replaced the model

    def __call__(self, prompts: Sequence[Any]) -> list[str]:
        """The current policy's greedy answer to each prompt; equal prompts are answered once.

        Raises:
            ConfigError: if no trainer has this as a callback.
        """
        if self._model is None:
            raise ConfigError(
                "The greedy baseline has no policy yet. Give the reward's callback to the trainer: "
                "GRPOTrainer(..., reward_funcs=reward, callbacks=[reward.callback])."
            )
        # A chat template writes all control tokens itself; the tokenizer adds its own to a plain text, as in TRL.
        chat = partial(
            self._tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True, **self._template
        )
        texts = [(p, True) if isinstance(p, str) else (chat(p), False) for p in prompts]
        distinct = sorted(dict.fromkeys(texts), key=lambda text: len(text[0]))
        answers: dict[tuple[str, bool], str] = {}
        training = self._model.training
        self._model.eval()
        try:
            for plain in (False, True):
                same_kind = [text for text in distinct if text[1] is plain]
                for start in range(0, len(same_kind), self._batch_size):
                    batch = same_kind[start : start + self._batch_size]
                    answers |= zip(batch, self._answer([text for text, _ in batch], plain), strict=True)
        finally:
            self._model.train(training)
        return [answers[text] for text in texts]

    @torch.no_grad()
    def _answer(self, texts: list[str], plain: bool) -> list[str]:
        tokenizer = self._tokenizer
        encoded = tokenizer(texts, padding=True, padding_side="left", add_special_tokens=plain, return_tensors="pt")
        encoded = encoded.to(self._model.device)
        ids = self._model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=self._longest,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers: list[str] = tokenizer.batch_decode(ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers


class RubricArmReward:
    """A reward function for ``trl.GRPOTrainer(reward_funcs=…)``: half the orders won against a baseline (eq. 16).

    An unparsed judgement loses its order, and a completion that cannot be judged (no usable rubric, too long) earns 0;
    both are counted and logged with the trainer's own metrics as ``rubric_arm/…``.

    Args:
        baseline: the answer that a completion has to beat.

            - ``greedy``: the policy's own greedy answer, as in the paper; pass ``callbacks=[reward.callback]`` to the
              trainer. It costs one more answer per prompt and step, and 2 judgements per completion.
            - ``column``: a column of the dataset with one answer per prompt; 2 judgements per completion.
            - ``group``: every other completion of the group; the reward is the mean, no longer in {0, ½, 1}. It costs
              G (G − 1) judgements per prompt.
            - a function from prompts, in the trainer's format, to texts.
        column: name of the column, for ``column``.
        votes: judgements per order; with more than one their majority wins the order.
        max_new_tokens: longest greedy answer; by default the trainer's ``max_completion_length``.

    Attributes:
        callback: pass it to the trainer with the greedy baseline; otherwise None.
        totals: counts over all calls: ``judgements``, ``unparsed``, ``comparisons``, ``not_judged`` (no usable rubric,
            or too long for the judge).

    Raises:
        ConfigError: for an unknown baseline, no votes, or a pointwise judge.
    """

    def __init__(
        self,
        reward_model: RubricRewardModel,
        baseline: Baseline = "greedy",
        column: str = "baseline",
        votes: int = 1,
        max_new_tokens: int | None = None,
    ) -> None:
        check_compares(reward_model.recipe)
        if votes < 1:
            raise ConfigError(f"votes: {votes} gives no judgement. Use at least 1.")
        if baseline not in ("greedy", "column", "group") and not callable(baseline):
            raise ConfigError(f"baseline: {baseline!r} is not one of greedy, column, group, or a function of prompts.")
        self.__name__ = "rubric_arm_reward"  # its name in the logs of trainers
        self.callback = GreedyAnswers(max_new_tokens) if baseline == "greedy" else None
        self.totals: Counter[str] = Counter()
        self._model, self._votes = reward_model, votes
        self._baseline, self._column = self.callback or baseline, column

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """One reward in [0, 1] per completion; called by the trainer.

        Raises:
            DataError: if prompts or completions are not in TRL's format, or the baseline is missing.
        """
        if len(prompts) != len(completions):
            raise DataError(
                f"{len(prompts)} prompts came with {len(completions)} completions. Give one prompt to each."
            )
        requests = [prompt_of(value, f"prompt {i}") for i, value in enumerate(prompts, start=1)]
        answers = [answer_of(value, f"completion {i}") for i, value in enumerate(completions, start=1)]
        if self._baseline == "group":
            groups: dict[str, list[int]] = {}
            for i, request in enumerate(requests):
                groups.setdefault(prompt_hash(request), []).append(i)
            if any(len(group) < 2 for group in groups.values()):
                raise DataError(
                    "The group baseline needs at least 2 completions of a prompt in one call. Raise num_generations, "
                    "keep each group on one process, or choose another baseline."
                )
            rivals, pairs = answers, [pair for group in groups.values() for pair in combinations(group, 2)]
        else:
            rivals, pairs = self._baseline_answers(prompts, columns), [(i, i) for i in range(len(answers))]
        cases: list[Case] = [(requests[i], answers[i], rivals[j], None) for i, j in pairs]
        verdicts = self._model.compare_many(cases, self._votes, too_long="skip")
        won: list[list[float]] = [[] for _ in answers]
        for (i, j), verdict in zip(pairs, verdicts, strict=True):
            won[i].append(verdict.orders_won("A") / 2)
            if rivals is answers:
                won[j].append(verdict.orders_won("B") / 2)
        winners = [winner for verdict in verdicts for winner in verdict.winners]
        unparsed, not_judged = winners.count(None), sum(not verdict.winners for verdict in verdicts)
        counts = {"judgements": len(winners), "unparsed": unparsed, "comparisons": len(verdicts)}
        self.totals.update({**counts, "not_judged": not_judged})
        if (log_metric := columns.get("log_metric")) is not None:
            log_metric("rubric_arm/unparsed", unparsed / max(len(winners), 1))
            log_metric("rubric_arm/not_judged", not_judged / max(len(verdicts), 1))
            agreed = sum(verdict.agreed is not None for verdict in verdicts)
            log_metric("rubric_arm/orders_agree", agreed / max(len(verdicts), 1))
            log_metric("rubric_arm/rubric_cache_hit_rate", self._model.cache.hit_rate)
        return [sum(shares) / len(shares) for shares in won]

    def _baseline_answers(self, prompts: Sequence[Any], columns: Mapping[str, Any]) -> list[str]:
        if callable(self._baseline):
            baseline: Sequence[Any] = self._baseline(prompts)
        elif self._column in columns:
            baseline = columns[self._column]
        else:
            names = ", ".join(sorted(name for name, value in columns.items() if isinstance(value, list))) or "none"
            raise DataError(
                f"The dataset has no column `{self._column}` for the baseline answers (its columns: {names}). Add it, "
                "or name another: rubric_arm_reward(model, 'column', column=…)."
            )
        count = len(baseline) if hasattr(baseline, "__len__") and not isinstance(baseline, str) else "no list of"
        if count != len(prompts):
            raise DataError(f"The baseline gave {count} answers to {len(prompts)} prompts. Give one per prompt.")
        return [answer_of(value, f"baseline answer {i}") for i, value in enumerate(baseline, start=1)]


rubric_arm_reward = RubricArmReward
"""The class by a function's name, as TRL calls its objects like functions: ``rubric_arm_reward(model)``."""
