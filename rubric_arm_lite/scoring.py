"""Score single responses under a rubric: the probabilities of true and false on every criterion (RUBRIC-ARROW).

Prompts, responses and perhaps rubrics go in; a :class:`~rubric_arm_lite.pointwise.PointwiseScore` each comes out. The
judge answers either at once, each criterion by itself in one pass over the prompt, or after writing a text with a
justification per criterion, in which the probabilities are read where it wrote its answers. Departures from the paper
stand in :func:`~rubric_arm_lite.pointwise.parse_checks`: our form is lines, theirs is an object.
"""

from __future__ import annotations

from collections.abc import Sequence

from rubric_arm_lite.backends.base import ChatSampler, Sampling
from rubric_arm_lite.comparing import CASES_AT_ONCE, Comparer, Progress, TooLong
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.pointwise import PointwiseScore
from rubric_arm_lite.prompts import PromptBuilder
from rubric_arm_lite.score_desk import ScoreDesk, Sheet, unscored
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import ParseStatus, Prompt, Rubric

ScoreCase = tuple[Prompt, str, Rubric | str | None]
"""A prompt, a response, and criteria to use in place of the generator's, if any."""

LINE_TOKENS = 64
"""A criterion's line without a justification has at most so many, whatever the tokenizer: it has fewer bytes."""
_Asked = tuple[str | None, Rubric]
"""The judge's user turn, None if it is not asked, and the rubric in it."""


class Scorer:
    """Asks the judge about one response at a time."""

    def __init__(self, model: ChatSampler, recipe: Recipe, prompts: PromptBuilder, comparer: Comparer) -> None:
        self._recipe = recipe
        self._prompts = prompts
        self._comparer = comparer
        self._desk = ScoreDesk(model, prompts, recipe.prompts.pointwise_words)

    def score(
        self,
        cases: Sequence[ScoreCase],
        names: Sequence[str],
        justify: bool = False,
        too_long: TooLong = "raise",
        progress: Progress | None = None,
    ) -> list[PointwiseScore]:
        """One score per case, in order.

        Raises:
            BackendError: if the backend does not give probabilities of words, or the tokenizer has none for them.
            DataError: if a rubric given as text does not parse, or a text is longer than the context.
        """
        self._desk.reader()  # before anything is asked
        rubrics = self._comparer.rubrics_for([(prompt, rubric) for prompt, _, rubric in cases], names, too_long)
        sampling = Sampling(self._recipe.evaluation.judge_max_tokens if justify else LINE_TOKENS, 1, 0.0)
        asked: list[_Asked] = []
        for (prompt, response, _), rubric, name in zip(cases, rubrics, names, strict=True):
            text = self._prompts.pointwise_prompt(prompt, rubric, response) if rubric.usable else None
            fits = text is not None and self._comparer.fits(name, text, sampling, too_long)
            asked.append((text if fits else None, rubric))
        found: list[PointwiseScore] = []
        for start in range(0, len(asked), CASES_AT_ONCE):
            found += self._score(asked[start : start + CASES_AT_ONCE], sampling, justify)
            if progress is not None:
                progress(len(found), len(asked))
        return found

    def _score(self, cases: Sequence[_Asked], sampling: Sampling, justify: bool) -> list[PointwiseScore]:
        asked = {text: rubric for text, rubric in cases if text is not None}
        if justify:
            written = self._desk.write(asked, sampling, derive_seed(self._recipe.seed, "score"))
            sheets = [sheet for own in written.values() for sheet in own]
        else:
            sheets = [Sheet(text, rubric) for text, rubric in asked.items()]
        scores = dict(zip(asked, self._desk.read(sheets), strict=True))
        return [
            unscored(rubric, "", rubric.status if not rubric.usable else ParseStatus.TRUNCATED)
            if text is None
            else scores[text]
            for text, rubric in cases
        ]
