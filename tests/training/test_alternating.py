"""The loop: which adapter is sampled, scored and updated when, and on which data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from rubric_arm_lite.models.sampler import Sampling
from rubric_arm_lite.recipe.fields import Recipe
from rubric_arm_lite.reward_model.generator import RubricCache, RubricGenerator
from rubric_arm_lite.training.advantages import GroupAdvantages, group_advantages
from rubric_arm_lite.training.alternating import Hooks, Position, RoleStep, alternate
from rubric_arm_lite.training.phases import JudgePhase, Phase, RubricPhase
from rubric_arm_lite.training.schedule import ScheduledPhase, scheduled_phases
from rubric_arm_lite.types import Example, PromptBlock, Role, RolloutGroup, StepMetrics
from tests.players import PROMPTS, RUBRIC_TEXT, blocks, judge_of, recipe, sampler, says_a
from tests.scripted import ScriptedSampler, Written

Event = tuple[Any, ...]


@dataclass
class Recorder:
    """A learner, hooks and a sampler that write down what happens to them."""

    settings: Recipe
    data: list[PromptBlock]
    end: set[tuple[int, int]] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    rollouts: list[tuple[ScheduledPhase, int, RoleStep]] = field(default_factory=list)
    sampler: ScriptedSampler = field(default_factory=lambda: sampler(says_a))

    def __post_init__(self) -> None:
        script = self.sampler.script

        def watched(adapter: str | None, example: Example, index: int) -> Written:
            event = ("sample", adapter)
            if self.events[-1:] != [event]:
                self.events.append(event)
            return script(adapter, example, index)

        self.sampler.script = watched

    def update(
        self,
        role: Role,
        groups: Sequence[RolloutGroup],
        advantages: Sequence[GroupAdvantages],
        seed: int,
        rate: float,
    ) -> StepMetrics:
        self.events.append(("update", role))
        version = sum(event == ("update", role) for event in self.events)
        self.sampler.fingerprints[role] = f"{role}-{version}"
        return StepMetrics({"version": float(version)})

    def before_phase(self, phase: ScheduledPhase, steps: int) -> None:
        self.events.append(("before", phase.label, steps))

    def after_step(self, phase: ScheduledPhase, step: int, done: list[tuple[RoleStep, StepMetrics]]) -> bool:
        self.events.append(("step", phase.index, step))
        self.rollouts += [(phase, step, rollout) for rollout, _ in done]
        return (phase.index, step) in self.end

    def after_phase(self, phase: ScheduledPhase) -> None:
        self.events.append(("after", phase.label))

    def run(self, start: Position | None = None) -> Recorder:
        generator = RubricGenerator(self.sampler, PROMPTS, RubricCache(1000))
        judge = judge_of(self.sampler, self.settings)
        phases: dict[Role, Phase] = {
            "judge": JudgePhase(self.settings, generator, judge),
            "rubric": RubricPhase(self.settings, generator, judge),
        }
        hooks = Hooks(self.before_phase, self.after_step, self.after_phase)
        alternate(
            self.settings, scheduled_phases(self.settings.schedule), phases, self.data, self.sampler, self, hooks, start
        )
        return self

    def seen(self, phase: int) -> set[str]:
        """Ids of the prompts or pairs that a phase was trained on."""
        return {g.example.example_id for s, _, rollout in self.rollouts if s.index == phase for g in rollout.groups}


def example_of(group: RolloutGroup) -> tuple[Any, ...]:
    return group.example.prompt, group.example.seed, group.example.comparisons


def phases_of(recorder: Recorder) -> list[str]:
    return [event[1] for event in recorder.events if event[0] == "before"]


@pytest.mark.parametrize(
    ("order", "labels"),
    [
        ("judge_first", ["judge 1", "rubric 1", "judge 2", "rubric 2"]),
        ("rubric_first", ["rubric 1", "judge 1", "rubric 2", "judge 2"]),
        ("judge_only", ["judge 1", "judge 2"]),
        ("rubric_only", ["rubric 1", "rubric 2"]),
        ("simultaneous", ["judge+rubric 1", "judge+rubric 2"]),
    ],
)
def test_phases_come_in_the_recipes_order(order: str, labels: list[str]) -> None:
    recorder = Recorder(recipe(schedule={"order": order, "cycles": 2}), blocks(8)).run()
    assert phases_of(recorder) == labels
    assert [e[1] for e in recorder.events if e[0] == "after"] == labels
    assert [s.label for s in scheduled_phases(recorder.settings.schedule)] == labels


def test_the_judge_comes_first_by_default() -> None:
    """Paper, eqs. 9-11: rubrics by the present generator, update the judge on them, then the generator under it."""
    recorder = Recorder(recipe(schedule={"cycles": 1}), blocks(2)).run()
    assert recorder.events == [
        ("before", "judge 1", 1),
        ("sample", "rubric"),
        ("sample", "judge"),
        ("update", "judge"),
        ("step", 0, 0),
        ("after", "judge 1"),
        ("before", "rubric 1", 1),
        ("sample", "rubric"),
        ("sample", "judge"),
        ("update", "rubric"),
        ("step", 1, 0),
        ("after", "rubric 1"),
    ]


def test_a_phase_updates_its_own_adapter_only() -> None:
    recorder = Recorder(recipe(schedule={"cycles": 3}), blocks(12)).run()
    role = ""
    for event in recorder.events:
        if event[0] == "before":
            role = event[1].split()[0]
        if event[0] == "update":
            assert event[1] == role
    assert [rollout.role for _, _, rollout in recorder.rollouts] == ["judge"] * 2 + ["rubric"] * 2 + (
        ["judge"] * 2 + ["rubric"] * 2
    ) * 2


def test_simultaneous_steps_roll_out_before_any_update() -> None:
    """On fresh rubrics: every step's judge examples carry rubrics of the present generator."""
    settings = recipe(schedule={"order": "simultaneous", "cycles": 1}, judge={"max_steps": 3}, rubric={"max_steps": 3})
    recorder = Recorder(settings, blocks(2)).run()
    updates = [i for i, event in enumerate(recorder.events) if event[0] == "update"]
    samples = [i for i, event in enumerate(recorder.events) if event[0] == "sample"]
    steps = [i for i, event in enumerate(recorder.events) if event[0] == "step"]
    assert [recorder.events[i][1] for i in updates] == ["judge", "rubric"] * 3
    for first, second, step in zip(updates[::2], updates[1::2], steps, strict=True):
        assert (second, step) == (first + 1, first + 2), "both updates stand together, after all sampling"
    assert samples[0] < updates[0]
    cached = [c for c in recorder.sampler.calls if c.adapter == "rubric" and c.sampling.num_generations == 1]
    assert len(cached) == 3, "the same two prompts, but each step's rubrics are written anew"


def test_simultaneous_phases_last_as_long_as_the_longer_role() -> None:
    settings = recipe(
        schedule={"order": "simultaneous", "cycles": 1},
        judge={"prompts_per_step": 1},
        rubric={"prompts_per_step": 4},
    )
    recorder = Recorder(settings, blocks(4)).run()
    assert recorder.events[0] == ("before", "judge+rubric 1", 4)
    sizes = [(step, rollout.role, len(rollout.groups)) for _, step, rollout in recorder.rollouts]
    assert sizes[:2] == [(0, "judge", 1), (0, "rubric", 4)]
    assert sizes[2:] == [(step, "judge", 1) for step in (1, 2, 3)]


def test_each_role_of_a_simultaneous_phase_has_its_own_number_of_steps() -> None:
    order = {"order": "simultaneous", "cycles": 2}
    settings = recipe(schedule=order, judge={"max_steps": 1}, rubric={"max_steps": 3})
    recorder = Recorder(settings, blocks(4)).run()
    done = [(step, rollout.role) for _, step, rollout in recorder.rollouts]
    assert done == [(0, "judge"), (0, "rubric"), (1, "rubric"), (2, "rubric")] * 2


def test_cycles_take_parts_of_the_data_without_overlap() -> None:
    data = blocks(13)
    recorder = Recorder(recipe(schedule={"cycles": 3}), data).run()
    judged = [recorder.seen(phase) for phase in (0, 2, 4)]
    written = [recorder.seen(phase) for phase in (1, 3, 5)]
    assert set.union(*judged) == {p.pair_id for b in data for p in b.pairs}
    assert set.union(*written) == {b.prompt_id for b in data}
    assert sum(map(len, judged)) == sum(map(len, written)) == 13
    for pairs, prompts in zip(judged, written, strict=True):
        assert {p.removeprefix("id-")[:-1] for p in pairs} == {p.removeprefix("block-") for p in prompts}


def test_a_step_is_sampled_as_its_role_says() -> None:
    settings = recipe(
        schedule={"cycles": 1},
        judge={"num_generations": 3, "max_completion_length": 40, "temperature": 0.9},
        rubric={"num_generations": 5, "max_completion_length": 20, "temperature": 1.1},
    )
    recorder = Recorder(settings, blocks(2)).run()
    calls = [(c.adapter, c.sampling) for c in recorder.sampler.calls]
    assert calls == [
        ("rubric", Sampling(20, 1, settings.reward.rubric_temperature)),
        ("judge", Sampling(40, 3, 0.9)),
        ("rubric", Sampling(20, 5, 1.1)),
        ("judge", Sampling(settings.reward.judge_max_tokens, 1, 0.0)),
    ]


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_are_those_of_the_rewards(scale: Any) -> None:
    kinds = (RUBRIC_TEXT, "no rubric")
    recorder = Recorder(
        recipe(schedule={"cycles": 1}, judge={"scale_rewards": scale}, rubric={"scale_rewards": scale}),
        blocks(4),
        sampler=sampler(says_a, lambda request, example, index: kinds[index]),
    ).run()
    assert recorder.rollouts
    for _, _, rollout in recorder.rollouts:
        assert rollout.advantages == [group_advantages(row, scale) for row in rollout.rewards]
        assert [len(row) for row in rollout.rewards] == [len(g.samples) for g in rollout.groups]


@pytest.mark.parametrize("order", ["judge_first", "simultaneous"])
@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_later_start_retraces_the_rest(order: str, phase: int, step: int) -> None:
    """From any position, also one behind a phase's last step: the same prompts, seeds and orders follow."""
    settings = recipe(schedule={"order": order, "cycles": 2}, seed=3)
    whole = Recorder(settings, blocks(8)).run()
    rest = Recorder(settings, blocks(8)).run(Position(phase, step))

    def asked(recorder: Recorder) -> list[Any]:
        return [
            (scheduled.index, n, rollout.role, [example_of(group) for group in rollout.groups])
            for scheduled, n, rollout in recorder.rollouts
        ]

    expected = [row for row in asked(whole) if (row[0], row[1]) >= (phase, step)]
    assert asked(rest) == expected
    assert phases_of(rest) == phases_of(whole)[phase:]
    if step == 2:
        label = phases_of(rest)[0]
        assert rest.events[:2] == [("before", label, 2), ("after", label)], "a finished phase is only closed"


def test_a_start_behind_the_last_phase_does_nothing() -> None:
    assert Recorder(recipe(), blocks(8)).run(Position(6, 0)).events == []


def test_a_phase_may_end_early() -> None:
    recorder = Recorder(recipe(schedule={"cycles": 2}), blocks(16), end={(0, 1), (3, 0)}).run()
    steps = [event[1:] for event in recorder.events if event[0] == "step"]
    assert steps == [(0, 0), (0, 1), *((1, n) for n in range(4)), *((2, n) for n in range(4)), (3, 0)]
    assert len([e for e in recorder.events if e[0] == "after"]) == 4, "every phase is closed"


def test_seeds_differ_between_steps_cycles_and_roles() -> None:
    settings = recipe(schedule={"cycles": 2}, judge={"max_steps": 2}, rubric={"max_steps": 2})
    recorder = Recorder(settings, blocks(4)).run()
    seeds = [g.example.seed for _, _, rollout in recorder.rollouts for g in rollout.groups]
    assert len(set(seeds)) == len(seeds) == 16
