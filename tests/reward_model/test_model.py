"""The reward model at work: rubrics shared by prompts, verdicts merged over orders and votes, findings."""

from __future__ import annotations

from typing import Any

import pytest

from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.reward_model import model as module
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.reward_model.verdict import Remark
from rubric_arm_lite.types import Message, Rubric, Side
from tests.judgements import write_judgement
from tests.players import RUBRIC_TEXT, judgement, recipe, right, sampler, says_a
from tests.scripted import ScriptedSampler


class Chat(ScriptedSampler):
    """A scripted sampler that has control tokens, as a chat model does."""

    def control_tokens(self) -> list[str]:
        return ["<|im_end|>"]


def model(judge: Any = right, generator: Any = None, **changes: Any) -> RubricRewardModel:
    """A reward model whose judge prefers what begins with ``good``."""
    scripted = sampler(judge) if generator is None else sampler(judge, generator)
    fields = {"evaluation": {"rubric_max_tokens": 100, "judge_max_tokens": 500}, **changes}
    return RubricRewardModel(Chat(scripted.script), recipe(**fields))


def prompts_for(reward_model: RubricRewardModel, adapter: str) -> list[str]:
    assert isinstance(reward_model.model, Chat)
    return reward_model.model.prompts(adapter)


def test_equal_prompts_share_one_rubric_as_long_as_the_model_lives() -> None:
    judge = model()
    judge.compare_many([("p", "good", "poor", None), ("p", "poor", "good", None), ("q", "good", "poor", None)])
    judge.compare("p", "good x", "poor x")
    judge.rubrics(["q", "p"])
    assert len(prompts_for(judge, "rubric")) == 2
    assert len(prompts_for(judge, "judge")) == 2 + 2 + 2, "the second pair is the first one the other way round"


def test_conversations_come_as_messages_of_either_form() -> None:
    """A user has dicts, as everywhere else; the package has tuples of its own."""
    judge = model()
    turns = [("user", "p"), ("assistant", "What for?"), ("user", "a note")]
    dicts = [{"role": role, "content": content} for role, content in turns]
    ours = tuple(Message(role, content) for role, content in turns)
    assert judge.compare(dicts, "good", "poor") == judge.compare(ours, "good", "poor")
    assert judge.rubric(dicts) == judge.rubric(ours)
    assert judge.rank(dicts, ["good", "poor"]).ranked == judge.rank(ours, ["good", "poor"]).ranked
    assert len(prompts_for(judge, "rubric")) == 1
    with pytest.raises(DataError, match="case 1: the content of message 1 of `prompt` is null"):
        judge.compare([{"role": "user", "text": "p"}], "good", "poor")


@pytest.mark.parametrize(("orders", "questions"), [("both", 2), ("original", 1), ("swapped", 1)])
def test_orders(orders: Any, questions: int) -> None:
    judge = model(says_a)
    verdict = judge.compare("p", "one", "two", orders=orders)
    assert len(prompts_for(judge, "judge")) == questions
    assert verdict.winner == {"both": None, "original": "A", "swapped": "B"}[orders]
    assert verdict.winners == {"both": ("A", "B"), "original": ("A",), "swapped": ("B",)}[orders]
    assert verdict.consistent is (orders != "both")
    assert verdict.agreed is None


def test_votes_are_merged_over_both_orders() -> None:
    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        return right(a, b, rubric, index) if index < 2 else "no verdict"

    verdict = model(judge).compare("p", "poor", "good", votes=3)
    assert (verdict.winner, verdict.agreed, verdict.consistent) == ("B", "B", False)
    assert verdict.confidence == verdict.share("B") == 4 / 6
    assert verdict.share("A") == 0.0


def test_findings_are_mapped_back_to_the_callers_order() -> None:
    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        justifications: dict[Side, str] = {"A": f"{a} met", "B": f"{b} met"}
        return write_judgement(rubric, justifications, "A")

    verdict = model(judge).compare("p", "one", "two")
    assert [f.criterion.text for f in verdict.findings] == ["The response is short", "The response is kind"]
    for finding in verdict.findings:
        assert finding.response_a == (Remark("one met", 2),)
        assert finding.response_b == (Remark("two met", 2),)


def test_different_remarks_are_kept_by_frequency_and_only_clear_ones_count() -> None:
    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        first = a.startswith("one")
        text = write_judgement(rubric, {"A": "fine" if index else "rare", "B": "bad"}, "A" if first else "B")
        if index == 2:  # the first criterion twice, the second as a kind it is not
            text = text.replace("- Criterion 2 [Principle]", "- Criterion 1 [Hard Rule]")
        return text

    verdict = model(judge).compare("p", "one", "two", orders="original", votes=3)
    first, second = verdict.findings
    assert first.response_a == (Remark("rare", 1), Remark("fine", 1))
    assert first.response_b == second.response_b == (Remark("bad", 2),)
    swapped = model(judge).compare("p", "one", "two", orders="swapped", votes=2)
    assert swapped.findings[0].response_b == (Remark("rare", 1), Remark("fine", 1))
    assert swapped.findings[0].response_a == (Remark("bad", 2),)


def test_without_a_usable_rubric_nothing_is_judged() -> None:
    judge = model(generator=lambda request, example, index: "no rubric")
    verdict = judge.compare("p", "good", "poor")
    assert prompts_for(judge, "judge") == []
    assert (verdict.winner, verdict.confidence, verdict.consistent, verdict.findings) == (None, 0.0, False, ())


def test_a_given_rubric_is_used_and_checked_before_anything_is_asked() -> None:
    judge = model()
    verdict = judge.compare("p", "good", "poor", "1. The response is odd [Principle]")
    assert verdict.rubric.criteria[0].text == "The response is odd" and prompts_for(judge, "rubric") == []
    with pytest.raises(DataError, match="case 2: the given rubric does not parse"):
        judge.compare_many([("p", "x", "y", None), ("p", "x", "y", "be nice")])
    assert prompts_for(judge, "rubric") == []


def test_what_does_not_fit_is_an_error_or_left_out() -> None:
    long = "good " * 900
    judge = model(model={"max_context": 4096})
    cases = [("p", "good", "poor", None), ("p", long, "poor", None), (long, "good", "poor", None)]
    with pytest.raises(DataError, match=r"case 3: .* more than model.max_context"):
        judge.compare_many(cases)
    assert prompts_for(judge, "judge") == []
    fits, answer_too_long, prompt_too_long = judge.compare_many(cases, too_long="skip")
    assert (fits.winner, len(prompts_for(judge, "judge"))) == ("A", 2)
    assert (answer_too_long.rubric, answer_too_long.original) == (parse_rubric(RUBRIC_TEXT), ())
    assert not prompt_too_long.rubric.usable and prompt_too_long.original == ()


def test_a_text_too_long_costs_no_judgement_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CASES_AT_ONCE", 1)
    judge = model()
    with pytest.raises(DataError, match="case 3"):
        judge.compare_many([("p", "a", "b", None), ("p", "b", "c", None), ("p", "x" * 4000, "b", None)])
    assert prompts_for(judge, "judge") == []
    for wrong in ({"votes": 0}, {"orders": "Both"}):
        with pytest.raises(ConfigError, match=r"votes: 0|'Both' is not one of both, original, swapped"):
            judge.compare("p", "a", "b", **wrong)  # type: ignore[arg-type]


def test_progress_is_told_and_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [("p", f"good {i}", "poor", None) for i in range(5)]
    whole = model().compare_many(cases)
    monkeypatch.setattr(module, "CASES_AT_ONCE", 2)
    reports: list[tuple[int, int]] = []
    judge = model()
    assert judge.compare_many(cases, progress=lambda done, of: reports.append((done, of))) == whole
    assert reports == [(2, 5), (4, 5), (5, 5)]
    assert len(prompts_for(judge, "rubric")) == 1


# --- ranking --------------------------------------------------------------------------------------------------------


def by_length(a: str, b: str, rubric: Rubric, index: int) -> str:
    """Longer is better; of equals the first."""
    return judgement(rubric, "A" if len(a) >= len(b) else "B")


@pytest.mark.parametrize(("method", "pairs"), [("round_robin", 10), ("swiss", 5)])
def test_ranking_states_what_it_took(method: Any, pairs: int) -> None:
    judge = model(by_length)
    texts = ["ab", "abcde", "a", "abcd", "abc", "ab"]
    ranking = judge.rank("p", texts, method)
    assert ranking.ranked[0].response == "abcde" and ranking.ranked[0].rank == 1
    assert (ranking.pairs, ranking.judge_calls, ranking.unparsed) == (pairs, 2 * pairs, 0)
    assert len(prompts_for(judge, "judge")) == 2 * pairs and len(prompts_for(judge, "rubric")) == 1
    assert sorted(place.index for place in ranking.ranked) == list(range(6))
    if method == "round_robin":
        assert [place.response for place in ranking.ranked] == ["abcde", "abcd", "abc", "ab", "ab", "a"]
        assert [place.rank for place in ranking.ranked] == [1, 2, 3, 4, 4, 6], "equal texts are not judged"
        assert [place.index for place in ranking.ranked] == [1, 3, 4, 0, 5, 2]
        assert [place.points for place in ranking.ranked] == [4, 3, 2, 1, 1, 0]
    assert judge.rank("p", texts, method) == ranking


def test_a_judge_of_the_first_place_gives_half_points_and_unreadable_ones_are_counted() -> None:
    ranking = model(says_a).rank("p", ["x", "y", "z"])
    assert [(place.rank, place.points) for place in ranking.ranked] == [(1, 1.0)] * 3
    silent = model(lambda *_: "no verdict").rank("p", ["x", "y", "z"], votes=2)
    assert [(place.rank, place.points) for place in silent.ranked] == [(1, 1.0)] * 3
    assert (silent.pairs, silent.judge_calls, silent.unparsed) == (3, 12, 12)


def test_ranking_without_a_rubric_judges_nothing() -> None:
    judge = model(generator=lambda request, example, index: "no rubric")
    ranking = judge.rank("p", ["x", "y", "z"])
    assert (ranking.pairs, ranking.judge_calls) == (0, 0) and not ranking.rubric.usable
    assert {place.rank for place in ranking.ranked} == {1} and prompts_for(judge, "judge") == []
    with pytest.raises(DataError, match="no responses to rank"):
        judge.rank("p", [])
