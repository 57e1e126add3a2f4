"""What the columns of known preference data mean, one :class:`PairForm` for each.

A row goes in; a pair with the side on which its source shows the chosen response comes out. In a known form a tie,
equal responses or an empty text is `UnusableRowError`, which a reader may leave out and
count: they are properties of the data. A missing column or a wrong type is an error with its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rubric_arm_lite.data.pairs import RowIds, check_different, pair_of_row, shared_prompt
from rubric_arm_lite.data.rows import Row, show
from rubric_arm_lite.recipe.fields import Form
from rubric_arm_lite.types import PreferencePair, Side

_WINNER = re.compile(r"(?:(?:response|answer|assistant|model)[ _-]*)?([ab])")
_TIES = ("tie", "draw", "equal")


@dataclass(frozen=True, slots=True)
class PairForm:
    """One layout of columns.

    Attributes:
        hub_id, config, split: where the form is published, and what is read there if nothing is chosen.
        responses: the columns of the two responses, in the order in which the source shows them.
        label: how the chosen one is told. `first`: it is the first; `winner`: ``label_column`` names A or B;
            `sign`: ``label_column`` is negative for the first, positive for the second, 0 for a tie.
        prompt: the prompt's column, or None if it is the turns before the responses.
        scores: two columns of scores, in the order of ``responses``; equal scores are a tie.
        subset: a column that names the row's part of the data.
        judgement: columns of which one holds a judge's text about (first, second) under the column ``rubric``.
    """

    name: Form
    hub_id: str
    responses: tuple[str, str]
    label: Literal["first", "winner", "sign"]
    prompt: str | None = "prompt"
    label_column: str = ""
    config: str | None = None
    split: str = "train"
    scores: tuple[str, str] | None = None
    subset: str = ""
    judgement: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every row must have."""
        named = (self.prompt or "", *self.responses, self.label_column, *(self.scores or ()))
        return tuple(name for name in named if name)


FORMS: dict[str, PairForm] = {
    form.name: form
    for form in (
        PairForm(
            "openrubric",
            "OpenRubrics/OpenRubric-v2",
            ("response_a", "response_b"),
            "winner",
            prompt="instruction",
            label_column="winner",
            subset="source",
            # The card calls it the judge's trajectory; which of these the column is named was not verified.
            judgement=("judge", "judgement", "judgment", "judge_trajectory", "trajectory"),
        ),
        PairForm(
            "ultrafeedback",
            "HuggingFaceH4/ultrafeedback_binarized",
            ("chosen", "rejected"),
            "first",
            split="train_prefs",
            scores=("score_chosen", "score_rejected"),
        ),
        PairForm(
            "skywork",
            "Skywork/Skywork-Reward-Preference-80K-v0.2",
            ("chosen", "rejected"),
            "first",
            prompt=None,
            subset="source",
        ),
        PairForm(
            "helpsteer3",
            "nvidia/HelpSteer3",
            ("response1", "response2"),
            "sign",
            prompt="context",
            label_column="overall_preference",
            config="preference",
            subset="domain",
        ),
        PairForm(
            "rubricarm-arena", "chardizard/RubricARM-ChatbotArena-ARMJudge-Correct", ("chosen", "rejected"), "first"
        ),
    )
}
"""Every form but our own, by name."""

FIRST_RELEASE = "OpenRubrics/OpenRubrics"
"""The first release of OpenRubrics; its columns are taken for those of the second, and checked."""
_UNMISTAKABLE = ("openrubric", "helpsteer3")
"""Forms told by their columns alone, because our own form cannot be meant."""


def known_form(source: str) -> PairForm | None:
    """The form of a known Hub id, in any letter case, or of a folder whose path ends in one, as a clone's may."""
    by_id = {form.hub_id.lower(): form for form in FORMS.values()} | {FIRST_RELEASE.lower(): FORMS["openrubric"]}
    return by_id.get("/".join(Path(source).parts[-2:]).lower())


def form_of(chosen: Form, source: str, columns: Sequence[str]) -> PairForm | None:
    """The form that is asked for or, for `auto`, that the Hub id or the columns of the first row tell.

    Returns:
        None for our own form.
    """
    assert chosen in get_args(Form), chosen
    if chosen != "auto":
        return FORMS.get(chosen)
    known = known_form(source)
    if known is not None:
        return known
    return next((FORMS[name] for name in _UNMISTAKABLE if set(FORMS[name].columns) <= set(columns)), None)


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A pair, and on which side its source shows the chosen response; None if its columns are named for the label."""

    pair: PreferencePair
    chosen_side: Side | None


def read_pair(row: Row, form: PairForm | None, ids: RowIds, source: str) -> LabelledRow:
    """The pair of a row; ``form`` None is our own.

    Raises:
        UnusableRowError: if the row is of the right form and can be no pair.
        DataError: if it is not of the form.
    """
    if form is None:
        return LabelledRow(pair_of_row(row, ids), None)
    row.require(*form.columns)
    first, second = form.responses
    response_a, turns_a = row.response(first)
    response_b, turns_b = row.response(second)
    if form.prompt is not None:
        prompt = row.prompt(form.prompt)
    elif turns_a is None or turns_b is None:
        raise row.error(
            f"`{first}` and `{second}` must be lists of messages: the turns before the response are the prompt."
        )
    else:
        prompt = shared_prompt(row, turns_a, turns_b)
    side = _chosen_side(row, form)
    check_different(row, first, response_a, second, response_b)
    chosen, rejected = (response_a, response_b) if side == "A" else (response_b, response_a)
    pair_id = ids.next(Row(row.where, {}), prompt)  # ids of the source repeat, so they are not used
    subset = row.label(form.subset) if form.subset else ""
    return LabelledRow(
        PreferencePair(pair_id, prompt, chosen, rejected, source, subset), None if form.label == "first" else side
    )


def _chosen_side(row: Row, form: PairForm) -> Side:
    """Which of the two responses is chosen, in the source's order."""
    tie = row.unusable(f"`{form.label_column or form.scores}` is a tie. Leave the row out.", "tie")
    if form.scores is not None and row.number(form.scores[0]) == row.number(form.scores[1]):
        raise tie
    match form.label:
        case "first":
            return "A"
        case "sign":
            value = row.number(form.label_column)
            if value == 0:
                raise tie
            return "A" if value < 0 else "B"
        case "winner":
            side = winner_of(row, form.label_column)
            if side is None:
                raise tie
            return side


def winner_of(row: Row, name: str) -> Side | None:
    """The side that a column names, such as ``A`` or ``Response B``; None for a tie."""
    text = row.text(name).strip().lower()
    match = _WINNER.fullmatch(text)
    if match is not None:
        return "A" if match[1] == "a" else "B"
    if text in _TIES:
        return None
    raise row.error(f"column `{name}` is {show(row.text(name))}. Give A, B or tie.")
