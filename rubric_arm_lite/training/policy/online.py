"""Online GRPO of a policy: the loop that trains the reward model, with another phase and one optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rubric_arm_lite.models import Sampling
from rubric_arm_lite.training.hooks import LoggedTraining
from rubric_arm_lite.training.phases import fractions
from rubric_arm_lite.training.policy.state import PolicyState
from rubric_arm_lite.training.rewards import policy_reward
from rubric_arm_lite.training.schedule import ScheduledPhase
from rubric_arm_lite.types import Example, PromptBlock, Reward, Role, RolloutGroup


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

    def metrics(self) -> dict[str, float]:
        """Fractions of usable rubrics, and of answers by the number of orders they won."""
        return {
            **fractions(self._counts, "rubrics", ("usable", "unusable")),
            **fractions(self._counts, "orders", ("0", "1", "2", "unjudged")),
        }


def train_online(state: PolicyState, evaluate: Callable[[str], None]) -> None:
    """Train through all rounds from the committed position on, with an evaluation after each.

    Raises:
        TrainingError: if a frozen adapter changed.
    """
    blocks = [PromptBlock(request.prompt_id, request.text, ()) for request in state.requests.train]
    training = LoggedTraining(
        state,
        state.models.policy,
        {"policy": PolicyPhase(state)},
        place=lambda scheduled, _: {"round": scheduled.cycle + 1},
        after_phase=lambda scheduled, *_: evaluate(f"round {scheduled.cycle + 1}"),
    )
    training.train([ScheduledPhase(i, i, ("policy",)) for i in range(state.recipe.rounds)], blocks)
