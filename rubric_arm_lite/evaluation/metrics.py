"""Metrics of verdicts and rubrics, and the caveats shown next to them in the terminal and the report.

Metrics: accuracy in both orders, position bias, consistency, intervals, format. A caveat is a sentence with what was
measured and what to try. Only a pointwise judge has a tie rate.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rubric_arm_lite.prompts import check_format, prompt_text
from rubric_arm_lite.prompts.parsing import stated_met
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.reward_model import Verdict
from rubric_arm_lite.reward_model.verdict import Answer
from rubric_arm_lite.types import CriterionKind, Judgement, ParseStatus, PreferencePair, Prompt, Recall, Rubric

MOSTLY = 0.5
"""From this share of unparsed judgements on, an accuracy reflects what they count, not the verdicts."""
FEW_PAIRS = 20
"""With fewer held-out pairs, a single one moves the accuracy by more than five points."""
_WORD = re.compile(r"\w{5,}")
"""A word that may name a thing; most shorter ones do not."""


def format_reward(judgement: Judgement, rubric: Rubric, mode: str) -> float:
    """R_fmt: 1 only if strictly well-formed (``strict``), or the share of parts present (``graded``).

    A truncated judgement earns 0 in either mode.
    """
    if judgement.status is ParseStatus.TRUNCATED:
        return 0.0
    check = check_format(judgement, rubric)
    return float(check.strict) if mode == "strict" else check.share


def findings(judgement: Judgement, rubric: Rubric) -> tuple[set[int], set[int]] | None:
    """The numbers of the criteria that responses A and B meet, as a judgement says itself (:func:`stated_met`).

    None unless it plainly calls every criterion met or missed for either response.
    """
    met: dict[str, set[int]] = {"A": set(), "B": set()}
    lines = [(a.side, a.number, a.kind) for a in judgement.assessments]
    expected = [(side, i, c.kind) for side in ("A", "B") for i, c in enumerate(rubric.criteria, start=1)]
    outcomes = [stated_met(a.justification) for a in judgement.assessments]
    if sorted(lines) != sorted(expected) or None in outcomes:
        return None
    for (side, number, _), outcome in zip(lines, outcomes, strict=True):
        met[side] |= {number} if outcome else set()
    return met["A"], met["B"]


def follows_findings(judgement: Judgement, rubric: Rubric) -> bool | None:
    """Whether the verdict of a judgement follows from its own findings; None where they do not decide.

    They decide if one response meets all criteria that the other meets, and more: whatever the criteria weigh, that one
    is the better.
    """
    met = findings(judgement, rubric)
    if judgement.winner is None or met is None:
        return None
    better = "A" if met[0] > met[1] else "B" if met[1] > met[0] else None
    return None if better is None else judgement.winner == better


def follows_justification(answer: Answer) -> bool | None:
    """Whether a pointwise judge's likelier answer is what its justification states; None if that is not plain."""
    stated = stated_met(answer.justification)
    return None if stated is None else stated == (answer.p_true > answer.p_false)


def faithfulness(faithful: Sequence[bool | None]) -> dict[str, float]:
    """The share of those that follow, where anything was decided; and the share that was (:func:`follows_findings`)."""
    decided = [follows for follows in faithful if follows is not None]
    shares = {"faithfulness": mean(decided)} if decided else {}
    return {**shares, "findings_decide": len(decided) / len(faithful) if faithful else 0.0}


def verdict_row(pair: PreferencePair, verdict: Verdict, unparsed_value: float, seed: int) -> dict[str, Any]:
    """Accuracy and winner in each order for one pair, whose chosen response is the verdict's A."""
    original = verdict.correct("A", "original", unparsed_value)
    swapped = verdict.correct("A", "swapped", unparsed_value)
    takes_original = random.Random(derive_seed(seed, "mixed", pair.pair_id)).random() < 0.5
    return {
        "pair_id": pair.pair_id,
        "subset": pair.subset,
        "original": original,
        "original_winner": verdict.original[0].winner if verdict.original else None,
        "swapped": swapped,
        "swapped_winner": verdict.swapped[0].winner if verdict.swapped else None,
        "mixed": original if takes_original else swapped,
    }


def row_accuracy(row: Mapping[str, Any]) -> float:
    """Accuracy of one pair's row, the mean of both orders where there are two."""
    accuracy: float = row["accuracy"] if "accuracy" in row else (row["original"] + row["swapped"]) / 2
    return accuracy


def order_statistics(rows: Sequence[Mapping[str, Any]], bootstrap: int, seed: int) -> dict[str, float]:
    """Accuracy in every order with its interval, position bias, consistency, and the share without a verdict."""
    orders = {order: mean([row[order] for row in rows]) for order in ("original", "swapped", "mixed")}
    winners = [(row["original_winner"], row["swapped_winner"]) for row in rows]
    both = [row_accuracy(row) for row in rows]
    low, high = bootstrap_interval(both, bootstrap, seed)
    return {
        "accuracy": mean(both),
        "accuracy_low": low,
        "accuracy_high": high,
        **{f"accuracy_{order}": value for order, value in orders.items()},
        "position_bias": max(orders.values()) - min(orders.values()),
        "consistency": mean([None not in pair and pair[0] != pair[1] for pair in winners]),
        "unparsed": mean([winner is None for pair in winners for winner in pair]),
        "verdicts_for_a": mean([winner == "A" for pair in winners for winner in pair]),
    }


def rubric_statistics(
    prompts: Sequence[Prompt], rubrics: Sequence[Rubric], recall: Recall | None = None
) -> dict[str, float]:
    """Means over distinct prompts: usable, criteria per rubric, duplicate share, hard-rule share, words, recall."""
    distinct = {prompt_text(prompt): (prompt, rubric) for prompt, rubric in zip(prompts, rubrics, strict=True)}
    usable = [rubric for _, rubric in distinct.values() if rubric.usable]
    criteria = [criterion for rubric in usable for criterion in rubric.criteria]
    repeats = sum(rubric.repeats for rubric in usable)
    values = {
        "rubric_usable": len(usable) / len(distinct),
        "rubric_criteria": len(criteria) / len(usable) if usable else 0.0,
        "rubric_duplicates": repeats / len(criteria) if criteria else 0.0,
        "rubric_hard_rules": mean([c.kind is CriterionKind.HARD_RULE for c in criteria]),
        "rubric_words": sum(len(c.text.split()) for c in criteria) / len(usable) if usable else 0.0,
    }
    if recall is not None:
        values["principle_recall"] = mean([recall(prompt, rubric) for prompt, rubric in distinct.values()])
    return values


def copied_criteria(rubrics: Sequence[Sequence[Rubric]]) -> float:
    """How often the criteria of one prompt stand in the rubrics of others: a mean share, over all criteria.

    Args:
        rubrics: those of each prompt; unusable ones are left out. 0 for fewer than two prompts with a usable one.
    """
    texts = [[[c.text.casefold() for c in r.criteria] for r in own if r.usable] for own in rubrics]
    texts = [own for own in texts if own]
    counts = [Counter(text for criteria in own for text in set(criteria)) for own in texts]
    shares = [{text: n / len(own) for text, n in count.items()} for own, count in zip(texts, counts, strict=True)]
    totals: dict[str, float] = {}
    for share in shares:
        for text, value in share.items():
            totals[text] = totals.get(text, 0.0) + value
    elsewhere = [
        (totals[text] - share[text]) / max(1, len(texts) - 1)
        for own, share in zip(texts, shares, strict=True)
        for criteria in own
        for text in criteria
    ]
    return mean(elsewhere)


def topical_principles(prompts: Sequence[Prompt], rubrics: Sequence[Sequence[Rubric]]) -> float:
    """The share of principles that name a thing of their own prompt, where a principle should hold for other prompts.

    That is a word of five letters or more which the prompt has, and at most half of the prompts have.

    Args:
        rubrics: those of each prompt.
    """
    words = [set(_WORD.findall(prompt_text(prompt).casefold())) for prompt in prompts]
    counts = Counter(word for own in words for word in own)
    topical = []
    for own, of_prompt in zip(words, rubrics, strict=True):
        things = {word for word in own if 2 * counts[word] <= len(prompts)}
        principles = (c for r in of_prompt for c in r.criteria if c.kind is CriterionKind.PRINCIPLE)
        topical += [not things.isdisjoint(_WORD.findall(c.text.casefold())) for c in principles]
    return mean(topical)


def rubric_use(
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]], bootstrap: int, seed: int
) -> dict[str, float]:
    """What the rubrics of the prompts add to those of other prompts; empty without any verdict.

    Args:
        rows: of each pair, under the rubric of its own prompt and under another one; None where all rubrics are alike.
    """
    rows = [(own, other) for own, other in rows if set(_winners(own)) != {None}]
    if not rows:
        return {}
    gains = [row_accuracy(own) - row_accuracy(other or own) for own, other in rows]
    low, high = bootstrap_interval(gains, bootstrap, seed)
    both = [sides for own, other in rows if other for sides in zip(_winners(own), _winners(other), strict=True)]
    same = [before == after for before, after in both if before is not None]
    unchanged = {"verdicts_unchanged": mean(same)} if same else {}
    return {"rubric_gain": mean(gains), "rubric_gain_low": low, "rubric_gain_high": high, **unchanged}


def _winners(row: Mapping[str, Any]) -> list[Any]:
    """What a pair's row says about the winner, in each order if there are two; None without a verdict."""
    if "margin" in row:
        return [None if row["margin"] is None else row["accuracy"]]
    return [row["original_winner"], row["swapped_winner"]]


def bootstrap_interval(values: Sequence[float], resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of the mean."""
    return stratified_interval([(1.0, values)], resamples, seed)


def stratified_interval(
    strata: Sequence[tuple[float, Sequence[float]]], resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of the weighted mean of means; each stratum is resampled by itself.

    Args:
        strata: weight and values of each; a stratum of one value is not resampled.
    """
    import numpy as np
    from scipy import stats

    total = sum(weight for weight, _ in strata)
    fixed = sum(weight / total * values[0] for weight, values in strata if len(values) == 1)
    drawn = [(weight / total, np.asarray(v, dtype=np.float64)) for weight, v in strata if len(v) > 1]
    if not drawn:
        return fixed, fixed

    def mean(*samples: Any, axis: int) -> Any:
        parts = [weight * np.mean(s, axis=axis) for (weight, _), s in zip(drawn, samples, strict=True)]
        return fixed + sum(parts)

    result = stats.bootstrap(
        [values for _, values in drawn],
        mean,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=100,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mean(values: Sequence[float] | Sequence[bool]) -> float:
    """The mean; 0 of nothing."""
    return float(sum(values) / len(values)) if values else 0.0


# --- caveats ---------------------------------------------------------------------------------------------------------


def evaluation_caveats(values: Mapping[str, float], unparsed_value: float | None) -> list[str]:
    """The caveats of one evaluation's accuracy.

    Args:
        unparsed_value: what a judgement without a verdict counts; None if the recipe is not known.
    """
    caveats, pairs = unparsed_caveats(values, unparsed_value), values.get("pairs", FEW_PAIRS)
    if 0 < pairs < FEW_PAIRS:
        caveats.append(
            f"Only {pairs:.0f} held-out pair{'' if pairs == 1 else 's'}: this accuracy is imprecise, and so is its "
            f"interval; one pair judged differently changes it by {100 / pairs:.0f} points. Evaluate on more."
        )
    return caveats


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
