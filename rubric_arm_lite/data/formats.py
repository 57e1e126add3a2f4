"""Formats of preference data: one :class:`Format` says how the columns of a row become a pair.

Reading, checking and converting share these descriptions. A format is our own, a published one, or a plug-in: a
function of the user's that maps a row to the columns of our own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.rows import Row, missing_reason, short_repr, type_name
from rubric_arm_lite.errors import first_line
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import is_plugin, load_plugin
from rubric_arm_lite.types import Message, PreferencePair, Prompt, Side

_WINNER = re.compile(r"(?:(?:response|answer|assistant|model)[ _-]*)?([ab])")


class SkippedRow(Exception):  # noqa: N818 - it is not an error
    """A row that is left out for a reason that is no error; its text names the group in which it is counted."""


def by_name(row: Row, column: str) -> Side | None:
    """The side that a column names, such as ``A`` or ``Response B``; None for a tie."""
    text = row.text(column).strip().lower()
    match = _WINNER.fullmatch(text)
    if match is not None:
        return "A" if match[1] == "a" else "B"
    if text in ("tie", "draw", "equal"):
        return None
    raise row.error(f"column `{column}` is {short_repr(row.text(column))}. Give A, B or tie.")


def by_sign(row: Row, column: str) -> Side | None:
    """The first side for a negative number, the second for a positive one; None for 0, a tie."""
    value = row.number(column)
    return None if value == 0 else "A" if value < 0 else "B"


def unless_equal(row: Row, first: str, second: str) -> Side | None:
    """The first side, whatever its score; None if both columns have the same score, a tie."""
    return None if row.number(first) == row.number(second) else "A"


@dataclass(frozen=True, slots=True)
class Format:
    """How columns are read.

    Attributes:
        hub_id, config, split: where a published format is found, and what is read there by default; our own has none.
        older_id: another data set whose columns are assumed to be the same, and checked.
        responses: the columns of the two responses, in the order in which the source shows them.
        label, label_columns: a function that reads from columns which response is chosen (None: a tie); without one it
            is the first.
        prompt: the prompt's column, or None if the turns before the responses are the prompt.
        subset: a column that names the row's part of the data.
        judgement: names of the column with a judge's text about (first, second) under the column ``rubric``.
        unmistakable: its columns alone tell it, because they cannot be our own.
        plugin: maps a row to the columns of our own format, or to None to skip it.
    """

    name: str
    hub_id: str = ""
    older_id: str = ""
    config: str | None = None
    split: str = "train"
    prompt: str | None = "prompt"
    responses: tuple[str, str] = ("chosen", "rejected")
    label: Callable[..., Side | None] | None = None
    label_columns: tuple[str, ...] = ()
    subset: str = ""
    judgement: tuple[str, ...] = ()
    unmistakable: bool = False
    plugin: Callable[[dict[str, Any]], Any] | None = None

    @property
    def published(self) -> bool:
        """Whether this is the format of a published data set, whose unusable rows are skipped and counted."""
        return bool(self.hub_id)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        return (*((self.prompt,) if self.prompt else ()), *self.responses, *self.label_columns)

    def chosen_side(self, row: Row) -> Side | None:
        """On which side a row shows the chosen response; None for a tie."""
        return "A" if self.label is None else self.label(row, *self.label_columns)

    def converted(self, row: Row) -> Row:
        """The row with the columns that the format describes.

        Raises:
            SkippedRow: if the plug-in returns None.
            RowError: if the plug-in raises an error or returns something else than a mapping.
        """
        if self.plugin is None:
            return row
        reason = f"not converted by {self.name}"
        try:
            columns = self.plugin(dict(row.columns))
        except Exception as error:  # whatever the user's code raises
            raise row.error(
                f"the format {self.name} fails with {type(error).__name__} ({first_line(error)}). Correct the "
                "function, or return None to skip the row.",
                reason,
            ) from error
        if columns is None:
            raise SkippedRow(f"skipped by {self.name}")
        if not isinstance(columns, Mapping):
            raise row.error(
                f"the format {self.name} returns {type_name(columns)}. Return a dict with prompt, chosen and rejected "
                "(for a warm-up: prompt, rubric, response_a, response_b, judgement), or None to skip the row.",
                reason,
            )
        return Row(f"{row.where}, as returned by {self.name}", columns)


OWN = Format("pairs", subset="subset")
_PUBLISHED = (
    Format(
        "openrubric",
        "OpenRubrics/OpenRubric-v2",
        "OpenRubrics/OpenRubrics",
        prompt="instruction",
        responses=("response_a", "response_b"),
        label=by_name,
        label_columns=("winner",),
        subset="source",
        # The card calls it the judge's trajectory; which of these the column is named was not verified.
        judgement=("judge", "judgement", "judgment", "judge_trajectory", "trajectory"),
        unmistakable=True,
    ),
    Format(
        "ultrafeedback",
        "HuggingFaceH4/ultrafeedback_binarized",
        split="train_prefs",
        label=unless_equal,
        label_columns=("score_chosen", "score_rejected"),
    ),
    Format("skywork", "Skywork/Skywork-Reward-Preference-80K-v0.2", prompt=None, subset="source"),
    Format(
        "helpsteer3",
        "nvidia/HelpSteer3",
        config="preference",
        prompt="context",
        responses=("response1", "response2"),
        label=by_sign,
        label_columns=("overall_preference",),
        subset="domain",
        unmistakable=True,
    ),
    Format("rubricarm-arena", "chardizard/RubricARM-ChatbotArena-ARMJudge-Correct"),
)
FORMATS = {format.name: format for format in _PUBLISHED}
"""Every published format, by name."""


def known_format(source: str) -> Format | None:
    """The format of a known Hub id, in any letter case, or of a folder whose path ends in one, as a clone's may."""
    name = "/".join(Path(source).parts[-2:]).lower()
    by_id = {hub_id.lower(): format for format in FORMATS.values() for hub_id in (format.hub_id, format.older_id)}
    return by_id.get(name) if name else None


def choose_format(name: str, source: str, columns: Collection[str]) -> Format:
    """The format of that name; for `auto` the one that the Hub id or the columns of the first row tell, else our own.

    Raises:
        ConfigError: if the name is a plug-in's that cannot be loaded.
    """
    if is_plugin(name):
        return replace(OWN, name=name, plugin=load_plugin(name, "format"))
    if name != "auto":
        return FORMATS.get(name, OWN)
    candidates = (format for format in FORMATS.values() if format.unmistakable and set(format.columns) <= set(columns))
    return known_format(source) or next(candidates, OWN)


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
    if format.prompt is not None and (row.has(format.prompt) or turns_a is None or turns_b is None):
        prompt = row.prompt(format.prompt)
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
        f"the conversation before the responses does not hold the `{format.prompt}`. Leave out the column, and the "
        "conversation is the prompt, or correct one of them.",
        "prompt beside another conversation",
        skippable=True,
    )


def _ends_with(messages: Sequence[Message], end: Sequence[Message]) -> bool:
    """Whether the last messages are those of ``end``, but for blanks around them."""
    last = messages[len(messages) - len(end) :]
    return [(m.role, m.content.strip()) for m in last] == [(m.role, m.content.strip()) for m in end]
