"""The reward model for users: write a rubric for a prompt; compare, rank or score responses under it."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from rubric_arm_lite.data import prompt_of
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.models import ChatSampler, Sampling
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.recipe import CheckpointPair, Recipe, derive_seed, load_recipe
from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
from rubric_arm_lite.reward_model.judge import check_compares, given_rubric, pairwise_judge, pointwise_judge
from rubric_arm_lite.reward_model.ranking import Method, Pair, Ranking, placed, tournament
from rubric_arm_lite.reward_model.verdict import Orders, PointwiseScore, Verdict
from rubric_arm_lite.runs import adapter_folder, recipe_of_run, swapped_adapter
from rubric_arm_lite.types import ROLES, Comparison, ParseStatus, Prompt, Role, Rubric, Side

if TYPE_CHECKING:
    from rubric_arm_lite.models import ServerSettings

Request = Prompt | Sequence[Mapping[str, str]]
"""A user's prompt: a text, or messages with ``role`` and ``content`` that end with the user's turn."""
Case = tuple[Prompt, str, str, Rubric | str | None]
"""A prompt, responses A and B, and criteria to use in place of the generator's, if any."""
Progress = Callable[[int, int], None]
"""Called with the numbers of cases done and in all."""
TooLong = Literal["raise", "skip"]
"""For a case that does not fit the context: raise an error, or skip it (see :func:`.verdict.is_skipped`)."""
CASES_AT_ONCE = 256
"""Cases per call of the backend, which batches them as its memory allows; progress is reported after each call."""
ROOM_FOR_TEMPLATE = 256
"""Most tokens of a chat template. No token is shorter than a byte, so a text of few enough bytes fits without counting
its tokens, which takes a request where the model is behind a server."""
LINE_TOKENS = 64
"""Most tokens of a criterion's line without a justification, whatever the tokenizer: it has fewer bytes."""
_Answer = TypeVar("_Answer", Verdict, PointwiseScore)


class RubricRewardModel:
    """Rubric generator and judge: adapters on one base or two full models, on this machine or behind a server.

    Attributes:
        model: the sampler; ``model.tokens_written`` counts sampled tokens.
        recipe: lengths, temperatures and templates.
        prompts: builds the user turns.
        cache: rubrics by prompt, with a hit rate; equal prompts share one as long as this object lives.
    """

    def __init__(self, model: ChatSampler, recipe: Recipe) -> None:
        self.model = model
        self.recipe = recipe
        self.prompts = PromptBuilder(Templates.of(recipe.prompts), model.control_tokens())
        self.cache = RubricCache(recipe.cache.capacity)
        self.generator = RubricGenerator(model, self.prompts, self.cache)

    @classmethod
    def from_run(
        cls,
        run: str | Path,
        state: str = "final",
        *,
        rubric_from: str | Path | None = None,
        judge_from: str | Path | None = None,
    ) -> RubricRewardModel:
        """Load the adapters of a run; a warning says so if the base has other weights than in the run.

        Args:
            run: a run directory.
            state: ``final``, ``warm-up``, or ``latest`` (the newest checkpoint of an unfinished run).
            rubric_from: another run on the same base, as ``RUN`` or ``RUN@STATE``, whose generator is used in place of
                this run's.
            judge_from: the same for the judge.

        Raises:
            CheckpointError: if a directory is no run, has not come that far, or the other run's adapter does not fit.
        """
        import torch

        from rubric_arm_lite.models import other_base

        recipe = recipe_of_run(Path(run))
        sources: dict[Role, str | Path | None] = {"rubric": rubric_from, "judge": judge_from}
        folders = [
            adapter_folder(Path(run), role, state) if source is None else swapped_adapter(Path(run), role, str(source))
            for role, source in sources.items()
        ]
        if recipe.threads is not None:  # as in the run: rounding, and so near ties, depend on it
            torch.set_num_threads(recipe.threads)
        model = cls.from_adapters(recipe, *folders)
        if difference := other_base(Path(run), recipe.model):
            warnings.warn(difference, stacklevel=2)
        return model

    @classmethod
    def from_adapters(cls, recipe: Recipe, rubric: str | Path, judge: str | Path) -> RubricRewardModel:
        """Load two PEFT folders onto the recipe's base."""
        from rubric_arm_lite.models import load_model

        model = load_model(recipe.model, recipe.seed)
        model.load_adapter("rubric", Path(rubric))
        model.load_adapter("judge", Path(judge))
        return cls(model, recipe)

    @classmethod
    def from_pretrained(cls, rubric: str | Path, judge: str | Path, recipe: Recipe | None = None) -> RubricRewardModel:
        """Load two full checkpoints: folders (such as ``rubric-arm export --merge`` writes) or Hub ids.

        Args:
            recipe: settings for loading (dtype, quantization, context) and for prompts (templates, lengths); by
                default the shipped ``released-8b``.

        Raises:
            BackendError: if one of them cannot be loaded.
        """
        recipe = recipe or load_recipe("released-8b")
        pair = CheckpointPair(rubric=str(rubric), judge=str(judge))
        model = recipe.model.model_copy(update={"checkpoints": pair})
        return cls.from_recipe(recipe.model_copy(update={"model": model}))

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> RubricRewardModel:
        """Load the two full checkpoints of a recipe's ``model.checkpoints``.

        Raises:
            ConfigError: if the recipe has none.
            BackendError: if one of them cannot be loaded.
        """
        from rubric_arm_lite.models.load import load_two_models

        return cls(load_two_models(recipe.model, recipe.seed), recipe)

    @classmethod
    def from_server(cls, settings: ServerSettings, recipe: Recipe) -> RubricRewardModel:
        """Use the models of a server; nothing is loaded here, and the recipe has the templates and lengths.

        Raises:
            BackendError: if the key's environment variable cannot be used.
        """
        from rubric_arm_lite.models import ServerSampler

        return cls(ServerSampler(settings), recipe)

    def rubric(self, prompt: Request) -> Rubric:
        """The greedy rubric of one prompt; check ``usable`` before using it."""
        return self.rubrics([prompt])[0]

    def rubrics(
        self, prompts: Sequence[Request], names: Sequence[str] | None = None, too_long: TooLong = "raise"
    ) -> list[Rubric]:
        """Greedy rubrics, one per prompt; equal prompts are written once, as long as the model lives.

        Args:
            names: names of the prompts in errors.
            too_long: ``skip`` gives a prompt that does not fit the context an empty, truncated rubric.
        """
        names = names or [f"prompt {i}" for i in range(1, len(prompts) + 1)]
        requests = [*map(_prompt, prompts, names)]
        distinct: dict[Prompt, str] = {}
        for request, name in zip(requests, names, strict=True):
            distinct.setdefault(request, name)
        fitting = [request for request, name in distinct.items() if self.has_room_for(request, name, too_long)]
        greedy = Sampling(self.recipe.evaluation.rubric_max_tokens, 1, 0.0)
        written = self.generator.write(fitting, greedy, self.recipe.seed) if fitting else []
        rubrics = dict(zip(fitting, written, strict=True))
        return [rubrics.get(request, Rubric("", (), ParseStatus.TRUNCATED)) for request in requests]

    def has_room_for(self, prompt: Prompt, name: str = "the prompt", too_long: TooLong = "skip") -> bool:
        """Whether a prompt and its rubric fit the context; with ``raise`` a DataError if they do not."""
        return self._fits(
            name, [self.prompts.rubric_prompt(prompt)], self.recipe.evaluation.rubric_max_tokens, too_long
        )

    def compare(
        self,
        prompt: Request,
        response_a: str,
        response_b: str,
        rubric: Rubric | str | None = None,
        votes: int = 1,
        orders: Orders = "both",
    ) -> Verdict:
        """Judge two responses: winner, confidence and findings per criterion.

        Args:
            rubric: criteria to use in place of the generator's: a parsed rubric, or its text.
            votes: judgements per order; 1 is greedy, more are sampled.
            orders: ``both``, or one only: half the cost, and open to position bias.

        Raises:
            DataError: if a rubric given as text does not parse, or a text is longer than the context.
        """
        return self.compare_many([(prompt, response_a, response_b, rubric)], votes, orders=orders)[0]

    def compare_many(
        self,
        cases: Sequence[tuple[Request, str, str, Rubric | str | None]],
        votes: int = 1,
        names: Sequence[str] | None = None,
        orders: Orders = "both",
        too_long: TooLong = "raise",
        progress: Progress | None = None,
    ) -> list[Verdict]:
        """:meth:`compare` for many cases at once, batched; equal prompts share one rubric.

        Args:
            names: names of the cases in errors.
            too_long: ``skip`` gives a case that does not fit the context a verdict without judgements.

        Raises:
            ConfigError: if this judge was trained to check one response at a time.
        """
        check_compares(self.recipe)
        if votes < 1:
            raise ConfigError(f"votes: {votes} gives no judgement. Use at least 1.")
        if orders not in get_args(Orders):
            raise ConfigError(f"orders: {orders!r} is not one of {', '.join(get_args(Orders))}.")
        names, prompts, rubrics = self._prepared([(case[0], case[3]) for case in cases], names, too_long)
        comparisons = [Comparison(n, p, a, b) for n, p, (_, a, b, _) in zip(names, prompts, cases, strict=True)]
        seed = derive_seed(self.recipe.seed, "compare")
        judge = replace(pairwise_judge(self.recipe, self.model, self.prompts), seed=seed)

        def fits(i: int) -> bool:
            shown = judge.user_prompts(comparisons[i], rubrics[i], orders)
            return self._fits(names[i], shown, judge.max_tokens, too_long)

        def judged(batch: Sequence[int]) -> list[Verdict]:
            return judge.judge([comparisons[i] for i in batch], [rubrics[i] for i in batch], orders, votes)

        return _answered([Verdict(rubric) for rubric in rubrics], fits, judged, progress)

    def rank(
        self,
        prompt: Request,
        responses: Sequence[str],
        method: Method = "round_robin",
        rubric: Rubric | str | None = None,
        votes: int = 1,
        rounds: int | None = None,
        progress: Progress | None = None,
    ) -> Ranking:
        """Order responses from the best by judging pairs of them, in both orders, under one rubric.

        Args:
            method: ``round_robin`` judges n (n − 1) / 2 pairs; ``swiss`` about n / 2 in each of ⌈log2 n⌉ rounds.
            rounds: more (or fewer) Swiss rounds.
            progress: called with (pairs done, pairs of this round).

        Raises:
            DataError: if there are no responses, a rubric given does not parse, or a text exceeds the context.
        """
        if not responses:
            raise DataError("There are no responses to rank. Give at least one.")
        request = _prompt(prompt, "the prompt")
        (used,) = self._prepared([(request, rubric)], ["the prompt"], "raise")[2]
        players = list(dict.fromkeys(responses))
        numbers = [f"response {responses.index(text) + 1}" for text in players]
        winners: list[Side | None] = []

        def judge(pairs: Sequence[Pair]) -> list[float]:
            if not used.usable:
                return [0.5] * len(pairs)
            cases: list[Case] = [(request, players[a], players[b], used) for a, b in pairs]
            names = [f"{numbers[a]} and {numbers[b]}" for a, b in pairs]
            verdicts = self.compare_many(cases, votes, names, progress=progress)
            winners.extend(side for verdict in verdicts for side in verdict.winners)
            return [verdict.preference for verdict in verdicts]

        standings, judged = tournament(len(players), method, judge, rounds)
        pairs = judged if used.usable else 0
        return Ranking(placed(responses, players, standings), used, pairs, len(winners), winners.count(None))

    def score(
        self, prompt: Request, response: str, rubric: Rubric | str | None = None, justify: bool | None = None
    ) -> PointwiseScore:
        """Score how well one response meets its prompt's rubric, in [−1, 1] (RUBRIC-ARROW, arXiv 2605.29156).

        Σ w (p_true − p_false) / Σ w over the criteria, w = 3 for a hard rule and 1 for a principle. A judge of
        ``reward.judge: pointwise`` is trained for this; a pairwise judge is only as good at it as its base, so prefer
        :meth:`compare` or :meth:`rank` there.

        Args:
            rubric: criteria to use in place of the generator's.
            justify: let the judge write a justification before each answer, as in the paper: slower, and without a
                value where its text does not parse. Otherwise it answers each criterion directly. None: only a
                pointwise judge justifies, as it was trained to.

        Raises:
            BackendError: if the backend gives no probabilities (a server), or the tokenizer lacks true and false.
            DataError: if a rubric given as text does not parse, or a text is longer than the context.
        """
        return self.score_many([(prompt, response, rubric)], justify)[0]

    def score_many(
        self,
        cases: Sequence[tuple[Request, str, Rubric | str | None]],
        justify: bool | None = None,
        names: Sequence[str] | None = None,
        too_long: TooLong = "raise",
        progress: Progress | None = None,
    ) -> list[PointwiseScore]:
        """:meth:`score` for many cases at once, batched; equal prompts share one rubric."""
        justify = self.recipe.pointwise if justify is None else justify
        tokens = self.recipe.evaluation.judge_max_tokens if justify else LINE_TOKENS
        judge = pointwise_judge(self.recipe, self.model, self.prompts)
        seed = derive_seed(self.recipe.seed, "score")
        judge = replace(judge, max_tokens=tokens, temperature=0.0, seed=seed, justify=justify)
        judge.read([])  # raises before anything is sampled
        names, prompts, rubrics = self._prepared([(case[0], case[2]) for case in cases], names, too_long)
        shown = [(prompt, case[1], rubric) for prompt, case, rubric in zip(prompts, cases, rubrics, strict=True)]

        def fits(i: int) -> bool:
            prompt, response, rubric = shown[i]
            user_prompt = self.prompts.pointwise_prompt(prompt, rubric, response)
            return self._fits(names[i], [user_prompt], judge.max_tokens, too_long)

        def scored(batch: Sequence[int]) -> list[PointwiseScore]:
            return [scores[0] for scores in judge.score([shown[i] for i in batch])]

        skipped = [PointwiseScore(None, (), r, "", ParseStatus.TRUNCATED if r.usable else r.status) for r in rubrics]
        return _answered(skipped, fits, scored, progress)

    def _prepared(
        self, cases: Sequence[tuple[Request, Rubric | str | None]], names: Sequence[str] | None, too_long: TooLong
    ) -> tuple[Sequence[str], list[Prompt], list[Rubric]]:
        """Names, prompts and rubrics of cases: the rubric given with a prompt, checked, or else the generator's."""
        names = names or [f"case {i}" for i in range(1, len(cases) + 1)]
        prompts = [_prompt(request, name) for (request, _), name in zip(cases, names, strict=True)]
        parsed = [None if r is None else given_rubric(r, name) for (_, r), name in zip(cases, names, strict=True)]
        missing = [i for i, rubric in enumerate(parsed) if rubric is None]
        written = iter(self.rubrics([prompts[i] for i in missing], [names[i] for i in missing], too_long))
        return names, prompts, [next(written) if rubric is None else rubric for rubric in parsed]

    def _fits(self, name: str, prompts: Sequence[str], max_tokens: int, too_long: TooLong) -> bool:
        """Whether each user prompt fits the context with its answer; with ``raise`` a DataError if one does not.

        Two orders of responses hold the same texts, but a tokenizer may join them differently.
        """
        limit = self.recipe.model.max_context
        for prompt in prompts:
            if len(prompt.encode("utf-8", "surrogatepass")) + ROOM_FOR_TEMPLATE + max_tokens <= limit:
                continue
            length = self.model.prompt_tokens(prompt) + max_tokens
            if length > limit and too_long == "raise":
                raise DataError(
                    f"{name}: {length} tokens with the answer, more than model.max_context ({limit}). Shorten the "
                    "texts, or use a run with a longer context."
                )
            if length > limit:
                return False
        return True

    def identity(self, votes: int = 1) -> dict[str, Any]:
        """What its verdicts depend on besides the question, as JSON values: adapters and :func:`judging_settings`."""
        adapters = {f"{role}_adapter": self.model.fingerprint(role) for role in ROLES}
        return {**adapters, **judging_settings(self.recipe, votes, self.model.control_tokens())}

    def unknown_words(self, *texts: str) -> tuple[str, ...]:
        """Words that the tokenizer maps to its unknown token, in order; empty for a model on a server."""
        tokenizer = getattr(self.model, "tokenizer", None)
        if tokenizer is None or tokenizer.unk_token_id is None:
            return ()
        words: dict[str, None] = {}
        for text in texts:
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                if token == tokenizer.unk_token_id:
                    words[text[start:end].strip()] = None
        return tuple(words)


def judging_settings(
    recipe: Recipe, votes: int = 1, control_tokens: Sequence[str | re.Pattern[str]] = ()
) -> dict[str, Any]:
    """What a verdict depends on besides the question and the adapters, as JSON values.

    How the base is loaded counts as far as it changes more than rounding.
    """
    evaluation, templates = recipe.evaluation, Templates.of(recipe.prompts)
    fields = {"base", "revision", "checkpoints", "dtype", "quantization", "max_context", "chat_date"}
    base = recipe.model.model_dump(mode="json", include=fields, exclude_none=True)
    shown = [templates.rubric, templates.pointwise if recipe.pointwise else templates.judge]
    shown += [token if isinstance(token, str) else token.pattern for token in control_tokens]
    return {
        "base": ", ".join([base.pop("base"), *(f"{name} {value}" for name, value in base.items())]),
        "prompts": hashlib.sha256(json.dumps([shown, vars(recipe.prompts.pointwise_words)]).encode()).hexdigest()[:16],
        "rubric_max_tokens": evaluation.rubric_max_tokens,
        "judge_max_tokens": evaluation.judge_max_tokens,
        "temperature": evaluation.judge_temperature if votes == 1 else evaluation.vote_temperature,
        "votes": votes,
        "seed": recipe.seed,
    }


def _answered(
    answers: list[_Answer],
    fits: Callable[[int], bool],
    answer: Callable[[Sequence[int]], Sequence[_Answer]],
    progress: Progress | None,
) -> list[_Answer]:
    """Replace the empty answers of the cases with a usable rubric that fit the context, in batches.

    All lengths are checked before the first call of the judge, so a text that is too long costs no judgement.
    """
    fitting = [empty.rubric.usable and fits(i) for i, empty in enumerate(answers)]
    for start in range(0, len(answers), CASES_AT_ONCE):
        end = min(start + CASES_AT_ONCE, len(answers))
        batch = [i for i in range(start, end) if fitting[i]]
        for i, answered in zip(batch, answer(batch), strict=True):
            answers[i] = answered
        if progress is not None:
            progress(end, len(answers))
    return answers


def _prompt(request: Request, name: str) -> Prompt:
    return request if isinstance(request, str | tuple) else prompt_of(request, name)
