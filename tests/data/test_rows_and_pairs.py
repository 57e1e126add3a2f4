"""Source rows: every accepted form, every refusal with its place, and what splitting and filtering promise."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rubric_arm_lite.data.pairs import (
    ResponseSet,
    load_answers,
    load_pairs,
    load_responses,
    read_prompts,
)
from rubric_arm_lite.data.rows import is_visible
from rubric_arm_lite.data.trajectories import WarmupRow
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts.builder import prompt_hash
from rubric_arm_lite.recipe import SourceSettings
from rubric_arm_lite.types import Message, PreferencePair
from tests.source_rows import load_trajectories

IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
Loader = Callable[[Path], object]

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
TRAJECTORY = {"prompt": "p", "rubric": "r", "response_a": "a", "response_b": "b", "judgement": "j"}
COMPARISON = {"prompt": "p", "response_a": "a", "response_b": "b"}


def load_comparisons(path: Path) -> list[ResponseSet]:
    return load_responses(path, "response_a", "response_b")


LOADERS: dict[str, tuple[Loader, dict[str, str]]] = {
    "pairs": (load_pairs, PAIR),
    "trajectories": (load_trajectories, TRAJECTORY),
    "comparisons": (load_comparisons, COMPARISON),
}
LONG = "x" * 200_000


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def jsonl(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def raw(folder: Path, content: bytes, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def parquet(folder: Path, rows: list[dict[str, Any]], name: str = "rows.parquet") -> Path:
    import pyarrow
    from pyarrow import parquet as files

    path = folder / name
    files.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def message_of(path: Path, load: Loader = load_pairs) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    text = str(caught.value)
    text.encode("utf-8")
    return text


# --- accepted ---------------------------------------------------------------------------------------------------------


def test_a_pair_with_every_column(tmp_path: Path) -> None:
    row = {**PAIR, "id": "x1", "source": "s", "subset": "t", "score": 3, "note": None}
    assert load_pairs(jsonl(tmp_path, row)) == [PreferencePair("x1", "p", "a", "b", "s", "t")]
    assert load_pairs(str(jsonl(tmp_path, row))) == load_pairs(jsonl(tmp_path, row, name="rows.JSON"))


def test_missing_ids_count_the_rows_of_a_prompt(tmp_path: Path) -> None:
    rows = [PAIR, {**PAIR, "prompt": "q"}, {**PAIR, "id": None}, {**PAIR, "id": ""}, {**PAIR, "id": 7}]
    ids = [pair.pair_id for pair in load_pairs(jsonl(tmp_path, *rows))]
    p, q = prompt_hash("p"), prompt_hash("q")
    assert ids == [f"{p}-0", f"{q}-0", f"{p}-1", f"{p}-2", "7"]
    assert [pair.pair_id for pair in load_pairs(jsonl(tmp_path, rows[1], *rows))][1:] == [p + "-0", q + "-1", *ids[2:]]


CONVERSATION = (Message("system", "s"), Message("user", "u"), Message("assistant", "v"), Message("user", "w"))
TURNS = [{"role": message.role, "content": message.content} for message in CONVERSATION]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": TURNS, "chosen": "a", "rejected": "b"}, CONVERSATION),
        ({"prompt": TURNS, "chosen": [assistant("a")], "rejected": [assistant("b")]}, CONVERSATION),
        ({"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]}, CONVERSATION),
        ({"prompt": None, "chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]}, CONVERSATION),
        ({"prompt": "w\n", "chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]}, CONVERSATION),
        ({"prompt": "u", "chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]}, CONVERSATION),
        ({"prompt": TURNS, "chosen": [*TURNS[1:], assistant("a")], "rejected": "b"}, CONVERSATION),
        (
            {
                "prompt": TURNS[:2],
                "chosen": [*TURNS[2:], assistant("a")],
                "rejected": [*TURNS[2:], assistant("b")],
            },
            CONVERSATION,
        ),
        ({"prompt": "p", "chosen": [user("p"), assistant("a")], "rejected": "b"}, "p"),
        ({"prompt": [user("p")], "chosen": "a", "rejected": "b"}, "p"),
        ({"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]}, "p"),
        (
            {"prompt": [{"role": "tool", "content": ""}, {**user("p"), "name": "x"}], "chosen": "a", "rejected": "b"},
            (Message("tool", ""), Message("user", "p")),
        ),
    ],
)
def test_messages_and_texts(tmp_path: Path, row: dict[str, Any], prompt: Any) -> None:
    (pair,) = load_pairs(jsonl(tmp_path, row))
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "a", "b")
    (from_parquet,) = load_pairs(parquet(tmp_path, [row]))
    assert from_parquet == pair


def test_blank_lines_and_the_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    line = json.dumps(PAIR).encode()
    pairs = load_pairs(raw(tmp_path, b"\xef\xbb\xbf" + line + b"\r\n\r\n  \t\n\n" + line))
    assert [pair.prompt for pair in pairs] == ["p", "p"]
    assert len(load_pairs(raw(tmp_path, b"\xef\xbb\xbfprompt,chosen,rejected\n\np,a,b\n\n", "rows.csv"))) == 1


@pytest.mark.parametrize("text", ["\0", "a\0b", " x ", "é😀", "a\u2028b\x85c", "{{ rubric }}", "a\ufeff"])
def test_texts_come_through_unchanged(tmp_path: Path, text: str) -> None:
    row = {**PAIR, "chosen": text}
    for path in (jsonl(tmp_path, row), parquet(tmp_path, [row])):
        assert load_pairs(path)[0].chosen == text
    unescaped = json.dumps(row, ensure_ascii=False).encode()
    assert load_pairs(raw(tmp_path, unescaped))[0].chosen == text


def test_csv_cells_are_texts(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = tmp_path / "rows.csv"
    cells = ['[{"role": "user"}]', 'a "quoted", line\r\nbreak', LONG, "12"]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["prompt", "chosen", "rejected", "id"], cells, ["p\0", "a", "b", ""]])
    pairs = load_pairs(path)
    assert pairs[0] == PreferencePair("12", *cells[:3])
    assert pairs[1].pair_id == f"{prompt_hash(pairs[1].prompt)}-0"
    assert csv.field_size_limit() == limit


def test_all_formats_give_the_same_pairs(tmp_path: Path) -> None:
    rows = [{**PAIR, "prompt": f"p{i // 3}", "chosen": f"a{i}", "source": "s"} for i in range(3000)]
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    expected = load_pairs(jsonl(tmp_path, *rows))
    assert len(expected) == 3000
    assert load_pairs(path) == expected
    assert load_pairs(parquet(tmp_path, rows)) == expected


def test_parquet_ids_may_be_numbers(tmp_path: Path) -> None:
    assert [p.pair_id for p in load_pairs(parquet(tmp_path, [{**PAIR, "id": 4}, {**PAIR, "id": 5}]))] == ["4", "5"]


def test_trajectories(tmp_path: Path) -> None:
    rows = load_trajectories(jsonl(tmp_path, TRAJECTORY, {**TRAJECTORY, "prompt": TURNS}))
    assert rows == [WarmupRow("p", "r", "a", "b", "j"), WarmupRow(CONVERSATION, "r", "a", "b", "j")]


def test_pointwise_trajectories_have_one_response(tmp_path: Path) -> None:
    row = {"prompt": "p", "rubric": "r", "response": "a", "judgement": "j"}
    assert load_trajectories(jsonl(tmp_path, row), pointwise=True) == [WarmupRow("p", "r", "a", None, "j")]
    with pytest.raises(DataError, match=r"line 1: .*`response`"):
        load_trajectories(jsonl(tmp_path, TRAJECTORY), pointwise=True)
    with pytest.raises(DataError, match=r"line 1: .*`response_a`"):
        load_trajectories(jsonl(tmp_path, row))


def test_comparisons(tmp_path: Path) -> None:
    rows = [COMPARISON, {**COMPARISON, "id": "k", "rubric": "r"}, {**COMPARISON, "rubric": None, "response_b": "a"}]
    name = prompt_hash("p")
    assert load_comparisons(jsonl(tmp_path, *rows)) == [
        ResponseSet(f"{name}-0", "p", ("a", "b")),
        ResponseSet("k", "p", ("a", "b"), "r"),
        ResponseSet(f"{name}-2", "p", ("a", "a"), None),
    ]


# --- refused ----------------------------------------------------------------------------------------------------------

BAD_PAIRS: list[tuple[Any, str]] = [
    ({"promt": "p", "chosen": "a", "rejected": "b"}, "column `prompt` is missing (found: promt, chosen, rejected)."),
    ({"prompt": "p", "rejected": "b"}, "column `chosen` is missing (found: prompt, rejected)."),
    ({"prompt": "p", "chosen": "a"}, "column `rejected` is missing (found: prompt, chosen)."),
    ({}, "column `chosen` is missing (found: none)."),
    ({"\ud800": 1}, r"column `chosen` is missing (found: \ud800)."),
    ({**PAIR, "prompt": None}, "column `prompt` is null. Each row needs one."),
    ({**PAIR, "prompt": ""}, "column `prompt` is empty."),
    ({**PAIR, "chosen": " \n"}, "column `chosen` is empty. Fill it, or leave the row out."),
    ({**PAIR, "rejected": ""}, "column `rejected` is empty."),
    ({**PAIR, "prompt": 3}, "column `prompt` is a number. Give a text or a list of messages."),
    ({**PAIR, "prompt": {"a": 1}}, "column `prompt` is an object. Give a text or a list of messages."),
    ({**PAIR, "chosen": True}, "column `chosen` is true. Give a text or a list of messages."),
    ({**PAIR, "rejected": 1.5}, "column `rejected` is a number."),
    ({**PAIR, "source": 1}, "column `source` is a number. Give a text, or leave it out."),
    ({**PAIR, "subset": ["a"]}, "column `subset` is a list. Give a text, or leave it out."),
    ({**PAIR, "chosen": "b"}, "chosen equals rejected ('b'). Leave the row out."),
    ({**PAIR, "chosen": "x" * 99, "rejected": "x" * 99}, f"chosen equals rejected ('{'x' * 57}...')."),
    ({**PAIR, "chosen": [assistant("b")]}, "chosen equals rejected ('b')."),
    ({**PAIR, "id": 1.5}, "id is a number. Give a text or a whole number, or leave it out."),
    ({**PAIR, "id": True}, "id is true."),
    ({**PAIR, "id": ["a"]}, "id is a list."),
    ({**PAIR, "id": "\ud800"}, r"id has half of a surrogate pair, '\ud800', at character 0."),
    ({**PAIR, "prompt": "ab\udfff"}, r"column `prompt` has half of a surrogate pair, '\udfff', at character 2."),
    ({**PAIR, "chosen": "\ud800"}, "column `chosen` has half of a surrogate pair"),
    ({**PAIR, "source": "\ud800"}, "column `source` has half of a surrogate pair"),
    ({**PAIR, "prompt": [{"role": "system", "content": "\ud800"}, user("p")]}, "message 1 of `prompt` has half of a"),
    ({**PAIR, "prompt": []}, "column `prompt` is an empty list. Give at least one message."),
    ({**PAIR, "chosen": []}, "column `chosen` is an empty list."),
    ({**PAIR, "prompt": ["p"]}, 'message 1 of `prompt` is a text. Write {"role": …, "content": …}.'),
    ({**PAIR, "prompt": [user("p"), None]}, "message 2 of `prompt` is null."),
    (
        {**PAIR, "prompt": [{"role": "human", "content": "p"}]},
        "has role 'human'. Use one of system, user, assistant, tool.",
    ),
    ({**PAIR, "prompt": [{"content": "p"}]}, "message 1 of `prompt` has role null."),
    ({**PAIR, "prompt": [{"role": ["user"], "content": "p"}]}, "message 1 of `prompt` has role a list."),
    (
        {**PAIR, "prompt": [{"role": "user"}]},
        "the content of message 1 of `prompt` is null. Give a text, or a list of parts of type text.",
    ),
    ({**PAIR, "prompt": [user([{"type": "text"}])]}, "the content of message 1 of `prompt` is a list."),
    (
        {**PAIR, "prompt": [user("p"), assistant("a")]},
        "the conversation in `prompt` ends with a message by 'assistant'.",
    ),
    ({**PAIR, "prompt": [user(" ")]}, "the last user message of `prompt` is empty."),
    (
        {**PAIR, "chosen": [user("p")]},
        "the last message of `chosen` is by 'user'. End it with the assistant's response.",
    ),
    ({**PAIR, "chosen": [user("p"), assistant("")]}, "the last message of `chosen` is empty."),
    ({"chosen": "a", "rejected": [user("p"), assistant("b")]}, "column `prompt` is missing"),
    (
        {"chosen": [user("p"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        "`chosen` and `rejected` hold different conversations before their responses.",
    ),
    (
        {"prompt": "p", "chosen": [*TURNS, assistant("a")], "rejected": [user("p"), assistant("b")]},
        "`chosen` and `rejected` hold different conversations before their responses.",
    ),
    (
        {"prompt": "p", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        "the conversation before the responses does not hold the `prompt`.",
    ),
    (
        {"prompt": "p", "chosen": [user("q"), assistant("a")], "rejected": "b"},
        "the conversation before the responses does not hold the `prompt`.",
    ),
    ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, "no `prompt`, and no messages before the response."),
    (
        {"chosen": [assistant("x"), assistant("a")], "rejected": [assistant("x"), assistant("b")]},
        "the conversation in `chosen` ends with a message by 'assistant'. End it with the user's turn.",
    ),
    ([1], 'a list. Write one object per line: {"prompt": …, …}.'),
    ("p", "a text. Write one object per line"),
    (None, "null. Write one object per line"),
]


@pytest.mark.parametrize(("row", "expected"), BAD_PAIRS, ids=range(len(BAD_PAIRS)))
def test_a_bad_pair_is_told_where_and_what(tmp_path: Path, row: Any, expected: str) -> None:
    path = jsonl(tmp_path, {**PAIR, "id": "good"}, row)
    message = message_of(path)
    assert message.startswith(f"{path}, line 2: ")
    assert expected in message


@pytest.mark.parametrize("kind", ["trajectories", "comparisons"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "is null. Each row needs one."),
        ("", "is empty. Fill it, or leave the row out."),
        ("\n", "is empty."),
        ("\ud800", "has half of a surrogate pair"),
        (4, "is a number. Give a text"),
        ({"a": 1}, "is an object. Give a text"),
    ],
)
def test_every_text_of_the_other_files_is_checked(tmp_path: Path, kind: str, value: Any, expected: str) -> None:
    load, good = LOADERS[kind]
    for column in good:
        path = jsonl(tmp_path, good, {**good, column: value})
        assert message_of(path, load).startswith(f"{path}, line 2: column `{column}` {expected}")
        path = jsonl(tmp_path, {key: text for key, text in good.items() if key != column})
        assert f"line 1: column `{column}` is missing (found: " in message_of(path, load)


def test_an_optional_rubric_must_be_a_text(tmp_path: Path) -> None:
    message = message_of(jsonl(tmp_path, {**COMPARISON, "rubric": ["r"]}), load_comparisons)
    assert "line 1: column `rubric` is a list. Give a text, or leave it out." in message


@pytest.mark.parametrize("kind", ["pairs", "comparisons"])
def test_duplicate_ids_name_both_rows(tmp_path: Path, kind: str) -> None:
    load, good = LOADERS[kind]
    path = jsonl(tmp_path, {**good, "id": 1}, good, {**good, "id": "1"})
    assert message_of(path, load).startswith(f"{path}, line 3: id '1' was used before ({path}, line 1).")
    path = jsonl(tmp_path, {**good, "id": f"{prompt_hash('p')}-1"}, good)
    assert "line 2: id" in message_of(path, load)


BAD_JSON = [
    (b'{"prompt": "p"', 1, "not JSON (Expecting ',' delimiter, column 15). Write one complete object per line."),
    (b"\n\n{'prompt': 1}", 3, "not JSON (Expecting property name enclosed in double quotes, column 2)."),
    (b"[\n{},", 1, "not JSON (Expecting value, line 2 of it, column 4). Write one complete array of objects."),
    (b'"x"\n[{}]', 1, "a text. Write one object per line"),
    (b'{"a": 1, "b": [{"c": 1, "c": 1}]}', 1, "`c` stands twice in one object. Remove one."),
    (b"{} {}", 1, "not JSON (Extra data, column 4)."),
    (b"\xef\xbb\xbf\n\xef\xbb\xbf{}", 2, "not JSON ("),
    (b"\n\n\xff\xfe{}", 3, "not UTF-8 (invalid start byte, byte 0). Save the file as UTF-8."),
    (b'{"a": "caf\xe9"}', 1, "not UTF-8 (invalid continuation byte, byte 10)."),
    (b'{"a": "\xed\xa0\x80"}', 1, "not UTF-8 ("),
    (json.dumps(PAIR).encode("utf-16"), 1, "not UTF-8 ("),
    (b"[" * 200_000, 1, "JSON that cannot be read ("),
    (b"9" * 5000, 1, "JSON that cannot be read ("),
    (b"NaN", 1, "a number. Write one object per line"),
]


@pytest.mark.parametrize(("content", "line", "expected"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_broken_json_lines(tmp_path: Path, content: bytes, line: int, expected: str) -> None:
    path = raw(tmp_path, content)
    for load, _ in LOADERS.values():
        assert message_of(path, load).startswith(f"{path}, line {line}: {expected}")


BAD_CSV = [
    ("prompt,chosen\np,a\n", 2, "column `rejected` is missing (found: prompt, chosen)."),
    ("p,a,b\nq,c,d\n", 2, "column `chosen` is missing (found: p, a, b)."),
    ("prompt,chosen,rejected\np,a,b\n\n'x\ny',,d\n".replace("'", '"'), 4, "column `chosen` is empty."),
    ("prompt,chosen,rejected\np,a\n", 2, "2 cells under a header of 3. Quote cells that contain commas"),
    ('prompt,chosen,rejected\n"x\ny",a,b\np,a,b,c\n', 4, "4 cells under a header of 3."),
    ('prompt,chosen,rejected\np,"a"b,c\n', 2, "not CSV (',' expected after '\"')."),
    ('prompt,chosen,rejected\np,a,b\nq,"a\n\n', 3, "not CSV (unexpected end of data)."),
    ("prompt,chosen,rejected\np,a\rx,b\n", 2, "not CSV (new-line character seen in unquoted field"),
    ("prompt,chosen,prompt\np,a,b\n", 1, "the header has 'prompt' twice. Rename one of the columns."),
    ("prompt,chosen,rejected\np,a,a\n", 2, "chosen equals rejected ('a')."),
]


@pytest.mark.parametrize(("text", "line", "expected"), BAD_CSV, ids=range(len(BAD_CSV)))
def test_broken_csv(tmp_path: Path, text: str, line: int, expected: str) -> None:
    path = raw(tmp_path, text.encode(), "rows.csv")
    assert message_of(path).startswith(f"{path}, line {line}: {expected}")


def test_csv_that_is_not_utf8(tmp_path: Path) -> None:
    path = raw(tmp_path, b"prompt,chosen,rejected\np,a,b\np,a,\xe9\n", "rows.csv")
    assert message_of(path).startswith(f"{path}, line 3: not UTF-8 (")


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    path = parquet(tmp_path, [PAIR] * 1500 + [{**PAIR, "chosen": None}])
    assert message_of(path).startswith(f"{path}, row 1501: column `chosen` is null.")
    path = parquet(tmp_path, [{**PAIR, "prompt": b"bytes"}])
    assert message_of(path).startswith(f"{path}, row 1: column `prompt` is a bytes.")


def test_parquet_with_texts_that_are_not_utf8(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as files

    broken = pyarrow.Array.from_buffers(
        pyarrow.string(),
        1,
        [None, pyarrow.py_buffer((0).to_bytes(4, "little") + (1).to_bytes(4, "little")), pyarrow.py_buffer(b"\xff")],
    )
    files.write_table(pyarrow.table({"prompt": broken, "chosen": ["a"], "rejected": ["b"]}), tmp_path / "rows.parquet")
    assert "rows.parquet, after row 0: text that is not UTF-8." in message_of(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1xxxxPAR1", b"not parquet at all, but long enough", b"\0" * 100]
)
def test_a_broken_parquet_file(tmp_path: Path, content: bytes) -> None:
    path = raw(tmp_path, content, "rows.parquet")
    assert re.match(
        rf"{re.escape(str(path))} is not a readable Parquet file \(.+\)\. Write it again\.$", message_of(path)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b""),
        ("rows.jsonl", b"\n \n"),
        ("rows.jsonl", b"\xef\xbb\xbf"),
        ("rows.csv", b""),
        ("rows.csv", b"prompt,chosen,rejected\n"),
    ],
)
def test_a_file_without_rows(tmp_path: Path, name: str, content: bytes) -> None:
    path = raw(tmp_path, content, name)
    for load, _ in LOADERS.values():
        assert message_of(path, load) == f"{path} has no rows. Give at least one."


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), tmp_path / "rows.parquet")
    assert "has no rows" in message_of(tmp_path / "rows.parquet")


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv", "none.parquet", "none", "z" * 5000, "a\0b.jsonl"])
def test_a_missing_file(tmp_path: Path, name: str) -> None:
    message = message_of(tmp_path / name)
    assert message.startswith(f"There is no file {tmp_path / name}. Check the path")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    expected = (
        "Give a .jsonl, .json, .csv, .tsv, .parquet or .arrow file; the first four may be compressed (.gz, .bz2, .zst)."
    )
    assert message_of(raw(tmp_path, b"{}", "rows.txt")).endswith(f"rows.txt ends in .txt. {expected}")
    assert message_of(raw(tmp_path, b"{}", "rows")).endswith(f"rows ends in nothing. {expected}")
    assert "is a folder. Give a file" in message_of(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = jsonl(tmp_path, PAIR)
    monkeypatch.setattr(Path, "open", refuse)
    assert message_of(path) == f"{path} cannot be read (Permission denied). Check its permissions."


# --- any input --------------------------------------------------------------------------------------------------------

JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["system", "user", "assistant", "tool", "bot"]) | JSON_VALUE,
            "content": st.text(st.characters(), max_size=5) | JSON_VALUE,
        },
    ),
    max_size=4,
)
CELL = st.text(st.characters(), max_size=8) | MESSAGES | JSON_VALUE
COLUMNS = sorted({*TRAJECTORY, *PAIR, "id", "source", "subset"})
ROW = st.fixed_dictionaries({}, optional=dict.fromkeys(COLUMNS, CELL))


def never_another_error(path: Path) -> None:
    for load, _ in LOADERS.values():
        try:
            load(path)
        except DataError as error:
            str(error).encode("utf-8")
            assert str(path) in str(error)


@IN_ONE_FOLDER
@given(content=st.binary(max_size=80), name=st.sampled_from(["any.jsonl", "any.csv", "any.parquet"]))
def test_any_bytes_give_a_data_error(tmp_path: Path, content: bytes, name: str) -> None:
    never_another_error(raw(tmp_path, content, name))


@IN_ONE_FOLDER
@given(rows=st.lists(ROW | JSON_VALUE, max_size=4))
def test_any_json_rows_load_or_give_a_data_error(tmp_path: Path, rows: list[Any]) -> None:
    never_another_error(jsonl(tmp_path, *rows))


@IN_ONE_FOLDER
@given(text=st.text(st.sampled_from('prompt,chosen,rejected\n\r"\0 é'), max_size=60))
def test_any_csv_loads_or_gives_a_data_error(tmp_path: Path, text: str) -> None:
    never_another_error(raw(tmp_path, b"prompt,chosen,rejected\n" + text.encode(), "any.csv"))


@IN_ONE_FOLDER
@given(data=st.data())
def test_a_damaged_parquet_file_loads_or_gives_a_data_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(parquet(tmp_path, [PAIR, {**PAIR, "id": "x"}]).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    never_another_error(raw(tmp_path, bytes(content), "damaged.parquet"))
    never_another_error(raw(tmp_path, bytes(content[:cut]), "cut.parquet"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(is_visible)


@IN_ONE_FOLDER
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT).filter(lambda r: r[1] != r[2]), min_size=1, max_size=5))
def test_pairs_round_trip(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    columns = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
    for path in (jsonl(tmp_path, *columns), parquet(tmp_path, columns)):
        assert [(pair.prompt, pair.chosen, pair.rejected) for pair in load_pairs(path)] == rows
        assert len({pair.pair_id for pair in load_pairs(path)}) == len(rows)


def test_prompts_and_answers(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"prompt": "p", "response": "r", "other": 1}, {"prompt": turns, "response": "s"}]
    rows.append({"prompt": "p", "response": "t"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    conversation = tuple(Message(**turn) for turn in turns)
    assert read_prompts(SourceSettings(source=str(file)), 0)[0] == ["p", conversation]
    assert load_answers(file) == [("p", "r"), (conversation, "s"), ("p", "t")]
    file.write_text('{"prompt": "p", "response": ""}\n')
    assert read_prompts(SourceSettings(source=str(file)), 0)[0] == ["p"]
    with pytest.raises(DataError, match="line 1: column `response` is empty"):
        load_answers(file)
