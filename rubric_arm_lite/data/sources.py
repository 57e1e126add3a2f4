"""Open a source of rows: a file, a folder, or a data set of the Hub.

A file is read by :mod:`rubric_arm_lite.data.rows` and keeps its line numbers. Folders and Hub data sets are read by the
`datasets` library, which runs no code of theirs: a data set that needs a loading script is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.rows import FILE_SUFFIXES, OnBadRow, Row, file_rows, show, some
from rubric_arm_lite.errors import DataError, first_line

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` leaves in the folder of one split, and of several."""


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
        source: a JSONL, CSV or Parquet file; a folder of such files, a clone of a Hub repository or what
            `save_to_disk` wrote; or a Hub id, ``owner/name``. What exists on disk is preferred to the Hub.
        config: the data set's configuration or, where it declares none of that name, a folder inside it.
        split: the split to read (default: the only one, else `train`).
        revision: commit, branch or tag on the Hub.
        streaming: read a folder or Hub data set while it is downloaded, and write nothing to `datasets`' cache.
        on_bad: is told of lines of a file that are no rows, in place of an error.

    Raises:
        DataError: for a source that is not there, needs code, or has no such config or split; for the first row that
            cannot be read; if there is none.
    """
    found = _on_disk(source)
    if found is not None and found.is_file():
        _refuse_choices(f"{source} is a file", config=config, split=split, revision=revision)
        return file_rows(found, on_bad)
    if found is not None:
        _refuse_choices(f"{source} is a folder on this machine", revision=revision)
        if was_saved(found):
            _refuse_choices(f"{source} was written by save_to_disk", config=config)
            return _rows_of(str(source), _loaded(str(source), lambda: _from_disk(found)), split)
        path = str(found.resolve())  # an absolute path is never asked of the Hub
    elif is_hub_id(source):
        path = str(source)
    else:
        return file_rows(source)  # which says what is wrong with it
    loaded = _loaded(str(source), lambda: _load(path, config, revision, streaming))
    return _rows_of(str(source), loaded, split)


def was_saved(source: str | Path) -> bool:
    """Whether this is a folder that the `datasets` library's `save_to_disk` wrote."""
    folder = _on_disk(source)
    return folder is not None and any((folder / name).is_file() for name in _SAVED)


def is_hub_id(source: str | Path) -> bool:
    """Whether this names a data set of the Hub rather than something on disk."""
    text = str(source)
    named = HUB_ID.fullmatch(text) is not None and ".." not in text and "--" not in text
    return named and not text.lower().endswith(FILE_SUFFIXES) and _on_disk(source) is None


def _on_disk(source: str | Path) -> Path | None:
    try:
        return Path(source) if str(source) and Path(source).exists() else None
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return None


def _refuse_choices(what: str, **given: str | None) -> None:
    for name, value in given.items():
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


def _from_disk(folder: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(folder))


def _loaded(source: str, load: Any) -> Any:
    """What `load` returns; whatever the library raises becomes one error that says what to do."""
    try:
        return load()
    except DataError:
        raise
    except Exception as error:  # the library meets any file, server and cache, and raises of many kinds
        raise DataError(f"{source} cannot be opened ({_reason(error)}). {_mend(error)}") from error


def _rows_of(source: str, loaded: Any, split: str | None) -> Iterator[Row]:
    """Number the rows of the chosen split from 1."""
    name: str | None
    if isinstance(loaded, Mapping):
        name = _chosen_split(source, list(loaded), split)
        rows = loaded[name]
    else:
        name = None if loaded.split is None else str(loaded.split)
        if split not in (None, name):
            raise DataError(f"{source} has no split {show(split)}; it is one split, {name or 'without a name'}.")
        rows = loaded
    where = f"{source}, split {name}" if name else source
    return some(_numbered(where, rows), where)


def _chosen_split(source: str, names: list[str], split: str | None) -> str:
    if split is None:
        if len(names) == 1:
            return names[0]
        split = "train"
    if split not in names:
        raise DataError(f"{source} has no split {show(split)}. Choose one of: {', '.join(map(str, names))}.")
    return split


def _numbered(where: str, rows: Any) -> Iterator[Row]:
    number = 0
    found = iter(rows)
    while True:
        try:
            columns = next(found)
        except StopIteration:
            return
        except Exception as error:  # as in _loaded: rows are downloaded and decoded only now
            raise DataError(
                f"{where}, after row {number}: cannot be read ({_reason(error)}). {_mend(error)}"
            ) from error
        number += 1
        yield Row(f"{where}, row {number}", columns)


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause that the library names."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)[:300]


def _mend(error: BaseException) -> str:
    from datasets.exceptions import DatasetNotFoundError

    if "scripts are no longer supported" in str(error):
        return "It needs code of its own, which is never run. Convert it to Parquet or JSONL."
    if isinstance(error, DatasetNotFoundError):
        return "Check the name and revision; a gated or private one needs `hf auth login`, or HF_TOKEN."
    if isinstance(error, ConnectionError):
        return "Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or give a local copy."
    return "Check its files: all of a split must be JSONL, CSV or Parquet with the same columns."
