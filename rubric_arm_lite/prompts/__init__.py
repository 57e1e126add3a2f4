"""Prompts and parsers: the only code that writes prompt text and that interprets model text.

Input: prompts, rubrics and responses, never a label.
Output: user turns for the generator and the judge (:class:`PromptBuilder`) and, from a model's text, a
:class:`~rubric_arm_lite.types.Rubric` or :class:`~rubric_arm_lite.types.Judgement` with its status. The parsers, also
exported, are total: any text in, no exception, no default winner.
"""

from __future__ import annotations

from rubric_arm_lite.prompts.builder import PromptBuilder as PromptBuilder
from rubric_arm_lite.prompts.builder import Templates as Templates
from rubric_arm_lite.prompts.builder import prompt_hash as prompt_hash
from rubric_arm_lite.prompts.builder import prompt_text as prompt_text
from rubric_arm_lite.prompts.builder import wording as wording
from rubric_arm_lite.prompts.parsing import check_format as check_format
from rubric_arm_lite.prompts.parsing import parse_judgement as parse_judgement
from rubric_arm_lite.prompts.parsing import parse_rubric as parse_rubric
from rubric_arm_lite.prompts.pointwise import PointwiseJudgement as PointwiseJudgement
from rubric_arm_lite.prompts.pointwise import parse_pointwise as parse_pointwise
