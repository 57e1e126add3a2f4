"""Measure a generator and a pointwise judge on held-out pairs.

Every response is checked by itself under its prompt's greedy rubric; a pair is right if the chosen response scores
higher, and a tie counts ½. There is no order of responses, so position bias is 0 by construction and is not measured.
A pair with an unreadable judgement counts ``unparsed_value``; tie rates are shares of all pairs, the margin is the mean
over those that can be read (0 if none can). Beside the scores, which are made of probabilities, stands what the
written words alone give (``accuracy_words``, ``tie_rate_words``): the hard sum that ties more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rubric_arm_lite.evaluation.evaluate import AdapterPair, Evaluation, HeldOut
from rubric_arm_lite.evaluation.metrics import TIE, margin_value, mean
from rubric_arm_lite.models import Sampler, Sampling
from rubric_arm_lite.recipe import EvaluationSettings
from rubric_arm_lite.reward_model import PointwiseScore, RubricGenerator, ScoreDesk, mean_score
from rubric_arm_lite.reward_model.pointwise import score_of_words
from rubric_arm_lite.types import ParseStatus, PreferencePair, Prompt, Recall, Rubric, Side

Scored = tuple[list[PointwiseScore], list[PointwiseScore]]
"""The scores of a pair's chosen and rejected response, one per judgement; nothing under an unusable rubric."""


class PointwiseEvaluator(HeldOut):
    """Evaluates a judge that checks one response at a time."""

    def __init__(
        self,
        sampler: Sampler,
        writer: RubricGenerator,
        desk: ScoreDesk,
        settings: EvaluationSettings,
        pairs: Sequence[PreferencePair],
        seed: int,
        recall: Recall | None = None,
    ) -> None:
        super().__init__(sampler, writer, settings, pairs, seed, recall)
        self._desk = desk

    def evaluate(self, name: str, players: AdapterPair | None = None, votes: int = 1) -> Evaluation:
        """Score both responses of every pair under one greedy rubric per prompt.

        Args:
            votes: with more than one, also voting@k: the mean scores of k sampled judgements compared.
        """
        players = players or AdapterPair()
        settings = self._settings
        start = self._sampler.tokens_written
        rubrics = self._rubrics(players.rubric)
        judge = Sampling(settings.judge_max_tokens, 1, settings.judge_temperature)
        scored = self._score(self.pairs, rubrics, judge, players.judge)
        tokens = self._sampler.tokens_written - start
        rows = [self._row(*case) for case in zip(self.pairs, rubrics, scored, strict=True)]
        values = {
            **self._accuracies(rows),
            **self._statistics(rubrics, tokens),
            **self._sampled(rubrics, players.judge, votes),
        }
        told = [_told(own, row["margin"]) for own, row in zip(scored, rows, strict=True)]
        return Evaluation(name, values, rows, self._showcase(rubrics, told))

    def _score(
        self, pairs: Sequence[PreferencePair], rubrics: Sequence[Rubric], sampling: Sampling, adapter: str | None
    ) -> list[Scored]:
        cases: list[tuple[Prompt, str, Rubric]] = [
            (pair.prompt, response, rubric)
            for pair, rubric in zip(pairs, rubrics, strict=True)
            if rubric.usable
            for response in (pair.chosen, pair.rejected)
        ]
        found = iter(self._desk.score(cases, sampling, self._seed, adapter))
        return [(next(found), next(found)) if rubric.usable else ([], []) for rubric in rubrics]

    def _row(self, pair: PreferencePair, rubric: Rubric, scored: Scored) -> dict[str, Any]:
        chosen, rejected = map(mean_score, scored)
        margin = None if chosen is None or rejected is None else chosen - rejected
        words = [score_of_words(own[0]) if own else None for own in scored]
        hard = None if words[0] is None or words[1] is None else words[0] - words[1]
        unreadable = self._settings.unparsed_value
        return {
            "pair_id": pair.pair_id,
            "subset": pair.subset,
            "rubric": rubric.status.value,
            "chosen_score": chosen,
            "rejected_score": rejected,
            "margin": margin,
            "margin_words": hard,
            "accuracy": margin_value(margin, unreadable),
            "accuracy_words": margin_value(hard, unreadable),
            "format": mean([bool(own) and own[0].status is ParseStatus.OK for own in scored]),
        }

    def _accuracies(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        margins = [row["margin"] for row in rows if row["margin"] is not None]
        return {
            **self._interval([row["accuracy"] for row in rows]),
            "tie_rate": mean([_tied(row["margin"]) for row in rows]),
            "margin": mean(margins),
            "accuracy_words": mean([row["accuracy_words"] for row in rows]),
            "tie_rate_words": mean([_tied(row["margin_words"]) for row in rows]),
            "unparsed": mean([row["margin"] is None for row in rows]),
            "format": mean([row["format"] for row in rows]),
        }

    def _sampled(self, rubrics: Sequence[Rubric], adapter: str | None, votes: int) -> dict[str, float]:
        """Form of judgements at the voting temperature and, with several votes, the accuracy of their mean scores."""
        settings = self._settings
        pairs = self.pairs[: settings.vote_pairs]
        sampling = Sampling(settings.judge_max_tokens, votes, settings.vote_temperature)
        scored = self._score(pairs, rubrics[: len(pairs)], sampling, adapter)
        rows = [self._row(*case) for case in zip(pairs, rubrics, scored, strict=False)]
        texts = [score for own in scored for side in own for score in side]
        values = {"format_sampled": mean([score.status is ParseStatus.OK for score in texts])}
        if votes > 1:
            values[f"voting@{votes}"] = mean([row["accuracy"] for row in rows])
        return values


def _tied(margin: float | None) -> bool:
    return margin is not None and abs(margin) <= TIE


def _told(scored: Scored, margin: float | None) -> tuple[str, Side | None]:
    """Both greedy texts with their scores, and the side above, the chosen response being A."""
    parts = []
    for side, own in zip(("A", "B"), scored, strict=True):
        value = "no score" if not own or own[0].value is None else f"score {own[0].value:+.3f}"
        parts.append(f"Response {side}: {value}\n{own[0].text.strip() if own else ''}")
    winner: Side | None = None if margin is None or _tied(margin) else "A" if margin > 0 else "B"
    return "\n".join(parts), winner
