"""The judges: comparisons and rubrics in, verdicts out, for training, evaluation, labeling and serving alike.

A pairwise judge compares two responses (paper, sec. 3). A pointwise judge checks one response at a time, criterion by
criterion (RUBRIC-ARROW, arXiv 2605.29156). Its score of a response is computed from the probabilities of its answers,
and two scores make a verdict. Before each answer it writes a justification, or it writes nothing, and each answer is
read by itself, all in one pass over the prompt. Departure from the paper: our pointwise judge writes lines, theirs
writes an object (see ``prompts.pointwise.parse_pointwise``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError, DataError, first_line
from rubric_arm_lite.models import ChatSampler, NextWords, Sampler, Sampling, WordReader
from rubric_arm_lite.prompts import (
    PointwiseJudgement,
    PromptBuilder,
    parse_judgement,
    parse_pointwise,
    parse_rubric,
    prompt_hash,
)
from rubric_arm_lite.prompts.pointwise import OUR_WORDS, answer_prefix
from rubric_arm_lite.recipe import PointwiseWords, Recipe, derive_seed
from rubric_arm_lite.reward_model.verdict import (
    Answer,
    Orders,
    PointwiseScore,
    PointwiseVerdict,
    Verdict,
    weighted_score,
)
from rubric_arm_lite.types import (
    Comparison,
    Criterion,
    CriterionKind,
    Example,
    FinishReason,
    ParseStatus,
    PreferencePair,
    Prompt,
    Rubric,
    Sample,
)


@dataclass
class JudgementCache:
    """The newest greedy judgements of one adapter by prompt, with a count of hits; another adapter empties it."""

    capacity: int
    owner: str = ""
    texts: dict[str, tuple[str, FinishReason]] = field(default_factory=dict)
    hits: int = 0
    misses: int = 0

    def take(self, owner: str, prompts: Iterable[str]) -> dict[str, tuple[Sample, ...]]:
        """The judgements of these prompts that are known; ``owner`` is the adapter's fingerprint and the length."""
        if owner != self.owner:
            self.owner, self.texts = owner, {}
        keys = {prompt: prompt_hash(prompt) for prompt in prompts}
        found = {prompt: self.texts[key] for prompt, key in keys.items() if key in self.texts}
        self.hits, self.misses = self.hits + len(found), self.misses + len(keys) - len(found)
        return {prompt: (Sample(text, (), (), reason),) for prompt, (text, reason) in found.items()}

    def add(self, samples: Mapping[str, tuple[Sample, ...]]) -> None:
        """Keep new judgements in place of the oldest."""
        self.texts.update({prompt_hash(p): (sample.text, sample.finish_reason) for p, (sample,) in samples.items()})
        for key in list(self.texts)[: max(0, len(self.texts) - self.capacity)]:
            del self.texts[key]

    def dumps(self) -> str:
        """The cache as JSON text."""
        return json.dumps([self.owner, self.texts])

    def load(self, text: str) -> None:
        """Take over what :meth:`dumps` wrote; a CheckpointError for any other text."""
        try:
            adapter = TypeAdapter(tuple[str, dict[str, tuple[str, FinishReason]]])
            self.owner, self.texts = adapter.validate_python(json.loads(text), strict=False)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"The judgements of the checkpoint are damaged: {first_line(error)}.") from error


@dataclass(frozen=True)
class _JudgeSettings:
    """Fields that both kinds of judges share.

    Attributes:
        max_tokens: longest judgement.
        temperature: of a single judgement; 0 is greedy.
        vote_temperature: of each judgement where there are several votes.
        adapter: the adapter that judges; None is the bare base.
        cache: serves greedy judgements that are asked for again.
    """

    sampler: Sampler
    prompts: PromptBuilder
    max_tokens: int
    temperature: float = 0.0
    vote_temperature: float = 1.0
    seed: int = 0
    adapter: str | None = "judge"
    cache: JudgementCache | None = None

    def _samples(self, names: Mapping[str, str], votes: int) -> dict[str, tuple[Sample, ...]]:
        """The samples of each prompt, drawn in one call with seeds derived from the prompts; errors use ``names``."""
        sampling = Sampling(self.max_tokens, votes, self.temperature if votes == 1 else self.vote_temperature)
        cache, known = self.cache if sampling.temperature == 0 else None, dict[str, tuple[Sample, ...]]()
        if cache is not None:
            known = cache.take(f"{self.sampler.fingerprint(self.adapter)} {self.max_tokens}", names)
        missing = [prompt for prompt in names if prompt not in known]
        examples = [Example(names[prompt], prompt, derive_seed(self.seed, prompt)) for prompt in missing]
        groups = self.sampler.sample(self.adapter, examples, sampling) if examples else []
        new = {prompt: group.samples for prompt, group in zip(missing, groups, strict=True)}
        if cache is not None:
            cache.add(new)
        return {**known, **new}


@dataclass(frozen=True)
class Judge(_JudgeSettings):
    """A pairwise judge; :func:`dataclasses.replace` makes one with other settings."""

    def judge(
        self, comparisons: Sequence[Comparison], rubrics: Sequence[Rubric], orders: Orders = "both", votes: int = 1
    ) -> list[Verdict]:
        """One verdict per comparison under its rubric, in order; a rubric that is not usable gives an empty verdict.

        All judgements are sampled in one call; equal prompts are sampled once, with a seed derived from their text.

        Args:
            votes: judgements per order.
        """
        cases = zip(comparisons, rubrics, strict=True)
        prompts = [self.user_prompts(c, rubric, orders) if rubric.usable else [] for c, rubric in cases]
        names: dict[str, str] = {}
        for comparison, shown in zip(comparisons, prompts, strict=True):
            names.update((prompt, comparison.comparison_id) for prompt in shown if prompt not in names)
        samples = self._samples(names, votes)
        verdicts = []
        for rubric, shown in zip(rubrics, prompts, strict=True):
            judgements = [
                tuple(parse_judgement(s.text, rubric, s.finish_reason) for s in samples[prompt]) for prompt in shown
            ]
            verdicts.append(Verdict(rubric, *([()] if orders == "swapped" else []), *judgements))
        return verdicts

    def user_prompts(self, comparison: Comparison, rubric: Rubric, orders: Orders = "both") -> list[str]:
        """The prompts that show a comparison under a rubric, one per order."""
        a, b = comparison.response_a, comparison.response_b
        shown = [(a, b)] * (orders != "swapped") + [(b, a)] * (orders != "original")
        return [self.prompts.judge_prompt(comparison.prompt, rubric, *responses) for responses in shown]


@dataclass(frozen=True, slots=True)
class JudgedText:
    """A prompt for the pointwise judge, its rubric, and its judgement; None if it answers every criterion at once."""

    prompt: str
    rubric: Rubric
    judgement: PointwiseJudgement | None = None

    def prefixes(self, words: PointwiseWords) -> list[str]:
        """The text before each answer; nothing if the judgement could not be parsed."""
        if self.judgement is not None:
            return self.judgement.prefixes()
        return [answer_prefix(number, c, words) for number, c in enumerate(self.rubric.criteria, start=1)]

    def score(self, logprobs: Sequence[tuple[float, ...]]) -> PointwiseScore:
        """The score made of the log-probabilities of true and false (or the recipe's words) after each prefix."""
        judgement = self.judgement
        if judgement is not None and judgement.status is not ParseStatus.OK:
            return PointwiseScore(None, (), self.rubric, judgement.text, judgement.status)
        said = [a.justification for a in judgement.answers] if judgement else [""] * len(logprobs)
        answers = tuple(
            Answer(criterion, math.exp(true), math.exp(false), justification)
            for criterion, (true, false), justification in zip(self.rubric.criteria, logprobs, said, strict=True)
        )
        text = judgement.text if judgement else ""
        return PointwiseScore(weighted_score(answers), answers, self.rubric, text, ParseStatus.OK)


@dataclass(frozen=True)
class PointwiseJudge(_JudgeSettings):
    """A pointwise judge; :func:`dataclasses.replace` makes one with other settings.

    Attributes: as those of :class:`Judge`, and

        words: the two answers.
        justify: whether it writes a justification before each answer; otherwise it answers every criterion at once.
    """

    words: PointwiseWords = OUR_WORDS
    justify: bool = True

    def judge(
        self, comparisons: Sequence[Comparison], rubrics: Sequence[Rubric], orders: Orders = "both", votes: int = 1
    ) -> list[PointwiseVerdict]:
        """One verdict per comparison under its rubric, in order; ``orders`` has no effect."""
        cases = [
            (c.prompt, response, rubric)
            for c, rubric in zip(comparisons, rubrics, strict=True)
            if rubric.usable
            for response in (c.response_a, c.response_b)
        ]
        scores = map(tuple, self.score(cases, votes))
        return [PointwiseVerdict(r, *((next(scores), next(scores)) if r.usable else ())) for r in rubrics]

    def user_prompts(self, comparison: Comparison, rubric: Rubric, orders: Orders = "both") -> list[str]:
        """The prompts that show a comparison's responses under a rubric, one per response."""
        responses = (comparison.response_a, comparison.response_b)
        return [self.prompts.pointwise_prompt(comparison.prompt, rubric, response) for response in responses]

    def score(self, cases: Sequence[tuple[Prompt, str, Rubric]], votes: int = 1) -> list[list[PointwiseScore]]:
        """``votes`` scored judgements per (prompt, response, rubric); equal prompts are judged once."""
        prompts = [self.prompts.pointwise_prompt(prompt, rubric, response) for prompt, response, rubric in cases]
        rubrics = {prompt: rubric for prompt, (_, _, rubric) in zip(prompts, cases, strict=True)}
        judged = {prompt: [JudgedText(prompt, rubric)] for prompt, rubric in rubrics.items()}
        if self.justify:
            samples = self._samples({prompt: f"response {i}" for i, prompt in enumerate(rubrics, start=1)}, votes)
            judged = {prompt: self.parse(prompt, rubrics[prompt], samples[prompt]) for prompt in rubrics}
        scores = self.read([text for texts in judged.values() for text in texts])
        return [[scores[text] for text in judged[prompt]] for prompt in prompts]

    def parse(self, prompt: str, rubric: Rubric, samples: Sequence[Sample]) -> list[JudgedText]:
        """The judgements that were sampled for a prompt."""
        judgements = [parse_pointwise(s.text, rubric, s.finish_reason, self.words) for s in samples]
        return [JudgedText(prompt, rubric, judgement) for judgement in judgements]

    def read(self, texts: Sequence[JudgedText]) -> dict[JudgedText, PointwiseScore]:
        """The scores of judgements, by the probabilities that the adapter gives to their answers.

        Raises:
            BackendError: if the backend does not give probabilities of words, or the tokenizer has none for them.
        """
        if not isinstance(self.sampler, WordReader):
            raise BackendError(
                "This backend does not give the probabilities of words, which a pointwise score is made of. Load the "
                "adapters or checkpoints on this machine, or compare responses in pairs."
            )
        prefixes = {text: text.prefixes(self.words) for text in texts}
        questions = [NextWords(t.prompt, p, self.words.options) for t, before in prefixes.items() for p in before]
        logprobs = iter(self.sampler.next_word_logprobs(self.adapter, questions) if questions else [])
        return {text: text.score([next(logprobs) for _ in before]) for text, before in prefixes.items()}


def pairwise_judge(recipe: Recipe, sampler: Sampler, prompts: PromptBuilder) -> Judge:
    """A pairwise judge with a recipe's evaluation settings."""
    e = recipe.evaluation
    return Judge(sampler, prompts, e.judge_max_tokens, e.judge_temperature, e.vote_temperature, recipe.seed)


def pointwise_judge(recipe: Recipe, sampler: Sampler, prompts: PromptBuilder) -> PointwiseJudge:
    """A pointwise judge with a recipe's evaluation settings."""
    return PointwiseJudge(**vars(pairwise_judge(recipe, sampler, prompts)), words=recipe.prompts.pointwise_words)


def make_judge(recipe: Recipe, sampler: Sampler, prompts: PromptBuilder) -> Judge | PointwiseJudge:
    """The judge that a recipe trains, pairwise or pointwise."""
    return (pointwise_judge if recipe.pointwise else pairwise_judge)(recipe, sampler, prompts)


def check_compares(recipe: Recipe) -> None:
    """Raise a ConfigError if the recipe's judge is pointwise and cannot compare two responses."""
    if recipe.pointwise:
        raise ConfigError(
            "reward.judge: pointwise is a judge that scores one response at a time; it has not learned to compare two. "
            "Use score or score_many in Python or /v1/score over HTTP, or a run with reward.judge: pairwise."
        )


def longest_sequence(pair: PreferencePair, recipe: Recipe, model: ChatSampler, prompts: PromptBuilder) -> int:
    """Tokens of the longest sequence that this pair can lead to, with room for a rubric of full length."""
    evaluation = recipe.evaluation
    rubric_room = max(recipe.rubric.max_completion_length, evaluation.rubric_max_tokens)
    judge_room = max(recipe.judge.max_completion_length, recipe.reward.judge_max_tokens, evaluation.judge_max_tokens)
    generator = model.prompt_tokens(prompts.rubric_prompt(pair.prompt)) + rubric_room
    rubric = Rubric("", (Criterion("The response", CriterionKind.PRINCIPLE),), ParseStatus.OK)
    comparison = pair.present("A").comparison
    shown = make_judge(recipe, model, prompts).user_prompts(comparison, rubric, "original")  # as long as swapped
    return max(generator, max(map(model.prompt_tokens, shown)) + rubric_room + judge_room)


def given_rubric(rubric: Rubric | str, name: str) -> Rubric:
    """Parse a caller's rubric; a DataError with the ``name`` of its place if it does not parse."""
    parsed = parse_rubric(rubric) if isinstance(rubric, str) else rubric
    if not parsed.usable:
        raise DataError(
            f"{name}: the given rubric does not parse. Write a numbered list, each line like "
            "`1. The response … [Hard Rule]` or `… [Principle]`, and nothing else."
        )
    return parsed
