"""Labeling: what is kept and why, the same file after any kill, and nothing judged twice."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_arm_lite.data.pairs import load_pairs
from rubric_arm_lite.errors import CheckpointError, ConfigError, DataError
from rubric_arm_lite.reward_model.label import LabelingState, label_responses
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.types import Example, Rubric
from tests.cli.test_cli import call, refused
from tests.fake_server import scripted, serve
from tests.players import RUBRIC_TEXT, judgement
from tests.reward_model.test_model import model, prompts_for
from tests.warm import begin


def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
    """Longer is better and of equals the first; ``mute`` first makes the judge speechless."""
    if a.startswith("mute"):
        return "no verdict"
    return judgement(rubric, "A" if len(a) >= len(b) else "B")


def generator(request: str, example: Example, index: int) -> str:
    return "no rubric" if request == "hopeless" else RUBRIC_TEXT


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


ROWS: list[dict[str, Any]] = [
    {"id": "short", "prompt": "p", "response_a": "ab", "response_b": "abc"},
    {"id": "tie", "prompt": "p", "response_a": "ab", "response_b": "cd"},
    {"id": "half", "prompt": "p", "response_a": "mute", "response_b": "ab"},
    {"id": "same", "prompt": "p", "response_a": "ab", "response_b": "ab"},
    {"id": "long", "prompt": "p", "response_a": "x" * 4000, "response_b": "ab"},
    {"id": "hopeless", "prompt": "hopeless", "response_a": "ab", "response_b": "abc"},
    {"id": "three", "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
     "responses": ["a", "abc", "ab"], "rubric": "1. The response is odd [Principle]"},
]  # fmt: skip


def test_what_is_kept_and_why(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    states: list[LabelingState] = []
    reward_model = model(judge, generator)
    state = label_responses(source, target, lambda: reward_model, batch_size=4, watch=states.append)
    rows = read(target)
    assert [(row["id"], row["chosen"], row["rejected"]) for row in rows] == [
        ("short", "abc", "ab"),
        ("three/1-2", "abc", "a"),
        ("three/1-3", "ab", "a"),
        ("three/2-3", "abc", "ab"),
    ]
    assert all(row["confidence"] == 1.0 and row["orders_agree"] for row in rows)
    assert (rows[0]["rubric"], rows[1]["rubric"]) == (RUBRIC_TEXT, "1. The response is odd [Principle]")
    assert rows[1]["prompt"] == ROWS[-1]["prompt"]
    assert state.reasons == {
        "kept": 4,
        "orders disagree": 1,
        "no verdict": 1,
        "equal responses": 1,
        "too long": 1,
        "rubric unusable": 1,
    }
    assert (state.done, state.total, state.judged) == (9, 9, 8)
    assert (
        [now.done for now in states] == [0, 4, 8, 9] and state.rubrics == 2 and state.tokens > 0 and state.seconds > 0
    )
    assert [pair.pair_id for pair in load_pairs(target)] == [row["id"] for row in rows], "it trains as it is"
    assert not (tmp_path / "out.jsonl.part").exists()


def test_keep_all_takes_any_majority(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    state = label_responses(source, target, lambda: model(judge, generator), keep_all=True)
    rows = {row["id"]: row for row in read(target)}
    assert set(rows) == {"short", "half", "three/1-2", "three/1-3", "three/2-3"}
    assert (rows["half"]["chosen"], rows["half"]["confidence"], rows["half"]["orders_agree"]) == ("mute", 0.5, False)
    assert state.reasons["kept"] == 5


def test_votes_decide_by_the_majority_of_each_order(tmp_path: Path) -> None:
    def wavering(a: str, b: str, rubric: Rubric, index: int) -> str:
        return judgement(rubric, "A") if index == 1 else judge(a, b, rubric, index)

    source, target = write(tmp_path / "in.jsonl", ROWS[:1]), tmp_path / "out.jsonl"
    label_responses(source, target, lambda: model(wavering), votes=3)
    assert [(row["chosen"], row["confidence"]) for row in read(target)] == [("abc", 5 / 6)]


# --- kills ----------------------------------------------------------------------------------------------------------

MANY = [
    {"id": f"r{i}", "prompt": f"p{i // 3}", "response_a": "a" * (i % 5 + 1), "response_b": "b" * (i % 3 + 1)}
    for i in range(20)
]


class KilledError(Exception):
    """As a kill, but in this process."""


def killing(after: int) -> Callable[[str, str, Rubric, int], str]:
    """A judge that dies when it is asked once more than ``after`` times."""
    count = iter(range(after))

    def ask(a: str, b: str, rubric: Rubric, index: int) -> str:
        if next(count, None) is None:
            raise KilledError
        return judge(a, b, rubric, index)

    return ask


@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), max_size=4), st.sampled_from([1, 3, 7, 64]))
def test_killed_anywhere_it_ends_with_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], batch: int
) -> None:
    folder = tmp_path_factory.mktemp("kill")
    source, target, whole = write(folder / "in.jsonl", MANY), folder / "out.jsonl", folder / "whole.jsonl"
    unbroken = model(judge)
    label_responses(source, whole, lambda: unbroken, batch_size=batch)
    once = Counter(prompts_for(unbroken, "judge"))
    done: Counter[str] = Counter()
    for after in kills:
        attempt = model(killing(after))
        part = target.with_name("out.jsonl.part")
        before = part.read_bytes() if part.exists() else b""
        try:
            label_responses(source, target, lambda m=attempt: m, batch_size=batch)  # type: ignore[misc]
        except KilledError:
            assert not target.exists() and part.read_bytes().startswith(before)
            committed = [result for row in read(part) if "key" in row for result in row["results"]]
            # The last call is the batch that was lost; all before it was saved.
            calls = [call for call in attempt.model.calls if call.adapter == "judge"]  # type: ignore[attr-defined]
            done.update(example.prompt for call in calls[:-1] for example in call.examples)
            assert len(committed) % batch == 0
        else:
            done.update(prompts_for(attempt, "judge"))
            break
    if not target.exists():
        last = model(judge)
        label_responses(source, target, lambda: last, batch_size=batch)
        done.update(prompts_for(last, "judge"))
    assert target.read_bytes() == whole.read_bytes()
    assert done == once, "nothing that was saved is judged again"


def label(source: Path, target: Path, asked: Path, last: int) -> None:
    """Work for a process that ends by ``kill -9`` when the judge is asked its ``last`` question."""
    count = 0

    def ask(a: str, b: str, rubric: Rubric, index: int) -> str:
        nonlocal count
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        with asked.open("a") as file:
            file.write(f"{a} {b}\n")
        return judge(a, b, rubric, index)

    label_responses(source, target, lambda: model(ask), batch_size=2)


def test_kill_minus_nine(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{i}", "prompt": "p", "response_a": "a" * (i + 1), "response_b": "b" * (i % 4 + 1)} for i in range(9)
    ]
    source, target, log = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", tmp_path / "log"

    def attempt(last: int) -> int | None:
        process = begin(label, source, target, log, last, log=tmp_path / "printed")
        process.join()
        return process.exitcode

    assert attempt(6) == -signal.SIGKILL and not target.exists()
    part = target.with_name("out.jsonl.part")
    assert [len(row["results"]) for row in read(part) if "key" in row] == [2]
    assert len(log.read_text().splitlines()) == 6, "two pairs of the second batch's judgements were under way"
    saved = set(log.read_text().splitlines()[:4])
    log.unlink()
    assert attempt(-1) == 0
    assert not saved & set(log.read_text().splitlines()) and len(log.read_text().splitlines()) == 2 * 7
    whole = tmp_path / "whole.jsonl"
    label_responses(source, whole, lambda: model(judge), batch_size=2)
    assert target.read_bytes() == whole.read_bytes() and not part.exists()


def test_a_prompt_keeps_its_rubric_over_a_kill(tmp_path: Path) -> None:
    """A generator that would now write something else, as a server may, is not asked again."""
    rows = [{**MANY[0], "id": str(i), "response_a": "a" * (i + 2)} for i in range(4)]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(KilledError):
        label_responses(source, target, lambda: model(killing(4)), batch_size=2)
    other = model(judge, generator=lambda *_: "1. The response is odd [Principle]")
    label_responses(source, target, lambda: other, batch_size=2)
    assert {row["rubric"] for row in read(target)} == {RUBRIC_TEXT} and prompts_for(other, "rubric") == []


# --- refused --------------------------------------------------------------------------------------------------------


def never() -> RubricRewardModel:
    raise AssertionError("The model is loaded after everything that can be refused without it.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "responses": ["a"]}, "column `responses` is a list of 1. Give a list of two or more texts"),
        ({"prompt": "p", "responses": "ab"}, "column `responses` is a text"),
        ({"prompt": "p", "responses": ["a", 3]}, "item 2 of `responses` is a number"),
        ({"prompt": "p", "responses": ["a", " "]}, "item 2 of `responses` is empty"),
        ({"prompt": "p", "response_a": "a"}, "column `response_b` is missing"),
        ({"id": "k", "prompt": "p", "responses": ["a", "b"], "rubric": "be nice"}, "row k: the given rubric does not"),
    ],
)
def test_bad_rows_are_refused_before_anything_is_loaded(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [ROWS[0], row])
    with pytest.raises(DataError) as error:
        label_responses(source, tmp_path / "out.jsonl", never)
    assert message in str(error.value)


def test_outputs_and_journals_of_others_are_left_alone(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", MANY), tmp_path / "out.jsonl"
    for bad, kind, message in (
        (tmp_path, DataError, "is a folder"),
        (source, DataError, "also the input"),
    ):
        with pytest.raises(kind, match=message):
            label_responses(source, bad, never)
    twice = write(tmp_path / "twice.jsonl", [{**ROWS[0], "id": "x/1-2"}, {**ROWS[-1], "id": "x"}])
    with pytest.raises(DataError, match="two pairs have the id 'x/1-2'"):
        label_responses(twice, target, never)
    with pytest.raises(DataError, match="--batch 0"):
        label_responses(source, target, never, batch_size=0)
    with pytest.raises(KilledError):
        label_responses(source, target, lambda: model(killing(20)), batch_size=4)
    with pytest.raises(CheckpointError, match=r"another job \(temperature: .*, votes: 1 there, 3 now\)"):
        label_responses(source, target, lambda: model(judge), votes=3, batch_size=4)
    with pytest.raises(CheckpointError, match="exists"):
        label_responses(source, target, lambda: model(judge), batch_size=4, if_exists="raise")
    label_responses(source, target, lambda: model(judge), batch_size=4)
    with pytest.raises(DataError, match=r"exists.*--if-exists overwrite"):
        label_responses(source, target, never)
    before = target.read_bytes()
    assert label_responses(source, target, lambda: model(judge), if_exists="overwrite").judged == 20
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": {"base": "another/base"}}, "base"),
        ({"model": {"revision": "v2"}}, "base"),
        ({"model": {"dtype": "bfloat16"}}, "base"),
        ({"model": {"quantization": "nf4"}}, "base"),
        ({"model": {"chat_date": "2027-02-03"}}, "base"),
        ({"model": {"max_context": 999}}, "base"),
        ({"prompts": {"judge_template": "judge_openrubrics"}}, "prompts"),
        ("template", "prompts"),
        ({"evaluation": {"rubric_max_tokens": 99, "judge_max_tokens": 500}}, "rubric_max_tokens"),
        ({"evaluation": {"rubric_max_tokens": 100, "judge_max_tokens": 501}}, "judge_max_tokens"),
        ({"evaluation": {"rubric_max_tokens": 100, "judge_max_tokens": 500, "judge_temperature": 0.5}}, "temperature"),
        ({"seed": 5}, "seed"),
        ("control_tokens", "prompts"),
        ("fingerprint", "judge_adapter"),
        ("input", "input"),
        ("batch", "batch"),
    ],
)
def test_what_changes_an_answer_does_not_continue_a_journal(
    changes: dict[str, Any] | str, named: str, tmp_path: Path
) -> None:
    source, target = write(tmp_path / "in.jsonl", MANY[:4]), tmp_path / "out.jsonl"
    with pytest.raises(KilledError):
        label_responses(source, target, lambda: model(killing(2)), batch_size=1)
    before = target.with_name("out.jsonl.part").read_bytes()
    (tmp_path / "own.jinja").write_text("{{ instruction }}\nWrite a rubric.")
    fields = {"prompts": {"rubric_template": str(tmp_path / "own.jinja")}} if changes == "template" else changes
    other = model(judge, **(fields if isinstance(fields, dict) else {}))
    if changes == "fingerprint":
        other.model.fingerprints["judge"] = "changed"  # type: ignore[attr-defined]
    elif changes == "control_tokens":
        other.model.control_tokens = lambda: ["<|end|>", re.compile("<.>")]  # type: ignore[method-assign,assignment]
    elif changes == "input":
        write(source, MANY[:5])
    message = (
        rf"out\.jsonl\.part belongs to another job \(.*{named}: .* there, .* now.*start anew with --if-exists over"
    )
    with pytest.raises(CheckpointError, match=message):
        label_responses(source, target, lambda: other, batch_size=2 if changes == "batch" else 1)
    assert target.with_name("out.jsonl.part").read_bytes() == before and not target.exists()
    if isinstance(changes, dict):
        label_responses(source, target, lambda: other, batch_size=1, if_exists="overwrite")


def test_what_changes_no_answer_continues_a_journal(tmp_path: Path) -> None:
    """Memory, speed, the training's settings, and a temperature of votes where there are none."""
    source, target = write(tmp_path / "in.jsonl", MANY[:4]), tmp_path / "out.jsonl"
    with pytest.raises(KilledError):
        label_responses(source, target, lambda: model(killing(2)), batch_size=1)
    votes = {"rubric_max_tokens": 100, "judge_max_tokens": 500, "vote_temperature": 0.5, "pairs": 7}
    loading = {"gradient_checkpointing": True, "shared_prefix": False}
    other = model(judge, evaluation=votes, model=loading, rubric={"max_steps": 1}, cache={"capacity": 3})
    assert label_responses(source, target, lambda: other, batch_size=1, keep_all=True).judged == 3


def test_a_judge_of_single_responses_labels_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS[:1]), tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match=r"reward\.judge: pointwise"):
        label_responses(source, target, lambda: model(judge, reward={"judge": "pointwise"}))
    assert list(tmp_path.iterdir()) == [source], "a journal would be in the way of the next attempt"


# --- the command line -----------------------------------------------------------------------------------------------


def test_on_the_command_line_over_a_server(tmp_path: Path) -> None:
    from rubric_arm_lite.recipe.load import dump_recipe
    from tests.players import sampler

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump_recipe(model().recipe))
    source, target = write(tmp_path / "in.jsonl", ROWS[:3]), tmp_path / "out.jsonl"
    with serve(scripted(lambda adapter, example, i: sampler(judge).script(adapter, example, i))) as server:
        done = call("label", folder, source, target, "--server", server.url)
        assert done.returncode == 0, done.stderr
        assert "1 of 3 pairs kept (33%)" in done.stdout and "orders disagree 1" in done.stdout
        assert "pairs/s" in done.stdout and "tokens/s" in done.stdout
        assert "rubrics written: 1 (67% from the cache)" in done.stdout
        assert [row["id"] for row in read(target)] == ["short"]
        assert "exists" in refused("label", folder, source, target, "--server", server.url)
    assert "'maybe' is not one of" in refused("label", folder, source, target, "--if-exists", "maybe")


@pytest.mark.parametrize(
    ("field", "value"),
    [("reason", "kept"), ("reason", 3), ("agreed", "C"), ("winner", ["A"]), ("rubric", 3), ("confidence_b", "1.0")],
)
def test_a_field_of_another_type_in_the_journal_is_named_with_its_line(tmp_path: Path, field: str, value: Any) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "out.jsonl"
    with pytest.raises(KilledError):
        label_responses(source, target, lambda: model(killing(2)), batch_size=1)
    part = tmp_path / "out.jsonl.part"
    head, row = read(part)
    write(part, [head, {**row, "results": [{**row["results"][0], field: value}]}])
    with pytest.raises(
        CheckpointError, match=rf"out\.jsonl\.part, line 2: `results\.0\.{field}` .*--if-exists overwrite"
    ):
        label_responses(source, target, lambda: model(judge), batch_size=1)
    write(part, [head, {**row, "results": ["text"]}])
    with pytest.raises(CheckpointError, match=r"out\.jsonl\.part, line 2: `results\.0` "):
        label_responses(source, target, lambda: model(judge), batch_size=1)
    assert not target.exists()
    write(part, [head, row])
    label_responses(source, target, lambda: model(judge), batch_size=1)


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS[:2])
    for target, message in (
        (Path(), "is a folder"),
        (source / "out.jsonl", "is not a folder"),
        (Path("/"), "is a folder"),
    ):
        with pytest.raises(DataError, match=message):
            label_responses(source, target, never)


@pytest.mark.parametrize("lost", ["reason", "agreed", "rubric", "confidence_b"])
def test_a_field_that_is_gone_from_the_journal_is_named_with_its_line(tmp_path: Path, lost: str) -> None:
    source, target = write(tmp_path / "in.jsonl", ROWS[:2]), tmp_path / "out.jsonl"
    with pytest.raises(KilledError):
        label_responses(source, target, lambda: model(killing(2)), batch_size=1)
    part = tmp_path / "out.jsonl.part"
    head, row = read(part)
    for result in row["results"]:
        del result[lost]
    write(part, [head, row])
    with pytest.raises(CheckpointError, match=rf"out\.jsonl\.part, line 2: no `{lost}` here"):
        label_responses(source, target, lambda: model(judge), batch_size=1, keep_all=True)
    assert not target.exists()
