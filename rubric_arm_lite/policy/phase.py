"""Online GRPO of a policy as a third phase (paper, sec. 4.3): the loop, the sampler and the learner stay as they are.

Each of K sampled answers is judged against the policy's own greedy answer, in both orders and under the same rubric;
it earns half the number of orders it wins (eq. 16). Requests whose rubric does not parse are left out and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rubric_arm_lite.backends.base import Sampler, Sampling
from rubric_arm_lite.config import GRPOSettings
from rubric_arm_lite.phases import Tally
from rubric_arm_lite.policy.referee import Match, Referee, Request
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.rewards import policy_reward
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Example, PromptBlock, Reward, Role, RolloutGroup, Side


class PolicyPhase:
    """Reward model frozen: an answer that beats the policy's own greedy one pays."""

    role: Role = "policy"

    def __init__(
        self,
        settings: GRPOSettings,
        sampler: Sampler,
        referee: Referee,
        prompts: PromptBuilder,
        requests: Mapping[str, Request],
    ) -> None:
        self._greedy = Sampling(settings.max_completion_length, 1, 0.0)
        self._sampler = sampler
        self._referee = referee
        self._prompts = prompts
        self._requests = requests
        self._tally = Tally()

    def prepare(self, batch: Sequence[PromptBlock], seed: int) -> list[Example]:
        """One example per request with a usable rubric."""
        self._tally = Tally()
        examples = []
        for block in batch:
            request = self._requests[block.prompt_id]
            usable = self._referee.has_rubric(request)
            self._tally.counts[f"rubrics/{'usable' if usable else 'unusable'}"] += 1
            if usable:
                text = self._prompts.policy_prompt(request.text)
                examples.append(Example(request.prompt_id, text, derive_seed(seed, request.prompt_id)))
        return examples

    def score(self, groups: Sequence[RolloutGroup], seed: int) -> list[list[Reward]]:
        """Sample the policy's greedy answers, as it is now, and ask who beats them."""
        baselines = self._sampler.sample(self.role, [group.example for group in groups], self._greedy) if groups else []
        matches = [
            Match(self._requests[group.example.example_id], sample.text, baseline.samples[0].text)
            for group, baseline in zip(groups, baselines, strict=True)
            for sample in group.samples
        ]
        verdicts = iter(self._referee.verdicts(matches))
        return [[self._reward_of(next(verdicts).named) for _ in group.samples] for group in groups]

    def _reward_of(self, named: Sequence[Side | None]) -> Reward:
        reward = policy_reward(named)
        self._tally.counts[f"orders/{round(2 * reward.total)}" if len(named) == 2 else "orders/unjudged"] += 1
        return reward

    def measured(self) -> dict[str, float]:
        """Shares of usable rubrics, and of answers by the number of orders they won."""
        return {
            **self._tally.shares("rubrics", ("usable", "unusable")),
            **self._tally.shares("orders", ("0", "1", "2", "unjudged")),
        }
