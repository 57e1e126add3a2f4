"""Caveats shown next to metrics in the terminal and the report.

Measured values go in; sentences come out, each with what was measured and what to try.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MOSTLY = 0.5
"""From this share of unparsed judgements on, an accuracy is one of what these count, not of verdicts."""
FEW_PAIRS = 20
"""Below so many held-out pairs a single one moves the accuracy by more than five points."""


def evaluation_caveats(values: Mapping[str, float], unparsed_value: float | None) -> list[str]:
    """What an evaluation's accuracy must be read with.

    Args:
        unparsed_value: what a judgement without a verdict counts; None if the recipe is not known.
    """
    return [*unparsed_caveats(values, unparsed_value), *few_pairs_caveats(values.get("pairs", float(FEW_PAIRS)))]


def unparsed_caveats(values: Mapping[str, float], unparsed_value: float | None) -> list[str]:
    """That most judgements name no winner, if so."""
    if values.get("unparsed", 0.0) < MOSTLY:
        return []
    text = f"{unparsed_share(values, unparsed_value)}, so this accuracy says nothing about the judge. "
    usable = values.get("rubric_usable", 1.0)
    if usable < MOSTLY:
        seen = f"Only {usable:.1%} of the rubrics can be read" if usable else "None of the rubrics can be read"
        return [
            f"{text}{seen}, and without one nothing is judged. Give the generator a warm-up (warmup.source), or try "
            "another prompts.rubric_template."
        ]
    template = "pointwise_template" if _is_pointwise(values) else "judge_template"
    return [f"{text}Give the judge a warm-up (warmup.source), or try another prompts.{template}."]


def unparsed_share(values: Mapping[str, float], unparsed_value: float | None) -> str:
    """How many judgements name no winner, and what that counts: a sentence without its end."""
    what = "pairs have no scores to compare" if _is_pointwise(values) else "judgements name no winner"
    counts = (
        "evaluation.unparsed_value"
        if unparsed_value is None
        else "½"
        if unparsed_value == 0.5
        else f"{unparsed_value:g}"
    )
    return f"{values['unparsed']:.1%} of the {what} and count {counts} each"


def few_pairs_caveats(pairs: float) -> list[str]:
    """That there are too few held-out pairs for a firm figure, if so."""
    if not 0 < pairs < FEW_PAIRS:
        return []
    number = "Only 1 held-out pair" if pairs == 1 else f"Only {pairs:.0f} held-out pairs"
    return [
        f"{number}: this figure is loose, and so is its interval; one pair judged otherwise moves it by "
        f"{100 / pairs:.0f} points. Evaluate on more."
    ]


@dataclass(frozen=True, slots=True)
class PhaseWithoutGradient:
    """A role's phase in which no group carried a gradient.

    Attributes:
        asked: whether there was any group at all.
        moved: whether updates were made all the same, for the sake of the KL alone.
    """

    phase: str
    role: str
    asked: bool
    moved: bool


def phases_without_gradient(steps: Iterable[tuple[str, str, Mapping[str, float]]]) -> list[PhaseWithoutGradient]:
    """Those of whole phases, given as (phase, role, values of a step), in which no step had an informative group."""
    rows: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for phase, role, values in steps:
        rows.setdefault((phase, role), []).append(values)
    return [
        PhaseWithoutGradient(
            phase,
            role,
            any(values.get("groups", 1.0) > 0 for values in found),
            any(values.get("updates", 1.0) > 0 for values in found),
        )
        for (phase, role), found in rows.items()
        if all(values.get("groups/informative") == 0 for values in found)
    ]


def no_gradient_caveats(found: Iterable[PhaseWithoutGradient]) -> list[str]:
    """What phases without a gradient mean and what to try, in one text for all phases of a role that are alike."""
    alike: dict[tuple[str, bool, bool], list[str]] = {}
    for still in found:
        name = f"the {still.role} in {still.phase}" if "+" in still.phase else still.phase
        alike.setdefault((still.role, still.asked, still.moved), []).append(name)
    return [_still_text(_joined(names), *kind) for kind, names in alike.items()]


def _still_text(names: str, role: str, asked: bool, moved: bool) -> str:
    outcome = "only its KL term could move the adapter" if moved else "the adapter did not move"
    if asked:
        cause = "The samples of each group earned the same"
        mend = f"a warm-up (warmup.source), more samples ({role}.num_generations) or a higher {role}.temperature"
    else:
        cause = "There was no group, since no rubric could be read"
        mend = "a warm-up (warmup.source) or another prompts.rubric_template"
    return f"No group of {names} carried a gradient: {outcome}. {cause}. Try {mend}."


def _joined(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _is_pointwise(values: Mapping[str, float]) -> bool:
    return "tie_rate" in values
