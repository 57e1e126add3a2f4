"""The requests of a policy run, and the answers that its supervised start imitates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

from rubric_arm_lite.data import Counts, shuffle_blocks, split_blocks
from rubric_arm_lite.data.load import held_out_settings
from rubric_arm_lite.data.pairs import load_answers, read_prompts
from rubric_arm_lite.data.testbed import TRAIN_PROMPTS, World
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.prompts import PromptBuilder, prompt_hash, wording
from rubric_arm_lite.recipe import PolicyRecipe, derive_seed
from rubric_arm_lite.types import Comparison, Example, Prompt, PromptBlock


@dataclass(frozen=True, slots=True)
class Request:
    """A single request to the policy."""

    prompt_id: str
    text: str

    def comparison(self, answer: str, other: str) -> Comparison:
        """Two answers to this request, the policy's first."""
        return Comparison(self.prompt_id, self.text, answer, other)

    def example(self, prompts: PromptBuilder, seed: int) -> Example:
        """The policy's prompt; its draws derive from ``seed`` and the request."""
        return Example(self.prompt_id, prompts.policy_prompt(self.text), derive_seed(seed, self.prompt_id))


@dataclass(frozen=True, slots=True)
class Requests:
    """Training and held-out requests, the numbers of skipped conversations and of requests that are too long, and the
    counts of the rows of each source."""

    train: list[Request]
    test: list[Request]
    conversations: int
    too_long: int
    sources: tuple[Counts, ...] = ()

    @property
    def all(self) -> list[Request]:
        """Training requests, then held-out ones."""
        return [*self.train, *self.test]

    def fingerprint(self) -> str:
        """Hash of all requests in their order."""
        rows = [[r.prompt_id for r in self.train], [r.prompt_id for r in self.test]]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def load_requests(recipe: PolicyRecipe, world: World | None, fits: Callable[[str], bool]) -> Requests:
    """The recipe's requests that fit the context. Conversations are skipped: the policy answers single requests.

    Raises:
        DataError: if either part is empty.
    """
    data, limit = recipe.data, recipe.evaluation.prompts
    sources: list[Counts] = []
    if world is not None:
        sizes = {
            "train": ("data.train_prompts", data.train_prompts or TRAIN_PROMPTS),
            "test": ("evaluation.prompts", limit),
        }
        blocks = []
        for split, (field, count) in sizes.items():
            try:
                blocks.append(world.blocks(split, count))
            except ValueError as error:
                raise ConfigError(f"{field}: {error} Lower it.") from error
    else:
        prompts, of_train = read_prompts(data, recipe.seed)
        train = _blocks(prompts)
        sources.append(of_train)
        if data.evaluation is None:
            train, test = split_blocks(train, data.test_fraction, recipe.seed)
        else:
            prompts, of_test = read_prompts(held_out_settings(data), recipe.seed)
            test = _blocks(prompts)
            sources.append(of_test)
            held_out = {wording(block.prompt) for block in test}
            train = [block for block in train if wording(block.prompt) not in held_out]
        blocks = [shuffle_blocks(part, recipe.seed) for part in (train, test)]
    single = [[Request(b.prompt_id, b.prompt) for b in part if isinstance(b.prompt, str)] for part in blocks]
    fitting = [[request for request in part if fits(request.text)] for part in single]
    for requests, name in zip(fitting, ("training", "held-out"), strict=True):
        if not requests:
            raise DataError(
                f"No {name} request of {data.source} is a single text that fits the context with its answer. Give "
                "more prompts, or raise model.max_context."
            )
    counts = [sum(map(len, parts)) for parts in (blocks, single, fitting)]
    train_part, test_part = fitting[0][: data.train_prompts], fitting[1][:limit]
    return Requests(train_part, test_part, counts[0] - counts[1], counts[1] - counts[2], tuple(sources))


def _blocks(prompts: Iterable[Prompt]) -> list[PromptBlock]:
    return [PromptBlock(prompt_hash(prompt), prompt, ()) for prompt in prompts]


def start_answers(
    recipe: PolicyRecipe, world: World | None, held_out: Set[str] = frozenset()
) -> Sequence[tuple[str, str]]:
    """Requests with the answers that the supervised start imitates; empty without such a start.

    On the testbed these are all responses of the world's pairs, chosen or not: the start learns the form of an answer,
    not which one is good. Other answers to the prompts of ``held_out``, by wording, are skipped.

    Raises:
        DataError: if no answer is left.
    """
    source = recipe.start.source
    if source is None:
        return []
    if source == "testbed" and world is not None:
        pairs = [p for b in world.blocks("train", recipe.data.train_prompts or TRAIN_PROMPTS) for p in b.pairs]
        return [(str(pair.prompt), answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    answers = [(p, a) for p, a in load_answers(source) if isinstance(p, str) and wording(p) not in held_out]
    if not answers:
        raise DataError(
            f"{source}: every row is a conversation, or answers a held-out request. The start imitates answers to "
            "single requests; give some."
        )
    return answers
