"""The examples of ``docs/plugins.md`` run as the page shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rubric_arm_lite.data import read_blocks, read_pairs
from rubric_arm_lite.recipe import load_recipe
from rubric_arm_lite.types import PreferencePair
from tests.cli.test_cli import call

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"


def blocks(section: str) -> dict[str, str]:
    """The code of a section by its language."""
    text = PAGE.read_text("utf-8").split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL))


def test_a_data_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks("A data format")
    (tmp_path / "votes.py").write_text(code["python"])
    (tmp_path / "votes.jsonl").write_text(code["json"])
    (tmp_path / "votes.yaml").write_text(code["yaml"])
    recipe = load_recipe(tmp_path / "votes.yaml")
    pairs, counts = read_pairs(recipe.data, recipe.seed)
    river, lake = pairs
    assert river == PreferencePair(river.pair_id, "Name a river.", "The Nile.", "Nile is river", "", "geography")
    assert (lake.chosen, lake.rejected) == ("Lake Como.", "Ontario")
    train, test, _ = read_blocks(recipe.data, recipe.seed)
    assert len(train) == len(test) == 1
    name = f"{tmp_path / 'votes.py'}:my_format"
    assert (counts.rows, counts.kept, counts.skipped) == (3, 2, ((f"skipped by {name}", 1),))
    shown = call("data", "check", tmp_path / "votes.jsonl", "--format", name).stdout
    expected = re.search(r"^votes.jsonl: .*$", code["console"], re.MULTILINE)
    assert expected is not None
    assert shown.replace(f"{tmp_path}/", "").startswith(expected[0])
