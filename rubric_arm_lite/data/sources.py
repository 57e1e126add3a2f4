"""Opens a source of rows: a file, a folder, or a data set of the Hub.

:mod:`rubric_arm_lite.data.rows` reads files and keeps their line numbers. The `datasets` library reads folders and Hub
data sets; it runs no code of theirs, so a data set that needs a loading script is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.rows import FILE_SUFFIXES, OnBadRow, Row, at_least_one, file_rows, show
from rubric_arm_lite.errors import DataError, first_line

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def open_rows(
    source: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    on_bad: OnBadRow | None = None,
) -> Iterator[Row]:
    """The rows of a source, in its order; at least one.

    Args:
        source: a JSONL, CSV or Parquet file; a folder of such files, a clone of a Hub repository or a folder that
            `save_to_disk` wrote; or a Hub id, ``owner/name``. A path on disk takes precedence over a Hub id.
        config: the data set's configuration or, if it declares none of that name, a folder inside it.
        split: the split to read (default: the only one, else `train`).
        revision: commit, branch or tag on the Hub.
        streaming: read a folder or Hub data set while it downloads, and write nothing to the cache of `datasets`.
        on_bad: receives each line of a file that is not a row, in place of an error.

    Raises:
        DataError: for a source that does not exist, needs code, or has no such config or split; for the first row that
            cannot be read; if there is no row.
    """
    path = _on_disk(source)
    if path is None and not is_hub_id(source):
        return file_rows(source)  # raises an error that names the problem
    if path is not None and path.is_file():
        _refuse(f"{source} is a file", config=config, split=split, revision=revision)
        return file_rows(path, on_bad)
    if path is not None:
        _refuse(f"{source} is a folder on this machine", revision=revision)
    if was_saved(source):
        _refuse(f"{source} was written by save_to_disk", config=config)
    with _explained_errors(f"{source} cannot be opened"):
        if path is None:
            loaded = _load(str(source), config, revision, streaming)
        elif was_saved(source):
            loaded = _load_from_disk(path)
        else:
            loaded = _load(str(path.resolve()), config, revision, streaming)  # `datasets` never takes this for a Hub id
    return _rows_of(str(source), loaded, split)


def was_saved(source: str | Path) -> bool:
    """Whether this is a folder that the `datasets` library's `save_to_disk` wrote."""
    folder = _on_disk(source)
    return folder is not None and any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def is_hub_id(source: str | Path) -> bool:
    """Whether this names a data set of the Hub rather than something on disk."""
    text = str(source)
    matches = _HUB_ID.fullmatch(text) is not None and ".." not in text and "--" not in text
    return matches and not text.lower().endswith(FILE_SUFFIXES) and _on_disk(source) is None


def _on_disk(source: str | Path) -> Path | None:
    # Unlike Path.exists it takes a name that is too long or has a null character.
    return Path(source) if str(source) and os.path.exists(source) else None  # noqa: PTH110


def _refuse(what: str, **choices: str | None) -> None:
    for name, value in choices.items():
        if value is not None:
            raise DataError(f"{what}, so it has no {name} {show(value)} to choose. Leave `{name}` out.")


def _load(path: str, config: str | None, revision: str | None, streaming: bool) -> Any:
    from datasets import get_dataset_config_names, load_dataset

    if config is None:
        return load_dataset(path, revision=revision, streaming=streaming)
    declared = get_dataset_config_names(path, revision=revision)
    if config in declared:
        return load_dataset(path, config, revision=revision, streaming=streaming)
    try:
        return load_dataset(path, data_dir=config, revision=revision, streaming=streaming)
    except (FileNotFoundError, ValueError) as error:  # ValueError: there are other files of it in the cache
        raise DataError(
            f"{path} has neither a configuration nor a folder {show(config)} that can be read. It declares: "
            f"{', '.join(declared)}."
        ) from error


def _load_from_disk(folder: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(folder))


def _rows_of(source: str, loaded: Any, split: str | None) -> Iterator[Row]:
    """The rows of the chosen split, numbered from 1."""
    if isinstance(loaded, Mapping):
        names = list(map(str, loaded))
        name = split or (names[0] if len(names) == 1 else "train")
        if name not in names:
            raise DataError(f"{source} has no split {show(name)}. Choose one of: {', '.join(names)}.")
        loaded = loaded[name]
    else:
        name = "" if loaded.split is None else str(loaded.split)
        if split not in (None, name):
            raise DataError(f"{source} has no split {show(split)}; it is one split, {name or 'without a name'}.")
    where = f"{source}, split {name}" if name else source
    return at_least_one(_numbered(where, iter(loaded)), where)


def _numbered(where: str, rows: Iterator[Mapping[str, Any]]) -> Iterator[Row]:
    for number in count(1):
        with _explained_errors(f"{where}, after row {number - 1}: cannot be read"):  # downloaded and decoded only now
            columns = next(rows, None)
        if columns is None:
            return
        yield Row(f"{where}, row {number}", columns)


@contextmanager
def _explained_errors(problem: str) -> Iterator[None]:
    """Turn whatever `datasets` raises about files, servers and its cache into one error that says what to do."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        from datasets.exceptions import DatasetNotFoundError

        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if "scripts are no longer supported" in str(error):
            fix = "It needs code of its own, which is never run. Convert it to Parquet or JSONL."
        elif isinstance(error, DatasetNotFoundError):
            fix = "Check the name and revision; a gated or private one needs `hf auth login`, or HF_TOKEN."
        elif isinstance(error, ConnectionError):
            fix = "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or give a local copy."
        else:
            fix = "Check its files: all of a split must be JSONL, CSV or Parquet with the same columns."
        raise DataError(f"{problem} ({first_line(cause)[:300]}). {fix}") from error
