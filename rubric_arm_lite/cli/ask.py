"""``rubric-arm rubric``, ``judge``, ``score`` and ``label``: use a reward model on one case or on a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn

from rubric_arm_lite import reward_model
from rubric_arm_lite.cli.common import (
    ContinueOption,
    JsonOption,
    LocalSource,
    ModelSource,
    OverwriteOption,
    err,
    print_result,
    progress_bar,
    say,
    warn,
    warn_unknown_words,
    with_source,
)
from rubric_arm_lite.data.pairs import load_responses
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.report import safe_json
from rubric_arm_lite.runs import atomic_write, check_target

if TYPE_CHECKING:
    from rubric_arm_lite.reward_model import PointwiseScore, Verdict
    from rubric_arm_lite.reward_model.label import LabelingState

RubricTextOption = Annotated[str | None, typer.Option("--rubric", help="Criteria to use in place of the model's.")]
TargetArgument = Annotated[
    Path | None, typer.Argument(metavar="TARGET", help="JSONL file to write (default: standard output).")
]
VotesOption = Annotated[int, typer.Option(min=1, help="Judgements per order; more than one are sampled.")]


@with_source
def rubric(
    source: ModelSource,
    prompt: Annotated[str, typer.Argument(help="The prompt to write a rubric for; - reads standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Write a rubric for a prompt."""
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if prompt == "-" else prompt
    _check_text("the prompt", text)
    model = source.load()
    warn_unknown_words(model, text)
    written = model.rubric(text)
    criteria = [{"text": c.text, "kind": c.kind.label} for c in written.criteria]
    row = {"status": written.status.value, "text": written.text, "criteria": criteria}
    print_result(row, as_json, lambda: say(written.text))
    if not written.usable:
        warn(f"The rubric is {written.status.value}; a judge would not be shown it.")


@with_source
def judge(
    source: ModelSource,
    file: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="JSONL of prompt, response_a, response_b.")
    ] = None,
    target: TargetArgument = None,
    prompt: Annotated[str | None, typer.Option(help="One pair: its prompt …")] = None,
    response_a: Annotated[str | None, typer.Option("--a", help="… its first response …")] = None,
    response_b: Annotated[str | None, typer.Option("--b", help="… and its second.")] = None,
    rubric_text: RubricTextOption = None,
    votes: VotesOption = 1,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge one pair (--prompt, --a, --b), or a JSONL file of pairs, in both orders."""
    texts = _one_case(file, "pair", {"--prompt": prompt, "--a": response_a, "--b": response_b})
    if file is None:
        model = source.load()
        warn_unknown_words(model, *texts)
        verdict = model.compare(texts[0], texts[1], texts[2], rubric_text, votes)
        print_result(verdict_row("pair", verdict), as_json, lambda: print_verdict(verdict))
        return
    check_target(file, target, overwrite)
    pairs = load_responses(file, "response_a", "response_b")
    cases = [(pair.prompt, pair.responses[0], pair.responses[1], pair.rubric or rubric_text) for pair in pairs]
    verdicts = source.load().compare_many(cases, votes, [f"{file}, pair {pair.set_id}" for pair in pairs])
    rows = [verdict_row(pair.set_id, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]
    winners = sum(verdict.winner is not None for verdict in verdicts)
    write_rows(rows, target, f"{len(pairs)} pairs judged, {winners} with a winner")


@with_source
def score(
    source: LocalSource,
    file: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="JSONL of prompt, response and perhaps rubric.")
    ] = None,
    target: TargetArgument = None,
    prompt: Annotated[str | None, typer.Option(help="One case: its prompt …")] = None,
    response: Annotated[str | None, typer.Option(help="… and its response.")] = None,
    rubric_text: RubricTextOption = None,
    justify: Annotated[
        bool | None, typer.Option(help="Let the judge reason before each answer (default: as it was trained).")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score one response (--prompt, --response), or a JSONL file of them, criterion by criterion."""
    texts = _one_case(file, "case", {"--prompt": prompt, "--response": response})
    if file is not None:
        check_target(file, target, overwrite)
    responses = [] if file is None else load_responses(file, "response")
    model = source.load()
    if not model.recipe.pointwise:
        warn(
            "This judge was trained to compare two responses (reward.judge: pairwise), not to score one. Use judge, or "
            "a run with reward.judge: pointwise."
        )
    if file is None:
        warn_unknown_words(model, *texts)
        value = model.score(texts[0], texts[1], rubric_text, justify)
        print_result(score_row("case", value), as_json, lambda: print_score(value))
        return
    cases = [(row.prompt, row.responses[0], row.rubric or rubric_text) for row in responses]
    scores = model.score_many(cases, justify, [f"{file}, case {row.set_id}" for row in responses])
    rows = [score_row(row.set_id, value) for row, value in zip(responses, scores, strict=True)]
    scored = sum(value.value is not None for value in scores)
    write_rows(rows, target, f"{len(rows)} responses judged, {scored} with a score")


@with_source
def label(
    source: ModelSource,
    file: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="Rows of prompt and responses (a list), or response_a, response_b."),
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="JSONL of prompt, chosen, rejected to write.")],
    votes: VotesOption = 1,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep pairs with any majority, not only where both orders agree.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pairs judged between two saves.")] = 64,
    if_exists: ContinueOption = "resume",
    as_json: JsonOption = False,
) -> None:
    """Label responses: judge every two of a prompt in both orders and write pairs; a killed job resumes."""
    with progress_bar("label", MofNCompleteColumn(), "{task.fields[speed]}") as bar:
        task = bar.add_task("label", total=None, speed="loading")

        def show(now: LabelingState) -> None:
            bar.update(task, completed=now.done, total=now.total, speed=_speed(now))

        counts = reward_model.label_responses(file, target, source.load, votes, keep_all, batch, if_exists, show)
    row = {**asdict(counts), "written": str(target)}
    print_result(row, as_json, lambda: print_label_counts(counts, target))


# --- output -----------------------------------------------------------------------------------------------------


def print_label_counts(counts: LabelingState, target: Path) -> None:
    """Print how many pairs were kept, why others were skipped, and the speed."""
    kept = counts.reasons.get("kept", 0)
    say(f"{kept} of {counts.total} pairs kept ({kept / counts.total:.0%}), written to {target}")
    skipped = [f"{reason} {count}" for reason, count in counts.reasons.items() if reason != "kept"]
    if skipped:
        say(f"Skipped: {', '.join(skipped)}")
    earlier = counts.total - counts.judged - counts.reasons.get("equal responses", 0)
    before = f" ({earlier} had been judged before)" if earlier > 0 else ""
    say(f"{counts.judged} judged in {counts.seconds:.1f} s{before}: {_speed(counts)}")


def print_verdict(verdict: Verdict) -> None:
    """Print the rubric, the first judgement, the winners in both orders and the verdict."""
    say(verdict.rubric.text.strip())
    if not verdict.original:
        say(f"\nThe rubric is {verdict.rubric.status.value}; nothing was judged.")
        return
    samples = len(verdict.original)
    if samples > 1:
        say(f"\nOne of {samples} samples in the order given:")
    say(f"\n{verdict.original[0].text.strip()}\n")
    winners = [side or "none" for side in verdict.winners]
    for order, sides in (("In the order given", winners[:samples]), ("With the two swapped", winners[samples:])):
        counts = ", ".join(f"{side} {sides.count(side)}" for side in ("A", "B", "none") if side in sides)
        say(f"{order:<20} named better: {counts}")
    winner = "none" if verdict.winner is None else f"Response {verdict.winner}"
    say(f"Verdict over both orders: {winner} ({verdict.confidence:.0%} of verdicts)")


def verdict_row(pair_id: str, verdict: Verdict) -> dict[str, Any]:
    """A verdict as one JSON object."""
    return {
        "id": pair_id,
        "winner": verdict.winner,
        "consistent": verdict.consistent,
        "confidence": verdict.confidence,
        "rubric": verdict.rubric.text,
        "rubric_status": verdict.rubric.status.value,
        "judgement": verdict.original[0].text if verdict.original else None,
        "judgement_swapped": verdict.swapped[0].text if verdict.swapped else None,
    }


def print_score(score: PointwiseScore) -> None:
    """Print the rubric, the judge's text, the probabilities per criterion and the score."""
    say(score.rubric.text.strip())
    if score.text:
        say(f"\n{score.text.strip()}")
    if score.value is None:
        writer = "judge" if score.rubric.usable else "rubric"
        say(f"\nNo score: the {writer} wrote something that cannot be read.")
        return
    say()
    for number, answer in enumerate(score.answers, start=1):
        say(f"{number}. met {answer.p_true:.3f}, not met {answer.p_false:.3f}")
    say(f"Score from -1 to 1: {score.value:.3f}")


def score_row(response_id: str, score: PointwiseScore) -> dict[str, Any]:
    """A score as one JSON object."""
    return {
        "id": response_id,
        "score": score.value,
        "status": score.status.value,
        "checks": [{"p_true": answer.p_true, "p_false": answer.p_false} for answer in score.answers],
        "rubric": score.rubric.text,
        "rubric_status": score.rubric.status.value,
        "judgement": score.text or None,
    }


def write_rows(rows: Sequence[dict[str, Any]], target: Path | None, summary: str) -> None:
    """Write rows as JSONL to a file, with a summary on standard error, or to standard output."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if target is None:
        print(safe_json(text), end="")
    else:
        atomic_write(target, text.encode())
        err.print(f"{summary}, written to {target}")


# --- helpers ----------------------------------------------------------------------------------------------------


def _one_case(file: Path | None, what: str, options: Mapping[str, str | None]) -> list[str]:
    """The texts of one case, checked; none if a file is read in their place."""
    texts = {name: text for name, text in options.items() if text is not None}
    if file is not None and texts:
        raise DataError(f"Give either one {what} ({', '.join(options)}) or a JSONL file, not both.")
    if file is None and texts.keys() != options.keys():
        *first, last = options
        raise DataError(f"Give {', '.join(first)} and {last} for one {what}, or a JSONL file of {what}s.")
    for name, text in texts.items():
        _check_text(name, text)
    return list(texts.values())


def _check_text(name: str, text: str) -> None:
    """Refuse a text of the command line that is empty or not UTF-8."""
    if not text.strip():
        raise DataError(f"{name} is empty. Give some text.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{name} is not UTF-8 text at character {error.start}. Convert it to UTF-8.") from error


def _speed(now: LabelingState) -> str:
    cached = 1 - now.rubrics / now.judged if now.judged else 0.0
    return (
        f"{now.pairs_per_second:.1f} pairs/s, {now.tokens_per_second:.0f} tokens/s, rubrics written: {now.rubrics} "
        f"({cached:.0%} from the cache)"
    )
