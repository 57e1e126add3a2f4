"""The score of a sampled text is made of the probabilities that were there when it was sampled."""

from __future__ import annotations

import math

import pytest

from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.models.sampler import NextWords, Sampling
from rubric_arm_lite.prompts.builder import PromptBuilder, Templates
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.prompts.pointwise import parse_pointwise
from rubric_arm_lite.recipe.load import load_recipe
from rubric_arm_lite.reward_model.judge import JudgedText, PointwiseJudge
from rubric_arm_lite.types import Example, Sample
from tests.players import PROMPTS, RUBRIC_TEXT
from tests.pointwise_players import PointwiseSampler, checks

PROMPT = "Write a note about rivers for pilots. Avoid the word silk."
RUBRIC = parse_rubric("1. The response avoids the word silk [Hard Rule]\n2. The response is vivid [Principle]")


def test_every_word_read_again_is_as_likely_as_when_it_was_sampled() -> None:
    """Of any sample of the testbed's base: log p of each token, asked as a question about text, is the stored one."""
    recipe = load_recipe("arrow-testbed")
    model = load_model(recipe.model, 1)
    prompts = PromptBuilder(Templates.of(recipe.prompts), model.control_tokens())
    text = prompts.pointwise_prompt(PROMPT, RUBRIC, "silk stone crimson table amber window")
    (group,) = model.sample("judge", [Example("x", text, 3)], Sampling(12, 3, 1.0))

    def pieces(sample: Sample) -> list[str]:
        ids = [i for i in sample.token_ids if i != model.tokenizer.eos_token_id]
        return [model.tokenizer.decode([i]) for i in ids]

    questions, stored = [], []
    for sample in group.samples:
        words = pieces(sample)
        assert "".join(words) == sample.text
        for at, word in enumerate(words):
            if word.strip():
                other = " is met." if word != " is met." else " is missed."
                questions.append(NextWords(text, "".join(words[:at]), (word, other)))
                stored.append(sample.logprobs[at])
    read = model.next_word_logprobs("judge", questions)
    assert len(read) > 10
    assert [group[0] for group in read] == pytest.approx(stored, abs=1e-4)


def test_equal_texts_are_read_once_and_equal_prompts_asked_once() -> None:
    scripted = PointwiseSampler()
    judge = PointwiseJudge(scripted, PROMPTS, max_tokens=90, seed=5)
    rubric = parse_rubric(RUBRIC_TEXT)
    cases = [("p", "good x", rubric), ("p", "poor x", rubric), ("p", "good x", rubric)]
    scores = judge.score(cases, votes=3)
    assert [[s.value for s in group] for group in scores] == [[pytest.approx(v)] * 3 for v in (0.8, -0.6, 0.8)]
    assert len(scripted.calls[0].examples) == 2 and len(scripted.questions) == 4
    assert judge.score([]) == [] and len(scripted.calls) == 1


def test_a_judgement_that_cannot_be_parsed_has_no_questions() -> None:
    scripted = PointwiseSampler(lambda response, rubric, written: 0.0)
    judge = PointwiseJudge(scripted, PROMPTS, max_tokens=90)
    rubric = parse_rubric(RUBRIC_TEXT)
    prompt = PROMPTS.pointwise_prompt("p", rubric, "good")
    texts = [
        JudgedText(prompt, rubric, parse_pointwise(text, rubric)) for text in ("nothing", checks(rubric), "nothing")
    ]
    texts.append(JudgedText(prompt, rubric))
    read = judge.read(texts)
    scores = [read[text] for text in texts]
    assert [score.value for score in scores] == [None, -1.0, None, -1.0]
    assert [question.written for question in scripted.questions[2:]] == [
        "- Criterion 1 [Hard Rule]: Answer:",
        "- Criterion 2 [Principle]: Answer:",
    ]
    assert scores[1].answers[0].p_true == 0.0 and not math.isnan(scores[1].answers[0].p_false)
