"""Formats of preference data: one :class:`Format` says how the columns of a row become a pair.

Reading, checking and converting share these descriptions. A format is our own, a published one, or a plug-in: a
function of the user's that maps a row to the columns of our own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, groupby, product
from pathlib import Path
from typing import Any

from rubric_arm_lite.data.rows import Row, RowError, missing_reason, names_list, short_repr, type_name
from rubric_arm_lite.errors import first_line
from rubric_arm_lite.prompts import prompt_hash
from rubric_arm_lite.recipe import ColumnSettings, is_plugin, load_plugin
from rubric_arm_lite.types import Message, PreferencePair, Prompt, Side

_SPEAKER = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_TWO_TEXTS = ("first response", "second response")
_TWO_SCORES = ("first score", "second score")
_WINNER = re.compile(r"(?:(?:response|answer|assistant|model)[ _-]*)?([ab])")


class SkippedRow(Exception):  # noqa: N818 - it is not an error
    """A row that is left out for a reason that is no error; its text names the group in which it is counted."""


Label = Callable[..., Side | None]
"""Reads from a row and its label columns on which side the chosen response is; None for a tie."""


def by_name(row: Row, column: str) -> Side | None:
    """The side that a column names, such as ``A`` or ``Response B``; None for a tie."""
    text = row.text(column).strip().lower()
    match = _WINNER.fullmatch(text)
    if match is not None:
        return "A" if match[1] == "a" else "B"
    if text in ("draw", "equal") or text.startswith("tie"):
        return None
    raise row.error(f"column `{column}` is {short_repr(row.text(column))}. Give A, B or tie.")


def by_sign(row: Row, column: str) -> Side | None:
    """The first side for a negative number, the second for a positive one; None for 0, a tie."""
    value = row.number(column)
    return None if value == 0 else "A" if value < 0 else "B"


def by_score(row: Row, first: str, second: str) -> Side | None:
    """The side with the higher score; None if both are equal, a tie."""
    difference = row.number(first) - row.number(second)
    return None if difference == 0 else "A" if difference > 0 else "B"


def unless_equal(row: Row, first: str, second: str) -> Side | None:
    """The first side, whatever its score; None if both columns have the same score, a tie."""
    return None if row.number(first) == row.number(second) else "A"


def by_value(first: Iterable[Any], second: Iterable[Any], tie: Iterable[Any] = ()) -> Label:
    """A label of given values: 1, 1.0 and ``"1"`` are the same."""
    by_side: dict[Side | None, Iterable[Any]] = {"A": first, "B": second, None: tie}
    sides = {_as_text(value): side for side, values in by_side.items() for value in values}

    def label(row: Row, column: str) -> Side | None:
        value = row.value(column)
        if _as_text(value) not in sides:
            shown = short_repr(value) if isinstance(value, str) else json.dumps(value)[:60]
            raise row.error(f"column `{column}` is {shown}. Give one of {', '.join(sides)}.")
        return sides[_as_text(value)]

    return label


def majority(label: Label) -> Label:
    """The side that more than half of several columns name."""

    def most(row: Row, *columns: str) -> Side | None:
        side, votes = Counter(label(row, column) for column in columns).most_common(1)[0]
        if 2 * votes <= len(columns):
            problem = f"no majority among {names_list(columns)}. Leave the row out."
            raise row.error(problem, "without a majority", skippable=True)
        return side

    return most


def _as_text(value: Any) -> str:
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value).strip().casefold()


@dataclass(frozen=True, slots=True)
class Format:
    """How columns are read.

    Attributes:
        hub_id, config, split: where a published format is found, and what is read there by default; our own has none.
        older_id: another data set whose columns are assumed to be the same, and checked.
        responses: the columns of the two responses, in the order in which the source shows them.
        label, label_columns: a function that reads from columns which response is chosen (None: a tie); without one it
            is the first.
        prompt: the prompt's column, several whose texts are joined, or None if the turns before the responses are the
            prompt. Any column may be ``column.key``, what stands inside an object.
        system: a column with a system prompt, where a row has one.
        history: a column with the earlier turns as pairs of a request and its response, where a row has one.
        answers, text, score: a column with a list of responses, and the keys of a response and its score there; each
            two of them are compared. Without ``answers``, ``text`` and ``score`` are columns of rows with one response
            each, of which those of the same prompt follow one another.
        lowest_is_best: the score is a rank.
        in_lists: the columns of the responses hold lists (of objects with the response in ``text``); each response of
            the first is compared with each of the second.
        transcripts: texts of turns that begin with ``Human:`` or ``Assistant:``.
        turn: a column with the number of the turn that was judged; later ones are left out.
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
    prompt: str | tuple[str, ...] | None = "prompt"
    system: str = ""
    history: str = ""
    responses: tuple[str, str] = ("chosen", "rejected")
    label: Label | None = None
    label_columns: tuple[str, ...] = ()
    answers: str = ""
    text: str = ""
    score: str = ""
    lowest_is_best: bool = False
    in_lists: bool = False
    transcripts: bool = False
    turn: str = ""
    subset: str = ""
    judgement: tuple[str, ...] = ()
    unmistakable: bool = False
    plugin: Callable[[dict[str, Any]], Any] | None = None

    @property
    def published(self) -> bool:
        """Whether these are the columns of others, whose unusable rows are skipped and counted."""
        return self.name != OWN.name and self.plugin is None

    @property
    def compares_lists(self) -> bool:
        """Whether a source row or several give any number of pairs."""
        return bool(self.score) or self.in_lists

    @property
    def prompt_column(self) -> str | None:
        """The column of the prompt; of several, the one under which :meth:`converted` joins them."""
        return self.prompt[0] if isinstance(self.prompt, tuple) else self.prompt

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        prompt = (self.prompt_column,) if self.prompt_column else ()
        if self.score:
            return (*prompt, self.answers) if self.answers else (*prompt, self.text, self.score)
        return (*prompt, *self.responses, *self.label_columns)

    @property
    def _transcript_columns(self) -> tuple[str, ...]:
        """Where the turns stand: in the prompt or, without one, before both responses."""
        return (self.prompt_column,) if self.prompt_column else self.responses

    def fits(self, row: Row) -> bool:
        """Whether a row has these columns, and in them what the format says."""
        if not all(map(row.has, self.columns)):
            return False
        if self.score and self.answers:
            item = row.get(self.answers)
            item = item[0] if isinstance(item, list) and item else None
            return isinstance(item, dict) and {self.text, self.score} <= item.keys()
        if self.in_lists:
            first = [value[:1] for name in self.responses if isinstance(value := row.get(name), list)]
            return any(isinstance(item, str) or (self.text and isinstance(item, dict)) for item in chain(*first))
        texts = [row.get(name) for name in self._transcript_columns] if self.transcripts else []
        return all(isinstance(text, str) and _SPEAKER.match(text) for text in texts)

    def chosen_side(self, row: Row) -> Side | None:
        """On which side a row shows the chosen response; None for a tie."""
        return "A" if self.label is None else self.label(row, *self.label_columns)

    def converted(self, row: Row) -> Row:
        """The row with the columns that the format describes: transcripts as messages, parts of a prompt as one.

        Raises:
            SkippedRow: if the plug-in returns None.
            RowError: if the plug-in raises an error or returns something else than a mapping.
        """
        if self.plugin is None:
            return self._with_messages(row)
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

    def _with_messages(self, row: Row) -> Row:
        """The row with its transcripts, parts of a prompt and system text as the prompts and messages they mean."""
        columns: dict[str, Any] = {}
        if self.transcripts:
            columns |= {name: self._turns(row, name) for name in self._transcript_columns}
        if self.turn and row.has(self.turn):
            end = 2 * int(row.number(self.turn))  # the later turns were not judged
            columns |= {name: row.items(name, "message")[:end] for name in self.responses}
        if isinstance(self.prompt, tuple):
            texts = [row.optional_text(name).strip() for name in self.prompt[1:]]
            columns[self.prompt[0]] = "\n\n".join(filter(None, [row.text(self.prompt[0]).strip(), *texts]))
        system = row.optional_text(self.system).strip() if self.system else ""
        earlier = self._earlier_turns(row)
        if self.prompt_column and (system or earlier):
            prompt = columns.get(self.prompt_column, row.value(self.prompt_column))
            turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            first = [{"role": "system", "content": row.optional_text(self.system)}] if system else []
            columns[self.prompt_column] = [*first, *earlier, *turns]
        return Row(row.where, {**row.columns, **columns}) if columns else row

    def _earlier_turns(self, row: Row) -> list[dict[str, str]]:
        """The messages of the column ``history``, if the row has any."""
        if not self.history or not row.get(self.history):
            return []
        pairs = row.items(self.history, "pair")
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise row.error(f"`{self.history}` must be a list of pairs: a request and its response.")
        return [
            {"role": role, "content": text}
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]

    def _turns(self, row: Row, name: str) -> list[dict[str, str]]:
        """The messages of a transcript; a prompt may end with the opened turn of the assistant."""
        before, *parts = _SPEAKER.split(row.text(name))
        if before.strip() or not parts:
            raise row.error(f"column `{name}` does not begin with `Human:` or `Assistant:`. Correct it.")
        speakers = [{"Human": "user", "Assistant": "assistant"}[speaker] for speaker in parts[::2]]
        turns = [{"role": role, "content": text.strip()} for role, text in zip(speakers, parts[1::2], strict=True)]
        opened = name == self.prompt_column and turns[-1] == {"role": "assistant", "content": ""}
        return turns[:-1] if opened else turns

    def comparisons(self, rows: Iterable[Row]) -> Iterator[Row | RowError]:
        """Rows of two responses, from rows with lists of responses or with one response each."""
        if not self.compares_lists:
            yield from rows
            return
        prompt = self.prompt_column or ""
        one_each = not (self.answers or self.in_lists)
        groups = (list(same) for _, same in groupby(rows, lambda row: repr(row.get(prompt)))) if one_each else None
        for group in groups or ([row] for row in rows):
            try:
                yield from self._across(group[0]) if self.in_lists else self._among(group)
            except RowError as error:
                yield error

    def _across(self, row: Row) -> Iterator[Row]:
        """Each response of the first list with each of the second."""
        first, second = self.responses
        for (i, text_i), (j, text_j) in product(*(self._numbered(row.value(name)) for name in self.responses)):
            yield Row(f"{row.where}, {i} with {j}", {**row.columns, first: text_i, second: text_j})

    def _numbered(self, value: Any) -> Iterable[tuple[int, Any]]:
        items = value if isinstance(value, list) else [value]
        return enumerate((item.get(self.text) if isinstance(item, dict) else item for item in items), start=1)

    def _among(self, group: list[Row]) -> Iterator[Row]:
        """Each pair of a row's list of responses, or of the responses of several rows."""
        row = group[0]
        if self.answers:
            group = [row.inner(self.answers, number + 1) for number in range(len(row.items(self.answers)))]
        if len(group) < 2:
            raise row.error("a single response to its prompt. Leave it out.", "with a single response", skippable=True)
        sign = -1 if self.lowest_is_best else 1
        found = [(answer.text(self.text, blank=True), sign * answer.number(self.score)) for answer in group]
        for (i, (text_i, score_i)), (j, (text_j, score_j)) in combinations(enumerate(found, start=1), 2):
            both = dict(zip((*_TWO_TEXTS, *_TWO_SCORES), (text_i, text_j, score_i, score_j), strict=True))
            yield Row(f"{row.where}, response {i} with {j}", {**row.columns, **both})


OWN = Format("pairs", subset="subset")


def _listed(answers: str, text: str, score: str) -> dict[str, Any]:
    """The fields of a format that compares scored responses."""
    labels = {"responses": _TWO_TEXTS, "label": by_score, "label_columns": _TWO_SCORES}
    return {"answers": answers, "text": text, "score": score, "unmistakable": True, **labels}


_VOTES = Format(
    "arena",
    "lmsys/chatbot_arena_conversations",
    "lmarena-ai/arena-human-preference-100k",
    prompt=None,
    responses=("conversation_a", "conversation_b"),
    label=by_name,
    label_columns=("winner",),
    turn="turn",
    unmistakable=True,
)
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
    Format("tulu3", "allenai/llama-3.1-tulu-3-8b-preference-mixture", subset="source"),
    Format("hh-rlhf", "Anthropic/hh-rlhf", prompt=None, transcripts=True, unmistakable=True),
    Format(
        "shp",
        "stanfordnlp/SHP",
        prompt="history",
        responses=("human_ref_A", "human_ref_B"),
        label=by_value([1], [0]),
        label_columns=("labels",),
        subset="domain",
        unmistakable=True,
    ),
    Format(
        "nectar", "berkeley-nest/Nectar", **_listed("answers", "answer", "rank"), lowest_is_best=True, transcripts=True
    ),
    Format(
        "ultrafeedback-raw",
        "openbmb/UltraFeedback",
        prompt="instruction",
        subset="source",
        **_listed("completions", "response", "overall_score"),
    ),
    Format(
        "helpsteer2-preference",
        prompt="prompt",
        responses=("response_1", "response_2"),
        label=by_sign,
        label_columns=("preference_strength",),
        unmistakable=True,
    ),
    Format("helpsteer2", "nvidia/HelpSteer2", **_listed("", "response", "helpfulness")),
    _VOTES,
    replace(_VOTES, name="mt-bench", hub_id="lmsys/mt_bench_human_judgments", older_id="", split="human"),
    Format(
        "webgpt",
        "openai/webgpt_comparisons",
        prompt="question.full_text",
        responses=("answer_0", "answer_1"),
        label=by_score,
        label_columns=("score_0", "score_1"),
        unmistakable=True,
    ),
    Format(
        "safe-rlhf",
        "PKU-Alignment/PKU-SafeRLHF",
        responses=("response_0", "response_1"),
        label=by_value([0], [1]),
        label_columns=("better_response_id",),
        unmistakable=True,
    ),
    Format("orca-dpo", "Intel/orca_dpo_pairs", prompt="question", system="system", unmistakable=True),
    Format("sharegpt", prompt="conversations", system="system", unmistakable=True),
    Format("alpaca", prompt=("instruction", "input"), system="system", history="history", unmistakable=True),
    Format(
        "llmbar",
        prompt="input",
        responses=("output_1", "output_2"),
        label=by_value([1], [2]),
        label_columns=("label",),
        unmistakable=True,
    ),
    Format(
        "auto-j",
        responses=("response 1", "response 2"),
        label=by_value([0], [1], [2]),
        label_columns=("label",),
        subset="scenario",
        unmistakable=True,
    ),
    Format(
        "pandalm",
        prompt=("instruction", "input"),
        responses=("response1", "response2"),
        label=majority(by_value([1], [2], [0])),
        label_columns=("annotator1", "annotator2", "annotator3"),
        unmistakable=True,
    ),
    Format(
        "judgebench",
        "ScalerLab/JudgeBench",
        split="gpt",
        prompt="question",
        responses=("response_A", "response_B"),
        label=by_value(["A>B"], ["B>A"]),
        label_columns=("label",),
        subset="source",
        unmistakable=True,
    ),
    Format("rmb", prompt="conversation_input", responses=("chosen.answer", "reject.answer"), unmistakable=True),
    Format(
        "rmb-best-of-n",
        prompt="conversation_input",
        responses=("bon_best", "loser_list"),
        text="answer",
        in_lists=True,
        unmistakable=True,
    ),
    Format("writing", "m-a-p/Writing-Preference-Bench", responses=("chosen.text", "rejected.text"), unmistakable=True),
    Format(
        "writing-response", responses=("chosen.response", "rejected.response"), subset="language", unmistakable=True
    ),
    Format("several", in_lists=True, subset="subset", unmistakable=True),
)
FORMATS = {format.name: format for format in _PUBLISHED}
"""Every published format, by name."""


def known_format(source: str) -> Format | None:
    """The format of a known Hub id, in any letter case, or of a folder whose path ends in one, as a clone's may."""
    name = "/".join(Path(source).parts[-2:]).lower()
    by_id = {hub_id.lower(): format for format in FORMATS.values() for hub_id in (format.hub_id, format.older_id)}
    return by_id.get(name) if name else None


def format_of_columns(settings: ColumnSettings) -> Format:
    """The format that a recipe's ``data.columns`` describe."""
    first, second, tie = map(_as_tuple, (settings.first, settings.second, settings.tie))
    winner = _as_tuple(settings.winner)
    response_a, response_b = settings.responses
    format = Format(
        "columns",
        prompt=settings.prompt,
        system=settings.system or "",
        responses=(response_a, response_b),
        label=majority(by_value(first, second, tie) if first else by_name) if winner else None,
        label_columns=winner,
        transcripts=settings.transcripts,
        subset=settings.subset or "",
    )
    score = settings.score or settings.rank
    if score is None:
        return format
    listed = _listed(settings.answers or "", settings.text, score)
    return replace(format, **listed, lowest_is_best=settings.score is None)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)


def choose_format(name: str, source: str, row: Row) -> Format:
    """The format of that name; for `auto` the one that the Hub id or the source's first row tells, else our own.

    Raises:
        ConfigError: if the name is a plug-in's that cannot be loaded.
    """
    if is_plugin(name):
        return replace(OWN, name=name, plugin=load_plugin(name, "format"))
    if name != "auto":
        return FORMATS.get(name, OWN)
    candidates = (format for format in FORMATS.values() if format.unmistakable and format.fits(row))
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
