"""Prompts and parsers: the only code that writes prompt text and that interprets model text.

Enter: prompts, rubrics and responses, never a label. Leave: user turns for the generator and the judge, and, from a
model's text, a :class:`~rubric_arm_lite.types.Rubric` or :class:`~rubric_arm_lite.types.Judgement` with its status.
Parsers are total: any text in, no exception, no default winner.
"""

from __future__ import annotations

from rubric_arm_lite.prompts.builder import PromptBuilder, Templates, prompt_hash, prompt_text
from rubric_arm_lite.prompts.parsing import check_format, parse_judgement, parse_rubric
from rubric_arm_lite.prompts.pointwise import PointwiseJudgement, parse_pointwise

__all__ = [
    "PointwiseJudgement",
    "PromptBuilder",
    "Templates",
    "check_format",
    "parse_judgement",
    "parse_pointwise",
    "parse_rubric",
    "prompt_hash",
    "prompt_text",
]
