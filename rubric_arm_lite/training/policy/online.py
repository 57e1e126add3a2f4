"""Online GRPO of a policy: the loop that trains the reward model, with another phase and one optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.models import Sampler, Sampling
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.recipe import GRPOSettings, derive_seed
from rubric_arm_lite.training.alternating import Hooks, Position, RoleStep, alternate
from rubric_arm_lite.training.hooks import rollout_rows, summarize
from rubric_arm_lite.training.phases import shares
from rubric_arm_lite.training.policy.judges import FixedRubricJudge, Request
from rubric_arm_lite.training.policy.state import PolicyState
from rubric_arm_lite.training.rewards import policy_reward
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.types import Example, PromptBlock, Reward, Role, RolloutGroup, StepMetrics


class PolicyPhase:
    """Reward model frozen: an answer earns the share of orders in which it beats the policy's greedy one (eq. 16)."""

    role: Role = "policy"

    def __init__(
        self,
        settings: GRPOSettings,
        sampler: Sampler,
        judge: FixedRubricJudge,
        prompts: PromptBuilder,
        requests: Mapping[str, Request],
    ) -> None:
        self._greedy = Sampling(settings.max_completion_length, 1, 0.0)
        self._sampler = sampler
        self._judge = judge
        self._prompts = prompts
        self._requests = requests
        self._counts: Counter[str] = Counter()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per request with a usable rubric."""
        self._counts = Counter()
        requests = [self._requests[block.prompt_id] for block in batch if self._judge.has_rubric(block.prompt_id)]
        self._counts.update({"rubrics/usable": len(requests), "rubrics/unusable": len(batch) - len(requests)})
        return [
            Example(r.prompt_id, self._prompts.policy_prompt(r.text), derive_seed(seed, r.prompt_id)) for r in requests
        ]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Compare every answer with the current policy's greedy one."""
        baselines = self._sampler.sample(self.role, [group.example for group in groups], self._greedy) if groups else []
        comparisons = [
            self._requests[group.example.example_id].comparison(sample.text, baseline.samples[0].text)
            for group, baseline in zip(groups, baselines, strict=True)
            for sample in group.samples
        ]
        verdicts = self._judge.verdicts(comparisons)
        self._counts.update(f"orders/{v.orders_won('A')}" if v.winners else "orders/unjudged" for v in verdicts)
        rewards = iter([policy_reward(verdict.winners) for verdict in verdicts])
        return [[next(rewards) for _ in group.samples] for group in groups]

    def measured(self) -> dict[str, float]:
        """Shares of usable rubrics, and of answers by the number of orders they won."""
        return {
            **shares(self._counts, "rubrics", ("usable", "unusable")),
            **shares(self._counts, "orders", ("0", "1", "2", "unjudged")),
        }


def train_online(state: PolicyState, evaluate: Callable[[str], None]) -> None:
    """Train through all rounds from the committed position on, with an evaluation after each.

    Raises:
        TrainingError: if a frozen adapter changed.
    """
    recipe, model, directory = state.recipe, state.models.policy, state.directory
    keep, save_steps = recipe.checkpoint.save_total_limit, recipe.checkpoint.save_steps
    requests = {request.prompt_id: request for request in state.requests.train}
    blocks = [PromptBlock(request.prompt_id, request.text, ()) for request in requests.values()]
    phase = PolicyPhase(recipe.policy, model, state.judge, state.prompts, requests)
    schedule = [ScheduledPhase(i, i, ("policy",)) for i in range(recipe.rounds)]
    frozen = {name: model.fingerprint(name) for name in model.model.peft_config if name != "policy"}

    def before_phase(scheduled: ScheduledPhase, steps: int) -> None:
        state.progress.stage(scheduled.label, steps)

    def after_step(scheduled: ScheduledPhase, step: int, done: list[tuple[RoleStep, StepMetrics]]) -> bool:
        for role_step, metrics in done:
            values = summarize(role_step, metrics, phase.measured())
            directory.append("metrics.jsonl", {"kind": "step", "round": scheduled.cycle + 1, "step": step, **values})
            for row in rollout_rows(scheduled, step, role_step):
                directory.append("rollouts.jsonl", row)
            state.progress.step(step + 1, values)
        if (step + 1) % save_steps == 0:
            directory.commit(state.save, position=(scheduled.index, step + 1), keep=keep)
        return False

    def after_phase(scheduled: ScheduledPhase) -> None:
        for name, fingerprint in frozen.items():
            if model.fingerprint(name) != fingerprint:
                raise TrainingError(f"The frozen adapter `{name}` changed in {scheduled.label}.")
        evaluate(f"round {scheduled.cycle + 1}")
        directory.commit(state.save, position=(scheduled.index + 1, 0), keep=keep)

    hooks = Hooks(before_phase, after_step, after_phase)
    position = Position(*directory.state.position)
    alternate(recipe, schedule, {"policy": phase}, blocks, model, state.learner, hooks, position)
