"""Warm-up texts of a chosen quality: rubrics and judgements of an imperfect teacher.

The teacher's errors are systematic, so that greedy decoding does not remove them: generic principles, a position bias,
overlooked criteria, broken format. Reinforcement learning has to correct them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Generic

from rubric_arm_lite.data.testbed.preference import PreferenceWorld, T, criterion_weight, known_task
from rubric_arm_lite.data.testbed.world import find
from rubric_arm_lite.data.trajectories import WarmupRow
from rubric_arm_lite.prompts.parsing import (
    ANALYSIS_HEADING,
    COMPLIANCE_HEADING,
    FINAL_HEADING,
    GATEKEEPER_PREFIX,
    JUSTIFICATION_PREFIX,
    RESPONSE_HEADINGS,
    WINNER_PREFIX,
)
from rubric_arm_lite.prompts.pointwise import pointwise_line
from rubric_arm_lite.recipe import PointwiseWords, TeacherSettings
from rubric_arm_lite.types import Comparison, Criterion, CriterionKind, PromptBlock, Rubric, Side

Find = Callable[[Criterion, str, bool], tuple[bool, str]]
"""Whether a response meets a criterion (never, if overlooked), and a justification: ``PreferenceWorld.find``."""


def write_judgement(
    rubric: Rubric,
    response_a: str,
    response_b: str,
    winner: Side | None = None,
    overlooked: frozenset[int] = frozenset(),
    if_equal: Side = "A",
    find: Find = find,
) -> str:
    """The judgement of a careful judge of the world, in the paper's format (app. E).

    Args:
        winner: the side to name regardless of the findings; None names the side with more points.
        overlooked: criteria (by number, from 1) that are reported as missed for both responses.
        if_equal: the side to name if both have the same points.
        find: how the judge finds out; the testbed's own world by default.
    """
    hard = [c for c in rubric.criteria if c.kind is CriterionKind.HARD_RULE]
    gatekeeper = (hard or list(rubric.criteria))[0]
    lines = [COMPLIANCE_HEADING, f"{GATEKEEPER_PREFIX} {gatekeeper.text}", ANALYSIS_HEADING]
    points: dict[Side, int] = {"A": 0, "B": 0}
    responses: dict[Side, str] = {"A": response_a, "B": response_b}
    for side, heading in RESPONSE_HEADINGS.items():
        lines.append(heading)
        for number, criterion in enumerate(rubric.criteria, start=1):
            met, finding = find(criterion, responses[side], number in overlooked)
            points[side] += criterion_weight(criterion) * met
            lines.append(f"- Criterion {number} [{criterion.kind.label}]: {JUSTIFICATION_PREFIX} {finding}")
    if winner is None:
        winner = if_equal if points["A"] == points["B"] else ("A" if points["A"] > points["B"] else "B")
    justification = f"{JUSTIFICATION_PREFIX} A earns {points['A']}, B earns {points['B']}."
    return "\n".join([*lines, FINAL_HEADING, justification, f"{WINNER_PREFIX} {winner}"])


def write_pointwise_judgement(
    rubric: Rubric,
    response: str,
    words: PointwiseWords,
    overlooked: frozenset[int] = frozenset(),
    contradicted: frozenset[int] = frozenset(),
    find: Find = find,
) -> str:
    """The pointwise judgement of a careful judge of the world: a finding and an answer for each criterion.

    It begins with a line break, because the testbed's tokenizer has a criterion's number as a token only after one.

    Args:
        overlooked: criteria (by number, from 1) that are reported as missed.
        contradicted: criteria whose answer contradicts the finding.
    """
    lines = []
    for number, criterion in enumerate(rubric.criteria, start=1):
        met, finding = find(criterion, response, number in overlooked)
        answer = met != (number in contradicted)
        lines.append(f"\n{pointwise_line(number, criterion, answer, finding, words)}")
    return "".join(lines)


class Teacher(Generic[T]):
    """Writes the warm-up texts of one world; with ``words`` its judgements are pointwise."""

    def __init__(
        self, world: PreferenceWorld[T], settings: TeacherSettings | None = None, words: PointwiseWords | None = None
    ) -> None:
        self.world = world
        self.words = words
        self.settings = settings or TeacherSettings()
        self.generic = random.Random(f"teacher:{world.seed}").sample(world.attributes, 2)

    def trajectories(self, blocks: Sequence[PromptBlock], seed: int) -> list[WarmupRow]:
        """One row per pair of ``blocks``, in their order; a pointwise judgement is of one of the two responses."""
        rows = []
        for pair in (pair for block in blocks for pair in block.pairs):
            rng = random.Random(f"trajectory:{self.world.seed}:{seed}:{pair.pair_id}")
            shown = pair.present(rng.choice(("A", "B"))).comparison
            rubric = self.rubric(known_task(self.world, pair.prompt), rng)
            text = rubric.text if rng.random() >= self.settings.malformed_rubric else break_rubric(rubric, rng)
            judge = self.judgement if self.words is None else self.pointwise_judgement
            response_b = shown.response_b if self.words is None else None
            judgement = judge(shown, rubric, rng)
            rows.append(WarmupRow(shown.prompt, text, shown.response_a, response_b, judgement, rubric.text))
        return rows

    def rubric(self, task: T, rng: random.Random) -> Rubric:
        """The hard rule and two distinct principles of the teacher's quality."""
        names: list[str] = []
        while len(names) < 2:
            draw = rng.random()
            if draw < self.settings.true_principle:
                name = rng.choice(self.world.likes[task.topic])
            elif draw < self.settings.true_principle + self.settings.generic_principle:
                name = rng.choice(self.generic)
            else:
                name = rng.choice(self.world.attributes)
            if name not in names:
                names.append(name)
        return self.world.rubric(task, names)

    def judgement(self, comparison: Comparison, rubric: Rubric, rng: random.Random) -> str:
        """A judgement with the teacher's biases; it does not depend on the label."""
        settings = self.settings
        leaning: Side = "A" if rng.random() < settings.prefers_first else "B"
        overlooked = self._overlooked(rubric, rng)
        winner = leaning if rng.random() < settings.careless else None
        text = self.write(rubric, comparison, winner, overlooked, leaning)
        return self.broken(text, rng) if rng.random() < settings.malformed_judgement else text

    def write(
        self, rubric: Rubric, comparison: Comparison, winner: Side | None, overlooked: frozenset[int], if_equal: Side
    ) -> str:
        """A well-formed judgement; arguments as of :func:`write_judgement`."""
        a, b = comparison.response_a, comparison.response_b
        return write_judgement(rubric, a, b, winner, overlooked, if_equal, self.world.find)

    def broken(self, text: str, rng: random.Random) -> str:
        """The text of a judgement with one fault."""
        return break_judgement(text, rng)

    def pointwise_judgement(self, comparison: Comparison, rubric: Rubric, rng: random.Random) -> str:
        """A pointwise judgement of response A; a careless teacher answers against its findings."""
        settings = self.settings
        overlooked = self._overlooked(rubric, rng)
        numbers = range(1, len(rubric.criteria) + 1)
        contradicted = frozenset(number for number in numbers if rng.random() < settings.careless)
        text = write_pointwise_judgement(
            rubric, comparison.response_a, self.words or PointwiseWords(), overlooked, contradicted, self.world.find
        )
        return break_pointwise_judgement(text, rng) if rng.random() < settings.malformed_judgement else text

    def _overlooked(self, rubric: Rubric, rng: random.Random) -> frozenset[int]:
        if rng.random() >= self.settings.ignores_principles:
            return frozenset()
        return frozenset(i for i, c in enumerate(rubric.criteria, start=1) if c.kind is CriterionKind.PRINCIPLE)


def break_rubric(rubric: Rubric, rng: random.Random) -> str:
    """The rubric's text with one fault that makes it malformed."""
    lines = rubric.text.split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(3):
        case 0:
            lines[at] = lines[at].rsplit(" [", 1)[0]
        case 1:
            lines[at] = lines[at].split(". ", 1)[1]
        case _:
            lines[at] = f"{len(lines) + 1}. " + lines[at].split(". ", 1)[1]
    return "\n".join(lines)


def break_judgement(text: str, rng: random.Random) -> str:
    """The judgement's text with one fault: a missing line, or missing criteria of one response."""
    lines = text.split("\n")
    criteria = [i for i, line in enumerate(lines) if line.startswith("- Criterion")]
    match rng.randrange(4):
        case 0:
            del lines[1]
        case 1:
            del lines[rng.choice(criteria)]
        case 2:
            del lines[-2]
        case _:
            del lines[criteria[len(criteria) // 2] : criteria[-1] + 1]
    return "\n".join(lines)


def break_pointwise_judgement(text: str, rng: random.Random) -> str:
    """A pointwise judgement with one fault: a missing criterion, a repeated one, or a wrong order."""
    lines = text.split("\n")[1:]
    at = rng.randrange(len(lines))
    match rng.randrange(3):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case _:
            lines.append(lines.pop(at) if at + 1 < len(lines) else lines[0])
    return "".join("\n" + line for line in lines)
