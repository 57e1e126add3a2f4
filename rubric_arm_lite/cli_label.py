"""``rubric-arm label``: preference pairs from prompts with several responses."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rubric_arm_lite.cli_common import err, is_live, load_run, out, print_json, server_of
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
    from rubric_arm_lite.label import Labelled


def label(
    run: ModelArgument,
    source: Annotated[Path, typer.Argument(help="Rows of prompt and responses (a list), or response_a, response_b.")],
    target: Annotated[Path, typer.Argument(help="JSONL of prompt, chosen, rejected to write.")],
    votes: Annotated[int, typer.Option(min=1, help="Judgements per order; more than one are sampled.")] = 1,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep pairs with any majority, not only where both orders agree.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pairs judged between two saves.")] = 64,
    if_exists: Annotated[
        str, typer.Option("--if-exists", help="resume an unfinished job, raise, or overwrite.")
    ] = "resume",
    state: StateOption = "final",
    server: ServerOption = None,
    rubric_model: RubricModelOption = None,
    judge_model: JudgeModelOption = None,
    server_key_env: KeyEnvOption = None,
    concurrency: ConcurrencyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Label responses: judge every two of a prompt in both orders and write pairs; a killed job goes on."""
    from rubric_arm_lite.errors import ConfigError
    from rubric_arm_lite.label import label as write

    match if_exists:
        case "raise" | "resume" | "overwrite":
            pass
        case _:
            raise ConfigError(f"--if-exists {if_exists}: use raise, resume or overwrite.")
    asked = server_of(server, state, rubric_model, judge_model, server_key_env, concurrency)
    columns = (TextColumn("label"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    remaining = TimeRemainingColumn()
    with Progress(*columns, remaining, console=err, transient=True, disable=not is_live(err)) as bar:
        task = bar.add_task("label", total=None, speed="loading")
        found = write(
            source,
            target,
            lambda: load_run(run, state, asked),
            votes,
            keep_all,
            batch,
            if_exists,
            lambda now: bar.update(task, completed=now.done, total=now.total, speed=_speed(now)),
        )
    if as_json:
        print_json({**asdict(found), "written": str(target)})
        return
    kept = found.reasons.get("kept", 0)
    out.print(f"{kept} of {found.total} pairs kept ({kept / found.total:.0%}), written to {target}", markup=False)
    others = [f"{reason} {count}" for reason, count in found.reasons.items() if reason != "kept"]
    if others:
        out.print(f"Left out: {', '.join(others)}", highlight=False)
    earlier = found.total - found.judged - found.reasons.get("equal responses", 0)
    before = f" ({earlier} had been judged before)" if earlier > 0 else ""
    out.print(f"{found.judged} judged in {found.seconds:.1f} s{before}: {_speed(found)}", highlight=False)


def _speed(now: Labelled) -> str:
    shared = 1 - now.rubrics / now.judged if now.judged else 0.0
    return (
        f"{now.pairs_per_second:.1f} pairs/s, {now.tokens_per_second:.0f} tokens/s, rubrics written: {now.rubrics} "
        f"({shared:.0%} from the cache)"
    )
