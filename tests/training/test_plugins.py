"""A recipe's own reward and phase: called with what the documentation promises, and one clear error otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models import Sampling
from rubric_arm_lite.reward_model import RubricCache, RubricGenerator
from rubric_arm_lite.training.phases import make_phases
from rubric_arm_lite.types import Role
from tests.players import PROMPTS, RUBRIC_TEXT, blocks, recipe, right, sampler, totals

PLUGINS = """
from rubric_arm_lite.training.phases import JudgePhase

SEEN = []

def shorter_is_better(sample):
    SEEN.append((sample.role, dict(sample.reward.parts)["accuracy"], len(sample.rubric.criteria)))
    return sample.reward.total - len(sample.text) / 1000

def nothing(sample):
    return None

def fails(sample):
    raise KeyError("weight")

class TwoFold(JudgePhase):
    def prepare(self, batch, seed):
        return super().prepare(list(batch) * 2, seed)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGINS)
    return path


@pytest.mark.parametrize("role", ["judge", "rubric"])
def test_a_reward_replaces_the_method_s_own_and_keeps_its_parts(plugins: Path, role: Role) -> None:
    scripted = sampler(right)
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(9))
    plain = make_phases(recipe(), generator)[role]
    phase = make_phases(recipe(reward={"function": f"{plugins}:shorter_is_better"}), generator)[role]
    groups = scripted.sample(role, phase.prepare(blocks(2), 1), Sampling(500, 2))
    length = len(groups[0].samples[0].text)
    default, rewards = plain.score(groups, 1), phase.score(groups, 1)
    assert totals(rewards)[0][0] == pytest.approx(totals(default)[0][0] - length / 1000)
    assert rewards[0][0].parts == default[0][0].parts
    assert phase.metrics().keys() == plain.metrics().keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"gave no reward for a sample of the judge \(TypeError"),
        ("fails", r"gave no reward for a sample of the judge \(KeyError: 'weight'\)"),
    ],
)
def test_a_reward_that_gives_none(plugins: Path, name: str, message: str) -> None:
    scripted = sampler(right)
    settings = recipe(reward={"function": f"{plugins}:{name}"})
    phase = make_phases(settings, RubricGenerator(scripted, PROMPTS, RubricCache(9)))["judge"]
    groups = scripted.sample("judge", phase.prepare(blocks(1), 1), Sampling(500, 2))
    with pytest.raises(ConfigError, match=message):
        phase.score(groups, 1)


def test_a_phase_of_one_s_own(plugins: Path) -> None:
    generator = RubricGenerator(sampler(right), PROMPTS, RubricCache(9))
    phases = make_phases(recipe(phases={"judge": f"{plugins}:TwoFold"}), generator)
    assert type(phases["judge"]).__name__ == "TwoFold" and phases["rubric"].role == "rubric"
    assert len(phases["judge"].prepare(blocks(3), 1)) == 6
    assert phases["judge"].prepare(blocks(1), 1)[0].rubric.text == RUBRIC_TEXT  # type: ignore[union-attr]


@pytest.mark.parametrize("field", ["reward.function", "phases.judge"])
def test_what_cannot_be_loaded_is_named_with_its_field(tmp_path: Path, field: str) -> None:
    section, key = field.split(".")
    settings = recipe(**{section: {key: f"{tmp_path}/none.py:f"}})
    with pytest.raises(ConfigError, match=rf"{field}: there is no file"):
        make_phases(settings, RubricGenerator(sampler(right), PROMPTS, RubricCache(9)))
