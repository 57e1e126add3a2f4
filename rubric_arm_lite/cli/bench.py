"""``rubric-arm bench``: judges beside judges without a rubric, and the speed of the engine beside stock TRL.

The comparison with TRL is not part of the package: it stands in ``benchmarks/against_trl`` of a checkout.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rubric_arm_lite.cli.common import JsonOption, err, import_first, out, print_json, quiet_libraries
from rubric_arm_lite.errors import ConfigError

if TYPE_CHECKING:
    from rubric_arm_lite.recipe import Recipe
    from rubric_arm_lite.reward_model import RubricRewardModel

_ENGINE = "engine"
_INFERENCE = "inference"


class _EngineUnlessInference(TyperGroup):
    """``bench inference …`` is a command with options of its own; every other ``bench …`` goes to the engine's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args[:1] == [_INFERENCE] else [_ENGINE, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == _ENGINE else name, command, rest  # nobody wrote that name, so no help shows it


bench_app = typer.Typer(
    cls=_EngineUnlessInference, help="Time the training engine beside TRL, or (bench inference) judges beside others."
)

OutputOption = Annotated[Path | None, typer.Option(help="Folder for JSON, a Markdown table and a sweep's picture.")]


@bench_app.command(
    _ENGINE, context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)
def engine(ctx: typer.Context) -> None:
    """Time our engine beside stock TRL on the same work: rollout, update or step; all three if left out."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks" / "against_trl" / "main.py").is_file():
        raise ConfigError(
            "rubric-arm bench compares with TRL and is not part of the installed package. Clone the repository, run "
            "`pip install -e .` in it, and call it again; rubric-arm bench inference works everywhere."
        )
    sys.path.insert(0, str(checkout))
    importlib.import_module("benchmarks.against_trl.main").app(args=ctx.args, prog_name="rubric-arm bench")


@bench_app.command(_INFERENCE)
def inference(
    run: Annotated[
        Path | None, typer.Option("--run", help="A run directory; its trained judge is measured too.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Without --run: the recipe whose model is asked as it is.")] = "testbed",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field of --recipe: --set model.base=FOLDER.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Pairs to judge: JSONL, CSV or Parquet (default: those held out).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many pairs, the first ones.")] = 100,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Only this: trained, base, direct, reasoning or votes; may be repeated."),
    ] = None,
    votes: Annotated[int, typer.Option(min=2, help="Samples of the judge by majority.")] = 5,
    thinking_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of the judge that thinks.")] = 8192,
    one_by_one: Annotated[
        int, typer.Option(min=0, help="Also judge so many pairs one at a time: p50 and p95 of an answer's seconds.")
    ] = 0,
    state: Annotated[str, typer.Option(help="Which adapters of --run: final, warm-up or latest.")] = "final",
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask this OpenAI-compatible server; nothing is loaded here.")
    ] = None,
    rubric_model: Annotated[str, typer.Option(help="The server's name of the generator.")] = "rubric",
    judge_model: Annotated[str, typer.Option(help="The server's name of the judge.")] = "judge",
    base_model: Annotated[str | None, typer.Option(help="The server's name of the model without adapters.")] = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Accuracy, position bias, tokens and seconds of judges on the same pairs.

    trained: rubric and judge of --run, or the two checkpoints of --recipe released-8b. base: the same prompts, no
    adapters. direct: no rubric. reasoning: no rubric, long thought before the verdict. votes: the majority of several
    direct verdicts. The paper's seconds for other judges are printed beside.
    """
    asked = _recipe(run, recipe, overrides or [])
    import_first(asked)
    from rubric_arm_lite.cli.evaluate import show, write
    from rubric_arm_lite.data import load_pairs
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.evaluation.efficiency import InferenceSettings, check_judges, measure

    two = asked.model.checkpoints is not None
    names = check_judges(judge or [], trained=run is not None or two, base=server is not None or not two)
    if server is not None and base_model is None and any(name != "trained" for name in names):
        raise ConfigError("Judges without adapters are asked of the base. Give --base-model, or only --judge trained.")
    given = None if pairs is None else load_pairs(pairs)
    model = _model(run, asked, state, server, (rubric_model, judge_model, base_model))
    settings = InferenceSettings(limit, votes, thinking_tokens, one_by_one)
    with err.status("bench") as status:
        result = measure(model, given, names, settings, status.update)
    if output is not None:
        for path in write(result, output):
            err.print(f"{path}", markup=False, highlight=False)
    if as_json:
        print_json(result)
    else:
        show(result, out)


def _recipe(run: Path | None, recipe: str, overrides: list[str]) -> Recipe:
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.recipe import load_recipe
    from rubric_arm_lite.runs import recipe_of_run

    if run is None:
        return load_recipe(recipe, overrides)
    if overrides:
        raise ConfigError("--set belongs to --recipe; a run has its own. Leave one of them out.")
    return recipe_of_run(run)


def _model(
    run: Path | None, recipe: Recipe, state: str, server: str | None, names: tuple[str, str, str | None]
) -> RubricRewardModel:
    """The adapters of a run, a recipe's checkpoints or its model as it is, on this machine or behind a server."""
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.reward_model import RubricRewardModel

    if server is not None:
        from rubric_arm_lite.models import ServerSettings

        if state != "final":
            raise ConfigError(f"--state {state} is for adapters on this machine. A server has its own.")
        return RubricRewardModel.from_server(ServerSettings(server, *names), recipe)
    quiet_libraries()
    from rubric_arm_lite.models import load_model

    if run is not None:
        return RubricRewardModel.from_run(run, state)
    if recipe.model.checkpoints is not None:
        return RubricRewardModel.from_recipe(recipe)
    return RubricRewardModel(load_model(recipe.model, recipe.seed), recipe)
