"""Published data in the schema of each set: what becomes a pair, what is skipped and counted, what is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.data.benchmarks import CATALOGUE, Decontaminator, decontaminator_of
from rubric_arm_lite.data.check import survey_pairs, survey_trajectories
from rubric_arm_lite.data.counts import Counts
from rubric_arm_lite.data.formats import FORMATS, OWN, known_format
from rubric_arm_lite.data.load import held_out_settings, read_blocks
from rubric_arm_lite.data.pairs import RowIds, pair_as_row, read_pair, read_pairs
from rubric_arm_lite.data.rows import Row
from rubric_arm_lite.data.trajectories import WarmupRow, read_trajectories, trajectory_as_row, trajectory_of_row
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluation.benchmarks import catalogue
from rubric_arm_lite.prompts.builder import prompt_hash, wording
from rubric_arm_lite.prompts.parsing import parse_judgement, parse_rubric
from rubric_arm_lite.recipe.fields import DataSettings, FormatName, WarmupSettings
from rubric_arm_lite.types import Message, PreferencePair
from tests.data.test_sources import _cache  # noqa: F401  (a fixture: no cache is shared)
from tests.fake_hub import serve_hub
from tests.source_rows import (
    LONG,
    ROWS,
    RUBRIC,
    helpsteer3,
    lay_out,
    openrubric,
    skywork,
    turn,
    ultrafeedback,
    write_jsonl,
)

PAIRS = {
    "openrubric": ("Request 1", "first 1", "second 1", "magpie"),
    "ultrafeedback": ("Request 1", "good 1", "bad 1", ""),
    "skywork": (
        (Message("user", "Request 1"), Message("assistant", "Which one?"), Message("user", "The second.")),
        "good 1",
        "bad 1",
        "magpie",
    ),
    "helpsteer3": ("Request 1", "first 1", "second 1", "code"),
    "rubricarm-arena": ("Request 1", "good 1", "bad 1", ""),
}


def settings(source: str | Path, **choices: Any) -> DataSettings:
    return DataSettings(source=str(source), streaming=True, **choices)


def read(given: list[dict[str, Any]], folder: Path, **choices: Any) -> tuple[list[PreferencePair], Counts]:
    return read_pairs(settings(write_jsonl(folder / "rows.jsonl", given), **choices), seed=0)


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


# --- formats ----------------------------------------------------------------------------------------------------------


def test_recipes_name_every_format() -> None:
    assert {"auto", "pairs", *FORMATS} == set(get_args(FormatName))
    assert known_format("openrubrics/openrubric-V2") is FORMATS["openrubric"] is known_format("OpenRubrics/OpenRubrics")
    assert known_format("/data/nvidia/HelpSteer3") is FORMATS["helpsteer3"]
    assert known_format("me/mine") is known_format("HelpSteer3") is known_format("") is None


@pytest.mark.parametrize("name", ROWS)
def test_a_published_set_is_read_from_a_clone_of_its_repository(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format = FORMATS[name]
    lay_out(tmp_path, format.hub[0], format.split, [ROWS[name](1), ROWS[name](2)], format.config)
    monkeypatch.chdir(tmp_path)
    pairs, counts = read_pairs(settings(format.hub[0]), seed=0)
    prompt, chosen, rejected, subset = PAIRS[name]
    assert pairs[0] == PreferencePair(f"{prompt_hash(prompt)}-0", prompt, chosen, rejected, format.hub[0], subset)
    assert (counts.format, counts.rows, counts.kept, counts.skipped) == (name, 2, 2, ())
    assert read_pairs(settings(tmp_path / format.hub[0]), seed=0)[0][1].chosen == pairs[1].chosen


def test_a_published_set_that_was_saved_to_disk(tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tmp_path / "nvidia" / "HelpSteer3"
    Dataset.from_list([helpsteer3(1), helpsteer3(2)]).save_to_disk(str(folder))
    assert read_pairs(settings(folder), 0)[1].format == "helpsteer3"


def test_labels_name_the_chosen_side(tmp_path: Path) -> None:
    winners = ["A", "b", "Response B", "response_a", "tie", "Model A"]
    pairs, counts = read([openrubric(i, winner) for i, winner in enumerate(winners)], tmp_path)
    assert [pair.chosen.split()[0] for pair in pairs] == ["first", "second", "second", "first", "first"]
    assert (counts.skipped, counts.ordered, counts.chosen_first) == ((("tie", 1),), 5, 3)
    pairs, counts = read([helpsteer3(i, value) for i, value in enumerate([-3, 1, 0, 2])], tmp_path)
    assert [pair.chosen for pair in pairs] == ["first 0", "second 1", "second 3"]
    assert (counts.skipped, counts.chosen_first) == ((("tie", 1),), 1)


def test_unusable_rows_of_a_published_set_are_skipped_and_counted(tmp_path: Path) -> None:
    bad = ultrafeedback(2)
    rows = [
        ultrafeedback(1),
        {**bad, "score_rejected": 8.5},
        {**bad, "rejected": bad["chosen"]},
        {**bad, "rejected": [turn("user", "Request 2"), turn("assistant", " ")]},
        {**bad, "prompt": ""},
        ultrafeedback(1),
    ]
    pairs, counts = read(rows, tmp_path, format="ultrafeedback")
    assert len(pairs) == 1
    assert dict(counts.skipped) == {"tie": 1, "identical responses": 1, "empty text": 2, "equal to an earlier pair": 1}
    assert counts.line().endswith(
        "1 pairs kept; skipped: 2 empty text; 1 equal to an earlier pair; 1 identical responses; 1 tie."
    )
    other = skywork(2)
    other["rejected"][0] = turn("user", "Another request")
    assert dict(read([skywork(1), other], tmp_path, format="skywork")[1].skipped) == {
        "responses to different conversations": 1
    }


def test_in_a_users_own_file_they_are_errors(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "a"}
    assert "line 1: chosen equals rejected" in message_of(lambda: read([row], tmp_path))
    assert "column `chosen` is empty" in message_of(lambda: read([{**row, "chosen": ""}], tmp_path))


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("openrubric", {"winner": "C"}, "column `winner` is 'C'. Give A, B or tie."),
    ("openrubric", {"winner": 1}, "column `winner` is a number. Give a text."),
    ("openrubric", {"instruction": None}, "column `instruction` is null."),
    ("openrubric", {"source": 3}, "column `source` is a number."),
    ("ultrafeedback", {"score_chosen": "8"}, "column `score_chosen` is '8'. Give a finite number."),
    ("ultrafeedback", {"score_chosen": True}, "column `score_chosen` is true. Give a finite number."),
    ("ultrafeedback", {"chosen": []}, "column `chosen` is an empty list."),
    ("ultrafeedback", {"chosen": [turn("user", "x")]}, "the last message of `chosen` is by 'user'."),
    ("skywork", {"chosen": "text"}, "must be lists of messages"),
    ("helpsteer3", {"overall_preference": None}, "column `overall_preference` is null."),
    ("helpsteer3", {"overall_preference": "-1"}, "Give a finite number."),
    ("helpsteer3", {"context": "text", "response1": ["x"]}, "message 1 of `response1` is a text."),
    ("rubricarm-arena", {"rejected": {"a": 1}}, "column `rejected` is an object."),
]


@pytest.mark.parametrize(("name", "changes", "expected"), MALFORMED)
def test_a_malformed_row_is_an_error_with_its_place(
    name: Any, changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    message = message_of(lambda: read([ROWS[name](1), {**ROWS[name](2), **changes}], tmp_path, format=name))
    assert message.startswith(f"{tmp_path / 'rows.jsonl'}, line 2: ")
    assert expected in message


@pytest.mark.parametrize("name", ROWS)
def test_a_missing_column_lists_the_expected_and_the_found(name: Any, tmp_path: Path) -> None:
    for column in FORMATS[name].required:
        row = {key: value for key, value in ROWS[name](1).items() if key != column}
        message = message_of(lambda row=row: read([row], tmp_path, format=name))  # type: ignore[misc]
        assert f"column `{column}` is missing. Expected: {', '.join(FORMATS[name].required)}; found: " in message


def test_long_and_other_scripts_come_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(LONG.encode()) > 100_000
    format = FORMATS["helpsteer3"]
    lay_out(tmp_path, format.hub[0], "train", [helpsteer3(1, response2=LONG)], format.config)
    monkeypatch.chdir(tmp_path)
    assert read_pairs(settings(format.hub[0]), 0)[0][0].rejected == LONG


def test_pairs_round_trip_through_our_own_format(tmp_path: Path) -> None:
    pairs, _ = read([skywork(1), skywork(2)], tmp_path, format="skywork")
    ids = RowIds()
    assert [read_pair(Row("", pair_as_row(pair)), OWN, ids)[0] for pair in pairs] == pairs


# --- selection --------------------------------------------------------------------------------------------------------


def test_subsets(tmp_path: Path) -> None:
    rows = [openrubric(i) for i in range(6)]
    pairs, counts = read(rows, tmp_path, subset=("magpie",))
    assert {pair.subset for pair in pairs} == {"magpie"} and counts.skipped == (("of another subset", 3),)
    message = message_of(lambda: read(rows, tmp_path, subset=("none",)))
    assert "It has the subsets: " in message and "magpie" in message and "skywork" in message


def test_duplicates(tmp_path: Path) -> None:
    rows = [openrubric(1), openrubric(1), openrubric(1, response_b="other"), openrubric(2)]
    kept = {mode: len(read(rows, tmp_path, deduplicate=mode)[0]) for mode in ("none", "pairs", "prompts")}
    assert kept == {"none": 4, "pairs": 3, "prompts": 2}


def test_a_sample_depends_on_the_seed_and_not_on_the_order(tmp_path: Path) -> None:
    rows = [openrubric(i // 2, response_a=f"a {i}") for i in range(40)]
    forward, counts = read(rows, tmp_path, sample=5)
    backward, _ = read(rows[::-1], tmp_path, sample=5)
    assert len(forward) == 10 and counts.skipped == (("not in the sample", 30),)
    assert {p.prompt for p in forward} == {p.prompt for p in backward}
    places = [[row["response_a"] for row in rows].index(pair.chosen) for pair in forward]
    assert places == sorted(places)
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert {p.prompt for p in read_pairs(settings(path, sample=5), seed=1)[0]} != {p.prompt for p in forward}
    assert len(read(rows, tmp_path, rows=3)[0]) == 3


@given(prompts=st.lists(st.integers(0, 12), min_size=1, max_size=60), size=st.integers(1, 8), seed=st.integers(0, 50))
def test_a_sample_keeps_whole_prompts_and_counts_the_rest(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[int], size: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    given = [(f"p{prompt}", f"a {number}") for number, prompt in enumerate(prompts)]
    write_jsonl(path, [{"prompt": prompt, "chosen": text, "rejected": "b"} for prompt, text in given])
    pairs, counts = read_pairs(settings(path, sample=size), seed)
    chosen = {pair.prompt for pair in pairs}
    assert len(chosen) == min(size, len(set(prompts)))
    assert [(pair.prompt, pair.chosen) for pair in pairs] == [row for row in given if row[0] in chosen]
    dropped = len(prompts) - len(pairs)
    assert dict(counts.skipped) == ({"not in the sample": dropped} if dropped else {})


def test_held_out_prompts_are_not_trained_on(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", [openrubric(i) for i in range(4)])
    pairs, counts = read_pairs(settings(path), 0, held_out={wording("request  2.")})
    assert "Request 2" not in {pair.prompt for pair in pairs}
    assert counts.skipped == (("with a held-out prompt", 1),)


def test_the_evaluation_set_may_be_another_split_of_the_same_source() -> None:
    chosen = DataSettings(source="a/b", revision="v1", sample=3, evaluation="a/b", evaluation_split="test_prefs")
    found = held_out_settings(chosen)
    assert (found.source, found.split, found.revision, found.sample) == ("a/b", "test_prefs", "v1", None)
    assert held_out_settings(chosen.model_copy(update={"evaluation": "x.jsonl"})).revision is None


# --- decontamination --------------------------------------------------------------------------------------------------

TWENTY = " ".join(f"word{i}" for i in range(20))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (TWENTY, True),
        (f"Please, {' '.join(TWENTY.split()[3:16]).upper()}!", True),
        (" ".join(TWENTY.split()[3:15]), False),
        ("Name a river.", True),
        ("name a  RIVER", True),
        ("Náme a rivér", True),
        ("नदी का नाम बताओ", True),
        ("नद का नम बतओ और", False),
        ("Name a river, and then a lake.", False),
        ("请解释一下为什么天空是蓝色的", True),
        ("请解释一下为什么天空是蓝色的而不是红的", True),
        ("请解释一下", False),
        ((Message("user", "hello"), Message("user", TWENTY)), True),
        ("...", False),
        ("", False),
    ],
)
def test_overlap(prompt: Any, expected: bool) -> None:
    decontaminator = Decontaminator(13)
    for text in (TWENTY, "Name a river.", "请解释一下为什么天空是蓝色的", "नदी का नाम बताओ", "!!"):
        decontaminator.add(text)
    assert decontaminator.matches(prompt) is expected


def test_a_whole_prompt_overlaps_but_for_case_blanks_and_punctuation() -> None:
    decontaminator = Decontaminator(13)
    decontaminator.add("Write an e-mail to Bob.")
    assert decontaminator.matches("write an email to bob") and not decontaminator.matches("write an email to Rob")


def test_runs_do_not_reach_over_turns() -> None:
    decontaminator = Decontaminator(4)
    decontaminator.add((Message("user", "one two"), Message("assistant", "three four")))
    assert not decontaminator.matches("zero one two three four five")
    assert decontaminator.matches((Message("user", "one two"), Message("user", "three four")))


def test_decontamination_by_file_folder_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = write_jsonl(tmp_path / "bench.jsonl", [{"question": "Request 1"}, {"prompt": [turn("user", "Request 3")]}])
    rows = write_jsonl(tmp_path / "rows.jsonl", [openrubric(i) for i in range(5)])
    pairs, counts = read_pairs(settings(rows), 0, decontaminator_of([str(bench)], 13))
    assert [pair.prompt for pair in pairs] == ["Request 0", "Request 2", "Request 4"]
    assert counts.skipped == (("overlapping with a benchmark", 2),)
    for split in ("gpt", "claude"):
        lay_out(tmp_path, "ScalerLab/JudgeBench", split, [{"question": f"Asked of {split}"}])
    monkeypatch.chdir(tmp_path)
    decontaminator = decontaminator_of(["JudgeBench"], 13)
    assert (
        decontaminator is not None
        and decontaminator.matches("asked of gpt")
        and decontaminator.matches("asked of claude")
    )
    assert decontaminator_of([], 13) is None
    message = message_of(lambda: decontaminator_of(["no-such.jsonl"], 13))
    assert message.startswith("decontaminate: There is no file") and all(name in message for name in CATALOGUE)
    without = write_jsonl(tmp_path / "other.jsonl", [{"x": "y"}])
    assert "found: x" in message_of(lambda: decontaminator_of([str(without)], 13))


def test_benchmarks_have_one_name_and_place() -> None:
    assert [benchmark.name for benchmark in catalogue.BENCHMARKS] == list(CATALOGUE)
    assert all(len(benchmark.reads) == len(benchmark.parts) > 0 for benchmark in catalogue.BENCHMARKS)
    assert [part.split for part in CATALOGUE["judgebench"].parts] == ["gpt", "claude"]


# --- trajectories -----------------------------------------------------------------------------------------------------


def trajectories(rows: list[dict[str, Any]], folder: Path, **choices: Any) -> tuple[list[WarmupRow], Counts]:
    path = write_jsonl(folder / "rows.jsonl", rows)
    return read_trajectories(WarmupSettings(source=str(path), streaming=True, **choices), seed=0)


def test_published_trajectories_pass_our_own_parsers(tmp_path: Path) -> None:
    good = openrubric(1)
    rows = [
        good,
        openrubric(2, "B", rubric=f"Here is the rubric:\n\n{RUBRIC.replace('1.', '1)')}\n\nI hope this helps."),
        openrubric(3, rubric="1. The response is short [Hard Rule] [Principle]"),
        openrubric(4, rubric=""),
        openrubric(5, judge="Winner: Response A"),
        openrubric(6, "B", judge=good["judge"]),
        openrubric(7, judge=good["judge"].replace("- Criterion 2 [Principle]: Justification: met.\n", "")),
        openrubric(8, "tie"),
        openrubric(9, judge=None),
        openrubric(
            10,
            judge=good["judge"]
            .replace("Identified", "Gatekeeper Reasoning: it is objective.\nIdentified")
            .replace("Judgment ---\n", "Judgment ---\nAggregation Summary: one meets both.\n"),
        ),
    ]
    kept, counts = trajectories(rows, tmp_path)
    assert [row.prompt for row in kept] == ["Request 1", "Request 2", "Request 10"]
    assert "\nAggregation Summary: one meets both.\n" in kept[-1].judgement
    assert dict(counts.skipped) == {
        "with a malformed rubric": 2,
        "with a malformed judgement": 3,
        "with a judgement against its label": 1,
        "tie": 1,
    }
    for row in kept:
        rubric = parse_rubric(row.rubric)
        assert row.rubric == rubric.render() == RUBRIC
        assert parse_judgement(row.judgement, rubric).status.value == "ok"
        assert trajectory_of_row(Row("", trajectory_as_row(row))) == row


def test_trajectories_without_the_columns_or_format_for_it(tmp_path: Path) -> None:
    row = openrubric(1)
    del row["judge"]
    message = message_of(lambda: trajectories([row], tmp_path))
    assert "column `judge` is missing. Expected: instruction, response_a, response_b, winner, rubric, judge;" in message
    assert "holds no judgements" in message_of(lambda: trajectories([helpsteer3(1)], tmp_path))
    assert "0 trajectories kept" in message_of(lambda: trajectories([openrubric(1, rubric="no list")], tmp_path))


@pytest.mark.parametrize("column", FORMATS["openrubric"].columns.judgement)
def test_the_judges_column_has_one_of_several_names(column: str, tmp_path: Path) -> None:
    row = openrubric(1)
    row[column] = row.pop("judge")
    assert len(trajectories([row], tmp_path)[0]) == 1


def test_our_own_trajectories_are_taken_as_they_are(tmp_path: Path) -> None:
    row = {"prompt": "p", "rubric": "anything", "response_a": "a", "response_b": "b", "judgement": "j", "source": "s"}
    kept, counts = trajectories([row, {**row, "prompt": "q", "source": "t"}], tmp_path, subset=("s",))
    assert kept == [WarmupRow("p", "anything", "a", "b", "j")] and counts.skipped == (("of another subset", 1),)
    path = write_jsonl(tmp_path / "own.jsonl", [row, {**row, "prompt": "q"}, {**row, "prompt": "r"}])
    decontaminator = Decontaminator(13)
    decontaminator.add("q")
    chosen = WarmupSettings(source=str(path), sample=5)
    kept, counts = read_trajectories(chosen, 0, decontaminator, held_out={wording("r")})
    assert [found.prompt for found in kept] == ["p"]
    assert dict(counts.skipped) == {"overlapping with a benchmark": 1, "with a held-out prompt": 1}


# --- surveys ----------------------------------------------------------------------------------------------------------


def test_a_survey_of_pairs_by_hand() -> None:
    pairs = [
        PreferencePair("1", "p q", "a b c", "d", "s"),
        PreferencePair("2", "p q", "d", "a b c", "s"),
        PreferencePair("3", "p q", "a b c", "d", "s"),
        PreferencePair("4", (Message("user", "x"),), "e", "f", "s", "t"),
    ]
    counts = Counts("x", "openrubric", 4, 4, (), 4, 1)
    found = survey_pairs(pairs, counts, "words", lambda text: len(text.split()))
    assert found.facts == {
        "prompts": 2,
        "prompts_equal_but_for_case_blanks_or_punctuation": 0,
        "most_pairs_of_a_prompt": 3,
        "conversations": 1,
        "equal_to_an_earlier_pair": 1,
        "contradicting_pairs": 1,
        "chosen_longer": 2.5 / 4,
        "chosen_first": 0.25,
    }
    assert found.lengths["chosen"] == (1, 3, 3, 3) and found.subsets == {"s": 3, "t": 1}
    assert found.as_json()["lengths"]["chosen"]["100%"] == 3


def test_a_survey_of_trajectories_by_hand() -> None:
    row = openrubric(1)
    good = WarmupRow("p", RUBRIC, "a", "b", row["judge"])
    rows = [good, replace(good, rubric="none"), replace(good, judgement="Winner: Response B")]
    facts = survey_trajectories(rows, Counts("x", "pairs", 3, 3), "words", len).facts
    assert facts == {
        "prompts": 1,
        "conversations": 0,
        "well_formed_rubrics": 2 / 3,
        "well_formed_judgements": 1 / 3,
        "criteria": 2.0,
        "winner_first": 1.0,
    }


# --- the Hub --------------------------------------------------------------------------------------------------------

READ = """
from rubric_arm_lite.recipe import DataSettings
from rubric_arm_lite.data import read_pairs
for streaming in (False, True):
    for source in ("nvidia/HelpSteer3", "HuggingFaceH4/ultrafeedback_binarized"):
        pairs, counts = read_pairs(DataSettings(source=source, streaming=streaming), 0)
        print(len(pairs), pairs[0].prompt, counts.format)
"""


def test_published_sets_by_their_hub_id(tmp_path: Path) -> None:
    for name in ("helpsteer3", "ultrafeedback"):
        format = FORMATS[name]
        lay_out(tmp_path / "hub", format.hub[0], format.split, [ROWS[name](i) for i in range(3)], format.config)
    with serve_hub(tmp_path / "hub") as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", READ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["3 Request 0 helpsteer3", "3 Request 0 ultrafeedback"] * 2


def test_prompts_of_one_wording_are_counted_and_held_out_together(tmp_path: Path) -> None:
    rows = [
        {"prompt": text.format(i), "chosen": "a", "rejected": "b"} for text in ("Ask {}", "ask  {}?!") for i in "12"
    ]
    source, held_out = write_jsonl(tmp_path / "all.jsonl", rows), write_jsonl(tmp_path / "test.jsonl", [rows[0]])
    pairs, counts = read_pairs(settings(source), 0)
    survey = survey_pairs(pairs, counts, "words", len)
    assert survey.facts["prompts_equal_but_for_case_blanks_or_punctuation"] == 2
    train, test, counts = read_blocks(settings(source, evaluation=str(held_out)), 0)
    assert sorted(block.prompt for block in train) == ["Ask 2", "ask  2?!"]
    assert [block.prompt for block in test] == ["Ask 1"]
    assert counts[0].skipped == (("with a held-out prompt", 2),)
