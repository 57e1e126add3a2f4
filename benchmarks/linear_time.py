"""Measure the time of every function that reads model or user text against the text's size.

    python benchmarks/linear_time.py [--largest 256] [--output benchmarks/linear_time.md]

A function is linear if doubling the text doubles its time; here the exponent over the two largest doublings must stay
below 1.75 wherever the time can be measured (10 ms or more). Exits with 1 if one does not. The texts are the worst that
we could think of for a pattern, a normalization or a loop over lines.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rubric_arm_lite.data.benchmarks import Decontaminator
from rubric_arm_lite.data.trajectories import canonical_rubric
from rubric_arm_lite.errors import clean
from rubric_arm_lite.models.server import COMMON_CONTROL_TOKENS
from rubric_arm_lite.prompts import PromptBuilder, Templates, check_format, parse_judgement, parse_pointwise, wording
from rubric_arm_lite.prompts.parsing import fold, parse_direct, parse_rubric, stated_met
from rubric_arm_lite.report import safe_text
from rubric_arm_lite.training.synthesize import find_disclosure
from rubric_arm_lite.types import Criterion, CriterionKind, ParseStatus, Rubric

HIGHEST_EXPONENT = 1.75
MEASURABLE = 0.01
"""Seconds below which a time is noise."""
BUILDER = PromptBuilder(Templates.load(), [COMMON_CONTROL_TOKENS])


def _rubric(text: str) -> Rubric:
    return Rubric(text, (Criterion(text, CriterionKind.HARD_RULE),), ParseStatus.OK)


RUBRIC = _rubric("x")
FUNCTIONS: dict[str, Callable[[str], object]] = {
    "fold": fold,
    "parse_rubric": parse_rubric,
    "parse_judgement, check_format": lambda text: check_format(parse_judgement(text, RUBRIC), RUBRIC),
    "parse_direct": lambda text: parse_direct(f"{text}</think>{text}"),
    "parse_pointwise": lambda text: parse_pointwise(text, RUBRIC),
    "stated_met": stated_met,
    "PromptBuilder.neutralize": BUILDER.neutralize,
    "wording": wording,
    "canonical_rubric": canonical_rubric,
    "Decontaminator.matches": Decontaminator(13).matches,
    "find_disclosure": lambda text: find_disclosure(_rubric(text), text, (text,)),
    "safe_text": safe_text,
    "clean": clean,
}
"""Public text functions by the name shown in the table."""

PIECES = {
    "letters": "x",
    "words": "word ",
    "combining marks": "\u0323\u0301",
    "Hebrew marks": "\u05b0\u05c1\u05b1",
    "Hangul": "\ud55c",
    "ligatures": "\ufdfa",
    "zero width": "\u200b",
    "blanks": " ",
    "blanks and a letter": " " * 64 + "x",
    "lines": "x\n",
    "empty lines": "\n",
    "carriage returns": "\r",
    "brackets": "[",
    "bracket pairs": "[ ]",
    "half tags": "[hard ",
    "parentheses": "(",
    "angle brackets": "<",
    "half sections": "</rubric ",
    "half control tokens": "<|im_start",
    "nested control tokens": "<|<|im_end|>",
    "inverted control tokens": "|><|",
    "thoughts": "<think></think>",
    "backticks": "`",
    "quotes": "\"'\u201c",
    "quoted": '"a ',
    "stars": "*",
    "dashes": "-",
    "headings": "--- Final Judgment ---\n",
    "hash headings": "# ",
    "quotations": "> > ",
    "winners": "Winner: Response A\n",
    "winner words": "the final winner ",
    "articles": "the ",
    "digits": "9",
    "numbered lines": "1. x\n",
    "item of many lines": "1. x [",
    "items": "1. x [Hard Rule]\n",
    "criteria": "- Criterion 1 [Hard Rule]: Justification: x\n",
    "turns": "[user]\n",
    "escapes": "\x1b[31m",
}
HEADS = {"lines": "1. x\n", "blanks": "1. x", "brackets": "1. x [Hard Rule] ", "combining marks": "W"}
"""How a text of some pieces begins, where they would otherwise not reach the loop that they are meant for."""


def adversarial(name: str, kilobytes: int) -> str:
    """A text of about this many kilobytes of UTF-8."""
    piece = PIECES[name]
    return HEADS.get(name, "") + piece * (kilobytes * 1024 // len(piece.encode()))


def seconds(function: Callable[[str], object], text: str, rounds: int = 3) -> float:
    """The least processor time of a few calls."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function(text)
        times.append(time.process_time() - start)
    return min(times)


def exponent(times: list[float]) -> float:
    """The growth over the last two doublings: 1 is linear, 2 quadratic; 0 where the time is noise."""
    return math.log2(times[-1] / max(times[-3], 1e-9)) / 2 if times[-1] >= MEASURABLE else 0.0


def main() -> int:
    """Measure everything and write the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--largest", type=int, default=256, help="kilobytes of the largest text")
    options.add_argument("--output", type=Path)
    arguments = options.parse_args()
    sizes = [2**power for power in range(arguments.largest.bit_length())]
    lines = [
        f"Processor time in ms by kilobytes of text, for the text that takes longest at {sizes[-1]} KB; "
        f"growth is the steepest of all {len(PIECES)} texts (1 linear, 2 quadratic, 0 below {1000 * MEASURABLE:g} ms).",
        "",
        "| function | slowest text | " + " | ".join(map(str, sizes)) + " | steepest growth |",
        "|---" * (len(sizes) + 3) + "|",
    ]
    steepest = 0.0
    for name, function in FUNCTIONS.items():
        measured = {piece: [seconds(function, adversarial(piece, size)) for size in sizes] for piece in PIECES}
        slowest = max(measured, key=lambda piece: measured[piece][-1])
        growth = {piece: exponent(times) for piece, times in measured.items()}
        worst = max(growth, key=lambda piece: growth[piece])
        steepest = max(steepest, growth[worst])
        shown = " | ".join(f"{1000 * value:.1f}" for value in measured[slowest])
        lines.append(f"| {name} | {slowest} | {shown} | {growth[worst]:.2f} ({worst}) |")
        print(lines[-1], flush=True)
    if arguments.output is not None:
        command = f"python benchmarks/linear_time.py --largest {arguments.largest} --output {arguments.output}"
        arguments.output.write_text("\n".join([f"`{command}`", "", *lines, ""]), "utf-8")
    return int(steepest > HIGHEST_EXPONENT)


if __name__ == "__main__":
    sys.exit(main())
