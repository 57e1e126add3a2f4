"""The examples of docs/plugins.md that change training work as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rubric_arm_lite.models import Sampling
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric
from rubric_arm_lite.reward_model import RubricCache, RubricGenerator
from rubric_arm_lite.training.phases import make_phases
from tests.players import PROMPTS, blocks, recipe, right, sampler, totals

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A folder with every file that the page shows."""
    for block, name in re.findall(r"```\w+\n((?:#|\{#) (\S+\.(?:py|jinja)).*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        (tmp_path / name).write_text(block)
    return tmp_path


def test_reward(example: Path) -> None:
    scripted = sampler(right)
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(9))
    plain = make_phases(recipe(), generator)["rubric"]
    phase = make_phases(recipe(reward={"function": f"{example}/short.py:short_rubrics"}), generator)["rubric"]
    groups = scripted.sample("rubric", phase.prepare(blocks(1), 1), Sampling(500, 2))
    criteria = len(parse_rubric(groups[0].samples[0].text).criteria)
    assert criteria and totals(phase.score(groups, 1))[0][0] == pytest.approx(
        totals(plain.score(groups, 1))[0][0] - 0.02 * criteria
    )


def test_phase(example: Path) -> None:
    generator = RubricGenerator(sampler(right), PROMPTS, RubricCache(9))
    phase = make_phases(recipe(phases={"judge": f"{example}/rich.py:RichRubrics"}), generator)["judge"]
    assert type(phase).__name__ == "RichRubrics"
    assert all(len(e.rubric.criteria) >= 2 for e in phase.prepare(blocks(2), 1) if e.rubric is not None)


def test_template(example: Path) -> None:
    prompt = PromptBuilder(Templates.load(str(example / "brief.jinja"), "judge")).rubric_prompt("Name a river.")
    assert prompt.startswith("Write at most four criteria") and "Name a river." in prompt
