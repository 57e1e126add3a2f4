"""Readers of the public benchmarks: one function per layout, from a row to its items.

A row without a question (no preference, no wrong response) gives no item. A row of RMB without a request, with an empty
response or with equal ones raises :class:`~rubric_arm_lite.data.formats.SkippedRow`. Any other row that does not fit
raises a :class:`~rubric_arm_lite.errors.DataError` with its place and the columns expected and found. The better
response comes first in a duel.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from rubric_arm_lite.data import Row, RowError
from rubric_arm_lite.data.formats import SkippedRow
from rubric_arm_lite.data.rows import is_visible, short_repr, type_name
from rubric_arm_lite.evaluation.benchmarks.scoring import STYLES, Item
from rubric_arm_lite.recipe import derive_seed
from rubric_arm_lite.types import Prompt

PPE_PAIRS = 5
"""Pairs per question of PPE, as many as its own column `sampled_conflict_pairs` has."""
JUDGEBENCH_CATEGORIES = {"livebench-reasoning": "reasoning", "livebench-math": "math", "livecodebench": "coding"}
RM_BENCH_DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")


def rewardbench(row: Row) -> list[Item]:
    """prompt, chosen, rejected, subset, id."""
    row.require("prompt", "chosen", "rejected", "subset", "id")
    subset, responses = row.text("subset"), _columns(row, "chosen", "rejected")
    return [Item(f"{subset}/{_id(row, 'id')}", row.prompt(), responses, subset=subset, where=row.where)]


def rewardbench2(row: Row) -> list[Item]:
    """prompt, chosen[1], rejected[3], subset, id; a row of the subset Ties gives no item for a pairwise judge."""
    row.require("prompt", "chosen", "rejected", "num_correct", "total_completions", "subset", "id")
    subset = row.text("subset")
    if subset == "Ties":
        return []
    chosen, rejected = row.texts("chosen", blank=True), row.texts("rejected", blank=True)
    if len(chosen) != 1:
        raise row.error(f"column `chosen` has {len(chosen)} responses. Outside the subset Ties there is one.")
    responses = (*chosen, *rejected)
    for name, count in (("num_correct", len(chosen)), ("total_completions", len(responses))):
        if row.number(name) != count:
            raise row.error(f"column `{name}` is {row.number(name):g}, but the row has {count}. Check the data set.")
    return [Item(f"{subset}/{_id(row, 'id')}", row.prompt(), responses, _best_first(responses), subset, row.where)]


def rm_bench(row: Row) -> list[Item]:
    """id, prompt, chosen[3], rejected[3], domain: nine duels, chosen style by rejected style, row by row."""
    row.require("id", "prompt", "chosen", "rejected", "domain")
    domain = row.one_of("domain", RM_BENCH_DOMAINS)
    responses: tuple[str, ...] = ()
    for name in ("chosen", "rejected"):
        texts = row.texts(name, blank=True)
        if len(texts) != STYLES:
            raise row.error(f"column `{name}` has {len(texts)} responses. RM-Bench has {STYLES}, one per style.")
        responses += texts
    duels = tuple(itertools.product(range(STYLES), range(STYLES, 2 * STYLES)))
    return [Item(f"{domain}/{_id(row, 'id')}", row.prompt(), responses, duels, domain, row.where)]


def judgebench(row: Row) -> list[Item]:
    """pair_id, source, question, response_model, response_A, response_B, label; the subset is model and category."""
    row.require("pair_id", "source", "question", "response_model", "response_A", "response_B", "label")
    label = row.one_of("label", ("A>B", "B>A"))
    responses = _columns(row, *("response_A", "response_B")[:: 1 if label == "A>B" else -1])
    model, source = row.text("response_model"), row.text("source")
    model = next((name for name in ("gpt", "claude") if model.startswith(name)), model)
    category = "knowledge" if source.startswith("mmlu-pro") else JUDGEBENCH_CATEGORIES.get(source, source)
    subset = f"{model}, {category}"
    return [Item(_id(row, "pair_id"), row.prompt("question"), responses, subset=subset, where=row.where)]


def rmb_pairs(row: Row) -> list[Item]:
    """pair_uid, conversation_input, chosen{answer}, reject{answer}, category_path."""
    row.require("pair_uid", "conversation_input", "chosen", "reject", "category_path")
    responses = tuple(row.inner(name).text("answer", blank=True) for name in ("chosen", "reject"))
    prompt, subset = _rmb_prompt(row, responses), f"pairwise {_goal(row)}"
    return [Item(f"pair/{_id(row, 'pair_uid')}", prompt, responses, subset=subset, where=row.where)]


def rmb_best_of(row: Row) -> list[Item]:
    """bon_uid, conversation_input, bon_best{answer}, loser_list[{answer}], category_path."""
    row.require("bon_uid", "conversation_input", "bon_best", "loser_list", "category_path")
    losers = [row.inner("loser_list", number + 1) for number in range(len(row.items("loser_list")))]
    responses = tuple(response.text("answer", blank=True) for response in (row.inner("bon_best"), *losers))
    prompt, subset = _rmb_prompt(row, responses), f"best of n {_goal(row)}"
    return [Item(f"best-of-n/{_id(row, 'bon_uid')}", prompt, responses, _best_first(responses), subset, row.where)]


def ppe_best_of_k(row: Row) -> list[Item]:
    """question_id, prompt, response_1 … response_k, scores[k] (right or wrong); pairs of a right and a wrong response.

    The pairs are those of the data set's own column `sampled_conflict_pairs` (indices from 0). Without that column,
    :data:`PPE_PAIRS` of all right-and-wrong pairs are drawn from the question's id. A question whose responses are
    all right or all wrong gives none.
    """
    row.require("question_id", "prompt", "response_1", "response_2", "scores")
    scores = row.items("scores")
    if not all(isinstance(score, bool) for score in scores):
        raise row.error("column `scores` holds something other than true and false. Give one of them per response.")
    question, prompt = _id(row, "question_id"), row.prompt()
    responses = _columns(row, *(f"response_{number}" for number in range(1, len(scores) + 1)))
    if row.has(f"response_{len(scores) + 1}"):
        raise row.error(f"column `scores` has {len(scores)} entries, and there are more responses. Give one for each.")
    if row.has("sampled_conflict_pairs"):
        pairs = _conflict_pairs(row, scores)
    else:
        places = range(len(scores))
        conflicts = [(a, b) for a, b in itertools.product(places, places) if scores[a] and not scores[b]]
        rng = random.Random(derive_seed("ppe", question))
        pairs = rng.sample(conflicts, min(PPE_PAIRS, len(conflicts)))
    return [
        Item(f"{question}/{right + 1}-{wrong + 1}", prompt, (responses[right], responses[wrong]), where=row.where)
        for right, wrong in pairs
    ]


def helpsteer3(row: Row) -> list[Item]:
    """context, response1, response2, overall_preference in −3 … 3: negative if response 1 is better, 0 for no item."""
    row.require("domain", "language", "context", "response1", "response2", "overall_preference")
    preference = row.number("overall_preference")
    if preference not in range(-3, 4):
        raise row.error(f"column `overall_preference` is {preference:g}. Give a whole number from -3 to 3.")
    responses = _columns(row, *("response1", "response2")[:: 1 if preference < 0 else -1])
    prompt = row.prompt("context")
    if preference == 0:
        return []
    return [Item(row.where.rpartition(", ")[2], prompt, responses, subset=row.text("domain"), where=row.where)]


def writing(row: Row) -> list[Item]:
    """prompt, chosen{response or text}, rejected{…}, and an id and a language if there are any."""
    row.require("prompt", "chosen", "rejected")
    responses = []
    for name in ("chosen", "rejected"):
        place, column = row, name
        if isinstance(row.value(name), dict):
            place = row.inner(name)
            column = "text" if place.has("text") and not place.has("response") else "response"
        responses.append(place.text(column, blank=True))
    prompt = row.prompt()
    id_column = next((name for name in ("prompt_id", "id") if row.has(name)), None)
    item_id = row.where.rpartition(", ")[2] if id_column is None else _id(row, id_column)
    return [Item(item_id, prompt, tuple(responses), subset=row.optional_text("language"), where=row.where)]


def _columns(row: Row, *names: str) -> tuple[str, ...]:
    """The responses in these columns."""
    return tuple(row.text(name, blank=True) for name in names)


def _rmb_prompt(row: Row, responses: Sequence[str]) -> Prompt:
    """The request, if a judge can tell the best response from the others."""
    try:
        prompt = row.prompt("conversation_input")
    except RowError as error:
        if error.reason == "empty text":
            raise SkippedRow("with an empty request") from error
        raise
    if not all(map(is_visible, responses)):
        raise SkippedRow("with an empty response")
    if responses[0] in responses[1:]:
        raise SkippedRow("with equal responses")
    return prompt


def _best_first(responses: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The duels of the first response with every other one."""
    return tuple((0, other) for other in range(1, len(responses)))


def _id(row: Row, name: str) -> str:
    """A text or whole number as an id."""
    value = row.value(name)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else row.text(name)


def _goal(row: Row) -> str:
    """RMB's two goals, from a path such as ``Pairwise_set/Helpfulness/Chat``."""
    path = row.text("category_path")
    for goal in ("Helpfulness", "Harmlessness"):
        if goal in path.split("/"):
            return goal.lower()
    raise row.error(f"column `category_path` is {short_repr(path)}. It names neither Helpfulness nor Harmlessness.")


def _conflict_pairs(row: Row, scores: Sequence[bool]) -> list[tuple[int, int]]:
    """PPE's own pairs, the right response first."""
    value = row.value("sampled_conflict_pairs")
    if not isinstance(value, list):
        raise row.error(f"column `sampled_conflict_pairs` is {type_name(value)}. Give a list of pairs.")
    pairs = []
    for number, pair in enumerate(value, start=1):
        what = f"pair {number} of `sampled_conflict_pairs`"
        indices = isinstance(pair, list) and all(isinstance(p, int) and not isinstance(p, bool) for p in pair)
        if not indices or len(pair) != 2 or not all(0 <= index < len(scores) for index in pair):
            raise row.error(f"{what} is not two places from 0 to {len(scores) - 1}. Correct it.")
        first, second = pair
        if scores[first] == scores[second]:
            raise row.error(f"{what} names two responses that are both {'right' if scores[first] else 'wrong'}.")
        pairs.append((first, second) if scores[first] else (second, first))
    return pairs
