"""The data of a run: its training prompts and held-out pairs, as far as they fit the context.

A recipe goes in, with the model whose tokens decide what fits; a :class:`RunData` comes out. What was left out is
counted, and where the data are the testbed's, the world and the share of its principles that a rubric names come along.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from rubric_arm_lite.backends.base import ChatSampler
from rubric_arm_lite.blocks import filter_by_length
from rubric_arm_lite.config import Recipe
from rubric_arm_lite.errors import DataError
from rubric_arm_lite.evaluate import Recall
from rubric_arm_lite.judging import judge_prompts
from rubric_arm_lite.prompts import PromptBuilder, prompt_hash
from rubric_arm_lite.sources.counts import Counts
from rubric_arm_lite.sources.overlap import Overlap, overlap_with
from rubric_arm_lite.sources.reading import read_blocks
from rubric_arm_lite.testbed import TRAIN_PROMPTS
from rubric_arm_lite.types import Criterion, CriterionKind, ParseStatus, PreferencePair, Prompt, PromptBlock, Rubric

_ONE_CRITERION = Rubric("", (Criterion("The response", CriterionKind.PRINCIPLE),), ParseStatus.OK)


@dataclass(frozen=True, slots=True)
class RunData:
    """Training prompts and held-out pairs, with what was left out because it was too long.

    Attributes:
        counts: what was read of the sources of pairs, and left out of them.
        overlap: prompts of the benchmarks that nothing may be trained on.
    """

    train: list[PromptBlock]
    test: list[PreferencePair]
    too_long: int
    recall: Recall | None = None
    world: Any = None
    counts: tuple[Counts, ...] = ()
    overlap: Overlap | None = None

    def fingerprint(self) -> str:
        """Hash of every pair in its order, to tell on a resume whether the data are still the same."""
        digest = hashlib.sha256()
        for pair in [*(pair for block in self.train for pair in block.pairs), *self.test]:
            row = [pair.pair_id, prompt_hash(pair.prompt), pair.chosen, pair.rejected]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()[:16]


def load_data(recipe: Recipe, model: ChatSampler, prompts: PromptBuilder, training: bool = True) -> RunData:
    """The recipe's training prompts and held-out pairs, without those that do not fit the context.

    Args:
        training: false if nothing will be trained; the training prompts are then neither measured nor counted, which
            a server would be asked about one by one.

    Raises:
        DataError: if nothing is left of either.
    """
    settings = recipe.data
    world = None
    recall: Recall | None = None
    counts: tuple[Counts, ...] = ()
    overlap: Overlap | None = None
    if settings.source == "testbed":
        from rubric_arm_lite.testbed.world import World

        world = World(recipe.seed, settings.world)
        train = world.blocks("train", settings.train_prompts or TRAIN_PROMPTS)
        clean = World(recipe.seed, settings.world.model_copy(update={"label_noise": 0.0}))
        test = clean.blocks("test", settings.test_prompts or recipe.evaluation.pairs)
        recall = _recall_of(world)
    else:
        overlap = overlap_with(settings.decontaminate, settings.overlap_words)
        train, test, counts = read_blocks(settings, recipe.seed, overlap)
    room = recipe.model.max_context

    def longest(pair: PreferencePair) -> int:
        return longest_prompt(pair, recipe, model, prompts)

    train, dropped_train = filter_by_length(train, longest, room) if training else (train, 0)
    test, dropped_test = filter_by_length(test, longest, room)
    if not train or not test:
        raise DataError(
            f"No {'training' if not train else 'held-out'} pair fits model.max_context ({room} tokens): each needs its "
            "prompt plus room for a rubric and a judgement. Raise the context, or lower evaluation.rubric_max_tokens "
            f"({recipe.evaluation.rubric_max_tokens}) and evaluation.judge_max_tokens "
            f"({recipe.evaluation.judge_max_tokens})."
        )
    if len(train) < recipe.schedule.cycles:
        raise DataError(
            f"{len(train)} training prompts cannot be split into schedule.cycles: {recipe.schedule.cycles} parts. Use "
            "fewer cycles or more data."
        )
    # One pair per held-out prompt first, so that a bounded evaluation sees as many prompts as it can.
    deepest = max(len(block.pairs) for block in test)
    pairs = [block.pairs[i] for i in range(deepest) for block in test if i < len(block.pairs)]
    return RunData(train, pairs, dropped_train + dropped_test, recall, world, counts, overlap)


def longest_prompt(pair: PreferencePair, recipe: Recipe, model: ChatSampler, prompts: PromptBuilder) -> int:
    """Tokens of the longest sequence that this pair can lead to, with room for a rubric of full length."""
    evaluation = recipe.evaluation
    rubric_room = max(recipe.rubric.max_completion_length, evaluation.rubric_max_tokens)
    judge_room = max(recipe.judge.max_completion_length, recipe.reward.judge_max_tokens, evaluation.judge_max_tokens)
    generator = model.prompt_tokens(prompts.rubric_prompt(pair.prompt)) + rubric_room
    empty = judge_prompts(recipe, prompts, pair, _ONE_CRITERION)
    return max(generator, max(map(model.prompt_tokens, empty)) + rubric_room + judge_room)


def _recall_of(world: Any) -> Recall:
    from rubric_arm_lite.testbed.world import named_attributes, parse_task

    def recall(prompt: Prompt, rubric: Rubric) -> float:
        task = parse_task(str(prompt))
        if task is None:
            return 0.0
        likes = set(world.likes[task.topic])
        return len(named_attributes(rubric) & likes) / len(likes)

    return recall
