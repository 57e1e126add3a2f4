"""The testbed's world and its teacher's texts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubric_arm_lite.data import WarmupRow
from rubric_arm_lite.data.testbed.preference import HARD_WEIGHT, criterion_weight, make_rubric
from rubric_arm_lite.data.testbed.trajectories import (
    Teacher,
    break_judgement,
    break_pointwise_judgement,
    break_rubric,
    write_judgement,
    write_pointwise_judgement,
)
from rubric_arm_lite.data.testbed.world import (
    GENRES,
    NOISE,
    PRINCIPLES,
    READERS,
    RESPONSE_WORDS,
    RULE_WORDS,
    RULES,
    TOPICS,
    Task,
    World,
    criterion_met,
    expressed,
    hard_rule_criterion,
    meets_rule,
    named_attributes,
    parse_task,
    place_words,
    principle_criterion,
)
from rubric_arm_lite.prompts.parsing import parse_judgement, parse_rubric
from rubric_arm_lite.prompts.pointwise import parse_pointwise
from rubric_arm_lite.recipe.fields import PointwiseWords, TeacherSettings, WorldSettings
from rubric_arm_lite.types import (
    CriterionKind,
    ParseStatus,
    PreferencePair,
    Rubric,
    Side,
    other_side,
)

SPLITS = ("train", "validation", "test")
SIDES: tuple[Side, ...] = ("A", "B")
NO_FAULTS = TeacherSettings(
    true_principle=1.0,
    generic_principle=0.0,
    malformed_rubric=0.0,
    ignores_principles=0.0,
    careless=0.0,
    malformed_judgement=0.0,
)


def task_of(pair: PreferencePair) -> Task:
    task = parse_task(str(pair.prompt))
    assert task is not None
    return task


def pairs_of(world: World, split: str = "train", prompts: int = 60) -> list[PreferencePair]:
    return [pair for block in world.blocks(split, prompts) for pair in block.pairs]


# --- the world ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_a_careful_judge_with_the_true_rubric_always_names_the_preferred(seed: int) -> None:
    world = World(seed)
    for pair in pairs_of(world):
        rubric = world.true_rubric(task_of(pair))
        for side in SIDES:
            shown = pair.present(side).comparison
            text = write_judgement(rubric, shown.response_a, shown.response_b, if_equal=other_side(side))
            judgement = parse_judgement(text, rubric)
            assert (judgement.status, judgement.winner) == (ParseStatus.OK, side)


def test_a_judge_that_goes_by_the_hard_rule_alone_is_far_from_perfect() -> None:
    """No pair tells the judge what a topic likes: with the hard rule alone, most pairs are a coin's toss."""
    pairs = pairs_of(World(0), prompts=200)
    told_apart = [
        meets_rule(t.rule, t.word, pair.chosen) != meets_rule(t.rule, t.word, pair.rejected)
        for pair in pairs
        for t in [task_of(pair)]
    ]
    assert sum(told_apart) / len(pairs) < 0.4


def test_the_prompt_does_not_say_what_its_topic_likes() -> None:
    for pair in pairs_of(World(0)):
        words = set(str(pair.prompt).replace(".", "").split())
        signs = {sign for pair_of_signs in PRINCIPLES.values() for sign in pair_of_signs}
        assert not words & (signs | set(PRINCIPLES))


@pytest.mark.parametrize("seed", [0, 3])
def test_splits_share_no_combination_of_topic_and_rule(seed: int) -> None:
    world = World(seed)
    found = {split: set(world.combinations(split)) for split in SPLITS}
    everything = len(world.topics) * len(RULES) * len(RULE_WORDS)
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == everything
    assert len(found["test"]) == len(found["validation"]) == everything // 8
    for split in SPLITS:
        for block in world.blocks(split, 30):
            task = task_of(block.pairs[0])
            assert (task.topic, task.rule, task.word) in found[split]


def test_a_seed_fixes_the_world_and_another_changes_it() -> None:
    assert World(5).blocks("train", 40) == World(5).blocks("train", 40)
    assert World(5).blocks("train", 10) == World(5).blocks("train", 40)[:10]
    assert World(5).likes != World(6).likes
    assert World(5).combinations("test") != World(6).combinations("test")


def test_drawing_one_split_does_not_change_another() -> None:
    world = World(1)
    before = world.blocks("test", 10)
    random.seed(0)
    world.blocks("train", 50)
    assert world.blocks("test", 10) == before


def test_prompts_are_distinct_and_topics_come_in_turn() -> None:
    world = World(2)
    blocks = world.blocks("train", 40)
    assert len({block.prompt_id for block in blocks}) == 40
    assert [block.pairs[0].subset for block in blocks[:4]] == list(world.topics)
    assert all(len(block.pairs) == world.settings.pairs_per_prompt for block in blocks)
    ids = [pair.pair_id for block in blocks for pair in block.pairs]
    assert len(set(ids)) == len(ids)


def test_asking_for_more_prompts_than_there_are_says_so() -> None:
    with pytest.raises(ValueError, match=r"test split has \d+ distinct prompts, 100000 were requested"):
        World(0).blocks("test", 100_000)
    with pytest.raises(ValueError, match="split: 'dev' is not one of"):
        World(0).combinations("dev")


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_label_noise_flips_its_share_of_pairs_and_nothing_else(noise: float) -> None:
    noisy = pairs_of(World(0, WorldSettings(label_noise=noise)), prompts=300)
    clean = pairs_of(World(0), prompts=300)
    swapped = 0
    for one, two in zip(noisy, clean, strict=True):
        assert one.pair_id == two.pair_id
        assert {one.chosen, one.rejected} == {two.chosen, two.rejected}
        swapped += one.chosen != two.chosen
    assert swapped / len(clean) == pytest.approx(noise, abs=0.04)


def test_every_topic_likes_two_attributes_that_another_dislikes() -> None:
    world = World(4, WorldSettings(topics=6, attributes=12))
    liked = [name for names in world.likes.values() for name in names]
    assert sorted(liked) == sorted(PRINCIPLES)
    for topic in world.topics:
        assert not set(world.likes[topic]) & set(world.dislikes[topic])


def test_the_score_counts_the_rule_double() -> None:
    world = World(0)
    task = Task(world.topics[0], "pilots", "note", "include", "amber")
    first, second = world.likes[task.topic]
    assert world.score(task, "stone table") == 0
    assert world.score(task, "amber table") == HARD_WEIGHT
    assert world.score(task, f"amber {PRINCIPLES[first][0]} {PRINCIPLES[first][1]}") == HARD_WEIGHT + 1
    assert world.score(task, f"{PRINCIPLES[first][0]} {PRINCIPLES[second][1]}") == 2


def test_responses_have_one_length_and_keep_the_rule_or_break_it() -> None:
    world = World(0)
    rng = random.Random(0)
    for rule in RULES:
        for obeys in (True, False):
            task = Task(world.topics[1], "pilots", "note", rule, "zinc")
            for _ in range(50):
                response = world.response(task, obeys, rng)
                assert len(response.split()) == RESPONSE_WORDS
                assert meets_rule(rule, "zinc", response) is obeys
    assert len(place_words(["hug"] * 9, "include", "zinc", True, rng).split()) == RESPONSE_WORDS


def test_no_word_has_two_meanings() -> None:
    signs = [sign for pair in PRINCIPLES.values() for sign in pair]
    words = [*signs, *PRINCIPLES, *NOISE, *RULE_WORDS, *TOPICS, *READERS, *GENRES]
    assert len(set(words)) == len(words)


def test_expressed_and_met() -> None:
    assert expressed("hug crimson stone") == {"warm", "vivid"}
    assert criterion_met(principle_criterion("warm"), "a hearth")
    assert not criterion_met(principle_criterion("warm"), "a warm stone")
    assert criterion_met(hard_rule_criterion("avoid", "zinc"), "a stone")
    assert not criterion_met(hard_rule_criterion("include", "zinc"), "a stone")
    assert criterion_weight(hard_rule_criterion("avoid", "zinc")) == HARD_WEIGHT
    assert criterion_weight(principle_criterion("warm")) == 1
    with pytest.raises(ValueError, match="rule: 'rhyme' is not one of"):
        meets_rule("rhyme", "zinc", "a stone")


def test_named_attributes_are_those_of_the_principles() -> None:
    rubric = make_rubric(
        [hard_rule_criterion("avoid", "zinc"), principle_criterion("warm"), principle_criterion("bold")]
    )
    assert named_attributes(rubric) == {"warm", "bold"}
    assert parse_rubric(rubric.text) == rubric


tasks = st.builds(
    Task,
    st.sampled_from(TOPICS),
    st.sampled_from(READERS),
    st.sampled_from(GENRES),
    st.sampled_from(list(RULES)),
    st.sampled_from(RULE_WORDS),
)


@given(tasks)
def test_a_prompt_is_read_back(task: Task) -> None:
    assert parse_task(task.prompt) == task


@given(st.text())
def test_other_prompts_are_no_tasks(text: str) -> None:
    assert parse_task(text) is None
    assert parse_task("Write a note about rivers for pilots. Include a word zinc " + text) is None


# --- the teacher --------------------------------------------------------------------------------------------------


def preferred(world: World, row: WarmupRow) -> Side:
    """The side of the response with the higher score."""
    task = parse_task(str(row.prompt))
    assert task is not None and row.response_b is not None
    return "A" if world.score(task, row.response_a) > world.score(task, row.response_b) else "B"


def judged(row: WarmupRow) -> Rubric:
    return parse_rubric(row.judged_rubric or "")


def test_a_teacher_without_faults_writes_what_a_perfect_one_would() -> None:
    world = World(0)
    teacher = Teacher(world, NO_FAULTS)
    for row in teacher.trajectories(world.blocks("train", 40), seed=0):
        task = parse_task(str(row.prompt))
        assert task is not None
        assert row.rubric == row.judged_rubric
        assert named_attributes(judged(row)) == set(world.likes[task.topic])
        judgement = parse_judgement(row.judgement, judged(row))
        assert (judgement.status, judgement.winner) == (ParseStatus.OK, preferred(world, row))


def test_the_default_teacher_errs_as_often_as_it_should() -> None:
    world = World(0)
    settings = TeacherSettings()
    rows = Teacher(world, settings).trajectories(world.blocks("train", 300), seed=0)
    judgements = [parse_judgement(row.judgement, judged(row)) for row in rows]
    unusable = sum(not parse_rubric(row.rubric).usable for row in rows) / len(rows)
    malformed = sum(j.status is not ParseStatus.OK for j in judgements) / len(rows)
    assert unusable == pytest.approx(settings.malformed_rubric, abs=0.04)
    assert malformed == pytest.approx(settings.malformed_judgement, abs=0.04)
    assert all(j.winner is not None for j in judgements)
    right = sum(j.winner == preferred(world, row) for j, row in zip(judgements, rows, strict=True)) / len(rows)
    assert 0.5 < right < 0.8
    first = sum(j.winner == "A" for j in judgements) / len(rows)
    assert first > 0.55


WORDS = PointwiseWords(answer="", met="1", missed="0")


def test_a_careful_pointwise_teacher_is_right_about_every_criterion() -> None:
    world = World(0)
    kinds = set()
    for t in Teacher(world, NO_FAULTS, WORDS).trajectories(world.blocks("train", 40), seed=0):
        found = parse_pointwise(t.judgement, judged(t), words=WORDS)
        assert found.status is ParseStatus.OK
        for check, criterion in zip(found.answers, judged(t).criteria, strict=True):
            assert check.met is criterion_met(criterion, t.response_a)
            kinds.add((criterion.text.split()[2], check.met))
    assert kinds == {(verb, met) for verb in ("includes", "avoids", "is") for met in (True, False)}


def test_the_default_pointwise_teacher_errs_as_often_as_it_should() -> None:
    world, settings = World(0), TeacherSettings()
    trajectories = Teacher(world, settings, WORDS).trajectories(world.blocks("train", 300), seed=0)
    found = [(t, parse_pointwise(t.judgement, judged(t), words=WORDS)) for t in trajectories]
    whole = [(t, f) for t, f in found if f.status is ParseStatus.OK]
    assert 1 - len(whole) / len(found) == pytest.approx(settings.malformed_judgement, abs=0.04)
    rules = [f.answers[0].met is criterion_met(judged(t).criteria[0], t.response_a) for t, f in whole]
    assert 1 - sum(rules) / len(rules) == pytest.approx(settings.careless, abs=0.04)
    met = [
        check.met
        for t, f in whole
        for check, criterion in zip(f.answers[1:], judged(t).criteria[1:], strict=True)
        if criterion_met(criterion, t.response_a)
    ]
    seen = (1 - settings.ignores_principles) * (1 - settings.careless) + settings.ignores_principles * settings.careless
    assert sum(met) / len(met) == pytest.approx(seen, abs=0.05)


@given(st.integers(0, 999))
def test_broken_checks_are_malformed(seed: int) -> None:
    rng = random.Random(seed)
    rubric = World(0).true_rubric(task_of(pairs_of(World(0), prompts=1)[0]))
    text = write_pointwise_judgement(rubric, "silk stone", WORDS)
    assert parse_pointwise(text, rubric, words=WORDS).status is ParseStatus.OK
    assert parse_pointwise(break_pointwise_judgement(text, rng), rubric, words=WORDS).status is ParseStatus.MALFORMED


def test_checks_say_what_they_found() -> None:
    principles = [principle_criterion("vivid"), principle_criterion("warm")]
    rubric = make_rubric([hard_rule_criterion("avoid", "silk"), *principles])
    assert write_pointwise_judgement(rubric, "silk stone crimson", WORDS).split("\n") == [
        "",
        "- Criterion 1 [Hard Rule]: Justification: silk appears, is missed. 0",
        "- Criterion 2 [Principle]: Justification: vivid is met. 1",
        "- Criterion 3 [Principle]: Justification: warm is missed. 0",
    ]
    wrong = write_pointwise_judgement(rubric, "silk stone crimson", WORDS, frozenset({2}), frozenset({1, 3}))
    assert [line.split(": ")[2] for line in wrong.strip().split("\n")] == [
        "silk appears, is missed. 1",
        "vivid is missed. 0",
        "warm is missed. 1",
    ]


def test_trajectories_are_the_same_for_a_seed_and_keep_the_order_of_the_pairs() -> None:
    world = World(0)
    blocks = world.blocks("train", 10)
    teacher = Teacher(world)
    assert teacher.trajectories(blocks, 1) == teacher.trajectories(blocks, 1) != teacher.trajectories(blocks, 2)
    texts = [{pair.chosen, pair.rejected} for block in blocks for pair in block.pairs]
    assert [{row.response_a, row.response_b} for row in teacher.trajectories(blocks, 1)] == texts
    assert teacher.trajectories(blocks[5:], 1) == teacher.trajectories(blocks, 1)[20:]


def test_a_judgement_is_written_without_a_look_at_the_label() -> None:
    world = World(0)
    teacher = Teacher(world)
    for pair in pairs_of(world, prompts=20):
        rubric = world.true_rubric(task_of(pair))
        swapped = PreferencePair(pair.pair_id, pair.prompt, chosen=pair.rejected, rejected=pair.chosen)
        one, two = pair.present("A").comparison, swapped.present("B").comparison
        assert one == two, "a comparison has no label"
        texts = [teacher.judgement(shown, rubric, random.Random(0)) for shown in (one, two)]
        assert texts[0] == texts[1]


def test_a_teacher_refuses_a_prompt_that_is_not_of_its_world() -> None:
    world = World(0)
    block = world.blocks("train", 1)[0]
    pair = PreferencePair("p", "Write me a poem.", "a", "b")
    with pytest.raises(ValueError, match="Not a prompt of the testbed's world"):
        Teacher(world).trajectories([type(block)("x", "x", (pair,))], 0)


@pytest.mark.parametrize("seed", range(20))
def test_broken_texts_are_malformed_and_keep_their_verdict(seed: int) -> None:
    rng = random.Random(seed)
    rubric = make_rubric(
        [hard_rule_criterion("avoid", "zinc"), principle_criterion("warm"), principle_criterion("bold")]
    )
    assert parse_rubric(break_rubric(rubric, rng)).status is ParseStatus.MALFORMED
    text = write_judgement(rubric, "hug zinc", "hug stone")
    judgement = parse_judgement(break_judgement(text, rng), rubric)
    assert (judgement.status, judgement.winner) == (ParseStatus.MALFORMED, "B")


def test_written_judgements_say_what_they_found() -> None:
    rubric = make_rubric([hard_rule_criterion("avoid", "zinc"), principle_criterion("warm")])
    judgement = parse_judgement(write_judgement(rubric, "hug zinc", "stone"), rubric)
    assert judgement.gatekeeper == "The response avoids the word zinc"
    assert [(a.side, a.number, a.kind, a.justification) for a in judgement.assessments] == [
        ("A", 1, CriterionKind.HARD_RULE, "zinc appears, is missed."),
        ("A", 2, CriterionKind.PRINCIPLE, "warm is met."),
        ("B", 1, CriterionKind.HARD_RULE, "zinc is absent, is met."),
        ("B", 2, CriterionKind.PRINCIPLE, "warm is missed."),
    ]
    assert judgement.justification == "A earns 1, B earns 2."
    assert judgement.winner == "B"


def test_a_judgement_may_overlook_criteria_name_a_side_or_lean() -> None:
    rubric = make_rubric([principle_criterion("warm"), principle_criterion("bold")])
    assert parse_judgement(write_judgement(rubric, "hug", "stone", winner="B"), rubric).winner == "B"
    for leaning in SIDES:
        text = write_judgement(rubric, "hug", "stone", overlooked=frozenset({1}), if_equal=leaning)
        assert parse_judgement(text, rubric).winner == leaning
