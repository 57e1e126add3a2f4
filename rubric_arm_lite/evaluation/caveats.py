"""Caveats shown next to metrics in the terminal and the report.

Measured values go in; sentences come out, each with what was measured and what to try. Only a pointwise judge has a
tie rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MOSTLY = 0.5
"""From this share of unparsed judgements on, an accuracy reflects what they count, not the verdicts."""
FEW_PAIRS = 20
"""With fewer held-out pairs, a single one moves the accuracy by more than five points."""


def evaluation_caveats(values: Mapping[str, float], unparsed_value: float | None) -> list[str]:
    """The caveats of one evaluation's accuracy.

    Args:
        unparsed_value: what a judgement without a verdict counts; None if the recipe is not known.
    """
    return [*unparsed_caveats(values, unparsed_value), *few_pairs_caveats(values.get("pairs", float(FEW_PAIRS)))]


def unparsed_caveats(values: Mapping[str, float], unparsed_value: float | None) -> list[str]:
    """One caveat if most judgements name no winner."""
    if values.get("unparsed", 0.0) < MOSTLY:
        return []
    text = f"{unparsed_share(values, unparsed_value)}, so this accuracy says nothing about the judge."
    usable, role = values.get("rubric_usable", 1.0), "judge"
    template = "pointwise_template" if "tie_rate" in values else "judge_template"
    if usable < MOSTLY:
        share, role, template = f"Only {usable:.1%}" if usable else "None", "generator", "rubric_template"
        text += f" {share} of the rubrics can be read, and without one nothing is judged."
    return [f"{text} Give the {role} a warm-up (warmup.source), or try another prompts.{template}."]


def unparsed_share(values: Mapping[str, float], unparsed_value: float | None) -> str:
    """How many judgements name no winner, and what each counts: a sentence without its end."""
    what = "pairs have no scores to compare" if "tie_rate" in values else "judgements name no winner"
    counts = "½" if unparsed_value == 0.5 else f"{unparsed_value:g}" if unparsed_value is not None else ""
    return f"{values['unparsed']:.1%} of the {what} and count {counts or 'evaluation.unparsed_value'} each"


def few_pairs_caveats(pairs: float) -> list[str]:
    """One caveat if there are too few held-out pairs for a precise accuracy."""
    if not 0 < pairs < FEW_PAIRS:
        return []
    return [
        f"Only {pairs:.0f} held-out pair{'' if pairs == 1 else 's'}: this accuracy is imprecise, and so is its "
        f"interval; one pair judged differently changes it by {100 / pairs:.0f} points. Evaluate on more."
    ]


def no_gradient_caveats(steps: Iterable[tuple[str, str, Mapping[str, float]]]) -> list[str]:
    """What phases in which no step had an informative group mean, and what to try.

    One text covers all phases of a role that are alike: in whether there was any group at all, and in whether updates
    were made all the same, for the KL term alone.

    Args:
        steps: (phase, role, values) of every step of whole phases.
    """
    by_phase: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for phase, role, values in steps:
        by_phase.setdefault((phase, role), []).append(values)
    alike: dict[tuple[str, bool, bool], list[str]] = {}
    for (phase, role), rows in by_phase.items():
        if all(row.get("groups/informative") == 0 for row in rows):
            grouped, updated = (any(row.get(key, 1.0) > 0 for row in rows) for key in ("groups", "updates"))
            name = f"the {role} in {phase}" if "+" in phase else phase
            alike.setdefault((role, grouped, updated), []).append(name)
    caveats = []
    for (role, grouped, updated), names in alike.items():
        joined = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        outcome = "only its KL term could move the adapter" if updated else "the adapter did not move"
        if grouped:
            cause = "All samples of each group earned the same reward"
            fix = f"a warm-up (warmup.source), more samples ({role}.num_generations) or a higher {role}.temperature"
        else:
            cause = "There was no group, since no rubric could be read"
            fix = "a warm-up (warmup.source) or another prompts.rubric_template"
        caveats.append(f"No group of {joined} carried a gradient: {outcome}. {cause}. Try {fix}.")
    return caveats
