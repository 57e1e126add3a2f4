"""``rubric-arm evaluate``: held-out pairs, or public benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from rubric_arm_lite.cli.common import (
    ConcurrencyOption,
    JsonOption,
    JudgeModelOption,
    KeyEnvOption,
    ModelArgument,
    RubricModelOption,
    ServerOption,
    StateOption,
    err,
    load_run,
    markdown_table,
    print_json,
    server_of,
    warn_unknown_words,
)
from rubric_arm_lite.evaluation.caveats import evaluation_caveats
from rubric_arm_lite.runs import atomic_write

Kind = Literal["share", "points", "count", "number", "margin"]
"""A share of all in percent; a difference of shares; a whole number; a mean; a difference of scores with its sign."""

GLOSSES: Mapping[str, tuple[Kind, str]] = {
    "accuracy": ("share", "verdicts for the preferred response"),
    "accuracy_low": ("share", "lower end of its 95% interval, pairs resampled"),
    "accuracy_high": ("share", "upper end of its 95% interval"),
    "accuracy_original": ("share", "with the preferred response first"),
    "accuracy_flipped": ("share", "with the preferred response second"),
    "accuracy_mixed": ("share", "with one of the two orders drawn for each pair"),
    "position_bias": ("points", "largest minus smallest of these three accuracies"),
    "consistency": ("share", "pairs of which both orders name the same response"),
    "tie_rate": ("share", "pairs with equal scores, which count half"),
    "margin": ("margin", "mean of the preferred response's score minus the other's, from -2 to 2"),
    "accuracy_words": ("share", "accuracy by the words true and false alone, without their probabilities"),
    "tie_rate_words": ("share", "pairs with equal scores by the words alone"),
    "unparsed": ("share", "judgements without a verdict that can be read"),
    "says_a": ("share", "verdicts for Response A; far from 50% the judge prefers a place"),
    "format": ("share", "judgements in the form that was asked for"),
    "format_sampled": ("share", "the same among judgements sampled at evaluation.vote_temperature"),
    "rubric_usable": ("share", "rubrics that can be read"),
    "rubric_criteria": ("number", "criteria of a rubric"),
    "rubric_duplicates": ("share", "criteria that repeat an earlier one of their rubric"),
    "rubric_hard_rules": ("share", "criteria that are hard rules"),
    "rubric_words": ("number", "words of a rubric"),
    "principle_recall": ("share", "true principles that the rubric names (testbed only)"),
    "tokens_per_pair": ("number", "tokens written for a pair: rubric and judgements"),
    "pairs": ("count", "held-out pairs"),
}
"""What each value of an evaluation means, and how it is written."""
_VOTING: tuple[Kind, str] = ("share", "accuracy of the majority of so many sampled judgements, or of their mean scores")


def evaluation_text(values: Mapping[str, float], unparsed_value: float) -> str:
    """The whole text."""
    parts = [_sentence(values), *evaluation_caveats(values, unparsed_value)]
    return "\n\n".join([*parts, "\n".join(_rows(values))])


def _sentence(values: Mapping[str, float]) -> str:
    """The result in words."""
    pairs = f"{values['pairs']:,.0f} pair{'' if values['pairs'] == 1 else 's'}"
    if "tie_rate" in values:
        how = f"each response scored by itself; {values['tie_rate']:.1%} ties"
    else:
        how = f"each judged in both orders; position bias {_shown('position_bias', values)}"
    return (
        f"Accuracy {_shown('accuracy', values)} (95% interval {_shown('accuracy_low', values)} to "
        f"{_shown('accuracy_high', values)}) on {pairs}, {how}."
    )


def _rows(values: Mapping[str, float]) -> Iterator[str]:
    """Name, value and meaning in columns."""
    width = max(map(len, values))
    shown = {name: _shown(name, values) for name in values}
    most = max(map(len, shown.values()))
    for name, text in shown.items():
        yield f"{name:<{width}}  {text:>{most}}  {_gloss(name)[1]}"


def _gloss(name: str) -> tuple[Kind, str]:
    return _VOTING if name.startswith("voting@") else GLOSSES[name]


def _shown(name: str, values: Mapping[str, float]) -> str:
    value = values[name]
    match _gloss(name)[0]:
        case "share":
            return f"{value:.1%}"
        case "points":
            return f"{100 * value:.1f} points"
        case "count":
            return f"{value:,.0f}"
        case "number":
            return f"{value:,.1f}"
        case "margin":
            return f"{value:+.2f}"


if TYPE_CHECKING:
    from rubric_arm_lite.evaluation.benchmarks.catalogue import BestOf
    from rubric_arm_lite.models import ServerSettings
    from rubric_arm_lite.runs import IfExists
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

    # DROPPED
    from rubric_arm_lite.evaluation import evaluate_run
    from rubric_arm_lite.evaluation.caveats import evaluation_caveats

    pairs = None if source is None else load_pairs(source)
    model = load_run(run, state, server)
    if pairs is not None:
        warn_unknown_words(model, *(text for pair in pairs[:limit] for text in _texts(pair)))
    evaluation, left_out = evaluate_run(model, pairs, votes, limit)
    if left_out:
        err.print(f"[yellow]{left_out} pairs are longer than the context and were left out.[/yellow]")
    unparsed_value = model.recipe.evaluation.unparsed_value
    if as_json:
        for caveat in evaluation_caveats(evaluation.values, unparsed_value):
            err.print(caveat, style="yellow", markup=False, highlight=False)
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
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.evaluation.benchmarks.run import BENCHMARKS_FOLDER, check_folder, choose, evaluate_benchmarks
    from rubric_arm_lite.report import benchmarks_text, write_report
    from rubric_arm_lite.runs import atomic_write, explained_disk_errors, recipe_of_run

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


Result = Mapping[str, Any]

_WORTH = ("judge", "accuracy", "95 %", "bias", "unparsed", "tokens", "seconds")
_COST = ("judge", "seconds", "rubrics: s, tokens", "verdicts: s, tokens", "tokens p50, p95", "alone: s p50, p95")
_PAPER_COLUMNS = ("the paper's judges", "seconds for 100 prompts")
_PAPER_NOTE = (
    "The paper's seconds are its own: 100 prompts of RewardBench 2 on vLLM, other hardware and other data. They show "
    "how those judges compare with each other, not with what was measured here."
)


def show(result: Result, console: Console) -> None:
    """Print the table of judges, its notes, and the paper's figures."""
    for title, columns, rows in _tables(result):
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
        for cells in rows:
            table.add_row(*cells)
        console.print(table)
        console.print()
    for note in (*result["notes"], _PAPER_NOTE):
        console.print(note, markup=False, highlight=False)


def markdown(result: Result) -> str:
    """The same as Markdown."""
    lines: list[str] = []
    for title, columns, rows in _tables(result):
        lines += [f"## {title}", "", *markdown_table(columns, rows), ""]
    lines += [f"{note}\n" for note in (*result["notes"], _PAPER_NOTE)]
    lines += [f"Settings: {', '.join(f'{k} {v}' for k, v in result['settings'].items())}.", ""]
    lines += [f"Versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items() if v)}.", ""]
    return "\n".join(lines)


def write(result: Result, folder: Path) -> list[Path]:
    """Write ``bench-inference.json`` and ``.md``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"json": json.dumps(result, indent=1).encode() + b"\n", "md": markdown(result).encode()}
    paths = []
    for suffix, content in files.items():
        paths.append(folder / f"bench-inference.{suffix}")
        atomic_write(paths[-1], content)
    return paths


def _tables(result: Result) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns and rows of each table."""
    s = result["settings"]
    pairs = f"{s['pairs']} pairs of {s['prompts']} prompts"
    return [
        (f"{s['base']}, {pairs}; tokens and seconds per pair", _WORTH, [_worth(j) for j in result["judges"]]),
        (f"What {pairs} took, one order", _COST, [_cost(j) for j in result["judges"]]),
        ("For comparison, from the paper", _PAPER_COLUMNS, list(result["paper_seconds_for_100_prompts"].items())),
    ]


def _worth(judge: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        judge["title"],
        f"{judge['accuracy']:.3f}",
        f"{judge['accuracy_low']:.3f} to {judge['accuracy_high']:.3f}",
        f"{judge['position_bias']:.3f}",
        f"{judge['unparsed']:.1%}",
        f"{judge['tokens_per_pair']:.1f}",
        f"{judge['seconds_per_pair']:.3f}",
    )


def _cost(judge: Mapping[str, Any]) -> tuple[str, ...]:
    alone = judge["one_by_one"]
    return (
        judge["title"],
        f"{judge['seconds']:.2f}",
        _stage(judge["rubric"]),
        _stage(judge["judge"]),
        f"{judge['tokens_p50']:.0f}, {judge['tokens_p95']:.0f}",
        f"{alone['p50']:.3f}, {alone['p95']:.3f}" if alone else "–",
    )


def _stage(stage: Mapping[str, float] | None) -> str:
    return f"{stage['seconds']:.2f}, {stage['tokens']:.0f}" if stage else "–"
