"""Files as people have them: arrays, compressed files, TSV, Arrow, dates, and names that stand twice."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset
from pyarrow import parquet

from rubric_arm_lite.data.counts import BadRows
from rubric_arm_lite.data.pairs import load_pairs, read_pairs
from rubric_arm_lite.data.sources import open_rows
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.recipe import DataSettings

ROWS = [{"prompt": f"p{i}", "chosen": "é\n", "rejected": "b"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TSV = b'prompt\tchosen\trejected\np0\t"\xc3\xa9\n"\tb\np1\t"\xc3\xa9\n"\tb\np2\t"\xc3\xa9\n"\tb\n'


def zstd(content: bytes) -> bytes:
    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", json.dumps(ROWS).encode()),
        ("rows.json", b"\xef\xbb\xbf\n " + json.dumps(ROWS, indent=1).encode()),
        ("rows.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("rows.jsonl.gz", gzip.compress(LINES)),
        ("ROWS.JSONL.GZ", gzip.compress(LINES)),
        ("rows.json.bz2", bz2.compress(json.dumps(ROWS).encode())),
        ("rows.jsonl.zst", zstd(LINES)),
        ("rows.tsv", TSV),
        ("rows.tsv.zst", zstd(TSV)),
        ("rows.csv.gz", gzip.compress(TSV.replace(b"\t", b","))),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",  # compressed ones hold the time
)
def test_a_file_of_each_kind(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert [dict(row.columns) for row in open_rows(path)] == ROWS
    assert [pair.chosen for pair in load_pairs(path)] == ["é\n"] * 3


def test_arrow_files_and_folders(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_file(str(tmp_path / "file.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pyarrow.ipc.new_stream(str(tmp_path / "stream.arrow"), table.schema) as writer:
        writer.write_table(table)
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    (saved,) = (tmp_path / "saved").glob("*.arrow")
    for source in (tmp_path / "file.arrow", tmp_path / "stream.arrow", saved, tmp_path / "saved"):
        assert [dict(row.columns) for row in open_rows(source)] == ROWS
        assert len(read_pairs(DataSettings(source=str(source)), 0)[0]) == 3
    (tmp_path / "cut.arrow").write_bytes(saved.read_bytes()[:300])
    with pytest.raises(DataError, match=r"cut\.arrow is not a readable Arrow file"):
        list(open_rows(tmp_path / "cut.arrow"))


@pytest.mark.parametrize(
    ("type", "value", "text"),
    [
        (pyarrow.date32(), datetime.date(2024, 2, 29), "2024-02-29"),
        (pyarrow.timestamp("ns"), 10**18 + 1, "2001-09-09 01:46:40.000000001"),
        (pyarrow.timestamp("s"), 10**9, "2001-09-09 01:46:40.000"),
        (pyarrow.time64("us"), datetime.time(1, 2), "01:02:00.000000"),
    ],
)
def test_dates_and_times_are_texts(tmp_path: Path, type: Any, value: Any, text: str) -> None:
    table = pyarrow.Table.from_pylist(ROWS[:1]).append_column("far", pyarrow.array([10**14], pyarrow.timestamp("s")))
    table = table.append_column("id", pyarrow.array([value], type))
    parquet.write_table(table, tmp_path / "rows.parquet")
    (pair,) = load_pairs(tmp_path / "rows.parquet")
    assert (pair.pair_id, pair.prompt) == (text, "p0")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven.", "chosen": "Eight."}')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1: `chosen` stands twice in one object\. Remove one\."):
        load_pairs(path)
    names = ["prompt", "chosen", "rejected", "chosen"]
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 4, names=names)
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"has the column 'chosen' twice\. Rename one of the columns\."):
        load_pairs(tmp_path / "rows.parquet")


def test_a_broken_array_and_a_cut_archive_are_one_error(tmp_path: Path) -> None:
    for name, content, expected in (
        ("rows.json", b'[{"prompt": "p"},\n 1]', "item 1: column `chosen` is missing"),
        ("list.json", b"[1]", "list.json, item 1: a number. Each item must be an object"),
        ("cut.json", b'[{"prompt": "p"},\n', "line 1: not JSON (Expecting value, line 2 of it, column 1)"),
        ("cut.jsonl.gz", gzip.compress(LINES)[:-9], "cut.jsonl.gz cannot be read (Truncated compressed stream)."),
        ("not.jsonl.zst", LINES, "not.jsonl.zst cannot be read ("),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_pairs(tmp_path / name)
        assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["\u200b", " \ufeff\n", "\u2060\u200d\u00ad", "\u3164", "\U000e0041", "\ufe0f"])
def test_a_text_that_shows_nothing_is_empty(tmp_path: Path, text: str) -> None:
    for column in ("prompt", "chosen", "rejected"):
        (tmp_path / "rows.jsonl").write_text(json.dumps({**ROWS[0], column: text}))
        with pytest.raises(DataError, match=f"column `{column}` is empty"):
            load_pairs(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text(json.dumps({**ROWS[0], "chosen": f"{text}x"}))
    assert load_pairs(tmp_path / "rows.jsonl")[0].chosen == f"{text}x"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv"])
def test_utf16_and_binary_files_are_one_error(tmp_path: Path, encoding: str, name: str) -> None:
    text = TSV.decode() if name.endswith("sv") else LINES.decode()
    for content in (text.encode(encoding), bytes(100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}, line 1: not UTF-8 \(.*Save the file as UTF-8\."):
            load_pairs(tmp_path / name)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_csv_with_other_separators_says_so(tmp_path: Path, mark: str) -> None:
    (tmp_path / "rows.csv").write_text(f"prompt{mark}chosen{mark}rejected\np{mark}a{mark}b\n")
    with pytest.raises(DataError, match=r"line 1: the header is one cell, 'prompt.+'\. Separate cells by commas\."):
        load_pairs(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("header", "rows", "chosen"),
    [
        ("prompt,response_1,response_2,preference_strength", ["q,a,b,2", "q,a,b,-1.5", "q,a,b,0"], ["b", "a"]),
        ("prompt,response,helpfulness", ["q,a,2", "q,b,3"], ["b"]),
    ],
)
def test_numbers_of_a_csv_are_numbers(tmp_path: Path, header: str, rows: list[str], chosen: list[str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, *rows]))
    assert [pair.chosen for pair in read_pairs(DataSettings(source=str(path)), 0)[0]] == chosen
    for wrong in ("x", "nan", ""):
        path.write_text("\n".join([header, *rows, rows[0].rpartition(",")[0] + "," + wrong]))
        with pytest.raises(DataError, match=rf"line {len(rows) + 2}: .*Give a finite number"):
            read_pairs(DataSettings(source=str(path)), 0)


def test_a_first_row_with_nulls_hides_no_format(tmp_path: Path) -> None:
    row = {"input": "q", "output_1": "a", "output_2": "b", "label": 1}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ({**row, "label": None}, row)))
    with pytest.raises(DataError, match="line 1: column `label` is null"):
        read_pairs(DataSettings(source=str(tmp_path / "rows.jsonl")), 0)
    bad = BadRows()
    pairs, counts = read_pairs(DataSettings(source=str(tmp_path / "rows.jsonl")), 0, bad=bad)
    assert (len(pairs), counts.format, bad.total) == (1, "llmbar", 1)
