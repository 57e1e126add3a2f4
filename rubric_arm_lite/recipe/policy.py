"""Recipes of policy post-training (paper, sec. 4.3): a policy is trained against a finished reward-model run.

Field names are TRL's (``DPOConfig``, ``GRPOConfig``, ``SFTConfig``) where they mean the same.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe.fields import (
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
)
from rubric_arm_lite.types import Role

Method = Literal["dpo", "iterdpo", "grpo"]


class RewardModelSettings(Settings):
    """The reward model that labels and rewards."""

    run: str = "runs/demo"
    """A run directory that ``rubric-arm run`` has finished; with a server only its recipe is read."""
    state: Literal["final", "warm-up", "latest"] = "final"
    server: str | None = None
    """Address of an OpenAI-compatible server that has the run's adapters; null: they are loaded here."""
    rubric_model: Annotated[str, Field(min_length=1)] = "rubric"
    """The server's name of the generator."""
    judge_model: Annotated[str, Field(min_length=1)] = "judge"
    """The server's name of the judge."""
    key_env: Annotated[str, Field(min_length=1)] = "OPENAI_API_KEY"
    """Environment variable that holds the server's key."""
    concurrency: Positive = 32
    """Requests to the server at a time."""

    @model_validator(mode="after")
    def _check(self) -> RewardModelSettings:
        if self.server is not None and self.state != "final":
            raise ValueError(
                f"reward.state: {self.state} is for adapters that are loaded here. A server has what it was started "
                "with: choose it by reward.rubric_model and reward.judge_model."
            )
        return self


class PolicyDataSettings(Settings):
    """Where prompts come from; responses are the policy's own."""

    source: str = "testbed"
    """`testbed` for the world of the reward model's run, or a JSONL, CSV or Parquet file with `prompt`."""
    evaluation: str | None = None
    """A file of held-out prompts; without it `test_fraction` of the prompts of `source` are held out."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    train_prompts: Positive | None = None
    """Use at most this many prompts for training (all if null; 480 of the testbed)."""


class StartSettings(Settings):
    """How the policy begins; an instruction-tuned base needs nothing."""

    adapter: str | None = None
    """A PEFT folder to begin with, for example `adapters/policy` of another policy run."""
    source: str | None = None
    """`testbed` for the world's responses, liked or not; a file with `prompt` and `response`; or null for no
    supervised start."""
    sft: SFTSettings = SFTSettings()


class AnswerSettings(Settings):
    """How the policy answers, in the rounds of DPO and in evaluations."""

    max_completion_length: Positive = 1024
    temperature: PositiveFloat = 1.0


class DPOSettings(SFTSettings):
    """Direct preference optimisation with TRL's DPOTrainer on pairs sampled from the policy."""

    beta: PositiveFloat = 0.1
    sft_weight: NonNegative = 0.2
    """Weight of the next-token loss on the chosen answer beside DPO's (TRL: loss_type sigmoid + sft)."""
    rounds: Positive = 3
    """Rounds of iterative DPO; each starts from, and refers to, the policy of the round before."""


class PolicyEvaluationSettings(Settings):
    """What is measured at the start and after every round."""

    prompts: Positive = 200
    """Held-out prompts; one sampled answer to each is compared with the starting policy's."""
    judge: str | None = None
    """Who is asked beside the reward model: `oracle` (the testbed's world), another run directory, or null."""
    judge_state: Literal["final", "warm-up", "latest"] = "final"
    alarm_margin: Probability = 0.03
    """Reward over-optimisation is called out if the trained reward has gained, and the other judge lost, this much."""
    bootstrap: Positive = 2000


class PolicyRecipe(RunSettings):
    """One policy run, complete."""

    recipe_folder: ClassVar[str] = "policy"
    unhashed_fields: ClassVar[tuple[str, ...]] = tuple(
        f"reward.{name}" for name in ("server", "rubric_model", "judge_model", "key_env", "concurrency")
    )

    method: Method = "dpo"
    """Set by the verb."""
    reward: RewardModelSettings = RewardModelSettings()
    model: ModelSettings | None = None
    """The policy's base; null: a third adapter on the reward model's base, of the same shape as the other two."""
    data: PolicyDataSettings = PolicyDataSettings()
    start: StartSettings = StartSettings()
    answers: AnswerSettings = AnswerSettings()
    dpo: DPOSettings = DPOSettings()
    policy: GRPOSettings = GRPOSettings()
    """Online GRPO; `pairs_per_prompt` has no meaning here, `max_steps` counts the steps of one round."""
    rounds: Positive = 3
    """Rounds of online GRPO: equal parts of the prompts, with an evaluation after each."""
    evaluation: PolicyEvaluationSettings = PolicyEvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that this recipe trains."""
        return ("policy",)

    @property
    def inputs(self) -> list[str]:
        """Folders and files that a run reads."""
        runs = (self.reward.run, self.evaluation.judge, self.start.adapter)
        files = (self.data.source, self.data.evaluation, self.start.source)
        return [name for name in (*runs, *files) if name is not None and name not in ("testbed", "oracle")]

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer that a run writes; only online GRPO has answers of its own in training."""
        own = self.policy.max_completion_length if self.method == "grpo" else 0
        return max(self.answers.max_completion_length, own)

    def check_room(self, max_context: int) -> None:
        """Refuse a context of the policy, in tokens, that an answer alone would fill.

        Raises:
            ConfigError: if it would.
        """
        if (longest := self.longest_answer) >= max_context:
            field = "answers" if longest == self.answers.max_completion_length else "policy"
            raise ConfigError(
                f"{field}.max_completion_length: {longest} leaves no room for a prompt in model.max_context "
                f"({max_context}). Raise the context or shorten the answers."
            )

    def grpo(self, role: Role) -> GRPOSettings:
        """The settings of online GRPO."""
        return {"policy": self.policy}[role]

    @model_validator(mode="after")
    def _check(self) -> PolicyRecipe:
        testbed = self.data.source == "testbed"
        if testbed and self.data.evaluation is not None:
            raise ValueError(
                f"data.evaluation: {self.data.evaluation!r} is not asked with data.source: testbed, which has held-out "
                "prompts of its own. Give a file of prompts as data.source, too, or null."
            )
        if not testbed and self.start.source == "testbed":
            raise ValueError(
                f"start.source: testbed answers the testbed's prompts, but data.source is {self.data.source!r}. Give a "
                "file of prompt and response, or null."
            )
        if not testbed and self.evaluation.judge == "oracle":
            raise ValueError(
                f"evaluation.judge: oracle knows the testbed's prompts only, but data.source is {self.data.source!r}. "
                "Give another run directory, or null."
            )
        if self.model is not None:
            self.check_room(self.model.max_context)
        return self
