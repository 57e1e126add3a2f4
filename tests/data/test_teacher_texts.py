"""Other models' rubrics: what is written again in our form, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

import pytest
from hypothesis import given

from rubric_arm_lite.data.trajectories import canonical_rubric, checked_judgement
from rubric_arm_lite.prompts.parsing import parse_rubric
from tests.judgements import RUBRIC, any_text, corpus, write_judgement

CANONICAL = "1. The response is short [Hard Rule]\n2. The response is kind [Principle]"


@pytest.mark.parametrize(
    "text",
    [
        CANONICAL,
        CANONICAL.replace("1.", "1)").replace("2.", "2)"),
        CANONICAL.replace("1.", "(1)").replace("2.", "(2)"),
        CANONICAL.replace("1.", "**1.**").replace("2.", "**2.**"),
        CANONICAL.replace("1.", "1:").replace("2.", "2:"),
        CANONICAL.replace("2.", "4.").replace("1.", "3."),
        CANONICAL.replace("2.", "1.").replace("1.", "0.", 1),
        f"Here is the rubric:\n\n{CANONICAL}",
        f"# Rubric\n{CANONICAL}\n\nThese criteria follow from the request.",
        CANONICAL.replace("is short", "is\n   short").replace("is kind ", "is kind\n"),
        CANONICAL.replace("[Hard Rule]", "**[Hard Rule]**").replace("[Principle]", "[Principle]."),
        CANONICAL.replace(" [Hard Rule]", "[Hard Rule].").replace("[Principle]", "__[Principle]__"),
        CANONICAL.replace("1.", "- 1.").replace("2.", "- 2."),
        CANONICAL.replace("\n", "\r\n\r\n"),
    ],
)
def test_the_same_rubric_in_other_clothes(text: str) -> None:
    found = canonical_rubric(text)
    assert found.usable and found.text == found.render() == CANONICAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No list at all.",
        "1. The response is short",
        "1. The response is short [Hard Rule] [Principle]",
        "1. [Hard Rule] The response is short [Principle]",
        "1. The response is short [Hard Rules]",
        "1. The response is short [Soft Rule]",
        "1. The response is short [Hard Rule]\n3. The response is kind [Principle]",
        "2. The response is short [Hard Rule]\n1. The response is kind [Principle]",
        "1. The response is short [Hard Rule]\nThe response is kind [Principle]",
        "The response is kind [Principle]\n1. The response is short [Hard Rule]",
        "1. The response is short [Hard Rule]\nMoreover:\n2. The response is kind [Principle]",
        "1. The response is short\n2. The response is kind [Principle]",
        "1. The response is short [Hard Rule]\n2. The response is kind",
        "- The response is short [Hard Rule]",
        "1. [Hard Rule]",
        "\n".join(f"{i}. The response is short [Hard Rule]" for i in range(1, 40)),
    ],
)
def test_what_is_another_rubric_or_none_is_refused(text: str) -> None:
    found = canonical_rubric(text)
    assert not found.usable and found.text == text


@given(text=any_text)
def test_any_text(text: str) -> None:
    found = canonical_rubric(text)
    if found.usable:
        assert parse_rubric(found.text).criteria == found.criteria
        assert canonical_rubric(found.text) == found
    assert parse_rubric(text).usable <= found.usable


def test_what_the_parser_takes_keeps_its_criteria() -> None:
    for row in corpus("rubrics"):
        strict = parse_rubric(row["text"])
        if strict.usable:
            assert canonical_rubric(row["text"]).criteria == strict.criteria


def test_only_a_strictly_well_formed_judgement_is_kept() -> None:
    text = write_judgement(RUBRIC, {"A": "met.", "B": "missed."}, "B")
    found = checked_judgement(f"\n{text}\n\n", RUBRIC)
    assert found is not None and (found.text, found.winner) == (text, "B")
    assert checked_judgement(f"Sure!\n{text}", RUBRIC) is None
    assert checked_judgement("Winner: Response A", RUBRIC) is None
