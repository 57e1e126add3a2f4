"""Judges beside each other: every number against one worked by hand, and the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rubric_arm_lite.cli import main as cli
from rubric_arm_lite.cli.evaluate import markdown
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.evaluation.efficiency import JUDGES, JudgeName, check_judges, measure
from rubric_arm_lite.models.journaled import MeteredSampler, answered
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe.load import dump_recipe
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.types import Example, PreferencePair, Side
from tests.fake_server import scripted, serve
from tests.players import RUBRIC_TEXT, judgement, pair, recipe, section
from tests.scripted import ScriptedSampler, Written

ROOMY = recipe(model={"max_context": 16384}, evaluation={"bootstrap": 50})
PAIRS = [pair("a"), pair("b"), pair("c"), pair("d")]


class ChatScript(ScriptedSampler):
    """A scripted sampler without control tokens."""

    def control_tokens(self) -> list[str]:
        return []


def direct(winner: Side) -> str:
    return f"--- Final Judgment ---\nJustification: it is better.\nWinner: Response {winner}"


def player(adapter: str | None, example: Example, index: int) -> Written:
    """Trained adapters are right; the base sees A by a rubric; without one it errs on some pairs and some draws."""
    prompt = example.prompt
    if "<response_a>" not in prompt:
        return RUBRIC_TEXT
    right: Side = "A" if section("response_a", prompt).startswith("good") else "B"
    if "<rubric>" in prompt:
        return judgement(parse_rubric(section("rubric", prompt)), right if adapter == "judge" else "A")
    if "Think it through" in prompt:
        return f"<think>\n{direct('A')}\nOr not?" + ("" if "request d" in prompt else f"\n</think>\n{direct(right)}")
    return "Hard to say." if index == 0 and "request a" in prompt else direct(right)


def measured(
    names: Sequence[JudgeName] = JUDGES, pairs: Sequence[PreferencePair] = PAIRS, limit: int = 100, **changes: Any
) -> tuple[dict[str, dict[str, Any]], ChatScript, dict[str, Any]]:
    sampler = ChatScript(player)
    result = measure(RubricRewardModel(sampler, ROOMY), pairs, names, limit, **{"votes": 3, **changes})
    return {judge["name"]: judge for judge in result["judges"]}, sampler, result


def test_good_texts_are_scored_right() -> None:
    judges, _, _ = measured()
    values = ("accuracy", "accuracy_original", "accuracy_swapped", "position_bias", "unparsed", "truncated")
    assert {name: tuple(judge[value] for value in values) for name, judge in judges.items()} == {
        "trained": (1.0, 1.0, 1.0, 0.0, 0.0, 0.0),
        "base": (0.5, 1.0, 0.0, 1.0, 0.0, 0.0),
        "direct": (0.875, 0.875, 0.875, 0.0, 0.25, 0.0),
        "reasoning": (0.875, 0.875, 0.875, 0.0, 0.25, 0.25),
        "votes": (1.0, 1.0, 1.0, 0.0, 0.0, 0.0),
    }
    assert [judges[name]["rubric_usable"] for name in JUDGES] == [1.0, 1.0, None, None, None]


def test_tokens_by_hand() -> None:
    judges, _, _ = measured()
    rubric, verdict, plain = (
        len(text) + 1 for text in (RUBRIC_TEXT, judgement(parse_rubric(RUBRIC_TEXT), "A"), direct("A"))
    )
    trained = judges["trained"]
    assert trained["rubric"]["tokens"] == 4 * rubric and trained["rubric"]["requests"] == 4
    assert trained["judge"]["tokens"] == trained["other_order"]["tokens"] == 4 * verdict
    assert trained["tokens"] == 4 * (rubric + verdict), "the other order is not in the total"
    assert trained["tokens_per_pair"] == trained["tokens_p50"] == trained["tokens_p95"] == rubric + verdict
    assert judges["direct"]["rubric"] is None
    assert judges["direct"]["tokens"] == 3 * plain + len("Hard to say.") + 1
    assert judges["votes"]["tokens"] == 11 * plain + len("Hard to say.") + 1
    for judge in judges.values():
        parts = [judge["rubric"], judge["judge"]]
        assert judge["seconds"] == pytest.approx(sum(p["seconds"] for p in parts if p), abs=1e-3)
        assert judge["seconds_per_pair"] == judge["seconds"] / 4 > 0
        assert judge["one_by_one"] is None


def test_a_rubric_is_written_once_per_prompt_and_counts_for_each_pair() -> None:
    shared = [PreferencePair(str(i), "request", f"good {i}", f"poor {i}") for i in range(3)]
    judges, sampler, result = measured(["trained"], shared)
    assert len(sampler.prompts("rubric")) == 1 and result["settings"]["prompts"] == 1
    trained = judges["trained"]
    assert trained["tokens_p50"] == trained["rubric"]["tokens"] + trained["judge"]["tokens"] / 3


def test_what_each_judge_is_asked() -> None:
    _, sampler, result = measured(thinking_tokens=500, votes=4)
    calls = {(call.adapter, call.sampling) for call in sampler.calls}
    evaluation = ROOMY.evaluation
    rubrics, verdicts = Sampling(evaluation.rubric_max_tokens, 1, 0.0), Sampling(evaluation.judge_max_tokens, 1, 0.0)
    assert calls == {
        ("rubric", rubrics),
        ("judge", verdicts),
        (None, rubrics),
        (None, verdicts),
        (None, Sampling(500, 1, 0.0, thinking=True)),
        (None, Sampling(evaluation.judge_max_tokens, 4, 1.0)),
        ("judge", Sampling(4, 1, 0.0)),
    }
    shown = {example.prompt for call in sampler.calls if call.adapter is None for example in call.examples}
    assert not any("preferred" in prompt for prompt in shown)
    assert result["settings"]["thinking_tokens"] == 500


def test_thoughts_have_the_room_that_the_context_leaves() -> None:
    _, sampler, result = measured(["reasoning"], thinking_tokens=10**6)
    (limit,) = {call.sampling.max_tokens for call in sampler.calls if call.sampling.thinking}
    longest = max(len(e.prompt.encode()) for c in sampler.calls if c.sampling.thinking for e in c.examples)
    assert longest + limit < ROOMY.model.max_context < longest + limit + 20
    assert any("no room" in note for note in result["notes"])


def test_pairs_one_by_one() -> None:
    judges, sampler, _ = measured(["trained", "direct"], one_by_one=3)
    for judge in judges.values():
        alone = judge["one_by_one"]
        assert alone["pairs"] == 3 and 0 < alone["p50"] <= alone["p95"]
    rubrics = [len(call.examples) for call in sampler.calls if call.adapter == "rubric"]
    assert rubrics == [4, 1, 1, 1]


def test_pairs_that_are_too_long_are_skipped_and_counted() -> None:
    long = PreferencePair("long", "request x", "good " * 5000, "poor")
    _, sampler, result = measured(["direct"], [long, *PAIRS], limit=2)
    assert result["settings"]["pairs"] == 2 and result["settings"]["skipped_too_long"] == 1
    assert {e.example_id for call in sampler.calls for e in call.examples} == {"warm-up", "id-a", "id-b"}
    with pytest.raises(DataError, match="None of the pairs fits"):
        measured(["direct"], [long])


def test_which_judges() -> None:
    assert check_judges([], trained=True) == list(JUDGES)
    assert check_judges([], trained=False) == ["base", "direct", "reasoning", "votes"]
    assert check_judges(["votes", "base"], trained=False) == ["base", "votes"]
    assert check_judges([], trained=True, base=False) == ["trained"]
    with pytest.raises(ConfigError, match="two full checkpoints have none"):
        check_judges(["trained", "direct"], trained=True, base=False)
    with pytest.raises(ConfigError, match="Give --run"):
        check_judges(["trained"], trained=False)
    with pytest.raises(ConfigError, match=r"not a judge\. Use one of trained, base"):
        check_judges(["best"], trained=True)


def test_the_table_marks_the_papers_figures_as_theirs() -> None:
    _, _, result = measured(one_by_one=1)
    text = markdown(result)
    for title in ("trained rubric + judge", "base rubric + judge", "direct", "long reasoning", "direct, 3 votes"):
        assert f"| {title} |" in text
    assert "| base rubric + judge | 0.500 |" in text and "| Rubric-ARM (8B) | 33.50 |" in text
    assert "other hardware and other data" in text
    json.dumps(result)


def test_a_meter_counts_what_a_server_says() -> None:
    from rubric_arm_lite.models.server import ServerSampler, ServerSettings

    examples = [Example(f"e{i}", f"prompt {i}", i) for i in range(5)]
    with serve(scripted(lambda adapter, example, index: "x" * int(example.prompt[-1]))) as server:
        sampler = ServerSampler(ServerSettings(server.url, concurrency=2))
        meter = MeteredSampler(sampler)
        groups, account = meter.timed(lambda: meter.sample("judge", examples, Sampling(9, 1)))
        assert [group.samples[0].text for group in groups] == ["x" * i for i in range(5)]
        assert account.written == {f"e{i}": i + 1 for i in range(5)} and account.requests == 5
        assert account.prompt_tokens == 5 * 2, "8 bytes without a count are taken for 2 tokens"
        sampler.close()
    assert meter.tokens_written == account.completion_tokens == 15


def test_samplers_on_this_machine_are_asked_in_pieces() -> None:
    examples = [Example(f"e{i}", f"prompt {i}", i) for i in range(5)]
    here = ScriptedSampler(lambda adapter, example, index: "xy")
    assert [place for place, _, _ in answered(here, None, examples, Sampling(9), piece=2)] == [0, 1, 2, 3, 4]
    assert [len(call.examples) for call in here.calls] == [2, 2, 1]
    ((_, _, usage),) = answered(here, None, examples[:1], Sampling(9, 2))
    assert (usage.prompt_tokens, usage.completion_tokens) == (len("prompt 0"), 2 * 3)
    assert list(answered(here, None, [], Sampling(9))) == []


# --- the command line -----------------------------------------------------------------------------------------------


def bench(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["bench", "inference", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["rubric-arm", "bench", "inference", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert not printed.out
    return " ".join(printed.err.split())


def test_the_testbeds_base_on_this_machine(tmp_path: Path) -> None:
    printed = bench("--limit", "2", "--votes", "2", "--output", str(tmp_path))
    assert "base rubric + judge" in printed and "trained" not in printed
    assert "thinking is asked for in words only" in printed
    report = json.loads((tmp_path / "bench-inference.json").read_text())
    assert [judge["name"] for judge in report["judges"]] == ["base", "direct", "reasoning", "votes"]
    assert report["settings"]["pairs"] == 2 and report["judges"][0]["judge"]["prompt_tokens"] > 0
    assert (tmp_path / "bench-inference.md").read_text().startswith("## testbed, 2 pairs of 2 prompts")


def test_a_run_behind_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *given, **named: None)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(ROOMY))
    source = tmp_path / "pairs.jsonl"
    rows = [{"id": p.pair_id, "prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in PAIRS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serve(scripted(player)) as server:
        arguments = (
            "--run",
            str(tmp_path),
            "--pairs",
            str(source),
            "--server",
            server.url,
            "--base-model",
            "b",
            "--json",
        )
        judges = {judge["name"]: judge for judge in json.loads(bench(*arguments))["judges"]}
        sent = [(r.prompt, r.body["chat_template_kwargs"]) for r in server.requests if "messages" in r.body]
    expected, _, _ = measured(votes=5)
    for name, judge in expected.items():
        assert {key: judges[name][key] for key in ("accuracy", "unparsed", "tokens", "tokens_p50")} == {
            key: judge[key] for key in ("accuracy", "unparsed", "tokens", "tokens_p50")
        }
    on = {"enable_thinking": True}
    assert any(kwargs == on for _, kwargs in sent)
    assert all("Think it through" in prompt for prompt, kwargs in sent if kwargs == on)


def test_calls_that_cannot_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not a judge" in refused(monkeypatch, capsys, "--judge", "mine")
    assert "Give --run" in refused(monkeypatch, capsys, "--judge", "trained")
    assert "not a run directory" in refused(monkeypatch, capsys, "--run", "nowhere")
    assert "--recipe and --set belong" in refused(monkeypatch, capsys, "--run", "x", "--set", "seed=1")
    assert "Give --base-model" in refused(monkeypatch, capsys, "--server", "http://localhost:1")
    address = ("--server", "http://localhost:1", "--base-model", "b")
    assert "--state latest is for adapters" in refused(monkeypatch, capsys, *address, "--state", "latest")
    assert "There is no file" in refused(monkeypatch, capsys, "--pairs", "nowhere.jsonl")


def test_help_says_that_it_is_there() -> None:
    runner = CliRunner()
    engine = runner.invoke(cli.app, ["bench", "--help"]).output
    assert "bench inference" in engine and "--peer-batch" in engine and " engine" not in engine.split("Options")[0][:60]
    inference = runner.invoke(cli.app, ["bench", "inference", "--help"]).output
    assert "--one-by-one" in inference and "--peer-batch" not in inference
