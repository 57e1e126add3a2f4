from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.training.synthesize import PHRASE_WORDS, Outcome, find_disclosure
from rubric_arm_lite.types import Rubric
from tests.judgements import any_text

PROMPT = "Write a short poem about the sea for children. Include the words salty old captain smiled."
PREFERRED = "The salty old captain smiled. “Gray gulls circle over the broken pier”, he told 1889 sailors, don't they?"
OTHER = "The sea is big and it is in the world. Waves crash on rocks every single day."


def rubric(*criteria: str) -> Rubric:
    rubric = parse_rubric("\n".join(f"{i}. {text} [Principle]" for i, text in enumerate(criteria, start=1)))
    assert rubric.usable
    return rubric


@pytest.mark.parametrize(
    ("criterion", "leak"),
    [
        ("The response is vivid", None),
        ("The response includes the words salty old captain smiled", None),
        ("The response tells how gulls circle over the broken pier", Outcome.QUOTES_A_RESPONSE),
        ("The response tells how GULLS, circle – over the brоken pier", Outcome.QUOTES_A_RESPONSE),
        ("The response says waves crash on rocks", Outcome.QUOTES_A_RESPONSE),
        ("The response mentions gulls circle over", None),
        ('The response says "gulls"', Outcome.QUOTES_A_RESPONSE),
        ("The response says “gulls circle”", Outcome.QUOTES_A_RESPONSE),
        ("The response says **gulls**", Outcome.QUOTES_A_RESPONSE),
        ("The response says `rocks`", Outcome.QUOTES_A_RESPONSE),
        ('The response says "captain"', None),
        ('The response is "kind"', None),
        ("The response names the year 1889", Outcome.QUOTES_A_RESPONSE),
        ("The response names the year 1890", None),
        ("The response has 4 lines", None),
        ("The response is apt and it is in it", None),
        ("The response is better than Response B", Outcome.NAMES_A_RESPONSE),
        ("The response resembles response A in tone", Outcome.NAMES_A_RESPONSE),
        ("The response is as kind as the preferred response", Outcome.NAMES_A_RESPONSE),
        ("The response is clearer than the other", Outcome.NAMES_A_RESPONSE),
        ("The response avoids the faults of the Second Answer", Outcome.NAMES_A_RESPONSE),
        ("The response a reader would like", None),
        ("The response answers a question before it is asked", None),
        ("The response is better than a mere list", None),
    ],
)
def test_criteria(criterion: str, leak: Outcome | None) -> None:
    assert find_disclosure(rubric("The response is kind", criterion), PROMPT, (PREFERRED, OTHER)) == leak
    if leak is Outcome.QUOTES_A_RESPONSE:
        assert find_disclosure(rubric(criterion), f"{PROMPT} {PREFERRED} {OTHER}", (PREFERRED, OTHER)) is None


def test_the_length_of_a_phrase_can_be_chosen() -> None:
    short = rubric("The response mentions gulls circle over")
    assert find_disclosure(short, PROMPT, (PREFERRED,), 3) is Outcome.QUOTES_A_RESPONSE
    long = rubric("The response tells how gulls circle over the broken pier")
    assert find_disclosure(long, PROMPT, (PREFERRED,), 8) is None


def test_only_whole_words_count() -> None:
    assert find_disclosure(rubric("The response says 'n' and \"art\""), "x", ("start parts",)) is None


words = st.lists(
    st.sampled_from(["amber", "birch", "cedar", "dune", "ember", "fjord"]), min_size=PHRASE_WORDS, max_size=8
)


@given(words, words, words, st.integers(0, 4))
def test_a_phrase_of_a_response_is_found_wherever_it_stands(
    before: list[str], response: list[str], after: list[str], start: int
) -> None:
    phrase = " ".join(response[start : start + PHRASE_WORDS])
    criterion = rubric(f"The response says {' '.join(before)} {phrase} {' '.join(after)}")
    expected = Outcome.QUOTES_A_RESPONSE if len(response[start : start + PHRASE_WORDS]) == PHRASE_WORDS else None
    disclosure = find_disclosure(criterion, "Write.", (" ".join(response),))
    assert disclosure == expected or expected is None  # what stands around it may repeat more of the response


@given(any_text, any_text, any_text)
def test_it_never_fails_and_no_response_no_quotation(text: str, prompt: str, response: str) -> None:
    rubric = parse_rubric(text)
    assert find_disclosure(rubric, prompt, (response,)) in (None, *Outcome)
    assert find_disclosure(rubric, prompt, ()) in (None, Outcome.NAMES_A_RESPONSE)


@pytest.mark.parametrize("text", ['"' * 100_000, "a " * 50_000, "**" * 50_000, "“a" * 50_000, "response " * 20_000])
def test_it_stays_fast(text: str) -> None:
    start = time.process_time()
    find_disclosure(rubric(f"The response {text} x"), text, (text, text + "b"))
    assert time.process_time() - start < 2.0
