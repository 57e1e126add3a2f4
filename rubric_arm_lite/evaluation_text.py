"""One evaluation for a terminal: a sentence, what to doubt in it, and every value with what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from rubric_arm_lite.doubts import evaluation_doubts

Kind = Literal["share", "points", "count", "number", "margin"]
"""A share of all in percent; a difference of shares; a whole number; a mean; a difference of scores with its sign."""

GLOSSES: Mapping[str, tuple[Kind, str]] = {
    "accuracy": ("share", "verdicts for the preferred response"),
    "accuracy_low": ("share", "lower end of its 95% interval, pairs resampled"),
    "accuracy_high": ("share", "upper end of its 95% interval"),
    "accuracy_original": ("share", "with the preferred response first"),
    "accuracy_flipped": ("share", "with the preferred response second"),
    "accuracy_mixed": ("share", "with one of the two orders drawn for each pair"),
    "position_bias": ("points", "largest minus smallest of these three accuracies"),
    "consistency": ("share", "pairs of which both orders name the same response"),
    "tie_rate": ("share", "pairs with equal scores, which count half"),
    "margin": ("margin", "mean of the preferred response's score minus the other's, from -2 to 2"),
    "accuracy_words": ("share", "accuracy by the words true and false alone, without their probabilities"),
    "tie_rate_words": ("share", "pairs with equal scores by the words alone"),
    "unparsed": ("share", "judgements without a verdict that can be read"),
    "says_a": ("share", "verdicts for Response A; far from 50% the judge prefers a place"),
    "format": ("share", "judgements in the form that was asked for"),
    "format_sampled": ("share", "the same among judgements sampled at evaluation.vote_temperature"),
    "rubric_usable": ("share", "rubrics that can be read"),
    "rubric_criteria": ("number", "criteria of a rubric"),
    "rubric_duplicates": ("share", "criteria that repeat an earlier one of their rubric"),
    "rubric_hard_rules": ("share", "criteria that are hard rules"),
    "rubric_words": ("number", "words of a rubric"),
    "principle_recall": ("share", "true principles that the rubric names (testbed only)"),
    "tokens_per_pair": ("number", "tokens written for a pair: rubric and judgements"),
    "pairs": ("count", "held-out pairs"),
}
"""What each value of an evaluation means, and how it is written."""
_VOTING: tuple[Kind, str] = ("share", "accuracy of the majority of so many sampled judgements, or of their mean scores")


def evaluation_text(values: Mapping[str, float], unparsed_value: float) -> str:
    """The whole text."""
    parts = [_sentence(values), *evaluation_doubts(values, unparsed_value)]
    return "\n\n".join([*parts, "\n".join(_rows(values))])


def _sentence(values: Mapping[str, float]) -> str:
    """The result in words."""
    pairs = f"{values['pairs']:,.0f} pair{'' if values['pairs'] == 1 else 's'}"
    if "tie_rate" in values:
        how = f"each response scored by itself; {values['tie_rate']:.1%} ties"
    else:
        how = f"each judged in both orders; position bias {_shown('position_bias', values)}"
    return (
        f"Accuracy {_shown('accuracy', values)} (95% interval {_shown('accuracy_low', values)} to "
        f"{_shown('accuracy_high', values)}) on {pairs}, {how}."
    )


def _rows(values: Mapping[str, float]) -> Iterator[str]:
    """Name, value and meaning in columns."""
    width = max(map(len, values))
    shown = {name: _shown(name, values) for name in values}
    most = max(map(len, shown.values()))
    for name, text in shown.items():
        yield f"{name:<{width}}  {text:>{most}}  {_gloss(name)[1]}"


def _gloss(name: str) -> tuple[Kind, str]:
    return _VOTING if name.startswith("voting@") else GLOSSES[name]


def _shown(name: str, values: Mapping[str, float]) -> str:
    value = values[name]
    match _gloss(name)[0]:
        case "share":
            return f"{value:.1%}"
        case "points":
            return f"{100 * value:.1f} points"
        case "count":
            return f"{value:,.0f}"
        case "number":
            return f"{value:,.1f}"
        case "margin":
            return f"{value:+.2f}"
