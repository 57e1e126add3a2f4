"""A trained pair of adapters at work: write a rubric for a prompt, compare two responses under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rubric_arm_lite.backends.base import ChatSampler, Sampling
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.errors import BackendError, CheckpointError, DataError
from rubric_arm_lite.evaluate import majority
from rubric_arm_lite.parsing import parse_rubric
from rubric_arm_lite.phases import JudgeDesk, RubricWriter
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.recipe_file import load_recipe
from rubric_arm_lite.rubric_cache import RubricCache
from rubric_arm_lite.run_dir import RECIPE, STATE, RunState
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import ROLES, Comparison, Judgement, Prompt, Rubric, Side, other_side

if TYPE_CHECKING:
    from rubric_arm_lite.backends.server_settings import ServerSettings


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of two responses.

    Attributes:
        winner: "A" or "B" as the caller gave them; None if there is no majority over orders and votes.
        consistent: whether every verdict named the same response.
        confidence: share of the verdicts asked for that named the winner.
        rubric: the criteria that were used.
        judgements: the judge's texts, in the caller's order of responses.
        flipped: the judge's texts with the two responses swapped.
    """

    winner: Side | None
    consistent: bool
    confidence: float
    rubric: Rubric
    judgements: tuple[Judgement, ...]
    flipped: tuple[Judgement, ...]


class RubricRewardModel:
    """Rubric generator and judge on one base, on this machine or behind a server."""

    def __init__(self, model: ChatSampler, recipe: Recipe) -> None:
        self.model = model
        self.recipe = recipe
        templates = Templates.load(recipe.prompts.rubric_template, recipe.prompts.judge_template)
        self.prompts = PromptBuilder(templates, model.control_tokens())
        self._writer = RubricWriter(model, self.prompts, RubricCache(recipe.cache.capacity))
        self._desk = JudgeDesk(model, self.prompts)

    @classmethod
    def from_run(cls, run: str | Path, state: str = "final") -> RubricRewardModel:
        """Load the adapters of a run.

        Args:
            run: a run directory.
            state: ``final``, ``warm-up``, or ``latest`` (the newest checkpoint of an unfinished run).

        Raises:
            CheckpointError: if the directory is no run, or has not come that far.
        """
        from rubric_arm_lite.backends.loader import load_model

        path = Path(run)
        recipe = recipe_of_run(path)
        model = load_model(recipe.model, recipe.seed)
        for role in ROLES:
            model.load_adapter(role, adapter_folder(path, role, state))
        return cls(model, recipe)

    @classmethod
    def from_adapters(cls, recipe: Recipe, rubric: str | Path, judge: str | Path) -> RubricRewardModel:
        """Load two PEFT folders onto the recipe's base."""
        from rubric_arm_lite.backends.loader import load_model

        model = load_model(recipe.model, recipe.seed)
        model.load_adapter("rubric", Path(rubric))
        model.load_adapter("judge", Path(judge))
        return cls(model, recipe)

    @classmethod
    def from_server(cls, settings: ServerSettings, recipe: Recipe) -> RubricRewardModel:
        """Ask the models of a server; nothing is loaded here, and the recipe says how they are asked.

        Raises:
            BackendError: if the key's environment variable cannot be used.
        """
        from rubric_arm_lite.backends.server import ServerSampler

        return cls(ServerSampler(settings), recipe)

    def rubric(self, prompt: Prompt) -> Rubric:
        """The greedy rubric of one prompt; check ``usable`` before using it."""
        return self.rubrics([prompt])[0]

    def rubrics(self, prompts: Sequence[Prompt]) -> list[Rubric]:
        """Greedy rubrics, one per prompt; equal prompts are written once."""
        self._check_fit([("the prompt", self.prompts.rubric_prompt(p)) for p in prompts], self._rubric_sampling)
        return self._writer.write([(prompt, 0) for prompt in prompts], self._rubric_sampling, self.recipe.seed)

    def compare(
        self, prompt: Prompt, response_a: str, response_b: str, rubric: Rubric | str | None = None, votes: int = 1
    ) -> Verdict:
        """Judge two responses in both orders.

        Args:
            rubric: criteria to use in place of the generator's: a parsed rubric, or its text.
            votes: judgements per order; 1 is greedy, more are sampled.

        Raises:
            DataError: if a rubric given as text does not parse, or a text is longer than the context.
        """
        return self.compare_many([(prompt, response_a, response_b, rubric)], votes)[0]

    def compare_many(
        self,
        cases: Sequence[tuple[Prompt, str, str, Rubric | str | None]],
        votes: int = 1,
        names: Sequence[str] | None = None,
    ) -> list[Verdict]:
        """:meth:`compare` for many cases at once, batched; ``names`` are used in errors."""
        names = names or [f"case {i}" for i in range(1, len(cases) + 1)]
        given = [None if case[3] is None else _given(case[3], name) for case, name in zip(cases, names, strict=True)]
        missing = [(name, case[0]) for case, name in zip(cases, names, strict=True) if case[3] is None]
        self._check_fit([(name, self.prompts.rubric_prompt(p)) for name, p in missing], self._rubric_sampling)
        written = iter(self.rubrics([prompt for _, prompt in missing]) if missing else [])
        rubrics = [next(written) if rubric is None else rubric for rubric in given]
        asked: list[tuple[Comparison, Rubric]] = []
        for (prompt, a, b, _), rubric, name in zip(cases, rubrics, names, strict=True):
            if rubric.usable:
                # The side is only where response A stands; there is no label here.
                asked.append((Comparison(name, prompt, a, b, "A"), rubric))
                asked.append((Comparison(name, prompt, b, a, "B"), rubric))
        evaluation = self.recipe.evaluation
        temperature = evaluation.judge_temperature if votes == 1 else evaluation.vote_temperature
        sampling = Sampling(evaluation.judge_max_tokens, votes, temperature)
        self._check_fit(
            [(c.pair_id, self.prompts.judge_prompt(c.prompt, r, c.response_a, c.response_b)) for c, r in asked],
            sampling,
        )
        seed = derive_seed(self.recipe.seed, "compare")
        answers = iter(self._desk.judge(asked, sampling, seed) if asked else [])
        return [
            _verdict(rubric, next(answers), next(answers)) if rubric.usable else _verdict(rubric, [], [])
            for rubric in rubrics
        ]

    @property
    def _rubric_sampling(self) -> Sampling:
        return Sampling(self.recipe.evaluation.rubric_max_tokens, 1, 0.0)

    def _check_fit(self, texts: Sequence[tuple[str, str]], sampling: Sampling) -> None:
        for name, text in texts:
            length = self.model.prompt_tokens(text) + sampling.max_tokens
            if length > self.recipe.model.max_context:
                raise DataError(
                    f"{name}: {length} tokens with the answer, more than model.max_context "
                    f"({self.recipe.model.max_context}). Shorten the texts, or use a run with a longer context."
                )


def recipe_of_run(run: str | Path) -> Recipe:
    """The recipe that a run was made with.

    Raises:
        CheckpointError: if the directory is no run.
    """
    path = Path(run)
    if not (path / RECIPE).is_file():
        raise CheckpointError(f"{path} is not a run directory: it has no {RECIPE}. Make one with rubric-arm run.")
    return load_recipe(str(path / RECIPE))


def _verdict(rubric: Rubric, straight: Sequence[Judgement], flipped: Sequence[Judgement]) -> Verdict:
    named: list[Side | None] = [j.winner for j in straight]
    named += [None if j.winner is None else other_side(j.winner) for j in flipped]
    winner = majority(named)
    share = sum(n == winner for n in named) / len(named) if winner is not None else 0.0
    return Verdict(winner, winner is not None and share == 1.0, share, rubric, tuple(straight), tuple(flipped))


def _given(rubric: Rubric | str, name: str) -> Rubric:
    parsed = parse_rubric(rubric) if isinstance(rubric, str) else rubric
    if not parsed.usable:
        raise DataError(
            f"{name}: the rubric given does not parse. Write a numbered list, each line like "
            "`1. The response … [Hard Rule]` or `… [Principle]`, and nothing else."
        )
    return parsed


def adapter_folder(run: Path, role: str, state: str) -> Path:
    """Where the adapter of a role stands in a run, in the state ``final``, ``warm-up`` or ``latest``."""
    match state:
        case "final":
            folder = run / "adapters" / role
        case "warm-up" | "latest":
            name = f"{role}_ref" if state == "warm-up" else role
            folder = _checkpoint(run) / name
        case _:
            raise BackendError(f"state: {state!r} is not one of final, warm-up, latest.")
    if not folder.is_dir():
        raise CheckpointError(
            f"{run} has no {state} adapter `{role}` yet. Finish it with rubric-arm run --resume, or name another state."
        )
    return folder


def _checkpoint(run: Path) -> Path:
    try:
        state = RunState.loads((run / STATE).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{run / STATE} cannot be read: {error}. Run it again.") from error
    if state.checkpoint is None:
        raise CheckpointError(f"{run} has no checkpoint yet. Continue it with rubric-arm run --resume.")
    return run / "checkpoints" / state.checkpoint
