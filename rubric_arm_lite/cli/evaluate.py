"""``rubric-arm evaluate``: held-out pairs, or public benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from rubric_arm_lite import data, evaluation, report
from rubric_arm_lite.cli.common import (
    ExistsOption,
    JsonOption,
    ModelSource,
    ResumeOption,
    err,
    exists_policy,
    print_json,
    print_result,
    say,
    warn,
    warn_unknown_words,
    with_source,
)
from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.evaluation.caveats import evaluation_caveats
from rubric_arm_lite.runs import atomic_write, check_target, explained_disk_errors, recipe_of

_FORMS = {"share": ".1%", "points": ".1%", "count": ",.0f", "number": ",.1f", "margin": "+.2f"}
"""A share in percent, a difference of shares, a whole number, a mean, or a difference of scores with its sign."""

EXPLANATIONS: Mapping[str, tuple[str, str]] = {
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
    "verdicts_for_a": ("share", "verdicts for Response A; far from 50%, the judge prefers a position"),
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
"""How each value of an evaluation is printed, a key of ``_FORMS``, and what it means."""


@with_source
def evaluate(
    source: ModelSource,
    pairs: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="Pairs to evaluate on (default: those the run held out).")
    ] = None,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="rewardbench, rewardbench2, rm-bench, judgebench, rmb, ppe-ifeval, helpsteer3, writing, or files of "
            "pairs (FILE.jsonl), separated by commas."
        ),
    ] = None,
    benchmark_dir: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="A local file or folder in place of the Hub.")
    ] = None,
    best_of: Annotated[
        Literal["strict", "round-robin"] | None,
        typer.Option(help="RewardBench 2: strict (default; chosen beats every rejected) or round-robin."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for benchmark results (default: RUN/benchmarks).")] = None,
    resume: ResumeOption = False,
    if_exists: ExistsOption = None,
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
        _evaluate_pairs(source, pairs, votes, limit, as_json)
        return
    if pairs is not None:
        raise ConfigError(f"Give either --benchmarks or a file of pairs. {pairs} can be named among the benchmarks.")
    exists = exists_policy(resume, if_exists)
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
    folder = out or source.run / BENCHMARKS_FOLDER
    loaded = load_benchmarks(names, paths, best_of or "strict", limit)
    check_folder(folder, loaded, exists)
    check_target(None, folder / "results.md", overwrite=True)
    model = source.load()  # only after all checks
    with explained_disk_errors(folder), err.status("benchmarks") as status:

        def progress(title: str, done: int, items: int) -> None:
            status.update(err.render_str(f"{title}: {done:,} of {items:,}"))

        results = evaluate_benchmarks(model, loaded, folder, votes, exists, progress)
        text = report.benchmarks_text(results)
        atomic_write(folder / "results.md", text.encode())
    written = [folder / "results.md"]
    if folder.resolve() == (source.run / BENCHMARKS_FOLDER).resolve():
        written.append(report.write_report(source.run)[0])
    print_result([asdict(result) for result in results], as_json, lambda: say(text, end=""))
    err.print(f"Written: {', '.join(map(str, written))}, and every judgement beside them.")


def _evaluate_pairs(source: ModelSource, file: Path | None, votes: int, limit: int | None, as_json: bool) -> None:
    pairs = None if file is None else data.load_pairs(file)
    model = source.load()
    texts: list[str] = []
    for pair in (pairs or ())[:limit]:
        turns = [pair.prompt] if isinstance(pair.prompt, str) else [message.content for message in pair.prompt]
        texts += [*turns, pair.chosen, pair.rejected]
    warn_unknown_words(model, *texts)
    result, too_long = evaluation.evaluate_run(model, pairs, votes, limit)
    if too_long:
        warn(f"{too_long} pairs are longer than the context and were skipped.")
    unparsed_value = model.recipe.evaluation.unparsed_value
    if as_json:
        for caveat in evaluation_caveats(result.values, unparsed_value):
            warn(caveat)
        print_json({**result.values, "skipped_too_long": too_long})
    else:
        say(evaluation_text(result.values, unparsed_value))


# --- text -----------------------------------------------------------------------------------------------------------


def evaluation_text(values: Mapping[str, float], unparsed_value: float) -> str:
    """An evaluation for a terminal: a sentence, its caveats, and each value with its meaning."""
    shown: dict[str, str] = {}
    meanings = []
    for name, value in values.items():
        kind, meaning = EXPLANATIONS[name.partition("@")[0]]  # voting@5 is voting
        shown[name] = f"{value:{_FORMS[kind]}}".replace("%", " points" if kind == "points" else "%")
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
