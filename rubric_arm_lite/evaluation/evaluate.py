"""Measure a generator and a judge on held-out pairs.

Every pair is judged with the chosen response first (original order) and second (flipped); mixed takes one of the
two at random per pair. Position bias is the largest minus the smallest of the three accuracies (paper, table 13).
A verdict that cannot be parsed counts ``unparsed_value`` and is reported; it is never a silent A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rubric_arm_lite.evaluation.metrics import (
    ORDERS,
    bootstrap_interval,
    format_reward,
    mean,
    order_statistics,
    rubric_statistics,
    verdict_row,
)
from rubric_arm_lite.models import Sampler, Sampling
from rubric_arm_lite.prompts import prompt_text
from rubric_arm_lite.recipe import EvaluationSettings, derive_seed
from rubric_arm_lite.reward_model import JudgeDesk, RubricGenerator, majority
from rubric_arm_lite.types import Comparison, Judgement, PreferencePair, Recall, Rubric, Side


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Measured values by name, one row per pair, and a few prompts with all that was written for them."""

    name: str
    values: dict[str, float]
    rows: list[dict[str, Any]]
    showcase: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class AdapterPair:
    """Which adapters write rubrics and judge; None is the bare base."""

    rubric: str | None = "rubric"
    judge: str | None = "judge"


class PairEvaluator(Protocol):
    """Evaluates adapters on a fixed set of pairs, the same way every time."""

    pairs: list[PreferencePair]

    def evaluate(self, name: str, players: AdapterPair | None = None, votes: int = 1) -> Evaluation:
        """Judge every pair under one greedy rubric per prompt; with more than one vote, also voting@k."""
        ...


class HeldOut:
    """Held-out pairs with their greedy rubrics: what evaluations have in common, whatever the judge is asked."""

    def __init__(
        self,
        sampler: Sampler,
        writer: RubricGenerator,
        settings: EvaluationSettings,
        pairs: Sequence[PreferencePair],
        seed: int,
        recall: Recall | None = None,
    ) -> None:
        self._sampler = sampler
        self._writer = writer
        self._settings = settings
        self.pairs = list(pairs[: settings.pairs])
        self._seed = derive_seed(seed, "evaluation")
        self._recall = recall

    def _rubrics(self, adapter: str | None) -> list[Rubric]:
        # A cache of its own: no evaluation changes what training or another evaluation finds cached.
        return self._writer.with_new_cache().write(
            [(pair.prompt, 0) for pair in self.pairs],
            Sampling(self._settings.rubric_max_tokens, 1, 0.0),
            self._seed,
            adapter,
        )

    def _interval(self, values: Sequence[float]) -> dict[str, float]:
        low, high = bootstrap_interval(values, self._settings.bootstrap, self._seed)
        return {"accuracy": mean(values), "accuracy_low": low, "accuracy_high": high}

    def _statistics(self, rubrics: Sequence[Rubric], tokens: int) -> dict[str, float]:
        return {
            **rubric_statistics([pair.prompt for pair in self.pairs], rubrics, self._recall),
            "tokens_per_pair": tokens / len(self.pairs),
            "pairs": float(len(self.pairs)),
        }

    def _showcase(self, rubrics: Sequence[Rubric], judged: Sequence[tuple[str, Side | None]]) -> list[dict[str, Any]]:
        """A few prompts with what was written for them; ``judged`` has text and winner, the chosen response being A."""
        shown: list[dict[str, Any]] = []
        seen: set[str] = set()
        for pair, rubric, (text, winner) in zip(self.pairs, rubrics, judged, strict=True):
            # One prompt per subset, so that different kinds of prompt are seen.
            if len(shown) >= self._settings.showcase or pair.subset in seen:
                continue
            if pair.subset:
                seen.add(pair.subset)
            shown.append(
                {
                    "pair_id": pair.pair_id,
                    "prompt": prompt_text(pair.prompt),
                    "response_a": pair.chosen,
                    "response_b": pair.rejected,
                    "preferred": "A",
                    "rubric": rubric.text,
                    "rubric_status": rubric.status.value,
                    "judgement": text,
                    "winner": winner,
                    "recall": self._recall(pair.prompt, rubric) if self._recall else None,
                }
            )
        return shown


class Evaluator(HeldOut):
    """Evaluates a judge of pairs, in both orders."""

    def __init__(
        self,
        sampler: Sampler,
        writer: RubricGenerator,
        desk: JudgeDesk,
        settings: EvaluationSettings,
        pairs: Sequence[PreferencePair],
        seed: int,
        recall: Recall | None = None,
    ) -> None:
        super().__init__(sampler, writer, settings, pairs, seed, recall)
        self._desk = desk

    def evaluate(self, name: str, players: AdapterPair | None = None, votes: int = 1) -> Evaluation:
        """Judge every pair in both orders under one greedy rubric per prompt.

        Args:
            votes: with more than one, also voting@k and the format of sampled judgements, on ``vote_pairs`` pairs.
        """
        players = players or AdapterPair()
        settings = self._settings
        start = self._sampler.tokens_written
        rubrics = self._rubrics(players.rubric)
        judge = Sampling(settings.judge_max_tokens, 1, settings.judge_temperature)
        judged = self._judge_both(self.pairs, rubrics, judge, players.judge)
        tokens = self._sampler.tokens_written - start
        rows = [
            self._row(pair, rubric, {side: found[0] for side, found in verdicts.items()})
            for pair, rubric, verdicts in zip(self.pairs, rubrics, judged, strict=True)
        ]
        values = {
            **self._accuracies(rows),
            **self._statistics(rubrics, tokens),
            **self._sampled(rubrics, players.judge, votes),
        }
        first = [verdicts["A"][0] if "A" in verdicts else None for verdicts in judged]
        told = [("", None) if j is None else (j.text, j.winner) for j in first]
        return Evaluation(name, values, rows, self._showcase(rubrics, told))

    def _judge_both(
        self, pairs: Sequence[PreferencePair], rubrics: Sequence[Rubric], sampling: Sampling, adapter: str | None
    ) -> list[dict[Side, list[Judgement]]]:
        """Judgements per pair by the side of the chosen response; an unusable rubric has none."""
        keys: list[tuple[int, Side]] = []
        cases: list[tuple[Comparison, Rubric]] = []
        for i, (pair, rubric) in enumerate(zip(pairs, rubrics, strict=True)):
            if rubric.usable:
                for side in ("A", "B"):
                    keys.append((i, side))
                    cases.append((pair.present(side), rubric))
        found: list[dict[Side, list[Judgement]]] = [{} for _ in pairs]
        asked = self._desk.judge(cases, sampling, self._seed, adapter) if cases else []
        for (i, side), judgements in zip(keys, asked, strict=True):
            found[i][side] = judgements
        return found

    def _row(self, pair: PreferencePair, rubric: Rubric, verdicts: Mapping[Side, Judgement]) -> dict[str, Any]:
        row = {
            **verdict_row(pair, verdicts, self._settings.unparsed_value, self._seed),
            "rubric": rubric.status.value,
        }
        for order, side in ORDERS:
            judgement = verdicts.get(side)
            row[f"{order}_format"] = 0.0 if judgement is None else format_reward(judgement, rubric, "strict")
        return row

    def _accuracies(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {
            **order_statistics(rows, self._settings.bootstrap, self._seed),
            "format": mean([row[f"{order}_format"] for row in rows for order, _ in ORDERS]),
        }

    def _sampled(self, rubrics: Sequence[Rubric], adapter: str | None, votes: int) -> dict[str, float]:
        """Format of judgements at the voting temperature and, with several votes, the accuracy of the majority."""
        settings = self._settings
        pairs = self.pairs[: settings.vote_pairs]
        sampling = Sampling(settings.judge_max_tokens, votes, settings.vote_temperature)
        judged = self._judge_both(pairs, rubrics[: len(pairs)], sampling, adapter)
        formats = []
        correct = []
        for rubric, verdicts in zip(rubrics, judged, strict=False):
            for side in ("A", "B"):
                found = verdicts.get(side, [])
                formats += [format_reward(judgement, rubric, "strict") for judgement in found]
                winner = majority([judgement.winner for judgement in found])
                correct.append(settings.unparsed_value if winner is None else float(winner == side))
        values = {"format_sampled": mean(formats)}
        if votes > 1:
            values[f"voting@{votes}"] = mean(correct)
        return values
