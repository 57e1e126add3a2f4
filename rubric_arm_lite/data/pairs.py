"""Our own row forms: pairs, warm-up trajectories and pairs to judge.

A JSON Lines, CSV or Parquet file goes in; pairs, warm-up rows or unlabelled pairs come out, or one
:class:`~rubric_arm_lite.errors.DataError` that names the file, the line (in Parquet the row) and the mend. The files
are read by :mod:`.row_files`; the forms of other projects' data sets are read by :mod:`.sources`.

In JSON Lines and Parquet, a prompt, ``chosen`` or ``rejected`` is a text or a list of messages
``{"role": …, "content": …}``; a CSV cell is always a text. A prompt of one user message is the same as its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.rows import Row, file_rows, kind, show, without, wrong_kind
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import Message, PreferencePair, Prompt, PromptBlock


@dataclass(frozen=True, slots=True)
class WarmupRow:
    """One warm-up trajectory of both roles: what a teacher wrote for a request and its responses.

    Without ``response_b`` the judgement is a pointwise one of ``response_a``.
    """

    prompt: Prompt
    rubric: str
    response_a: str
    response_b: str | None
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
class SingleResponse:
    """One response to score. Without a ``rubric`` the generator writes one."""

    response_id: str
    prompt: Prompt
    response: str
    rubric: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseSet:
    """A prompt with two or more responses to be labelled. Without a ``rubric`` the generator writes one."""

    set_id: str
    prompt: Prompt
    responses: tuple[str, ...]
    rubric: str | None = None


# --- loading --------------------------------------------------------------------------------------------------------


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """Preference pairs from columns ``prompt``, ``chosen``, ``rejected`` and optional ``id``, ``source``, ``subset``.

    A message list under ``chosen`` or ``rejected`` ends with the response as an assistant message. If there is no
    ``prompt``, the messages before it, which both lists share, are the prompt. A row without an id gets the hash of
    its prompt and the number of earlier rows with that prompt: ``3f0c…-0``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    ids = RowIds()
    return [pair_of_row(row, ids) for row in file_rows(path)]


def pair_of_row(row: Row, ids: RowIds) -> PreferencePair:
    """The pair of one row of :func:`load_pairs`' form.

    Raises:
        DataError: if the row cannot be used.
    """
    chosen, turns_c = row.response("chosen")
    rejected, turns_r = row.response("rejected")
    if not row.has("prompt") and turns_c is not None and turns_r is not None:
        prompt = shared_prompt(row, turns_c, turns_r)
    else:
        prompt = row.prompt()
    check_different(row, "chosen", chosen, "rejected", rejected)
    pair_id = ids.next(row, prompt)
    return PreferencePair(pair_id, prompt, chosen, rejected, row.label("source"), row.label("subset"))


def load_trajectories(path: str | Path, pointwise: bool = False) -> list[WarmupRow]:
    """Warm-up rows from columns ``prompt``, ``rubric``, ``response_a``, ``response_b``, ``judgement``.

    Args:
        pointwise: one ``response`` in place of the two, for a judge that checks one at a time.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    return [trajectory_of_row(row, pointwise) for row in file_rows(path)]


def trajectory_of_row(row: Row, pointwise: bool = False) -> WarmupRow:
    """The trajectory of one row of :func:`load_trajectories`' form.

    Raises:
        DataError: if the row cannot be used.
    """
    if pointwise:
        return WarmupRow(row.prompt(), row.text("rubric"), row.text("response"), None, row.text("judgement"))
    texts = ("rubric", "response_a", "response_b", "judgement")
    return WarmupRow(row.prompt(), *(row.text(name) for name in texts))


def load_comparisons(path: str | Path) -> list[UnlabelledPair]:
    """Pairs to judge from columns ``prompt``, ``response_a``, ``response_b`` and optional ``id``, ``rubric``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    ids = RowIds()
    pairs = []
    for row in file_rows(path):
        prompt = row.prompt()
        rubric = row.label("rubric")
        response_a, response_b = row.text("response_a"), row.text("response_b")
        pairs.append(UnlabelledPair(ids.next(row, prompt), prompt, response_a, response_b, rubric or None))
    return pairs


def load_prompts(path: str | Path) -> list[Prompt]:
    """Distinct prompts of column ``prompt``, in the order in which they first come; other columns are not read.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    return list({prompt_hash(prompt): prompt for prompt in (row.prompt() for row in file_rows(path))}.values())


def load_answers(path: str | Path) -> list[tuple[Prompt, str]]:
    """Prompts with one response each, from columns ``prompt`` and ``response``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    return [(row.prompt(), row.text("response")) for row in file_rows(path)]


def load_single_responses(path: str | Path) -> list[SingleResponse]:
    """Responses to score from columns ``prompt``, ``response`` and optional ``id``, ``rubric``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    ids = RowIds()
    found = []
    for row in file_rows(path):
        prompt, rubric = row.prompt(), row.label("rubric")
        found.append(SingleResponse(ids.next(row, prompt), prompt, row.text("response"), rubric or None))
    return found


def load_responses(path: str | Path) -> list[ResponseSet]:
    """Rows to label from columns ``prompt`` and ``responses`` (a list of texts), or ``response_a``, ``response_b``.

    Optional columns are ``id`` and ``rubric``.

    Raises:
        DataError: for the first row that cannot be used, or if there is none.
    """
    ids = RowIds()
    sets = []
    for row in file_rows(path):
        prompt = row.prompt()
        responses = _responses(row) if row.has("responses") else tuple(row.text(f"response_{side}") for side in "ab")
        sets.append(ResponseSet(ids.next(row, prompt), prompt, responses, row.label("rubric") or None))
    return sets


def _responses(row: Row) -> tuple[str, ...]:
    found = row.texts("responses")
    if len(found) < 2:
        raise row.error("column `responses` is a list of 1. Give a list of two or more texts.")
    return found


def prompt_of(value: Any, where: str) -> Prompt:
    """A prompt from a text or a list of messages; ``where`` is what an error calls its place.

    Raises:
        DataError: if it is neither, empty, or does not end with the user's turn.
    """
    return Row(where, {"prompt": value}).prompt()


def answer_of(value: Any, where: str) -> str:
    """A response from a text or a list of messages that ends with the assistant's; it may be empty.

    Only the last message is read. Where it calls a tool or is a tool's result, the answer behind it was cut off: empty.

    Raises:
        DataError: if it is neither.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError(f"{where} is {kind(value)}. Give a text or a list of messages.")
    match value[-1:]:
        case [{"role": "tool"}] | [{"role": "assistant", "content": None, "tool_calls": _}]:
            return ""
        case [{"role": "assistant", "tool_calls": _} as call] if "content" not in call:
            return ""
    last = Row(where, {"the response": value[-1:]}).messages("the response")[-1]
    if last.role != "assistant":
        raise DataError(f"{where} ends with a message by {last.role!r}. End it with the assistant's response.")
    return last.content


# --- writing --------------------------------------------------------------------------------------------------------


def pair_as_row(pair: PreferencePair) -> dict[str, Any]:
    """The columns from which :func:`load_pairs` reads this pair again."""
    row = {"id": pair.pair_id, "prompt": prompt_as_json(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}
    return row | {name: text for name, text in (("source", pair.source), ("subset", pair.subset)) if text}


def trajectory_as_row(row: WarmupRow) -> dict[str, Any]:
    """The columns from which :func:`load_trajectories` reads this trajectory again."""
    texts = {name: getattr(row, name) for name in ("rubric", "response_a", "response_b", "judgement")}
    return {"prompt": prompt_as_json(row.prompt), **texts}


def prompt_as_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as it stands in a row: its text, or its messages."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": message.role, "content": message.content} for message in prompt]


# --- columns --------------------------------------------------------------------------------------------------------


class RowIds:
    """Ids of one source: given ones are unique, missing ones come from the prompt."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._rows_of_prompt: Counter[str] = Counter()

    def next(self, row: Row, prompt: Prompt) -> str:
        """The id in column ``id``, or else one made from the prompt and the number of earlier rows with it."""
        given = row.columns.get("id")
        if isinstance(given, int) and not isinstance(given, bool):
            given = str(given)
        prompt_id = prompt_hash(prompt)
        number = self._rows_of_prompt[prompt_id]
        self._rows_of_prompt[prompt_id] += 1
        if given is None or given == "":
            given = f"{prompt_id}-{number}"
        elif not isinstance(given, str):
            raise row.error(f"id is {kind(given)}. Give a text or a whole number, or leave it out.", wrong_kind("id"))
        pair_id = row.checked("id", given)
        if pair_id in self._seen:
            raise row.error(
                f"id {show(pair_id)} was used before ({self._seen[pair_id]}). Give each row its own, or leave the ids "
                "out.",
                "id used before",
            )
        self._seen[pair_id] = row.where
        return pair_id


def shared_prompt(row: Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Prompt:
    """The prompt of a pair that has none but the turns before its two responses."""
    if chosen != rejected:
        raise row.unusable(
            "without a `prompt`, the messages before the response must be the same in chosen and rejected. Add a "
            "`prompt` column, or correct them.",
            "responses to different conversations",
        )
    if not chosen:
        raise row.error(
            "no `prompt`, and no messages before the response. Add a `prompt` column, or the conversation that leads "
            "to the response.",
            without("prompt"),
        )
    return row.conversation("chosen", chosen)


def check_different(row: Row, name: str, response: str, other_name: str, other: str) -> None:
    """Refuse a pair of equal responses: there is nothing to prefer."""
    if response == other:
        raise row.unusable(f"{name} equals {other_name} ({show(other)}). Leave the row out.", "identical responses")


_SEED_RANGE = 2**63


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
