"""Our own row formats: pairs, warm-up trajectories, and responses to judge.

In JSON Lines and Parquet, a prompt, ``chosen`` or ``rejected`` is a text or a list of messages
``{"role": …, "content": …}``; a CSV cell is always a text. A prompt of one user message is the same as its text. A row
without an id gets the hash of its prompt and the number of earlier rows with that prompt: ``3f0c…-0``. Every loader
raises :class:`~rubric_arm_lite.errors.DataError` for the first row that cannot be used, or if there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.formats import OWN, Format
from rubric_arm_lite.data.rows import Row, missing_reason, short_repr, type_name
from rubric_arm_lite.data.sources import file_rows
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import PromptBuilder, prompt_hash
from rubric_arm_lite.types import Message, PreferencePair, Prompt, Rubric, Side


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

    def judge_prompt(self, prompts: PromptBuilder, rubric: Rubric) -> str:
        """The user turn that the judgement answers, under this rubric."""
        if self.response_b is None:
            return prompts.pointwise_prompt(self.prompt, rubric, self.response_a)
        return prompts.judge_prompt(self.prompt, rubric, self.response_a, self.response_b)


@dataclass(frozen=True, slots=True)
class ResponseSet:
    """A prompt with one or more responses to score, compare or label. Without a ``rubric`` the generator writes one."""

    set_id: str
    prompt: Prompt
    responses: tuple[str, ...]
    rubric: str | None = None


def load_pairs(path: str | Path) -> list[PreferencePair]:
    """Preference pairs from columns ``prompt``, ``chosen``, ``rejected`` and optional ``id``, ``source``, ``subset``.

    A message list under ``chosen`` or ``rejected`` ends with the response as an assistant message. The messages
    before it, which both lists share, are the prompt; a ``prompt`` beside them must be part of that conversation.
    """
    ids = RowIds()
    return [read_pair(row, OWN, ids)[0] for row in file_rows(path)]


def trajectory_columns(row: Row, pointwise: bool | None) -> tuple[str, ...]:
    """The columns of a trajectory like ``row``; for ``pointwise`` None those of the kind that it is."""
    if pointwise is None:
        pointwise = "response" in row.columns and "response_a" not in row.columns
    return ("prompt", "rubric", *(("response",) if pointwise else ("response_a", "response_b")), "judgement")


def trajectory_of_row(row: Row, pointwise: bool | None = False) -> WarmupRow:
    """The trajectory of one row; a RowError if it cannot be used.

    Columns: ``prompt``, ``rubric``, ``response_a``, ``response_b``, ``judgement``; for a pointwise judge one
    ``response`` in place of the two. With ``pointwise`` None each row is taken as it is.
    """
    prompt, names = row.prompt(), trajectory_columns(row, pointwise)
    rubric, *responses, judgement = map(row.text, names[1:])
    return WarmupRow(prompt, rubric, responses[0], responses[1] if len(responses) > 1 else None, judgement)


def load_responses(path: str | Path, *columns: str, listed: str | None = None) -> list[ResponseSet]:
    """Prompts with their responses, from columns ``prompt``, ``columns`` and optional ``id``, ``rubric``.

    Args:
        columns: one column per response, such as ``response_a``, ``response_b``.
        listed: a column that may hold all responses of a row as a list, in place of the others.
    """
    ids = RowIds()
    sets = []
    for row in file_rows(path):
        if {"chosen", "rejected"} <= row.columns.keys() and not {*columns, listed} & row.columns.keys():
            raise row.error(
                "this pair is labeled: it has `chosen` and `rejected`. To measure a judge on labeled pairs, use "
                f"rubric-arm evaluate RUN FILE. Responses without a label stand in {' and '.join(columns)}"
                f"{f', or in {listed}, a list' if listed else ''}."
            )
        prompt, rubric = row.prompt(), row.optional_text("rubric") or None
        responses = row.texts(listed) if listed and row.has(listed) else tuple(map(row.text, columns))
        if len(responses) < len(columns):
            raise row.error(f"column `{listed}` is a list of 1. Give a list of two or more texts.")
        sets.append(ResponseSet(ids.next(row, prompt), prompt, responses, rubric))
    return sets


def load_prompts(path: str | Path) -> list[Prompt]:
    """Distinct prompts of column ``prompt``, in the order of their first row; other columns are not read."""
    return list({prompt_hash(prompt): prompt for prompt in (row.prompt() for row in file_rows(path))}.values())


def load_answers(path: str | Path) -> list[tuple[Prompt, str]]:
    """Prompts with one response each, from columns ``prompt`` and ``response``."""
    return [(row.prompt(), row.text("response")) for row in file_rows(path)]


def prompt_of(value: Any, where: str) -> Prompt:
    """A prompt from a text or a list of messages; ``where`` names its place in errors.

    Raises:
        DataError: if it is neither, empty, or does not end with the user's turn.
    """
    return Row(where, {"prompt": value}).prompt()


def answer_of(value: Any, where: str) -> str:
    """A response from a text or a list of messages that ends with the assistant's; it may be empty.

    Only the last message is read. If it calls a tool or is a tool's result, the answer after it is missing: empty.

    Raises:
        DataError: if it is neither.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise DataError(f"{where} is {type_name(value)}. Give a text or a list of messages.")
    match value[-1:]:
        case [{"role": "tool"}] | [{"role": "assistant", "content": None, "tool_calls": _}]:
            return ""
        case [{"role": "assistant", "tool_calls": _} as call] if "content" not in call:
            return ""
    last = Row(where, {"the response": value[-1:]}).messages("the response")[-1]
    if last.role != "assistant":
        raise DataError(f"{where} ends with a message by {last.role!r}. End it with the assistant's response.")
    return last.content


def pair_as_row(pair: PreferencePair) -> dict[str, Any]:
    """The columns from which :func:`load_pairs` reads this pair again."""
    row = {"id": pair.pair_id, "prompt": prompt_as_json(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}
    return row | {name: text for name, text in (("source", pair.source), ("subset", pair.subset)) if text}


def trajectory_as_row(row: WarmupRow) -> dict[str, Any]:
    """The columns from which :func:`trajectory_of_row` reads this trajectory again."""
    pair = {"response_a": row.response_a, "response_b": row.response_b}
    responses = pair if row.response_b is not None else {"response": row.response_a}
    return {"prompt": prompt_as_json(row.prompt), "rubric": row.rubric, **responses, "judgement": row.judgement}


def prompt_as_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as it stands in a row: its text, or its messages."""
    return prompt if isinstance(prompt, str) else [asdict(message) for message in prompt]


# --- one row --------------------------------------------------------------------------------------------------------


class RowIds:
    """Ids of one source: those of its rows are unique, missing ones are made from the prompt."""

    def __init__(self) -> None:
        self._places: dict[str, str] = {}
        self._rows_of_prompt: Counter[str] = Counter()

    def next(self, row: Row, prompt: Prompt) -> str:
        """The id in column ``id``, or else the prompt's hash and the number of earlier rows with that prompt."""
        prompt_id = prompt_hash(prompt)
        number = self._rows_of_prompt[prompt_id]
        self._rows_of_prompt[prompt_id] += 1
        value = row.columns.get("id")
        if value is None or value == "":
            value = f"{prompt_id}-{number}"
        elif isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        fix = "Give a text or a whole number, or leave it out."
        row_id = row.checked_text("id", value, "id", blank=True, fix=fix)
        if row_id in self._places:
            raise row.error(
                f"id {short_repr(row_id)} was used before ({self._places[row_id]}). Give each row its own, or leave "
                "the ids out.",
                "id used before",
            )
        self._places[row_id] = row.where
        return row_id


def read_pair(row: Row, format: Format, ids: RowIds, source: str = "") -> tuple[PreferencePair, Side]:
    """The pair of a row, and on which side its source shows the chosen response.

    Pairs of published formats have ``source`` as their source.

    Raises:
        RowError: if the row does not have the format, or (skippable) cannot serve as a pair.
    """
    if format.published:
        row.require(*format.columns)
    first, second = format.responses
    response_a, turns_a = row.response(first)
    response_b, turns_b = row.response(second)
    prompt = _prompt_of_pair(row, format, turns_a, turns_b)
    side = format.chosen_side(row)
    if side is None:
        names = "`, `".join(format.label_columns)
        raise row.error(f"`{names}` is a tie. Leave the row out.", "tie", skippable=True)
    if response_a == response_b:
        problem = f"{first} equals {second} ({short_repr(response_b)}). Leave the row out."
        raise row.error(problem, "identical responses", skippable=True)
    chosen, rejected = (response_a, response_b) if side == "A" else (response_b, response_a)
    pair_id = ids.next(Row(row.where, {}) if format.published else row, prompt)  # ids of published sources repeat
    source = source if format.published else row.optional_text("source")
    subset = row.optional_text(format.subset) if format.subset else ""
    return PreferencePair(pair_id, prompt, chosen, rejected, source, subset), side


def _prompt_of_pair(
    row: Row, format: Format, turns_a: tuple[Message, ...] | None, turns_b: tuple[Message, ...] | None
) -> Prompt:
    """The conversation before two responses, from the prompt's column and the turns before each response.

    The turns may repeat the prompt, hold more of the conversation than it or less, or continue it.
    """
    first, second = format.responses
    names = f"`{first}` and `{second}`"
    if turns_a is not None and turns_b is not None and turns_a != turns_b:
        raise row.error(
            f"{names} hold different conversations before their responses. Both must answer the same one; correct "
            "them, or leave the row out.",
            "responses to different conversations",
            skippable=True,
        )
    turns = turns_a if turns_a is not None else turns_b
    column = format.prompt_column
    if column is not None and (row.has(column) or turns_a is None or turns_b is None):
        prompt = row.prompt(column)
    elif turns_a is None or turns_b is None:
        raise row.error(f"{names} must be lists of messages: the turns before the response are the prompt.")
    elif turns_a:
        return row.conversation(first, turns_a)
    else:
        raise row.error(
            "no `prompt`, and no messages before the response. Add a `prompt` column, or the conversation that leads "
            "to the response.",
            missing_reason("prompt"),
        )
    asked = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not turns or _ends_with(asked, turns):
        return prompt
    if turns[0].role == "assistant":
        return row.conversation(first, (*asked, *turns))
    if any(_ends_with(turns[:end], asked) for end in range(1, len(turns) + 1)):
        return row.conversation(first, turns)
    raise row.error(
        f"the conversation before the responses does not hold the `{column}`. Leave out the column, and the "
        "conversation is the prompt, or correct one of them.",
        "prompt beside another conversation",
        skippable=True,
    )


def _ends_with(messages: Sequence[Message], end: Sequence[Message]) -> bool:
    """Whether the last messages are those of ``end``, but for blanks around them."""
    last = messages[len(messages) - len(end) :]
    return [(m.role, m.content.strip()) for m in last] == [(m.role, m.content.strip()) for m in end]
