from __future__ import annotations

import unicodedata

import pytest

from benchmarks.linear_time import FUNCTIONS, PIECES, adversarial, seconds
from rubric_arm_lite.data.trajectories import canonical_rubric
from rubric_arm_lite.prompts.parsing import fold

SMALL, LARGE = 8, 32


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_text_makes_a_function_quadratic(name: str) -> None:
    """Four times the text takes four times as long, in quadratic time sixteen; short times are not compared."""
    for piece in PIECES:
        small, large = (adversarial(piece, size) for size in (SMALL, LARGE))
        if seconds(FUNCTIONS[name], large, rounds=1) > 0.15:  # then it is worth measuring well
            assert seconds(FUNCTIONS[name], large) < 8 * seconds(FUNCTIONS[name], small), piece


def test_marks_are_folded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Normalizing sorts a run of marks by insertion, so no run reaches it."""
    lengths = []
    whole = unicodedata.normalize
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: lengths.append(len(text)) or whole(form, text))
    assert fold("W\u0323\u0301\u05b0\u05c1" * 1000 + "Ｗ") == "w\u05b0\u05c1" * 1000 + "w"
    assert max(lengths, default=1) == 1


@pytest.mark.parametrize(
    ("text", "rubric"),
    [
        ("**1.** x\ny\n[Hard\nRule]", "1. x y [Hard Rule]"),
        ("(1) x **[Principle]**\n2. y [Hard Rule].", "1. x [Principle]\n2. y [Hard Rule]"),
        ("1. x\n**[Principle]**.\n2. y\nz [Hard Rule]", "1. x [Principle]\n2. y z [Hard Rule]"),
        ("1. [Hard Rule]\n2. x [Principle]", None),
        ("1) x\n" + "y\n" * 100 + "[Principle]", "1. x" + " y" * 100 + " [Principle]"),
    ],
)
def test_items_of_many_lines_mean_the_same(text: str, rubric: str | None) -> None:
    found = canonical_rubric(text)
    assert (found.text if found.usable else None) == rubric
