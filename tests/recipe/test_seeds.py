from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.recipe.seeds import derive_seed
from tests.judgements import any_text


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, 1, "judge", 2, "p") == 1424678821190019126
    assert derive_seed() == 2858069222894195974


def test_neither_global_state_nor_earlier_draws_matter() -> None:
    random.seed(1)
    first = derive_seed(0, "a")
    random.seed(2)
    derive_seed(0, "b")
    assert derive_seed(0, "a") == first


@given(st.lists(st.one_of(any_text, st.integers()), max_size=5))
def test_a_seed_is_a_63_bit_number_for_any_parts(parts: list[str | int]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert derive_seed(*parts) == seed


def test_different_parts_give_different_seeds() -> None:
    parts: list[tuple[str | int, ...]] = [(s, c, r, t, p) for s in (0, 1) for c in (0, 1) for r in ("judge", "rubric")
                                          for t in range(10) for p in ("x", "y")]  # fmt: skip
    parts += [(1,), ("1",), (1, 1), (11,), ("11",), ("1", "1"), ("", ""), ("",), (), (-1,)]
    parts += [("a", "b"), ("a\x1fstr:b",), ('a", "b',), ("[]",)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
