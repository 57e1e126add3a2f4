"""The values that cross module borders: frozen, slotted, without behavior beyond their own meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

Side = Literal["A", "B"]
Role = Literal["rubric", "judge", "policy"]
FinishReason = Literal["stop", "length"]

ROLES: tuple[Role, ...] = ("rubric", "judge")
"""The roles of the reward model; ``policy`` is the third one, trained against it afterwards."""


def other_side(side: Side) -> Side:
    """Return the side that is not ``side``."""
    return "B" if side == "A" else "A"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation prompt."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""A request: one text, or the turns of a conversation that ends with the user's last turn."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt with two responses in one order, without a label: all that a judge may see."""

    comparison_id: str
    prompt: Prompt
    response_a: str
    response_b: str

    def swapped(self) -> Comparison:
        """The same comparison with the responses in the other order."""
        return Comparison(self.comparison_id, self.prompt, self.response_b, self.response_a)


@dataclass(frozen=True, slots=True)
class LabeledComparison:
    """A comparison and its label; only the rewards read ``preferred``."""

    comparison: Comparison
    preferred: Side


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One row of preference data: a prompt and two responses, of which ``chosen`` is preferred."""

    pair_id: str
    prompt: Prompt
    chosen: str
    rejected: str
    source: str = ""
    subset: str = ""

    def present(self, chosen_side: Side) -> LabeledComparison:
        """Lay the pair out with the chosen response on ``chosen_side``."""
        first, second = (self.chosen, self.rejected) if chosen_side == "A" else (self.rejected, self.chosen)
        return LabeledComparison(Comparison(self.pair_id, self.prompt, first, second), chosen_side)


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """A prompt with the preference pairs that share it: the unit in which training data is drawn."""

    prompt_id: str
    prompt: Prompt
    pairs: tuple[PreferencePair, ...]


class CriterionKind(str, Enum):
    """The two kinds of criterion (paper, app. E)."""

    HARD_RULE = "hard_rule"
    PRINCIPLE = "principle"

    @property
    def label(self) -> str:
        """The tag as written in text, without brackets."""
        return "Hard Rule" if self is CriterionKind.HARD_RULE else "Principle"


class ParseStatus(str, Enum):
    """How well a model's text fitted its format."""

    OK = "ok"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Criterion:
    """One line of a rubric."""

    text: str
    kind: CriterionKind


@dataclass(frozen=True, slots=True)
class Rubric:
    """A parsed rubric; ``criteria`` is empty unless ``status`` is OK."""

    text: str
    criteria: tuple[Criterion, ...]
    status: ParseStatus

    @property
    def usable(self) -> bool:
        """Whether the rubric may be shown to a judge."""
        return self.status is ParseStatus.OK

    @property
    def repeats(self) -> int:
        """The number of criteria whose text stands in the rubric before, in any letter case."""
        return len(self.criteria) - len({criterion.text.casefold() for criterion in self.criteria})

    def render(self) -> str:
        """The canonical text of the criteria, the only form in which a rubric enters a prompt."""
        return "\n".join(f"{i}. {c.text} [{c.kind.label}]" for i, c in enumerate(self.criteria, start=1))


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a judgement says about one criterion under one response."""

    side: Side
    number: int
    kind: CriterionKind
    justification: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A parsed judgement. ``winner`` is None when the text names no winner, two, or was cut."""

    text: str
    gatekeeper: str | None
    assessments: tuple[Assessment, ...]
    justification: str | None
    winner: Side | None
    status: ParseStatus


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as it was sampled; training uses ``token_ids`` and never retokenizes ``text``.

    ``logprobs[t]`` is the log-probability, in nats, of ``token_ids[t]`` under the sampling distribution.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt that a phase gives to its policy, with what is needed to score the completions.

    ``prompt`` is the user turn in full; ``seed`` fixes every random draw made for this example. Neighboring examples of
    one ``group`` have their rewards compared with each other; by default each is a group of its own.
    """

    example_id: str
    prompt: str
    seed: int
    comparisons: tuple[LabeledComparison, ...] = ()
    rubric: Rubric | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The completions sampled for one example, with the prompt ids they continue."""

    example: Example
    prompt_ids: tuple[int, ...]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Reward:
    """A scalar reward and the parts it is made of. ``masked`` leaves the sample out of its group."""

    total: float
    parts: tuple[tuple[str, float], ...] = ()
    masked: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.total):
            raise ValueError(f"A reward must be finite, got {self.total!r}.")


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimization step measured, by name; deterministic for a given recipe and seed."""

    values: dict[str, float] = field(default_factory=dict)


Recall = Callable[[Prompt, Rubric], float]
"""Share of a prompt's true principles that a rubric names; only a synthetic world knows it."""
