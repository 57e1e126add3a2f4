"""The rubric generator with a bounded in-memory cache.

The cache's key holds everything a rubric depends on: the prompt, the adapter's weights, the template and the decoding
parameters. When the adapter changes, its fingerprint changes, and the cache serves no old rubrics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.models import Sampler, Sampling
from rubric_arm_lite.prompts import PromptBuilder, parse_rubric, prompt_hash
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import Criterion, CriterionKind, Example, ParseStatus, Prompt, Rubric


@dataclass(frozen=True, slots=True)
class CacheKey:
    """The key of a cached rubric; ``draw`` numbers the rubrics of one prompt from 0."""

    prompt: str
    adapter: str
    template: str
    decoding: str
    draw: int = 0


class RubricCache:
    """Least-recently-used cache of rubrics with a hit count."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"cache.capacity: {capacity} holds nothing. Use at least 1.")
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._entries: dict[CacheKey, Rubric] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> Rubric | None:
        """The rubric, or None; counts a hit or a miss."""
        rubric = self._entries.pop(key, None)
        if rubric is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries[key] = rubric  # at the end, as the last one used
        return rubric

    def put(self, key: CacheKey, rubric: Rubric) -> None:
        """Store a rubric, and drop the least recently used one if the cache is full."""
        self._entries.pop(key, None)
        self._entries[key] = rubric
        if len(self._entries) > self.capacity:
            del self._entries[next(iter(self._entries))]

    @property
    def hit_rate(self) -> float:
        """Share of look-ups that the cache served; 0 before the first."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else 0.0

    def dumps(self) -> str:
        """The cache as JSON text, in order of use."""
        rows = [{"key": astuple(key), **asdict(rubric)} for key, rubric in self._entries.items()]
        return json.dumps({"hits": self.hits, "misses": self.misses, "rows": rows}, ensure_ascii=True)

    @classmethod
    def loads(cls, text: str, capacity: int) -> RubricCache:
        """The cache that :meth:`dumps` wrote; a CheckpointError for any other text."""
        cache = cls(capacity)
        try:
            state: dict[str, Any] = json.loads(text)
            for row in state["rows"]:
                criteria = tuple(Criterion(c["text"], CriterionKind(c["kind"])) for c in row["criteria"])
                cache.put(CacheKey(*row["key"]), Rubric(row["text"], criteria, ParseStatus(row["status"])))
            cache.hits, cache.misses = int(state["hits"]), int(state["misses"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"The rubric cache of the checkpoint is damaged ({type(error).__name__}: {error}). Start anew with "
                "--if-exists overwrite."
            ) from error
        return cache


@dataclass
class RubricGenerator:
    """Writes rubrics for prompts with the current rubric adapter (paper, sec. 3), through a cache."""

    sampler: Sampler
    prompts: PromptBuilder
    cache: RubricCache

    def with_new_cache(self) -> RubricGenerator:
        """The same generator with a new, empty cache."""
        return RubricGenerator(self.sampler, self.prompts, RubricCache(self.cache.capacity))

    def write(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        draws: Sequence[int] | None = None,
        adapter: str | None = "rubric",
        attempts: int = 1,
    ) -> list[Rubric]:
        """One rubric per prompt, in order; equal prompts with the same draw share one.

        Args:
            draws: numbers the rubrics of one prompt from 0; all 0 by default.
            adapter: the adapter that writes; None is the bare base.
            attempts: how often a rubric is drawn at most, until one parses; a greedy one is written once.
        """
        state = self.sampler.fingerprint(adapter)
        template = self.prompts.templates.fingerprint()
        decoding = f"{sampling.describe()}-s{seed}-a{attempts}" if sampling.temperature else sampling.describe()
        draws = draws or [0] * len(prompts)
        keys = [CacheKey(prompt_hash(p), state, template, decoding, n) for p, n in zip(prompts, draws, strict=True)]
        cached = [self.cache.get(key) for key in keys]
        rubrics = {key: rubric for key, rubric in zip(keys, cached, strict=True) if rubric}
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in rubrics}
        for attempt in range(attempts if sampling.temperature else 1):
            open_keys = [key for key in missing if key not in rubrics or not rubrics[key].usable]
            if not open_keys:
                break
            examples = [
                Example(k.prompt, self.prompts.rubric_prompt(missing[k]), derive_seed(seed, k.prompt, k.draw, attempt))
                for k in open_keys
            ]
            for key, group in zip(open_keys, self.sampler.sample(adapter, examples, sampling), strict=True):
                rubrics[key] = parse_rubric(group.samples[0].text, group.samples[0].finish_reason)
        for key in missing:
            self.cache.put(key, rubrics[key])
        return [rubrics[key] for key in keys]
