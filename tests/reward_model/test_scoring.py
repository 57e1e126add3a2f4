"""Pointwise scores at work: probabilities against a plain forward pass, both ways of asking, what cannot be read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.testbed_base.tokenizer import build_tokenizer
from rubric_arm_lite.errors import BackendError, ConfigError, DataError, PromptTooLongError
from rubric_arm_lite.models import adapter_model
from rubric_arm_lite.models import logprobs as answers
from rubric_arm_lite.models.adapter_model import AdapterModel
from rubric_arm_lite.models.load import load_model
from rubric_arm_lite.models.sampler import NextWords
from rubric_arm_lite.prompts.pointwise import OUR_WORDS
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.types import ParseStatus
from tests import tiny
from tests.players import RUBRIC_TEXT, recipe, section
from tests.reward_model.test_model import Chat, model

OPTIONS = OUR_WORDS.options
WORDS = ["true", " true", "false", " false", "Answer", " Answer", "not", " not"]


class Reader(Chat):
    """A scripted judge that also has probabilities: ``table`` by response, given what was written."""

    def __init__(self, table: dict[str, Sequence[tuple[float, float]]], written: str = "") -> None:
        super().__init__(lambda adapter, example, index: RUBRIC_TEXT if adapter == "rubric" else written)
        self.table = table
        self.questions: list[NextWords] = []

    def next_word_logprobs(self, adapter: str | None, questions: Sequence[NextWords]) -> list[tuple[float, ...]]:
        assert adapter == "judge"
        self.questions += questions
        logprobs = []
        for question in questions:
            number = 1 if "Criterion 1" in question.written.split("\n")[-1] else 2
            pair = self.table[section("response", question.prompt)][number - 1]
            logprobs.append(tuple(math.log(p) for p in pair))
        return logprobs


def scorer(reader: Reader) -> RubricRewardModel:
    return RubricRewardModel(reader, recipe(evaluation={"rubric_max_tokens": 100, "judge_max_tokens": 500}))


TABLE = {"good": [(0.8, 0.1), (0.2, 0.7)], "poor": [(0.1, 0.6), (0.3, 0.3)]}


def test_scores_by_hand_and_each_question_once() -> None:
    reader = Reader(TABLE)
    reports: list[tuple[int, int]] = []
    scores = scorer(reader).score_many(
        [("p", "good", None), ("p", "poor", None), ("p", "good", None)], progress=lambda *done: reports.append(done)
    )
    assert [s.value for s in scores] == [pytest.approx(0.4), pytest.approx(-1.5 / 4), pytest.approx(0.4)]
    assert [(a.p_true, a.p_false) for a in scores[0].answers] == [pytest.approx(pair) for pair in TABLE["good"]]
    assert len(reader.questions) == 4 and len(reader.prompts("rubric")) == 1 and not reader.prompts("judge")
    assert reader.questions[1].written == "- Criterion 2 [Principle]: Answer:" and reports == [(3, 3)]


def test_with_justifications_probabilities_are_read_where_the_judge_answered() -> None:
    text = (
        "- Criterion 1 [Hard Rule]: Justification: nine words. Answer: true\n"
        "- Criterion 2 [Principle]: Justification: rude. Answer: false"
    )
    reader = Reader(TABLE, text)
    score = scorer(reader).score("p", "good", justify=True)
    assert score.value == pytest.approx(0.4) and score.text == text
    assert [a.justification for a in score.answers] == ["nine words.", "rude."]
    assert [q.written for q in reader.questions] == [text[: text.index(" true")], text[: text.rindex(" false")]]


def test_a_text_that_does_not_keep_the_form_has_no_value() -> None:
    score = scorer(Reader(TABLE, "It is fine.")).score("p", "good", justify=True)
    assert (score.value, score.answers, score.status, score.text) == (None, (), ParseStatus.MALFORMED, "It is fine.")


def test_a_judge_is_asked_as_it_was_trained() -> None:
    """A pointwise one writes; another answers at once; and a pointwise one refuses to compare."""
    text = "- Criterion 1 [Hard Rule]: Answer: true\n- Criterion 2 [Principle]: Answer: false"
    for form, written in (("pairwise", ""), ("pointwise", text)):
        settings = recipe(evaluation={"rubric_max_tokens": 100, "judge_max_tokens": 500}, reward={"judge": form})
        score = RubricRewardModel(Reader(TABLE, text), settings).score("p", "good")
        assert (score.value, score.text) == (pytest.approx(0.4), written)
    judge = RubricRewardModel(Reader(TABLE, text), settings)
    with pytest.raises(ConfigError, match="has not learned to compare"):
        judge.compare("p", "good", "poor")
    with pytest.raises(ConfigError, match="Use score or score_many"):
        judge.rank("p", ["good", "poor"])


def test_a_recipe_s_words_are_read() -> None:
    words = {"answer": "", "met": "is met.", "missed": "is missed."}
    text = "- Criterion 1 [Hard Rule]: is met.\n- Criterion 2 [Principle]: Justification: rude, is missed."
    reader = Reader(TABLE, text)
    prompts = {"pointwise_template": "pointwise_bare", "pointwise_words": words}
    settings = recipe(evaluation={"rubric_max_tokens": 100, "judge_max_tokens": 500}, prompts=prompts)
    score = RubricRewardModel(reader, settings).score("p", "good", justify=True)
    assert score.value == pytest.approx(0.4) and reader.questions[0].options == (" is met.", " is missed.")
    RubricRewardModel(reader, settings).score("p", "good", justify=False)
    assert reader.questions[-1].written == "- Criterion 2 [Principle]:"


def test_what_cannot_be_scored() -> None:
    reader = Reader(TABLE)
    with pytest.raises(DataError, match="case 1: the given rubric does not parse"):
        scorer(reader).score("p", "good", "be nice")
    long = "x" * 4000
    with pytest.raises(DataError, match=r"more than model\.max_context"):
        scorer(reader).score("p", long)
    left = scorer(reader).score_many([("p", long, None), ("p", "good", None)], too_long="skip")
    assert (left[0].value, left[0].status) == (None, ParseStatus.TRUNCATED) and left[1].value is not None
    with pytest.raises(BackendError, match="does not give the probabilities"):
        model().score("p", "good")


# --- probabilities of a real model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models whose tokenizer knows the words of the pointwise form."""
    root = tmp_path_factory.mktemp("words")
    folders = {}
    for kind in ("qwen3", "gemma2"):
        folders[kind] = tiny.make_folder(kind, root / kind)
        build_tokenizer(WORDS).save_pretrained(folders[kind])
    return folders


def reference(model: AdapterModel, adapter: str | None, question: NextWords, option: str) -> float:
    """The sum of log-probabilities of an option's tokens, by one plain forward pass."""
    start = [*model.encode(question.prompt), *model.encode_completion(question.written)[:-1]]
    ids = [*model.encode(question.prompt), *model.encode_completion(question.written + option)[:-1]]
    assert ids[: len(start)] == start
    with torch.no_grad(), model.using(adapter) as active:
        logp = torch.log_softmax(active(input_ids=torch.tensor([ids])).logits[0].float(), -1)
    return float(sum(logp[at - 1, ids[at]] for at in range(len(start), len(ids))))


@pytest.mark.parametrize(("kind", "adapter"), [("qwen3", "judge"), ("qwen3", None), ("gemma2", "judge")])
def test_probabilities_are_those_of_a_plain_forward_pass(
    kind: str, adapter: str | None, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny.load(folders[kind])
    options = (*OPTIONS, " not true.")  # of several tokens
    questions = [
        NextWords(prompt, written, options)
        for prompt in tiny.PROMPTS[:2]
        for written in ("Answer:", "Answer: true window Answer:")
    ]
    expected = [[reference(loaded, adapter, q, option) for option in options] for q in questions]
    logprobs = loaded.next_word_logprobs(adapter, questions)
    torch.testing.assert_close(torch.tensor(logprobs), torch.tensor(expected), atol=2e-5, rtol=1e-5)
    monkeypatch.setattr(answers, "TOKENS_AT_ONCE", 40)  # in portions it is the same
    again = loaded.next_word_logprobs(adapter, questions)
    torch.testing.assert_close(torch.tensor(again), torch.tensor(logprobs), atol=2e-5, rtol=1e-5)
    assert loaded.next_word_logprobs(adapter, []) == []


def test_the_places_of_one_text_cost_its_tokens_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(tiny.settings(folders["qwen3"]), 0)
    assert loaded.layout == "packed"
    seen: list[int] = []
    whole = adapter_model.make_batch

    def counted(rows: Any, *more: Any) -> Any:
        batch = whole(rows, *more)
        seen.append(batch.packed.ids_1T.numel())
        return batch

    monkeypatch.setattr(adapter_model, "make_batch", counted)
    text = " stone table" * 20 + " Answer:" + " window" * 20 + " Answer:"
    prefixes = [text[: text.index(" Answer:") + 8], text]
    loaded.next_word_logprobs("judge", [NextWords("gardens", p, OPTIONS) for p in prefixes])
    once = len(loaded.encode("gardens")) + len(loaded.encode_completion(text)[:-1])
    assert seen and sum(seen) <= once + 40, "short branches may repeat a few tokens"


def test_words_that_cannot_be_told_apart_and_texts_too_long(tiny_folder: tiny.Folders) -> None:
    unknowing = tiny.load(tiny_folder())
    with pytest.raises(BackendError, match="does not tell ' true', ' false' apart"):
        unknowing.next_word_logprobs("judge", [NextWords("gardens", "stone", OPTIONS)])
    with pytest.raises(PromptTooLongError, match="more than model"):
        unknowing.next_word_logprobs("judge", [NextWords("gardens", "stone " * 200, (" stone", " table"))])
