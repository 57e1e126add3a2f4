"""The English world: its texts, styles and their detection, splits, oracle, and its teacher's texts."""

from __future__ import annotations

import random
import re
from itertools import combinations
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.data.testbed import make_teacher, make_world, oracle
from rubric_arm_lite.data.testbed.english.styles import HELD_OUT, STYLES, WORDS, dress, read, style_of
from rubric_arm_lite.data.testbed.english.texts import (
    ANSWERS,
    KINDS,
    MOST_WORDS,
    find_word,
    requests,
    sentences_of,
    telling_words,
    words_of,
)
from rubric_arm_lite.data.testbed.english.trajectories import break_short_judgement, write_short_judgement
from rubric_arm_lite.data.testbed.english.world import EnglishTask, EnglishWorld, short_name
from rubric_arm_lite.data.testbed.preference import HARD_WEIGHT, SPLITS, make_rubric
from rubric_arm_lite.data.testbed.trajectories import Teacher, write_judgement
from rubric_arm_lite.errors import ConfigError, DataError
from rubric_arm_lite.prompts import PromptBuilder, Templates
from rubric_arm_lite.prompts.parsing import check_format, judgement_part, parse_judgement, parse_rubric, stated_met
from rubric_arm_lite.prompts.pointwise import parse_pointwise
from rubric_arm_lite.recipe import EnglishSettings, Recipe
from rubric_arm_lite.types import (
    Comparison,
    Criterion,
    CriterionKind,
    Message,
    ParseStatus,
    PreferencePair,
    Side,
    other_side,
)

REQUESTS = list(requests().values())
SEEDS = (0, 1, 2, 3, 4)
SIDES: tuple[Side, ...] = get_args(Side)
NO_FAULTS = {
    "true_principle": 1.0,
    "generic_principle": 0.0,
    "malformed_rubric": 0.0,
    "ignores_principles": 0.0,
    "careless": 0.0,
    "malformed_judgement": 0.0,
}


def pairs_of(world: EnglishWorld, split: str = "train", prompts: int = 60) -> list[PreferencePair]:
    return [pair for block in world.blocks(split, prompts) for pair in block.pairs]


def task_of(world: EnglishWorld, pair: PreferencePair) -> EnglishTask:
    task = world.task_of(pair.prompt)
    assert task is not None
    return task


def recipe_of(**changes: Any) -> Recipe:
    """A recipe of the English world; its base is not loaded."""
    fields: dict[str, Any] = {
        "model": {"base": "some/model"},
        "data": {"source": "english"},
        "warmup": {"source": "english"},
        "prompts": {"rubric_template": "rubric_short", "judge_template": "judge_short"},
    }
    return Recipe.model_validate({**fields, **changes})


# --- texts --------------------------------------------------------------------------------------------------------


def test_there_are_sixty_requests_of_each_kind_with_three_answers() -> None:
    assert [sum(request.kind == kind for request in REQUESTS) for kind in KINDS] == [60] * len(KINDS)
    assert all(len(set(request.answers)) == ANSWERS for request in REQUESTS)
    answers = [answer for request in REQUESTS for answer in request.answers]
    assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.text[:40])
def test_answers_are_plain_and_short(request_: Any) -> None:
    assert "\n" not in request_.text and judgement_part(request_.text) is None
    for answer in request_.answers:
        assert 8 <= len(answer.split()) <= 35, answer
        assert re.fullmatch(r"[A-Za-z0-9é ,.'-]+\.", answer), "no list, quotation, question or exclamation"
        assert " ".join(sentences_of(answer)) == answer
        assert all(judgement_part(sentence) is None for sentence in sentences_of(answer))


@pytest.mark.parametrize("max_words", [24, 35])
def test_every_request_has_words_that_tell_its_answers_apart(max_words: int) -> None:
    for request in REQUESTS:
        answers = request.answers_within(max_words)
        words = telling_words(answers, WORDS)
        assert len(answers) >= 2 and 3 <= len(words) <= MOST_WORDS, request.text
        for word in words:
            using = [find_word(word, answer) is not None for answer in answers]
            assert any(using) and not all(using)
            assert judgement_part(f"1 {word}: A none, B none.") is None, "or a finding would pass for a verdict"


def test_a_telling_word_is_not_hidden_in_another_and_no_style_has_it() -> None:
    answers = ("The waves rise slowly.", "A wave rises and stays.")
    assert telling_words(answers) == ("slowly", "stays")
    assert telling_words(answers, frozenset({"stays"})) == ("slowly",)
    assert telling_words(("Rome sleeps.", "Paris sleeps.")) == (), "names are left out, and what all have"
    assert find_word("coil", "The Coil turns") == "Coil"
    assert find_word("coil", "It recoils from coil-like things") is None


# --- styles -------------------------------------------------------------------------------------------------------


def test_answers_have_no_style() -> None:
    for request in REQUESTS:
        for answer in request.answers:
            assert (read(answer).styles, read(answer).answer) == ({}, answer)


def test_wordings_are_told_apart() -> None:
    wordings = [wording for style in STYLES.values() for wording in style.wordings]
    assert len(set(wordings)) == len(wordings)
    assert all(len(style.wordings) >= 6 for style in STYLES.values())
    for one, two in combinations(wordings, 2):
        if len(one) > 1 and len(two) > 1:
            assert one not in two and two not in one
    for request in REQUESTS:
        text = " ".join(request.answers)
        assert not [wording for wording in wordings if len(wording) > 1 and wording.lower() in text.lower()]


combination = st.sets(st.sampled_from(list(STYLES)))


@given(st.sampled_from(REQUESTS), st.integers(0, 2), combination, st.integers(0, 10**6))
def test_styles_compose_and_are_found_in_every_combination(request: Any, at: int, names: set[str], seed: int) -> None:
    rng = random.Random(seed)
    wordings = {name: STYLES[name].wording(rng, rng.random() < 0.5) for name in sorted(names)}
    found = read(dress(request.answers[at], wordings, rng))
    assert set(found.styles) == names
    assert found.answer == request.answers[at]
    for name, wording in wordings.items():
        assert found.styles[name].startswith(wording)
        assert '"' not in found.styles[name]


def test_all_combinations_of_styles_are_found() -> None:
    rng = random.Random(0)
    answer = REQUESTS[0].answers[0]
    for count in range(len(STYLES) + 1):
        for names in combinations(STYLES, count):
            text = dress(answer, {name: STYLES[name].wording(rng) for name in names}, rng)
            assert set(read(text).styles) == set(names)


@given(st.text())
def test_reading_is_total(text: str) -> None:
    assert set(read(text).styles) <= set(STYLES)


def test_a_style_counts_at_its_place_only() -> None:
    assert read("Iron rusts. Hello! Paint helps.").styles == {}
    assert read("I may be wrong about this. Iron rusts.").styles == {}
    assert set(read("Hello! Iron rusts.").styles) == {"greeting"}
    assert read("Hello!Iron rusts.").styles == {}
    assert read("- Iron rusts.\nPaint helps.").styles == {}
    assert read("- Iron rusts.\n- Paint helps it a lot.").styles == {"bullets": "- Iron rusts."}
    both = read("Hello! Thanks for your message.\n* Iron rusts.\nGood luck!")
    assert dict(both.styles) == {
        "greeting": "Hello!",
        "thanks": "Thanks for your message.",
        "encouragement": "Good luck!",
        "bullets": "* Iron rusts.",
    }
    assert both.answer == "Iron rusts."


def test_a_greeting_comes_first_and_bullets_have_lines_of_their_own() -> None:
    wordings = {"offer": "I am happy to help further.", "thanks": "Thanks for your message.", "greeting": "Hello!"}
    text = dress("Iron rusts. Paint helps.", {**wordings, "bullets": "-"}, random.Random(0))
    assert text.split("\n") == [
        "Hello! Thanks for your message.",
        "- Iron rusts.",
        "- Paint helps.",
        "I am happy to help further.",
    ]


# --- criteria in words ----------------------------------------------------------------------------------------------

NAMED = {
    "The response opens with a friendly greeting.": "greeting",
    "The response says hello to the user": "greeting",
    "The response should greet its reader.": "greeting",
    "The response offers to provide additional help at the end.": "offer",
    "The response closes with an offer of further assistance.": "offer",
    "The response cites where it comes from.": "source",
    "The response includes a source.": "source",
    "The response is formatted as a bulleted text.": "bullets",
    "The response uses bullet-points": "bullets",
    "The response acknowledges that it might be mistaken.": "doubt",
    "The response says that it is not entirely sure.": "doubt",
    "The response has an enthusiastic tone.": "enthusiasm",
    "The response expresses excitement.": "enthusiasm",
    "The response expresses gratitude for the request.": "thanks",
    "The response is thankful.": "thanks",
    "The response summarizes its main point.": "summary",
    "The response concludes with a brief summary.": "summary",
    "The response ends with a follow-up question.": "question",
    "The response is encouraging.": "encouragement",
}
UNNAMED = (
    "The response is clear.",
    "The response does not greet the user.",
    "The response avoids bullet points.",
    "The response is free of enthusiasm.",
    "The response greets the user and thanks the user.",
    "The response isn't enthusiastic.",
    "The response doesn’t thank the user.",
    "The response has fewer sources.",
    "The response ends without a summary.",
    "The response answers the question.",
    "The response is helpful.",
    "The response is certain of its facts.",
    'The response uses the word "hello".',
    "",
)


@pytest.mark.parametrize("text", NAMED)
def test_a_style_is_recognized_in_other_words(text: str) -> None:
    assert style_of(text) == NAMED[text]


@pytest.mark.parametrize("text", UNNAMED)
def test_what_names_no_style_or_several_is_none(text: str) -> None:
    assert style_of(text) is None


def test_every_style_is_recognized_by_its_own_sentence() -> None:
    for name, style in STYLES.items():
        assert style_of(style.criterion) == name
        assert re.search(style.keywords, style.criterion.lower())


def test_a_criterion_in_other_words_is_met_like_the_styles_own() -> None:
    world = EnglishWorld(0)
    greeting = Criterion("The response opens with a friendly greeting.", CriterionKind.PRINCIPLE)
    assert world.find(greeting, "Hello! Iron rusts.") == (True, '"Hello!", so it is met.')
    assert world.find(greeting, "Iron rusts.") == (False, "none, so it is missed.")
    assert world.find(greeting, "Hello! Iron rusts.", overlooked=True) == (False, "none, so it is missed.")
    rule = Criterion("The response must include the word rusts", CriterionKind.HARD_RULE)
    assert world.quote(rule, "Hello! Iron rusts.") == "Iron rusts"
    assert world.quote(rule, "Iron is rusty.") is None
    assert (short_name(rule), short_name(greeting)) == ("rusts", "greeting")
    assert world.quote(Criterion("The response is warm", CriterionKind.PRINCIPLE), "a hug") is None
    assert short_name(Criterion("The response is warm", CriterionKind.PRINCIPLE)) == "other"


def test_named_styles_count_towards_recall() -> None:
    world = EnglishWorld(0)
    task = world.tasks("train")["advice"][0]
    first, second = world.likes["advice"]
    assert world.recall(task.prompt, world.true_rubric(task)) == 1.0
    twice = make_rubric([task.hard_rule(), world.principle(first), world.principle(first)])
    assert world.recall(task.prompt, twice) == 0.5
    as_rule = make_rubric([Criterion(STYLES[second].criterion, CriterionKind.HARD_RULE)])
    assert world.recall(task.prompt, as_rule) == 0.0
    assert world.recall("Write something else.", world.true_rubric(task)) == 0.0


def test_styles_that_a_world_leaves_out_are_not_named() -> None:
    small, whole = EnglishWorld(0), EnglishWorld(0, EnglishSettings(styles=10))
    rubric = make_rubric([whole.principle("question"), whole.principle("greeting")])
    assert (small.named(rubric), whole.named(rubric)) == ({"greeting"}, {"greeting", "question"})


# --- the world ------------------------------------------------------------------------------------------------------


def test_a_prompt_is_read_back() -> None:
    world = EnglishWorld(0)
    for tasks in world.tasks("train").values():
        for task in tasks[:40]:
            assert world.task_of(task.prompt) == task
    prompt = tasks[0].prompt
    assert prompt.endswith(f"\nUse the word {tasks[0].word}.")
    for other in (prompt + " ", "Why?\n" + prompt, "Hello", "", (Message("user", prompt),)):
        assert world.task_of(other) is None
    assert EnglishWorld(0, EnglishSettings(kinds=2)).task_of(world.tasks("train")["advice"][0].prompt) is None


def test_the_prompt_does_not_say_what_its_kind_likes() -> None:
    world = EnglishWorld(0)
    for pair in pairs_of(world, prompts=100):
        task = task_of(world, pair)
        for line in (task.request, task.hard_rule().text):
            assert style_of(line) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_share_no_request(seed: int) -> None:
    world = EnglishWorld(seed)
    found = {split: {request.text for request in world.splits[split]} for split in SPLITS}
    assert {split: len(texts) for split, texts in found.items()} == {"train": 176, "validation": 24, "test": 40}
    assert len(set.union(*found.values())) == len(REQUESTS)
    for split, prompts in (("train", 480), ("validation", 100), ("test", 200)):
        drawn = [task_of(world, block.pairs[0]).request for block in world.blocks(split, prompts)]
        assert set(drawn) <= found[split]
        assert len(set(drawn[: len(found[split])])) == len(found[split]), "each request once before any comes again"


def wordings_in(pairs: list[PreferencePair]) -> set[tuple[str, str]]:
    """Styles of all responses with their wordings."""
    found = set()
    for pair in pairs:
        for response in (pair.chosen, pair.rejected):
            styles = read(response).styles
            found |= {(name, text.split()[0] if name == "bullets" else text) for name, text in styles.items()}
    return found


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_held_out_wordings_are_in_the_test_split_only(seed: int) -> None:
    held_out = {(name, wording) for name, s in STYLES.items() for wording in s.wordings[-HELD_OUT:]}
    usual = {(name, wording) for name, s in STYLES.items() for wording in s.wordings[:-HELD_OUT]}
    world = EnglishWorld(seed, EnglishSettings(styles=10))
    for split in ("train", "validation"):
        assert wordings_in(pairs_of(world, split, 100)) == usual
    assert wordings_in(pairs_of(world, "test", 150)) == usual | held_out
    unseen = EnglishWorld(seed, EnglishSettings(styles=10, unseen_wordings=1.0))
    assert wordings_in(pairs_of(unseen, "test", 100)) == held_out
    seen = EnglishWorld(seed, EnglishSettings(styles=10, unseen_wordings=0.0))
    assert wordings_in(pairs_of(seen, "test", 100)) == usual


def test_a_seed_fixes_the_world_and_another_changes_it() -> None:
    assert EnglishWorld(5).blocks("train", 40) == EnglishWorld(5).blocks("train", 40)
    assert EnglishWorld(5).blocks("train", 10) == EnglishWorld(5).blocks("train", 40)[:10]
    assert EnglishWorld(5).likes != EnglishWorld(6).likes
    assert EnglishWorld(5).splits != EnglishWorld(6).splits


def test_asking_for_more_prompts_than_there_are_says_so() -> None:
    asked = (
        r"test split has \d+ distinct prompts, 5000 were requested\. Ask for fewer \(data\.train_prompts, .*prompts\)"
    )
    with pytest.raises(ConfigError, match=asked + r"\.$"):
        EnglishWorld(0).blocks("test", 5000)
    for settings, raised in (
        (EnglishSettings(kinds=2), "data.english.kinds"),
        (EnglishSettings(kinds=3, max_words=24), "data.english.kinds or data.english.max_words"),
    ):
        with pytest.raises(ConfigError, match=f"{asked}, or raise {re.escape(raised)}\\.$"):
            EnglishWorld(0, settings).blocks("test", 5000)
    with pytest.raises(DataError, match="split: 'dev' is not one of"):
        EnglishWorld(0).blocks("dev", 1)


def test_every_kind_likes_two_styles_that_another_dislikes() -> None:
    world = EnglishWorld(4)
    assert sorted(name for names in world.likes.values() for name in names) == sorted(list(STYLES)[:8])
    for kind in world.topics:
        assert not set(world.likes[kind]) & set(world.dislikes[kind])
        assert set(world.dislikes[kind]) in [set(names) for names in world.likes.values()]


def test_the_score_counts_the_rule_double_and_the_better_response_is_chosen() -> None:
    world = EnglishWorld(0)
    for pair in pairs_of(world, prompts=100):
        task = task_of(world, pair)
        scores = []
        for response in (pair.chosen, pair.rejected):
            liked = len(set(world.likes[task.topic]) & set(read(response).styles))
            scores.append(HARD_WEIGHT * (find_word(task.word, response) is not None) + liked)
            assert world.score(task, response) == scores[-1]
        assert scores[0] > scores[1]
        assert (pair.source, pair.subset) == ("english", task.topic)


def test_difficulty_and_length_are_settings() -> None:
    easy = EnglishWorld(0, EnglishSettings(distractions=0, gap=2, max_words=24))
    for pair in pairs_of(easy, prompts=100):
        task = task_of(easy, pair)
        assert easy.score(task, pair.chosen) - easy.score(task, pair.rejected) >= 2
        for response in (pair.chosen, pair.rejected):
            assert set(read(response).styles) <= set(easy.likes[task.topic] + easy.dislikes[task.topic])
            assert len(read(response).answer.split()) <= 24
    hard = EnglishWorld(0, EnglishSettings(distractions=6, styles=10))
    others = [
        len(set(read(p.chosen).styles) - set(hard.likes[p.subset] + hard.dislikes[p.subset]))
        for p in pairs_of(hard, prompts=100)
    ]
    assert max(others) == 6 and sum(others) / len(others) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"styles": 6}, "styles: 6 is too few for 4 kinds with two principles each. Use at least 8, or fewer kinds"),
        ({"liked": 0.9}, r"liked \+ disliked is 1.25, above 1"),
        ({"liked": 0.0, "rule_differs": 0.0}, "liked: 0 with rule_differs: 0 gives all responses of a prompt the same"),
        ({"liked": 1.0, "disliked": 0.0, "rule_differs": 0.0}, "liked: 1 with rule_differs: 0"),
    ],
)
def test_settings_that_make_no_world_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnglishSettings.model_validate(changes)


# --- the oracle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_oracle_is_perfect_with_the_true_rubric_only(seed: int) -> None:
    world = EnglishWorld(seed)
    found = oracle(world, pairs_of(world, "test", 200)[:400])
    print(seed, found)
    assert found["true"] == 1.0
    assert found["hard_rule"] < 0.72
    assert found["random"] < 0.75
    assert found["generic"] < 0.8
    with pytest.raises(ValueError, match="Not a prompt of the english's world"):
        oracle(world, [PreferencePair("x", "Hello", "a", "b")])


# --- the teacher ----------------------------------------------------------------------------------------------------


def comparison_of(pair: PreferencePair, side: Side) -> Comparison:
    return pair.present(side).comparison


@pytest.mark.parametrize("form", ["short", "paper"])
def test_a_careful_judge_with_the_true_rubric_names_the_preferred_in_either_form(form: str) -> None:
    world = EnglishWorld(3)
    for pair in pairs_of(world, prompts=80):
        rubric = world.true_rubric(task_of(world, pair))
        for side in SIDES:
            shown, tie = comparison_of(pair, side), other_side(side)
            a, b = shown.response_a, shown.response_b
            if form == "short":
                text = write_short_judgement(world, rubric, shown, if_equal=tie)
            else:
                text = write_judgement(rubric, a, b, if_equal=tie, find=world.find)
            judgement = parse_judgement(text, rubric)
            assert (judgement.status, judgement.winner) == (ParseStatus.OK, side), text
            check = check_format(judgement, rubric)
            assert check.strict and check.share == 1.0
            assert len(judgement.assessments) == 2 * len(rubric.criteria)
            for found in judgement.assessments:
                response = a if found.side == "A" else b
                quote = world.quote(rubric.criteria[found.number - 1], response)
                assert stated_met(found.justification) is (quote is not None)
                assert quote is None or (f'"{quote}"' in found.justification and quote in response)


def test_a_short_judgement_in_full() -> None:
    world = EnglishWorld(0)
    words = [Criterion("The response uses the word coil.", CriterionKind.HARD_RULE)]
    rubric = make_rubric([*words, world.principle("greeting"), world.principle("bullets")])
    shown = Comparison("c", "p", "- The coil gets cold.\n- A pump helps.", "Hi there! It gets cold.")
    assert write_short_judgement(world, rubric, shown).split("\n") == [
        "--- Final Judgment ---",
        '1 coil: A "The coil gets", B none.',
        '2 greeting: A none, B "Hi there!".',
        '3 bullets: A "- The coil gets", B none.',
        "Justification: A 2+0+1=3, B 0+1+0=1.",
        "Winner: Response A",
    ]
    overlooked = write_short_judgement(world, rubric, shown, "B", frozenset({1, 3}))
    assert "1 coil: A none, B none." in overlooked and overlooked.endswith("A 0+0+0=0, B 0+1+0=1.\nWinner: Response B")


def test_the_teacher_writes_the_form_that_the_recipe_asks_for() -> None:
    for template, start in (("judge_short", "--- Final Judgment ---\n1 "), ("judge", "--- Compliance Check ---\n")):
        recipe = recipe_of(prompts={"judge_template": template}, warmup={"source": "english", "teacher": NO_FAULTS})
        world = make_world(recipe.data, 0)
        assert isinstance(world, EnglishWorld)
        prompts = PromptBuilder(Templates.of(recipe.prompts))
        for row in make_teacher(world, recipe).trajectories(world.blocks("train", 40), seed=0):
            rubric = parse_rubric(row.rubric)
            assert row.rubric == row.judged_rubric and rubric.usable
            task = world.task_of(row.prompt)
            assert task is not None and row.response_b is not None
            assert world.named(rubric) == set(world.likes[task.topic])
            assert row.judgement.startswith(start)
            judgement = parse_judgement(row.judgement, rubric)
            better = "A" if world.score(task, row.response_a) > world.score(task, row.response_b) else "B"
            assert (judgement.status, judgement.winner) == (ParseStatus.OK, better)
            prompt = row.judge_prompt(prompts, rubric)
            assert row.response_a in prompt and row.response_b in prompt, "no answer looks like part of a judgement"
            assert task.prompt in prompts.rubric_prompt(row.prompt)


def test_the_default_teacher_errs_as_often_as_it_should() -> None:
    recipe = recipe_of()
    world = EnglishWorld(0)
    teacher = make_teacher(world, recipe)
    rows = teacher.trajectories(world.blocks("train", 300), seed=0)
    judged = [parse_rubric(row.judged_rubric or "") for row in rows]
    judgements = [parse_judgement(row.judgement, rubric) for row, rubric in zip(rows, judged, strict=True)]
    unusable = sum(not parse_rubric(row.rubric).usable for row in rows) / len(rows)
    malformed = sum(j.status is not ParseStatus.OK for j in judgements) / len(rows)
    assert unusable == pytest.approx(recipe.warmup.teacher.malformed_rubric, abs=0.04)
    assert malformed == pytest.approx(recipe.warmup.teacher.malformed_judgement, abs=0.04)
    assert all(j.winner is not None for j in judgements)
    assert sum(j.winner == "A" for j in judgements) / len(rows) > 0.55


def test_a_pointwise_teacher_is_right_about_every_criterion() -> None:
    recipe = recipe_of(warmup={"source": "english", "teacher": NO_FAULTS}, reward={"judge": "pointwise"}, prompts={})
    world = EnglishWorld(0)
    teacher = make_teacher(world, recipe)
    assert type(teacher) is Teacher
    for row in teacher.trajectories(world.blocks("train", 40), seed=0):
        rubric = parse_rubric(row.judged_rubric or "")
        found = parse_pointwise(row.judgement, rubric)
        assert found.status is ParseStatus.OK and row.response_b is None
        for answer, criterion in zip(found.answers, rubric.criteria, strict=True):
            assert answer.met is world.find(criterion, row.response_a)[0]


def test_broken_short_judgements_are_malformed_but_keep_their_winner() -> None:
    world = EnglishWorld(0)
    pair = pairs_of(world, prompts=1)[0]
    rubric = world.true_rubric(task_of(world, pair))
    text = write_short_judgement(world, rubric, comparison_of(pair, "B"))
    found = {break_short_judgement(text, random.Random(seed)) for seed in range(200)}
    assert len(found) == 3 + 3 + 3 + 1, "each fault of each finding, and no sums"
    for faulty in found:
        broken = parse_judgement(faulty, rubric)
        assert (broken.status, broken.winner) == (ParseStatus.MALFORMED, "B")
        assert 0 < check_format(broken, rubric).share <= 1


def test_no_wording_looks_like_a_part_of_a_judgement_and_all_words_are_plain() -> None:
    for style in STYLES.values():
        for wording in style.wordings:
            assert judgement_part(wording) is None and '"' not in wording
            assert set(map(str.lower, words_of(wording))) <= WORDS
