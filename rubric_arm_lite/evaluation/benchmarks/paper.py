"""The paper's numbers for comparison: table 1 of Rubric-ARM (arXiv 2602.01511), accuracies in percent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Rubric-ARM, arXiv 2602.01511, table 1"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table, and our number for it."""

    title: str
    benchmark: str
    number: str


COLUMNS: tuple[Column, ...] = (
    Column("RB Chat", "rewardbench", "Chat"),
    Column("RB ChatHard", "rewardbench", "Chat Hard"),
    Column("FollowB", "followbench", "accuracy"),
    Column("PPE-IFEval", "ppe-ifeval", "accuracy"),
    Column("InfoB", "infobench", "accuracy"),
    Column("IFBench", "ifbench", "accuracy"),
    Column("RM-B Chat", "rm-bench", "chat"),
    Column("RB2 PreciseIF", "rewardbench2", "Precise IF"),
    Column("RB2 Focus", "rewardbench2", "Focus"),
    Column("HelpSteer3", "helpsteer3", "accuracy"),
)
"""FollowBench, InfoBench and IFBench are the user's own files of pairs: ``followbench.jsonl`` and so on."""

ROWS: Mapping[str, tuple[float, ...]] = {
    "Qwen3-8B, prompted rubric+judge": (73.9, 63.6, 63.0, 53.8, 74.6, 55.6, 64.2, 21.9, 56.6, 61.8, 58.9),
    "JudgeLRM-7B": (92.1, 56.1, 79.8, 46.0, 62.7, 47.5, 55.4, 9.4, 29.1, 60.2, 53.8),
    "RRM-7B": (77.7, 69.5, 65.5, 51.0, 68.2, 53.2, 59.9, 10.0, 60.4, 62.4, 57.8),
    "RM-R1-7B (Qwen2.5)": (83.0, 70.0, 56.3, 55.2, 71.3, 55.2, 64.2, 20.6, 76.2, 65.2, 61.7),
    "RM-R1-14B (DeepSeek)": (90.3, 78.9, 89.9, 61.2, 82.4, 59.0, 71.4, 30.6, 79.0, 74.6, 71.7),
    "Rubric-RM (SFT only)": (88.2, 74.1, 76.1, 67.0, 80.8, 65.4, 65.7, 34.4, 82.2, 67.0, 70.1),
    "Rubric-RM voting@5": (89.9, 75.4, 81.5, 70.8, 83.8, 67.1, 67.0, 40.0, 86.5, 67.5, 73.0),
    "Rubric-ARM": (89.4, 79.6, 85.7, 70.8, 86.1, 65.9, 69.2, 41.9, 89.4, 69.8, 74.8),
    "Rubric-ARM voting@5": (90.3, 80.7, 87.4, 72.0, 87.7, 67.1, 69.1, 46.2, 90.3, 71.1, 76.2),
    "generator first": (93.2, 76.3, 85.9, 67.3, 84.1, 64.6, 69.5, 24.4, 86.1, 71.8, 72.4),
    "generator first, voting@5": (94.0, 76.5, 89.1, 67.8, 85.0, 64.6, 69.8, 39.4, 90.1, 72.4, 74.9),
    "no format reward": (89.8, 78.7, 87.1, 69.2, 86.1, 64.3, 69.5, 25.6, 84.8, 70.8, 72.6),
    "no format reward, voting@5": (91.5, 78.5, 88.2, 70.2, 87.7, 65.1, 69.7, 43.8, 88.9, 71.1, 75.5),
}
"""One value per column of :data:`COLUMNS`, and the printed average: their plain mean, up to rounding."""

WRITING: Mapping[str, float] = {"Rubric-ARM": 63.2, "Rubric-RM (SFT only)": 60.3, "RM-R1-7B (Qwen2.5)": 59.8}
"""WritingPreferenceBench, on which none of them was trained."""
