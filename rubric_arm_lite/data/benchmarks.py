"""Public benchmarks (``benchmarks.yaml``): where their rows are, and which training prompts overlap with their prompts.

A training prompt overlaps if one of its turns shares a run of ``words`` words with a turn of a benchmark's prompt, or
if it equals a whole benchmark prompt, however short, but for case, blanks or punctuation. Words are compared in lower
case, without punctuation, accents and other marks; in scripts written without blanks each character is a word.
Templates that many prompts share count like any other text, so this removes too much rather than too little.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from itertools import chain
from pathlib import Path

from ruamel.yaml import YAML

from rubric_arm_lite.data.formats import open_source, prompt_format
from rubric_arm_lite.data.rows import RowError
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.prompts import wording
from rubric_arm_lite.recipe import SourceSettings
from rubric_arm_lite.types import Prompt

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese."""
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")


@dataclass(frozen=True, slots=True)
class Part:
    """One config and split of a benchmark's source; ``files`` matches the names of its files in its own repository."""

    config: str | None = None
    split: str | None = None
    files: str | None = None

    def files_in(self, folder: str | Path) -> list[Path]:
        """The files of this part as the benchmark's own repository names them, in the folder or below it."""
        folder = Path(folder)
        if self.files is None or not folder.is_dir():
            return []
        named = {path: re.fullmatch(self.files, path.name) for path in sorted(folder.rglob("*")) if path.is_file()}
        found = {path: match for path, match in named.items() if match is not None}
        if self.config is not None:
            found = {path: match for path, match in found.items() if self.config in path.absolute().parts}
        return [path for path, match in found.items() if not any(match.groups())] or list(found)


@dataclass(frozen=True, slots=True)
class PublicBenchmark:
    """One entry of the catalogue.

    Attributes:
        source: Hub id; None if the user must name a local copy.
        parts: what is read of the source; empty for a user's own file of pairs.
        rows: rows of the whole benchmark; None if unknown.
        rule: the scoring rule in words, printed beside the numbers.
        unparsed: what a verdict that names neither response counts for, in words.
        skips: which rows give no item.
        lacks: what cannot be computed from a pairwise judge.
        sections: weights of subsets by section.
    """

    name: str
    title: str
    source: str | None = None
    parts: tuple[Part, ...] = ()
    rows: int | None = None
    rule: str = "share of pairs whose better response is named, mean of both orders"
    unparsed: str = "{pair:g}"
    skips: str = ""
    lacks: str = ""
    sections: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def _catalogue() -> Iterator[PublicBenchmark]:
    text = resources.files("rubric_arm_lite.data").joinpath("benchmarks.yaml").read_text("utf-8")
    for name, entry in YAML(typ="safe").load(text).items():
        yield PublicBenchmark(name, parts=tuple(Part(**part) for part in entry.pop("parts")), **entry)


CATALOGUE = {benchmark.name: benchmark for benchmark in _catalogue()}
"""The public benchmarks, by name."""


# --- decontamination ------------------------------------------------------------------------------------------------


class Decontaminator:
    """The prompts of benchmarks. ``words``: the length of a shared run of words that counts as an overlap."""

    def __init__(self, words: int) -> None:
        self.words = words
        self._runs: set[str] = set()
        self._prompts: set[str] = set()

    def add(self, prompt: Prompt) -> None:
        """Add a benchmark's prompt."""
        text, runs = self._words_of(prompt)
        self._prompts |= {text, wording(prompt)}
        self._runs.update(runs)

    def matches(self, prompt: Prompt) -> bool:
        """Whether the prompt overlaps with a benchmark's prompt."""
        text, runs = self._words_of(prompt)
        equal = bool(text) and (text in self._prompts or wording(prompt) in self._prompts)
        return equal or any(run in self._runs for run in runs)

    def _words_of(self, prompt: Prompt) -> tuple[str, Iterator[str]]:
        """All words of a prompt as one text, and every run of ``words`` words of a turn."""
        texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
        # Accents and other marks would split a word.
        plain = (text if text.isascii() else "".join(map(_without_marks, text)) for text in texts)
        turns = [_WORD.findall(text.casefold()) for text in plain]
        n = self.words
        runs = (" ".join(turn[start : start + n]) for turn in turns for start in range(len(turn) - n + 1))
        return " ".join(chain(*turns)), runs


def decontaminator_of(benchmarks: Collection[str], words: int) -> Decontaminator | None:
    """The prompts of benchmarks: each a name of the catalogue, ``name=path``, a file, a folder or a Hub id.

    None without any. Prompts are read by every format and benchmark that is known.

    Raises:
        DataError: if one of them cannot be read.
    """
    if not benchmarks:
        return None
    decontaminator = Decontaminator(words)
    for benchmark in benchmarks:
        try:
            for prompt in chain.from_iterable(map(_prompts, _sources(benchmark))):
                decontaminator.add(prompt)
        except DataError as error:
            raise DataError(f"decontaminate: {error} Benchmarks that can be named: {', '.join(CATALOGUE)}.") from error
    return decontaminator


def _sources(given: str) -> Iterator[SourceSettings]:
    """The sources that a benchmark's name, ``name=path`` or any other file, folder or Hub id means."""
    name, is_path, path = given.partition("=")
    benchmark = CATALOGUE.get(name.lower())
    place = path if is_path or benchmark is None else benchmark.source
    if benchmark is None or not place:
        yield SourceSettings(source=given, streaming=True)
    elif Path(place).is_file():
        yield SourceSettings(source=place)
    elif files := [file for part in benchmark.parts for file in part.files_in(place)]:
        yield from (SourceSettings(source=str(file)) for file in files)
    else:
        for part in benchmark.parts:
            yield SourceSettings(source=place, config=part.config, split=part.split, streaming=True)


def _prompts(settings: SourceSettings) -> Iterator[Prompt]:
    """The prompts of all rows, whatever their labels and responses; of a conversation without a last request all."""
    format, rows = open_source(settings)
    for row in rows:
        chosen = prompt_format(format, row)
        column = chosen.prompt_column
        try:
            row = chosen.converted(row)
            yield chosen.prompt_of(row)
        except RowError as error:
            if not error.skippable:
                raise
            if column is not None and row.has(column):
                yield row.messages(column) if isinstance(row.get(column), list) else row.text(column, blank=True)
            else:
                yield from (row.messages(name)[:-1] for name in chosen.responses if isinstance(row.get(name), list))


@lru_cache(1 << 16)
def _without_marks(character: str) -> str:
    """One character at a time: normalizing a text as a whole sorts its marks, in quadratic time."""
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if not unicodedata.category(part).startswith("M"))
