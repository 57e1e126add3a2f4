"""Small copies of the benchmarks in their exact schemas, written as the Hub holds them, with awkward texts inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHINESE = "写一首关于河流的诗，要求押韵。"
LONG = "word " * 4000
Rows = list[dict[str, Any]]


def rewardbench(subsets: Sequence[str] = ("alpacaeval-easy", "math-prm", "llmbar-natural", "donotanswer")) -> Rows:
    return [
        {
            "prompt": f"request {i} {CHINESE}",
            "chosen": f"good {i}",
            "chosen_model": "x",
            "rejected": f"poor {i}",
            "rejected_model": "y",
            "subset": subset,
            "id": i,
        }
        for i, subset in enumerate(subsets)
    ]


def rewardbench2() -> Rows:
    def row(i: int, subset: str, chosen: list[str], rejected: list[str]) -> dict[str, Any]:
        return {
            "id": f"{'tied:' if subset == 'Ties' else ''}{i}",
            "prompt": f"request {i}",
            "chosen": chosen,
            "rejected": rejected,
            "num_correct": len(chosen),
            "num_incorrect": len(rejected),
            "total_completions": len(chosen) + len(rejected),
            "models": ["m"],
            "subset": subset,
            "additional_metadata": {"category": None, "index": 1.0},
        }

    three = ["poor a", "poor b", "poor c"]
    rows = [row(i, subset, [f"good {i}"], three) for i, subset in enumerate(("Precise IF", "Focus", "Focus"))]
    return [*rows, row(9, "Ties", ["good a", "good b"], three)]


def rm_bench(domains: Sequence[str] = ("chat", "code", "math", "safety-refuse", "safety-response")) -> Rows:
    return [
        {
            "id": i,
            "prompt": f"request {i}",
            "chosen": [f"good {style}" for style in ("short", "long", "# long")],
            "rejected": [f"poor {style}" for style in ("short", "long", "# long")],
            "domain": domain,
        }
        for i, domain in enumerate(domains)
    ]


def judgebench(model: str) -> Rows:
    sources = ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
    return [
        {
            "pair_id": f"{model}-{i}",
            "original_id": i if i else None,
            "source": source,
            "question": f"request {i}",
            "response_model": model,
            "response_A": "good x" if i % 2 else "poor x",
            "response_B": "poor x" if i % 2 else "good x",
            "label": "A>B" if i % 2 else "B>A",
        }
        for i, source in enumerate(sources)
    ]


def rmb() -> tuple[Rows, Rows]:
    """Pairs and best of n."""
    turns = [{"content": CHINESE, "language": "Chinese", "role": "user"}]
    talk = [*turns, {"content": "…", "language": "", "role": "assistant"}, {"content": "and?", "role": "user"}]
    pairs = [
        {
            "pair_uid": str(i),
            "conversation_input": talk if i else turns,
            "chosen": {"llm_name": "x", "answer": f"good {i}"},
            "reject": {"llm_name": "y", "answer": f"poor {i}"},
            "category_path": f"Pairwise_set/{goal}/Chat",
        }
        for i, goal in enumerate(("Helpfulness", "Harmlessness"))
    ]
    best = [
        {
            "conversation_input": turns,
            "bon_best": {"llm_name": "x", "answer": "good"},
            "loser_list": [{"llm_name": "y", "answer": f"poor {j}"} for j in range(2)],
            "bon_uid": str(i),
            "category_path": f"BoN_set/{goal}/S{i}",
        }
        for i, goal in enumerate(("Helpfulness", "Harmlessness"))
    ]
    return pairs, best


def ppe(own_pairs: bool = True) -> Rows:
    """Four responses each; the last question has only wrong ones."""
    rows = []
    for i, scores in enumerate(([True, False, True, False], [False, False, True, True], [False] * 4)):
        texts = {f"response_{k + 1}": f"{'good' if right else 'poor'} {k}" for k, right in enumerate(scores)}
        row = {"question_id": f"q{i}", "prompt": f"request {i}", "scores": scores, "mean_score": 0.5, **texts}
        if own_pairs:
            row["sampled_conflict_pairs"] = [[1, 0], [2, 3]] if i == 0 else [[0, 2]] if i == 1 else []
        rows.append(row)
    return rows


def helpsteer3() -> Rows:
    return [
        {
            "domain": "general",
            "language": "english",
            "context": [{"role": "user", "content": f"request {i}"}],
            "response1": "good" if preference <= 0 else "poor",
            "response2": "poor" if preference <= 0 else "good",
            "overall_preference": preference,
            "individual_preference": [{"score": preference, "reasoning": "r", "feedback1": "", "feedback2": ""}],
        }
        for i, preference in enumerate((-3, 1, 0, 2))
    ]


def writing(key: str = "response") -> Rows:
    return [
        {
            "prompt": CHINESE,
            "prompt_id": "ff1c392f",
            "tag": "诗歌-现代",
            "chosen": {key: f"good {i}", "score": 2, "model": "x", "word_len": 133},
            "rejected": {key: f"poor {i} {LONG}", "score": 1, "model": "y", "word_len": 245},
        }
        for i in range(2)
    ]


def as_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def as_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def as_json(path: Path, rows: Rows) -> Path:
    """One array of all rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), "utf-8")
    return path


def folders(root: Path) -> dict[str, Path]:
    """One folder per benchmark, laid out as its repository is."""
    as_parquet(root / "rewardbench/data/filtered-00000-of-00001.parquet", rewardbench())
    as_parquet(root / "rewardbench2/data/test-00000-of-00001.parquet", rewardbench2())
    (root / "rm-bench").mkdir()
    (root / "rm-bench/total_dataset.json").write_text(json.dumps(rm_bench()), "utf-8")
    as_jsonl(root / "judgebench/data/gpt-00000-of-00001.jsonl", judgebench("gpt-4o-2024-05-13"))
    as_jsonl(root / "judgebench/data/claude-00000-of-00001.jsonl", judgebench("claude-3-5-sonnet-20240620"))
    for name, rows in zip(("Pairwise_set", "BoN_set"), rmb(), strict=True):
        for i, row in enumerate(rows):
            path = root / "rmb" / name / row["category_path"].split("/")[1] / f"S{i}.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps([row]), "utf-8")
    as_parquet(root / "ppe-ifeval/data/train-00000-of-00001.parquet", ppe())
    as_jsonl(root / "helpsteer3/preference/train.jsonl", helpsteer3()[:1])
    as_jsonl(root / "helpsteer3/preference/validation.jsonl", helpsteer3())
    (root / "writing").mkdir()
    (root / "writing/WP_bench_chinese.json").write_text(json.dumps(writing()), "utf-8")
    return {path.name: path for path in root.iterdir()}
