"""Recipes of policy post-training (paper, sec. 4.3) against a finished reward-model run.

Fields that TRL's ``DPOConfig``, ``GRPOConfig`` or ``SFTConfig`` has, too, have TRL's names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe.fields import (
    WORLDS,
    CheckpointSettings,
    GRPOSettings,
    ModelSettings,
    NonNegative,
    Positive,
    PositiveFloat,
    Probability,
    RunSettings,
    Settings,
    SFTSettings,
    SourceSettings,
)
from rubric_arm_lite.types import Role

Method = Literal["dpo", "iterdpo", "grpo"]


class RewardModelSettings(Settings):
    """The reward model that labels pairs and scores responses."""

    run: str = "runs/demo"
    """Run directory of a finished reward model; with a server only its recipe is read."""
    state: Literal["final", "warm-up", "latest"] = "final"
    """Adapters of the run: `final`, `warm-up` (before GRPO), or `latest` (the last checkpoint)."""
    server: str | None = None
    """URL of an OpenAI-compatible server that serves the run's adapters (null: they are loaded in this process)."""
    rubric_model: Annotated[str, Field(min_length=1)] = "rubric"
    """Name of the rubric generator on the server."""
    judge_model: Annotated[str, Field(min_length=1)] = "judge"
    """Name of the judge on the server."""
    key_env: Annotated[str, Field(min_length=1)] = "OPENAI_API_KEY"
    """Environment variable with the server's API key."""
    concurrency: Positive = 32
    """Concurrent requests to the server."""

    @model_validator(mode="after")
    def _check(self) -> RewardModelSettings:
        if self.server is not None and self.state != "final":
            raise ValueError(
                f"reward.state: {self.state} is for adapters that are loaded in this process. A server has those it "
                "was started with: select them with reward.rubric_model and reward.judge_model."
            )
        return self


class PolicyDataSettings(SourceSettings):
    """Prompts, also those of preference data; the policy generates the responses."""

    source: str = "testbed"
    """`testbed` or `english` for the world of the reward model's run, or a file (JSONL, CSV, Parquet), a folder or a
    Hub id."""
    evaluation: str | None = None
    """Held-out prompts (file, folder or Hub id); null holds out `test_fraction` of the prompts of `source`."""
    evaluation_split: str | None = None
    """Split of `evaluation`, for example another split of `source`."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the prompts that is held out where `evaluation` is null."""
    train_prompts: Positive | None = None
    """Use at most this many prompts for training (all if null; 480 of a synthetic world)."""


class StartSettings(Settings):
    """Initialization of the policy; an instruction-tuned base needs none."""

    adapter: str | None = None
    """PEFT folder to start from, for example `adapters/policy` of another policy run."""
    source: str | None = None
    """Data of a supervised start: `testbed` or `english`, as `data.source`, for the world's responses, liked or not; a
    file with `prompt` and `response`; or null for none."""
    sft: SFTSettings = SFTSettings()
    """Supervised training on `source`."""


class AnswerSettings(Settings):
    """Sampling of the policy's responses in rounds of DPO and in evaluations."""

    max_completion_length: Positive = 1024
    """In tokens; longer responses are truncated, and their pairs are not trained on."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature."""


class DPOSettings(SFTSettings):
    """Direct preference optimization with TRL's DPOTrainer on pairs sampled from the policy; names as in DPOConfig."""

    beta: PositiveFloat = 0.1
    """Strength of the pull to the reference in the DPO loss."""
    sft_weight: NonNegative = 0.2
    """Weight of the next-token loss on the chosen response, added to the DPO loss (TRL: loss_type sigmoid + sft)."""
    rounds: Positive = 3
    """Rounds of iterative DPO; the previous round's policy is the start and the reference of each."""


class PolicyEvaluationSettings(Settings):
    """Evaluation at the start and after every round."""

    prompts: Positive = 200
    """Held-out prompts; one sampled response to each is compared with the starting policy's."""
    judge: str | None = None
    """A second judge besides the reward model: `oracle` (a synthetic world), another run directory, or null."""
    judge_state: Literal["final", "warm-up", "latest"] = "final"
    """Adapters of the run that `judge` names: `final`, `warm-up`, or `latest`."""
    alarm_margin: Probability = 0.03
    """Over-optimization alarm: the trained reward gained, and the second judge lost, at least this much."""
    bootstrap: Positive = 2000
    """Resamples for the 95 % intervals of win rates."""


class PolicyRecipe(RunSettings):
    """A complete recipe of a policy run."""

    recipe_folder: ClassVar[str] = "policy"
    roles: ClassVar[tuple[Role, ...]] = ("policy",)
    unhashed_fields: ClassVar[tuple[str, ...]] = (
        *RunSettings.unhashed_fields,
        *(f"reward.{name}" for name in ("server", "rubric_model", "judge_model", "key_env", "concurrency")),
    )

    method: Method = "dpo"
    """Set by the command: `dpo` (one round), `iterdpo` (`dpo.rounds` rounds) or `grpo` (online)."""
    reward: RewardModelSettings = RewardModelSettings()
    model: ModelSettings | None = None
    """The policy's base (null: a third adapter on the reward model's base, configured like the other two)."""
    data: PolicyDataSettings = PolicyDataSettings()
    start: StartSettings = StartSettings()
    answers: AnswerSettings = AnswerSettings()
    dpo: DPOSettings = DPOSettings()
    policy: GRPOSettings = GRPOSettings()
    """Online GRPO; `pairs_per_prompt` is ignored, `max_steps` is the steps of one round."""
    rounds: Positive = 3
    """Rounds of online GRPO: each uses an equal part of the prompts and ends with an evaluation."""
    evaluation: PolicyEvaluationSettings = PolicyEvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @property
    def inputs(self) -> list[str]:
        """Paths of folders and files that a run reads."""
        runs = (self.reward.run, self.evaluation.judge, self.start.adapter)
        files = (self.data.source, self.data.evaluation, self.start.source)
        return [name for name in (*runs, *files) if name and name not in (*WORLDS, "oracle")]

    @property
    def longest_answer(self) -> int:
        """Most tokens of a response; only online GRPO has a limit of its own in training."""
        online = self.policy.max_completion_length if self.method == "grpo" else 0
        return max(self.answers.max_completion_length, online)

    def check_room(self, max_context: int) -> None:
        """Raise a ConfigError unless the policy's context, in tokens, is longer than the longest response."""
        if (longest := self.longest_answer) >= max_context:
            field = "answers" if longest == self.answers.max_completion_length else "policy"
            raise ConfigError(
                f"{field}.max_completion_length: {longest} leaves no room for a prompt in model.max_context "
                f"({max_context}). Raise the context or shorten the responses."
            )

    def grpo(self, role: Role) -> GRPOSettings:
        """The settings of online GRPO, whose only role is the policy."""
        return self.policy

    @model_validator(mode="after")
    def _check(self) -> PolicyRecipe:
        source, start = self.data.source, self.start.source
        if source in WORLDS and self.data.evaluation is not None:
            raise ValueError(
                f"data.evaluation: {self.data.evaluation!r} is not used with data.source: {source}, which has held-out "
                "prompts of its own. Give a file of prompts as data.source, too, or null."
            )
        if start in WORLDS and start != source:
            raise ValueError(
                f"start.source: {start} has responses to the {start}'s prompts only, but data.source is {source!r}. "
                "Give a file of prompt and response, or null."
            )
        if source not in WORLDS and self.evaluation.judge == "oracle":
            raise ValueError(
                f"evaluation.judge: oracle knows the prompts of {' and '.join(WORLDS)} only, but data.source is "
                f"{source!r}. Give another run directory, or null."
            )
        if self.method == "grpo" and (self.data.train_prompts or self.rounds) < self.rounds:
            raise ValueError(
                f"data.train_prompts: {self.data.train_prompts} cannot be split into rounds: {self.rounds} parts. Use "
                "fewer rounds or more prompts."
            )
        if (judge := self.evaluation.judge) not in (None, "oracle"):
            trained = Path(self.reward.run).resolve(), self.reward.state
            if (Path(judge).resolve(), self.evaluation.judge_state) == trained:
                raise ValueError(
                    f"evaluation.judge: {judge} is the reward model itself, so its win rate cannot fall while that "
                    "one's rises. Name another run or judge_state, or null."
                )
        if self.model is not None:
            self.check_room(self.model.max_context)
        return self
