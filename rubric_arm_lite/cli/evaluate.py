"""``rubric-arm evaluate``: held-out pairs, or public benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from rubric_arm_lite.cli.common import (
    JsonOption,
    ModelSource,
    err,
    print_json,
    warn_unknown_words,
    with_source,
)
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.evaluation.caveats import evaluation_caveats
from rubric_arm_lite.runs import IfExists, atomic_write, explained_disk_errors, recipe_of

if TYPE_CHECKING:
    from rubric_arm_lite.evaluation.benchmarks.catalogue import BestOf
    from rubric_arm_lite.evaluation.benchmarks.load import LoadedBenchmark
    from rubric_arm_lite.reward_model import RubricRewardModel
    from rubric_arm_lite.types import PreferencePair

Choice = TypeVar("Choice", bound=str)
BEST_OF: tuple[BestOf, ...] = ("strict", "round-robin")
IF_EXISTS: tuple[IfExists, ...] = ("raise", "resume", "overwrite")

Kind = Literal["share", "points", "count", "number", "margin"]
"""A share in percent, a difference of shares, a whole number, a mean, or a difference of scores with its sign."""

EXPLANATIONS: Mapping[str, tuple[Kind, str]] = {
    "accuracy": ("share", "verdicts for the preferred response"),
    "accuracy_low": ("share", "lower end of its 95% interval, pairs resampled"),
    "accuracy_high": ("share", "upper end of its 95% interval"),
    "accuracy_original": ("share", "with the preferred response first"),
    "accuracy_swapped": ("share", "with the preferred response second"),
    "accuracy_mixed": ("share", "with one of the two orders drawn for each pair"),
    "position_bias": ("points", "largest minus smallest of these three accuracies"),
    "consistency": ("share", "pairs of which both orders name the same response"),
    "tie_rate": ("share", "pairs with equal scores, which count half"),
    "margin": ("margin", "mean of the preferred response's score minus the other's, from -2 to 2"),
    "accuracy_words": ("share", "accuracy by the words true and false alone, without their probabilities"),
    "tie_rate_words": ("share", "pairs with equal scores by the words alone"),
    "unparsed": ("share", "judgements whose verdict cannot be read"),
    "says_a": ("share", "verdicts for Response A; far from 50%, the judge prefers a position"),
    "format": ("share", "judgements in the required form"),
    "format_sampled": ("share", "the same among judgements sampled at evaluation.vote_temperature"),
    "rubric_usable": ("share", "rubrics that can be read"),
    "rubric_criteria": ("number", "criteria of a rubric"),
    "rubric_duplicates": ("share", "criteria that repeat an earlier one of their rubric"),
    "rubric_hard_rules": ("share", "criteria that are hard rules"),
    "rubric_words": ("number", "words of a rubric"),
    "principle_recall": ("share", "true principles that the rubric names (testbed only)"),
    "tokens_per_pair": ("number", "tokens written for a pair: rubric and judgements"),
    "pairs": ("count", "held-out pairs"),
    "voting": ("share", "accuracy of the majority of so many sampled judgements, or of their mean scores"),
}
"""How each value of an evaluation is printed, and what it means."""

BenchmarksOption = Annotated[
    str | None,
    typer.Option(
        help="rewardbench, rewardbench2, rm-bench, judgebench, rmb, ppe-ifeval, helpsteer3, writing, or files of pairs "
        "(FILE.jsonl), separated by commas."
    ),
]
PathsOption = Annotated[
    list[str] | None,
    typer.Option("--benchmark-dir", metavar="NAME=PATH", help="A local file or folder in place of the Hub."),
]
BestOfOption = Annotated[
    str | None, typer.Option(help="RewardBench 2: strict (default; chosen beats every rejected) or round-robin.")
]
OutOption = Annotated[Path | None, typer.Option(help="Folder for benchmark results (default: RUN/benchmarks).")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Same as --if-exists resume.")]
IfExistsOption = Annotated[
    str | None, typer.Option(help="raise (default), resume or overwrite benchmarks that were begun.")
]


@with_source
def evaluate(
    source: ModelSource,
    pairs: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="Pairs to evaluate on (default: those the run held out).")
    ] = None,
    benchmarks: BenchmarksOption = None,
    benchmark_dir: PathsOption = None,
    best_of: BestOfOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    if_exists: IfExistsOption = None,
    votes: Annotated[int, typer.Option(min=1, help="Judgements per order (voting@k).")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many pairs, or items of a benchmark.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy in both orders, position bias, format and more, on held-out pairs or public benchmarks."""
    if benchmarks is None:
        options = {"--benchmark-dir": benchmark_dir, "--best-of": best_of, "--out": out, "--if-exists": if_exists}
        unused = [name for name, value in {**options, "--resume": resume}.items() if value]
        if unused:
            raise ConfigError(f"{', '.join(unused)} belongs to benchmarks. Name some with --benchmarks.")
        _evaluate_pairs(source.load, pairs, votes, limit, as_json)
        return
    if pairs is not None:
        raise ConfigError(f"Give either --benchmarks or a file of pairs. {pairs} can be named among the benchmarks.")
    if resume and if_exists not in (None, "resume"):
        raise ConfigError(f"--resume and --if-exists {if_exists} differ. Give one of them.")
    names = [name.strip() for name in benchmarks.split(",") if name.strip()]
    paths = _paths(benchmark_dir or [])
    rule = _choice("--best-of", best_of or "strict", BEST_OF)
    policy = _choice("--if-exists", "resume" if resume else if_exists or "raise", IF_EXISTS)
    if not names:
        raise ConfigError("--benchmarks names none. Give one or more names, separated by commas.")
    from rubric_arm_lite.evaluation.benchmarks.load import load_benchmarks
    from rubric_arm_lite.evaluation.benchmarks.run import BENCHMARKS_FOLDER, check_folder

    recipe_of(source.run)
    if out is None and not source.run.is_dir():
        raise ConfigError(f"{source.run} is a recipe, which has no folder for results. Give --out.")
    folder = out or source.run / BENCHMARKS_FOLDER
    loaded = load_benchmarks(names, paths, rule, limit)
    check_folder(folder, loaded, policy)
    # The model is loaded only after all checks.
    _evaluate_benchmarks(source.load(), loaded, folder, votes, policy, source.run, as_json)


def _evaluate_pairs(
    load: Callable[[], RubricRewardModel], source: Path | None, votes: int, limit: int | None, as_json: bool
) -> None:
    from rubric_arm_lite.data import load_pairs
    from rubric_arm_lite.evaluation import evaluate_run

    pairs = None if source is None else load_pairs(source)
    model = load()
    if pairs is not None:
        warn_unknown_words(model, *(text for pair in pairs[:limit] for text in _texts(pair)))
    evaluation, too_long = evaluate_run(model, pairs, votes, limit)
    if too_long:
        err.print(f"[yellow]{too_long} pairs are longer than the context and were skipped.[/yellow]")
    unparsed_value = model.recipe.evaluation.unparsed_value
    if as_json:
        for caveat in evaluation_caveats(evaluation.values, unparsed_value):
            err.print(caveat, style="yellow", markup=False, highlight=False)
        print_json({**evaluation.values, "left_out_too_long": too_long})
    else:
        print(evaluation_text(evaluation.values, unparsed_value))


def _texts(pair: PreferencePair) -> list[str]:
    """Everything in a pair that a model reads."""
    prompt = [pair.prompt] if isinstance(pair.prompt, str) else [message.content for message in pair.prompt]
    return [*prompt, pair.chosen, pair.rejected]


def _evaluate_benchmarks(
    model: RubricRewardModel,
    benchmarks: Sequence[LoadedBenchmark],
    folder: Path,
    votes: int,
    if_exists: IfExists,
    run: Path,
    as_json: bool,
) -> None:
    """Evaluate benchmarks and write their results, and the run's report if they are in its own folder."""
    from rubric_arm_lite.evaluation.benchmarks.run import BENCHMARKS_FOLDER, evaluate_benchmarks
    from rubric_arm_lite.report import benchmarks_text, write_report

    with explained_disk_errors(folder), err.status("benchmarks") as status:

        def progress(title: str, done: int, items: int) -> None:
            status.update(f"{title}: {done:,} of {items:,}")

        results = evaluate_benchmarks(model, benchmarks, folder, votes, if_exists, progress)
        text = benchmarks_text(results)
        atomic_write(folder / "results.md", text.encode())
    written = [folder / "results.md"]
    if folder.resolve() == (run / BENCHMARKS_FOLDER).resolve():
        written.append(write_report(run)[0])
    if as_json:
        print_json([result.as_json() for result in results])
    else:
        print(text, end="")
    err.print(f"Written: {', '.join(map(str, written))}, and every judgement beside them.", markup=False)


def _paths(options: Sequence[str]) -> dict[str, str]:
    """``NAME=PATH`` options as a mapping."""
    paths: dict[str, str] = {}
    for option in options:
        name, _, path = option.partition("=")
        if not (name and path):
            raise ConfigError(f"--benchmark-dir {option}: write NAME=PATH, for example rewardbench=data/reward-bench.")
        if name in paths:
            raise ConfigError(f"--benchmark-dir: {name} has two paths. Give one.")
        paths[name] = path
    return paths


def _choice(option: str, value: str, allowed: Sequence[Choice]) -> Choice:
    """The option's value, if it is one of those allowed."""
    for choice in allowed:
        if value == choice:
            return choice
    raise ConfigError(f"{option} {value}: use {', '.join(allowed[:-1])} or {allowed[-1]}.")


# --- text -----------------------------------------------------------------------------------------------------------


def evaluation_text(values: Mapping[str, float], unparsed_value: float) -> str:
    """An evaluation for a terminal: a sentence, its caveats, and each value with its meaning."""
    width, shown = max(map(len, values)), {name: _shown(name, values) for name in values}
    right = max(map(len, shown.values()))
    rows = [f"{name:<{width}}  {text:>{right}}  {_explanation(name)[1]}" for name, text in shown.items()]
    return "\n\n".join([_summary(values), *evaluation_caveats(values, unparsed_value), "\n".join(rows)])


def _summary(values: Mapping[str, float]) -> str:
    """The result in one sentence."""
    pairs = f"{values['pairs']:,.0f} pair{'' if values['pairs'] == 1 else 's'}"
    if "tie_rate" in values:
        method = f"each response scored by itself; {values['tie_rate']:.1%} ties"
    else:
        method = f"each judged in both orders; position bias {_shown('position_bias', values)}"
    return (
        f"Accuracy {_shown('accuracy', values)} (95% interval {_shown('accuracy_low', values)} to "
        f"{_shown('accuracy_high', values)}) on {pairs}, {method}."
    )


def _explanation(name: str) -> tuple[Kind, str]:
    return EXPLANATIONS[name.partition("@")[0]]  # voting@5 is voting


def _shown(name: str, values: Mapping[str, float]) -> str:
    value = values[name]
    match _explanation(name)[0]:
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
