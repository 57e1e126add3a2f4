"""A teacher of the testbed's world that writes good and bad texts by rule, for tests of data synthesis."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rubric_arm_lite.data.testbed.trajectories import break_judgement, break_rubric, write_judgement
from rubric_arm_lite.data.testbed.world import World, parse_task
from rubric_arm_lite.prompts.parsing import parse_rubric
from rubric_arm_lite.recipe.fields import WorldSettings
from rubric_arm_lite.types import PreferencePair
from tests.fake_server import Behavior, Reply, Request, as_json, completions
from tests.players import section

WORLD = World(3, WorldSettings())


def pairs(count: int) -> list[PreferencePair]:
    """Preference pairs of :data:`WORLD`."""
    return [pair for block in WORLD.blocks("train", count) for pair in block.pairs][:count]


def write_pairs(path: Path, count: int) -> Path:
    """The pairs as a JSONL file."""
    rows = [{"id": p.pair_id, "prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(prompt: str, seed: int, good: float) -> str:
    """What the teacher writes: right with probability ``good``, else with one of its faults."""
    rng = random.Random(f"{seed}:{prompt}")
    fault = rng.random() >= good
    if "<preferred_response>" in prompt:
        task = parse_task(section("instruction", prompt))
        assert task is not None
        rubric = WORLD.true_rubric(task)
        more = f"{rubric.text}\n{len(rubric.criteria) + 1}. The response"
        words = section("preferred_response", prompt).split()
        if not fault:
            return rubric.text
        quoted = f'{more} says "{words[0]} {words[1]}" [Hard Rule]'
        return rng.choice((break_rubric(rubric, rng), quoted, f"{more} is like Response A [Principle]"))
    text = write_judgement(
        parse_rubric(section("rubric", prompt)), section("response_a", prompt), section("response_b", prompt)
    )
    turned = text[:-1] + ("B" if text.endswith("A") else "A")
    return rng.choice((break_judgement(text, rng), turned)) if fault else text


def teaching(good: float = 0.7, delay: float = 0.0) -> Behavior:
    """A server with that teacher; equal requests get equal answers."""

    def behave(request: Request) -> Reply:
        reply = as_json(completions(answer(request.prompt, request.body["seed"], good)))
        reply.delay = delay
        return reply

    return behave
