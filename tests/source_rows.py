"""Small rows in the format of each published data set, and functions that write them as files and Hub folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rubric_arm_lite.data import WarmupRow
from rubric_arm_lite.data.sources import file_rows
from rubric_arm_lite.data.trajectories import trajectory_of_row
from rubric_arm_lite.prompts.parsing import parse_rubric
from tests.judgements import write_judgement

LONG = "слово 词語 " * 6000
"""More than 100 kB in UTF-8, in scripts that are not Latin."""
RUBRIC = "1. The response is short [Hard Rule]\n2. The response is kind [Principle]"


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def openrubric(number: int, winner: str = "A", **changes: Any) -> dict[str, Any]:
    judgement = write_judgement(
        parse_rubric(RUBRIC), {"A": "met.", "B": "missed."}, "A" if "a" in winner.lower() else "B"
    )
    return {
        "instruction": f"Request {number}",
        "response_a": f"first {number}",
        "response_b": f"second {number}",
        "winner": winner,
        "rubric": RUBRIC,
        "judge": judgement,
        "source": "magpie" if number % 2 else "skywork",
        **changes,
    }


def ultrafeedback(number: int, **changes: Any) -> dict[str, Any]:
    prompt = f"Request {number}"
    chosen, rejected = f"good {number}", f"bad {number}"
    return {
        "prompt": prompt,
        "prompt_id": f"{number:064x}",
        "chosen": [turn("user", prompt), turn("assistant", chosen)],
        "rejected": [turn("user", prompt), turn("assistant", rejected)],
        "messages": [turn("user", prompt), turn("assistant", chosen)],
        "score_chosen": 8.5,
        "score_rejected": 7.0,
        **changes,
    }


def skywork(number: int, **changes: Any) -> dict[str, Any]:
    before = [turn("user", f"Request {number}"), turn("assistant", "Which one?"), turn("user", "The second.")]
    return {
        "chosen": [*before, turn("assistant", f"good {number}")],
        "rejected": [*before, turn("assistant", f"bad {number}")],
        "source": "magpie",
        **changes,
    }


def helpsteer3(number: int, preference: Any = -2, **changes: Any) -> dict[str, Any]:
    return {
        "domain": "code" if number % 2 else "general",
        "language": "english",
        "context": [turn("user", f"Request {number}")],
        "response1": f"first {number}",
        "response2": f"second {number}",
        "overall_preference": preference,
        "individual_preference": [{"score": -2, "reasoning": "clearer", "feedback1": "x", "feedback2": "y"}],
        **changes,
    }


def arena(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "question_id": "the same for all",
        "prompt": f"Request {number}",
        "rubric": RUBRIC,
        "chosen": f"good {number}",
        "rejected": f"bad {number}",
        **changes,
    }


ROWS = {
    "openrubric": openrubric,
    "ultrafeedback": ultrafeedback,
    "skywork": skywork,
    "helpsteer3": helpsteer3,
    "rubricarm-arena": arena,
}


def lay_out(root: Path, hub_id: str, split: str, rows: list[dict[str, Any]], config: str | None = None) -> Path:
    """A repository folder ``root/owner/name`` with one Parquet file of a split, as on the Hub."""
    import pyarrow
    from pyarrow import parquet

    folder = root / hub_id
    place = folder / config if config else folder / "data"
    place.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), place / f"{split}-00000-of-00001.parquet")
    if config:
        files = f"  data_files:\n  - {{split: {split}, path: {config}/{split}-*}}\n"
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n{files}---\n")
    return folder


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def load_trajectories(path: Path, pointwise: bool = False) -> list[WarmupRow]:
    return [trajectory_of_row(row, pointwise) for row in file_rows(path)]
