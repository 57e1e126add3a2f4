"""Online GRPO of a policy: the loop that trains the reward model, with another phase and one optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.models import Sampling
from rubric_arm_lite.training.alternating import Hooks, Position, RoleStep, alternate
from rubric_arm_lite.training.hooks import rollout_rows, summarize
from rubric_arm_lite.training.phases import shares
from rubric_arm_lite.training.policy.state import PolicyState
from rubric_arm_lite.training.rewards import policy_reward
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.types import Example, PromptBlock, Reward, Role, RolloutGroup, StepMetrics


class PolicyPhase:
    """Reward model frozen: an answer earns the share of orders in which it beats the policy's greedy one (eq. 16)."""

    role: Role = "policy"

    def __init__(self, state: PolicyState) -> None:
        self._state = state
        self._requests = {request.prompt_id: request for request in state.requests.train}
        self._counts: Counter[str] = Counter()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per request with a usable rubric."""
        judge, prompts = self._state.judge, self._state.prompts
        requests = [self._requests[block.prompt_id] for block in batch if judge.has_rubric(block.prompt_id)]
        self._counts = Counter({"rubrics/usable": len(requests), "rubrics/unusable": len(batch) - len(requests)})
        return [request.example(prompts, seed) for request in requests]

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Compare every answer with the current policy's greedy one."""
        greedy = Sampling(self._state.recipe.policy.max_completion_length, 1, 0.0)
        examples = [group.example for group in groups]
        baselines = self._state.models.policy.sample(self.role, examples, greedy) if groups else []
        comparisons = [
            self._requests[group.example.example_id].comparison(sample.text, baseline.samples[0].text)
            for group, baseline in zip(groups, baselines, strict=True)
            for sample in group.samples
        ]
        verdicts = self._state.judge.verdicts(comparisons)
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
    blocks = [PromptBlock(request.prompt_id, request.text, ()) for request in state.requests.train]
    phase = PolicyPhase(state)
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

    hooks, start = Hooks(before_phase, after_step, after_phase), Position(*directory.state.position)
    alternate(recipe, schedule, {"policy": phase}, blocks, model, state.learner, hooks, start)
