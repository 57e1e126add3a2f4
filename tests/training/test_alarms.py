"""Alarms: each is provoked and seen, and silent in a healthy log; a run that was killed has the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubric_arm_lite import train
from rubric_arm_lite.errors import TrainingError
from rubric_arm_lite.recipe import AlarmSettings, ScheduleSettings
from rubric_arm_lite.report.headline import headline
from rubric_arm_lite.report.read import read_run
from rubric_arm_lite.runs import read_jsonl
from rubric_arm_lite.training.alarms import ALARM, EVALUATIONS, STEPS, alarm_texts, new_alarms
from rubric_arm_lite.training.schedule import scheduled_phases
from rubric_arm_lite.training.tripwire import SET_BACK, rows_in_effect
from rubric_arm_lite.types import Role
from tests.short_run import SHORT
from tests.training.test_collapse import KilledError, Killing
from tests.training.test_run import Recorder

PHASES = scheduled_phases(ScheduleSettings())
SETTINGS = AlarmSettings(groups=8)
STEP: dict[Role, dict[str, float]] = {
    "judge": {
        "groups": 4.0,
        "groups/informative": 0.5,
        "reward": 1.0,
        "reward/accuracy": 0.6,
        "rubrics/unusable": 0.1,
        "parse/ok": 0.2,
        "completion_length": 40.0,
        "completions/truncated": 0.1,
        "findings/contradicted": 0.2,
        "kl": 0.1,
        "entropy": 0.2,
    },
    "rubric": {
        "groups": 4.0,
        "groups/informative": 0.5,
        "reward": 0.6,
        "reward/accuracy": 0.6,
        "completion_length": 16.0,
        "completions/truncated": 0.1,
        "parse/ok": 0.7,
        "criteria/repeated": 0.1,
        "criteria/copied": 0.2,
        "criteria/topical": 0.4,
        "kl": 0.1,
        "entropy": 0.3,
    },
}
EVALUATION = {
    "accuracy": 0.7,
    "accuracy_low": 0.65,
    "position_bias": 0.3,
    "rubric_gain_high": 0.3,
    "verdicts_unchanged": 0.7,
}


def step(role: Role, number: int, slot: int | None = None, **values: float) -> dict[str, Any]:
    slot = slot if slot is not None else 0 if role == "judge" else 1
    place = {"slot": slot, "phase": PHASES[slot].label, "role": role, "step": number}
    return {"kind": "step", **place, **STEP[role], **values}


def evaluation(name: str, **values: float) -> dict[str, Any]:
    return {"kind": "evaluation", "name": name, **EVALUATION, **values}


def names(rows: Sequence[dict[str, Any]], slot: int, ended: bool = False, **changes: Any) -> list[str]:
    found = new_alarms(rows, PHASES[slot], SETTINGS.model_copy(update=changes), ended)
    return [row["alarm"] for row in found]


def test_every_alarm_has_a_threshold_that_null_turns_off() -> None:
    assert {*STEPS, *EVALUATIONS} == {*AlarmSettings.model_fields} - {"action", "groups", "solved"}
    assert AlarmSettings.model_validate(dict.fromkeys([*STEPS, *EVALUATIONS])).kl is None


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "bad", "alarm", "words"),
    [
        ("judge", {"rubrics/unusable": 0.6}, "unusable", "60% of the rubrics cannot be used"),
        ("rubric", {"parse/ok": 0.3}, "unusable", "70% of the rubrics cannot be used"),
        ("judge", {"groups/informative": 0.0}, "no_spread", "0% of the judge's groups carry a gradient"),
        ("rubric", {"groups/informative": 0.0}, "no_spread", "0% of the rubric's groups carry a gradient"),
        ("judge", {"completions/truncated": 0.3}, "truncated", "30% of the judge's texts are cut off"),
        ("rubric", {"kl": 1.5}, "kl", "the rubric's KL to its warm-up is 1.50 nats per token"),
        ("judge", {"entropy": 0.01}, "entropy", "5% of the judge's entropy is left"),
        ("judge", {"findings/contradicted": 0.5}, "contradicted", "own findings is 0.30 above the warm-up's"),
        ("rubric", {"completion_length": 40.0}, "length", "has changed by a factor of 2.5"),
        ("rubric", {"completion_length": 4.0}, "length", "has changed by a factor of 4.0"),
        ("rubric", {"criteria/repeated": 0.3}, "repeated", "30% of the criteria repeat another one"),
        ("rubric", {"criteria/copied": 0.6}, "copied", "a criterion stands in 60% of the rubrics of other prompts"),
        ("rubric", {"criteria/topical": 0.8}, "topical", "a thing of their own prompt is 0.40 above the warm-up's"),
    ],
)
def test_what_gives_an_alarm_in_a_phase(role: Role, bad: dict[str, float], alarm: str, words: str) -> None:
    slot = 0 if role == "judge" else 1
    good = [step(role, i) for i in range(3)]
    rows = [*good, step(role, 3, **bad), step(role, 4, **bad)]
    (row,) = new_alarms(rows, PHASES[slot], SETTINGS)
    assert row["alarm"] == alarm and words in row["text"] and f"(alarms.{alarm}: " in row["text"]
    assert row["text"].startswith(f"In step 5 of {role} 1, ") and row["text"].endswith(".")
    place = {"kind": ALARM, "slot": slot, "phase": f"{role} 1", "role": role, "step": 4}
    assert {name: row[name] for name in place} == place and row["threshold"] == getattr(SETTINGS, alarm)
    assert names([*rows, row], slot) == [], "once per phase"
    assert names(rows, slot, **{alarm: None}) == []
    assert names(good, slot) == [] and names(good, slot, ended=True) == []
    later = [*rows, row, *(step(role, i, slot + 2, **bad) for i in range(2))]
    assert names(later, slot + 2) == [alarm], "the next phase is compared with the first one, too"
    assert names(later[:-1], slot + 2) == [] and names(later[:-1], slot + 2, ended=True) == [alarm], "few groups"


def test_at_the_ceiling_equal_samples_are_no_alarm() -> None:
    solved = {"groups/informative": 0.0, "entropy": 0.0, "reward/accuracy": 0.95}
    rows = [step("judge", 0), *(step("judge", i, **solved) for i in (1, 2))]
    assert names(rows, 0) == []
    assert names(rows, 0, solved=1.0) == ["no_spread", "entropy"]


def test_a_phase_without_any_group_says_why() -> None:
    empty = {"groups": 0.0, "groups/informative": 0.0, "rubrics/unusable": 1.0}
    rows = [step("judge", i, **empty) for i in range(3)]
    assert names(rows, 0) == [] and names(rows, 0, ended=True) == ["unusable"]


def test_both_roles_of_a_simultaneous_phase_are_watched() -> None:
    (phase,) = scheduled_phases(ScheduleSettings(order="simultaneous", cycles=1))
    rows = [step(role, i, 0, kl=2.0) for i in range(2) for role in phase.roles]
    found = new_alarms(rows, phase, SETTINGS)
    assert [(row["alarm"], row["role"]) for row in found] == [("kl", "judge"), ("kl", "rubric")]
    assert names([*rows, *found], 0) == [] and len(alarm_texts(found)) == 2


def test_steps_without_an_update_or_a_value_are_left_out() -> None:
    rows = [step("judge", i) for i in range(3)]
    for row in rows:
        del row["entropy"], row["kl"], row["findings/contradicted"]
    assert names(rows, 0, ended=True) == []
    assert names([], 0, ended=True) == []


# --- evaluations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "alarm", "words"),
    [
        ({"position_bias": 0.6}, "position_bias", "the position bias on held-out pairs is 0.30 above the warm-up's"),
        ({"accuracy": 0.6}, "held_out", "the held-out accuracy is 0.200 below its best"),
        ({"rubric_gain_high": 0.0}, "rubric_gain", "their own add at most 0.000 to the accuracy"),
        ({"verdicts_unchanged": 1.0}, "ignored", "100% of the verdicts stay the same"),
    ],
)
def test_what_gives_an_alarm_after_a_phase(bad: dict[str, float], alarm: str, words: str) -> None:
    steps = [step("judge", i, reward=1.0 + i / 10) for i in range(4)]
    rubric = [step("rubric", i, reward=0.6 + i / 10) for i in range(4)]
    before = [evaluation("base", accuracy=0.99), evaluation("warm-up"), *steps, evaluation("judge 1", accuracy=0.8)]
    assert names(before, 0, ended=True) == []
    rows = [*before, *rubric, evaluation("rubric 1", **{"accuracy": 0.8, **bad})]
    (row,) = new_alarms(rows, PHASES[1], SETTINGS, ended=True)
    assert row["alarm"] == alarm and row["text"].startswith("After rubric 1, ") and words in row["text"]
    assert "role" not in row and row["step"] == 3
    assert names([*rows, row], 1, ended=True) == [] and names(rows, 1, ended=True, **{alarm: None}) == []
    assert names([*before, *rubric, evaluation("rubric 1")], 1, ended=True, held_out=None) == []
    assert names([*before, *rubric], 1, ended=True) == [], "a recipe may evaluate at the end alone"


def test_a_fall_of_accuracy_within_the_interval_is_no_alarm() -> None:
    steps = [step("judge", i, reward=1.0 + i / 10) for i in range(4)]
    for accuracy, alarms in ((0.64, ["held_out"]), (0.66, [])):
        rows = [evaluation("warm-up"), *steps, evaluation("judge 1", accuracy=accuracy)]
        assert names(rows, 0, ended=True, held_out=0.01) == alarms


def test_accuracy_that_falls_with_the_reward_is_no_sign_of_a_wrong_reward() -> None:
    steps = [step("judge", i, reward=1.0 - i / 10) for i in range(4)]
    assert names([evaluation("warm-up"), *steps, evaluation("judge 1", accuracy=0.5)], 0, ended=True) == []


# --- logs -----------------------------------------------------------------------------------------------------------


def replay(log: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """The rows of a judge phase with its alarms, as a run appends them; it goes on from those that it has."""
    rows, done = list(known), sum(row["kind"] != ALARM for row in known)
    for row in log[done:]:
        rows.append(row)
        rows += new_alarms(rows_in_effect(rows), PHASES[0], SETTINGS)
    return rows


shares = st.floats(0, 1)
measured = st.fixed_dictionaries(
    {
        "groups": st.integers(0, 8).map(float),
        "groups/informative": shares,
        "reward/accuracy": shares,
        "completions/truncated": shares,
        "rubrics/unusable": shares,
        "findings/contradicted": shares,
    },
    optional={"kl": st.floats(0, 3), "entropy": shares},
)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(measured, max_size=12), cut=st.integers(0, 12))
def test_a_run_that_was_killed_has_the_same_alarms(values: list[dict[str, float]], cut: int) -> None:
    log = [step("judge", i, **v) for i, v in enumerate(values)]
    whole = replay(log)
    committed = next((i for i, row in enumerate(whole) if row["kind"] == "step" and row["step"] == cut), len(whole))
    assert replay(log, whole[:committed]) == whole
    alarms = [row for row in whole if row["kind"] == ALARM]
    assert len({row["alarm"] for row in alarms}) == len(alarms)
    for row in alarms:
        falls = STEPS[row["alarm"]].falls
        assert row["value"] <= row["threshold"] if falls else row["value"] >= row["threshold"]
    assert all(before["step"] <= after["step"] for before, after in pairwise(alarms))


def test_an_alarm_of_a_step_that_was_undone_can_come_again() -> None:
    log = replay([step("judge", 0), *(step("judge", i, kl=1.2) for i in (1, 2))])
    assert [row["kind"] for row in log] == ["step", "step", "step", ALARM]
    back = {"kind": SET_BACK, "slot": 0, "phase": "judge 1", "role": "judge", "step": 1, "at": 2}
    assert rows_in_effect([*log, back]) == [log[0], back]
    again = replay([log[0], back, *(step("judge", i, kl=1.2) for i in (1, 2))])
    assert again[-1] == log[-1]


def test_an_alarm_that_comes_in_several_phases_is_told_once() -> None:
    rows = [step("judge", i, slot, kl=2.0) for slot in (0, 2, 4) for i in range(2)]
    found = [row for slot in (0, 2, 4) for row in new_alarms(rows[: slot + 2], PHASES[slot], SETTINGS)]
    (text,) = alarm_texts(found)
    assert text.startswith("In step 2 of judge 1, the judge's KL") and text.endswith(" Also in judge 2, judge 3.")
    assert alarm_texts([]) == []


# --- runs -----------------------------------------------------------------------------------------------------------

SMALL = (*SHORT, "schedule.cycles=1", "judge.max_steps=3", "evaluation.probes=6", "checkpoint.save_steps=2")
LOUD = ("alarms.groups=3", "alarms.kl=1e-9", "alarms.ignored=0.0")


@pytest.mark.slow
def test_a_run_tells_stops_and_goes_on(tmp_path: Path) -> None:
    def run(name: str, *sets: str, progress: Any = None) -> Path:
        overrides = [*SMALL, *LOUD, *sets]
        train(
            "testbed", tmp_path / name, overrides=overrides, if_exists="resume", until="alternating", progress=progress
        )
        return tmp_path / name

    recorder = Recorder()
    whole = run("whole", progress=recorder)
    alarms = [row for row in read_jsonl(whole / "metrics.jsonl") if row["kind"] == ALARM]
    assert {(row["alarm"], row["phase"]) for row in alarms} >= {("kl", "judge 1"), ("ignored", "judge 1")}
    assert [row["text"] for row in alarms] == [note for note in recorder.notes if "(alarms." in note]
    shown = headline(read_run(whole)).caveats
    assert [text for text in shown if "(alarms." in text] == alarm_texts(alarms)

    with pytest.raises(TrainingError, match=r"KL to its warm-up .* Resume with alarms\.action: note"):
        run("killed", "alarms.action=stop")
    for steps in (2, 4):
        with pytest.raises(KilledError):
            run("killed", progress=Killing(steps))
    run("killed")
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (whole / name).read_bytes()
