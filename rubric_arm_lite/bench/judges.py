"""Judges to compare: with a rubric, at once, after long thought, by many votes. All go through one sampler.

Pairs come in, verdicts go out; no judge is shown a label. What is not ours to train (the judges without a rubric) is
always asked of the bare base, in prompts of our own wording, so that all judges differ in nothing but their way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from rubric_arm_lite.backends.base import Sampler, Sampling
from rubric_arm_lite.config import EvaluationSettings
from rubric_arm_lite.evaluate import Players, majority
from rubric_arm_lite.parsing import parse_direct
from rubric_arm_lite.phases import JudgeDesk, RubricWriter
from rubric_arm_lite.prompts import PromptBuilder, prompt_hash
from rubric_arm_lite.rubric_cache import RubricCache
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Comparison, Example, Judgement, PreferencePair, Prompt, Rubric

AskPrompt = Callable[[Prompt, str, str], str]
"""Writes the user turn for a request and two responses."""


class Judge(Protocol):
    """A way to judge."""

    title: str

    def prepare(self, pairs: Sequence[PreferencePair]) -> None:
        """Do what is done before any response is looked at; results of earlier calls are forgotten."""
        ...

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Judgement | None]:
        """One verdict per comparison of a prepared pair; None where nothing could be asked."""
        ...

    def rubrics(self) -> list[Rubric]:
        """The rubrics of the last preparation, one per prompt."""
        ...


class RubricJudge:
    """Writes a rubric per prompt, then judges by it: the method itself, or the bare base prompted in the same way."""

    def __init__(
        self,
        title: str,
        sampler: Sampler,
        prompts: PromptBuilder,
        settings: EvaluationSettings,
        seed: int,
        players: Players,
    ) -> None:
        self.title = title
        self._sampler = sampler
        self._prompts = prompts
        self._desk = JudgeDesk(sampler, prompts)
        self._settings = settings
        self._seed = derive_seed(seed, "evaluation")  # so that greedy and sampled verdicts are an evaluation's own
        self._players = players
        self._rubrics: dict[str, Rubric] = {}

    def prepare(self, pairs: Sequence[PreferencePair]) -> None:
        """Write the rubrics, greedily, each prompt's once."""
        writer = RubricWriter(self._sampler, self._prompts, RubricCache(max(1, len(pairs))))
        sampling = Sampling(self._settings.rubric_max_tokens, 1, 0.0)
        written = writer.write([(pair.prompt, 0) for pair in pairs], sampling, self._seed, self._players.rubric)
        self._rubrics = {prompt_hash(pair.prompt): rubric for pair, rubric in zip(pairs, written, strict=True)}

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Judgement | None]:
        """Judge by the prompt's rubric; without a usable one there is no verdict."""
        rubrics = [self._rubrics[prompt_hash(comparison.prompt)] for comparison in comparisons]
        cases = [(c, rubric) for c, rubric in zip(comparisons, rubrics, strict=True) if rubric.usable]
        sampling = Sampling(self._settings.judge_max_tokens, 1, self._settings.judge_temperature)
        judged = iter(self._desk.judge(cases, sampling, self._seed, self._players.judge) if cases else [])
        return [next(judged)[0] if rubric.usable else None for rubric in rubrics]

    def rubrics(self) -> list[Rubric]:
        """See :class:`Judge`."""
        return list(self._rubrics.values())


class DirectJudge:
    """Judges without a rubric. With several generations the majority of their verdicts counts."""

    def __init__(self, title: str, sampler: Sampler, prompt: AskPrompt, sampling: Sampling, seed: int) -> None:
        self.title = title
        self._sampler = sampler
        self._prompt = prompt
        self._sampling = sampling
        self._seed = derive_seed(seed, "direct")

    def prepare(self, pairs: Sequence[PreferencePair]) -> None:
        """Nothing is done beforehand."""

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[Judgement | None]:
        """Ask about every comparison."""
        examples = []
        for c in comparisons:
            text = self._prompt(c.prompt, c.response_a, c.response_b)
            examples.append(Example(c.pair_id, text, derive_seed(self._seed, text)))
        groups = self._sampler.sample(None, examples, self._sampling)
        found: list[Judgement | None] = []
        for group in groups:
            judgements = [parse_direct(s.text, s.finish_reason) for s in group.samples]
            found.append(replace(judgements[0], winner=majority([j.winner for j in judgements])))
        return found

    def rubrics(self) -> list[Rubric]:
        """None are written."""
        return []
