"""Data synthesis: what is kept, why the rest is lost, and that a killed job asks nothing twice."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_arm_lite.cli import main as cli
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError
from rubric_arm_lite.models.journaled import JournaledSampler
from rubric_arm_lite.models.server import ServerSampler, ServerSettings
from rubric_arm_lite.prompts.builder import PromptBuilder, Templates
from rubric_arm_lite.prompts.parsing import parse_judgement, parse_rubric
from rubric_arm_lite.runs.journal import Journal
from rubric_arm_lite.training.synthesize import Outcome, SynthesisSettings, Synthesizer, warmup_rows
from rubric_arm_lite.training.warmup import role_examples, warm_up_role
from rubric_arm_lite.types import Example, Message, ParseStatus, PreferencePair
from tests.cli.test_cli import call
from tests.fake_server import FakeServer, Reply, Request, serve
from tests.players import RUBRIC_TEXT, judgement, pair, section
from tests.scripted import Script, ScriptedSampler, Written
from tests.source_rows import load_trajectories
from tests.teachers import pairs, teaching, write_pairs
from tests.tiny import make_folder
from tests.training.test_warmup import SETTINGS, fresh, quiet
from tests.warm import begin, kill_when
from tests.warm import command as rubric_arm

JOB = {"answers of": "teacher"}


class Teacher(ScriptedSampler):
    """A scripted sampler without control tokens."""

    def control_tokens(self) -> list[str]:
        return []


def right(adapter: str | None, example: Example, index: int) -> Written:
    """Writes a fixed rubric, and judges that what begins with ``good`` is better."""
    if "<preferred_response>" in example.prompt:
        return RUBRIC_TEXT
    return judgement(
        parse_rubric(section("rubric", example.prompt)),
        "A" if section("response_a", example.prompt).startswith("good") else "B",
    )


def synthesize(script: Script, pairs: Sequence[PreferencePair], **changes: Any) -> tuple[Any, Teacher]:
    teacher = Teacher(script)
    return Synthesizer(teacher, SynthesisSettings(**changes)).run(pairs), teacher


# --- what is asked and kept -----------------------------------------------------------------------------------------


def test_good_texts_are_kept_in_the_order_of_the_pairs() -> None:
    pairs = [pair(str(i)) for i in range(5)]
    synthesis, teacher = synthesize(right, pairs)
    assert [t.pair for t in synthesis.kept] == pairs
    assert synthesis.attempts == Counter({Outcome.KEPT: 5, Outcome.TOO_LONG: 0}) and not synthesis.lost
    rubrics = [p for p in teacher.prompts(None) if "<preferred_response>" in p]
    judged = [p for p in teacher.prompts(None) if "<rubric>" in p]
    assert len(rubrics) == 5 and len(judged) == 10


def test_only_the_writer_of_the_rubric_is_told_the_label() -> None:
    _, teacher = synthesize(right, [pair("x")])
    contrast, *judged = teacher.prompts(None)
    assert section("preferred_response", contrast) == "good x" and section("other_response", contrast) == "poor x"
    shown = {(section("response_a", p), section("response_b", p)) for p in judged}
    assert shown == {("good x", "poor x"), ("poor x", "good x")}
    first, second = (p.replace("good x", "?").replace("poor x", "?") for p in judged)
    assert first == second, "nothing but the order may differ"
    assert "preferred" not in first


def test_rows_are_what_the_warm_up_reads(tmp_path: Path) -> None:
    turns = (Message("user", "hi"), Message("assistant", "hello"), Message("user", "a note"))
    pairs = [pair("a"), PreferencePair("b", turns, "good b", "poor b")]
    synthesis, _ = synthesize(right, pairs)
    path = tmp_path / "warm.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in warmup_rows(synthesis.kept, seed=0)))
    rows = load_trajectories(path)
    assert [row.prompt for row in rows] == [p.prompt for p in pairs]
    for row in rows:
        rubric = parse_rubric(row.rubric)
        verdict = parse_judgement(row.judgement, rubric)
        assert rubric.usable and verdict.status is ParseStatus.OK
        assert verdict.winner == ("A" if row.response_a.startswith("good") else "B")


@given(st.integers(0, 60), st.integers(0, 5))
@settings(max_examples=25)
def test_either_order_stands_first_equally_often(count: int, seed: int) -> None:
    synthesis, _ = synthesize(right, [pair(str(i)) for i in range(count)])
    first = [row["response_a"].startswith("good") for row in warmup_rows(synthesis.kept, seed)]
    assert sum(first) == count // 2
    assert [row["response_a"].startswith("good") for row in warmup_rows(synthesis.kept, seed)] == first
    if count > 20:
        assert first != [row["response_a"].startswith("good") for row in warmup_rows(synthesis.kept, seed + 1)]


# --- why pairs are lost ---------------------------------------------------------------------------------------------


def with_rubric(text: Written) -> Script:
    return lambda adapter, example, i: text if "<preferred_response>" in example.prompt else right(adapter, example, i)


def with_judgement(change: Any) -> Script:
    def script(adapter: str | None, example: Example, index: int) -> Written:
        text = right(adapter, example, index)
        return text if "<preferred_response>" in example.prompt else change(text, example)

    return script


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (with_rubric("no list"), Outcome.RUBRIC_UNPARSED),
        (with_rubric((RUBRIC_TEXT, "length")), Outcome.TOO_LONG),
        (with_rubric("1. The response is kinder than Response B [Principle]"), Outcome.NAMES_A_RESPONSE),
        (with_rubric('1. The response says "good x" [Hard Rule]'), Outcome.QUOTES_A_RESPONSE),
        (with_judgement(lambda text, _: (text, "length")), Outcome.TOO_LONG),
        (with_judgement(lambda text, _: "Hm.\n" + text), Outcome.JUDGEMENT_UNPARSED),
        (with_judgement(lambda text, _: text + "\nWinner: Response A"), Outcome.JUDGEMENT_UNPARSED),
        (with_judgement(lambda text, _: text[:-1] + "A"), Outcome.WRONG_IN_ONE_ORDER),
        (with_judgement(lambda text, _: text[:-1] + "AB"[text.endswith("A")]), Outcome.WRONG_IN_BOTH),
    ],
)
def test_each_fault_is_counted_by_its_name(script: Script, outcome: Outcome) -> None:
    synthesis, teacher = synthesize(script, [pair("x")], attempts=2)
    assert not synthesis.kept
    assert +synthesis.attempts == Counter({outcome: 2}) and synthesis.lost == Counter({outcome: 1})
    seeds = {example.seed for call in teacher.calls for example in call.examples}
    assert len(seeds) == sum(len(call.examples) for call in teacher.calls), "each attempt draws anew"


def test_a_later_attempt_may_be_kept() -> None:
    calls: Counter[str] = Counter()

    def script(adapter: str | None, example: Example, index: int) -> Written:
        calls[example.prompt] += 1
        return (
            "no list"
            if "<preferred_response>" in example.prompt and calls[example.prompt] < 3
            else right(adapter, example, index)
        )

    synthesis, _ = synthesize(script, [pair("x")], attempts=3)
    assert len(synthesis.kept) == 1 and not synthesis.lost
    assert +synthesis.attempts == Counter({Outcome.RUBRIC_UNPARSED: 2, Outcome.KEPT: 1})


def test_what_the_context_cannot_hold_is_not_asked() -> None:
    long = PreferencePair("long", "request", "good " * 500, "poor")
    synthesis, teacher = synthesize(
        right, [long, pair("x")], max_context=2600, rubric_max_tokens=100, judge_max_tokens=100
    )
    assert [t.pair.pair_id for t in synthesis.kept] == ["id-x"] and synthesis.lost == Counter({Outcome.TOO_LONG: 1})
    assert not any("good good" in prompt for prompt in teacher.prompts(None))
    # Here the rubric's prompt still fits, but no longer the judge's.
    synthesis, teacher = synthesize(right, [pair("x")], max_context=2600, rubric_max_tokens=100, judge_max_tokens=2000)
    assert synthesis.lost == Counter({Outcome.TOO_LONG: 1}) and len(teacher.prompts(None)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"temperature": 0.0}, "every attempt would write the same"), ({"attempts": 0}, "at least 1")],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SynthesisSettings(**changes)


# --- stopped and continued ------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *given, **named: None)
    with serve(teaching()) as server:
        yield server


def asked_twice(requests: Sequence[Request]) -> int:
    """Requests that had been made before."""
    return len(requests) - len({json.dumps(request.body, sort_keys=True) for request in requests})


def ask(server: FakeServer, part: Path, count: int, concurrency: int = 3) -> tuple[Any, JournaledSampler]:
    asking = ServerSampler(ServerSettings(server.url, base_model="teacher", concurrency=concurrency, retries=0))
    try:
        with Journal.open(part, JOB) as journal:
            teacher = JournaledSampler(asking, journal)
            return Synthesizer(teacher, SynthesisSettings()).run(pairs(count)), teacher
    finally:
        asking.close()


def test_a_server_that_fails_at_any_request_costs_only_what_was_in_flight(served: FakeServer, tmp_path: Path) -> None:
    whole, first = ask(served, tmp_path / "whole.part", 12)
    total = len(served.requests)
    assert first.sampled == len(first.used) == total and whole.lost and whole.kept
    good = served.behavior
    rng = random.Random(5)
    for stop in sorted(rng.sample(range(1, total), 4)):
        part = tmp_path / f"{stop}.part"
        served.requests.clear()
        served.behavior = lambda request, n=stop: good(request) if len(served.requests) < n else Reply(403, b"no")
        with pytest.raises(BackendError, match="403"):
            ask(served, part, 12)
        served.behavior = good
        resumed, second = ask(served, part, 12)
        assert resumed == whole and second.used == first.used
        assert asked_twice(served.requests) <= 3, "no more than the requests that were in flight"
        again, third = ask(served, part, 12)
        assert again == whole and third.sampled == 0


@pytest.mark.parametrize("stop", [1, 7, 15, 29])
def test_a_script_that_fails_is_continued_piece_by_piece(stop: int, tmp_path: Path) -> None:
    pairs = [pair(str(i)) for i in range(10)]
    whole, _ = synthesize(right, pairs)
    written = 0

    def failing(adapter: str | None, example: Example, index: int) -> Written:
        nonlocal written
        written += 1
        if written == stop:
            raise KeyboardInterrupt
        return right(adapter, example, index)

    def go_on() -> Any:
        with Journal.open(tmp_path / "x.part", JOB) as journal:
            return Synthesizer(JournaledSampler(Teacher(failing), journal, piece=2), SynthesisSettings()).run(pairs)

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert go_on() == whole and written <= 30 + 2


def test_more_pairs_and_attempts_go_on_from_what_is_there(served: FakeServer, tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    few, _ = ask(served, part, 4)
    before = len(served.requests)
    more, teacher = ask(served, part, 8)
    assert more.kept[: len(few.kept)] == few.kept
    assert teacher.sampled == len(served.requests) - before and asked_twice(served.requests) == 0


def test_a_journal_keeps_one_completion_per_example(tmp_path: Path) -> None:
    from rubric_arm_lite.models.sampler import Sampling

    with Journal.open(tmp_path / "x", JOB) as journal, pytest.raises(ValueError, match="one completion"):
        JournaledSampler(Teacher(right), journal).sample(None, [], Sampling(5, 2))


# --- the command line -----------------------------------------------------------------------------------------------


def command(source: Path, target: Path, url: str, *more: str) -> list[str]:
    return ["data", "synthesize", str(source), str(target), "--server", url, "--model", "teacher", *more]


def test_a_killed_command_is_run_again(served: FakeServer, tmp_path: Path) -> None:
    source, target, log = write_pairs(tmp_path / "pairs.jsonl", 16), tmp_path / "out" / "warm.jsonl", tmp_path / "log"
    served.behavior = teaching(delay=0.03)
    running = begin(rubric_arm, *command(source, target, served.url, "--concurrency", "2"), log=log)
    kill_when(lambda: len(served.requests) >= 15, running, log)
    assert not target.exists()
    done = call(*command(source, target, served.url, "--json", "--price-in", "2", "--price-out", "10"))
    assert done.returncode == 0, done.stderr
    assert asked_twice(served.requests) <= 2
    report = json.loads(done.stdout)
    requests = len(served.requests) - asked_twice(served.requests)
    assert report["requests"] == requests > report["requests_now"] > 0
    assert report["completion_tokens"] == 10 * requests
    assert report["cost"] == pytest.approx((2 * report["prompt_tokens"] + 10 * report["completion_tokens"]) / 1e6)
    assert report["kept"] + sum(report["lost"].values()) == report["pairs"] == 16
    rows = load_trajectories(target)
    assert len(rows) == report["kept"] > 8
    served.requests.clear()
    before = target.read_bytes()
    target.unlink()
    assert call(*command(source, target, served.url)).returncode == 0
    assert target.read_bytes() == before and not served.requests


def test_what_the_teacher_wrote_warms_up_both_roles(
    served: FakeServer, tmp_path: Path, tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_pairs(tmp_path / "pairs.jsonl", 12), tmp_path / "warm.jsonl"
    run(monkeypatch, *command(source, target, served.url))
    model = fresh(tiny_folder("qwen3"))
    rows = load_trajectories(target)
    for role in ("rubric", "judge"):
        prompts = PromptBuilder(Templates.load(), model.control_tokens())
        examples, too_long = role_examples(rows, role, model, prompts)
        assert len(examples) == len(rows) >= 6 and too_long == 0
        losses = warm_up_role(model, role, examples, SETTINGS, 0, tmp_path / role, quiet)
        assert losses[-1][1] < losses[0][1]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rubric-arm", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_table_and_a_teacher_that_is_never_right(
    served: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_pairs(tmp_path / "pairs.jsonl", 6), tmp_path / "warm.jsonl"
    words = command(source, target, served.url, "--attempts", "2", "--limit", "5")
    assert run(monkeypatch, *words) == 0
    printed = capsys.readouterr()
    assert "of 5 pairs kept" in printed.out and "wrong in one order" in printed.out
    assert "rows written to" in printed.err
    served.behavior = teaching(good=0.0)
    target = tmp_path / "none.jsonl"
    assert run(monkeypatch, *command(source, target, served.url, "--attempts", "1")) == 2
    printed = capsys.readouterr()
    assert "No pair of" in printed.err and "0 of 6 pairs kept" in printed.out and not target.exists()


def test_calls_that_cannot_work(
    served: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_pairs(tmp_path / "pairs.jsonl", 2), tmp_path / "warm.jsonl"

    def refused(*words: str) -> str:
        assert run(monkeypatch, *words) == 2
        printed = capsys.readouterr()
        assert not printed.out
        return " ".join(printed.err.split())

    base = command(source, target, served.url)
    assert "must end in .jsonl" in refused(*command(source, tmp_path / "warm.csv", served.url))
    assert "also the input" in refused(*command(source, source, served.url))
    assert "'maybe' is not one of" in refused(*base, "--if-exists", "maybe")
    assert "at 0 every attempt" in refused(*base, "--temperature", "0").lower()
    assert "Give --server" in refused(*base[:4], "--model", "teacher", "--server-key-env", "KEY")
    assert "--nf4 is for a model" in refused(*base, "--nf4")
    assert "There is no file" in refused(*command(tmp_path / "no.jsonl", target, served.url))
    assert "does not exist" in refused(*base[:4], "--model", "./nowhere")
    target.write_text("mine\n")
    assert "exists and is not replaced" in refused(*base)
    assert target.read_text() == "mine\n" and not served.requests
    assert run(monkeypatch, *base, "--if-exists", "overwrite") == 0
    capsys.readouterr()
    assert "another job" in refused(*base[:-1], "another")
    assert "exists" in refused(*base, "--if-exists", "raise")


def test_a_model_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_pairs(tmp_path / "pairs.jsonl", 2), tmp_path / "warm.jsonl"
    short = ("--max-context", "512", "--rubric-max-tokens", "8", "--judge-max-tokens", "8", "--attempts", "1", "--json")
    folder = make_folder("qwen3", tmp_path / "model", max_position_embeddings=512)
    words = ("data", "synthesize", str(source), str(target), "--model", str(folder), *short)
    assert run(monkeypatch, *words) == 2  # random weights write no rubric
    report = json.loads(capsys.readouterr().out)
    assert report["requests"] == report["requests_now"] == 2 and report["prompt_tokens"] > 0
    assert report["lost"]["rubric unparsed"] + report["lost"]["too long"] == 2
    assert run(monkeypatch, *words) == 2
    assert json.loads(capsys.readouterr().out)["requests_now"] == 0


def test_a_journal_in_use_is_left_alone(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "x.part", JOB), pytest.raises(CheckpointError, match="in use"):
        Journal.open(tmp_path / "x.part", JOB).__enter__()
