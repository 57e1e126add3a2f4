"""Rows as public preference sets hold them, and columns that a recipe or the command line describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rubric_arm_lite.cli.main import app
from rubric_arm_lite.data.counts import Counts
from rubric_arm_lite.data.formats import FORMATS
from rubric_arm_lite.data.pairs import read_pairs
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.recipe import DataSettings, load_recipe, read_columns
from rubric_arm_lite.types import Message, PreferencePair
from tests.source_rows import lay_out, openrubric


def turns(*texts: str) -> list[dict[str, str]]:
    """A conversation that begins with the user."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def messages(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(turn["role"], turn["content"]) for turn in turns(*texts))


def transcript(*texts: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(texts))


def read(path: Path, rows: list[dict[str, Any]], **choices: Any) -> tuple[list[PreferencePair], Counts]:
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(DataSettings(source=str(path), **choices), 0)


NORTH = ("Which way is north?", "Do you have a compass?", "No")
VOTE = {"model_a": "m1", "model_b": "m2", "judge": "person-1"}
ANNOTATED = [("It rains.", (1, 1, 2)), ("", (0, 1, 2)), ("", (2, 0, 2)), ("", (0, 0, 1))]
HELLO = {"turn": 1, "conversation_a": turns("Hi", "Hello"), "conversation_b": turns("Hi", "Hey")}
SCORES = {"correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1}
BENCH = {"source": "mmlu-pro-law", "response_model": "gpt-4o-2024-05-13", "original_id": 1}

RATED = {"prompt": "p", "chosen": "a", "chosen_model": "m", "rejected": "b", "rejected_model": "n"}

FORMS: dict[str, tuple[list[dict[str, Any]], list[tuple[Any, str, str]], dict[str, int]]] = {
    "llmbar": (
        [
            {"input": "Planet?", "output_1": "Saturn has rings.", "output_2": "The moon is round.", "label": 1},
            {"input": "German?", "output_1": "good evening", "output_2": "Gute Nacht", "label": 2},
        ],
        [("Planet?", "Saturn has rings.", "The moon is round."), ("German?", "Gute Nacht", "good evening")],
        {},
    ),
    "auto-j": (
        [{"scenario": "advice", "prompt": f"p{i}", "response 1": "a", "response 2": "b", "label": i} for i in range(3)],
        [("p0", "a", "b"), ("p1", "b", "a")],
        {"tie": 1},
    ),
    "pandalm": (
        [
            {
                "idx": i,
                "instruction": "Shorten.",
                "input": text,
                "response1": "a",
                "response2": "b",
                "annotator1": votes[0],
                "annotator2": votes[1],
                "annotator3": votes[2],
            }
            for i, (text, votes) in enumerate(ANNOTATED)
        ],
        [("Shorten.\n\nIt rains.", "a", "b"), ("Shorten.", "b", "a")],
        {"without a majority": 1, "tie": 1},
    ),
    "arena": (
        [
            {
                **VOTE,
                "winner": "model_b",
                "turn": 2,
                "conversation_a": turns("Pick a number.", "4", "Double it.", "6"),
                "conversation_b": turns("Pick a number.", "3", "Double it.", "6"),
            },
            {**VOTE, **HELLO, "winner": "tie"},
            {**VOTE, **HELLO, "winner": "tie (bothbad)"},
            {  # the vote is on the first turn
                **VOTE,
                "winner": "model_b",
                "turn": 1,
                "conversation_a": turns("Hi", "Hello", "More", "x"),
                "conversation_b": turns("Hi", "Hey", "More", "y"),
            },
            {
                **VOTE,
                "winner": "model_a",
                "turn": 2,
                "conversation_a": turns("Hi", "Hello", "More", "x"),
                "conversation_b": turns("Hi", "Hello", "More", "y"),
            },
        ],
        [("Hi", "Hey", "Hello"), (messages("Hi", "Hello", "More"), "x", "y")],
        {"responses to different conversations": 1, "tie": 2},
    ),
    "hh-rlhf": (
        [{"chosen": transcript(*NORTH, "At noon.\n\nAlways."), "rejected": transcript(*NORTH, "Up.")}],
        [(messages(*NORTH), "At noon.\n\nAlways.", "Up.")],
        {},
    ),
    "nectar": (
        [
            {
                "prompt": "\n\nHuman: Say hi \n\nAssistant: ",
                "answers": [
                    {"answer": "Hi!", "rank": 1, "model": "m1"},
                    {"answer": "Hm", "rank": 3, "model": "m2"},
                    {"answer": "Hello", "rank": 2, "model": "m3"},
                ],
            }
        ],
        [("Say hi", "Hi!", "Hm"), ("Say hi", "Hi!", "Hello"), ("Say hi", "Hello", "Hm")],
        {},
    ),
    "ultrafeedback-raw": (
        [
            {
                "instruction": "Metal?",
                "source": "x",
                "completions": [
                    {"response": "Iron", "overall_score": 9.0},
                    {"response": "Wood", "overall_score": 2.0},
                    {"response": "Tin", "overall_score": 9.0},
                ],
            }
        ],
        [("Metal?", "Iron", "Wood"), ("Metal?", "Tin", "Wood")],
        {"tie": 1},
    ),
    "helpsteer2": (
        [
            {"prompt": "Sea?", "response": "Sea", "helpfulness": 1, **SCORES},
            {"prompt": "Sea?", "response": "The Baltic Sea", "helpfulness": 4, **SCORES},
            {"prompt": "Lake?", "response": "alone", "helpfulness": 4, **SCORES},
        ],
        [("Sea?", "The Baltic Sea", "Sea")],
        {"with a single response": 1},
    ),
    "helpsteer2-preference": (
        [{"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": n} for n in (-2, 0, 3)],
        [("p", "a", "b"), ("p", "b", "a")],
        {"tie": 1},
    ),
    "shp": (
        [
            {"history": "h", "human_ref_A": "a", "human_ref_B": "b", "labels": n, "score_A": 9, "score_B": 4}
            for n in (1, 0)
        ],
        [("h", "a", "b"), ("h", "b", "a")],
        {},
    ),
    "webgpt": (
        [
            {"question": {"full_text": "q"}, "answer_0": "a", "answer_1": "b", "score_0": s, "score_1": -s}
            for s in (-1, 0)
        ],
        [("q", "b", "a")],
        {"tie": 1},
    ),
    "safe-rlhf": (
        [{"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": n} for n in (0, 1)],
        [("p", "a", "b"), ("p", "b", "a")],
        {},
    ),
    "orca-dpo": (
        [
            {"system": "Be kind.", "question": "q", "chosen": "a", "rejected": "b"},
            {"system": "", "question": "q", "chosen": "a", "rejected": "b"},
        ],
        [((Message("system", "Be kind."), Message("user", "q")), "a", "b"), ("q", "a", "b")],
        {},
    ),
    "sharegpt": (
        [
            {
                "conversations": [{"from": "human", "value": "Game?"}],
                "chosen": {"from": "gpt", "value": "Chess"},
                "rejected": {"from": "gpt", "value": "Table"},
            },
            {
                "conversations": [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(NORTH)],
                "system": "Be kind.",
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
        ],
        [("Game?", "Chess", "Table"), ((Message("system", "Be kind."), *messages(*NORTH)), "a", "b")],
        {},
    ),
    "alpaca": (
        [
            {"instruction": "i", "input": "x", "chosen": "a", "rejected": "b"},
            {"instruction": "i", "input": "", "system": "s", "chosen": "a", "rejected": "b"},
            {"instruction": "i", "history": [["q", "r"]], "system": "s", "chosen": "a", "rejected": "b"},
            {"instruction": "i", "history": [], "chosen": "a", "rejected": "b"},
        ],
        [
            ("i\n\nx", "a", "b"),
            ((Message("system", "s"), Message("user", "i")), "a", "b"),
            (
                (Message("system", "s"), Message("user", "q"), Message("assistant", "r"), Message("user", "i")),
                "a",
                "b",
            ),
            ("i", "a", "b"),
        ],
        {},
    ),
    "judgebench": (
        [
            {"pair_id": f"p{i}", "question": "q", "response_A": "a", "response_B": "b", "label": label, **BENCH}
            for i, label in enumerate(["A>B", "B>A"])
        ],
        [("q", "a", "b"), ("q", "b", "a")],
        {},
    ),
    "rmb": (
        [
            {
                "pair_uid": "1",
                "conversation_input": [{**turn, "language": "English"} for turn in turns("cat")],
                "chosen": {"llm_name": "m1", "answer": "Katze"},
                "reject": {"llm_name": "m2", "answer": answer},
                "category_path": "Helpfulness/Translation/General",
            }
            for answer in ("Hund", "", "Katze")
        ],
        [("cat", "Katze", "Hund")],
        {"empty text": 1, "identical responses": 1},
    ),
    "rmb-best-of-n": (
        [
            {
                "bon_uid": "1",
                "conversation_input": turns("cat"),
                "bon_best": {"llm_name": "m", "answer": "best"},
                "loser_list": [{"llm_name": "m", "answer": "x"}, {"llm_name": "n", "answer": "y"}],
            }
        ],
        [("cat", "best", "x"), ("cat", "best", "y")],
        {},
    ),
    "writing": ([{"prompt": "p", "chosen": {"text": "a"}, "rejected": {"text": "b"}}], [("p", "a", "b")], {}),
    "writing-response": (
        [{"prompt": "p", "chosen": {"response": "a"}, "rejected": {"response": "b"}, "language": "en"}],
        [("p", "a", "b")],
        {},
    ),
    "rewardbench": (  # its ids repeat from subset to subset
        [{**RATED, "subset": "a", "id": 1}, {**RATED, "subset": "b", "id": 1, "prompt": "q"}],
        [("p", "a", "b"), ("q", "a", "b")],
        {},
    ),
    "ppe-best-of-k": (
        [
            {"prompt": "p", "response_1": "a", "response_2": "b", "response_3": "c", "scores": rights, "mean_score": 0}
            for rights in ([True, False, True], [False] * 3)
        ],
        [("p", "a", "b"), ("p", "c", "b")],
        {"tie": 4},
    ),
    "ppe-human-preference": (
        [
            {**VOTE, "prompt": "p", "response_1": "a", "response_2": "b", "winner": winner, "language": "English"}
            for winner in ("model_b", "tie", "model_a", "tie (bothbad)")
        ],
        [("p", "b", "a"), ("p", "a", "b")],
        {"tie": 2},
    ),
    "several": (  # RewardBench 2, RM-Bench
        [{"id": 1, "prompt": "p", "chosen": ["a", "b"], "rejected": ["x", "y"]}],
        [("p", "a", "x"), ("p", "a", "y"), ("p", "b", "x"), ("p", "b", "y")],
        {},
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_form_is_told_by_its_columns(tmp_path: Path, name: str, suffix: str) -> None:
    rows, expected, skipped = FORMS[name]
    pairs, counts = read(tmp_path / f"rows.{suffix}", rows)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == expected
    assert (counts.format, dict(counts.skipped)) == (name, skipped)
    assert counts.rows == len(pairs) + sum(skipped.values())
    named, _ = read(tmp_path / f"rows.{suffix}", rows, format=name)
    assert named == pairs
    target = tmp_path / "out.jsonl"
    done = CliRunner().invoke(app, ["data", "convert", str(tmp_path / f"rows.{suffix}"), str(target)])
    assert done.exit_code == 0, done.output
    again, _ = read_pairs(DataSettings(source=str(target)), 0)
    assert [(p.prompt, p.chosen, p.rejected) for p in again] == expected


@pytest.mark.parametrize("name", FORMS)
def test_a_published_format_can_be_copied_into_a_recipe(tmp_path: Path, name: str) -> None:
    rows, expected, skipped = FORMS[name]
    described = FORMATS[name].columns.model_dump(mode="json", exclude_unset=True)
    pairs, counts = read(tmp_path / "rows.jsonl", rows, columns=read_columns(json.dumps(described), "--columns"))
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == expected
    assert (counts.format, dict(counts.skipped)) == ("columns", skipped)


def test_every_format_has_rows_here_or_in_test_load() -> None:
    others = {"openrubric", "ultrafeedback", "skywork", "helpsteer3", "rubricarm-arena", "tulu3", "mt-bench"}
    assert set(FORMATS) == {*FORMS, *others}


def test_tulu3_keeps_its_sources_and_all_turns(tmp_path: Path) -> None:
    row = {"id": "x", "source": "wildchat", "prompt": NORTH[0]}
    row |= {"chosen": turns(*NORTH, "a"), "rejected": turns(*NORTH, "b")}
    (pair,), counts = read(tmp_path / "rows.jsonl", [row], format="tulu3")
    assert (pair.prompt, pair.subset, counts.format) == (messages(*NORTH), "wildchat", "tulu3")


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("llmbar", {"label": 0}, "column `label` is 0. Give one of 1, 2."),
        ("auto-j", {"label": None}, "column `label` is null."),
        ("shp", {"labels": 2}, "column `labels` is 2. Give one of 1, 0."),
        ("openrubric", {"winner": "model_c"}, "column `winner` is 'model_c'. Give A, B or tie."),
        ("arena", {"conversation_a": "x"}, "column `conversation_a` is a text."),
        ("hh-rlhf", {"chosen": "Which way?"}, "column `chosen` does not begin with `Human:` or `Assistant:`."),
        ("nectar", {"answers": [{"answer": "x"}] * 2}, "item 1 of `answers`: column `rank` is missing"),
        ("nectar", {"answers": []}, "column `answers` is an empty list."),
        ("rmb", {"chosen": "x"}, "column `chosen.answer` is missing"),
        ("sharegpt", {"chosen": {"from": "human", "value": "x"}}, "the last message of `chosen` is by 'user'."),
        ("several", {"rejected": [1]}, "column `rejected` is a number."),
        ("ppe-best-of-k", {"scores": [True]}, "column `scores` has 1 entries for 3 responses. Give one for each."),
        ("ppe-best-of-k", {"scores": [True, "x", False]}, "column `scores` is 'x'. Give a finite number."),
        ("ppe-best-of-k", {"scores": True}, "column `scores` is true. Give a list."),
        ("ppe-human-preference", {"winner": None}, "column `winner` is null."),
    ],
)
def test_a_row_of_another_form_is_an_error_with_its_place(
    tmp_path: Path, name: Any, changes: dict[str, Any], expected: str
) -> None:
    rows = FORMS[name][0] if name in FORMS else [openrubric(1)]
    with pytest.raises(DataError) as caught:
        read(tmp_path / "rows.jsonl", [rows[0], {**rows[0], **changes}], format=name)
    assert "rows.jsonl, line 2" in str(caught.value) and expected in str(caught.value)


# --- columns that are described ---------------------------------------------------------------------------------------

PLACES = (("q", "a", 2), ("q", "b", 1), ("r", "c", 1), ("r", "d", 2))
DESCRIBED: list[tuple[str, list[dict[str, Any]], list[tuple[Any, str, str]], dict[str, int]]] = [
    (
        "{prompt: [ask, more], responses: [one, two], winner: best, first: 1, second: [2, both-2], tie: 0}",
        [{"ask": "q", "more": "m", "one": "a", "two": "b", "best": best} for best in (1, "2", "both-2", 0, 1.0)],
        [("q\n\nm", "a", "b"), ("q\n\nm", "b", "a"), ("q\n\nm", "b", "a"), ("q\n\nm", "a", "b")],
        {"tie": 1},
    ),
    (
        "{prompt: ask, responses: [one, two], winner: [w1, w2, w3], subset: kind}",
        [{"ask": "q", "one": "a", "two": "b", "w1": "A", "w2": w, "w3": "B", "kind": "k"} for w in ("A", "b", "tie")],
        [("q", "a", "b"), ("q", "b", "a")],
        {"without a majority": 1},
    ),
    (
        "{prompt: ask, responses: [good.text, bad.text]}",
        [{"ask": "q", "good": {"text": "a"}, "bad": {"text": "b"}}],
        [("q", "a", "b")],
        {},
    ),
    (
        "{prompt: ask, answers: list, text: t, score: s}",
        [{"ask": "q", "list": [{"t": "a", "s": 1}, {"t": "b", "s": 2.5}, {"t": "c", "s": 1}]}],
        [("q", "b", "a"), ("q", "b", "c")],
        {"tie": 1},
    ),
    (
        "{prompt: ask, answers: list, score: s}",
        [{"ask": "q", "list": ["a", "b"], "s": [1, 2]}],
        [("q", "b", "a")],
        {},
    ),
    (
        "{prompt: ask, responses: [two.0, two.1], winner: best, first: true, second: false}",
        [{"ask": "q", "two": ["a", "b"], "best": best} for best in (True, False)],
        [("q", "a", "b"), ("q", "b", "a")],
        {},
    ),
    (
        "{prompt: ask, responses: [one, two], winner: best, first: 1, second: 2}",
        [{"ask": "q", "one": "a", "two": "b", "best": best} for best in ("1.0", "2.0")],
        [("q", "a", "b"), ("q", "b", "a")],
        {},
    ),
    (
        "{prompt: ask, text: t, rank: place}",
        [{"ask": ask, "t": t, "place": n} for ask, t, n in PLACES],
        [("q", "b", "a"), ("r", "c", "d")],
        {},
    ),
    (
        "{prompt: null, responses: [x, y], transcripts: true}",
        [{"x": transcript("q", "a"), "y": transcript("q", "b")}],
        [("q", "a", "b")],
        {},
    ),
    (
        "{system: s}",
        [{"s": "k", "prompt": "q", "chosen": "a", "rejected": "b"}],
        [((Message("system", "k"), Message("user", "q")), "a", "b")],
        {},
    ),
]


@pytest.mark.parametrize(("columns", "rows", "expected", "skipped"), DESCRIBED, ids=range(len(DESCRIBED)))
def test_described_columns(
    tmp_path: Path,
    columns: str,
    rows: list[dict[str, Any]],
    expected: list[tuple[Any, str, str]],
    skipped: dict[str, int],
) -> None:
    path = tmp_path / "mine.jsonl"
    pairs, counts = read(path, rows, columns=read_columns(columns, "--columns"), deduplicate="none")
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == expected
    assert (counts.format, dict(counts.skipped)) == ("columns", skipped)
    (tmp_path / "mine.yaml").write_text(
        f"extends: base.yaml\nwarmup: {{source: null}}\ndata: {{source: mine.jsonl, columns: {columns}}}\n"
    )
    assert load_recipe(tmp_path / "mine.yaml").data.columns == read_columns(columns, "--columns")
    done = CliRunner().invoke(app, ["data", "check", str(path), "--columns", columns, "--show", "0"])
    assert done.exit_code == 0 and "format: columns" in done.output, done.output


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("{promt: x}", "`promt` is not a field. Did you mean `prompt`?"),
        ("[x]", "no mapping"),
        ("{first: 1, second: 2}", "first: 1 is a value of winner, which is null."),
        ("{winner: w, first: 1}", "give the values of winner for both responses, or for neither"),
        ("{answers: a}", "needs the key of their score or rank"),
        ("{score: a, rank: b}", "Give one of the two."),
        ("{winner: w, first: 1, second: [2, '1.0']}", "first and second: both have the value 1. Give it to one"),
        ("{responses: [a]}", "responses: a list of 1. Name the columns of the two responses."),
    ],
)
def test_a_wrong_description_is_one_error(columns: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_columns(columns, "--columns")
    assert str(caught.value).startswith("--columns") and expected in str(caught.value)


def test_messages_in_parts_of_text(tmp_path: Path) -> None:
    def said(*texts: str) -> list[dict[str, Any]]:
        return [
            {**turn, "content": [{"type": "text", "text": turn["content"], "image": None}]} for turn in turns(*texts)
        ]

    pairs, _ = read(tmp_path / "rows.jsonl", [{"chosen": said("q", "a"), "rejected": said("q", "b")}])
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] == [("q", "a", "b")]
    picture = [{"role": "user", "content": [{"type": "image", "text": None}]}, *said("q", "a")[1:]]
    with pytest.raises(
        DataError, match=r"message 1 of `chosen` is a list\. Give a text, or a list of parts of type text"
    ):
        read(tmp_path / "rows.jsonl", [{"chosen": picture, "rejected": said("q", "b")}])


def test_a_transcript_without_a_response_is_left_out(tmp_path: Path) -> None:
    rows = [{"chosen": transcript(*texts), "rejected": transcript("q", "b")} for texts in (("q", "a"), ("q", "a", "c"))]
    pairs, counts = read(tmp_path / "rows.jsonl", rows)
    assert len(pairs) == 1 and dict(counts.skipped) == {"conversation without a response": 1}


def test_a_described_column_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: column `ask` is missing\. Expected: ask, one, two; found: x"):
        read(tmp_path / "rows.jsonl", [{"x": 1}], columns=read_columns("{prompt: ask, responses: [one, two]}", ""))


def test_mt_bench_is_read_from_its_split_of_human_votes(tmp_path: Path) -> None:
    folder = lay_out(tmp_path, "lmsys/mt_bench_human_judgments", "human", FORMS["arena"][0])
    pairs, counts = read_pairs(DataSettings(source=str(folder), streaming=True), 0)
    assert (counts.format, [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]) == (
        "mt-bench",
        FORMS["arena"][1],
    )


def test_check_proposes_the_description(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "answer_a": "a", "answer_b": "b", "preferred": 1}) + "\n")
    done = CliRunner().invoke(app, ["data", "check", str(path)])
    values = "first: VALUE, second: VALUE, tie: VALUE"
    columns = f"{{prompt: question, responses: [answer_a, answer_b], winner: preferred, {values}}}"
    assert done.exit_code == 2 and f"or describe them: --columns '{columns}'." in done.output
    columns = columns.replace(values, "first: 1, second: 2")
    assert CliRunner().invoke(app, ["data", "check", str(path), "--columns", columns]).exit_code == 0
