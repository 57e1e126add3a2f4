"""A trained generator and judge at work: write a rubric for a prompt; compare, rank or score responses under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rubric_arm_lite.data import prompt_of
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.models import ChatSampler
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.recipe import Recipe, load_recipe
from rubric_arm_lite.recipe.fields import CheckpointPair
from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
from rubric_arm_lite.reward_model.judge import Case, Comparer, Progress, TooLong
from rubric_arm_lite.reward_model.pointwise import PointwiseScore, Scorer
from rubric_arm_lite.reward_model.ranking import Method, Pair, Ranking, placed, play
from rubric_arm_lite.reward_model.verdict import Orders, Verdict
from rubric_arm_lite.runs import adapter_folder, recipe_of_run
from rubric_arm_lite.types import ROLES, Prompt, Rubric, Side

if TYPE_CHECKING:
    from rubric_arm_lite.models import ServerSettings

Request = Prompt | Sequence[Mapping[str, str]]
"""A prompt as it comes from a user: a text, or messages with ``role`` and ``content`` that end with the user's turn."""


class RubricRewardModel:
    """Rubric generator and judge: adapters on one base or two full models, on this machine or behind a server.

    Attributes:
        model: what is asked; ``model.tokens_written`` counts.
        recipe: how it is asked.
        prompts: how requests and responses are written for it.
        cache: the rubrics written so far, with a hit rate; equal prompts share one as long as this object lives.
    """

    def __init__(self, model: ChatSampler, recipe: Recipe) -> None:
        self.model = model
        self.recipe = recipe
        self.prompts = PromptBuilder(Templates.of(recipe.prompts), model.control_tokens())
        self.cache = RubricCache(recipe.cache.capacity)
        self._comparer = Comparer(model, recipe, self.prompts, RubricGenerator(model, self.prompts, self.cache))
        self._scorer = Scorer(model, recipe, self.prompts, self._comparer)

    @classmethod
    def from_run(cls, run: str | Path, state: str = "final") -> RubricRewardModel:
        """Load the adapters of a run.

        Args:
            run: a run directory.
            state: ``final``, ``warm-up``, or ``latest`` (the newest checkpoint of an unfinished run).

        Raises:
            CheckpointError: if the directory is no run, or has not come that far.
        """
        import torch

        from rubric_arm_lite.models import load_model

        path = Path(run)
        recipe = recipe_of_run(path)
        if recipe.threads is not None:  # as in the run itself: sums, and so near ties, depend on their number
            torch.set_num_threads(recipe.threads)
        model = load_model(recipe.model, recipe.seed)
        for role in ROLES:
            model.load_adapter(role, adapter_folder(path, role, state))
        return cls(model, recipe)

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
            recipe: how they are loaded (dtype, quantisation, context) and asked (templates, lengths); the shipped
                ``released-8b`` if left out.

        Raises:
            BackendError: if one of them cannot be loaded.
        """
        recipe = recipe or load_recipe("released-8b")
        pair = CheckpointPair(rubric=str(rubric), judge=str(judge))
        model = recipe.model.model_copy(update={"checkpoints": pair})
        return cls.from_recipe(recipe.model_copy(update={"model": model}))

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> RubricRewardModel:
        """Load the two full checkpoints that the recipe names under ``model.checkpoints``.

        Raises:
            ConfigError: if it names none.
            BackendError: if one of them cannot be loaded.
        """
        from rubric_arm_lite.models.checkpoints import load_two_models

        return cls(load_two_models(recipe.model, recipe.seed), recipe)

    @classmethod
    def from_server(cls, settings: ServerSettings, recipe: Recipe) -> RubricRewardModel:
        """Ask the models of a server; nothing is loaded here, and the recipe says how they are asked.

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
            names: what errors call the prompts.
            too_long: ``leave`` gives a prompt that does not fit the context an empty, truncated rubric.
        """
        names = names or [f"prompt {i}" for i in range(1, len(prompts) + 1)]
        return self._comparer.rubrics([*map(_prompt, prompts, names)], names, too_long)

    def has_room_for(self, prompt: Prompt) -> bool:
        """Whether a prompt and its rubric fit the context."""
        return self._comparer.has_room_for(prompt)

    def compare(
        self,
        prompt: Request,
        response_a: str,
        response_b: str,
        rubric: Rubric | str | None = None,
        votes: int = 1,
        orders: Orders = "both",
    ) -> Verdict:
        """Judge two responses: winner, confidence, and what was found per criterion.

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
            names: what errors call the cases.
            too_long: ``leave`` gives a case that does not fit the context a verdict without judgements.
            progress: called with (cases done, cases in all).

        Raises:
            ConfigError: if this judge was trained to check one response at a time.
        """
        check_compares(self.recipe)
        names = names or [f"case {i}" for i in range(1, len(cases) + 1)]
        asked = [
            (_prompt(prompt, name), a, b, rubric) for (prompt, a, b, rubric), name in zip(cases, names, strict=True)
        ]
        return self._comparer.compare(asked, names, votes, orders, too_long, progress)

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
        asked = _prompt(prompt, "the prompt")
        used = self._comparer.rubrics_for([(asked, rubric)], ["the prompt"])[0]
        players = list(dict.fromkeys(responses))
        numbers = [f"response {responses.index(text) + 1}" for text in players]
        named: list[Side | None] = []

        def judge(pairs: Sequence[Pair]) -> list[float]:
            if not used.usable:
                return [0.5] * len(pairs)
            cases: list[Case] = [(asked, players[a], players[b], used) for a, b in pairs]
            names = [f"{numbers[a]} and {numbers[b]}" for a, b in pairs]
            verdicts = self.compare_many(cases, votes, names, progress=progress)
            named.extend(side for verdict in verdicts for side in verdict.named)
            return [0.5 + (v.share("A") - v.share("B")) / 2 for v in verdicts]

        standings, judged = play(len(players), method, judge, rounds)
        pairs = judged if used.usable else 0
        return Ranking(placed(responses, players, standings), used, pairs, len(named), named.count(None))

    def score(
        self, prompt: Request, response: str, rubric: Rubric | str | None = None, justify: bool | None = None
    ) -> PointwiseScore:
        """How far one response meets its prompt's rubric, in [−1, 1], after RUBRIC-ARROW (arXiv 2605.29156).

        Σ w (p_true − p_false) / Σ w over the criteria, w = 3 for a hard rule and 1 for a principle. A judge of
        ``reward.judge: pointwise`` is trained for this; one that was trained to compare is only as good here as its
        base, and :meth:`compare` or :meth:`rank` is the better choice.

        Args:
            rubric: criteria to use in place of the generator's.
            justify: let the judge write a justification before each answer, as in the paper: slower, and where its
                text does not keep the form there is no value. Otherwise it answers each criterion at once, by itself.
                None is as the judge was trained: it writes if it is pointwise.

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
        names = names or [f"case {i}" for i in range(1, len(cases) + 1)]
        if justify is None:
            justify = self.recipe.reward.judge == "pointwise"
        asked = [
            (_prompt(prompt, name), text, rubric) for (prompt, text, rubric), name in zip(cases, names, strict=True)
        ]
        return self._scorer.score(asked, names, justify, too_long, progress)

    def unknown_words(self, *texts: str) -> tuple[str, ...]:
        """Words that the tokenizer does not know and reads as blanks, in order; a server keeps its own to itself."""
        tokenizer = getattr(self.model, "tokenizer", None)
        unknown = None if tokenizer is None else tokenizer.unk_token_id
        if tokenizer is None or unknown is None:
            return ()
        words: dict[str, None] = {}
        for text in texts:
            found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
                if token == unknown:
                    words[text[start:end].strip()] = None
        return tuple(words)


def check_compares(recipe: Recipe) -> None:
    """Raise a ConfigError if the recipe's judge was trained to check one response at a time."""
    if recipe.reward.judge == "pointwise":
        raise ConfigError(
            "reward.judge: pointwise is a judge that checks one response at a time; it has not learned to compare two. "
            "Use score or score_many in Python or /v1/score over HTTP, or a run with reward.judge: pairwise."
        )


def _prompt(request: Request, name: str) -> Prompt:
    """A request as the package has it; a text, or messages of ours, stay as they are."""
    return request if isinstance(request, str | tuple) else prompt_of(request, name)
