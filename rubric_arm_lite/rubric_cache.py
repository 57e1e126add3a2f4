"""A bounded, in-memory store of rubrics, so that a prompt's rubric is written once per generator state.

The key names everything a rubric depends on: the prompt, the weights of the rubric adapter, the template and the
decoding parameters. When the adapter changes, its fingerprint does, and old rubrics are never served again.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.errors import CheckpointError
from rubric_arm_lite.types import Criterion, CriterionKind, ParseStatus, Rubric


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What a cached rubric depends on; ``draw`` numbers the rubrics of one prompt from 0."""

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
        self._entries: OrderedDict[CacheKey, Rubric] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> Rubric | None:
        """The rubric, or None; counts a hit or a miss."""
        rubric = self._entries.get(key)
        if rubric is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return rubric

    def put(self, key: CacheKey, rubric: Rubric) -> None:
        """Store a rubric; the least recently used one goes if the cache is full."""
        self._entries[key] = rubric
        self._entries.move_to_end(key)
        while len(self._entries) > self.capacity:
            self._entries.popitem(last=False)

    @property
    def hit_rate(self) -> float:
        """Share of look-ups that were served, 0 before the first."""
        looked_up = self.hits + self.misses
        return self.hits / looked_up if looked_up else 0.0

    def dumps(self) -> str:
        """The cache as JSON text, in order of use."""
        rows = [
            {
                "key": [key.prompt, key.adapter, key.template, key.decoding, key.draw],
                "text": rubric.text,
                "criteria": [[c.text, c.kind.value] for c in rubric.criteria],
                "status": rubric.status.value,
            }
            for key, rubric in self._entries.items()
        ]
        return json.dumps({"hits": self.hits, "misses": self.misses, "rows": rows}, ensure_ascii=True)

    @classmethod
    def loads(cls, text: str, capacity: int) -> RubricCache:
        """The cache that :meth:`dumps` wrote.

        Raises:
            CheckpointError: for any other text.
        """
        cache = cls(capacity)
        try:
            state: dict[str, Any] = json.loads(text)
            for row in state["rows"]:
                criteria = tuple(Criterion(words, CriterionKind(kind)) for words, kind in row["criteria"])
                cache.put(CacheKey(*row["key"]), Rubric(row["text"], criteria, ParseStatus(row["status"])))
            cache.hits, cache.misses = int(state["hits"]), int(state["misses"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"The rubric cache of the checkpoint is damaged ({type(error).__name__}: {error}). Start anew with "
                "--if-exists overwrite."
            ) from error
        return cache
