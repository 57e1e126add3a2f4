"""The cache of greedy judgements: it changes what is asked, never what comes out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.prompts import parse_rubric
from rubric_arm_lite.reward_model import JudgementCache, RubricCache, RubricGenerator
from rubric_arm_lite.training.phases import make_phases
from rubric_arm_lite.types import Sample
from tests.judgements import any_text
from tests.players import PROMPTS, RUBRIC_TEXT, blocks, judge_of, pair, recipe, sampler, says_a, totals


def test_a_greedy_judgement_is_written_once_for_each_judge() -> None:
    scripted, cache = sampler(), JudgementCache(100)
    judge = replace(judge_of(scripted), temperature=0.0, cache=cache)
    asked = [pair("x").present("A").comparison], [parse_rubric(RUBRIC_TEXT)]
    verdicts = [judge.judge(*asked), judge.judge(*asked), replace(judge, seed=7).judge(*asked)]
    assert len(scripted.prompts("judge")) == 2 and (cache.hits, cache.misses) == (4, 2)
    assert [verdict[0].winners for verdict in verdicts] == [verdicts[0][0].winners] * 3
    other = [pair("y").present("A").comparison], asked[1]
    judge.judge(*other)
    assert len(scripted.prompts("judge")) == 4, "another pair"
    replace(judge, max_tokens=judge.max_tokens + 1).judge(*asked)
    assert len(scripted.prompts("judge")) == 6, "another length may end elsewhere"
    scripted.fingerprints["judge"] = "trained"
    judge.judge(*asked)
    assert len(scripted.prompts("judge")) == 8, "another judge"


def test_sampled_judgements_are_never_served() -> None:
    scripted, cache = sampler(), JudgementCache(100)
    judge = replace(judge_of(scripted), temperature=0.0, cache=cache)
    asked = [pair("x").present("A").comparison], [parse_rubric(RUBRIC_TEXT)]
    for _ in range(2):
        judge.judge(*asked, votes=3)
        replace(judge, temperature=1.0).judge(*asked)
    assert len(scripted.calls) == 4 and (cache.hits, cache.misses) == (0, 0)


def test_a_rubric_phase_with_the_cache_earns_the_same() -> None:
    for cache in (None, JudgementCache(100)):
        scripted = sampler(says_a)
        settings = recipe(reward={"judge_orders": "both"})
        phase = make_phases(settings, RubricGenerator(scripted, PROMPTS, RubricCache(9)), cache)["rubric"]
        rewards = []
        for seed in range(3):
            groups = scripted.sample("rubric", phase.prepare(blocks(2), seed), Sampling(50, 2))
            rewards.append(totals(phase.score(groups, seed)))
            assert phase.metrics()["judgements/cached"] == (1.0 if cache and seed else 0.0)
        assert rewards == [[[0.5, 0.5], [0.5, 0.5]]] * 3
        assert len(scripted.prompts("judge")) == (4 if cache else 12)


def test_the_oldest_judgements_make_room() -> None:
    cache = JudgementCache(2)
    for name in ("x", "y", "z"):
        cache.take("judge", [name])
        cache.add({name: (Sample(name, (1,), (-0.1,), "stop"),)})
    assert cache.take("judge", ["x", "y", "z"]).keys() == {"y", "z"}
    assert cache.take("another", ["y", "z"]) == {}


@given(st.dictionaries(any_text, any_text, max_size=4))
def test_a_cache_is_written_and_read_again(texts: dict[str, str]) -> None:
    cache, again = JudgementCache(9), JudgementCache(9)
    cache.take("judge", texts)
    cache.add({prompt: (Sample(text, (1,), (-0.1,), "length"),) for prompt, text in texts.items()})
    again.load(cache.dumps())
    assert again.take("judge", texts) == {p: (Sample(text, (), (), "length"),) for p, text in texts.items()}


@pytest.mark.parametrize("text", ["", "{}", '["a"]', '["a", {"k": ["t", "forged"]}]', "[" * 100_000])
def test_a_damaged_cache_is_one_error(text: str) -> None:
    with pytest.raises(CheckpointError, match="judgements of the checkpoint are damaged"):
        JudgementCache(9).load(text)
