"""``rubric-arm data synthesize``: preference pairs in, warm-up rows out, written by a teacher you name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rubric_arm_lite.cli_common import err, out, print_json, quiet_libraries
from rubric_arm_lite.cli_options import JsonOption

if TYPE_CHECKING:
    from rubric_arm_lite.backends.base import ChatSampler
    from rubric_arm_lite.backends.journaled import JournaledSampler
    from rubric_arm_lite.synthesize import Synthesis

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
    from rubric_arm_lite.backends.journaled import JournaledSampler
    from rubric_arm_lite.data import load_pairs
    from rubric_arm_lite.errors import DataError
    from rubric_arm_lite.journal import Journal
    from rubric_arm_lite.run_dir import atomic_write, explained_disk_errors
    from rubric_arm_lite.synthesize import SynthesisSettings, Synthesizer, warmup_rows

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
        from rubric_arm_lite.backends.server import ServerSampler
        from rubric_arm_lite.backends.server_settings import DEFAULT_KEY_ENV, ServerSettings

        if nf4:
            raise ConfigError("--nf4 is for a model on this machine. Leave it out, or leave --server out.")
        return ServerSampler(
            ServerSettings(server, base_model=model, api_key_env=key_env or DEFAULT_KEY_ENV, concurrency=concurrency)
        )
    if key_env is not None:
        raise ConfigError("--server-key-env belongs to a server. Give --server.")
    quiet_libraries()
    from rubric_arm_lite.backends.loader import load_model
    from rubric_arm_lite.config import ModelSettings

    settings = ModelSettings(base=model, quantization="nf4" if nf4 else "none", max_context=room or LOCAL_CONTEXT)
    return load_model(settings, seed=0)


def _summary(
    found: Synthesis, teacher: JournaledSampler, pairs: int, price_in: float | None, price_out: float | None
) -> dict[str, Any]:
    from rubric_arm_lite.synthesize import table

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
    from rubric_arm_lite.synthesize import table

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
