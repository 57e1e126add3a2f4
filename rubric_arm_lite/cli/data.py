"""``rubric-arm data``: check a source of rows, convert it to our own format, and synthesize warm-up data from pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table
from typer import Argument, Option

from rubric_arm_lite import models, training
from rubric_arm_lite.cli import common
from rubric_arm_lite.data import BadRows, Counts, WarmupRow, read_pairs, read_trajectories
from rubric_arm_lite.data.benchmarks import decontaminator_of
from rubric_arm_lite.data.check import QUANTILES, Measure, Survey, survey_pairs, survey_trajectories
from rubric_arm_lite.data.pairs import pair_as_row
from rubric_arm_lite.data.sources import JSON_SUFFIXES, is_hub_id
from rubric_arm_lite.data.trajectories import trajectory_as_row
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError, DataError
from rubric_arm_lite.prompts import PromptBuilder, Templates, parse_rubric
from rubric_arm_lite.recipe import (
    WORLDS,
    DataSettings,
    ModelSettings,
    Recipe,
    WarmupSettings,
    load_recipe,
    read_columns,
)
from rubric_arm_lite.runs import Journal, atomic_write, check_target, explained_disk_errors
from rubric_arm_lite.types import PreferencePair

LOCAL_CONTEXT = 8192
"""Context in tokens of a model on this machine, unless --max-context is given."""
data_app = typer.Typer(help="Check data, convert it to our own format, make warm-up data.", no_args_is_help=True)
WarmupOption = Annotated[bool, Option("--warmup", help="Trajectories (rubric and judgement) in place of pairs.")]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """A source of rows, and what is selected from it: fields of ``recipe.fields.SourceSettings``."""

    source: Annotated[str, Argument(help="A JSONL, CSV or Parquet file, a folder, or a Hub id (owner/name).")]
    format: Annotated[str, Option(help="auto, pairs (our own), another name, or a plug-in file.py:function.")] = "auto"
    columns: Annotated[
        str | None,
        Option(metavar="YAML", help="What columns hold, as data.columns: '{prompt: question, responses: \\[a, b]}'."),
    ] = None
    config: Annotated[str | None, Option(help="The data set's configuration, or a folder in it.")] = None
    split: Annotated[str | None, Option(help="Split to read.")] = None
    revision: Annotated[str | None, Option(help="Commit or tag on the Hub.")] = None
    streaming: Annotated[bool, Option("--stream", help="Read while downloading; keep nothing in the cache.")] = False
    rows: Annotated[int | None, Option(min=1, help="Read only the first N rows.")] = None
    subset: Annotated[list[str] | None, Option(help="Only rows of this subset; repeatable.")] = None
    sample: Annotated[int | None, Option(min=1, help="At most N prompts, drawn by --seed.")] = None
    decontaminate: Annotated[
        list[str] | None, Option(help="Skip overlap with this benchmark (name, file, folder, Hub id); repeatable.")
    ] = None
    seed: Annotated[int, Option(min=0, help="Seed of all draws.")] = 0

    def read(
        self, warmup: bool = False, deduplicate: str = "none", bad: BadRows | None = None, pointwise: bool | None = None
    ) -> tuple[list[PreferencePair] | list[WarmupRow], Counts]:
        """The selected pairs and the counts of all rows; with ``warmup`` trajectories, ``pointwise`` as they are.

        Raises:
            ConfigError: for the first option that is wrong.
        """
        if self.source in WORLDS:
            verb = f"rubric-arm testbed pairs OUT.jsonl --world {self.source}"
            raise DataError(f"The world `{self.source}` generates its rows. Write some with {verb}.")
        options = {name: value for name, value in asdict(self).items() if name not in ("decontaminate", "seed")}
        options["subset"] = tuple(self.subset or ())
        options["columns"] = None if self.columns is None else read_columns(self.columns, "--columns")
        try:
            pairs = None if warmup else DataSettings.model_validate({**options, "deduplicate": deduplicate})
            trajectories = WarmupSettings.model_validate(options) if warmup else None
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:  # a check across options
                raise ConfigError(first["msg"].removeprefix("Value error, ")) from None
            option = first["loc"][0]
            plugin = ", or a plug-in: my_module:my_format or file.py:my_format" if option == "format" else ""
            raise ConfigError(f"--{option} {first['input']!r}: {first['msg']}{plugin}.") from None
        decontaminator = decontaminator_of(self.decontaminate or (), DataSettings().overlap_words)
        if trajectories is not None:
            return read_trajectories(trajectories, self.seed, decontaminator, pointwise=pointwise, bad=bad)
        assert pairs is not None
        return read_pairs(pairs, self.seed, decontaminator, bad=bad)


# --- check ----------------------------------------------------------------------------------------------------------


@data_app.command()
@common.with_source
def check(
    source: SourceOptions,
    warmup: WarmupOption = False,
    model: Annotated[str | None, Option(help="Lengths in tokens of this model (folder, Hub id, testbed).")] = None,
    recipe: Annotated[str | None, Option(help="Lengths and prompts as with this recipe's model.")] = None,
    show: Annotated[int, Option(min=0, help="Print the prompts of the first N items.")] = 1,
    as_json: common.JsonOption = False,
) -> None:
    """Report what a source holds: skipped rows and why, lengths, balance, duplicates, subsets, and the first prompts.

    Rows that cannot be used are listed, the first ten one by one, and the exit code is 2. Duplicates are counted here
    and kept; `data convert` and a recipe skip them.
    """
    settings = Recipe() if recipe is None else load_recipe(recipe)
    builder, unit, measure = _prompts_and_measure(settings, model, recipe is None)
    pointwise = None if recipe is None else settings.reward.judge == "pointwise"
    _say_if_from_the_hub(source.source, source.source)
    bad, survey, shown = BadRows(), None, []
    try:
        items: Any
        items, counts = source.read(warmup, bad=bad, pointwise=pointwise)
        if warmup:
            survey = survey_trajectories(items, counts, unit, measure, settings.prompts.pointwise_words)
        else:
            survey = survey_pairs(items, counts, unit, measure)
        shown = [_shown(item, builder) for item in items[:show]]
    except DataError as error:
        if not bad.total:
            raise
        bad.end(error)
    if as_json:
        report = {"source": source.source} if survey is None else survey.as_json()
        common.print_json({**report, "shown": shown, **({"bad_rows": bad.as_json()} if bad.total else {})})
    else:
        if survey is not None:
            _print_survey(survey, "trajectories" if warmup else "pairs")
        # Prompts below a list of bad rows would only push it off the screen.
        for text in bad.lines(source.source) if bad.total else [f"\n{text}" for text in shown]:
            common.say(text)
    if bad.total:
        raise typer.Exit(2)


def _prompts_and_measure(recipe: Recipe, model: str | None, in_words: bool) -> tuple[PromptBuilder, str, Measure]:
    """The prompt builder, and the unit and measure of lengths: those of a model, or with ``in_words`` without one.

    A tokenizer that the Hub does not give is no obstacle: the lengths are then in words, with a warning.
    """
    templates = Templates.of(recipe.prompts)
    words: tuple[PromptBuilder, str, Measure] = PromptBuilder(templates), "words", lambda text: len(text.split())
    if model is None and in_words:
        return words
    common.quiet_libraries()
    from rubric_arm_lite.models.chat import ChatTokenizer

    settings = recipe.model if model is None else ModelSettings(base=model)
    try:
        _say_if_from_the_hub(f"the tokenizer of {settings.base}", settings.base)
        tokenizer = models.load_tokenizer(settings)
    except BackendError as error:
        if not is_hub_id(settings.base) or error.__cause__ is None:  # a folder's, or one that came and cannot be used
            raise
        common.warn(f"Lengths are in words. {error}")
        return words
    builder = PromptBuilder(templates, ChatTokenizer(tokenizer).control_tokens())
    # verbose=False: no warning about texts beyond the model's context, which are measured on purpose.
    return builder, "tokens", lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _say_if_from_the_hub(what: str, name: str) -> None:
    """Say on standard error what is waited for, as a Hub out of reach is tried for up to a minute."""
    if is_hub_id(name):
        common.err.print(f"Waiting for {what} from the Hub (HF_HUB_OFFLINE=1: from its cache alone).")


def _shown(item: PreferencePair | WarmupRow, builder: PromptBuilder) -> str:
    """A pair as the models will see it, or a trajectory with the prompts that lead to it."""
    parts = {"the generator's prompt": builder.rubric_prompt(item.prompt)}
    if isinstance(item, WarmupRow):
        rubric = parse_rubric(item.rubric)
        unusable = "(The rubric does not parse: this row teaches the generator only.)"
        prompt = item.judge_prompt(builder, rubric) if rubric.usable else unusable
        parts |= {"its rubric": item.rubric, "the judge's prompt": prompt, "its judgement": item.judgement}
    else:
        parts |= {"chosen": builder.neutralize(item.chosen), "rejected": builder.neutralize(item.rejected)}
    return "\n".join(f"=== {name} ===\n{text.strip()}" for name, text in parts.items())


def _print_survey(survey: Survey, what: str) -> None:
    common.say(survey.counts.line(what))
    common.say(f"format: {survey.counts.format}")
    for name, value in survey.facts.items():
        shown, meaning = common.explained("survey", name, value)
        common.say(f"{name.replace('_', ' ')}: {shown} ({meaning})")
    names = {0.5: "median", 1.0: "longest"}
    table = Table(survey.unit, *(names.get(q, f"{q:.0%}") for q in QUANTILES), box=None, pad_edge=False)
    for kind, lengths in survey.lengths.items():
        table.add_row(kind, *(f"{length:,}" for length in lengths))
    common.out.print(table)
    subsets = [f"{name} {count:,}" for name, count in survey.subsets.items() if name]
    if subsets:
        common.out.print("subsets: " + ", ".join(subsets[:40]))


# --- convert --------------------------------------------------------------------------------------------------------


@data_app.command()
@common.with_source
def convert(
    source: SourceOptions,
    target: Annotated[Path, Argument(metavar="OUT.jsonl", help="JSONL to write, in our own format.")],
    warmup: WarmupOption = False,
    deduplicate: Annotated[str, Option(help="none, pairs, or prompts (one pair per prompt).")] = "pairs",
    overwrite: common.OverwriteOption = False,
    skip_bad: Annotated[bool, Option("--skip-bad", help="Skip and count rows that cannot be used.")] = False,
    as_json: common.JsonOption = False,
) -> None:
    """Write a source as JSONL of pairs (data.source), or of trajectories (warmup.source) with --warmup."""
    if not target.is_dir() and target.suffix.lower() not in JSON_SUFFIXES:
        raise DataError(f"{target}: JSON Lines are written. Give a name that ends in .jsonl.")
    check_target(Path(source.source), target, overwrite)
    bad = BadRows() if skip_bad else None
    try:
        items, counts = source.read(warmup, deduplicate, bad)
    finally:  # bad rows are reported even if no row is left without them
        for line in bad.lines(source.source) if bad is not None else ():
            common.err.print(line)
    what = "trajectories" if warmup else "pairs"
    as_row: Any = trajectory_as_row if warmup else pair_as_row
    _write_jsonl(target, map(as_row, items))
    if as_json:
        common.print_json({"target": str(target), **counts.as_json()})
    else:
        common.say(f"{counts.line(what)}\n{len(items):,} {what} written to {target}")


def _write_jsonl(target: Path, rows: Iterable[dict[str, Any]]) -> None:
    atomic_write(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


# --- synthesize -----------------------------------------------------------------------------------------------------


@data_app.command()
@common.with_source
def synthesize(
    source: SourceOptions,
    target: Annotated[Path, Argument(metavar="OUT.jsonl", help="Warm-up rows to write (warmup.source).")],
    model: Annotated[str, Option(help="The teacher: its name on the server, or a folder, Hub id or testbed.")],
    server: Annotated[str | None, Option(metavar="URL", help="An OpenAI-compatible server that has it.")] = None,
    server_key_env: Annotated[str | None, Option(help="Variable that holds its key (default: OPENAI_API_KEY).")] = None,
    concurrency: Annotated[int, Option(min=1, help="Requests at a time.")] = 8,
    control_token: common.ControlTokenOption = None,
    nf4: Annotated[bool, Option("--nf4", help="Load a model on this machine in 4 bits.")] = False,
    limit: Annotated[int | None, Option(min=1, help="Use only the first N pairs.")] = None,
    attempts: Annotated[int, Option(min=1, help="Draws per pair until one is kept.")] = 3,
    temperature: Annotated[float, Option(help="Of rubrics and judgements; above 0.")] = 0.7,
    rubric_max_tokens: Annotated[int, Option(min=1)] = 1024,
    judge_max_tokens: Annotated[int, Option(min=1)] = 2048,
    max_context: Annotated[int | None, Option(min=1, help="Skip what has more tokens (local model: 8192).")] = None,
    price_in: Annotated[float | None, Option(min=0, help="Price of a million prompt tokens.")] = None,
    price_out: Annotated[float | None, Option(min=0, help="Price of a million completion tokens.")] = None,
    if_exists: common.ContinueOption = "resume",
    as_json: common.JsonOption = False,
) -> None:
    """Write rubrics and judgements for preference pairs, for a warm-up.

    A teacher sees both responses and which was preferred, and writes the rubric. It then judges the pair under this
    rubric without the label, in both orders. The pair is kept only if both verdicts are right and every text is
    well-formed. OUT.jsonl.part keeps each answer: run the same command again after a stop, or with more --attempts or a
    higher --limit, and only the missing answers are requested.
    """
    from rubric_arm_lite.models.journaled import JournaledSampler
    from rubric_arm_lite.training.synthesize import Outcome, warmup_rows

    if server and nf4:
        raise ConfigError("--nf4 is for a model on this machine. Leave it out, or leave --server out.")
    options = common.ServerOptions(
        server, None, None, server_key_env, concurrency if server else None, control_token or None
    )
    connection = options.settings(base_model=model if server else None)
    context = max_context if server or max_context else LOCAL_CONTEXT
    settings = training.SynthesisSettings(
        attempts, temperature, rubric_max_tokens, judge_max_tokens, max_context=context, seed=source.seed
    )
    if target.suffix != ".jsonl":
        raise DataError(f"{target} must end in .jsonl, the format that is written. Rename it.")
    part = target.with_name(f"{target.name}.part")
    for written in (target, part):
        check_target(Path(source.source), written, overwrite=True, journal=True)
    if target.exists() and (if_exists == "raise" or (if_exists == "resume" and not part.exists())):
        raise CheckpointError(
            f"{target} exists and is not replaced. Name another file, or replace it with --if-exists overwrite."
        )
    all_pairs, counts = source.read()
    pairs: Any = all_pairs[:limit]
    if counts.skipped:
        common.err.print(counts.line())
    sampler: models.ChatSampler
    if connection is not None:
        sampler = models.ServerSampler(connection)
    else:
        common.quiet_libraries()
        local = ModelSettings(base=model, quantization="nf4" if nf4 else "none", max_context=context or LOCAL_CONTEXT)
        sampler = models.load_model(local, seed=0)
    with explained_disk_errors(target.parent, "repeat the command; the answers are kept"):
        with Journal.open(part, {"answers of": model}, if_exists) as journal:
            teacher = JournaledSampler(sampler, journal)
            with common.err.status("asking the teacher") as status:
                synthesis = training.Synthesizer(teacher, settings).run(
                    pairs, lambda done, kept: status.update(f"{done} of {len(pairs)} pairs, {kept} kept")
                )
        rows = list(warmup_rows(synthesis.kept, source.seed))
        if rows:
            _write_jsonl(target, rows)
    prompt_tokens = sum(usage.prompt_tokens for usage in teacher.used.values())
    completion_tokens = sum(usage.completion_tokens for usage in teacher.used.values())
    cost = ((price_in or 0) * prompt_tokens + (price_out or 0) * completion_tokens) / 1e6
    summary = {
        "pairs": len(pairs),
        "kept": len(synthesis.kept),
        "yield": len(synthesis.kept) / len(pairs),
        "attempts": {outcome.value: synthesis.attempts[outcome] for outcome in Outcome},
        "lost": {outcome.value: synthesis.lost[outcome] for outcome in Outcome if outcome is not Outcome.KEPT},
        "requests": len(teacher.used),
        "requests_now": teacher.sampled,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cost": None if price_in is None and price_out is None else cost,
    }
    common.print_result(summary, as_json, lambda: _print_summary(summary))
    if not rows:
        raise DataError(
            f"No pair of {source.source} was kept, so {target} was not written. See the reasons above; raise "
            f"--attempts or --judge-max-tokens, or name a stronger teacher. Its answers are in {part}."
        )
    common.err.print(f"{len(rows)} rows written to {target}; the answers are kept in {part}.")


def _print_summary(summary: dict[str, Any]) -> None:
    table = Table("", "attempts", "pairs", box=None, pad_edge=False)
    for name, attempts in summary["attempts"].items():
        table.add_row(name, str(attempts), str(summary["lost"].get(name, summary["kept"])))
    common.out.print(table)
    common.out.print(
        f"{summary['kept']} of {summary['pairs']} pairs kept ({summary['yield']:.0%}). {summary['requests']} requests, "
        f"{summary['requests_now']} of them now; {summary['prompt_tokens']} prompt tokens, "
        f"{summary['completion_tokens']} completion tokens."
    )
    if summary["cost"] is not None:
        common.out.print(f"Cost at the prices given: {summary['cost']:.4f}")
