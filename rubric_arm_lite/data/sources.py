"""Opens a source of rows: a file, a folder, or a data set of the Hub.

Files are read here, by the reader of their suffix in :data:`READERS`, and keep their line numbers. The `datasets`
library reads folders and Hub data sets; it runs no code of theirs, so one that needs a loading script is refused.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.rows import Row, RowError, short_repr, type_name
from rubric_arm_lite.errors import DataError, first_line

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
OnBadRow = Callable[[RowError], None]
"""Receives each row that cannot be read; reading then goes on."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LONGEST_CELL = 2**31 - 1
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""Suffixes of compressed files, and what pyarrow calls them."""


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
        source: a file (:func:`file_rows`); a folder of such files, a clone of a Hub repository or a folder that
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
    in_folder = os.path.isdir(source)  # noqa: PTH112 - unlike Path.is_dir it takes any name, however long
    if not in_folder and not is_hub_id(source):
        if os.path.exists(source):  # noqa: PTH110
            _refuse(f"{source} is a file", config=config, split=split, revision=revision)
        return file_rows(source, on_bad)
    if in_folder:
        _refuse(f"{source} is a folder on this machine", revision=revision)
    with _explained_errors(f"{source} cannot be opened"):
        if was_saved(source):
            from datasets import load_from_disk

            _refuse(f"{source} was written by save_to_disk", config=config)
            loaded = load_from_disk(str(source))
        else:  # `datasets` never takes an absolute path for a Hub id
            loaded = _load(str(Path(source).resolve() if in_folder else source), config, revision, streaming)
    return _dataset_rows(str(source), loaded, split)


def was_saved(source: str | Path) -> bool:
    """Whether this is a folder that the `datasets` library's `save_to_disk` wrote."""
    names = ("state.json", "dataset_dict.json")
    return os.path.isdir(source) and any((Path(source) / name).is_file() for name in names)  # noqa: PTH112


def is_hub_id(source: str | Path) -> bool:
    """Whether this names a data set of the Hub rather than something on disk."""
    text = str(source)
    matches = _HUB_ID.fullmatch(text) is not None and ".." not in text and "--" not in text
    return matches and not text.lower().endswith(FILE_SUFFIXES) and not os.path.exists(text)  # noqa: PTH110


def _refuse(what: str, **choices: str | None) -> None:
    for name, value in choices.items():
        if value is not None:
            raise DataError(f"{what}, so it has no {name} {short_repr(value)} to choose. Leave `{name}` out.")


def _at_least_one(rows: Iterable[Row | RowError], source: str, on_bad: OnBadRow | None = None) -> Iterator[Row]:
    """The rows; an error among them goes to ``on_bad`` or is raised, and having no row is a DataError."""
    empty = True
    for row in rows:
        if isinstance(row, Row):
            empty = False
            yield row
        elif on_bad is None:
            raise row
        else:
            on_bad(row)
    if empty:
        raise DataError(f"{source} has no rows. Give at least one.")


# --- files ----------------------------------------------------------------------------------------------------------


def file_rows(path: str | Path, on_bad: OnBadRow | None = None) -> Iterator[Row]:
    """The rows of a file, by its suffix: JSON Lines or a JSON array, CSV, TSV, Parquet or Arrow.

    A JSON, CSV or TSV file may be compressed: its name then ends in .gz, .bz2 or .zst as well.

    Args:
        on_bad: receives each line that is not a row, and reading goes on; without it the first one is an error. Damage
            after which no row can be found (open quotes in a CSV, a broken Parquet file) is always an error.

    Raises:
        DataError: for a file or row that cannot be read, or if there is no row.
    """
    path = Path(path)
    if os.path.isdir(path):  # noqa: PTH112
        raise DataError(f"{path} is a folder. Give a file: JSONL, CSV or Parquet.")
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(
            f"There is no file {path}. Check the path; a relative one starts at the working directory or, in a recipe, "
            "beside the recipe."
        )
    suffix = next((suffix for suffix in FILE_SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}. Give a .jsonl, .json, .csv, .tsv, .parquet or .arrow file; "
            "the first four may be compressed (.gz, .bz2, .zst)."
        )
    yield from _at_least_one(READERS[suffix](path), str(path), on_bad)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Lines split at line feeds only, each with its place; the byte order mark is removed."""
    compressed = _COMPRESSED.get(path.suffix.lower())
    try:
        if compressed is None:
            content: Any = path.open("rb")
        else:
            import pyarrow  # type: ignore[import-untyped]

            content = io.BufferedReader(pyarrow.input_stream(path, compression=compressed))
        with content as file:
            for number, line in enumerate(file, start=1):
                if number == 1 and b"\0" in line[:4]:
                    problem = "not UTF-8 (NUL bytes, as in UTF-16 or a file that is no text)"
                    raise DataError(f"{path}, line 1: {problem}. Save the file as UTF-8.")
                yield f"{path}, line {number}", line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except OSError as error:
        fix = "Check its permissions, or compress it again." if compressed else "Check its permissions."
        raise DataError(f"{path} cannot be read ({error.strerror or first_line(error)}). {fix}") from error


def _decoded(where: str, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 ({error.reason}, byte {error.start}). Save the file as UTF-8."
        raise RowError(f"{where}: {problem}", "not UTF-8") from error


def _json_rows(path: Path) -> Iterator[Row | RowError]:
    """Rows of JSON Lines, or of one array; items of an array are numbered from 1."""
    lines = _lines(path)
    begun = False
    for where, line in lines:
        try:
            text = _decoded(where, line).rstrip("\r\n")
            if begun or not text.lstrip().startswith("["):
                found = [(where, _json_value(where, text))] if text.strip() else []
                fix = 'Write one object per line: {"prompt": …, …}.'
            else:
                content = b"".join([line, *(rest for _, rest in lines)])
                items = enumerate(_json_value(where, _decoded(where, content)), start=1)
                found = [(f"{path}, item {number}", value) for number, value in items]
                fix = 'Each item must be an object: {"prompt": …, …}.'
        except RowError as error:
            yield error
            continue
        for place, value in found:
            begun = True
            is_row = isinstance(value, dict)
            yield Row(place, value) if is_row else RowError(f"{place}: {type_name(value)}. {fix}", "no object")


def _json_value(where: str, text: str) -> Any:
    """The value of a JSON text.

    Raises:
        RowError: if it cannot be read, or an object in it has a key twice.
    """

    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) < len(items):
            name = next(name for name, times in Counter(name for name, _ in items).items() if times > 1)
            raise RowError(f"{where}: `{short_repr(name)[1:-1]}` stands twice in one object. Remove one.", "key twice")
        return value

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RowError:  # a ValueError, too
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} of it, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        fix = f"Write one complete {'array of objects' if text.lstrip().startswith('[') else 'object per line'}."
        raise RowError(f"{where}: not JSON ({error.msg}, {place}). {fix}", "not JSON") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
        raise RowError(f"{where}: JSON that cannot be read ({error}). Simplify the row.", "not JSON") from error


def _csv_rows(path: Path, delimiter: str = ",") -> Iterator[Row | RowError]:
    """Rows of a CSV file with a header, each named by the line it begins on (pandas does not keep these)."""
    reader = csv.reader((_decoded(*line) for line in _lines(path)), strict=True, delimiter=delimiter)
    kind, name = ("CSV", "commas") if delimiter == "," else ("TSV", "tabs")
    header: Sequence[str] = ()
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        usual_limit = csv.field_size_limit(_LONGEST_CELL)  # global to the csv module, so it is restored at once
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise RowError(
                f"{where}: not {kind} ({error}). Put cells with {name}, quotes or line breaks into double quotes, and "
                "double the quotes inside.",
                f"not {kind}",
            ) from error
        finally:
            csv.field_size_limit(usual_limit)
        if cells is None:
            return
        if not header:
            header = cells
            repeated = [name for name, count in Counter(header).items() if count > 1]
            if repeated:
                raise DataError(f"{where}: the header has {short_repr(repeated[0])} twice. Rename one of the columns.")
            if len(header) == 1 and re.search(r"[,;\t]", header[0]):
                raise DataError(f"{where}: the header is one cell, {short_repr(header[0])}. Separate cells by {name}.")
        elif cells and len(cells) != len(header):
            problem = f"{where}: {len(cells)} cells under a header of {len(header)}. Quote cells that contain {name}, "
            yield RowError(f"{problem}quotes or line breaks.", "more or fewer cells than the header")
        elif cells:
            yield Row(where, dict(zip(header, cells, strict=True)), typed=False)


def _arrow_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, or of an Arrow file in either of its two formats, numbered from 1; dates as texts."""
    import pyarrow
    from pyarrow import ipc, parquet

    kind = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow"
    number = 0
    try:
        with parquet.ParquetFile(path) if kind == "Parquet" else pyarrow.memory_map(str(path)) as file:
            if kind == "Parquet":
                batches = file.iter_batches(batch_size=1024)
            else:
                is_stream = file.read(6) != b"ARROW1"  # as the `datasets` library writes them
                file.seek(0)
                reader = (ipc.open_stream if is_stream else ipc.open_file)(file)
                batches = reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
            for batch in batches:
                names = batch.schema.names
                repeated = [short_repr(name) for name, times in Counter(names).items() if times > 1]
                if repeated:
                    raise DataError(f"{path} has the column {repeated[0]} twice. Rename one of the columns.")
                texts = [
                    column.cast(pyarrow.string()) if pyarrow.types.is_temporal(column.type) else column
                    for column in batch.columns
                ]
                rows = pyarrow.record_batch(texts, names=names).to_pylist()
                for number, columns in enumerate(rows, start=number + 1):  # noqa: B020
                    yield Row(f"{path}, row {number}", columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, after row {number}: text that is not UTF-8. Write the file again with UTF-8 texts."
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable {kind} file ({first_line(error)}). Write it again.") from error


_ENDS = ("", *_COMPRESSED)
READERS: dict[str, Callable[[Path], Iterator[Row | RowError]]] = {
    **{suffix + end: _json_rows for suffix in JSON_SUFFIXES for end in _ENDS},
    **{f".csv{end}": _csv_rows for end in _ENDS},
    **{f".tsv{end}": partial(_csv_rows, delimiter="\t") for end in _ENDS},
    ".parquet": _arrow_rows,
    ".arrow": _arrow_rows,
}
"""The reader of each suffix: rows, and errors in place of lines that are no rows."""
FILE_SUFFIXES = tuple(READERS)


# --- folders and the Hub --------------------------------------------------------------------------------------------


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
            f"{path} has neither a configuration nor a folder {short_repr(config)} that can be read. It declares: "
            f"{', '.join(declared)}."
        ) from error


def _dataset_rows(source: str, loaded: Any, split: str | None) -> Iterator[Row]:
    """The rows of the chosen split, numbered from 1."""
    if isinstance(loaded, Mapping):
        names = list(map(str, loaded))
        name = split or (names[0] if len(names) == 1 else "train")
        if name not in names:
            raise DataError(f"{source} has no split {short_repr(name)}. Choose one of: {', '.join(names)}.")
        loaded = loaded[name]
    else:
        name = "" if loaded.split is None else str(loaded.split)
        if split not in (None, name):
            raise DataError(f"{source} has no split {short_repr(split)}; it is one split, {name or 'without a name'}.")
    where = f"{source}, split {name}" if name else source

    def numbered(rows: Iterator[Mapping[str, Any]]) -> Iterator[Row]:
        for number in count(1):
            with _explained_errors(f"{where}, after row {number - 1}: cannot be read"):  # downloaded and decoded here
                columns = next(rows, None)
            if columns is None:
                return
            yield Row(f"{where}, row {number}", columns)

    return _at_least_one(numbered(iter(loaded)), where)


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
