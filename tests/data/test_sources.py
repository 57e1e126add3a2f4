"""Opening sources: files, folders and, through a fake Hub, data sets by their id."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.data.rows import Row
from rubric_arm_lite.data.sources import is_hub_id, open_rows
from rubric_arm_lite.errors import DataError
from tests.data.test_rows_and_pairs import jsonl, parquet
from tests.fake_hub import FakeHub, serve_hub

ROWS = [{"prompt": f"p{i}", "chosen": [{"role": "assistant", "content": "ναί 😀"}], "n": i} for i in range(3)]
CARD = """---
configs:
- config_name: preference
  data_files:
  - {split: train, path: preference/train.jsonl.gz}
  - {split: validation, path: preference/validation.jsonl.gz}
---
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for what is read through `datasets`, whose configuration was read at import."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def refused(source: str | Path, **choices: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(open_rows(source, **choices))
    return str(caught.value)


def folder_of(path: Path, **splits: list[dict[str, Any]]) -> Path:
    (path / "data").mkdir(parents=True)
    for split, rows in splits.items():
        parquet(path / "data", rows, f"{split}-00000-of-00001.parquet")
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_files_keep_their_lines(tmp_path: Path, streaming: bool) -> None:
    path = jsonl(tmp_path, *ROWS)
    assert [row.where for row in open_rows(path, streaming=streaming)] == [f"{path}, line {i}" for i in (1, 2, 3)]
    assert "has no split 'train' to choose" in refused(path, split="train")
    assert refused(tmp_path / "none.jsonl").startswith("There is no file")
    assert refused("not-there").startswith("There is no file")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_is_read_like_a_repository(tmp_path: Path, streaming: bool) -> None:
    folder = folder_of(tmp_path / "set", train=ROWS, test=ROWS[:1])
    rows = list(open_rows(folder, streaming=streaming))
    assert rows[2] == Row(f"{folder}, split train, row 3", ROWS[2])
    assert len(list(open_rows(folder, split="test", streaming=streaming))) == 1
    assert refused(folder, split="dev", streaming=streaming).endswith("Choose one of: train, test.")
    assert "no revision 'v1' to choose" in refused(folder, revision="v1")


def test_the_only_split_needs_no_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", test=ROWS)
    assert len(list(open_rows(folder, streaming=True))) == 3


def test_a_config_is_declared_or_a_folder(tmp_path: Path) -> None:
    for name, card in (("declared", CARD), ("plain", "")):
        (tmp_path / name / "preference").mkdir(parents=True)
        (tmp_path / name / "other").mkdir()
        jsonl(tmp_path / name / "other", {"x": 1}, name="train.jsonl")
        for split, rows in (("train", ROWS), ("validation", ROWS[:1])):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / name / "preference" / f"{split}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
        (tmp_path / name / "README.md").write_text(card)
        folder = tmp_path / name
        assert [row.columns["n"] for row in open_rows(folder, config="preference", streaming=True)] == [0, 1, 2]
        assert len(list(open_rows(folder, config="preference", split="validation", streaming=True))) == 1
        assert "neither a configuration nor a folder 'zzz'" in refused(folder, config="zzz", streaming=True)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    one = Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": one, "dev": one.select([0])}).save_to_disk(str(tmp_path / "several"))
    assert [row.columns for row in open_rows(tmp_path / "one")] == ROWS
    assert next(iter(open_rows(tmp_path / "one"))).where == f"{tmp_path / 'one'}, row 1"
    assert len(list(open_rows(tmp_path / "several", split="dev"))) == 1
    assert "no config 'x' to choose" in refused(tmp_path / "one", config="x")
    assert "no split 'dev'; it is one split" in refused(tmp_path / "one", split="dev")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_script_is_never_run(tmp_path: Path, streaming: bool) -> None:
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    jsonl(folder, *ROWS)
    message = refused(folder, streaming=streaming)
    assert "code of its own, which is never run" in message
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} cannot be opened" in refused(empty)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "train.jsonl").write_text('{"x": 1}\n{"x": \n')
    for streaming in (False, True):
        message = refused(mixed, streaming=streaming)
        assert "Check its files" in message and "\n" not in message
    unreadable = folder_of(tmp_path / "broken", train=ROWS)
    file = unreadable / "data" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-30])
    assert "cannot be" in refused(unreadable, streaming=True)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("owner/name", True),
        ("Skywork/Skywork-Reward-Preference-80K-v0.2", True),
        ("data/pairs.jsonl", False),
        ("data/pairs.PARQUET", False),
        ("name", False),
        ("../name", False),
        ("a/../b", False),
        ("a/..", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("", False),
        ("a/b\0", False),
        ("a/b\n", False),
        ("x" * 5000 + "/b", False),
    ],
)
def test_what_is_a_hub_id(source: str, expected: bool) -> None:
    assert is_hub_id(source) is expected


def test_what_exists_here_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "owner" / "name", train=ROWS)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id("owner/name")
    assert len(list(open_rows("owner/name", streaming=True))) == 3


def test_offline_is_one_clear_error() -> None:
    assert "owner/name cannot be opened" in refused("owner/name")


# --- the Hub --------------------------------------------------------------------------------------------------------

READ = """
import json, sys
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.data.sources import open_rows
found = []
for source, choices in json.loads(sys.argv[1]):
    try:
        rows = list(open_rows(source, **choices))
        found.append([len(rows), rows[-1].where, rows[-1].columns])
    except DataError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def read_from(hub: FakeHub, cache: Path, sources: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Open sources in a process of its own: the libraries read their environment when they are imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", READ, json.dumps(sources)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout)
    return results


def test_data_sets_by_their_hub_id(tmp_path: Path) -> None:
    root = tmp_path / "hub"
    folder_of(root / "me" / "pairs", train=ROWS, test=ROWS[:1])
    (root / "me" / "conf" / "preference").mkdir(parents=True)
    (root / "me" / "conf" / "README.md").write_text(CARD)
    for split in ("train", "validation"):
        text = json.dumps(ROWS[0]) + "\n"
        (root / "me" / "conf" / "preference" / f"{split}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (root / "me" / "script").mkdir()
    (root / "me" / "script" / "script.py").write_text("raise SystemExit(9)")
    sources: list[tuple[str, dict[str, Any]]] = [("me/pairs", {"streaming": streaming}) for streaming in (False, True)]
    sources += [
        ("me/pairs", {"split": "test", "revision": "v1", "streaming": True}),
        ("me/conf", {"config": "preference", "split": "validation"}),
        ("me/pairs", {"split": "dev"}),
        ("me/pairs", {"revision": "v9"}),
        ("me/none", {}),
        ("me/script", {}),
    ]
    with serve_hub(root) as hub:
        results = read_from(hub, tmp_path / "home", sources)
        fetched = [path for _, path in hub.requests if path.endswith(".parquet")]
    assert results[0] == results[1] == [3, "me/pairs, split train, row 3", ROWS[2]]
    assert results[2] == [1, "me/pairs, split test, row 1", ROWS[0]]
    assert results[3] == [1, "me/conf, split validation, row 1", ROWS[0]]
    for message, expected in zip(
        results[4:],
        ["Choose one of: train, test.", "Check the name and revision", "Check the name", "which is never run"],
        strict=True,
    ):
        assert expected in message
    assert fetched and all("/resolve/" in path for path in fetched)
