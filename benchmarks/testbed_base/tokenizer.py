"""The testbed's tokenizer: whole words, and whole fixed parts, as single tokens.

It is a ``PreTrainedTokenizerFast`` folder with a ChatML template, so the code that loads the tokenizer of an 8B model
loads this one. Each fixed part of the built-in prompt templates and of a judgement is one token, which keeps the
sequences of a tiny model short without a format of its own. Decoding is exact: tokens include their blanks and line
breaks. Unknown words become ``<unk>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rubric_arm_lite.data.testbed.world import GENRES, NOISE, PRINCIPLES, READERS, RULE_WORDS, RULES, TOPICS
from rubric_arm_lite.prompts import Templates
from rubric_arm_lite.prompts.builder import static_parts
from rubric_arm_lite.prompts.parsing import (
    ANALYSIS_HEADING,
    COMPLIANCE_HEADING,
    FINAL_HEADING,
    GATEKEEPER_PREFIX,
    JUSTIFICATION_PREFIX,
    RESPONSE_HEADINGS,
    WINNER_PREFIX,
)
from rubric_arm_lite.types import CriterionKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, TURN_START, TURN_END = "<|pad|>", "<unk>", "<|im_start|>", "<|im_end|>"
MAX_NUMBER = 9
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def fixed_parts() -> list[str]:
    """Texts that are one token each: template parts, headings, line starts, set phrases."""
    templates = Templates.load()
    paper = Templates.load(judge="judge_paper")
    parts = [p for source in (templates.rubric, templates.judge, paper.judge) for p in static_parts(source)]
    parts += [COMPLIANCE_HEADING, f"\n{GATEKEEPER_PREFIX}", f"\n{ANALYSIS_HEADING}", f"\n{FINAL_HEADING}"]
    parts += [f"\n{heading}" for heading in RESPONSE_HEADINGS.values()]
    parts += [f"\n{JUSTIFICATION_PREFIX}", f"\n{WINNER_PREFIX}"]
    for kind in CriterionKind:
        parts += [f" [{kind.label}]", f" [{kind.label}]: {JUSTIFICATION_PREFIX}"]
    for number in range(1, MAX_NUMBER + 1):
        parts += [f"{number}.", f"\n{number}.", f"\n- Criterion {number}"]
    parts += [
        "user\n",
        "assistant\n",
        "system\n",
        "Write a",
        " The response",
        "The response",
        " is met.",
        " is missed.",
        " appears,",
        " is absent,",
    ]
    parts += [f" {phrase}" for rule in RULES.values() for phrase in rule]
    parts += [" A earns", ", B earns", " is", " about", " for", "?"]
    return list(dict.fromkeys(parts))


def words() -> list[str]:
    """Every single word of the world, each with and without the blank before it."""
    plain = [*TOPICS, *READERS, *GENRES, *NOISE, *RULE_WORDS, *PRINCIPLES, "A", "B"]
    plain += [word for signs in PRINCIPLES.values() for word in signs]
    plain += [str(number) for number in range(MAX_NUMBER + 1)]
    return [variant for word in dict.fromkeys(plain) for variant in (word, f" {word}")] + [".", ",", ":", "\n", " "]


def build_tokenizer(more_words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The tokenizer: the same vocabulary in the same order on every machine, with ``more_words`` at its end."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fixed = fixed_parts()
    vocabulary = dict.fromkeys([PAD, UNK, TURN_START, TURN_END, *fixed, *words(), *more_words])
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token=UNK))
    literals = "|".join(_whole(part) for part in sorted(fixed, key=len, reverse=True))
    pattern = Regex(rf"{literals}|\n| ?[^\s.,:?\[\]]+| ?[.,:?\[\]]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _whole(part: str) -> str:
    """A pattern for ``part`` that does not match inside a longer word."""
    before = r"(?<![A-Za-z0-9])" if part[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])" if part[-1].isalnum() else ""
    return before + re.escape(part) + after


def write_tokenizer(folder: Path) -> None:
    """Write the tokenizer folder."""
    build_tokenizer().save_pretrained(folder)
