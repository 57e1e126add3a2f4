"""``rubric-arm data``: what a source of rows holds, the same rows in our own form, and warm-up data made from pairs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rubric_arm_lite.cli_common import check_target, err, print_json
from rubric_arm_lite.cli_options import JsonOption, OverwriteOption
from rubric_arm_lite.cli_survey import pair_text, print_survey, reader_of, trajectory_text
from rubric_arm_lite.cli_synthesize import synthesize

if TYPE_CHECKING:
    from rubric_arm_lite.data import WarmupRow
    from rubric_arm_lite.sources.bad_rows import BadRows
    from rubric_arm_lite.sources.counts import Counts
    from rubric_arm_lite.sources.survey import Survey
    from rubric_arm_lite.types import PreferencePair

data_app = typer.Typer(help="Look at data, bring it into our form, make warm-up data.", no_args_is_help=True)
data_app.command("synthesize")(synthesize)

SourceArgument = Annotated[
    str, typer.Argument(help="A JSONL, CSV or Parquet file, a folder, or a Hub id (owner/name).")
]
WarmupOption = Annotated[bool, typer.Option("--warmup", help="Trajectories (rubric and judgement) in place of pairs.")]
FormOption = Annotated[str, typer.Option(help="What the columns mean: auto, pairs (our own) or a known form's name.")]
ConfigOption = Annotated[str | None, typer.Option(help="The data set's configuration, or a folder in it.")]
SplitOption = Annotated[str | None, typer.Option(help="Split to read.")]
RevisionOption = Annotated[str | None, typer.Option(help="Commit or tag on the Hub.")]
StreamOption = Annotated[bool, typer.Option("--stream", help="Read while downloading; keep nothing in the cache.")]
RowsOption = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")]
SubsetOption = Annotated[list[str] | None, typer.Option(help="Only rows of this subset; may be given again.")]
SampleOption = Annotated[int | None, typer.Option(min=1, help="At most so many prompts, drawn by --seed.")]
DecontaminateOption = Annotated[
    list[str] | None, typer.Option(help="Leave out overlap with this benchmark (name, file, folder, Hub id); again.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of the sample.")]


@data_app.command()
def check(
    source: SourceArgument,
    warmup: WarmupOption = False,
    form: FormOption = "auto",
    config: ConfigOption = None,
    split: SplitOption = None,
    revision: RevisionOption = None,
    stream: StreamOption = False,
    rows: RowsOption = None,
    subset: SubsetOption = None,
    sample: SampleOption = None,
    decontaminate: DecontaminateOption = None,
    seed: SeedOption = 0,
    model: Annotated[
        str | None, typer.Option(help="Lengths in tokens of this model (folder, Hub id, testbed).")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Lengths and prompts as with this recipe's model.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Print the prompts of the first so many.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """What a source holds: rows left out and why, lengths, balance, duplicates, subsets, and the first prompts.

    Rows that cannot be used are named, the first ten one by one, and the exit code is 2. Duplicates are counted here
    and left in; `data convert` and a recipe leave them out.
    """
    from rubric_arm_lite.report_data import safe_text
    from rubric_arm_lite.sources.bad_rows import BadRows
    from rubric_arm_lite.sources.survey import survey_pairs, survey_trajectories

    builder, unit, measure = reader_of(model, recipe)
    choices = _choices(source, form, config, split, revision, stream, rows, subset, sample)
    bad = BadRows()
    survey: Survey | None = None
    shown: list[str] = []
    with _gathered(bad):
        if warmup:
            found, counts = _trajectories(choices, decontaminate, seed, bad)
            survey = survey_trajectories(found, counts, unit, measure)
            shown = [trajectory_text(row, builder) for row in found[:show]]
        else:
            pairs, counts = _pairs({**choices, "deduplicate": "none"}, decontaminate, seed, bad)
            survey = survey_pairs(pairs, counts, unit, measure)
            shown = [pair_text(pair, builder) for pair in pairs[:show]]
    if as_json:
        told = {"source": source} if survey is None else survey.as_json()
        print_json({**told, "shown": shown, **({"bad_rows": bad.as_json()} if bad.total else {})})
    else:
        if survey is not None:
            print_survey(survey, "trajectories" if warmup else "pairs")
        # Prompts below a list of bad rows would only push it out of sight.
        for text in [f"\n{text}" for text in shown] if not bad.total else bad.lines(source):
            print(safe_text(text))
    if bad.total:
        raise typer.Exit(2)


@data_app.command()
def convert(
    source: SourceArgument,
    target: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="JSONL to write, in our own form.")],
    warmup: WarmupOption = False,
    form: FormOption = "auto",
    config: ConfigOption = None,
    split: SplitOption = None,
    revision: RevisionOption = None,
    stream: StreamOption = False,
    rows: RowsOption = None,
    subset: SubsetOption = None,
    sample: SampleOption = None,
    decontaminate: DecontaminateOption = None,
    deduplicate: Annotated[str, typer.Option(help="none, pairs, or prompts (one pair for each).")] = "pairs",
    overwrite: OverwriteOption = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out and count rows that cannot be used.")] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Write a source as JSONL of pairs (data.source), or of trajectories (warmup.source) with --warmup."""
    from rubric_arm_lite.data import pair_as_row, trajectory_as_row
    from rubric_arm_lite.errors import DataError
    from rubric_arm_lite.row_files import JSON_SUFFIXES
    from rubric_arm_lite.run_dir import atomic_write
    from rubric_arm_lite.sources.bad_rows import BadRows

    if not target.is_dir() and target.suffix.lower() not in JSON_SUFFIXES:
        raise DataError(f"{target}: JSON Lines are written. Give a name that ends in .jsonl.")
    check_target(Path(source), target, overwrite)
    bad = BadRows() if skip_bad else None
    choices = _choices(source, form, config, split, revision, stream, rows, subset, sample)
    with _told(bad, source):
        if warmup:
            found, counts = _trajectories(choices, decontaminate, seed, bad)
            written = list(map(trajectory_as_row, found))
        else:
            pairs, counts = _pairs({**choices, "deduplicate": deduplicate}, decontaminate, seed, bad)
            written = list(map(pair_as_row, pairs))
    atomic_write(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written).encode())
    if as_json:
        print_json({"target": str(target), **counts.as_json()})
    else:
        what = "trajectories" if warmup else "pairs"
        print(f"{counts.line(what)}\n{len(written):,} {what} written to {target}")


@contextlib.contextmanager
def _gathered(bad: BadRows) -> Iterator[None]:
    """Once bad rows were met, an error only ends the reading: it is told beside them."""
    from rubric_arm_lite.errors import DataError
    from rubric_arm_lite.rows import RowError

    try:
        yield
    except DataError as error:
        if not bad.total:
            raise
        if isinstance(error, RowError):
            bad.stop(error)
        else:
            bad.outcome = str(error)


@contextlib.contextmanager
def _told(bad: BadRows | None, source: str) -> Iterator[None]:
    """Say on stderr which rows were bad, also if nothing is left without them."""
    from rubric_arm_lite.report_data import safe_text

    try:
        yield
    finally:
        for line in bad.lines(source) if bad is not None and bad.total else ():
            err.print(safe_text(line), markup=False, highlight=False)


# --- reading --------------------------------------------------------------------------------------------------------


def _choices(
    source: str,
    form: str,
    config: str | None,
    split: str | None,
    revision: str | None,
    stream: bool,
    rows: int | None,
    subset: list[str] | None,
    sample: int | None,
) -> dict[str, Any]:
    """The fields of `config.SourceSettings` that the options give."""
    from rubric_arm_lite.errors import DataError

    if source == "testbed":
        raise DataError("The testbed makes its rows as it goes. Write some with rubric-arm testbed pairs OUT.jsonl.")
    given = {"source": source, "form": form, "config": config, "split": split, "revision": revision}
    return {**given, "streaming": stream, "rows": rows, "subset": tuple(subset or ()), "sample": sample}


def _pairs(
    choices: dict[str, Any], benchmarks: list[str] | None, seed: int, bad: BadRows | None
) -> tuple[list[PreferencePair], Counts]:
    from rubric_arm_lite.config import DataSettings
    from rubric_arm_lite.sources.overlap import overlap_with
    from rubric_arm_lite.sources.reading import read_pairs

    settings = _checked(DataSettings, {**choices, "decontaminate": tuple(benchmarks or ())})
    return read_pairs(settings, seed, overlap_with(settings.decontaminate, settings.overlap_words), bad=bad)


def _trajectories(
    choices: dict[str, Any], benchmarks: list[str] | None, seed: int, bad: BadRows | None
) -> tuple[list[WarmupRow], Counts]:
    from rubric_arm_lite.config import DataSettings, WarmupSettings
    from rubric_arm_lite.sources.overlap import overlap_with
    from rubric_arm_lite.sources.trajectories import read_trajectories

    settings = _checked(WarmupSettings, choices)
    return read_trajectories(settings, seed, overlap_with(benchmarks or (), DataSettings().overlap_words), bad=bad)


def _checked(kind: Any, choices: dict[str, Any]) -> Any:
    """The settings, or the first thing that is wrong with an option."""
    from pydantic import ValidationError

    from rubric_arm_lite.errors import ConfigError

    try:
        return kind.model_validate(choices)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{'.'.join(map(str, first['loc']))} {first['input']!r}: {first['msg']}.") from None
