"""``rubric-arm bench``: compares judges with judges without a rubric, and the training engine with stock TRL.

The comparison with TRL is not part of the package: it is in ``benchmarks/against_trl`` of a checkout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from rubric_arm_lite import data, models, reward_model
from rubric_arm_lite.cli.common import (
    JsonOption,
    OverwriteOption,
    ServerOptions,
    err,
    from_checkout,
    import_first,
    markdown_table,
    out,
    print_result,
    quiet_libraries,
    with_source,
)
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.recipe import load_recipe
from rubric_arm_lite.runs import atomic_write, check_target, recipe_of_run

_ENGINE = "engine"
_INFERENCE = "inference"


class _EngineUnlessInference(TyperGroup):
    """``bench inference …`` is a command with its own options; every other ``bench …`` goes to the engine's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args[:1] == [_INFERENCE] else [_ENGINE, *args])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == _ENGINE else name, command, rest  # the user did not type that name, so no help shows it


bench_app = typer.Typer(
    cls=_EngineUnlessInference, help="Time the training engine against TRL, or (bench inference) compare judges."
)


@bench_app.command(
    _ENGINE, context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)
def engine(ctx: typer.Context) -> None:
    """Time the training engine against stock TRL on the same work: rollout, update or step; by default all three."""
    from_checkout("against_trl.main", "bench").app(args=ctx.args, prog_name="rubric-arm bench")


@bench_app.command(_INFERENCE)
@with_source
def inference(
    server: ServerOptions,
    run: Annotated[
        Path | None, typer.Option("--run", help="A run directory; its trained judge is measured too.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Without --run: the recipe whose untrained model is measured (default: testbed).")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field of --recipe: --set model.base=FOLDER.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Pairs to judge: JSONL, CSV or Parquet (default: those held out).")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many pairs, the first ones.")] = 100,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Only this judge: trained, base, direct, reasoning or votes; may be repeated."),
    ] = None,
    votes: Annotated[int, typer.Option(min=2, help="Samples of the judge `votes`.")] = 5,
    thinking_tokens: Annotated[int, typer.Option(min=1, help="Token limit of the judge `reasoning`.")] = 8192,
    one_by_one: Annotated[
        int, typer.Option(min=0, help="Also judge this many pairs one at a time, for p50 and p95 of the latency.")
    ] = 0,
    state: Annotated[str, typer.Option(help="Which adapters of --run: final, warm-up or latest.")] = "final",
    base_model: Annotated[str | None, typer.Option(help="The server's name of the model without adapters.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for JSON and a Markdown table.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Accuracy, position bias, tokens and seconds of judges on the same pairs.

    trained: rubric and judge of --run, or the two checkpoints of --recipe released-8b. base: the same prompts, no
    adapters. direct: no rubric. reasoning: no rubric, a long chain of thought before the verdict. votes: the majority
    of several direct verdicts. The paper's seconds for other judges are printed for comparison.
    """
    if run is not None and (recipe is not None or overrides):
        raise ConfigError("--recipe and --set belong to an untrained model; a run has its own recipe. Leave --run out.")
    if run is None and state != "final":
        raise ConfigError(f"--state {state} is for the adapters of a run. Give --run.")
    settings = load_recipe(recipe or "testbed", overrides or []) if run is None else recipe_of_run(run)
    connection = server.settings(state, base_model)
    files = {} if output is None else {suffix: output / f"bench-inference.{suffix}" for suffix in ("json", "md")}
    for file in files.values():
        check_target(pairs, file, overwrite)
    import_first(settings)
    from rubric_arm_lite.evaluation.efficiency import check_judges, measure

    checkpoints = settings.model.checkpoints is not None
    trained, base = run is not None or checkpoints, connection is not None or not checkpoints
    names = check_judges(judge or [], trained=trained, base=base)
    if connection is not None and base_model is None and any(name != "trained" for name in names):
        raise ConfigError("Judges without adapters use the base model. Give --base-model, or only --judge trained.")
    chosen_pairs = None if pairs is None else data.load_pairs(pairs)
    quiet_libraries()
    if connection is not None:
        model = reward_model.RubricRewardModel.from_server(connection, settings)
    elif run is not None:
        model = reward_model.RubricRewardModel.from_run(run, state)
    elif checkpoints:
        model = reward_model.RubricRewardModel.from_recipe(settings)
    else:
        model = reward_model.RubricRewardModel(models.load_model(settings.model, settings.seed), settings)
    with err.status("bench") as status:
        result = measure(model, chosen_pairs, names, limit, votes, thinking_tokens, one_by_one, status.update)
    texts = {"json": json.dumps(result, indent=1) + "\n", "md": markdown(result)}
    for suffix, file in files.items():
        atomic_write(file, texts[suffix].encode())
        err.print(str(file))
    print_result(result, as_json, lambda: show(result, out))


# --- tables ---------------------------------------------------------------------------------------------------------

Result = Mapping[str, Any]

_QUALITY = {
    "judge": "{title}",
    "accuracy": "{accuracy:.3f}",
    "95 %": "{accuracy_low:.3f} to {accuracy_high:.3f}",
    "bias": "{position_bias:.3f}",
    "unparsed": "{unparsed:.1%}",
    "tokens": "{tokens_per_pair:.1f}",
    "seconds": "{seconds_per_pair:.3f}",
}
"""The columns of a table: title, and format of a judge's values."""
_COST = {
    "judge": "{title}",
    "seconds": "{seconds:.2f}",
    "rubrics: s, tokens": "{rubric[seconds]:.2f}, {rubric[tokens]:.0f}",
    "verdicts: s, tokens": "{judge[seconds]:.2f}, {judge[tokens]:.0f}",
    "tokens p50, p95": "{tokens_p50:.0f}, {tokens_p95:.0f}",
    "alone: s p50, p95": "{one_by_one[p50]:.3f}, {one_by_one[p95]:.3f}",
}
_PAPER_COLUMNS = ("the paper's judges", "seconds for 100 prompts")
_PAPER_NOTE = (
    "The paper's seconds are its own: 100 prompts of RewardBench 2 on vLLM, other hardware and other data. They show "
    "how those judges compare with each other, not with what was measured here."
)


def show(result: Result, console: Console) -> None:
    """Print the tables of judges, the notes, and the paper's figures."""
    for title, columns, rows in _tables(result):
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
        console.print()
    for note in (*result["notes"], _PAPER_NOTE):
        console.print(note)


def markdown(result: Result) -> str:
    """The same as Markdown."""
    lines: list[str] = []
    for title, columns, rows in _tables(result):
        lines += [f"## {title}", "", *markdown_table(columns, rows), ""]
    lines += [f"{note}\n" for note in (*result["notes"], _PAPER_NOTE)]
    lines += [f"Settings: {', '.join(f'{k} {v}' for k, v in result['settings'].items())}.", ""]
    lines += [f"Versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items() if v)}.", ""]
    return "\n".join(lines)


def _tables(result: Result) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of each table."""

    def cell(form: str, judge: Mapping[str, Any]) -> str:
        try:
            return form.format_map(judge)
        except TypeError:  # a part that was not measured is None
            return "–"

    def measured(title: str, forms: Mapping[str, str]) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
        rows = [tuple(cell(form, judge) for form in forms.values()) for judge in result["judges"]]
        return title, tuple(forms), rows

    s = result["settings"]
    pairs = f"{s['pairs']} pairs of {s['prompts']} prompts"
    return [
        measured(f"{s['base']}, {pairs}; tokens and seconds per pair", _QUALITY),
        measured(f"What {pairs} took, one order", _COST),
        ("For comparison, from the paper", _PAPER_COLUMNS, list(result["paper_seconds_for_100_prompts"].items())),
    ]
