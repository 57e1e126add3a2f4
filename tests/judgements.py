"""Well-formed judgements and arbitrary texts for tests, and the corpora of texts once met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.types import Rubric, Side
from tests.hostile_cases import CONTROL_TOKENS, TAGS, TURNS, UNSEEN, WINNER_LINES

RUBRIC = parse_rubric("1. The response is short [Hard Rule]\n2. The response is kind [Principle]")
"""The rubric that every judgement of ``corpora/judgements.jsonl`` was written for."""

FRAGMENTS = (
    "--- Compliance Check ---", "Identified Gatekeeper Criterion: x", "--- Analysis ---", "**Response A:**",
    "**Response B:**", "- Criterion 1 [Hard Rule]: Justification: x", "- Criterion 2 [Principle]: Justification: x",
    "--- Final Judgment ---", "Justification: x", "Winner: Response A", "Winner: Response B", "[Hard Rule]", "1. ",
    "2. ", "\n", "\r", "\u2028", " ", "> ", "{{ rubric }}", "{% raw %}", "\ud800", *CONTROL_TOKENS, *TAGS, *TURNS,
    *UNSEEN, *(line.format("A") for line in WINNER_LINES),
)  # fmt: skip

any_text = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=30).map("".join)
"""Any text at all, and often one made of pieces that mean something to us."""


def corpus(name: str) -> list[dict[str, Any]]:
    """The rows of ``corpora/NAME.jsonl``."""
    path = Path(__file__).parent / "corpora" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_judgement(rubric: Rubric, findings: dict[Side, str], winner: Side) -> str:
    """A well-formed judgement that says ``findings[side]`` about every criterion under that side."""
    lines = [
        "--- Compliance Check ---",
        f"Identified Gatekeeper Criterion: {rubric.criteria[0].text}",
        "--- Analysis ---",
    ]
    for side, finding in findings.items():
        lines.append(f"**Response {side}:**")
        lines += [
            f"- Criterion {number} [{criterion.kind.label}]: Justification: {finding}"
            for number, criterion in enumerate(rubric.criteria, start=1)
        ]
    lines += ["--- Final Judgment ---", "Justification: the rubric decides.", f"Winner: Response {winner}"]
    return "\n".join(lines)
