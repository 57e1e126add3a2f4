"""Judge many pairs of responses, each prompt under one rubric: what the reward model does, whatever the backend.

Prompts, responses and perhaps rubrics go in; a :class:`~rubric_arm_lite.verdicts.Verdict` per pair comes out. Equal
prompts share one greedy rubric through a cache that lives as long as the object. Texts too long for the context are
refused, or left unjudged, before anything is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rubric_arm_lite.backends.base import ChatSampler, Sampling
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.parsing import parse_rubric
from rubric_arm_lite.phases import JudgeDesk, RubricWriter
from rubric_arm_lite.prompts import PromptBuilder, prompt_hash
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Comparison, ParseStatus, Prompt, Rubric, Side
from rubric_arm_lite.verdicts import Orders, Verdict, verdict_of

Case = tuple[Prompt, str, str, Rubric | str | None]
"""A prompt, responses A and B, and criteria to use in place of the generator's, if any."""
Progress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""
TooLong = Literal["raise", "leave"]
"""What becomes of a text that does not fit the context: an error, or a verdict without any judgement."""

CASES_AT_ONCE = 256
"""Pairs given to the backend in one go, which batches them as its memory allows; progress is told after each go."""
ROOM_FOR_TEMPLATE = 256
"""Tokens of a chat template at most: a text of so few bytes that it fits anyway need not be counted, since no token is
shorter than a byte, and counting takes a request where the model is behind a server."""
_LEFT_OUT = Rubric("", (), ParseStatus.TRUNCATED)


@dataclass(frozen=True, slots=True)
class _Question:
    """A case's rubric, and what to ask about it: by the side of the caller's response A, nothing if unjudged."""

    rubric: Rubric
    asked: dict[Side, Comparison]


class Comparer:
    """Writes rubrics and judges pairs with one sampler, under the settings of a recipe."""

    def __init__(self, model: ChatSampler, recipe: Recipe, prompts: PromptBuilder, writer: RubricWriter) -> None:
        self._model = model
        self._recipe = recipe
        self._prompts = prompts
        self._writer = writer
        self._desk = JudgeDesk(model, prompts)

    # --- rubrics ------------------------------------------------------------------------------------------------

    def rubrics(self, prompts: Sequence[Prompt], names: Sequence[str], too_long: TooLong = "raise") -> list[Rubric]:
        """Greedy rubrics, one per prompt; equal prompts are written once.

        Raises:
            DataError: if a prompt is longer than the context; with ``leave`` its rubric is empty and truncated.
        """
        sampling = Sampling(self._recipe.evaluation.rubric_max_tokens, 1, 0.0)
        fits: dict[str, bool] = {}
        for prompt, name in zip(prompts, names, strict=True):
            key = prompt_hash(prompt)
            if key not in fits:
                fits[key] = self._fits(name, self._prompts.rubric_prompt(prompt), sampling, too_long)
        asked = [prompt for prompt in prompts if fits[prompt_hash(prompt)]]
        written = iter(
            self._writer.write([(prompt, 0) for prompt in asked], sampling, self._recipe.seed) if asked else []
        )
        return [next(written) if fits[prompt_hash(prompt)] else _LEFT_OUT for prompt in prompts]

    # --- verdicts -----------------------------------------------------------------------------------------------

    def compare(
        self,
        cases: Sequence[Case],
        names: Sequence[str],
        votes: int = 1,
        orders: Orders = "both",
        too_long: TooLong = "raise",
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """One verdict per case, in order.

        Raises:
            DataError: if a rubric given as text does not parse, or a text is longer than the context.
        """
        if votes < 1:
            raise ValueError(f"votes: {votes} asks nothing. Use at least 1.")
        for case, name in zip(cases, names, strict=True):  # before anything is asked
            if case[3] is not None:
                _given(case[3], name)
        found: list[Verdict] = []
        for start in range(0, len(cases), CASES_AT_ONCE):
            part = slice(start, start + CASES_AT_ONCE)
            found += self._compare(cases[part], names[part], votes, orders, too_long)
            if progress is not None:
                progress(len(found), len(cases))
        return found

    def _compare(
        self, cases: Sequence[Case], names: Sequence[str], votes: int, orders: Orders, too_long: TooLong
    ) -> list[Verdict]:
        settings = self._recipe.evaluation
        temperature = settings.judge_temperature if votes == 1 else settings.vote_temperature
        sampling = Sampling(settings.judge_max_tokens, votes, temperature)
        rubrics = self._rubrics_of(cases, names, too_long)
        questions = [
            self._question(case, rubric, name, orders, sampling, too_long)
            for case, rubric, name in zip(cases, rubrics, names, strict=True)
        ]
        asked = [(comparison, q.rubric) for q in questions for comparison in q.asked.values()]
        seed = derive_seed(self._recipe.seed, "compare")
        answers = iter(self._desk.judge(asked, sampling, seed) if asked else [])
        found = []
        for question in questions:
            judged = {side: next(answers) for side in question.asked}
            found.append(verdict_of(question.rubric, judged.get("A", []), judged.get("B", [])))
        return found

    def _rubrics_of(self, cases: Sequence[Case], names: Sequence[str], too_long: TooLong) -> list[Rubric]:
        missing = [(case[0], name) for case, name in zip(cases, names, strict=True) if case[3] is None]
        written = iter(self.rubrics([p for p, _ in missing], [n for _, n in missing], too_long))
        return [
            next(written) if case[3] is None else _given(case[3], name) for case, name in zip(cases, names, strict=True)
        ]

    def _question(
        self, case: Case, rubric: Rubric, name: str, orders: Orders, sampling: Sampling, too_long: TooLong
    ) -> _Question:
        prompt, a, b, _ = case
        if not rubric.usable:
            return _Question(rubric, {})
        wanted: dict[Side, Comparison] = {}
        if orders != "swapped":
            wanted["A"] = Comparison(name, prompt, a, b, "A")
        if orders != "given":
            wanted["B"] = Comparison(name, prompt, b, a, "B")
        # The side is only where the caller's response A stands; there is no label here.
        texts = [self._prompts.judge_prompt(c.prompt, rubric, c.response_a, c.response_b) for c in wanted.values()]
        # Both orders hold the same texts, but a tokenizer may join them otherwise.
        fits = [self._fits(name, text, sampling, too_long) for text in texts]
        return _Question(rubric, wanted if all(fits) else {})

    def _fits(self, name: str, text: str, sampling: Sampling, too_long: TooLong) -> bool:
        limit = self._recipe.model.max_context
        if len(text.encode("utf-8", "surrogatepass")) + ROOM_FOR_TEMPLATE + sampling.max_tokens <= limit:
            return True
        length = self._model.prompt_tokens(text) + sampling.max_tokens
        if length > limit and too_long == "raise":
            raise DataError(
                f"{name}: {length} tokens with the answer, more than model.max_context ({limit}). Shorten the texts, "
                "or use a run with a longer context."
            )
        return length <= limit


def _given(rubric: Rubric | str, name: str) -> Rubric:
    parsed = parse_rubric(rubric) if isinstance(rubric, str) else rubric
    if not parsed.usable:
        raise DataError(
            f"{name}: the rubric given does not parse. Write a numbered list, each line like "
            "`1. The response … [Hard Rule]` or `… [Principle]`, and nothing else."
        )
    return parsed
