"""Use a reward model: ``rubric-arm rubric``, ``judge``, ``score``, ``label``, and over HTTP ``serve`` and ``play``."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.progress import MofNCompleteColumn
from typer import Argument, Option

from rubric_arm_lite import reward_model
from rubric_arm_lite.cli import common
from rubric_arm_lite.data.pairs import load_responses
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.report import safe_json
from rubric_arm_lite.runs import atomic_write, check_target, recipe_of

if TYPE_CHECKING:
    from rubric_arm_lite.reward_model import PointwiseScore, Verdict
    from rubric_arm_lite.reward_model.label import LabelingState

RubricTextOption = Annotated[str | None, Option("--rubric", help="Criteria to use in place of the model's.")]
TargetArgument = Annotated[Path | None, Argument(metavar="TARGET", help="JSONL to write (default: standard output).")]
VotesOption = Annotated[int, Option(min=1, help="Judgements per order; more than one are sampled.")]
COLAB_HOSTS = (".colab.dev", ".colab.googleusercontent.com")
"""Names under which Colab shows a port of its machine to the notebook's owner."""
PortOption = Annotated[int, Option(min=0, max=65535, help="Port; 0 takes a free one.")]
HostNameOption = Annotated[
    list[str] | None,
    Option("--allow-host", help="A host name that requests may use, for a proxy; .example.org: all below it."),
]
SecondsOption = Annotated[float, Option("--timeout", min=0.1, max=86_400, help="Seconds per request, with waiting.")]


@common.with_source
def rubric(
    source: common.ModelSource,
    prompt: Annotated[str, Argument(help="The prompt to write a rubric for; - reads standard input.")],
    as_json: common.JsonOption = False,
) -> None:
    """Write a rubric for a prompt."""
    text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if prompt == "-" else prompt
    _check_text("the prompt", text)
    model = source.load()
    common.warn_unknown_words(model, text)
    written = model.rubric(text)
    criteria = [{"text": c.text, "kind": c.kind.label} for c in written.criteria]
    row = {"status": written.status.value, "text": written.text, "criteria": criteria}
    common.print_result(row, as_json, lambda: common.say(written.text))
    if not written.usable:
        common.warn(f"The rubric is {written.status.value}; no judge is shown it.")


@common.with_source
def judge(
    source: common.ModelSource,
    file: Annotated[Path | None, Argument(metavar="SOURCE", help="JSONL of prompt, response_a, response_b.")] = None,
    target: TargetArgument = None,
    prompt: Annotated[str | None, Option(help="One pair: its prompt …")] = None,
    response_a: Annotated[str | None, Option("--a", help="… its first response …")] = None,
    response_b: Annotated[str | None, Option("--b", help="… and its second.")] = None,
    rubric_text: RubricTextOption = None,
    votes: VotesOption = 1,
    overwrite: common.OverwriteOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Judge one pair (--prompt, --a, --b), or a JSONL file of pairs, in both orders."""
    texts = _one_case(file, "pair", {"--prompt": prompt, "--a": response_a, "--b": response_b})
    if file is None:
        model = source.load()
        common.warn_unknown_words(model, *texts)
        verdict = model.compare(texts[0], texts[1], texts[2], rubric_text, votes)
        common.print_result(verdict_row("pair", verdict), as_json, lambda: print_verdict(verdict))
        return
    check_target(file, target, overwrite)
    pairs = load_responses(file, "response_a", "response_b")
    cases = [(pair.prompt, pair.responses[0], pair.responses[1], pair.rubric or rubric_text) for pair in pairs]
    verdicts = source.load().compare_many(cases, votes, [f"{file}, pair {pair.set_id}" for pair in pairs])
    rows = [verdict_row(pair.set_id, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]
    winners = sum(verdict.winner is not None for verdict in verdicts)
    write_rows(rows, target, f"{len(pairs)} pairs judged, {winners} with a winner")


@common.with_source
def score(
    source: common.LocalSource,
    file: Annotated[Path | None, Argument(metavar="SOURCE", help="JSONL of prompt, response, perhaps rubric.")] = None,
    target: TargetArgument = None,
    prompt: Annotated[str | None, Option(help="One case: its prompt …")] = None,
    response: Annotated[str | None, Option(help="… and its response.")] = None,
    rubric_text: RubricTextOption = None,
    justify: Annotated[bool | None, Option(help="Reason before each answer (default: as it was trained).")] = None,
    overwrite: common.OverwriteOption = False,
    as_json: common.JsonOption = False,
) -> None:
    """Score one response (--prompt, --response), or a JSONL file of them, criterion by criterion."""
    texts = _one_case(file, "case", {"--prompt": prompt, "--response": response})
    if file is not None:
        check_target(file, target, overwrite)
    responses = [] if file is None else load_responses(file, "response")
    model = source.load()
    if not model.recipe.pointwise:
        common.warn(
            "This judge was trained to compare two responses (reward.judge: pairwise), not to score one. Use judge, or "
            "a run with reward.judge: pointwise."
        )
    if file is None:
        common.warn_unknown_words(model, *texts)
        value = model.score(texts[0], texts[1], rubric_text, justify)
        common.print_result(score_row("case", value), as_json, lambda: print_score(value))
        return
    cases = [(row.prompt, row.responses[0], row.rubric or rubric_text) for row in responses]
    scores = model.score_many(cases, justify, [f"{file}, case {row.set_id}" for row in responses])
    rows = [score_row(row.set_id, value) for row, value in zip(responses, scores, strict=True)]
    scored = sum(value.value is not None for value in scores)
    write_rows(rows, target, f"{len(rows)} responses judged, {scored} with a score")


@common.with_source
def label(
    source: common.ModelSource,
    file: Annotated[
        Path, Argument(metavar="SOURCE", help="Rows of prompt, responses (a list) or response_a, response_b.")
    ],
    target: Annotated[Path, Argument(metavar="TARGET", help="JSONL of prompt, chosen, rejected to write.")],
    votes: VotesOption = 1,
    keep_all: Annotated[
        bool, Option("--keep-all", help="Keep pairs with any majority, even if the orders disagree.")
    ] = False,
    batch: Annotated[int, Option(min=1, help="Pairs judged between two saves.")] = 64,
    if_exists: common.ContinueOption = "resume",
    as_json: common.JsonOption = False,
) -> None:
    """Label responses: judge every two of a prompt in both orders and write pairs; a killed job resumes."""
    with common.progress_bar("label", MofNCompleteColumn(), "{task.fields[speed]}") as bar:
        task = bar.add_task("label", total=None, speed="loading")

        def show(now: LabelingState) -> None:
            bar.update(task, completed=now.done, total=now.total, speed=_speed(now))

        counts = reward_model.label_responses(file, target, source.load, votes, keep_all, batch, if_exists, show)
    row = {**asdict(counts), "written": str(target)}
    common.print_result(row, as_json, lambda: print_label_counts(counts, target))


# --- over HTTP -------------------------------------------------------------------------------------------------------


@common.with_source
def serve(
    source: common.ModelSource,
    host: Annotated[str, Option(help="Address to listen at; beyond this machine, see --key-env.")] = "127.0.0.1",
    port: PortOption = 8000,
    batch: Annotated[int, Option(min=1, help="Requests per batch, at most.")] = 32,
    wait: Annotated[float, Option("--wait-ms", min=0, max=60_000, help="Milliseconds to wait for others.")] = 5.0,
    queue: Annotated[int, Option(min=1, help="Requests that may wait; more are refused (503).")] = 256,
    seconds: SecondsOption = 300.0,
    key_env: Annotated[str | None, Option(help="Environment variable with the key that requests must carry.")] = None,
    allow_host: HostNameOption = None,
    log_requests: Annotated[
        bool, Option("--log-requests", help="Log method, path, status and time of each request; no texts.")
    ] = False,
    _page: bool = False,
) -> None:
    """Serve a run over HTTP: /v1/rubric, /v1/compare, /v1/score, /healthz, /docs."""
    # With the page, every state of a run that is on this machine can be asked.
    from rubric_arm_lite.reward_model.serve import server

    server.check_installed()
    key = None if key_env is None else server.key_from(key_env)
    hosts = (*host_names(allow_host or ()), host.lower())
    with server.bind(host, port) as bound:
        if key is None and not server.is_loopback(bound):
            common.warn(
                f"Listening at {host} with no API key set: anyone who can reach this port can use the service. See "
                "--key-env."
            )
        model = source.load()
        from rubric_arm_lite.reward_model.serve.app import build_app
        from rubric_arm_lite.reward_model.serve.batcher import BatchedJudge, Batcher, settings_of
        from rubric_arm_lite.reward_model.serve.security import SecuritySettings

        # A run has states to choose from, but not together with an adapter of another run.
        folder = source.run if source.server is None and source.run.is_dir() and not source.swapped else None
        judge = BatchedJudge(model, source.state, folder, all_states=_page)
        batcher = Batcher(judge.answer, batch, wait / 1000, queue, settings_of)
        security = SecuritySettings(hosts, key, max_open=queue + 4 * batch, log_requests=log_requests)
        name = source.run.name or str(source.run)
        app = build_app(name, judge, batcher, security, seconds, _page)
        logging.basicConfig(format="%(asctime)s %(message)s")
        logging.getLogger("rubric_arm_lite.reward_model.serve").setLevel(logging.INFO)
        url = server.url_of(bound, host)
        what = f"The page for {name} is at" if _page else f"Serving {name} ({source.state}) at"
        started = f"{what} {url} (list of paths: {url}docs; Ctrl-C stops)"
        answered = server.run(app, bound, seconds, lambda: common.say(started, flush=True))
        common.err.print("Stopped." if answered else "Stopped at once; the requests in progress are lost.")


@common.with_source
def play(
    source: common.ModelSource,
    port: PortOption = 8001,
    seconds: SecondsOption = 300.0,
    allow_host: HostNameOption = None,
) -> None:
    """Open a page on this machine: judge a pair, change the rubric, flip through the run's checkpoints."""
    reward_model.check_compares(recipe_of(source.run))  # the page does nothing else
    colab = any(name.startswith("COLAB_") for name in os.environ)
    hosts = [*(allow_host or ()), *(COLAB_HOSTS if colab else ())]
    serve(**vars(source), port=port, seconds=seconds, allow_host=hosts, _page=True)


def host_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of ``--allow-host`` as a request's Host is compared with them: in lower case, without a last dot.

    Raises:
        ConfigError: for what no Host could equal.
    """
    for name in names:
        if re.fullmatch(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", name, re.ASCII | re.IGNORECASE) is None:
            raise ConfigError(
                f"--allow-host {name}: give a name alone, such as box.example.org, or .example.org for all below it."
            )
    return tuple(name.lower().removesuffix(".") for name in names)


# --- output -----------------------------------------------------------------------------------------------------


def print_label_counts(counts: LabelingState, target: Path) -> None:
    """Print how many pairs were kept, why others were skipped, and the speed."""
    kept = counts.reasons.get("kept", 0)
    common.say(f"{kept} of {counts.total} pairs kept ({kept / counts.total:.0%}), written to {target}")
    skipped = [f"{reason} {count}" for reason, count in counts.reasons.items() if reason != "kept"]
    if skipped:
        common.say(f"Skipped: {', '.join(skipped)}")
    earlier = counts.total - counts.judged - counts.reasons.get("equal responses", 0)
    before = f" ({earlier} had been judged before)" if earlier > 0 else ""
    common.say(f"{counts.judged} judged in {counts.seconds:.1f} s{before}: {_speed(counts)}")


def print_verdict(verdict: Verdict) -> None:
    """Print the rubric, the first judgement, the winners in both orders and the verdict."""
    common.say(verdict.rubric.text.strip())
    if not verdict.original:
        common.say(f"\nThe rubric is {verdict.rubric.status.value}; nothing was judged.")
        return
    samples = len(verdict.original)
    if samples > 1:
        common.say(f"\nOne of {samples} samples in the order given:")
    common.say(f"\n{verdict.original[0].text.strip()}\n")
    winners = [side or "none" for side in verdict.winners]
    for order, sides in (("in the order given", winners[:samples]), ("with the two swapped", winners[samples:])):
        counts = ", ".join(f"{side} {sides.count(side)}" for side in ("A", "B", "none") if side in sides)
        common.say(f"Votes {order}: {counts}")
    winner = "none" if verdict.winner is None else f"Response {verdict.winner}"
    common.say(f"Verdict over both orders: {winner} ({verdict.confidence:.0%} of votes)")


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
    common.say(score.rubric.text.strip())
    if score.text:
        common.say(f"\n{score.text.strip()}")
    if score.value is None:
        writer = "judge" if score.rubric.usable else "rubric"
        common.say(f"\nNo score: the {writer} wrote something that cannot be read.")
        return
    common.say()
    for number, answer in enumerate(score.answers, start=1):
        common.say(f"{number}. met {answer.p_true:.3f}, not met {answer.p_false:.3f}")
    common.say(f"Score from -1 to 1: {score.value:.3f}")


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
        try:
            atomic_write(target, text.encode())
        except OSError:
            print(safe_json(text), end="")
            common.warn(f"{target} cannot be written; its rows were printed in place of written.")
            raise
        common.err.print(f"{summary}, written to {target}")


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
    pairs, tokens = (now.judged / now.seconds, now.tokens / now.seconds) if now.seconds else (0.0, 0.0)
    return f"{pairs:.1f} pairs/s, {tokens:.0f} tokens/s, rubrics written: {now.rubrics} ({cached:.0%} from the cache)"
