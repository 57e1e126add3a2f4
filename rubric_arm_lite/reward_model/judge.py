"""Judge many pairs of responses, each prompt under one rubric: what the reward model does, whatever the backend.

Prompts, responses and perhaps rubrics go in; a `Verdict` per pair comes out. Equal
prompts share one greedy rubric through a cache that lives as long as the object. Texts too long for the context are
refused, or left unjudged, before anything is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.models import ChatSampler, Sampler, Sampling
from rubric_arm_lite.prompts import PromptBuilder, parse_judgement, parse_rubric, prompt_hash
from rubric_arm_lite.recipe import Recipe, derive_seed
from rubric_arm_lite.reward_model.generator import RubricGenerator
from rubric_arm_lite.reward_model.verdict import Orders, Verdict, verdict_of
from rubric_arm_lite.types import (
    Comparison,
    Criterion,
    CriterionKind,
    Example,
    Judgement,
    ParseStatus,
    PreferencePair,
    Prompt,
    Rubric,
    Side,
)


class JudgeDesk:
    """Asks the judge many questions at once; equal prompts are asked once."""

    def __init__(self, sampler: Sampler, prompts: PromptBuilder) -> None:
        self.sampler = sampler
        self.prompts = prompts

    def judge(
        self,
        cases: Sequence[tuple[Comparison, Rubric]],
        sampling: Sampling,
        seed: int,
        adapter: str | None = "judge",
    ) -> list[list[Judgement]]:
        """``sampling.num_generations`` judgements per case, in order."""
        texts = [self.prompts.judge_prompt(c.prompt, r, c.response_a, c.response_b) for c, r in cases]
        first: dict[str, int] = {}
        for i, text in enumerate(texts):
            first.setdefault(text, i)
        examples = [Example(f"{cases[i][0].pair_id}", text, derive_seed(seed, text)) for text, i in first.items()]
        groups = dict(zip(first, self.sampler.sample(adapter, examples, sampling), strict=True))
        return [
            [parse_judgement(s.text, rubric, s.finish_reason) for s in groups[text].samples]
            for text, (_, rubric) in zip(texts, cases, strict=True)
        ]


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

    def __init__(self, model: ChatSampler, recipe: Recipe, prompts: PromptBuilder, writer: RubricGenerator) -> None:
        self._model = model
        self._recipe = recipe
        self._prompts = prompts
        self._writer = writer
        self._desk = JudgeDesk(model, prompts)
        self._writing = Sampling(recipe.evaluation.rubric_max_tokens, 1, 0.0)

    # --- rubrics ------------------------------------------------------------------------------------------------

    def rubrics(self, prompts: Sequence[Prompt], names: Sequence[str], too_long: TooLong = "raise") -> list[Rubric]:
        """Greedy rubrics, one per prompt; equal prompts are written once.

        Raises:
            DataError: if a prompt is longer than the context; with ``leave`` its rubric is empty and truncated.
        """
        sampling = self._writing
        keys = [prompt_hash(prompt) for prompt in prompts]
        first: dict[str, tuple[Prompt, str]] = {}
        for key, prompt, name in zip(keys, prompts, names, strict=True):
            first.setdefault(key, (prompt, name))
        asked = {
            key: prompt
            for key, (prompt, name) in first.items()
            if self.fits(name, self._prompts.rubric_prompt(prompt), sampling, too_long)
        }
        requests = [(prompt, 0) for prompt in asked.values()]
        written = self._writer.write(requests, sampling, self._recipe.seed) if requests else []
        found = dict(zip(asked, written, strict=True))
        return [found.get(key, _LEFT_OUT) for key in keys]

    def has_room_for(self, prompt: Prompt) -> bool:
        """Whether a prompt and its rubric fit the context."""
        return self.fits("the prompt", self._prompts.rubric_prompt(prompt), self._writing, "leave")

    def rubrics_for(
        self, requests: Sequence[tuple[Prompt, Rubric | str | None]], names: Sequence[str], too_long: TooLong = "raise"
    ) -> list[Rubric]:
        """The rubric given with each prompt, or the generator's where there is none.

        Raises:
            DataError: as :meth:`rubrics`, or if a rubric given does not parse; nothing has been asked then.
        """
        given = [None if r is None else given_rubric(r, name) for (_, r), name in zip(requests, names, strict=True)]
        missing = [(p, name) for (p, r), name in zip(requests, names, strict=True) if r is None]
        written = iter(self.rubrics([p for p, _ in missing], [name for _, name in missing], too_long))
        return [next(written) if rubric is None else rubric for rubric in given]

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
            ConfigError: for votes or orders that there are not.
            DataError: if a rubric given as text does not parse, or a text is longer than the context.
        """
        if votes < 1:
            raise ConfigError(f"votes: {votes} asks nothing. Use at least 1.")
        if orders not in get_args(Orders):
            raise ConfigError(f"orders: {orders!r} is not one of {', '.join(get_args(Orders))}.")
        settings = self._recipe.evaluation
        temperature = settings.judge_temperature if votes == 1 else settings.vote_temperature
        sampling = Sampling(settings.judge_max_tokens, votes, temperature)
        rubrics = self.rubrics_for([(case[0], case[3]) for case in cases], names, too_long)
        # All of them are looked at before the first is judged, so that a text too long costs no judgement.
        questions = [
            self._question(case, rubric, name, orders, sampling, too_long)
            for case, rubric, name in zip(cases, rubrics, names, strict=True)
        ]
        found: list[Verdict] = []
        for start in range(0, len(questions), CASES_AT_ONCE):
            found += self._judge(questions[start : start + CASES_AT_ONCE], sampling)
            if progress is not None:
                progress(len(found), len(questions))
        return found

    def _judge(self, questions: Sequence[_Question], sampling: Sampling) -> list[Verdict]:
        asked = [(comparison, q.rubric) for q in questions for comparison in q.asked.values()]
        seed = derive_seed(self._recipe.seed, "compare")
        answers = iter(self._desk.judge(asked, sampling, seed) if asked else [])
        found = []
        for question in questions:
            judged = {side: next(answers) for side in question.asked}
            found.append(verdict_of(question.rubric, judged.get("A", []), judged.get("B", [])))
        return found

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
        fits = [self.fits(name, text, sampling, too_long) for text in texts]
        return _Question(rubric, wanted if all(fits) else {})

    def fits(self, name: str, text: str, sampling: Sampling, too_long: TooLong) -> bool:
        """Whether a user turn and its answer fit the context.

        Raises:
            DataError: if they do not, unless such texts are to be left.
        """
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


def given_rubric(rubric: Rubric | str, name: str) -> Rubric:
    """A rubric that a caller gave, parsed; ``name`` is what an error calls its place.

    Raises:
        DataError: if it does not parse.
    """
    parsed = parse_rubric(rubric) if isinstance(rubric, str) else rubric
    if not parsed.usable:
        raise DataError(
            f"{name}: the rubric given does not parse. Write a numbered list, each line like "
            "`1. The response … [Hard Rule]` or `… [Principle]`, and nothing else."
        )
    return parsed


def judge_prompts(recipe: Recipe, prompts: PromptBuilder, pair: PreferencePair, rubric: Rubric) -> list[str]:
    """The user turns about one pair, in one order where there are two; a length is the same in both."""
    if recipe.reward.judge == "pointwise":
        return [prompts.pointwise_prompt(pair.prompt, rubric, response) for response in (pair.chosen, pair.rejected)]
    return [prompts.judge_prompt(pair.prompt, rubric, pair.chosen, pair.rejected)]


_ONE_CRITERION = Rubric("", (Criterion("The response", CriterionKind.PRINCIPLE),), ParseStatus.OK)


def longest_prompt(pair: PreferencePair, recipe: Recipe, model: ChatSampler, prompts: PromptBuilder) -> int:
    """Tokens of the longest sequence that this pair can lead to, with room for a rubric of full length."""
    evaluation = recipe.evaluation
    rubric_room = max(recipe.rubric.max_completion_length, evaluation.rubric_max_tokens)
    judge_room = max(recipe.judge.max_completion_length, recipe.reward.judge_max_tokens, evaluation.judge_max_tokens)
    generator = model.prompt_tokens(prompts.rubric_prompt(pair.prompt)) + rubric_room
    empty = judge_prompts(recipe, prompts, pair, _ONE_CRITERION)
    return max(generator, max(map(model.prompt_tokens, empty)) + rubric_room + judge_room)
