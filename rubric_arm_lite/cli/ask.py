"""``rubric-arm rubric``, ``judge`` and ``score``: ask a reward model about one case, or a file of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rubric_arm_lite.cli.common import (
    ConcurrencyOption,
    JsonOption,
    JudgeModelOption,
    KeyEnvOption,
    ModelArgument,
    OverwriteOption,
    RubricModelOption,
    ServerOption,
    StateOption,
    check_target,
    err,
    is_live,
    load_run,
    out,
    print_json,
    server_of,
    warn_unknown_words,
)

if TYPE_CHECKING:
    from rubric_arm_lite.reward_model import PointwiseScore, RubricRewardModel, Verdict

RubricTextOption = Annotated[str | None, typer.Option("--rubric", help="Criteria to use in place of the model's.")]
TargetArgument = Annotated[Path | None, typer.Argument(help="JSONL to write; standard output if left out.")]


def rubric(
    run: ModelArgument,
    prompt: Annotated[str, typer.Argument(help="The request to write a rubric for; - reads standard input.")],
    state: StateOption = "final",
    server: ServerOption = None,
    rubric_model: RubricModelOption = None,
    judge_model: JudgeModelOption = None,
    server_key_env: KeyEnvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a rubric for a prompt."""
    asked = server_of(server, state, rubric_model, judge_model, server_key_env)
    text = _checked(
        "the prompt", sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if prompt == "-" else prompt
    )
    model = load_run(run, state, asked)
    warn_unknown_words(model, text)
    written = model.rubric(text)
    if as_json:
        criteria = [{"text": c.text, "kind": c.kind.label} for c in written.criteria]
        print_json({"status": written.status.value, "text": written.text, "criteria": criteria})
    else:
        print(written.text)
    if not written.usable:
        err.print(f"[yellow]The rubric is {written.status.value}; a judge would not be shown it.[/yellow]")


def judge(
    run: ModelArgument,
    source: Annotated[Path | None, typer.Argument(help="JSONL of prompt, response_a, response_b.")] = None,
    target: TargetArgument = None,
    prompt: Annotated[str | None, typer.Option(help="One pair: the request …")] = None,
    response_a: Annotated[str | None, typer.Option("--a", help="… its first answer …")] = None,
    response_b: Annotated[str | None, typer.Option("--b", help="… and its second.")] = None,
    rubric_text: RubricTextOption = None,
    votes: Annotated[int, typer.Option(min=1, help="Judgements per order; more than one are sampled.")] = 1,
    overwrite: OverwriteOption = False,
    state: StateOption = "final",
    server: ServerOption = None,
    rubric_model: RubricModelOption = None,
    judge_model: JudgeModelOption = None,
    server_key_env: KeyEnvOption = None,
    concurrency: ConcurrencyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge one pair (--prompt, --a, --b), or a JSONL file of pairs, in both orders."""
    texts = _texts_of_one(source, "pair", {"--prompt": prompt, "--a": response_a, "--b": response_b})
    asked = server_of(server, state, rubric_model, judge_model, server_key_env, concurrency)
    if source is None:
        model = load_run(run, state, asked)
        warn_unknown_words(model, *texts)
        verdict = model.compare(texts[0], texts[1], texts[2], rubric_text, votes)
        if as_json:
            print_json(_verdict_row("pair", verdict))
        else:
            _show_verdict(verdict)
    else:
        _judge_file(lambda: load_run(run, state, asked), source, target, rubric_text, votes, overwrite)


def score(
    run: ModelArgument,
    source: Annotated[Path | None, typer.Argument(help="JSONL of prompt, response and perhaps rubric.")] = None,
    target: TargetArgument = None,
    prompt: Annotated[str | None, typer.Option(help="One case: the request …")] = None,
    response: Annotated[str | None, typer.Option(help="… and its answer.")] = None,
    rubric_text: RubricTextOption = None,
    justify: Annotated[
        bool | None,
        typer.Option(
            "--justify/--no-justify", help="Let the judge reason before each answer (default: as it was trained)."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    state: StateOption = "final",
    as_json: JsonOption = False,
) -> None:
    """Score one response (--prompt, --response), or a JSONL file of them, criterion by criterion."""
    texts = _texts_of_one(source, "case", {"--prompt": prompt, "--response": response})
    if source is None:
        model = load_run(run, state, None)
        warn_unknown_words(model, *texts)
        _warn_untrained(model)
        found = model.score(texts[0], texts[1], rubric_text, justify)
        if as_json:
            print_json(_score_row("case", found))
        else:
            _show_score(found)
    else:
        _score_file(lambda: load_run(run, state, None), source, target, rubric_text, justify, overwrite)


# --- helpers ----------------------------------------------------------------------------------------------------


def _judge_file(
    load: Callable[[], RubricRewardModel],
    source: Path,
    target: Path | None,
    rubric_text: str | None,
    votes: int,
    overwrite: bool,
) -> None:
    from rubric_arm_lite.data.pairs import load_comparisons

    if target is not None:
        check_target(source, target, overwrite)
    pairs = load_comparisons(source)
    model = load()
    verdicts = model.compare_many(
        [(p.prompt, p.responses[0], p.responses[1], p.rubric or rubric_text) for p in pairs],
        votes,
        [f"{source}, pair {p.set_id}" for p in pairs],
    )
    named = sum(v.winner is not None for v in verdicts)
    _write_rows(
        [_verdict_row(pair.set_id, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)],
        target,
        f"{len(pairs)} pairs judged, {named} with a winner",
    )


def _score_file(
    load: Callable[[], RubricRewardModel],
    source: Path,
    target: Path | None,
    rubric_text: str | None,
    justify: bool | None,
    overwrite: bool,
) -> None:
    from rubric_arm_lite.data.pairs import load_single_responses

    if target is not None:
        check_target(source, target, overwrite)
    rows = load_single_responses(source)
    model = load()
    _warn_untrained(model)
    names = [f"{source}, case {row.set_id}" for row in rows]
    scores = model.score_many([(r.prompt, r.responses[0], r.rubric or rubric_text) for r in rows], justify, names)
    valued = sum(one.value is not None for one in scores)
    _write_rows(
        [_score_row(row.set_id, one) for row, one in zip(rows, scores, strict=True)],
        target,
        f"{len(rows)} responses judged, {valued} with a score",
    )


def _texts_of_one(source: Path | None, what: str, options: Mapping[str, str | None]) -> list[str]:
    """The texts of one case, checked; none if a file is to be read in their place."""
    from rubric_arm_lite.errors import DataError

    *first, last = options
    if source is None and None in options.values():
        raise DataError(f"Give {', '.join(first)} and {last} for one {what}, or a JSONL file of {what}s.")
    if source is not None and any(text is not None for text in options.values()):
        raise DataError(f"Give either one {what} ({', '.join(options)}) or a JSONL file, not both.")
    return [_checked(name, text) for name, text in options.items() if text is not None]


def _write_rows(rows: Sequence[dict[str, Any]], target: Path | None, told: str) -> None:
    from rubric_arm_lite.runs import atomic_write

    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if target is None:
        print(text, end="")
    else:
        atomic_write(target, text.encode())
        err.print(f"{told}, written to {target}", markup=False)


def _checked(name: str, text: str) -> str:
    """A text from the command line, refused if it is empty or not UTF-8."""
    from rubric_arm_lite.errors import DataError

    if not text.strip():
        raise DataError(f"{name} is empty. Give some text.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{name} is not UTF-8 text at character {error.start}. Convert it to UTF-8.") from error
    return text


def _show_verdict(verdict: Verdict) -> None:
    print(verdict.rubric.text.strip())
    if not verdict.original:
        print(f"\nThe rubric is {verdict.rubric.status.value}; nothing was judged.")
        return
    if len(verdict.original) > 1:
        print(f"\nOne of {len(verdict.original)} samples in the order given:")
    print(f"\n{verdict.original[0].text.strip()}\n")
    swapped = [{"A": "B", "B": "A"}.get(judgement.winner or "", "none") for judgement in verdict.swapped]
    given = [judgement.winner or "none" for judgement in verdict.original]
    for label, found in (("In the order given", given), ("With the two swapped", swapped)):
        counts = ", ".join(f"{name} {found.count(name)}" for name in ("A", "B", "none") if name in found)
        print(f"{label:<20} named better: {counts}")
    name = "none" if verdict.winner is None else f"Response {verdict.winner}"
    print(f"Verdict over both orders: {name} ({verdict.confidence:.0%} of verdicts)")


def _verdict_row(pair_id: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": pair_id,
        "winner": verdict.winner,
        "consistent": verdict.consistent,
        "confidence": verdict.confidence,
        "rubric": verdict.rubric.text,
        "rubric_status": verdict.rubric.status.value,
        "judgement": verdict.original[0].text if verdict.original else None,
        "judgement_flipped": verdict.swapped[0].text if verdict.swapped else None,
    }


def _warn_untrained(model: RubricRewardModel) -> None:
    """A judge that was trained to compare can be asked for scores, but was never paid for them."""
    if model.recipe.reward.judge != "pointwise":
        err.print(
            "[yellow]This judge was trained to compare two responses (reward.judge: pairwise); its scores are those of "
            "an untrained one. Use judge, or a run of reward.judge: pointwise.[/yellow]"
        )


def _show_score(found: PointwiseScore) -> None:
    print(found.rubric.text.strip())
    if found.text:
        print(f"\n{found.text.strip()}")
    if found.value is None:
        print(
            f"\nNo score: the {'rubric' if not found.rubric.usable else 'judge'} wrote something that cannot be read."
        )
        return
    print()
    for number, answer in enumerate(found.answers, start=1):
        print(f"{number}. met {answer.p_true:.3f}, not met {answer.p_false:.3f}")
    print(f"Score from -1 to 1: {found.value:.3f}")


def _score_row(response_id: str, found: PointwiseScore) -> dict[str, Any]:
    return {
        "id": response_id,
        "score": found.value,
        "status": found.status.value,
        "checks": [{"p_true": answer.p_true, "p_false": answer.p_false} for answer in found.answers],
        "rubric": found.rubric.text,
        "rubric_status": found.rubric.status.value,
        "judgement": found.text or None,
    }


if TYPE_CHECKING:
    from rubric_arm_lite.reward_model.label import LabelingState


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
    from rubric_arm_lite.reward_model import label_responses as write

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


def _speed(now: LabelingState) -> str:
    shared = 1 - now.rubrics / now.judged if now.judged else 0.0
    return (
        f"{now.pairs_per_second:.1f} pairs/s, {now.tokens_per_second:.0f} tokens/s, rubrics written: {now.rubrics} "
        f"({shared:.0%} from the cache)"
    )
