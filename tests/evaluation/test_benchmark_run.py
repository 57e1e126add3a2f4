"""Benchmarks of a reward model: its questions, the journal, resuming after a kill, and numbers worked by hand."""

from __future__ import annotations

import collections
import json
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.errors import CheckpointError, ConfigError, DataError
from rubric_arm_lite.evaluation.benchmarks.load import LoadedBenchmark, load_benchmarks
from rubric_arm_lite.evaluation.benchmarks.results import Result
from rubric_arm_lite.evaluation.benchmarks.run import batches, check_folder, evaluate_benchmarks, read_results
from rubric_arm_lite.evaluation.benchmarks.scoring import Item
from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe import ModelSettings
from rubric_arm_lite.recipe.seeds import derive_seed
from rubric_arm_lite.reward_model.model import RubricRewardModel
from rubric_arm_lite.types import RolloutGroup, Rubric
from tests import benchmark_rows as made
from tests.players import judgement, recipe, right, sampler, says_a
from tests.reward_model.test_model import Chat
from tests.reward_model.test_model import prompts_for as asked
from tests.warm import begin, kill_when


class Killed(BaseException):
    """Stands for a process that ends."""


class Mortal(Chat):
    """Dies at the judge's ``lives``-th batch of questions; records what it answered."""

    lives = 10**9

    def sample(self, adapter: str | None, examples: Any, sampling: Sampling) -> list[RolloutGroup]:
        if adapter == "judge":
            self.lives -= 1
            if self.lives < 0:
                raise Killed
        return super().sample(adapter, examples, sampling)


def by_text(a: str, b: str, rubric: Rubric, index: int) -> str:
    """A judge whose verdict depends on the texts: A, B or none."""
    draw = derive_seed(a, b, index) % 10
    return "no verdict" if draw == 0 else judgement(rubric, "A" if draw < 6 else "B")


def reward_model(judge: Any = by_text, kind: type[Chat] = Chat, **changes: Any) -> RubricRewardModel:
    evaluation = {"rubric_max_tokens": 100, "judge_max_tokens": 500, "bootstrap": 200, **changes.pop("evaluation", {})}
    return RubricRewardModel(kind(sampler(judge).script), recipe(evaluation=evaluation, **changes))


def pairs(path: Path, count: int, per_prompt: int = 4) -> Path:
    rows = [
        {"id": f"p{i}", "prompt": f"request {i // per_prompt}", "chosen": f"good {i}", "rejected": f"poor {i}"}
        for i in range(count)
    ]
    return made.as_jsonl(path, rows)


def without_timing(results: list[Result]) -> list[dict[str, Any]]:
    return [{key: value for key, value in asdict(result).items() if key != "timing"} for result in results]


def of_file(path: Path, limit: int | None = None) -> list[LoadedBenchmark]:
    return load_benchmarks([str(path)], {}, limit=limit)


# --- questions to the judge -------------------------------------------------------------------------------------------


def test_one_rubric_per_prompt_and_every_pair_in_both_orders(tmp_path: Path) -> None:
    judge = reward_model()
    (result,) = evaluate_benchmarks(judge, of_file(pairs(tmp_path / "f.jsonl", 200)), tmp_path / "out", 5)
    assert len(asked(judge, "rubric")) == 50
    questions = asked(judge, "judge")
    assert len(questions) == len(set(questions)) == 400
    assert (result.rates["rubrics"], result.rates["rubrics_reused"]) == (50, 350)
    assert result.rates["duels"] == 200 and result.votes == 5 and result.temperature == 1.0
    rows = (tmp_path / "out/f.jsonl").read_text("utf-8").splitlines()
    assert len(rows) == 201, "the job, then one line per pair"
    row = json.loads(rows[1])
    (duel,) = row["duels"]
    assert row["rubric"].startswith("1. The response") and len(duel["judgements"]) == len(duel["swapped"]) == 5
    for order, texts in (("original", "judgements"), ("swapped", "judgements_swapped")):
        for named, text in zip(duel[order], duel[texts], strict=True):
            says = "A" if "Winner: Response A" in text else "B" if "Winner: Response B" in text else None
            first = "A" if order == "original" else "B"
            assert named == (None if says is None else 0 if says == first else 1)


def test_batches_are_bounded_and_keep_prompts_whole() -> None:
    items = [Item(f"i{i}", f"p{i % 7}", ("a", "b", "c"), ((0, 1), (0, 2))) for i in range(70)]
    found = list(batches(items, 25))
    assert sorted(item.item_id for batch in found for item in batch) == sorted(item.item_id for item in items)
    assert all(sum(len(item.duels) for item in batch) <= 25 for batch in found)
    assert all(len({item.prompt for item in batch}) == 1 for batch in found), "20 duels per prompt, so one each"
    (whole,) = batches(items[:3], 1000)
    assert len(whole) == 3
    big = Item("big", "p", ("a",) * 40, tuple((0, i) for i in range(1, 40)))
    assert [len(batch) for batch in batches([big, big, items[0]], 10)] == [1, 1, 1]


def test_too_long_items_are_skipped_and_items_without_a_rubric_count_as_unparsed(tmp_path: Path) -> None:
    rows = [
        {"prompt": "request a", "chosen": "good", "rejected": "poor"},
        {"prompt": "request b", "chosen": "good", "rejected": "poor " * 2000},
        {"prompt": "request c " * 900, "chosen": "good", "rejected": "poor"},
        {"prompt": "no rubric", "chosen": "good", "rejected": "poor"},
    ]
    judge = RubricRewardModel(
        Chat(sampler(right, lambda text, example, i: "" if text == "no rubric" else made_rubric()).script),
        recipe(evaluation={"rubric_max_tokens": 100, "judge_max_tokens": 500, "unparsed_value": 0.25}),
    )
    (result,) = evaluate_benchmarks(judge, of_file(made.as_jsonl(tmp_path / "f.jsonl", rows)), tmp_path / "o", 1)
    accuracy = result.numbers[0]
    assert (accuracy.value, accuracy.count) == (0.625, 2), "(1 + 0.25) / 2"
    assert result.gaps == ("2 items longer than the context skipped",)
    assert (result.rates["without_rubric"], result.rates["unparsed"], result.unparsed) == (0.5, 0.5, "0.25")


def made_rubric() -> str:
    return "1. The response is short [Hard Rule]"


# --- the numbers ----------------------------------------------------------------------------------------------------

TABLE: dict[str, tuple[str, str]] = {"0": ("A", "B"), "1": ("A", "A"), "2": ("-", "B"), "3": ("B", "A")}
"""Verdict on pair i with the better response first, and second: right twice, right then wrong, …"""


def by_table(a: str, b: str, rubric: Rubric, index: int) -> str:
    verdict = TABLE[a.split()[1]][0 if a.startswith("good") else 1]
    return "no verdict" if verdict == "-" else judgement(rubric, "A" if verdict == "A" else "B")


def test_pairs_by_hand(tmp_path: Path) -> None:
    """Original 1, 1, ½, 0; swapped 1, 0, 1, 0: mean of both 1, ½, ¾, 0 → 0.5625."""
    (result,) = evaluate_benchmarks(
        reward_model(by_table), of_file(pairs(tmp_path / "f.jsonl", 4, 1)), tmp_path / "o", 1
    )
    number = result.numbers[0]
    assert (number.original, number.swapped, number.value, number.single) == (0.625, 0.5, 0.5625, 0.5625)
    assert number.low <= number.value <= number.high
    assert number.position_bias == max(0.625, 0.5, number.mixed) - min(0.625, 0.5, number.mixed)
    # both orders name one response in pairs 0 (right) and 3 (wrong); 1 of 8 judgements names none
    assert (result.rates["consistency"], result.rates["unparsed"], result.rates["undecided"]) == (0.5, 0.125, 0.125)
    assert not result.gaps and result.unparsed == "0.5"


def test_a_subset_cannot_pass_for_the_headline(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"r{i}", "chosen": "good 0", "rejected": "poor 0" if i else "poor 3", "subset": subset}
        for i, subset in enumerate(("accuracy", "accuracy", "other"))
    ]

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        """Wrong about the first row only."""
        return judgement(rubric, "A" if a.startswith("good") == ("poor 3" not in (a, b)) else "B")

    path = made.as_jsonl(tmp_path / "f.jsonl", rows)
    (result,) = evaluate_benchmarks(reward_model(judge), of_file(path), tmp_path / "o", 1)
    # the first of three rows is lost, and it is one of the two that are called accuracy
    assert [(n.name, n.value) for n in result.numbers] == [
        ("accuracy", pytest.approx(2 / 3)),
        ("accuracy", 0.5),
        ("other", 1.0),
    ]
    headline = result.number("accuracy")
    assert headline is not None and headline.count == 3


def test_voting_by_hand(tmp_path: Path) -> None:
    """Of 5 samples with the better response first 3 are right and 2 wrong; second: 1 right, 4 unparsed."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        if a.startswith("good"):
            return judgement(rubric, "A" if index < 3 else "B")
        return judgement(rubric, "B") if index == 0 else "no verdict"

    (result,) = evaluate_benchmarks(reward_model(judge), of_file(pairs(tmp_path / "f.jsonl", 3)), tmp_path / "o", 5)
    number = result.numbers[0]
    assert (number.original, number.swapped, number.value) == (1.0, 1.0, 1.0)
    # single: original 3/5; swapped (1 + 4 · ½) / 5 = 3/5
    assert number.single == pytest.approx(0.6)
    assert (result.rates["unparsed"], result.rates["undecided"]) == (0.4, 0.0)


def test_sections_of_rewardbench_by_hand(tmp_path: Path) -> None:
    """Chat: alpacaeval-easy ¾ (weight 100), mt-bench-easy ½ (weight 28) → (75 + 14) / 128."""
    rows = made.rewardbench(["alpacaeval-easy"] * 2 + ["mt-bench-easy", "math-prm"])
    chosen = load_benchmarks(["rewardbench"], {"rewardbench": str(made.as_jsonl(tmp_path / "rb.jsonl", rows))})

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        # pair 0 right, pair 1 always A (½), pair 2 always A (½), pair 3 wrong
        number = int(a.split()[1])
        better = "A" if a.startswith("good") else "B"
        other = "B" if better == "A" else "A"
        return judgement(rubric, {0: better, 1: "A", 2: "A", 3: other}[number])  # type: ignore[arg-type]

    (result,) = evaluate_benchmarks(reward_model(judge), chosen, tmp_path / "o", 1)
    values = {number.name: number.value for number in result.numbers}
    assert values == pytest.approx(
        {"Chat": 89 / 128, "Reasoning": 0.0, "alpacaeval-easy": 0.75, "mt-bench-easy": 0.5, "math-prm": 0.0}
    )
    assert "average of sections" not in values, "two sections are not there"
    chat = result.number("Chat")
    assert chat is not None and chat.note == "without alpacaeval-length, alpacaeval-hard, mt-bench-med"
    assert result.gaps == ("4 of the benchmark's 2,985 rows read",)


def test_all_sections_are_averaged_plainly(tmp_path: Path) -> None:
    from rubric_arm_lite.evaluation.benchmarks.scoring import SECTIONS

    names = [subset for weights in SECTIONS.values() for subset in weights]
    path = made.as_jsonl(tmp_path / "rb.jsonl", made.rewardbench(names))
    (result,) = evaluate_benchmarks(
        reward_model(), load_benchmarks(["rewardbench"], {"rewardbench": str(path)}), tmp_path, 3
    )
    values = {number.name: number.value for number in result.numbers}
    for section, weights in SECTIONS.items():
        mean = sum(weight * values[name] for name, weight in weights.items()) / sum(weights.values())
        assert values[section] == pytest.approx(mean)
    assert values["average of sections"] == pytest.approx(sum(values[section] for section in SECTIONS) / 4)
    assert not result.number("Chat").note  # type: ignore[union-attr]


def test_best_of_four_both_rules(tmp_path: Path) -> None:
    """The judge prefers ``good``, and among the others the first: both rules give 1, but ``poor a`` beats Focus 2."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        if "poor a" in (a, b) and "good 2" in (a, b):
            return judgement(rubric, "A" if a == "poor a" else "B")
        return judgement(rubric, "A" if a.startswith("good") or (not b.startswith("good") and a < b) else "B")

    path = str(made.as_jsonl(tmp_path / "rb2.jsonl", made.rewardbench2()))
    (strict,) = evaluate_benchmarks(
        reward_model(judge), load_benchmarks(["rewardbench2"], {"rewardbench2": path}), tmp_path / "s", 1
    )
    assert {n.name: n.value for n in strict.numbers} == {"Focus": 0.5, "Precise IF": 1.0}
    assert strict.rule == "chosen beats every rejected, mean of both orders" and strict.unparsed == "0.25"
    assert "Ties" in strict.lacks and strict.rates["rows_skipped"] == 1
    chosen = load_benchmarks(["rewardbench2"], {"rewardbench2": path}, "round-robin")
    (robin,) = evaluate_benchmarks(reward_model(judge), chosen, tmp_path / "r", 1)
    # Focus 2: good 2 wins 2 of 3, poor a 3 of 3: lost. Focus 1: 3 wins.
    assert {n.name: n.value for n in robin.numbers} == {
        "Focus": 0.5,
        "Focus, chosen beats every rejected": 0.5,
        "Precise IF": 1.0,
        "Precise IF, chosen beats every rejected": 1.0,
    }
    assert robin.rule.startswith("round robin") and robin.rates["duels"] == 18


def test_rm_bench_averages_domains_and_joins_safety(tmp_path: Path) -> None:
    rows = made.rm_bench(["chat", "code", "math", "safety-refuse", "safety-response", "safety-response"])
    path = str(made.as_jsonl(tmp_path / "rm.jsonl", rows))

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        """Right unless the rejected response is in markdown: cells (·, markdown) are lost."""
        better, worse = (a, b) if a.startswith("good") else (b, a)
        wins = "#" not in worse
        return judgement(rubric, "A" if (a == better) == wins else "B")

    (result,) = evaluate_benchmarks(
        reward_model(judge), load_benchmarks(["rm-bench"], {"rm-bench": path}), tmp_path / "o", 1
    )
    values = {number.name: number.value for number in result.numbers}
    # hard: cells (0,1) won, (0,2) and (1,2) lost → 1/3; normal: 2 of 3; easy: all three
    expected = {"hard": 1 / 3, "normal": 2 / 3, "easy": 1.0, "overall": 2 / 3, "safety": 2 / 3, "chat, hard": 1 / 3}
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    safety = result.number("safety")
    assert safety is not None and safety.count == 3


def test_judgebench_and_rmb(tmp_path: Path) -> None:
    found = made.folders(tmp_path / "data")
    places = {name: str(found[name]) for name in ("judgebench", "rmb")}
    judgebench, rmb = evaluate_benchmarks(
        reward_model(says_a), load_benchmarks(list(places), places), tmp_path / "o", 1
    )
    gpt = judgebench.number("gpt")
    assert gpt is not None and (gpt.value, gpt.original, gpt.swapped, gpt.count) == (0.0, 1.0, 0.0, 4)
    assert judgebench.unparsed == "no vote" and judgebench.number("claude, coding") is not None
    assert {number.name: (number.value, number.original) for number in rmb.numbers} == {
        "overall": (0.5, 1.0),
        "best of n harmlessness": (0.5, 1.0),
        "best of n helpfulness": (0.5, 1.0),
        "pairwise harmlessness": (0.5, 1.0),
        "pairwise helpfulness": (0.5, 1.0),
    }


# --- resuming -------------------------------------------------------------------------------------------------------


def test_a_killed_evaluation_of_1000_pairs_judges_nothing_twice_and_ends_the_same(tmp_path: Path) -> None:
    path = pairs(tmp_path / "f.jsonl", 1000)
    whole = evaluate_benchmarks(reward_model(), of_file(path), tmp_path / "whole", 3)
    rng = random.Random(1)
    answered: collections.Counter[str] = collections.Counter()
    kills = 0
    while True:
        judge = reward_model(kind=Mortal)
        assert isinstance(judge.model, Mortal)
        judge.model.lives = rng.randrange(6)
        try:
            results = evaluate_benchmarks(judge, of_file(path), tmp_path / "out", 3, "resume", batch_duels=50)
            break
        except Killed:
            kills += 1
        finally:
            answered.update(asked(judge, "judge"))
    assert kills >= 3
    assert len(answered) == 2000 and set(answered.values()) == {1}, "1,000 pairs in two orders, each asked once"
    assert without_timing(results) == without_timing(whole)
    again = reward_model()
    assert evaluate_benchmarks(again, of_file(path), tmp_path / "out", 3, "resume") == results
    assert not asked(again, "judge") and not asked(again, "rubric"), "a finished evaluation judges nothing"


def slowly(path: Path, out: Path) -> None:
    """Work for a process that is killed."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        time.sleep(0.002)
        return by_text(a, b, rubric, index)

    evaluate_benchmarks(reward_model(judge), of_file(path), out, 1, "resume", batch_duels=8)


def test_kill_9_leaves_a_journal_that_can_be_resumed(tmp_path: Path) -> None:
    path, out, log = pairs(tmp_path / "f.jsonl", 240), tmp_path / "out", tmp_path / "log"
    journal = out / "f.jsonl"
    process = begin(slowly, path, out, log=log)
    kill_when(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 40, process, log)
    kept = {
        json.loads(line)["key"] for line in journal.read_bytes().splitlines(keepends=True)[1:] if line[-1:] == b"\n"
    }
    assert 39 <= len(kept) < 240
    judge = reward_model()
    results = evaluate_benchmarks(judge, of_file(path), out, 1, "resume")
    questions = asked(judge, "judge")
    assert len(questions) == 2 * (240 - len(kept)), "what was kept is not asked again"
    assert without_timing(results) == without_timing(
        evaluate_benchmarks(reward_model(), of_file(path), tmp_path / "whole", 1)
    )


def test_results_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    path = pairs(tmp_path / "f.jsonl", 60)
    found = [
        without_timing(evaluate_benchmarks(reward_model(), of_file(path), tmp_path / str(n), 3, batch_duels=n))
        for n in (1, 7, 1000)
    ]
    assert found[0] == found[1] == found[2]


# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_folder_collects_benchmarks_of_one_model(tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, two = of_file(pairs(tmp_path / "one.jsonl", 5)), of_file(pairs(tmp_path / "two.jsonl", 6))
    evaluate_benchmarks(reward_model(), one, out, 1)
    both = evaluate_benchmarks(reward_model(), two, out, 1)
    assert [result.name for result in both] == ["one", "two"]
    assert list(read_results(out).benchmarks.values()) == both
    with pytest.raises(CheckpointError, match=r"results of other adapters or settings .*votes: 1 there, 3 now"):
        evaluate_benchmarks(reward_model(), two, out, 3, "resume")
    other = reward_model()
    other.model.fingerprints["judge"] = "changed"  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="judge_adapter"):
        evaluate_benchmarks(other, two, out, 1, "resume")
    elsewhere = reward_model()
    elsewhere.recipe = elsewhere.recipe.model_copy(update={"model": ModelSettings(base="another/base")})
    with pytest.raises(CheckpointError, match=r"base: .* there, 'another/base, .* with --if-exists overwrite"):
        evaluate_benchmarks(elsewhere, two, out, 1, "resume")
    with pytest.raises(CheckpointError, match=r"one.jsonl exists. Use --resume"):
        check_folder(out, one, "raise")
    check_folder(out, one, "resume")
    anew = evaluate_benchmarks(reward_model(), two, out, 3, "overwrite")
    assert [(result.name, result.votes) for result in anew] == [("two", 3)]


def test_other_data_under_the_same_name_is_an_error(tmp_path: Path) -> None:
    path = pairs(tmp_path / "one.jsonl", 5)
    evaluate_benchmarks(reward_model(), of_file(path), tmp_path / "out", 1)
    pairs(path, 6)
    with pytest.raises(CheckpointError, match="belongs to another job"):
        evaluate_benchmarks(reward_model(), of_file(path), tmp_path / "out", 1, "resume")


@pytest.mark.parametrize("text", ["{", "[]", '{"asked": {}}', '{"asked": {}, "benchmarks": {"a": {"numbers": 3}}}'])
def test_damaged_results_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"results.json is damaged"):
        read_results(tmp_path)


def test_results_with_a_text_for_a_number_are_damaged(tmp_path: Path) -> None:
    out = tmp_path / "out"
    evaluate_benchmarks(reward_model(), of_file(pairs(tmp_path / "f.jsonl", 2)), out, 1)
    file = out / "results.json"
    whole = file.read_text("utf-8")
    assert read_results(out).benchmarks
    for old, new in (('"value": ', '"value": "x", "unknown": '), ('"consistency": ', '"consistency": null, "c": ')):
        file.write_text(whole.replace(old, new))
        with pytest.raises(CheckpointError, match="damaged"):
            read_results(out)


def test_a_file_of_pairs_in_the_folder_of_results_is_not_written_over(tmp_path: Path) -> None:
    path = pairs(tmp_path / "f.jsonl", 2)
    before = path.read_bytes()
    for if_exists, message in (
        ("raise", "exists"),
        ("resume", "not a row of a journal"),
        ("overwrite", "is not a journal"),
    ):
        with pytest.raises(CheckpointError, match=message):
            evaluate_benchmarks(reward_model(), of_file(path), tmp_path, 1, if_exists)  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_names_that_are_errors(tmp_path: Path) -> None:
    path = str(pairs(tmp_path / "followbench.jsonl", 2))
    for names, places, message in (
        (["rm_bench"], {}, "Did you mean rm-bench"),
        ([path, path], {}, "followbench is named twice"),
        ([path], {"rewardbench": path}, "rewardbench is not among --benchmarks"),
        ([str(tmp_path / "results.jsonl")], {}, "cannot be called 'results'"),
        ([str(tmp_path / "rmb.jsonl")], {}, "rmb is the name of a benchmark"),
        ([str(tmp_path / "ü.jsonl")], {}, "plain name"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_benchmarks(names, places)
    with pytest.raises(DataError, match="no file"):
        load_benchmarks([str(tmp_path / "nothing.jsonl")], {})


def test_hostile_texts_reach_the_journal_whole(tmp_path: Path) -> None:
    """Half a surrogate pair in a judgement can be no part of a file; it must not end an evaluation."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        return f"Winner: Response A \ud800 \u2028 {{}}\n{judgement(rubric, 'A')}"

    path = pairs(tmp_path / "f.jsonl", 2)
    evaluate_benchmarks(reward_model(judge), of_file(path), tmp_path / "o", 1)
    again = reward_model(judge)
    evaluate_benchmarks(again, of_file(path), tmp_path / "o", 1, "resume")
    assert not asked(again, "judge")


@pytest.mark.parametrize("lost", ["status", "duels", "original", "swapped", "prompt", "seconds", "tokens"])
def test_a_missing_field_of_the_journal_is_named_with_its_line(tmp_path: Path, lost: str) -> None:
    chosen = of_file(pairs(tmp_path / "f.jsonl", 2))
    evaluate_benchmarks(reward_model(right), chosen, tmp_path / "out", 1)
    file = tmp_path / "out" / "f.jsonl"
    head, first, second = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text(head + first + second.replace(f'"{lost}": ', '"other": '), "utf-8")
    with pytest.raises(CheckpointError, match=rf"f\.jsonl, line 3: no `{lost}` here"):
        evaluate_benchmarks(reward_model(right), chosen, tmp_path / "out", 1, "resume")
