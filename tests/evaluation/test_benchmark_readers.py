"""Every benchmark in its exact schema, read by the same library as from the Hub; then the errors of bad rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rubric_arm_lite.data.rows import Row
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, with_rule
from rubric_arm_lite.evaluation.benchmarks.load import LoadedBenchmark, load, load_benchmarks
from rubric_arm_lite.evaluation.benchmarks.readers import ppe_best_of_k
from rubric_arm_lite.evaluation.benchmarks.scoring import Item
from tests import benchmark_rows as made

NAMED = {benchmark.name: benchmark for benchmark in BENCHMARKS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made.folders(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, LoadedBenchmark]:
    return {name: load(benchmark, folders[name]) for name, benchmark in NAMED.items()}


def test_every_benchmark_reads_its_own_layout(loaded: dict[str, LoadedBenchmark]) -> None:
    counts = {name: (benchmark.rows, benchmark.skipped, len(benchmark.items)) for name, benchmark in loaded.items()}
    assert counts == {
        "rewardbench": (4, 0, 4),
        "rewardbench2": (4, 1, 3),
        "rm-bench": (5, 0, 5),
        "judgebench": (8, 0, 8),
        "rmb": (4, 0, 4),
        "ppe-ifeval": (3, 1, 3),
        "helpsteer3": (4, 1, 3),
        "writing": (2, 0, 2),
    }


def test_the_first_of_every_duel_is_the_better_response(loaded: dict[str, LoadedBenchmark]) -> None:
    for found in loaded.values():
        for item in found.items:
            assert len({item.item_id for item in found.items}) == len(found.items)
            for first, second in item.duels:
                assert item.responses[first].startswith("good"), item
                assert not item.responses[second].startswith("good"), item


def test_items_by_hand(loaded: dict[str, LoadedBenchmark]) -> None:
    chat = loaded["rm-bench"].items[0]
    assert chat.duels == ((0, 3), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5))
    assert chat.responses[:2] == ("good short", "good long") and chat.responses[5] == "poor # long"
    assert loaded["rewardbench2"].items[0].duels == ((0, 1), (0, 2), (0, 3))
    assert [item.subset for item in loaded["judgebench"].items[:5]] == [
        "gpt, knowledge", "gpt, reasoning", "gpt, math", "gpt, coding", "claude, knowledge",
    ]  # fmt: skip
    rmb = {item.item_id: item for item in loaded["rmb"].items}
    assert (rmb["pair/0"].prompt, rmb["pair/0"].subset) == (made.CHINESE, "pairwise helpfulness")
    assert [turn.role for turn in rmb["pair/1"].prompt] == ["user", "assistant", "user"]  # type: ignore[union-attr]
    assert rmb["best-of-n/1"].subset == "best of n harmlessness" and rmb["best-of-n/1"].duels == ((0, 1), (0, 2))
    assert [item.item_id for item in loaded["ppe-ifeval"].items] == ["q0/1-2", "q0/3-4", "q1/3-1"]
    assert [item.item_id for item in loaded["helpsteer3"].items] == ["row 1", "row 2", "row 4"]
    assert [item.item_id for item in loaded["writing"].items] == ["ff1c392f", "ff1c392f#2"]
    assert loaded["writing"].items[0].responses[1].endswith(made.LONG)
    assert loaded["rewardbench"].items[0].prompt == f"request 0 {made.CHINESE}"


@pytest.mark.parametrize("below", ["", "RMB_dataset"])
def test_rmb_from_its_repository_counts_rows_that_cannot_be_judged(tmp_path: Path, below: str) -> None:
    good, _ = made.rmb()[0]
    asked = good["conversation_input"]
    rows = [
        good,
        {**good, "conversation_input": [*asked, {**asked[0], "role": "assistant"}, {**asked[0], "content": ""}]},
        {**good, "reject": {"llm_name": "y", "answer": "\u200b"}},
        {**good, "reject": good["chosen"]},
    ]
    best = made.rmb()[1][0]
    equal = {**best, "loser_list": [*best["loser_list"], best["bon_best"]]}
    made.as_json(tmp_path / "RMB_dataset/Pairwise_set/Helpfulness/Translation/General.json", rows)
    (tmp_path / "RMB_dataset/notes.json").write_text("{}")
    found = load(NAMED["rmb"], tmp_path / below)
    assert ([item.item_id for item in found.items], found.rows, found.skipped) == (["pair/0"], 4, 3)
    assert dict(found.unusable) == {"with an empty request": 1, "with an empty response": 1, "with equal responses": 1}
    assert found.missing == ("BoN_set",)
    made.as_json(tmp_path / "RMB_dataset/BoN_set/Helpfulness/S.json", [best, equal])
    found = load(NAMED["rmb"], tmp_path / below)
    assert (len(found.items), found.missing, dict(found.unusable)["with equal responses"]) == (2, (), 2)
    found = load(NAMED["rmb"], tmp_path / "RMB_dataset/BoN_set")
    assert (len(found.items), found.missing) == (1, ("Pairwise_set",))


def test_rm_bench_by_domain(tmp_path: Path) -> None:
    row = {name: value for name, value in made.rm_bench()[0].items() if name != "domain"}
    for domain in ("chat", "safety-refuse"):
        made.as_json(tmp_path / "data" / f"{domain}_filtered.json", [row])
    for source in (tmp_path, tmp_path / "data"):
        found = load(NAMED["rm-bench"], source)
        assert [(item.subset, len(item.duels)) for item in found.items] == [("chat", 9), ("safety-refuse", 9)]
    assert [item.subset for item in load(NAMED["rm-bench"], tmp_path / "data/chat_filtered.json").items] == ["chat"]
    made.as_json(tmp_path / "data/total_dataset.json", made.rm_bench())
    assert len(load(NAMED["rm-bench"], tmp_path).items) == len(made.rm_bench())  # the other files are parts of it


def test_judgebench_as_its_repository_holds_it(tmp_path: Path) -> None:
    for model in ("claude-3-5-sonnet-20240620", "gpt-4o-2024-05-13"):
        made.as_jsonl(tmp_path / f"data/dataset=judgebench,response_model={model}.jsonl", made.judgebench(model))
        answers = f"outputs/dataset=judgebench,response_model={model},judge_name=arena_hard,judge_model=gpt-4o.jsonl"
        made.as_jsonl(tmp_path / answers, made.judgebench(model))  # a judge's, which hold the same rows
    for source in (tmp_path, tmp_path / "data"):
        subsets = [item.subset.split(",")[0] for item in load(NAMED["judgebench"], source).items]
        assert subsets == ["gpt"] * 4 + ["claude"] * 4


def test_a_file_is_read_like_a_folder(tmp_path: Path, loaded: dict[str, LoadedBenchmark]) -> None:
    path = made.as_jsonl(tmp_path / "rb.jsonl", made.rewardbench())
    assert load(NAMED["rewardbench"], path).digest == loaded["rewardbench"].digest
    both = made.judgebench("gpt-4o-2024-05-13") + made.judgebench("claude-3-5-sonnet-20240620")
    assert load(NAMED["judgebench"], made.as_jsonl(tmp_path / "jb.jsonl", both)).digest == loaded["judgebench"].digest
    texts = made.as_jsonl(tmp_path / "wp.jsonl", made.writing("text"))
    assert load(NAMED["writing"], texts).items[0].responses == loaded["writing"].items[0].responses


def test_a_round_robin_has_every_pair(folders: dict[str, Path]) -> None:
    found = load(with_rule(NAMED["rewardbench2"], "round-robin"), folders["rewardbench2"])
    assert found.items[0].duels == ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert with_rule(NAMED["rewardbench"], "round-robin") is NAMED["rewardbench"]


def ppe_items(row: dict[str, Any]) -> list[Item]:
    return ppe_best_of_k(Row("q", row))


def test_pairs_of_ppe_are_drawn_from_the_question_without_own_pairs() -> None:
    first, _, wrong = made.ppe(own_pairs=False)
    drawn = ppe_items(first)
    # two right and two wrong responses make four pairs, fewer than the five asked for
    assert {item.item_id for item in drawn} == {"q0/1-2", "q0/1-4", "q0/3-2", "q0/3-4"}
    assert ppe_items(first) == drawn and ppe_items(wrong) == []
    many = {
        "question_id": "m", "prompt": "p", "scores": [i % 2 == 0 for i in range(32)],
        **{f"response_{i + 1}": f"r{i}" for i in range(32)},
    }  # fmt: skip
    other = ppe_items({**many, "question_id": "n"})
    assert len(ppe_items(many)) == 5 and [i.responses for i in ppe_items(many)] != [i.responses for i in other]


def test_a_limit_draws_by_id_and_keeps_the_order(tmp_path: Path) -> None:
    rows = made.rewardbench(["alpacaeval-easy"] * 50 + ["donotanswer"] * 50)
    path = made.as_jsonl(tmp_path / "rb.jsonl", rows)
    some = load(NAMED["rewardbench"], path, 20)
    assert (len(some.items), some.available, some.rows) == (20, 100, 100)
    numbers = [int(item.item_id.split("/")[1]) for item in some.items]
    assert numbers == sorted(numbers) and 4 < sum(n < 50 for n in numbers) < 16
    fewer = load(NAMED["rewardbench"], path, 10)
    assert {i.item_id for i in fewer.items} < {i.item_id for i in some.items}
    assert len({fewer.digest, some.digest, load(NAMED["rewardbench"], path).digest}) == 3
    assert load(NAMED["rewardbench"], path, 100).digest == load(NAMED["rewardbench"], path, 500).digest


def test_pair_files(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "s"},
        {"prompt": "p", "chosen": "c", "rejected": "d"},
    ]
    found = load(Benchmark("f", "f"), made.as_jsonl(tmp_path / "f.jsonl", rows))
    assert [(item.responses, item.subset) for item in found.items] == [(("a", "b"), "s"), (("c", "d"), "")]


ROWS: dict[str, Callable[[], made.Rows]] = {
    "rewardbench": made.rewardbench,
    "rewardbench2": made.rewardbench2,
    "rm-bench": made.rm_bench,
    "judgebench": lambda: made.judgebench("gpt"),
    "ppe-ifeval": made.ppe,
    "helpsteer3": made.helpsteer3,
    "writing": made.writing,
}
GONE = object()
"""In place of a value: the column is not there."""
BAD: list[tuple[str, str, Any, str]] = [
    (
        "rewardbench",
        "subset",
        GONE,
        r"Expected: prompt, chosen, rejected, subset, id; found: prompt, chosen, chosen_mo",
    ),
    ("rewardbench", "chosen", ["a"], "column `chosen` is a list. Give a text"),
    ("rewardbench", "prompt", " ", "column `prompt` is empty"),
    ("rewardbench", "rejected", None, "column `rejected` is null"),
    ("rewardbench", "id", 1.5, "column `id` is a number"),
    ("rewardbench2", "rejected", [], "`rejected` is an empty list"),
    ("rewardbench2", "chosen", ["a", "b"], "has 2 responses. Outside the subset Ties"),
    ("rewardbench2", "total_completions", 7, "`total_completions` is 7, but the row has 4"),
    ("rewardbench2", "rejected", ["a", 3], "item 2 of `rejected` is a number"),
    ("rm-bench", "chosen", ["a", "b"], "has 2 responses. RM-Bench has 3"),
    ("rm-bench", "domain", "Chat", "`domain` is 'Chat'. Use one of chat, code"),
    ("judgebench", "label", "A=B", "`label` is 'A=B'. Use one of A>B, B>A"),
    ("judgebench", "label", ["A>B", "B>A"], "`label` is a list"),
    ("judgebench", "response_B", "x\ud800", "half of a surrogate pair"),
    ("ppe-ifeval", "scores", [1, 0, 1, 0], "`scores` holds something other than true and false"),
    ("ppe-ifeval", "scores", [True] * 3, "`scores` has 3 entries, and there are more responses"),
    ("ppe-ifeval", "scores", [True] * 5, "column `response_5` is missing"),
    ("ppe-ifeval", "sampled_conflict_pairs", [[0, 4]], "pair 1 of `.*` is not two places from 0 to 3"),
    ("ppe-ifeval", "sampled_conflict_pairs", [[0, 2], [2, 3]], "pair 2 .* both right"),
    ("ppe-ifeval", "sampled_conflict_pairs", [[True, 0]], "pair 1 of `.*` is not two places"),
    ("helpsteer3", "overall_preference", 7, "is 7. Give a whole number from -3 to 3"),
    ("helpsteer3", "overall_preference", "1", "`overall_preference` is '1'"),
    ("helpsteer3", "context", [], "`context` is an empty list"),
    ("helpsteer3", "context", [{"role": "assistant", "content": "x"}], "End it with the user"),
    ("writing", "chosen", {"score": 1}, r"column `response` is missing \(found: score\)"),
    ("writing", "chosen", 4, "`chosen` is a number"),
]


@pytest.mark.parametrize(("name", "column", "value", "message"), BAD)
def test_a_bad_row_is_named_with_its_place(tmp_path: Path, name: str, column: str, value: Any, message: str) -> None:
    rows = ROWS[name]()
    rows[1][column] = value
    if value is GONE:
        del rows[1][column]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(DataError, match=f"rows.jsonl, line 2.*: .*{message}"):
        load(NAMED[name], path)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (0, {"reject": "text"}, "`reject` is a text. Give an object"),
        (0, {"category_path": "Pairwise_set/Else"}, "names neither Helpfulness nor Harmlessness"),
        (
            1,
            {"loser_list": [{"llm_name": "y"}]},
            "item 1 of `loser_list`: column `answer` is missing \\(found: llm_name\\)",
        ),
        (1, {"bon_best": None}, "`bon_best` is null"),
    ],
)
def test_a_bad_row_of_rmb(kind: int, change: dict[str, Any], message: str) -> None:
    row = {**made.rmb()[kind][1], **change}
    with pytest.raises(DataError, match=f"S1.json, row 1[:,] .*{message}"):
        NAMED["rmb"].reads[kind](Row("S1.json, row 1", row))


def test_unusable_sources_are_errors(tmp_path: Path, folders: dict[str, Path]) -> None:
    rmb = NAMED["rmb"]
    with pytest.raises(DataError, match="--benchmark-dir rmb=FOLDER"):
        load(rmb)
    with pytest.raises(DataError, match="Give the folder of RMB that holds Pairwise_set, BoN_set"):
        load(rmb, made.as_jsonl(tmp_path / "rmb.jsonl", made.rmb()[0]))
    with pytest.raises(DataError, match="no split 'gpt'"):
        load(NAMED["judgebench"], folders["rewardbench"])
    with pytest.raises(DataError, match="no file"):
        load(NAMED["judgebench"], tmp_path / "nothing.jsonl")
    ties = made.as_jsonl(tmp_path / "ties.jsonl", made.rewardbench2()[3:])
    with pytest.raises(DataError, match="none of 1 rows has a question for a judge"):
        load(NAMED["rewardbench2"], ties)


def test_sizes_of_rewardbench_are_its_own() -> None:
    """2,985 prompts: those of the sections, with 447 of math-prm in place of the 984 that it counts as."""
    from rubric_arm_lite.evaluation.benchmarks.scoring import SECTIONS

    sizes = {name: sum(weights.values()) for name, weights in SECTIONS.items()}
    assert (sizes["Chat"], sizes["Chat Hard"], sizes["Safety"]) == (358, 456, 740)
    assert sum(sizes.values()) - 984 + 447 == NAMED["rewardbench"].rows == 2985
    assert isinstance(NAMED["rewardbench"], Benchmark)


def test_a_benchmark_and_its_place_in_one_word(tmp_path: Path) -> None:
    made.as_json(tmp_path / "chat_filtered.json", made.rm_bench()[:1])
    (found,) = load_benchmarks([f"rm-bench={tmp_path}"], {})
    assert (found.source, len(found.items)) == (str(tmp_path), 1)
    with pytest.raises(ConfigError, match="no place after the `=`"):
        load_benchmarks(["rm-bench="], {})
    with pytest.raises(ConfigError, match="--benchmark-dir gives elsewhere"):
        load_benchmarks([f"rm-bench={tmp_path}"], {"rm-bench": "elsewhere"})
