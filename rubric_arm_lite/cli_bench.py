"""``rubric-arm bench``: the training engine beside stock TRL, and judging beside judges without a rubric."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rubric_arm_lite.cli_common import err, import_first, out, print_json, quiet_libraries
from rubric_arm_lite.cli_options import JsonOption

if TYPE_CHECKING:
    from rubric_arm_lite.config import Recipe
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

VerbArgument = Annotated[
    str | None,
    typer.Argument(help="rollout, update or step; all three if left out. For inference see: bench inference --help."),
]
AgainstOption = Annotated[str, typer.Option(help="trl, or none for our side alone.")]
PromptLengthOption = Annotated[int, typer.Option(help="Tokens of the judge's prompt; the generator's has a quarter.")]
CompletionLengthOption = Annotated[int, typer.Option(help="Tokens of every completion.")]
GroupOption = Annotated[int, typer.Option(help="Completions per prompt.")]
WidthOption = Annotated[int, typer.Option(help="Model width, a multiple of 64.")]
LayersOption = Annotated[int, typer.Option(help="Layers of the model.")]
PromptsOption = Annotated[int, typer.Option(help="Prompts per step.")]
RunsOption = Annotated[int, typer.Option(help="Timed runs of each side, after one that is not timed.")]
ThreadsOption = Annotated[int, typer.Option(help="torch threads of both sides; several wait on a busy machine.")]
VocabularyOption = Annotated[int, typer.Option(help="Words of the model.")]
PeerBatchOption = Annotated[int | None, typer.Option(help="TRL's rows per pass (default: the fastest is found).")]
CheckpointingOption = Annotated[bool, typer.Option("--gradient-checkpointing", help="On both sides.")]
SeedOption = Annotated[int, typer.Option(help="Seed of weights, texts and rewards.")]
MemoryOption = Annotated[bool, typer.Option(help="Measure peak memory, each side in a process of its own.")]
SweepOption = Annotated[bool, typer.Option("--sweep", help="Vary one setting at a time around these.")]
AxisOption = Annotated[list[str] | None, typer.Option(help="Sweep this setting only, such as prompt-length.")]
OutputOption = Annotated[Path | None, typer.Option(help="Folder for JSON, a Markdown table and a sweep's picture.")]


@bench_app.command(_ENGINE)
def engine(
    verb: VerbArgument = None,
    against: AgainstOption = "trl",
    prompt_length: PromptLengthOption = 512,
    completion_length: CompletionLengthOption = 64,
    num_generations: GroupOption = 8,
    width: WidthOption = 256,
    layers: LayersOption = 4,
    prompts: PromptsOption = 8,
    runs: RunsOption = 5,
    threads: ThreadsOption = 1,
    vocabulary: VocabularyOption = 2048,
    peer_batch: PeerBatchOption = None,
    gradient_checkpointing: CheckpointingOption = False,
    seed: SeedOption = 0,
    memory: MemoryOption = True,
    sweep: SweepOption = False,
    axis: AxisOption = None,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Time our engine beside stock TRL on the same work; without a verb: rollout, update and step.

    ``bench inference`` measures judging instead: accuracy, tokens and seconds beside judges without a rubric.
    """
    quiet_libraries()
    from rubric_arm_lite.bench.measure import check_against, check_verb, measure, measure_all
    from rubric_arm_lite.bench.show import show, write
    from rubric_arm_lite.bench.sweep import check_axes, measure_sweep
    from rubric_arm_lite.bench.work import BenchSettings, Work

    chosen = check_verb(verb, sweep)
    settings = BenchSettings(
        prompt_length=prompt_length,
        completion_length=completion_length,
        num_generations=num_generations,
        width=width,
        layers=layers,
        prompts=prompts,
        vocabulary=vocabulary,
        runs=runs,
        threads=threads,
        peer_batch=peer_batch,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    side = check_against(against)
    axes = check_axes(axis, sweep)
    Work(settings)
    with err.status("bench") as status, contextlib.redirect_stdout(sys.stderr):  # libraries may print
        if chosen is None:
            result = measure_all(settings, side, memory, status.update)
        elif sweep:
            result = measure_sweep(chosen, settings, side, memory, status.update, axes)
        else:
            result = measure(chosen, settings, side, memory, status.update)
    if output is not None:
        for path in write(result, output, f"bench-{chosen or 'all'}"):
            err.print(f"{path}", markup=False, highlight=False)
    if as_json:
        print_json(result)
    else:
        show(result, out)


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
    from rubric_arm_lite.bench.inference import InferenceSettings, check_judges, measure
    from rubric_arm_lite.bench.inference_show import show, write
    from rubric_arm_lite.data import load_pairs
    from rubric_arm_lite.errors import ConfigError

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
    from rubric_arm_lite.recipe_file import load_recipe
    from rubric_arm_lite.run_states import recipe_of_run

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
        from rubric_arm_lite.backends.server_settings import ServerSettings

        if state != "final":
            raise ConfigError(f"--state {state} is for adapters on this machine. A server has its own.")
        return RubricRewardModel.from_server(ServerSettings(server, *names), recipe)
    quiet_libraries()
    from rubric_arm_lite.backends.loader import load_model

    if run is not None:
        return RubricRewardModel.from_run(run, state)
    if recipe.model.checkpoints is not None:
        return RubricRewardModel.from_recipe(recipe)
    return RubricRewardModel(load_model(recipe.model, recipe.seed), recipe)
