"""Decontamination: finds training prompts that overlap with the prompts of benchmarks.

A training prompt overlaps if one of its turns shares a run of ``words`` words with a turn of a benchmark's prompt, or
if it equals a whole benchmark prompt, however short. Words are compared in lower case, without punctuation, accents and
other marks; in scripts written without blanks each character is a word. Templates that many prompts share count like
any other text, so this removes too much rather than too little.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

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
"""Benchmarks that a recipe can name; the same as in :mod:`rubric_arm_lite.evaluation.benchmarks.catalogue`."""
_PROMPT_COLUMNS = ("prompt", "instruction", "question", "context", "conversation_input")
"""Columns that may hold the prompts of a file; the first one present is read."""


class Decontaminator:
    """The prompts of benchmarks. ``words``: the length of a shared run of words that counts as an overlap."""

    def __init__(self, words: int) -> None:
        self.words = words
        self._runs: set[str] = set()
        self._prompts: set[str] = set()

    def add(self, prompt: Prompt) -> None:
        """Add a benchmark's prompt."""
        text, runs = self._words_of(prompt)
        self._prompts.add(text)
        self._runs.update(runs)

    def matches(self, prompt: Prompt) -> bool:
        """Whether the prompt overlaps with a benchmark's prompt."""
        text, runs = self._words_of(prompt)
        return bool(text) and (text in self._prompts or any(run in self._runs for run in runs))

    def _words_of(self, prompt: Prompt) -> tuple[str, Iterator[str]]:
        """All words of a prompt as one text, and every run of ``words`` words of a turn."""
        texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
        turns = [_WORD.findall(_plain(text)) for text in texts]
        n = self.words
        runs = (" ".join(turn[start : start + n]) for turn in turns for start in range(len(turn) - n + 1))
        return " ".join(chain(*turns)), runs


def decontaminator_of(benchmarks: Collection[str], words: int) -> Decontaminator | None:
    """The prompts of benchmarks: each a name of :data:`BENCHMARKS`, a file, a folder or a Hub id; None without any.

    Raises:
        DataError: if one of them cannot be read.
    """
    if not benchmarks:
        return None
    decontaminator = Decontaminator(words)
    for benchmark in benchmarks:
        for prompt in _prompts(benchmark):
            decontaminator.add(prompt)
    return decontaminator


def _prompts(name: str) -> Iterator[Prompt]:
    known = BENCHMARKS.get(name.lower())
    if known is not None:
        for split in known.splits:
            for row in open_rows(known.hub_id, config=known.config, split=split, streaming=True):
                yield _prompt(row, (known.column,))
        return
    try:
        rows = open_rows(name, streaming=True)
        yield from (_prompt(row, _PROMPT_COLUMNS) for row in rows)
    except DataError as error:
        raise DataError(f"decontaminate: {error} Benchmarks that can be named: {', '.join(BENCHMARKS)}.") from error


def _prompt(row: Row, columns: tuple[str, ...]) -> Prompt:
    """The row's prompt; of a conversation all messages, whoever wrote the last one."""
    name = next((name for name in columns if row.has(name)), None)
    if name is None:
        row.require(columns[0])
        raise row.error(f"no prompt. Give one in a column {' or '.join(columns)}.")
    return row.messages(name) if isinstance(row.columns[name], list) else row.text(name)


def _plain(text: str) -> str:
    """The text in lower case without accents and other marks, which would split a word."""
    return (text if text.isascii() else "".join(map(_without_marks, text))).casefold()


@lru_cache(1 << 16)
def _without_marks(character: str) -> str:
    """One character at a time: normalizing a text as a whole sorts its marks, in quadratic time."""
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if not unicodedata.category(part).startswith("M"))
