"""``rubric-arm evaluate``: held-out pairs or public benchmarks; ``bench``: judges compared, the engine against TRL.

The comparison with TRL is not part of the package: it is in ``benchmarks/against_trl`` of a checkout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option
from typer.core import TyperGroup

from rubric_arm_lite import data, evaluation, models, report, reward_model
from rubric_arm_lite.cli import common
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.evaluation.metrics import evaluation_caveats
from rubric_arm_lite.recipe import load_recipe
from rubric_arm_lite.runs import atomic_write, check_target, explained_disk_errors, recipe_of, recipe_of_run


@common.with_source
def evaluate(
    source: common.ModelSource,
    pairs: Annotated[Path | None, Argument(metavar="SOURCE", help="Pairs to judge (default: those held out).")] = None,
    benchmarks: Annotated[
        str | None,
        Option(
            help="rewardbench, rewardbench2, rm-bench, judgebench, rmb, ppe-ifeval, helpsteer3, writing, or files of "
            "pairs (FILE.jsonl), separated by commas."
        ),
    ] = None,
    benchmark_dir: Annotated[
        list[str] | None, Option(metavar="NAME=PATH", help="A file or folder in place of the Hub.")
    ] = None,
    best_of: Annotated[
        Literal["strict", "round-robin"] | None,
        Option(help="RewardBench 2: strict (default; chosen beats every rejected) or round-robin."),
    ] = None,
    out: Annotated[Path | None, Option(help="Folder for benchmark results (default: RUN/benchmarks).")] = None,
    resume: common.ResumeOption = False,
    if_exists: common.ExistsOption = None,
    votes: Annotated[int, Option(min=1, help="Judgements per order (voting@k).")] = 1,
    limit: Annotated[int | None, Option(min=1, help="At most this many pairs, or items of a benchmark.")] = None,
    as_json: common.JsonOption = False,
) -> None:
    """Measure accuracy in both orders, position bias, format and more, on held-out pairs or public benchmarks."""
    if benchmarks is None:
        options = {"--benchmark-dir": benchmark_dir, "--best-of": best_of, "--out": out, "--if-exists": if_exists}
        unused = [name for name, value in {**options, "--resume": resume}.items() if value]
        if unused:
            raise ConfigError(f"{', '.join(unused)} belongs to benchmarks. Name some with --benchmarks.")
        _evaluate_pairs(source, pairs, votes, limit, as_json)
        return
    if pairs is not None:
        raise ConfigError(f"Give either --benchmarks or a file of pairs. {pairs} can be named among the benchmarks.")
    exists = common.exists_policy(resume, if_exists)
    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    paths: dict[str, str] = {}
    for option in benchmark_dir or ():
        name, _, path = option.partition("=")
        if not (name and path):
            raise ConfigError(f"--benchmark-dir {option}: write NAME=PATH, for example rewardbench=data/reward-bench.")
        if name in paths:
            raise ConfigError(f"--benchmark-dir: {name} has two paths. Give one.")
        paths[name] = path
    if not names:
        raise ConfigError("--benchmarks names none. Give one or more names, separated by commas.")
    from rubric_arm_lite.evaluation.benchmarks.load import load_benchmarks
    from rubric_arm_lite.evaluation.benchmarks.run import BENCHMARKS_FOLDER, check_folder, evaluate_benchmarks

    recipe_of(source.run)
    if out is None and not source.run.is_dir():
        raise ConfigError(f"{source.run} is a recipe, which has no folder for results. Give --out.")
    if out is None and source.swapped:
        raise ConfigError(f"The results of two runs' adapters do not belong to {source.run} alone. Give --out.")
    folder = out or source.run / BENCHMARKS_FOLDER
    loaded = load_benchmarks(names, paths, best_of or "strict", limit)
    check_folder(folder, loaded, exists)
    check_target(None, folder / "results.md", overwrite=True)
    model = source.load()  # only after all checks
    with explained_disk_errors(folder), common.err.status("benchmarks") as status:

        def progress(title: str, done: int, items: int) -> None:
            status.update(common.err.render_str(f"{title}: {done:,} of {items:,}"))

        results = evaluate_benchmarks(model, loaded, folder, votes, exists, progress)
        text = report.benchmarks_text(results)
        atomic_write(folder / "results.md", text.encode())
    written = [folder / "results.md"]
    if folder.resolve() == (source.run / BENCHMARKS_FOLDER).resolve():
        written.append(report.write_report(source.run)[0])
    common.print_result([asdict(result) for result in results], as_json, lambda: common.say(text, end=""))
    common.err.print(f"Written: {', '.join(map(str, written))}, and every judgement beside them.")


def _evaluate_pairs(
    source: common.ModelSource, file: Path | None, votes: int, limit: int | None, as_json: bool
) -> None:
    pairs = None if file is None else data.load_pairs(file)
    model = source.load()
    texts: list[str] = []
    for pair in (pairs or ())[:limit]:
        turns = [pair.prompt] if isinstance(pair.prompt, str) else [message.content for message in pair.prompt]
        texts += [*turns, pair.chosen, pair.rejected]
    common.warn_unknown_words(model, *texts)
    result, too_long = evaluation.evaluate_run(model, pairs, votes, limit)
    if too_long:
        common.warn(f"{too_long} pairs are longer than the context and were skipped.")
    unparsed_value = model.recipe.evaluation.unparsed_value
    if as_json:
        for caveat in evaluation_caveats(result.values, unparsed_value):
            common.warn(caveat)
        common.print_json({**result.values, "skipped_too_long": too_long})
    else:
        common.say(evaluation_text(result.values, unparsed_value))


# --- text -----------------------------------------------------------------------------------------------------------


def evaluation_text(values: Mapping[str, float], unparsed_value: float) -> str:
    """An evaluation for a terminal: a sentence, its caveats, and each value with its meaning."""
    shown: dict[str, str] = {}
    meanings = []
    for name, value in values.items():
        shown[name], meaning = common.explained("evaluation", name.partition("@")[0], value)  # voting@5 is voting
        meanings.append(meaning)
    if "tie_rate" in values:
        method = f"each response scored by itself; {shown['tie_rate']} ties"
    else:
        method = f"each judged in both orders; position bias {shown['position_bias']}"
    summary = (
        f"Accuracy {shown['accuracy']} (95% interval {shown['accuracy_low']} to {shown['accuracy_high']}) on "
        f"{shown['pairs']} pair{'' if values['pairs'] == 1 else 's'}, {method}."
    )
    width, right = (max(map(len, texts)) for texts in (shown, shown.values()))
    rows = [f"{name:<{width}}  {shown[name]:>{right}}  {text}" for name, text in zip(shown, meanings, strict=True)]
    return "\n\n".join([summary, *evaluation_caveats(values, unparsed_value), "\n".join(rows)])


# --- bench -----------------------------------------------------------------------------------------------------------

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
    common.from_checkout("against_trl.main", "bench").app(args=ctx.args, prog_name="rubric-arm bench")


@bench_app.command(_INFERENCE)
@common.with_source
def inference(
    server: common.ServerOptions,
    run: Annotated[Path | None, Option("--run", help="A run directory; its trained judge is measured too.")] = None,
    recipe: Annotated[
        str | None, Option(help="Without --run: whose untrained model is measured (default: testbed).")
    ] = None,
    overrides: Annotated[list[str] | None, Option("--set", help="Override its field: --set model.base=FOLDER.")] = None,
    pairs: Annotated[Path | None, Option(help="Pairs to judge, JSONL, CSV or Parquet (default: held out).")] = None,
    limit: Annotated[int, Option(min=1, help="At most this many pairs, the first ones.")] = 100,
    judge: Annotated[
        list[str] | None, Option(help="Only this judge: trained, base, direct, reasoning or votes; may be repeated.")
    ] = None,
    votes: Annotated[int, Option(min=2, help="Samples of the judge `votes`.")] = 5,
    thinking_tokens: Annotated[int, Option(min=1, help="Token limit of the judge `reasoning`.")] = 8192,
    one_by_one: Annotated[int, Option(min=0, help="Also judge this many pairs one by one, for the latency.")] = 0,
    state: Annotated[str, Option(help="Which adapters of --run: final, warm-up or latest.")] = "final",
    rubric_from: common.RubricFromOption = None,
    judge_from: common.JudgeFromOption = None,
    base_model: Annotated[str | None, Option(help="The server's name of the model without adapters.")] = None,
    output: Annotated[Path | None, Option(help="Folder for JSON and a Markdown table.")] = None,
    overwrite: common.OverwriteOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Accuracy, position bias, tokens and seconds of judges on the same pairs.

    trained: rubric and judge of --run, or the two checkpoints of --recipe released-8b. base: the same prompts, no
    adapters. direct: no rubric. reasoning: no rubric, a long chain of thought before the verdict. votes: the majority
    of several direct verdicts. The paper's seconds for other judges are printed for comparison.
    """
    if run is not None and (recipe is not None or overrides):
        raise ConfigError("--recipe and --set belong to an untrained model; a run has its own recipe. Leave --run out.")
    settings = load_recipe(recipe or "testbed", overrides or []) if run is None else recipe_of_run(run)
    connection = server.settings(state, base_model)
    if run is None and state != "final":
        raise ConfigError(f"--state {state} is for the adapters of a run. Give --run.")
    if (rubric_from or judge_from) and (run is None or connection is not None):
        raise ConfigError("--rubric-from and --judge-from take adapters in place of those of --run. Give --run alone.")
    files = {} if output is None else {suffix: output / f"bench-inference.{suffix}" for suffix in ("json", "md")}
    for file in files.values():
        check_target(pairs, file, overwrite)
    common.import_first(settings)
    from rubric_arm_lite.evaluation.efficiency import check_judges, measure

    checkpoints = settings.model.checkpoints is not None
    trained, base = run is not None or checkpoints, connection is not None or not checkpoints
    names = check_judges(judge or [], trained=trained, base=base)
    if connection is not None and base_model is None and any(name != "trained" for name in names):
        raise ConfigError("Judges without adapters use the base model. Give --base-model, or only --judge trained.")
    chosen_pairs = None if pairs is None else data.load_pairs(pairs)
    common.quiet_libraries()
    if connection is not None:
        model = reward_model.RubricRewardModel.from_server(connection, settings)
    elif run is not None:
        model = reward_model.RubricRewardModel.from_run(run, state, rubric_from=rubric_from, judge_from=judge_from)
    elif checkpoints:
        model = reward_model.RubricRewardModel.from_recipe(settings)
    else:
        model = reward_model.RubricRewardModel(models.load_model(settings.model, settings.seed), settings)
    with common.err.status("bench") as status:
        result = measure(model, chosen_pairs, names, limit, votes, thinking_tokens, one_by_one, status.update)
    texts = {"json": json.dumps(result, indent=1) + "\n", "md": markdown(result)}
    for suffix, file in files.items():
        atomic_write(file, texts[suffix].encode())
        common.err.print(str(file))
    common.print_result(result, as_json, lambda: show(result, common.out))


# --- tables ---------------------------------------------------------------------------------------------------------

Result = Mapping[str, Any]

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
        lines += [f"## {title}", "", *common.markdown_table(columns, rows), ""]
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
        measured(f"{s['base']}, {pairs}; tokens and seconds per pair", common.VALUES["bench_quality"]),
        measured(f"What {pairs} took, one order", common.VALUES["bench_cost"]),
        ("For comparison, from the paper", _PAPER_COLUMNS, list(result["paper_seconds_for_100_prompts"].items())),
    ]
