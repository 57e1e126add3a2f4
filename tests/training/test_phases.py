"""The two phases, asked and answered by script."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.prompts import parse_rubric
from rubric_arm_lite.recipe.fields import Recipe
from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
from rubric_arm_lite.reward_model.judge import Judge
from rubric_arm_lite.training.advantages import group_advantages
from rubric_arm_lite.training.phases import JudgePhase, RubricPhase
from rubric_arm_lite.types import Example, PromptBlock, RolloutGroup, Rubric
from tests.players import (
    PROMPTS,
    RUBRIC_TEXT,
    block,
    blocks,
    judge_of,
    judgement,
    recipe,
    right,
    sampler,
    says_a,
    section,
    totals,
)
from tests.scripted import ScriptedSampler, Written


def judge_phase(scripted: ScriptedSampler, settings: Recipe | None = None) -> JudgePhase:
    settings = settings or recipe()
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(settings.cache.capacity))
    return JudgePhase(settings, generator, judge_of(scripted, settings))


def rubric_phase(scripted: ScriptedSampler, settings: Recipe | None = None) -> RubricPhase:
    settings = settings or recipe()
    generator = RubricGenerator(scripted, PROMPTS, RubricCache(settings.cache.capacity))
    return RubricPhase(settings, generator, judge_of(scripted, settings))


def rollout(phase: Any, scripted: ScriptedSampler, batch: list[PromptBlock], seed: int = 0, n: int = 2) -> Any:
    """Groups and rewards of one step."""
    groups = scripted.sample(phase.role, phase.prepare(batch, seed), Sampling(50, n))
    return groups, phase.score(groups, seed)


# --- judge phase --------------------------------------------------------------------------------------------------


def test_judge_phase_shuffles_the_order() -> None:
    phase = judge_phase(sampler())
    examples = phase.prepare(blocks(100), seed=1)
    sides = [example.comparisons[0].preferred for example in examples]
    assert 35 < sides.count("A") < 65
    assert [e.comparisons[0].preferred for e in phase.prepare(blocks(100), seed=1)] == sides, "the seed decides"
    other = [e.comparisons[0].preferred for e in phase.prepare(blocks(100), seed=2)]
    assert other != sides, "another step, another order"
    alone = [phase.prepare([b], seed=1)[0].comparisons[0].preferred for b in blocks(100)]
    assert alone == sides, "and nothing else in the batch does"
    for example, preferred in zip(examples, sides, strict=True):
        first, second = section("response_a", example.prompt), section("response_b", example.prompt)
        assert first.startswith("good" if preferred == "A" else "poor")
        assert second.startswith("poor" if preferred == "A" else "good")


def test_examples_carry_their_pair_and_rubric() -> None:
    examples = judge_phase(sampler()).prepare([block("x", pairs=3), block("y", pairs=2)], seed=1)
    assert [e.example_id for e in examples] == ["id-x0", "id-x1", "id-x2", "id-y0", "id-y1"]
    assert len({e.seed for e in examples}) == 5
    for example in examples:
        assert example.rubric is not None and example.rubric.text == RUBRIC_TEXT
        assert [c.comparison.comparison_id for c in example.comparisons] == [example.example_id]


@pytest.mark.parametrize("role", ["judge", "rubric"])
def test_the_label_is_in_no_prompt(role: str) -> None:
    """Swapping which response is preferred swaps the label and the drawn order, and no prompt can tell."""
    mirrored = []
    for b in blocks(30, pairs=2):
        swapped = [replace(p, chosen=p.rejected, rejected=p.chosen) for p in b.pairs]
        mirrored.append(replace(b, pairs=tuple(swapped)))
    prompts = []
    for batch in (blocks(30, pairs=2), mirrored):
        scripted = sampler(says_a)
        settings = recipe(reward={"judge_orders": "both"})
        phase = judge_phase(scripted, settings) if role == "judge" else rubric_phase(scripted, settings)
        for seed in range(12):
            rollout(phase, scripted, batch, seed)
        prompts.append({name: set(scripted.prompts(name)) for name in ("judge", "rubric")})
    assert prompts[0]["rubric"] == prompts[1]["rubric"]
    # Over a dozen seeds every pair is seen in both orders, whoever is preferred.
    assert prompts[0]["judge"] == prompts[1]["judge"] and len(prompts[0]["judge"]) == 120
    for text in prompts[0]["judge"] | prompts[0]["rubric"]:
        for word in ("chosen", "rejected", "preferred", "id-", "block-", "origin"):
            assert word not in text
    for text in prompts[0]["rubric"]:
        assert "good" not in text and "poor" not in text, "the generator never sees a response"


def test_cached_rubrics_are_served_until_the_generator_changes() -> None:
    scripted = sampler()
    phase = judge_phase(scripted)
    phase.prepare([block("x", pairs=3), block("y")], seed=1)
    assert len(scripted.prompts("rubric")) == 2, "one rubric per prompt, not per pair"
    phase.prepare([block("x", pairs=3), block("y")], seed=2)
    assert len(scripted.prompts("rubric")) == 2, "a later step is served from the cache"
    assert phase.metrics()["cache/hit_rate"] == pytest.approx(4 / 8)
    phase.prepare([block("z")], seed=2)
    assert len(scripted.prompts("rubric")) == 3
    scripted.fingerprints["rubric"] = "after an update"
    phase.prepare([block("x"), block("y")], seed=3)
    assert len(scripted.prompts("rubric")) == 5


def test_the_cached_rubric_is_drawn_as_the_recipe_says() -> None:
    scripted = sampler()
    settings = recipe(rubric={"max_completion_length": 33}, reward={"rubric_temperature": 0.7})
    judge_phase(scripted, settings).prepare(blocks(1), seed=1)
    assert scripted.calls[0].sampling == Sampling(33, 1, 0.7)
    assert scripted.calls[0].adapter == "rubric"


def test_without_the_cache_every_step_draws_new_rubrics() -> None:
    scripted = sampler(generator=lambda request, example, i: f"1. The response is number {example.seed} [Principle]")
    phase = judge_phase(scripted, recipe(cache={"enabled": False}))
    batch = [block("x", pairs=3), block("y")]
    steps = [[example.rubric for example in phase.prepare(batch, seed=seed)] for seed in (1, 2, 1)]
    assert steps[0][0] == steps[0][1] == steps[0][2] != steps[0][3], "the pairs of a prompt share one in a step"
    assert len(set(steps[0]) | set(steps[1])) == 4, "the next step has others"
    assert steps[2] == steps[0], "which are determined by the step's seed"
    assert len(scripted.prompts("rubric")) == 6, "nothing is served from before"
    assert phase.metrics()["cache/hit_rate"] == 0.0


def numbered(good_from: dict[str, int]) -> tuple[ScriptedSampler, list[tuple[str, int]]]:
    """A generator whose n-th rubric for a request parses from the n given for it on; and what it was asked."""
    draws: list[tuple[str, int]] = []

    def generator(request: str, example: Example, index: int) -> Written:
        draws.append((request, example.seed))
        attempt = sum(name == request for name, _ in draws)
        return RUBRIC_TEXT if attempt >= good_from.get(request, 1) else "no rubric"

    return sampler(generator=generator), draws


def test_unusable_rubrics_are_redrawn_then_left_out() -> None:
    scripted, draws = numbered({"request x": 1, "request y": 3, "request z": 4})
    phase = judge_phase(scripted, recipe(reward={"rubric_attempts": 3}))
    batch = [block("x"), block("y", pairs=2), block("z", pairs=2)]
    examples = phase.prepare(batch, seed=1)
    assert [e.example_id for e in examples] == ["id-x0", "id-y0", "id-y1"]
    names = [name.removeprefix("request ") for name, _ in draws]
    assert names == ["x", "y", "z", "y", "z", "y", "z"], "only what did not parse is asked again"
    assert len({seed for _, seed in draws}) == len(draws), "each attempt is a new draw"
    assert phase.metrics()["rubrics/usable"] == pytest.approx(3 / 5)
    assert phase.metrics()["rubrics/unusable"] == pytest.approx(2 / 5)
    phase.prepare(batch, seed=2)
    assert len(draws) == 7, "that a prompt has no usable rubric is remembered too"


def test_a_cut_rubric_is_not_used() -> None:
    phase = judge_phase(sampler(generator=lambda request, example, i: (RUBRIC_TEXT, "length")))
    assert phase.prepare(blocks(3), seed=1) == []
    assert phase.metrics()["rubrics/unusable"] == 1.0


def test_greedy_rubrics_are_drawn_once() -> None:
    """A second greedy attempt would write the same again."""
    scripted, draws = numbered({"request x": 2})
    settings = recipe(reward={"rubric_attempts": 3, "rubric_temperature": 0.0})
    assert judge_phase(scripted, settings).prepare([block("x")], seed=1) == []
    assert len(draws) == 1


def test_several_rubrics_per_prompt() -> None:
    """Each pair draws one of k; equal draws share a rubric, and all k come to be used."""
    scripted = sampler(generator=lambda request, example, i: f"1. The response is number {example.seed} [Principle]")
    phase = judge_phase(scripted, recipe(cache={"rubrics_per_prompt": 3}))
    used = {phase.prepare([block("x")], seed=seed)[0].rubric for seed in range(40)}
    assert len(used) == 3 == len(scripted.prompts("rubric"))


def test_judge_rewards_by_hand() -> None:
    """Format weight 0.3: right and well-formed 1.3, right but malformed 1, wrong 0.3, no verdict 0, cut 0."""
    answers: list[Written] = []

    def judge(a: str, b: str, rubric: Rubric, index: int) -> Written:
        good, poor = ("A", "B") if a.startswith("good") else ("B", "A")
        whole = judgement(rubric, good)  # type: ignore[arg-type]
        answers[:] = [
            whole,
            whole.replace("--- Compliance Check ---\n", ""),
            judgement(rubric, poor),  # type: ignore[arg-type]
            "Response A is better.",
            (whole, "length"),
        ]
        return answers[index]

    scripted = sampler(judge)
    phase = judge_phase(scripted, recipe(reward={"format_weight": 0.3}))
    _, rewards = rollout(phase, scripted, blocks(2), n=5)
    assert totals(rewards) == [[1.3, 1.0, 0.3, 0.0, 0.0]] * 2
    assert rewards[0][0].parts == (("accuracy", 1.0), ("format", 1.0))
    values = phase.metrics()
    assert values["parse/ok"] == pytest.approx(2 / 5)
    assert values["parse/malformed"] == pytest.approx(2 / 5)
    assert values["parse/truncated"] == pytest.approx(1 / 5)
    assert values["verdicts/none"] == pytest.approx(2 / 5)
    assert values["verdicts/A"] + values["verdicts/B"] == pytest.approx(3 / 5)


def test_graded_format() -> None:
    """Two criteria ask for seven parts; this judgement lacks its gatekeeper line."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        return "\n".join(line for line in right(a, b, rubric, 0).split("\n") if not line.startswith("Identified"))

    scripted = sampler(judge)
    _, rewards = rollout(judge_phase(scripted, recipe(reward={"format_mode": "graded"})), scripted, blocks(1))
    assert totals(rewards) == [[pytest.approx(1 + 6 / 7)] * 2]


def test_swapped_presentation_mirrors_the_reward() -> None:
    """A judge that always says A is right exactly where the chosen response stood first."""
    scripted = sampler(says_a)
    groups, rewards = rollout(judge_phase(scripted), scripted, blocks(40))
    for group, row in zip(groups, rewards, strict=True):
        expected = float(group.example.comparisons[0].preferred == "A")
        assert [dict(r.parts)["accuracy"] for r in row] == [expected] * 2


def test_the_tally_is_of_one_step() -> None:
    scripted = sampler()
    phase = judge_phase(scripted)
    rollout(phase, scripted, blocks(2))
    phase.prepare([], seed=1)
    assert phase.metrics()["parse/ok"] == phase.metrics()["rubrics/usable"] == 0.0


def test_scoring_needs_the_rubric() -> None:
    scripted = sampler()
    phase = judge_phase(scripted)
    group = scripted.sample("judge", phase.prepare(blocks(1), 0), Sampling(5))[0]
    bare = RolloutGroup(replace(group.example, rubric=None), group.prompt_ids, group.samples)
    with pytest.raises(AssertionError, match="carries its rubric"):
        phase.score([bare], 0)


# --- rubric phase -------------------------------------------------------------------------------------------------


def test_rubric_phase_draws_one_order_per_group() -> None:
    phase = rubric_phase(sampler())
    examples = phase.prepare(blocks(60, pairs=2), seed=1)
    assert [e.example_id for e in examples] == [b.prompt_id for b in blocks(60)]
    sides = [c.preferred for e in examples for c in e.comparisons]
    assert len(sides) == 120 and 40 < sides.count("A") < 80
    assert [len(e.comparisons) for e in examples] == [2] * 60
    again = [c.preferred for e in phase.prepare(blocks(60, pairs=2), seed=1) for c in e.comparisons]
    assert again == sides


@pytest.mark.parametrize("make", [judge_phase, rubric_phase])
def test_a_fixed_order_is_that_of_the_run(make: Any) -> None:
    def sides(step: int, **changes: Any) -> list[str]:
        settings = recipe(reward={"pair_orders": "fixed", "judge_orders": "fixed"}, **changes)
        examples = make(sampler(), settings).prepare(blocks(60), seed=step)
        return [c.preferred for e in examples for c in e.comparisons]

    assert sides(1) == sides(2), "whatever the step"
    assert sides(1) != sides(1, seed=5)
    assert 20 < sides(1).count("A") < 40


def test_rubric_phase_in_both_orders() -> None:
    scripted = sampler(says_a)
    phase = rubric_phase(scripted, recipe(reward={"judge_orders": "both"}))
    groups, rewards = rollout(phase, scripted, blocks(3, pairs=2))
    for group in groups:
        assert [c.preferred for c in group.example.comparisons] == ["A", "B", "A", "B"]
    assert totals(rewards) == [[0.5, 0.5]] * 3, "a judge that leans one way earns no rubric anything"


def test_all_rubrics_of_a_group_meet_the_same_order() -> None:
    scripted = sampler(
        says_a, lambda request, example, i: f"1. The response is {('kind', 'brief', 'clear', 'calm')[i]} [Principle]"
    )
    groups, rewards = rollout(rubric_phase(scripted), scripted, blocks(20), n=4)
    for group, row in zip(groups, rewards, strict=True):
        assert [r.total for r in row] == [float(group.example.comparisons[0].preferred == "A")] * 4


def test_the_frozen_judge_is_greedy() -> None:
    scripted = sampler()
    rollout(rubric_phase(scripted, recipe(reward={"judge_max_tokens": 77})), scripted, blocks(2))
    assert scripted.calls[-1].adapter == "judge"
    assert scripted.calls[-1].sampling == Sampling(77, 1, 0.0)


def by_rubric(a: str, b: str, rubric: Rubric, index: int) -> str:
    """A judge that is right only under the rubric that asks for kindness, and unreadable under the dull one."""
    if "dull" in rubric.criteria[0].text:
        return "I cannot say."
    better = "A" if a.startswith("good") else "B"
    worse = "B" if better == "A" else "A"
    return judgement(rubric, better if "kind" in rubric.criteria[0].text else worse)  # type: ignore[arg-type]


def four_kinds(request: str, example: Example, index: int) -> str:
    kinds = ("1. The response is kind [Principle]", "1. The response is odd [Principle]", "no rubric")
    return (*kinds, "1. The response is dull [Principle]")[index]


def test_rubrics_earn_what_the_judge_makes_of_them() -> None:
    scripted = sampler(by_rubric, four_kinds)
    phase = rubric_phase(scripted)
    _, rewards = rollout(phase, scripted, blocks(2, pairs=2), n=4)
    assert totals(rewards) == [[1.0, 0.0, 0.0, 0.0]] * 2
    assert [dict(r.parts)["parsed"] for r in rewards[0]] == [1.0, 1.0, 0.0, 1.0]
    assert not any(r.masked for row in rewards for r in row)
    judged = scripted.prompts("judge")
    assert len(judged) == 2 * 3 * 2, "the rubric that does not parse is never sent to the judge"
    assert not any("no rubric" in text for text in judged)
    values = phase.metrics()
    assert values["parse/ok"] == 0.75 and values["parse/malformed"] == 0.25
    assert values["verdicts/none"] == pytest.approx(1 / 3)
    assert values["criteria"] == 1.0


def test_an_unparsed_verdict_can_leave_the_rubric_out() -> None:
    scripted = sampler(by_rubric, four_kinds)
    _, rewards = rollout(rubric_phase(scripted, recipe(reward={"unparsed": "mask"})), scripted, blocks(1), n=4)
    assert [r.masked for r in rewards[0]] == [False, False, False, True]
    advantages = group_advantages(rewards[0])
    assert advantages.values[3] is None and advantages.informative


def test_several_judge_samples_are_averaged() -> None:
    """Four sampled judgements per rubric, three of them right; at the temperature of the judge's own phase."""

    def judge(a: str, b: str, rubric: Rubric, index: int) -> str:
        return right(*((a, b) if index else (b, a)), rubric, index)

    scripted = sampler(judge)
    settings = recipe(judge={"temperature": 0.8}, reward={"judge_samples": 4})
    _, rewards = rollout(rubric_phase(scripted, settings), scripted, blocks(1, pairs=2))
    assert totals(rewards) == [[0.75, 0.75]]
    assert scripted.calls[-1].sampling == Sampling(settings.reward.judge_max_tokens, 4, 0.8)


def test_equal_questions_are_asked_once() -> None:
    """A group whose rubrics are all the same costs one judgement."""
    scripted = sampler()
    _, rewards = rollout(rubric_phase(scripted), scripted, blocks(2), n=8)
    assert len(scripted.prompts("judge")) == 2
    assert totals(rewards) == [[1.0] * 8] * 2


def test_without_a_usable_rubric_the_judge_is_not_asked() -> None:
    scripted = sampler(generator=lambda request, example, i: "no rubric")
    phase = rubric_phase(scripted)
    _, rewards = rollout(phase, scripted, blocks(2))
    assert totals(rewards) == [[0.0, 0.0]] * 2
    assert scripted.prompts("judge") == []
    assert phase.metrics()["criteria"] == 0.0


def test_verdicts_come_back_to_their_comparisons() -> None:
    """Comparisons in any order, some equal: each gets the judgements of its own prompt."""
    scripted = sampler()
    rubric = parse_rubric(RUBRIC_TEXT)
    labeled = [b.pairs[0].present(side) for b in blocks(3) for side in ("A", "B")]
    labeled = [*labeled, *labeled[::-1]]
    judge = Judge(scripted, PROMPTS, max_tokens=9, seed=5)
    verdicts = judge.judge([c.comparison for c in labeled], [rubric] * 12, "original", votes=2)
    assert [v.winners for v in verdicts] == [(c.preferred,) * 2 for c in labeled]
    assert scripted.calls[0].sampling == Sampling(9, 2, 1.0)
    assert len(scripted.prompts("judge")) == 6
    assert len({e.seed for e in scripted.calls[0].examples}) == 6


def test_orders_of_presentation() -> None:
    """Both orders show both texts; a swapped judgement is translated back to the comparison's own sides."""
    comparison, rubric = block("x").pairs[0].present("A").comparison, parse_rubric(RUBRIC_TEXT)
    for orders, winners, shown in (
        ("both", ("A", "A"), ["good x0", "poor x0"]),
        ("original", ("A",), ["good x0"]),
        ("swapped", ("A",), ["poor x0"]),
    ):
        scripted = sampler()
        (verdict,) = judge_of(scripted).judge([comparison], [rubric], orders)
        assert verdict.winners == winners and verdict.winner == "A" and verdict.consistent
        assert [section("response_a", text) for text in scripted.prompts("judge")] == shown
        assert (len(verdict.original), len(verdict.swapped)) == (orders != "swapped", orders != "original")
    (leaning,) = judge_of(sampler(says_a)).judge([comparison], [rubric])
    assert leaning.winners == ("A", "B") and leaning.winner is None and leaning.agreed is None
    assert leaning.correct("A", "original") == 1.0 and leaning.correct("A", "swapped") == 0.0


def test_an_unusable_rubric_is_never_shown_to_the_judge() -> None:
    scripted = sampler()
    comparison = block("x").pairs[0].present("A").comparison
    rubrics = [parse_rubric("no rubric"), parse_rubric(RUBRIC_TEXT)]
    empty, verdict = judge_of(scripted).judge([comparison, comparison], rubrics)
    assert empty.winners == () and empty.winner is None and empty.correct("A", unparsed=0.5) == 0.5
    assert verdict.winner == "A" and len(scripted.prompts("judge")) == 2


def test_a_judgement_does_not_depend_on_what_else_is_judged() -> None:
    """The seed of a question is that of its text, so a verdict can be repeated alone."""
    seeds = []
    for count in (1, 3):
        scripted = sampler()
        comparisons = [b.pairs[0].present("A").comparison for b in blocks(count)]
        judge_of(scripted).judge(comparisons, [parse_rubric(RUBRIC_TEXT)] * count, "original")
        seeds.append(scripted.calls[0].examples[0].seed)
    assert seeds[0] == seeds[1]


def test_the_rubric_phase_logs_how_rubrics_drift() -> None:
    def generator(request: str, example: Example, index: int) -> Written:
        return f"1. It is kind [Principle]\n2. It names {request.split()[1]} [Principle]"

    scripted = sampler(generator=generator)
    phase = rubric_phase(scripted)
    rollout(phase, scripted, [block("apples"), block("pears-")])
    metrics = phase.metrics()
    assert metrics["criteria/copied"] == 0.5 and metrics["criteria/topical"] == 0.5
