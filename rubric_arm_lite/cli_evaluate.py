"""``rubric-arm evaluate``: held-out pairs, or public benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubric_arm_lite.cli_common import err, load_run, print_json, server_of, warn_unknown_words
from rubric_arm_lite.cli_options import (
    ConcurrencyOption,
    JsonOption,
    JudgeModelOption,
    KeyEnvOption,
    ModelArgument,
    RubricModelOption,
    ServerOption,
    StateOption,
)

if TYPE_CHECKING:
    from rubric_arm_lite.backends.server_settings import ServerSettings
    from rubric_arm_lite.benchmarks.catalogue import BestOf
    from rubric_arm_lite.run_dir import IfExists
    from rubric_arm_lite.types import PreferencePair

_BENCHMARKS_HELP = (
    "rewardbench, rewardbench2, rm-bench, judgebench, rmb, ppe-ifeval, helpsteer3, writing, or files of pairs "
    "(FILE.jsonl), separated by commas."
)
BenchmarksOption = Annotated[str | None, typer.Option(help=_BENCHMARKS_HELP)]
PlacesOption = Annotated[
    list[str] | None,
    typer.Option("--benchmark-dir", metavar="NAME=PATH", help="A local file or folder in place of the Hub."),
]
BestOfOption = Annotated[
    str | None, typer.Option(help="RewardBench 2: strict (default; chosen beats every rejected) or round-robin.")
]
OutOption = Annotated[Path | None, typer.Option(help="Folder for benchmark results (default: RUN/benchmarks).")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Same as --if-exists resume.")]
ExistsOption = Annotated[
    str | None, typer.Option(help="raise (default), resume or overwrite benchmarks that were begun.")
]


def evaluate(
    run: ModelArgument,
    source: Annotated[
        Path | None, typer.Argument(help="Pairs to evaluate on (default: those the run held out).")
    ] = None,
    benchmarks: BenchmarksOption = None,
    benchmark_dir: PlacesOption = None,
    best_of: BestOfOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    if_exists: ExistsOption = None,
    state: StateOption = "final",
    votes: Annotated[int, typer.Option(min=1, help="voting@k.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many pairs, or items of a benchmark.")] = None,
    server: ServerOption = None,
    rubric_model: RubricModelOption = None,
    judge_model: JudgeModelOption = None,
    server_key_env: KeyEnvOption = None,
    concurrency: ConcurrencyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy in both orders, position bias, format and more, on held-out pairs or public benchmarks."""
    from rubric_arm_lite.errors import ConfigError

    asked = server_of(server, state, rubric_model, judge_model, server_key_env, concurrency)
    if benchmarks is None:
        given = {"--benchmark-dir": benchmark_dir, "--best-of": best_of, "--out": out, "--if-exists": if_exists}
        wrong = [name for name, value in {**given, "--resume": resume}.items() if value]
        if wrong:
            raise ConfigError(f"{', '.join(wrong)} belongs to benchmarks. Name some with --benchmarks.")
        _held_out(run, source, state, votes, limit, asked, as_json)
        return
    if source is not None:
        raise ConfigError(f"Give either --benchmarks or a file of pairs. {source} can be named among the benchmarks.")
    if resume and if_exists not in (None, "resume"):
        raise ConfigError(f"--resume and --if-exists {if_exists} differ. Give one of them.")
    _benchmarks(
        run,
        [name.strip() for name in benchmarks.split(",") if name.strip()],
        _places(benchmark_dir or []),
        _best_of(best_of or "strict"),
        out,
        _if_exists("resume" if resume else if_exists or "raise"),
        (state, votes, limit, asked),
        as_json,
    )


def _held_out(
    run: Path,
    source: Path | None,
    state: str,
    votes: int,
    limit: int | None,
    server: ServerSettings | None,
    as_json: bool,
) -> None:
    from rubric_arm_lite.data import load_pairs
    from rubric_arm_lite.doubts import evaluation_doubts
    from rubric_arm_lite.evaluation_text import evaluation_text
    from rubric_arm_lite.run_evaluation import evaluate_run

    pairs = None if source is None else load_pairs(source)
    model = load_run(run, state, server)
    if pairs is not None:
        warn_unknown_words(model, *(text for pair in pairs[:limit] for text in _texts(pair)))
    evaluation, left_out = evaluate_run(model, pairs, votes, limit)
    if left_out:
        err.print(f"[yellow]{left_out} pairs are longer than the context and were left out.[/yellow]")
    unparsed_value = model.recipe.evaluation.unparsed_value
    if as_json:
        for doubt in evaluation_doubts(evaluation.values, unparsed_value):
            err.print(doubt, style="yellow", markup=False, highlight=False)
        print_json({**evaluation.values, "left_out_too_long": left_out})
    else:
        print(evaluation_text(evaluation.values, unparsed_value))


def _texts(pair: PreferencePair) -> list[str]:
    """Everything in a pair that a model reads."""
    asked = [pair.prompt] if isinstance(pair.prompt, str) else [message.content for message in pair.prompt]
    return [*asked, pair.chosen, pair.rejected]


def _benchmarks(
    run: Path,
    names: Sequence[str],
    places: dict[str, str],
    best_of: BestOf,
    out: Path | None,
    if_exists: IfExists,
    asking: tuple[str, int, int | None, ServerSettings | None],
    as_json: bool,
) -> None:
    """Everything that can be refused is refused before a model is loaded."""
    from rubric_arm_lite.benchmarks.suite import BENCHMARKS_FOLDER, check_folder, choose, evaluate_benchmarks
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.report import write_report
    from rubric_arm_lite.report_text import benchmarks_text
    from rubric_arm_lite.run_dir import atomic_write, explained_disk_errors
    from rubric_arm_lite.run_states import recipe_of_run

    if not names:
        raise ConfigError("--benchmarks names none. Give one or more names, separated by commas.")
    recipe_of_run(run)
    own = run / BENCHMARKS_FOLDER
    out = out or own
    state, votes, limit, server = asking
    chosen = choose(names, places, best_of, limit)
    check_folder(out, chosen, if_exists)
    model = load_run(run, state, server)
    with explained_disk_errors(out), err.status("benchmarks") as status:

        def watch(title: str, done: int, items: int) -> None:
            status.update(f"{title}: {done:,} of {items:,}")

        results = evaluate_benchmarks(model, chosen, out, votes, if_exists, watch)
        text = benchmarks_text(results)
        atomic_write(out / "results.md", text.encode())
    written = [out / "results.md"]
    if out.resolve() == own.resolve():
        written.append(write_report(run)[0])
    if as_json:
        print_json([result.as_json() for result in results])
    else:
        print(text, end="")
    err.print(f"Written: {', '.join(map(str, written))}, and every judgement beside them.", markup=False)


def _places(given: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` options as a mapping."""
    from rubric_arm_lite.errors import ConfigError

    places: dict[str, str] = {}
    for option in given:
        name, equals, path = option.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--benchmark-dir {option}: write NAME=PATH, for example rewardbench=data/reward-bench.")
        if name in places:
            raise ConfigError(f"--benchmark-dir: {name} has two paths. Give one.")
        places[name] = path
    return places


def _best_of(value: str) -> BestOf:
    match value:
        case "strict" | "round-robin":
            return value
        case _:
            raise _unknown("--best-of", value, "strict or round-robin")


def _if_exists(value: str) -> IfExists:
    match value:
        case "raise" | "resume" | "overwrite":
            return value
        case _:
            raise _unknown("--if-exists", value, "raise, resume or overwrite")


def _unknown(option: str, value: str, allowed: str) -> Exception:
    from rubric_arm_lite.errors import ConfigError

    return ConfigError(f"{option} {value}: use {allowed}.")
