"""``rubric-arm data``: what a source of rows holds, the same rows in our own form, and warm-up data made from pairs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rubric_arm_lite.cli.common import JsonOption, OverwriteOption, check_target, err, out, print_json, quiet_libraries

if TYPE_CHECKING:
    from rubric_arm_lite.data import WarmupRow
    from rubric_arm_lite.data.check import Measure, Survey
    from rubric_arm_lite.prompts import PromptBuilder
    from rubric_arm_lite.types import PreferencePair


def reader_of(model: str | None, recipe: str | None) -> tuple[PromptBuilder, str, Measure]:
    """Who writes the prompts, and the unit and measure of lengths."""
    from rubric_arm_lite.prompts import PromptBuilder, Templates
    from rubric_arm_lite.recipe import ModelSettings, Recipe, load_recipe

    loaded = Recipe() if recipe is None else load_recipe(recipe)
    templates = Templates.load(loaded.prompts.rubric_template, loaded.prompts.judge_template)
    if model is None and recipe is None:
        return PromptBuilder(templates), "words", lambda text: len(text.split())
    quiet_libraries()
    from rubric_arm_lite.models import load_tokenizer
    from rubric_arm_lite.models.chat import control_tokens

    settings = loaded.model if model is None else ModelSettings(base=model)
    tokenizer = load_tokenizer(settings)
    builder = PromptBuilder(templates, control_tokens(tokenizer))
    # Lengths beyond what the model takes are wanted here, so the tokenizer's warning about them is not.
    return builder, "tokens", lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def pair_text(pair: PreferencePair, builder: PromptBuilder) -> str:
    """A pair as the models will see it."""
    return _sections(
        ("the generator's prompt", builder.rubric_prompt(pair.prompt)),
        ("chosen", builder.neutralise(pair.chosen)),
        ("rejected", builder.neutralise(pair.rejected)),
    )


def trajectory_text(row: WarmupRow, builder: PromptBuilder) -> str:
    """A trajectory with the prompts that lead to it."""
    from rubric_arm_lite.prompts import parse_rubric

    rubric = parse_rubric(row.rubric)
    if not rubric.usable:
        prompt = "(The rubric does not parse: this row teaches the generator only.)"
    elif row.response_b is None:
        prompt = builder.pointwise_prompt(row.prompt, rubric, row.response_a)
    else:
        prompt = builder.judge_prompt(row.prompt, rubric, row.response_a, row.response_b)
    return _sections(
        ("the generator's prompt", builder.rubric_prompt(row.prompt)),
        ("its rubric", row.rubric),
        ("the judge's prompt", prompt),
        ("its judgement", row.judgement),
    )


def _sections(*parts: tuple[str, str]) -> str:
    return "\n".join(f"=== {name} ===\n{text.strip()}" for name, text in parts)


def print_survey(survey: Survey, what: str) -> None:
    """Counts, facts, lengths and subsets of ``what``: pairs or trajectories."""
    from rich.markup import escape
    from rich.table import Table

    from rubric_arm_lite.data.check import QUANTILES
    from rubric_arm_lite.report import safe_text

    print(survey.counts.line(what))
    print(f"form: {survey.counts.form}")
    for name, value in survey.facts.items():
        print(f"{name.replace('_', ' ')}: {value if isinstance(value, int) else round(value, 3)}")
    table = Table(survey.unit, *(_quantile_name(share) for share in QUANTILES), box=None, pad_edge=False)
    for kind, values in survey.lengths.items():
        table.add_row(kind, *(f"{value:,}" for value in values))
    out.print(table)
    named: Sequence[tuple[str, int]] = [(name, count) for name, count in survey.subsets.items() if name]
    if named:
        out.print(
            "subsets: " + ", ".join(f"{escape(safe_text(name))} {count:,}" for name, count in named[:40]),
            highlight=False,
        )


def _quantile_name(share: float) -> str:
    return {0.5: "median", 1.0: "longest"}.get(share, f"{share:.0%}")


if TYPE_CHECKING:
    from rubric_arm_lite.models import ChatSampler
    from rubric_arm_lite.models.journaled import JournaledSampler
    from rubric_arm_lite.training.synthesize import Synthesis

LOCAL_CONTEXT = 8192
"""Tokens that a model on this machine is given room for, unless --max-context says otherwise."""


def synthesize(
    pairs: Annotated[Path, typer.Argument(help="Preference pairs: JSONL, CSV or Parquet.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Warm-up rows to write (warmup.source).")],
    model: Annotated[str, typer.Option(help="The teacher: a server's name of it, or a folder, Hub id or testbed.")],
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible server; without it, MODEL is loaded here.")
    ] = None,
    server_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the server's key (default: OPENAI_API_KEY).")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    nf4: Annotated[bool, typer.Option("--nf4", help="Load a model on this machine in 4 bits.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Draws per pair until one is kept.")] = 3,
    temperature: Annotated[float, typer.Option(help="Of rubrics and judgements; above 0.")] = 0.7,
    rubric_max_tokens: Annotated[int, typer.Option(min=1)] = 1024,
    judge_max_tokens: Annotated[int, typer.Option(min=1)] = 2048,
    max_context: Annotated[
        int | None, typer.Option(min=1, help="Leave out what is longer, in tokens (model here: 8192).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all draws, and of which response stands first.")] = 0,
    price_in: Annotated[float | None, typer.Option(min=0, help="Price of a million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Price of a million written tokens.")] = None,
    if_exists: Annotated[str, typer.Option(help="resume, raise or overwrite.")] = "resume",
    as_json: JsonOption = False,
) -> None:
    """Write rubrics and judgements for preference pairs, for a warm-up.

    A teacher that sees both responses and which was preferred writes the rubric; judged under it without the label, in
    both orders, the pair is kept only if both verdicts are right and every text is well-formed. Each answer is kept in
    OUT.jsonl.part: run the same command again after a stop, or with more --attempts or a higher --limit, and only what
    is missing is asked.
    """
    from rubric_arm_lite.data import load_pairs
    from rubric_arm_lite.errors import DataError
    from rubric_arm_lite.models.journaled import JournaledSampler
    from rubric_arm_lite.runs import Journal, atomic_write, explained_disk_errors
    from rubric_arm_lite.training import SynthesisSettings, Synthesizer
    from rubric_arm_lite.training.synthesize import warmup_rows

    room = max_context if server or max_context else LOCAL_CONTEXT
    settings = SynthesisSettings(
        attempts, temperature, rubric_max_tokens, judge_max_tokens, max_context=room, seed=seed
    )
    policy = _checked_policy(if_exists)
    part = _part_of(pairs, target, policy)
    asked = load_pairs(pairs)[:limit]
    model_or_server = _teacher(model, server, server_key_env, concurrency, nf4, room)
    with explained_disk_errors(target.parent):
        with Journal.open(part, {"answers of": model}, policy) as journal:
            teacher = JournaledSampler(model_or_server, journal)
            with err.status("asking the teacher") as status:
                found = Synthesizer(teacher, settings).run(
                    asked, lambda done, kept: status.update(f"{done} of {len(asked)} pairs, {kept} kept")
                )
        rows = list(warmup_rows(found.kept, seed))
        if rows:
            atomic_write(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    summary = _summary(found, teacher, len(asked), price_in, price_out)
    if as_json:
        print_json(summary)
    else:
        _show(found, summary)
    if not rows:
        raise DataError(
            f"No pair of {pairs} was kept, so {target} was not written. See the reasons above; raise --attempts or "
            "--judge-max-tokens, or name a stronger teacher. Its answers are in "
            f"{part}."
        )
    err.print(f"{len(rows)} rows written to {target}; the answers are kept in {part}.", markup=False, highlight=False)


def _checked_policy(if_exists: str) -> Any:
    from rubric_arm_lite.errors import ConfigError

    if if_exists not in ("resume", "raise", "overwrite"):
        raise ConfigError(f"--if-exists {if_exists}: use resume, raise or overwrite.")
    return if_exists


def _part_of(pairs: Path, target: Path, if_exists: str) -> Path:
    """Where the answers are kept; refuses a target that is not this job's to write."""
    from rubric_arm_lite.errors import CheckpointError, DataError

    if target.suffix != ".jsonl":
        raise DataError(f"{target} must end in .jsonl, which is what it is. Name it so.")
    if target.is_dir():
        raise DataError(f"{target} is a folder. Name the file to write.")
    part = target.with_name(f"{target.name}.part")
    for path in (target, part):
        if path.exists() and pairs.exists() and path.samefile(pairs):
            raise DataError(f"{path} is also the input. Choose another file to write.")
    if target.exists() and (if_exists == "raise" or (if_exists == "resume" and not part.exists())):
        raise CheckpointError(
            f"{target} exists and is not replaced. Name another file, or replace it with --if-exists overwrite."
        )
    return part


def _teacher(
    model: str, server: str | None, key_env: str | None, concurrency: int, nf4: bool, room: int | None
) -> ChatSampler:
    from rubric_arm_lite.errors import ConfigError

    if server is not None:
        from rubric_arm_lite.models import ServerSampler, ServerSettings
        from rubric_arm_lite.models.server import DEFAULT_KEY_ENV

        if nf4:
            raise ConfigError("--nf4 is for a model on this machine. Leave it out, or leave --server out.")
        return ServerSampler(
            ServerSettings(server, base_model=model, api_key_env=key_env or DEFAULT_KEY_ENV, concurrency=concurrency)
        )
    if key_env is not None:
        raise ConfigError("--server-key-env belongs to a server. Give --server.")
    quiet_libraries()
    from rubric_arm_lite.models import load_model
    from rubric_arm_lite.recipe import ModelSettings

    settings = ModelSettings(base=model, quantization="nf4" if nf4 else "none", max_context=room or LOCAL_CONTEXT)
    return load_model(settings, seed=0)


def _summary(
    found: Synthesis, teacher: JournaledSampler, pairs: int, price_in: float | None, price_out: float | None
) -> dict[str, Any]:
    from rubric_arm_lite.training.synthesize import table

    read = sum(usage.prompt_tokens for usage in teacher.used.values())
    written = sum(usage.completion_tokens for usage in teacher.used.values())
    priced = price_in is not None or price_out is not None
    return {
        "pairs": pairs,
        "kept": len(found.kept),
        "yield": len(found.kept) / pairs,
        "attempts": {name: attempts for name, attempts, _ in table(found)},
        "lost": {name: lost for name, _, lost in table(found) if name != "kept"},
        "requests": len(teacher.used),
        "requests_now": teacher.asked,
        "prompt_tokens": read,
        "completion_tokens": written,
        "cost": ((price_in or 0) * read + (price_out or 0) * written) / 1e6 if priced else None,
    }


def _show(found: Synthesis, summary: dict[str, Any]) -> None:
    from rubric_arm_lite.training.synthesize import table

    shown = Table("", "attempts", "pairs", box=None, pad_edge=False)
    for name, attempts, pairs in table(found):
        shown.add_row(name, str(attempts), str(pairs))
    out.print(shown)
    out.print(
        f"{summary['kept']} of {summary['pairs']} pairs kept ({summary['yield']:.0%}). {summary['requests']} requests, "
        f"{summary['requests_now']} of them now; {summary['prompt_tokens']} prompt tokens, "
        f"{summary['completion_tokens']} written.",
        highlight=False,
    )
    if summary["cost"] is not None:
        out.print(f"Cost at the prices given: {summary['cost']:.4f}", highlight=False)


if TYPE_CHECKING:
    from rubric_arm_lite.data import BadRows, Counts, WarmupRow
    from rubric_arm_lite.data.check import Survey
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
    from rubric_arm_lite.data import BadRows
    from rubric_arm_lite.data.check import survey_pairs, survey_trajectories
    from rubric_arm_lite.report import safe_text

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
    from rubric_arm_lite.data import BadRows
    from rubric_arm_lite.data.pairs import pair_as_row, trajectory_as_row
    from rubric_arm_lite.data.rows import JSON_SUFFIXES
    from rubric_arm_lite.errors import DataError
    from rubric_arm_lite.runs import atomic_write

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
    from rubric_arm_lite.data import RowError
    from rubric_arm_lite.errors import DataError

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
    from rubric_arm_lite.report import safe_text

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
    from rubric_arm_lite.data import read_pairs
    from rubric_arm_lite.data.decontaminate import overlap_with
    from rubric_arm_lite.recipe import DataSettings

    settings = _checked(DataSettings, {**choices, "decontaminate": tuple(benchmarks or ())})
    return read_pairs(settings, seed, overlap_with(settings.decontaminate, settings.overlap_words), bad=bad)


def _trajectories(
    choices: dict[str, Any], benchmarks: list[str] | None, seed: int, bad: BadRows | None
) -> tuple[list[WarmupRow], Counts]:
    from rubric_arm_lite.data import read_trajectories
    from rubric_arm_lite.data.decontaminate import overlap_with
    from rubric_arm_lite.recipe import DataSettings, WarmupSettings

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
