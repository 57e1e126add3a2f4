from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.reward_model.generator import CacheKey, RubricCache
from rubric_arm_lite.types import Rubric
from tests.judgements import any_text


def key(prompt: str, adapter: str = "a0", template: str = "t", decoding: str = "d", draw: int = 0) -> CacheKey:
    return CacheKey(prompt, adapter, template, decoding, draw)


def rubric(word: str) -> Rubric:
    return parse_rubric(f"1. The response is {word} [Principle]")


def test_hits_and_misses_are_counted() -> None:
    cache = RubricCache(4)
    assert cache.hit_rate == 0.0
    assert cache.get(key("x")) is None
    cache.put(key("x"), rubric("kind"))
    assert cache.get(key("x")) == rubric("kind")
    assert (cache.hits, cache.misses, cache.hit_rate, len(cache)) == (1, 1, 0.5, 1)


@pytest.mark.parametrize(
    "other", [key("y"), key("x", adapter="a1"), key("x", template="u"), key("x", decoding="e"), key("x", draw=1)]
)
def test_a_rubric_is_served_only_for_all_it_depends_on(other: CacheKey) -> None:
    cache = RubricCache(4)
    cache.put(key("x"), rubric("kind"))
    assert cache.get(other) is None


def test_the_least_recently_used_goes_first() -> None:
    cache = RubricCache(2)
    for name in ("x", "y"):
        cache.put(key(name), rubric(name))
    cache.get(key("x"))
    cache.put(key("z"), rubric("z"))
    assert [cache.get(key(name)) is not None for name in ("x", "y", "z")] == [True, False, True]


def test_putting_again_renews_and_replaces() -> None:
    cache = RubricCache(2)
    for name, word in (("x", "old"), ("y", "y"), ("x", "new"), ("z", "z")):
        cache.put(key(name), rubric(word))
    assert len(cache) == 2
    assert cache.get(key("x")) == rubric("new")
    assert cache.get(key("y")) is None


def test_a_cache_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="Use at least 1"):
        RubricCache(0)


@given(st.lists(st.tuples(any_text, any_text), max_size=8))
def test_a_saved_cache_comes_back_whole(entries: list[tuple[str, str]]) -> None:
    cache = RubricCache(8)
    for prompt, text in entries:
        cache.put(key(prompt), parse_rubric(text))
        cache.get(key(text))
    again = RubricCache.loads(cache.dumps(), 8)
    assert again.dumps() == cache.dumps()
    assert (again.hits, again.misses, len(again)) == (cache.hits, cache.misses, len(cache))
    for prompt, _ in entries:
        assert again.get(key(prompt)) == cache.get(key(prompt))


def test_the_saved_text_is_plain_json_in_order_of_use() -> None:
    cache = RubricCache(2)
    for name in ("x", "é"):
        cache.put(key(name), rubric(name))
    cache.get(key("x"))
    text = cache.dumps()
    assert text.isascii()
    assert [row["key"][0] for row in json.loads(text)["rows"]] == ["é", "x"]
    smaller = RubricCache.loads(text, 1)
    assert smaller.get(key("x")) == rubric("x")
    assert len(smaller) == 1


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"rows": []}', '{"rows": [{"key": []}], "hits": 0, "misses": 0}', '{"rows": 5}'],
)
def test_a_damaged_cache_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"rubric cache of the checkpoint is damaged \(.*\)\. Start anew"):
        RubricCache.loads(text, 4)
