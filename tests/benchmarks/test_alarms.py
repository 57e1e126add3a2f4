"""The rewards of ``benchmarks/alarms.py`` pay their flaw by the dial, and its table counts hits and false alarms."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.alarms import FLAWS, PLUGIN, flawed, table
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe.plugins import load_plugin
from rubric_arm_lite.training import ScoredSample
from rubric_arm_lite.training.alarms import EVALUATIONS, STEPS
from rubric_arm_lite.types import Reward
from tests.judgements import write_judgement

PLAIN = "1. The response is warm [Principle]\n2. The response is vivid [Principle]"
PAID = {
    "same": PLAIN.replace("vivid", "playful"),
    "twice": PLAIN.replace("vivid", "warm"),
    "short": PLAIN.splitlines()[0],
    "long": PLAIN + "\n3. The response is calm [Principle]",
}


def written(name: str, paid: bool) -> ScoredSample:
    """A sample that the flaw pays more for, or a plain one."""
    if FLAWS[name].role == "rubric":
        text = PAID[name] if paid else PLAIN
        return ScoredSample("rubric", "", text, parse_rubric(text), Reward(0.5))
    rubric = parse_rubric(PLAIN)
    favored = "B" if name == "first" else "A"
    side = ("A" if favored == "B" else "B") if paid else favored
    sides = {"A": "this is met.", "B": "this is missed."}
    text = write_judgement(rubric, sides, side) + (" more" * 9 if name == "rambling" and paid else "")
    return ScoredSample("judge", "", text, rubric, Reward(0.5))


@pytest.mark.parametrize("name", FLAWS)
def test_a_flaw_pays_by_the_dial(name: str, tmp_path: Path) -> None:
    paid, plain = written(name, True), written(name, False)
    gain = FLAWS[name].pays(paid) - FLAWS[name].pays(plain)
    assert gain == 0 if name == "constant" else gain > 0
    assert flawed(name, 0.0, paid) == flawed(name, 0.0, plain) == 0.5
    assert flawed(name, 0.5, paid) - flawed(name, 0.5, plain) == pytest.approx(gain / 2)
    assert set(FLAWS[name].expected) <= {*STEPS, *EVALUATIONS}
    file = tmp_path / "flaw.py"
    file.write_text(PLUGIN.format(root=str(Path(__file__).parents[2]), flaw=name, dial=0.5))
    assert load_plugin(f"{file}:reward", "reward.function")(paid) == flawed(name, 0.5, paid)


def test_the_table_counts_hits_delays_and_false_alarms() -> None:
    def row(seed: int, flaw: str | None, **steps: int) -> dict[str, object]:
        found = {name: {"phase": "rubric 1", "steps": at, "value": 1.0} for name, at in steps.items()}
        return {"seed": seed, "flaw": flaw, "dial": 1.0, "alarms": found, "accuracy": 0.5}

    text = table([row(1, "twice", repeated=3, kl=9), row(2, "twice", repeated=5), row(3, "twice"), row(4, None, kl=2)])
    assert "| rubric repeats a criterion | 1 | 3 | repeated | 67% | 3 | kl | 0.500 |" in text
    assert "1 healthy runs: 1 false alarms: kl (4, rubric 1)." in text
