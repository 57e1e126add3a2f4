"""Measure a generator and a judge on held-out pairs.

Every pair is judged with the chosen response first (original order) and second (swapped); mixed takes one of the
two at random per pair. Position bias is the largest minus the smallest of the three accuracies (paper, table 13).
A verdict that cannot be parsed counts ``unparsed_value`` and is reported; it never counts as A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rubric_arm_lite.data import load_data
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluation import metrics
from rubric_arm_lite.models import Sampling
from rubric_arm_lite.prompts import prompt_text
from rubric_arm_lite.recipe import EvaluationSettings, Recipe, derive_seed
from rubric_arm_lite.reward_model import (
    PointwiseVerdict,
    RubricCache,
    RubricGenerator,
    RubricRewardModel,
    longest_sequence,
    make_judge,
    mean_score,
)
from rubric_arm_lite.reward_model.verdict import is_tie, margin_accuracy, score_of_words
from rubric_arm_lite.types import Comparison, ParseStatus, PreferencePair, Recall, Rubric, Side


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured values by name, one row per pair, and a few prompts with the texts written for them."""

    name: str
    values: dict[str, float]
    rows: list[dict[str, Any]]
    showcase: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class AdapterPair:
    """The adapters that write rubrics and judge; None is the bare base."""

    rubric: str | None = "rubric"
    judge: str | None = "judge"


@dataclass(frozen=True)
class Evaluator:
    """Measures adapters on a fixed set of held-out pairs, the same way every time; :func:`make_evaluator` makes one.

    Every pair is judged under one greedy rubric per prompt. The chosen response of a pair is response A of its
    comparison. This class computes the values of a pairwise judge: accuracy in both orders, position bias,
    consistency, format.
    """

    judge: Any
    generator: RubricGenerator
    settings: EvaluationSettings
    pairs: Sequence[PreferencePair]
    seed: int
    recall: Recall | None = None

    def evaluate(
        self,
        name: str,
        adapters: AdapterPair | None = None,
        votes: int = 1,
        earlier: Evaluation | None = None,
        rubrics: Sequence[Rubric] | None = None,
    ) -> Evaluation:
        """Judge every pair in both orders under one greedy rubric per prompt.

        Args:
            votes: with more than one, also voting@k; sampled judgements are measured on ``vote_pairs`` pairs.
            earlier: an evaluation of the same adapters, of which all but the sampled judgements is taken over.
            rubrics: one per pair, in place of the generator's.
        """
        adapters = adapters or AdapterPair()
        settings, sampler = self.settings, self.generator.sampler
        start, prompts = sampler.tokens_written, [pair.prompt for pair in self.pairs]
        comparisons = [pair.present("A").comparison for pair in self.pairs]
        # A new cache: an evaluation does not change the cached rubrics of training or of another evaluation.
        generator, greedy = self.generator.with_new_cache(), Sampling(settings.rubric_max_tokens, 1, 0.0)
        count = settings.vote_pairs
        if rubrics is None:
            rubrics = generator.write(prompts[: count if earlier else None], greedy, self.seed, adapter=adapters.rubric)
        judge = replace(self.judge, adapter=adapters.judge)
        if earlier is None:
            verdicts = judge.judge(comparisons, rubrics)
            tokens = sampler.tokens_written - start
            rows = [self._row(pair, verdict) for pair, verdict in zip(self.pairs, verdicts, strict=True)]
            values = {
                **self._accuracies(rows),
                **metrics.rubric_statistics(prompts, rubrics, self.recall),
                **self._rubric_use(judge, comparisons, rubrics, rows),
                "tokens_per_pair": tokens / len(self.pairs),
                "pairs": float(len(self.pairs)),
            }
            earlier = Evaluation(name, values, rows, self._examples(rubrics, verdicts))
        sampling = replace(judge, temperature=judge.vote_temperature)
        format_sampled, voting = self._sampled(sampling.judge(comparisons[:count], rubrics[:count], votes=votes))
        greedy_values = {
            key: v for key, v in earlier.values.items() if not key.startswith(("format_sampled", "voting@"))
        }
        sampled = {"format_sampled": format_sampled, **({f"voting@{votes}": voting} if votes > 1 else {})}
        return replace(earlier, name=name, values={**greedy_values, **sampled})

    def _rubric_use(
        self, judge: Any, comparisons: Sequence[Comparison], rubrics: Sequence[Rubric], rows: Sequence[dict[str, Any]]
    ) -> dict[str, float]:
        """What the rubrics add: ``probes`` pairs are judged again, under the next rubric that is not the same."""
        probes, texts = self.settings.probes, [rubric.render() for rubric in rubrics]
        usable = [i for i, rubric in enumerate(rubrics) if rubric.usable]
        places = range(0, len(usable), max(1, len(usable) // max(1, probes)))[:probes]
        at, others = [usable[place] for place in places], dict[int, int]()
        for place, i in zip(places, at, strict=True):
            if (other := next((j for j in usable[place:] + usable if texts[j] != texts[i]), None)) is not None:
                others[i] = other
        verdicts = judge.judge([comparisons[i] for i in others], [rubrics[j] for j in others.values()])
        judged = {i: self._row(self.pairs[i], verdict) for i, verdict in zip(others, verdicts, strict=True)}
        return metrics.rubric_use([(rows[i], judged.get(i)) for i in at], self.settings.bootstrap, self.seed)

    def _examples(self, rubrics: Sequence[Rubric], verdicts: Sequence[Any]) -> list[dict[str, Any]]:
        """A few prompts, one per subset, with the rubric and the judgement written for them."""
        examples: list[dict[str, Any]] = []
        subsets: set[str] = set()
        for pair, rubric, verdict in zip(self.pairs, rubrics, verdicts, strict=True):
            if len(examples) >= self.settings.showcase or pair.subset in subsets:
                continue
            if pair.subset:
                subsets.add(pair.subset)
            text, winner = self._shown(verdict)
            example = {
                "pair_id": pair.pair_id,
                "prompt": prompt_text(pair.prompt),
                "response_a": pair.chosen,
                "response_b": pair.rejected,
                "preferred": "A",
                "rubric": rubric.text,
                "rubric_status": rubric.status.value,
                "judgement": text,
                "winner": winner,
                "recall": self.recall(pair.prompt, rubric) if self.recall else None,
            }
            examples.append(example)
        return examples

    def _row(self, pair: PreferencePair, verdict: Any) -> dict[str, Any]:
        """The measured values of one pair."""
        row = metrics.verdict_row(pair, verdict, self.settings.unparsed_value, self.seed)
        row["rubric"] = verdict.rubric.status.value
        for order, judgements in (("original", verdict.original), ("swapped", verdict.swapped)):
            reward = metrics.format_reward(judgements[0], verdict.rubric, "strict") if judgements else 0.0
            row[f"{order}_format"] = reward
            row[f"{order}_faithful"] = metrics.follows_findings(judgements[0], verdict.rubric) if judgements else None
        return row

    def _accuracies(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Means over the rows."""
        statistics = metrics.order_statistics(rows, self.settings.bootstrap, self.seed)
        of_both = [(row[f"{o}_format"], row[f"{o}_faithful"]) for row in rows for o in ("original", "swapped")]
        formats, faithful = zip(*of_both, strict=True)
        return {**statistics, "format": metrics.mean(formats), **metrics.faithfulness(faithful)}

    def _sampled(self, verdicts: Sequence[Any]) -> tuple[float, float]:
        """The mean format reward of sampled judgements, and the accuracy of their majorities."""
        formats = [metrics.format_reward(j, v.rubric, "strict") for v in verdicts for j in (*v.original, *v.swapped)]
        winners = [winner for verdict in verdicts for winner in verdict.order_winners]
        unparsed = self.settings.unparsed_value
        accuracies = [unparsed if winner is None else float(winner == "A") for winner in winners]
        return metrics.mean(formats), metrics.mean(accuracies)

    def _shown(self, verdict: Any) -> tuple[str, Side | None]:
        """The text of a judgement and its winner, to be shown as an example."""
        return (verdict.original[0].text, verdict.original[0].winner) if verdict.original else ("", None)


class PointwiseEvaluator(Evaluator):
    """Measures a pointwise judge (RUBRIC-ARROW): a pair is right if the chosen response scores higher, a tie counts ½.

    There is no order of presentation, so position bias is 0 by construction and is not measured. A pair with an
    unreadable judgement counts ``unparsed_value``; tie rates are shares of all pairs, the margin is the mean over those
    that can be read (0 if none can). ``accuracy_words`` and ``tie_rate_words`` use scores of the written words alone
    in place of their probabilities: the hard sum that ties more often.
    """

    def _row(self, pair: PreferencePair, verdict: PointwiseVerdict) -> dict[str, Any]:
        scores = (verdict.scores_a, verdict.scores_b)
        words = [score_of_words(votes[0]) if votes else None for votes in scores]
        margin_words = None if words[0] is None or words[1] is None else words[0] - words[1]
        unparsed = self.settings.unparsed_value
        return {
            "pair_id": pair.pair_id,
            "subset": pair.subset,
            "rubric": verdict.rubric.status.value,
            "chosen_score": mean_score(verdict.scores_a),
            "rejected_score": mean_score(verdict.scores_b),
            "margin": verdict.margin,
            "margin_words": margin_words,
            "accuracy": verdict.correct("A", unparsed),
            "accuracy_words": margin_accuracy(margin_words, unparsed),
            "format": metrics.mean([bool(votes) and votes[0].status is ParseStatus.OK for votes in scores]),
            "faithful": [metrics.follows_justification(a) for votes in scores for s in votes[:1] for a in s.answers],
        }

    def _accuracies(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        accuracies = [row["accuracy"] for row in rows]
        low, high = metrics.bootstrap_interval(accuracies, self.settings.bootstrap, self.seed)
        return {
            "accuracy": metrics.mean(accuracies),
            "accuracy_low": low,
            "accuracy_high": high,
            "tie_rate": metrics.mean([is_tie(row["margin"]) for row in rows]),
            "margin": metrics.mean([row["margin"] for row in rows if row["margin"] is not None]),
            "accuracy_words": metrics.mean([row["accuracy_words"] for row in rows]),
            "tie_rate_words": metrics.mean([is_tie(row["margin_words"]) for row in rows]),
            "unparsed": metrics.mean([row["margin"] is None for row in rows]),
            "format": metrics.mean([row["format"] for row in rows]),
            **metrics.faithfulness([follows for row in rows for follows in row["faithful"]]),
        }

    def _sampled(self, verdicts: Sequence[PointwiseVerdict]) -> tuple[float, float]:
        statuses = [score.status for verdict in verdicts for score in (*verdict.scores_a, *verdict.scores_b)]
        accuracies = [verdict.correct("A", self.settings.unparsed_value) for verdict in verdicts]
        return metrics.mean([status is ParseStatus.OK for status in statuses]), metrics.mean(accuracies)

    def _shown(self, verdict: PointwiseVerdict) -> tuple[str, Side | None]:
        parts = []
        for side, scores in zip(("A", "B"), (verdict.scores_a, verdict.scores_b), strict=True):
            value = "no score" if not scores or scores[0].value is None else f"score {scores[0].value:+.3f}"
            parts.append(f"Response {side}: {value}\n{scores[0].text.strip() if scores else ''}")
        return "\n".join(parts), verdict.winner


def make_evaluator(
    recipe: Recipe,
    generator: RubricGenerator,
    settings: EvaluationSettings,
    pairs: Sequence[PreferencePair],
    recall: Recall | None = None,
) -> Evaluator:
    """The evaluator for a recipe's judge, with the generator's sampler and prompts."""
    judge = make_judge(recipe.model_copy(update={"evaluation": settings}), generator.sampler, generator.prompts)
    kind, seed = PointwiseEvaluator if recipe.pointwise else Evaluator, derive_seed(recipe.seed, "evaluation")
    return kind(replace(judge, seed=seed), generator, settings, list(pairs[: settings.pairs]), seed, recall)


def evaluate_run(
    reward_model: RubricRewardModel, pairs: Sequence[PreferencePair] | None, votes: int, limit: int | None
) -> tuple[Evaluation, int]:
    """The evaluation on given pairs, or on those that the recipe holds out, and the number of pairs too long for it.

    Raises:
        DataError: if no pair fits the context.
    """
    evaluator, skipped = evaluator_of(reward_model, pairs, votes, limit)
    return evaluator.evaluate("evaluation", votes=votes), skipped


def evaluator_of(
    reward_model: RubricRewardModel, pairs: Sequence[PreferencePair] | None, votes: int = 1, limit: int | None = None
) -> tuple[Evaluator, int]:
    """The evaluator for given pairs, or for those that the recipe holds out, and the number of pairs too long for it.

    Raises:
        DataError: if no pair fits the context.
    """
    recipe, prompts, recall = reward_model.recipe, reward_model.prompts, None
    room = recipe.model.max_context
    length = partial(longest_sequence, recipe=recipe, model=reward_model.model, prompts=prompts)
    if pairs is None:
        data = load_data(recipe, length, training=False)
        fitting, recall, skipped = data.test, data.recall, data.too_long
    else:
        fitting = [pair for pair in pairs if length(pair) <= room]
        if not fitting:
            raise DataError(f"None of {len(pairs)} pairs fits model.max_context ({room} tokens).")
        skipped = len(pairs) - len(fitting)
    settings = recipe.evaluation.model_copy(update={"pairs": limit or len(fitting), "votes": votes})
    generator = RubricGenerator(reward_model.model, prompts, RubricCache(recipe.cache.capacity))
    return make_evaluator(recipe, generator, settings, fitting, recall), skipped
