"""Overlap of prompts with benchmarks: runs of words that a benchmark's prompt and a training prompt share.

A training prompt overlaps if one of its turns has ``words`` words in a row in common with a turn of a benchmark's
prompt, or if all of it equals a whole benchmark prompt, however short. Words are compared in lower case, without
punctuation, accents and other marks; in scripts written without blanks each character is a word. Templates
that many prompts share count like any other text, so this leaves out rather too much than too little.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rubric_arm_lite.data.rows import Row
from rubric_arm_lite.data.sources import open_rows
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.types import Prompt

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Where the prompts of a published benchmark are."""

    hub_id: str
    splits: tuple[str | None, ...]
    column: str = "prompt"
    config: str | None = None


BENCHMARKS = {
    "rewardbench": Benchmark("allenai/reward-bench", ("filtered",)),
    "rewardbench2": Benchmark("allenai/reward-bench-2", ("test",)),
    "rm-bench": Benchmark("THU-KEG/RM-Bench", (None,)),
    "judgebench": Benchmark("ScalerLab/JudgeBench", ("gpt", "claude"), "question"),
    "ppe-ifeval": Benchmark("lmarena-ai/PPE-IFEval-Best-of-K", ("train",)),
    "helpsteer3": Benchmark("nvidia/HelpSteer3", ("validation",), "context", "preference"),
    "writing": Benchmark("m-a-p/Writing-Preference-Bench", (None,)),
}
"""Benchmarks that can be named, as in `catalogue`, which stands on a floor above."""
_PROMPT_COLUMNS = ("prompt", "instruction", "question", "context", "conversation_input")
"""Where a file of prompts may have them, the first of these that is there."""


class Overlap:
    """The word runs of benchmark prompts. ``words``: how many words in a row are an overlap."""

    def __init__(self, words: int) -> None:
        self.words = words
        self._runs: set[str] = set()
        self._whole: set[str] = set()

    def add(self, prompt: Prompt) -> None:
        """Watch for this prompt."""
        turns = _turns(prompt)
        whole = " ".join(word for turn in turns for word in turn)
        if whole:
            self._whole.add(whole)
        self._runs.update(run for turn in turns for run in self._runs_of(turn))

    def found_in(self, prompt: Prompt) -> bool:
        """Whether the prompt overlaps with one that is watched for."""
        turns = _turns(prompt)
        if " ".join(word for turn in turns for word in turn) in self._whole:
            return True
        return any(run in self._runs for turn in turns for run in self._runs_of(turn))

    def _runs_of(self, turn: list[str]) -> Iterator[str]:
        return (" ".join(turn[start : start + self.words]) for start in range(len(turn) - self.words + 1))


def overlap_with(names: Iterable[str], words: int) -> Overlap | None:
    """The prompts of benchmarks: each a name of :data:`BENCHMARKS`, a file, a folder or a Hub id; None without any.

    Raises:
        DataError: if one of them cannot be read.
    """
    overlap = Overlap(words)
    given = tuple(names)
    for name in given:
        for row, columns in _benchmark_rows(name):
            overlap.add(_prompt(row, columns))
    return overlap if given else None


def _benchmark_rows(name: str) -> Iterator[tuple[Row, tuple[str, ...]]]:
    known = BENCHMARKS.get(name.lower())
    if known is None:
        try:
            yield from ((row, _PROMPT_COLUMNS) for row in open_rows(name, streaming=True))
        except DataError as error:
            raise DataError(f"decontaminate: {error} Benchmarks that can be named: {', '.join(BENCHMARKS)}.") from error
        return
    for split in known.splits:
        rows = open_rows(known.hub_id, config=known.config, split=split, streaming=True)
        yield from ((row, (known.column,)) for row in rows)


def _prompt(row: Row, columns: tuple[str, ...]) -> Prompt:
    """The row's prompt; of messages all, whoever had the last word."""
    name = next((name for name in columns if row.has(name)), None)
    if name is None:
        row.require(columns[0])
        raise row.error(f"no prompt. Give one in a column {' or '.join(columns)}.")
    return row.messages(name) if isinstance(row.columns[name], list) else row.text(name)


def _turns(prompt: Prompt) -> list[list[str]]:
    texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
    return [_WORD.findall(_plain(text)) for text in texts]


def _plain(text: str) -> str:
    """In lower case and, for scripts with them, without the marks that would break a word into pieces."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.category(c).startswith("M"))
    return text.casefold()
