"""The time of a run, from a step of every stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rubric_arm_lite.errors import ConfigError
from rubric_arm_lite.models import Sampling
from rubric_arm_lite.recipe import load_recipe
from rubric_arm_lite.runs import Progress
from rubric_arm_lite.training import measure, measure_run
from rubric_arm_lite.types import Example
from tests.cli.test_cli import call, refused
from tests.scripted import ScriptedSampler
from tests.short_run import SHORT, short_sets


class Clock:
    """Time that passes when work is done, not otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("each", "once", "items", "timed", "expected"),
    [
        (2.0, 0.0, 100, [1, 30], 200.0),  # as many as fit into a minute
        (0.1, 0.0, 100, [1, 100], 10.0),  # all of them
        (90.0, 0.0, 5, [1, 1], 450.0),  # one takes longer than a minute
        (1.0, 4.0, 100, [1, 12], 100.0 + 4.0 * 100 / 12),
    ],
)
def test_as_much_is_timed_as_fits_into_a_minute(
    each: float, once: float, items: int, timed: list[int], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counts = Clock(), []
    monkeypatch.setattr(measure, "time", clock)

    def work(count: int) -> None:
        counts.append(count)
        clock.now += once + each * count

    assert measure._seconds_of(items, work) == pytest.approx(expected)
    assert counts == timed


def test_samples_cost_what_a_text_of_the_warm_up_does() -> None:
    below = ScriptedSampler(lambda adapter, example, index: ("not trained yet", "length"))
    texts, lengths = {"rubric": ["a rubric"], "judge": ["no", "yes"]}, {"rubric": 7, "judge": 90}
    sampler = measure.WarmupTexts(below, texts, lengths)  # type: ignore[arg-type]
    for adapter, written in (
        ("rubric_ref", ["a rubric"] * 3),
        ("judge", ["no", "yes", "no"]),
        (None, ["a rubric"] * 3),
    ):
        (group,) = sampler.sample(adapter, [Example("p", "prompt", 0)], Sampling(40, 3))
        assert [(sample.text, sample.finish_reason) for sample in group.samples] == [(t, "stop") for t in written]
    assert [call.sampling.max_tokens for call in below.calls] == [7, 40, 7], "no more than was asked for"


class Stages(Progress):
    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, steps: int) -> None:
        self.names.append(name)


def test_every_stage_of_a_run_is_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    progress = Stages()
    measured = measure_run(load_recipe("testbed", SHORT), progress)
    stages = ["warm-up rubric", "warm-up judge", "judge 1", "rubric 1", "judge 2", "rubric 2", "evaluations"]
    assert list(measured.seconds) == stages
    assert all(seconds > 0 for seconds in measured.seconds.values()) and measured.peak_bytes > 2**27
    assert measured.seconds["judge 1"] == measured.seconds["judge 2"], "the same steps"
    assert progress.names[:2] == ["a step of the rubric phase", "a step of the judge phase"]
    assert not list(tmp_path.iterdir()), "nothing is kept"


def test_a_plan_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measure.MeasuredTime({"warm-up rubric": 80.0, "judge 1": 4000.0, "evaluations": 3000.0}, 3 * 2**30)
    monkeypatch.setattr("rubric_arm_lite.training.measure.measure_run", lambda recipe, progress: measured)
    shown = " ".join(call("plan", "testbed", "--measure").stdout.split())
    assert "the run takes about 1 h 58 min (warm-up rubric 80 s, judge 1 67 min, evaluations 50 min)" in shown
    assert "and 3.00 GiB at the peak." in shown
    value = json.loads(call("plan", "testbed", "--measure", "--json", *short_sets()).stdout)["measured"]
    assert value["total_seconds"] == 7080.0 and value["seconds"]["judge 1"] == 4000.0
    assert json.loads(call("plan", "testbed", "--json").stdout)["measured"] is None


def test_without_texts_of_a_warm_up_nothing_is_measured() -> None:
    error = refused("plan", "testbed", "--measure", "--set", "warmup.source=null")
    assert "--measure times the training of adapters at the lengths of warm-up texts" in error
    with pytest.raises(ConfigError, match=r"Give warmup\.source"):
        measure_run(load_recipe("testbed", ["warmup.source=null"]))
