"""Ask a judge about single responses and read its scores: for the phases, the evaluation and the reward model.

Prompts, responses and rubrics go in; a :class:`~rubric_arm_lite.pointwise.PointwiseScore` per written text comes out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rubric_arm_lite.backends.base import NextWords, Sampler, Sampling, WordReader
from rubric_arm_lite.config import PointwiseWords
from rubric_arm_lite.errors import BackendError
from rubric_arm_lite.pointwise import (
    OUR_WORDS,
    Answer,
    Checks,
    PointwiseScore,
    answer_prefix,
    parse_checks,
    weighted_score,
)
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Example, ParseStatus, Prompt, Rubric


@dataclass(frozen=True, slots=True)
class Sheet:
    """What the judge was asked, and what it wrote; without ``checks`` it is to answer every criterion at once."""

    prompt: str
    rubric: Rubric
    checks: Checks | None = None

    def prefixes(self, words: PointwiseWords) -> list[str]:
        """What stands before each answer; nothing if the text cannot be read."""
        if self.checks is not None:
            return self.checks.prefixes()
        return [answer_prefix(number, c, words) for number, c in enumerate(self.rubric.criteria, start=1)]


class ScoreDesk:
    """Asks the judge about many responses at once; equal prompts are asked, and equal texts read, once."""

    def __init__(self, sampler: Sampler, prompts: PromptBuilder, words: PointwiseWords = OUR_WORDS) -> None:
        self.sampler = sampler
        self.prompts = prompts
        self.words = words

    def score(
        self,
        cases: Sequence[tuple[Prompt, str, Rubric]],
        sampling: Sampling,
        seed: int,
        adapter: str | None = "judge",
    ) -> list[list[PointwiseScore]]:
        """``sampling.num_generations`` written judgements per (prompt, response, rubric), scored, in order."""
        texts = [self.prompts.pointwise_prompt(prompt, rubric, response) for prompt, response, rubric in cases]
        sheets = self.write(dict(zip(texts, (rubric for _, _, rubric in cases), strict=True)), sampling, seed, adapter)
        scores = iter(self.read([sheet for own in sheets.values() for sheet in own], adapter))
        found = {text: [next(scores) for _ in own] for text, own in sheets.items()}
        return [found[text] for text in texts]

    def write(
        self, asked: dict[str, Rubric], sampling: Sampling, seed: int, adapter: str | None = "judge"
    ) -> dict[str, list[Sheet]]:
        """Let the judge write its judgements for user turns, each with the rubric that it shows."""
        examples = [Example(f"response {i}", t, derive_seed(seed, t)) for i, t in enumerate(asked, start=1)]
        groups = self.sampler.sample(adapter, examples, sampling) if examples else []
        return {
            text: [Sheet(text, rubric, parse_checks(w.text, rubric, w.finish_reason, self.words)) for w in g.samples]
            for (text, rubric), g in zip(asked.items(), groups, strict=True)
        }

    def reader(self) -> WordReader:
        """The sampler, if it gives probabilities of words.

        Raises:
            BackendError: if it does not.
        """
        if not isinstance(self.sampler, WordReader):
            raise BackendError(
                "This backend does not give the probabilities of words, which a pointwise score is made of. Load the "
                "adapters or checkpoints on this machine, or compare responses in pairs."
            )
        return self.sampler

    def read(self, sheets: Sequence[Sheet], adapter: str | None = "judge") -> list[PointwiseScore]:
        """The scores of judgements, by the probabilities that ``adapter`` gives to its answers.

        Raises:
            BackendError: if the backend does not give probabilities of words, or the tokenizer has none for them.
        """
        reader = self.reader()
        distinct = list(dict.fromkeys(sheets))
        questions = [NextWords(s.prompt, p, self.words.options) for s in distinct for p in s.prefixes(self.words)]
        read = iter(reader.next_word_logprobs(adapter, questions) if questions else [])
        scores = {sheet: _scored(sheet, read) for sheet in distinct}
        return [scores[sheet] for sheet in sheets]


def unscored(rubric: Rubric, text: str, status: ParseStatus) -> PointwiseScore:
    """What there is to say of a response without a readable judgement."""
    return PointwiseScore(None, (), rubric, text, status)


def _scored(sheet: Sheet, read: Iterator[tuple[float, ...]]) -> PointwiseScore:
    rubric, written = sheet.rubric, sheet.checks
    if written is not None and written.status is not ParseStatus.OK:
        return unscored(rubric, written.text, written.status)
    said = [""] * len(rubric.criteria) if written is None else [check.justification for check in written.checks]
    answers = []
    for criterion, justification in zip(rubric.criteria, said, strict=True):
        true, false = map(math.exp, next(read))
        answers.append(Answer(criterion, true, false, justification))
    text = "" if written is None else written.text
    return PointwiseScore(weighted_score(answers), tuple(answers), rubric, text, ParseStatus.OK)
