"""A trained pair of adapters at work: write a rubric for a prompt, compare two responses under it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rubric_arm_lite.backends.base import ChatSampler
from rubric_arm_lite.comparing import Case, Comparer, Progress, TooLong
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.errors import BackendError, CheckpointError
from rubric_arm_lite.phases import RubricWriter
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.recipe_file import load_recipe
from rubric_arm_lite.rubric_cache import RubricCache
from rubric_arm_lite.run_dir import RECIPE, STATE, RunState
from rubric_arm_lite.types import ROLES, Prompt, Rubric
from rubric_arm_lite.verdicts import Orders, Verdict

if TYPE_CHECKING:
    from rubric_arm_lite.backends.server_settings import ServerSettings


class RubricRewardModel:
    """Rubric generator and judge on one base, on this machine or behind a server."""

    def __init__(self, model: ChatSampler, recipe: Recipe) -> None:
        self.model = model
        self.recipe = recipe
        templates = Templates.load(recipe.prompts.rubric_template, recipe.prompts.judge_template)
        self.prompts = PromptBuilder(templates, model.control_tokens())
        self.cache = RubricCache(recipe.cache.capacity)
        self._comparer = Comparer(model, recipe, self.prompts, RubricWriter(model, self.prompts, self.cache))

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
        """Greedy rubrics, one per prompt; equal prompts are written once, as long as the model lives."""
        return self._comparer.rubrics(prompts, [f"prompt {i}" for i in range(1, len(prompts) + 1)])

    def compare(
        self,
        prompt: Prompt,
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
        cases: Sequence[Case],
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
        """
        names = names or [f"case {i}" for i in range(1, len(cases) + 1)]
        return self._comparer.compare(cases, names, votes, orders, too_long, progress)


def recipe_of_run(run: str | Path) -> Recipe:
    """The recipe that a run was made with.

    Raises:
        CheckpointError: if the directory is no run.
    """
    path = Path(run)
    if not (path / RECIPE).is_file():
        raise CheckpointError(f"{path} is not a run directory: it has no {RECIPE}. Make one with rubric-arm run.")
    return load_recipe(str(path / RECIPE))


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
