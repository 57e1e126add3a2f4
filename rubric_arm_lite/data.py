"""Source rows: the only module that reads them.

A JSON Lines, CSV or Parquet file goes in; pairs, warm-up rows or unlabelled pairs come out, or one
:class:`~rubric_arm_lite.errors.DataError` that names the file, the line (in Parquet the row) and the mend. Nothing is
skipped or repaired in silence, except blank lines and a byte order mark.

In JSON Lines and Parquet, a prompt, ``chosen`` or ``rejected`` is a text or a list of messages
``{"role": …, "content": …}``; a CSV cell is always a text. A prompt of one user message is the same as its text.
Here too are the operations on prompt blocks, the unit in which data is split and drawn.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.seeds import derive_seed
from rubric_arm_lite.types import Message, PreferencePair, Prompt, PromptBlock

MESSAGE_ROLES = ("system", "user", "assistant", "tool")
_JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
_SEED_RANGE = 2**63
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class WarmupRow:
    """One warm-up trajectory of both roles: what a teacher wrote for a request and two responses."""

    prompt: Prompt
    rubric: str
    response_a: str
    response_b: str
    judgement: str
    judged_rubric: str | None = None


@dataclass(frozen=True, slots=True)
class UnlabelledPair:
    """Two responses to judge, in the order given. Without a ``rubric`` the generator writes one."""

    pair_id: str
    prompt: Prompt
    response_a: str
    response_b: str
    rubric: str | None = None


@dataclass(frozen=True, slots=True)
class _Row:
    """One source row and its place, for example ``pairs.jsonl, line 3``."""

    where: str
    columns: Mapping[str, Any]


# --- loading --------------------------------------------------------------------------------------------------------


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """Preference pairs from columns ``prompt``, ``chosen``, ``rejected`` and optional ``id``, ``source``, ``subset``.

    A message list under ``chosen`` or ``rejected`` ends with the response as an assistant message. If there is no
    ``prompt``, the messages before it, which both lists share, are the prompt. A row without an id gets the hash of
    its prompt and the number of earlier rows with that prompt: ``3f0c…-0``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    ids = _Ids()
    pairs = []
    for row in _rows(Path(path)):
        chosen, turns_c = _response(row, "chosen")
        rejected, turns_r = _response(row, "rejected")
        if row.columns.get("prompt") is None and turns_c is not None and turns_r is not None:
            prompt = _shared_prompt(row, turns_c, turns_r)
        else:
            prompt = _prompt(row)
        if chosen == rejected:
            raise DataError(f"{row.where}: chosen equals rejected ({_show(chosen)}). Leave the row out.")
        pair_id = ids.next(row, prompt)
        pairs.append(PreferencePair(pair_id, prompt, chosen, rejected, _label(row, "source"), _label(row, "subset")))
    return pairs


def load_trajectories(path: str | Path) -> list[WarmupRow]:
    """Warm-up rows from columns ``prompt``, ``rubric``, ``response_a``, ``response_b``, ``judgement``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    texts = ("rubric", "response_a", "response_b", "judgement")
    return [WarmupRow(_prompt(row), *(_text(row, name) for name in texts)) for row in _rows(Path(path))]


def load_comparisons(path: str | Path) -> list[UnlabelledPair]:
    """Pairs to judge from columns ``prompt``, ``response_a``, ``response_b`` and optional ``id``, ``rubric``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    ids = _Ids()
    pairs = []
    for row in _rows(Path(path)):
        prompt = _prompt(row)
        rubric = _label(row, "rubric")
        response_a, response_b = _text(row, "response_a"), _text(row, "response_b")
        pairs.append(UnlabelledPair(ids.next(row, prompt), prompt, response_a, response_b, rubric or None))
    return pairs


def load_prompts(path: str | Path) -> list[Prompt]:
    """Distinct prompts of column ``prompt``, in the order in which they first come; other columns are not read.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    return list({prompt_hash(prompt): prompt for prompt in map(_prompt, _rows(Path(path)))}.values())


def load_answers(path: str | Path) -> list[tuple[Prompt, str]]:
    """Prompts with one response each, from columns ``prompt`` and ``response``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    return [(_prompt(row), _text(row, "response")) for row in _rows(Path(path))]


# --- blocks ---------------------------------------------------------------------------------------------------------


def blocks_from_pairs(pairs: Iterable[PreferencePair]) -> list[PromptBlock]:
    """Group pairs by prompt; prompts and pairs keep the order in which they first came."""
    groups: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault(prompt_hash(pair.prompt), []).append(pair)
    return [PromptBlock(prompt_id, group[0].prompt, tuple(group)) for prompt_id, group in groups.items()]


def split_blocks(
    blocks: Sequence[PromptBlock], test_fraction: float, seed: int
) -> tuple[list[PromptBlock], list[PromptBlock]]:
    """Training and test blocks, each in the given order and with at least one block.

    Each prompt's side is drawn from (seed, prompt id) alone, so more rows never move a prompt (except that the last
    prompt of an empty side is borrowed from the other). The share is therefore ``test_fraction`` on average only.

    Raises:
        DataError: if there are fewer than two prompts.
        ValueError: if ``test_fraction`` is not between 0 and 1.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction: {test_fraction} must lie between 0 and 1, both excluded.")
    if len(blocks) < 2:
        raise DataError(
            f"{len(blocks)} prompt(s) cannot be split into training and test. Give at least 2 different prompts, or a "
            "file of held-out pairs as data.evaluation."
        )
    draws = [derive_seed("split", seed, block.prompt_id) for block in blocks]
    in_test = [draw < test_fraction * _SEED_RANGE for draw in draws]
    if not any(in_test):
        in_test[draws.index(min(draws))] = True
    elif all(in_test):
        in_test[draws.index(max(draws))] = False
    train = [block for block, held_out in zip(blocks, in_test, strict=True) if not held_out]
    test = [block for block, held_out in zip(blocks, in_test, strict=True) if held_out]
    return train, test


def shuffle_blocks(blocks: Sequence[PromptBlock], seed: int) -> list[PromptBlock]:
    """The blocks in an order that depends on the seed and their prompt ids, not on the order they came in."""
    return sorted(blocks, key=lambda block: (derive_seed("shuffle", seed, block.prompt_id), block.prompt_id))


def filter_by_length(
    blocks: Sequence[PromptBlock], longest: Callable[[PreferencePair], int], limit: int
) -> tuple[list[PromptBlock], int]:
    """Leave out pairs whose ``longest(pair)`` exceeds ``limit``, and blocks without pairs.

    Returns:
        The blocks that remain, and the number of pairs left out.
    """
    kept: list[PromptBlock] = []
    dropped = 0
    for block in blocks:
        pairs = tuple(pair for pair in block.pairs if longest(pair) <= limit)
        dropped += len(block.pairs) - len(pairs)
        if pairs:
            kept.append(PromptBlock(block.prompt_id, block.prompt, pairs))
    return kept, dropped


# --- columns --------------------------------------------------------------------------------------------------------


class _Ids:
    """Ids of one file: given ones are unique, missing ones come from the prompt."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._rows_of_prompt: Counter[str] = Counter()

    def next(self, row: _Row, prompt: Prompt) -> str:
        given = row.columns.get("id")
        if isinstance(given, int) and not isinstance(given, bool):
            given = str(given)
        prompt_id = prompt_hash(prompt)
        number = self._rows_of_prompt[prompt_id]
        self._rows_of_prompt[prompt_id] += 1
        if given is None or given == "":
            given = f"{prompt_id}-{number}"
        elif not isinstance(given, str):
            raise DataError(f"{row.where}: id is {_kind(given)}. Give a text or a whole number, or leave it out.")
        pair_id = _checked(row, "id", given)
        if pair_id in self._seen:
            raise DataError(
                f"{row.where}: id {_show(pair_id)} was used before ({self._seen[pair_id]}). Give each row its own, or "
                "leave the ids out."
            )
        self._seen[pair_id] = row.where
        return pair_id


def _column(row: _Row, name: str) -> Any:
    value = row.columns.get(name)
    if value is None:
        found = ", ".join(_show(key)[1:-1] for key in list(row.columns)[:12]) or "none"
        state = "is null" if name in row.columns else f"is missing (found: {found})"
        raise DataError(f"{row.where}: column `{name}` {state}. Each row needs one.")
    return value


def _text(row: _Row, name: str) -> str:
    value = _column(row, name)
    if not isinstance(value, str):
        raise DataError(f"{row.where}: column `{name}` is {_kind(value)}. Give a text.")
    return _filled(row, f"column `{name}`", value)


def _label(row: _Row, name: str) -> str:
    """An optional text column; empty if absent."""
    value = row.columns.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{row.where}: column `{name}` is {_kind(value)}. Give a text, or leave it out.")
    return _checked(row, f"column `{name}`", value)


def _prompt(row: _Row) -> Prompt:
    value = _column(row, "prompt")
    if isinstance(value, list):
        return _as_prompt(row, "prompt", _messages(row, "prompt", value))
    if not isinstance(value, str):
        raise DataError(f"{row.where}: column `prompt` is {_kind(value)}. Give a text or a list of messages.")
    return _filled(row, "column `prompt`", value)


def _response(row: _Row, name: str) -> tuple[str, tuple[Message, ...] | None]:
    """The response text, and the turns before it if the column holds messages."""
    value = _column(row, name)
    if isinstance(value, list):
        messages = _messages(row, name, value)
        if messages[-1].role != "assistant":
            raise DataError(
                f"{row.where}: the last message of `{name}` is by {messages[-1].role!r}. End it with the assistant's "
                "response."
            )
        return _filled(row, f"the last message of `{name}`", messages[-1].content), messages[:-1]
    if not isinstance(value, str):
        raise DataError(f"{row.where}: column `{name}` is {_kind(value)}. Give a text or a list of messages.")
    return _filled(row, f"column `{name}`", value), None


def _shared_prompt(row: _Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Prompt:
    if chosen != rejected:
        raise DataError(
            f"{row.where}: without a `prompt`, the messages before the response must be the same in chosen and "
            "rejected. Add a `prompt` column, or correct them."
        )
    if not chosen:
        raise DataError(
            f"{row.where}: no `prompt`, and no messages before the response. Add a `prompt` column, or the "
            "conversation that leads to the response."
        )
    return _as_prompt(row, "chosen", chosen)


def _as_prompt(row: _Row, name: str, messages: tuple[Message, ...]) -> Prompt:
    last = messages[-1]
    if last.role != "user":
        raise DataError(
            f"{row.where}: the conversation in `{name}` ends with a message by {last.role!r}. End it with the user's "
            "turn."
        )
    content = _filled(row, f"the last user message of `{name}`", last.content)
    return content if len(messages) == 1 else messages


def _messages(row: _Row, name: str, value: list[Any]) -> tuple[Message, ...]:
    if not value:
        raise DataError(f"{row.where}: column `{name}` is an empty list. Give at least one message.")
    messages = []
    for number, item in enumerate(value, start=1):
        what = f"message {number} of `{name}`"
        if not isinstance(item, dict):
            raise DataError(f'{row.where}: {what} is {_kind(item)}. Write {{"role": …, "content": …}}.')
        role, content = item.get("role"), item.get("content")
        if role not in MESSAGE_ROLES:
            raise DataError(f"{row.where}: {what} has role {_show(role)}. Use one of {', '.join(MESSAGE_ROLES)}.")
        if not isinstance(content, str):
            raise DataError(f"{row.where}: the content of {what} is {_kind(content)}. Give a text.")
        messages.append(Message(role, _checked(row, what, content)))
    return tuple(messages)


def _filled(row: _Row, what: str, text: str) -> str:
    if not text.strip():
        raise DataError(f"{row.where}: {what} is empty. Fill it, or leave the row out.")
    return _checked(row, what, text)


def _checked(row: _Row, what: str, text: str) -> str:
    """The text, if it can be encoded: half a surrogate pair would fail in hashing, printing or tokenising."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{row.where}: {what} has half of a surrogate pair, {text[error.start]!a}, at character {error.start}. "
            "Write the whole character, or take it out."
        ) from error
    return text


# --- files ----------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a file; at least one."""
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError:  # a name that is too long
        exists, is_folder = False, False
    if is_folder:
        raise DataError(f"{path} is a folder. Give a file: JSONL, CSV or Parquet.")
    if not exists:
        raise DataError(f"There is no file {path}. Check the path; a relative one starts at the working directory.")
    match path.suffix.lower():
        case suffix if suffix in _JSON_SUFFIXES:
            rows = _json_rows(path)
        case ".csv":
            rows = _csv_rows(path)
        case ".parquet":
            rows = _parquet_rows(path)
        case suffix:
            raise DataError(f"{path} ends in {suffix or 'nothing'}. Give a .jsonl, .json, .csv or .parquet file.")
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{path} has no rows. Give at least one.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines from 1, split at line feeds only, without the byte order mark."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                content = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                try:
                    yield number, content.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}, line {number}: not UTF-8 ({error.reason}, byte {error.start}). "
                        "Save the file as UTF-8."
                    ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error


def _json_rows(path: Path) -> Iterator[_Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            if number == 1 and line.lstrip().startswith("["):
                mend = "Write one object per line in place of an array."
            else:
                mend = "Write one complete object per line."
            raise DataError(f"{where}: not JSON ({error.msg}, column {error.colno}). {mend}") from error
        except (RecursionError, ValueError) as error:  # nested too deeply; a number of thousands of digits
            raise DataError(f"{where}: JSON that cannot be read ({error}). Simplify the row.") from error
        if not isinstance(value, dict):
            raise DataError(f'{where}: {_kind(value)}. Write one object per line: {{"prompt": …, …}}.')
        yield _Row(where, value)


def _csv_rows(path: Path) -> Iterator[_Row]:
    """Rows of a CSV with a header; a row is named by the line it begins on."""
    header: list[str] | None = None
    for line, cells in _csv_records(path):
        where = f"{path}, line {line}"
        if header is None:
            header = cells
            twice = [name for name, count in Counter(header).items() if count > 1]
            if twice:
                raise DataError(f"{where}: the header has {_show(twice[0])} twice. Rename one of the columns.")
        elif len(cells) != len(header):
            raise DataError(
                f"{where}: {len(cells)} cells under a header of {len(header)}. Quote cells that contain commas, quotes "
                "or line breaks."
            )
        else:
            yield _Row(where, dict(zip(header, cells, strict=True)))


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, each with the line it begins on."""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    while True:
        begins = reader.line_num + 1
        usual_limit = csv.field_size_limit(_LONGEST_CELL)  # global to the csv module, hence put back at once
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {begins}: not CSV ({error}). Put cells with commas, quotes or line breaks into double "
                "quotes, and double the quotes inside."
            ) from error
        finally:
            csv.field_size_limit(usual_limit)
        if cells:
            yield begins, cells


def _parquet_rows(path: Path) -> Iterator[_Row]:
    """Rows of a Parquet file, numbered from 1. Read by pyarrow, which `datasets` stands on, without its cache."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for columns in batch.to_pylist():
                    number += 1
                    yield _Row(f"{path}, row {number}", columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, after row {number}: text that is not UTF-8. Write the file again with UTF-8 texts."
        ) from error
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path} is not a readable Parquet file ({reason}). Write it again.") from error


# --- wording --------------------------------------------------------------------------------------------------------


def _show(value: Any) -> str:
    """A value for a message: short, and printable whatever is in it."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    return _kind(value)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"
