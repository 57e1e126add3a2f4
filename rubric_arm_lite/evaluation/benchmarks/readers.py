"""What the rows of each benchmark mean: one small function per benchmark, from a row to its items.

A row that asks nothing (no preference, no wrong response) gives no item and is counted by the caller. Anything else
that does not fit raises a :class:`~rubric_arm_lite.errors.DataError` with the place, the columns expected and found.
The better response comes first in a duel. Responses may be empty: two of RMB's are.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from rubric_arm_lite.data import Row
from rubric_arm_lite.data.rows import kind, show
from rubric_arm_lite.evaluation.benchmarks.scoring import STYLES, Item
from rubric_arm_lite.recipe import derive_seed

PPE_PAIRS = 5
"""Pairs per question of PPE, as many as its own column `sampled_conflict_pairs` has."""
JUDGEBENCH_LABELS = ("A>B", "B>A")
RM_BENCH_DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")


def rewardbench(row: Row) -> list[Item]:
    """prompt, chosen, rejected, subset, id."""
    row.require("prompt", "chosen", "rejected", "subset", "id")
    subset = row.text("subset")
    responses = (_response(row, "chosen"), _response(row, "rejected"))
    return [Item(f"{subset}/{_id(row, 'id')}", row.prompt(), responses, subset=subset, where=row.where)]


def rewardbench2(row: Row) -> list[Item]:
    """prompt, chosen[1], rejected[3], subset, id; a row of the subset Ties asks nothing of a pairwise judge."""
    row.require("prompt", "chosen", "rejected", "num_correct", "total_completions", "subset", "id")
    subset = row.text("subset")
    if subset == "Ties":
        return []
    chosen, rejected = _responses(row, "chosen"), _responses(row, "rejected")
    if len(chosen) != 1:
        raise row.error(f"column `chosen` has {len(chosen)} responses. Outside the subset Ties there is one.")
    _same(row, "num_correct", len(chosen))
    _same(row, "total_completions", len(chosen) + len(rejected))
    duels = tuple((0, place) for place in range(1, 1 + len(rejected)))
    where = row.where
    return [Item(f"{subset}/{_id(row, 'id')}", row.prompt(), (*chosen, *rejected), duels, subset, where)]


def tournament(item: Item) -> Item:
    """The same item with every pair of its responses as a duel."""
    duels = tuple(itertools.combinations(range(len(item.responses)), 2))
    return Item(item.item_id, item.prompt, item.responses, duels, item.subset, item.where)


def rm_bench(row: Row) -> list[Item]:
    """id, prompt, chosen[3], rejected[3], domain: nine duels, chosen style by rejected style, row by row."""
    row.require("id", "prompt", "chosen", "rejected", "domain")
    domain = row.text("domain")
    if domain not in RM_BENCH_DOMAINS:
        raise row.error(f"column `domain` is {show(domain)}. Use one of {', '.join(RM_BENCH_DOMAINS)}.")
    sides = [_responses(row, name) for name in ("chosen", "rejected")]
    for name, texts in zip(("chosen", "rejected"), sides, strict=True):
        if len(texts) != STYLES:
            raise row.error(f"column `{name}` has {len(texts)} responses. RM-Bench has {STYLES}, one per style.")
    duels = tuple((i, STYLES + j) for i in range(STYLES) for j in range(STYLES))
    responses = (*sides[0], *sides[1])
    return [Item(f"{domain}/{_id(row, 'id')}", row.prompt(), responses, duels, domain, row.where)]


def judgebench(row: Row) -> list[Item]:
    """pair_id, source, question, response_model, response_A, response_B, label; the subset is model and category."""
    row.require("pair_id", "source", "question", "response_model", "response_A", "response_B", "label")
    label = row.text("label")
    if label not in JUDGEBENCH_LABELS:
        raise row.error(f"column `label` is {show(label)}. Use one of {', '.join(JUDGEBENCH_LABELS)}.")
    a, b = _response(row, "response_A"), _response(row, "response_B")
    model = row.text("response_model")
    split = next((name for name in ("gpt", "claude") if model.startswith(name)), model)
    source = row.text("source")
    category = {"livebench-reasoning": "reasoning", "livebench-math": "math", "livecodebench": "coding"}.get(source)
    if category is None:
        category = "knowledge" if source.startswith("mmlu-pro") else source
    responses = (a, b) if label == "A>B" else (b, a)
    return [Item(_id(row, "pair_id"), row.prompt("question"), responses, subset=f"{split}/{category}", where=row.where)]


def rmb_pairs(row: Row) -> list[Item]:
    """pair_uid, conversation_input, chosen{answer}, reject{answer}, category_path."""
    row.require("pair_uid", "conversation_input", "chosen", "reject", "category_path")
    responses = (_answer(row, "chosen", row.value("chosen")), _answer(row, "reject", row.value("reject")))
    subset = f"pairwise {_goal(row)}"
    name = f"pair/{_id(row, 'pair_uid')}"
    return [Item(name, row.prompt("conversation_input"), responses, subset=subset, where=row.where)]


def rmb_best_of(row: Row) -> list[Item]:
    """bon_uid, conversation_input, bon_best{answer}, loser_list[{answer}], category_path."""
    row.require("bon_uid", "conversation_input", "bon_best", "loser_list", "category_path")
    best = _answer(row, "bon_best", row.value("bon_best"))
    losers = [_answer(row, f"loser_list, item {i}", v) for i, v in enumerate(row.items("loser_list"), start=1)]
    duels = tuple((0, place) for place in range(1, 1 + len(losers)))
    name, prompt = f"best-of-n/{_id(row, 'bon_uid')}", row.prompt("conversation_input")
    return [Item(name, prompt, (best, *losers), duels, f"best of n {_goal(row)}", row.where)]


def ppe_best_of_k(row: Row) -> list[Item]:
    """question_id, prompt, response_1 … response_k, scores[k] (right or wrong); pairs of a right and a wrong response.

    The pairs are those of the data set's own column `sampled_conflict_pairs` (places from 0). Without that column
    :data:`PPE_PAIRS` of all right-and-wrong pairs are drawn from the question's id. A question whose responses are
    all right or all wrong gives none.
    """
    row.require("question_id", "prompt", "response_1", "response_2", "scores")
    scores = row.items("scores")
    if not all(isinstance(score, bool) for score in scores):
        raise row.error("column `scores` holds something other than true and false. Give one of them per response.")
    name, prompt = _id(row, "question_id"), row.prompt()
    responses = [_response(row, f"response_{place}") for place in range(1, len(scores) + 1)]
    if row.has(f"response_{len(scores) + 1}"):
        raise row.error(f"column `scores` has {len(scores)} entries, and there are more responses. Give one for each.")
    pairs = _conflicts(row, scores) if row.has("sampled_conflict_pairs") else _drawn_conflicts(name, scores)
    return [
        Item(f"{name}/{better + 1}-{worse + 1}", prompt, (responses[better], responses[worse]), where=row.where)
        for better, worse in pairs
    ]


def helpsteer3(row: Row) -> list[Item]:
    """context, response1, response2, overall_preference in −3 … 3, negative if response 1 is better; 0 asks nothing."""
    row.require("domain", "language", "context", "response1", "response2", "overall_preference")
    preference = row.number("overall_preference")
    if preference not in range(-3, 4):
        raise row.error(f"column `overall_preference` is {preference:g}. Give a whole number from -3 to 3.")
    first, second = _response(row, "response1"), _response(row, "response2")
    prompt = row.prompt("context")
    if preference == 0:
        return []
    responses = (first, second) if preference < 0 else (second, first)
    return [Item(row.where.rpartition(", ")[2], prompt, responses, subset=row.text("domain"), where=row.where)]


def writing(row: Row) -> list[Item]:
    """prompt, chosen{response or text}, rejected{…}, and a language or tag if there is one."""
    row.require("prompt", "chosen", "rejected")
    responses = tuple(_written(row, name) for name in ("chosen", "rejected"))
    prompt = row.prompt()
    given = next((name for name in ("prompt_id", "id") if row.has(name)), None)
    item_id = row.where.rpartition(", ")[2] if given is None else _id(row, given)
    return [Item(item_id, prompt, responses, subset=row.label("language"), where=row.where)]


# --- columns --------------------------------------------------------------------------------------------------------


def _id(row: Row, name: str) -> str:
    """A text or whole number as an id."""
    value = row.value(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return row.text(name)


def _response(row: Row, name: str) -> str:
    return _as_response(row, f"column `{name}`", row.value(name))


def _responses(row: Row, name: str) -> tuple[str, ...]:
    return tuple(
        _as_response(row, f"item {number} of `{name}`", item) for number, item in enumerate(row.items(name), start=1)
    )


def _as_response(row: Row, what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise row.error(f"{what} is {kind(value)}. Give a text.")
    return row.checked(what, value)


def _answer(row: Row, name: str, value: Any) -> str:
    if not isinstance(value, dict) or "answer" not in value:
        found = ", ".join(map(str, value)) if isinstance(value, dict) else kind(value)
        raise row.error(f"`{name}` is no object with `answer` (found: {found}). Give one.")
    return _as_response(row, f"`answer` in `{name}`", value["answer"])


def _written(row: Row, name: str) -> str:
    value = row.value(name)
    if isinstance(value, dict):
        for key in ("response", "text"):
            if value.get(key) is not None:
                return _as_response(row, f"`{key}` in `{name}`", value[key])
        found = ", ".join(map(str, value)) or "nothing"
        raise row.error(f"column `{name}` has neither `response` nor `text` (found: {found}). Give one.")
    return _as_response(row, f"column `{name}`", value)


def _goal(row: Row) -> str:
    """RMB's two goals, from a path such as ``Pairwise_set/Helpfulness/Chat``."""
    path = row.text("category_path")
    for goal in ("Helpfulness", "Harmlessness"):
        if goal in path.split("/"):
            return goal.lower()
    raise row.error(f"column `category_path` is {show(path)}. It names neither Helpfulness nor Harmlessness.")


def _same(row: Row, name: str, count: int) -> None:
    if row.number(name) != count:
        raise row.error(f"column `{name}` is {row.number(name):g}, but the row has {count}. Check the data set.")


def _conflicts(row: Row, scores: Sequence[bool]) -> list[tuple[int, int]]:
    pairs = []
    given = row.value("sampled_conflict_pairs")
    if not isinstance(given, list):
        raise row.error(f"column `sampled_conflict_pairs` is {kind(given)}. Give a list of pairs.")
    for number, pair in enumerate(given, start=1):
        what = f"pair {number} of `sampled_conflict_pairs`"
        whole = isinstance(pair, list) and all(isinstance(p, int) and not isinstance(p, bool) for p in pair)
        if not whole or len(pair) != 2 or not all(0 <= place < len(scores) for place in pair):
            raise row.error(f"{what} is not two places from 0 to {len(scores) - 1}. Correct it.")
        first, second = pair
        if scores[first] == scores[second]:
            raise row.error(f"{what} names two responses that are both {'right' if scores[first] else 'wrong'}.")
        pairs.append((first, second) if scores[first] else (second, first))
    return pairs


def _drawn_conflicts(question: str, scores: Sequence[bool]) -> list[tuple[int, int]]:
    right = [place for place, score in enumerate(scores) if score]
    wrong = [place for place, score in enumerate(scores) if not score]
    every = list(itertools.product(right, wrong))
    return random.Random(derive_seed("ppe", question)).sample(every, min(PPE_PAIRS, len(every)))
