"""``rubric-arm bench [rollout|update|step]``: times the training engine and stock TRL on the same work."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from rubric_arm_lite.cli.common import JsonOption, OverwriteOption, err, out, print_json, quiet_libraries
from rubric_arm_lite.runs import check_target

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

VerbArgument = Annotated[
    str | None,
    typer.Argument(help="rollout, update or step (default: all three). For inference see: bench inference --help."),
]
AgainstOption = Annotated[str, typer.Option(help="trl, or none to time our side alone.")]
PromptLengthOption = Annotated[int, typer.Option(help="Tokens of the judge's prompt; the generator's has a quarter.")]
CompletionLengthOption = Annotated[int, typer.Option(help="Tokens of every completion.")]
GroupOption = Annotated[int, typer.Option(help="Completions per prompt.")]
WidthOption = Annotated[int, typer.Option(help="Model width, a multiple of 64.")]
LayersOption = Annotated[int, typer.Option(help="Layers of the model.")]
PromptsOption = Annotated[int, typer.Option(help="Prompts per step.")]
RunsOption = Annotated[int, typer.Option(help="Timed runs of each side, after an untimed one.")]
ThreadsOption = Annotated[int, typer.Option(help="torch threads of both sides; more wait on a busy machine.")]
VocabularyOption = Annotated[int, typer.Option(help="Words of the model.")]
PeerBatchOption = Annotated[int | None, typer.Option(help="TRL's rows per pass (default: the fastest, by trial).")]
CheckpointingOption = Annotated[bool, typer.Option("--gradient-checkpointing", help="On both sides.")]
SeedOption = Annotated[int, typer.Option(help="Seed of weights, texts and rewards.")]
MemoryOption = Annotated[bool, typer.Option(help="Measure peak memory, each side in its own process.")]
SweepOption = Annotated[bool, typer.Option("--sweep", help="Vary one setting at a time around these values.")]
AxisOption = Annotated[list[str] | None, typer.Option(help="Vary only this, e.g. prompt-length; may be repeated.")]
OutputOption = Annotated[Path | None, typer.Option(help="Folder for JSON, a Markdown table and the figure of a sweep.")]


@app.command()
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
    overwrite: OverwriteOption = False,
) -> None:
    """Time our engine and stock TRL on the same work; without a verb: rollout, update and step.

    ``bench inference`` measures judging instead: accuracy, tokens and seconds, compared with judges without a rubric.
    """
    quiet_libraries()
    from benchmarks.against_trl.measure import check_against, check_verb, measure, measure_all
    from benchmarks.against_trl.show import files_of, show, write
    from benchmarks.against_trl.sweep import check_axes, measure_sweep
    from benchmarks.against_trl.work import BenchSettings, Work

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
    files = {} if output is None else files_of(output, f"bench-{chosen or 'all'}", sweep)
    for file in files.values():
        check_target(None, file, overwrite)
    with err.status("bench") as status, contextlib.redirect_stdout(sys.stderr):  # libraries may print
        if chosen is None:
            result = measure_all(settings, side, memory, status.update)
        elif sweep:
            result = measure_sweep(chosen, settings, side, memory, status.update, axes)
        else:
            result = measure(chosen, settings, side, memory, status.update)
    write(result, files)
    for file in files.values():
        err.print(str(file))
    if as_json:
        print_json(result)
    else:
        show(result, out)
