"""Preference pairs and scripted players for tests of the phases, the loop and the evaluation."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rubric_arm_lite.prompts.builder import PromptBuilder, Templates
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe.fields import Recipe
from rubric_arm_lite.reward_model import make_judge
from rubric_arm_lite.types import Example, PreferencePair, PromptBlock, Rubric, Side
from tests.judgements import write_judgement
from tests.scripted import ScriptedSampler, Written

PROMPTS = PromptBuilder(Templates.load())
RUBRIC_TEXT = "1. The response is short [Hard Rule]\n2. The response is kind [Principle]"
Judge = Callable[[str, str, Rubric, int], Written]
"""Writes a judgement from what stands as response A and B, the rubric, and the sample's index."""


def pair(name: str, prompt: str | None = None, subset: str = "") -> PreferencePair:
    """A pair whose chosen response begins with ``good`` and whose other one with ``poor``."""
    return PreferencePair(f"id-{name}", prompt or f"request {name}", f"good {name}", f"poor {name}", "origin", subset)


def block(name: str, pairs: int = 1) -> PromptBlock:
    """A prompt with some pairs."""
    prompt = f"request {name}"
    return PromptBlock(f"block-{name}", prompt, tuple(pair(f"{name}{i}", prompt) for i in range(pairs)))


def blocks(count: int, pairs: int = 1) -> list[PromptBlock]:
    return [block(f"n{i}-", pairs) for i in range(count)]


def recipe(**changes: Any) -> Recipe:
    """A recipe on a file of pairs; sections are merged into small defaults."""
    role = {"num_generations": 2, "max_completion_length": 50, "prompts_per_step": 2}
    fields: dict[str, Any] = {
        "data": {"source": "pairs.jsonl"},
        "warmup": {"source": None},
        "judge": {**role, **changes.pop("judge", {})},
        "rubric": {**role, **changes.pop("rubric", {})},
    }
    return Recipe.model_validate({**fields, **changes})


def section(name: str, prompt: str) -> str:
    """What stands between a prompt's tags."""
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", prompt, re.DOTALL)
    assert found is not None
    return found[1]


def judgement(rubric: Rubric, winner: Side) -> str:
    return write_judgement(rubric, {"A": "fine", "B": "fine"}, winner)


def right(a: str, b: str, rubric: Rubric, index: int) -> str:
    """The perfect judge."""
    return judgement(rubric, "A" if a.startswith("good") else "B")


def says_a(a: str, b: str, rubric: Rubric, index: int) -> str:
    """The judge that always prefers the first response."""
    return judgement(rubric, "A")


def sampler(
    judge: Judge = right, generator: Callable[[str, Example, int], Written] = lambda request, example, i: RUBRIC_TEXT
) -> ScriptedSampler:
    """A sampler whose judge sees two responses and whose generator sees the request."""

    def script(adapter: str | None, example: Example, index: int) -> Written:
        if "<response_a>" in example.prompt:
            rubric = parse_rubric(section("rubric", example.prompt))
            sides = (section(f"response_{side}", example.prompt) for side in ("a", "b"))
            return judge(*sides, rubric, index)
        return generator(section("instruction", example.prompt), example, index)

    return ScriptedSampler(script)


def judge_of(scripted: Any, settings: Recipe | None = None) -> Any:
    """The judge that a recipe trains, asked of a scripted sampler."""
    return make_judge(settings or recipe(), scripted, PROMPTS)


def totals(rewards: Sequence[Sequence[Any]]) -> list[list[float]]:
    return [[reward.total for reward in group] for group in rewards]
